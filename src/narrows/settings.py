"""The parameters that every autoencoder has: its data, its net, its likelihood, its training."""

from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from narrows.data.modalities import MODALITIES
from narrows.fields import (
    Count,
    Fraction,
    NonNegative,
    OneOf,
    Parameters,
    Positive,
    Unless,
)
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.networks import ACTIVATIONS, ARCHITECTURES
from narrows.schedules import SCHEDULES
from narrows.stopping import RULES

__all__ = ["Settings"]


class Settings(Parameters):
    """Parameters common to all models.

    Args:
        latent_dim: size of the code.
        modality: what the data are: "table", "image", "volume", "series", "text", "graph", or
            "auto" where only one is possible.
        window: steps of the windows that long series and texts are cut into; None leaves them
            whole.
        stride: steps from one window to the next; None puts windows side by side.
        symbols: what texts are made of: "characters", "bytes", "smiles" (atoms and bonds), or the
            path of a file of the tokenizers library; None takes characters.
        scaling: "standard", "robust" or "minmax" units inside the model, "none", or "auto": what
            the likelihood and the output activation ask for (for counts, "standard" units of
            log(1 + x); a likelihood of whole numbers explains them unscaled).
        architecture: networks of encoder and decoder; "auto" takes the modality's: "conv" for
            images and volumes, "mlp" for all else.
        hidden: sizes of the encoder's layers (units; channels of a conv net), mirrored in the
            decoder; None takes the architecture's.
        activation: activation of the hidden layers.
        dropout: probability of dropping a hidden value in training.
        batch_norm: normalise every hidden layer over the batch.
        blocks: residual blocks after each hidden layer.
        tied: let the decoder use the encoder's weights, transposed.
        linear_path: add linear maps to the encoder and the decoder, fixed at the principal
            components of the training samples, so that training starts at PCA's error; with
            `patience` for few samples.
        downsampling: how a conv net halves each side: "stride", "max" or "average" pooling.
        channels_last: lay out images and volumes with their channels innermost while they pass
            through "conv" and "unet", which is faster on many machines.
        likelihood: distribution of the data given the code: of real numbers ("gaussian",
            "laplace"), of shares ("bernoulli"), of counts ("poisson", "negative_binomial",
            "zero_inflated_negative_binomial"), or of whole numbers with a largest one
            ("categorical", "discretised_logistic"); "auto" takes the modality's: categorical for
            text, else Gaussian.
        scale: spread of a Gaussian or Laplace likelihood in the model's units: "optimal" (closed
            form), "learned", "predicted" (each value's own, from the decoder), or a number.
        output_activation: activation of the decoder's output; "auto" takes the likelihood's.
        score_draws: codes drawn for each sample by `score_samples`; 0 scores at the mean code,
            which is no bound.
        epochs: passes over the data; "auto" makes about 8000 steps in 10 to 100 epochs.
        batch_size: samples a step.
        learning_rate: step size of AdamW, at its highest.
        schedule: course of the learning rate after the warm-up: "constant", "linear" or "cosine"
            to 0, "exponential" to `rate_factor`, in a "step" or more, "one_cycle" (a warm-up along
            a cosine too), or falling where the loss is on a "plateau".
        warmup: share of the steps over which the learning rate rises.
        rate_cycles: how often the cosine starts anew from the highest learning rate, and falls.
        rate_drops: number of a step schedule's even drops.
        rate_factor: what is left of the learning rate after a drop, or at an exponential's end.
        rate_patience: epochs without a better loss after which a plateau's learning rate drops.
        weight_decay: decoupled decay of the weight matrices.
        l2: weight of half the squared weight matrices in the loss, whose gradient is not clipped.
        gradient_clip: largest global norm of a gradient (100 tames batches with outlying samples);
            None for any.
        accumulation: parts of a batch that pass one after another, for less memory; their
            gradients add up to one step.
        gradient_checkpointing: let training forget what layers put out, but for a few, and compute
            it again for the gradients: less memory for some more time.
        ema: decay of a moving average of the weights, which is what is validated and kept; 0 keeps
            the weights themselves.
        patience: stop after so many epochs without a better loss, and restore the best; None
            trains to the end.
        stopping: what a better loss is better than: the "best" so far, or with "lagged" the one
            `patience` epochs before.
        validation: share of the samples held out to watch training; 0 holds out none.
        validation_split: hold out "random" samples or the "last" ones, for data in time order.
        warm_start: let `fit` go on from the net it finds instead of a new one; it follows fields
            that were changed since, or refuses them.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: "float32"; "bfloat16" or "float16" for the forward passes of training, the
            latter with a scaled loss; "tf32" for the matrix products of a GPU, while it is float32
            on a CPU.
        compile: run each full batch of training, with gradients and updates, as one compiled
            graph, which takes half a minute to make; "auto" does so in long runs of `fit`, by
            their number of steps. `partial_fit` never does.
        steps_per_execution: steps that a compiled graph makes at a time, before callbacks and
            checkpoints see any of them; "auto" takes several in runs of very many.
        threads: CPU threads of training; "auto" uses one for steps too small to share.
        seed: makes everything random repeatable; None takes a new seed every time.
        verbose: 0 is silent, 1 shows a bar on a terminal or in a notebook, 2 a line an epoch
            anywhere.
    """

    latent_dim: Count = 8
    modality: Literal["auto"] | Annotated[str, OneOf(MODALITIES)] = "auto"
    window: Count | None = None
    stride: Count | None = None
    symbols: str | None = None
    scaling: Literal["auto", "standard", "robust", "minmax", "none"] = "auto"
    architecture: Literal["auto"] | Annotated[str, OneOf(ARCHITECTURES)] = "auto"
    hidden: tuple[Count, ...] | None = None
    activation: Annotated[str, OneOf(ACTIVATIONS)] = "silu"
    dropout: Fraction = 0.0
    batch_norm: bool = False
    blocks: Annotated[int, Ge(0)] = 0
    tied: bool = False
    linear_path: bool = False
    downsampling: Literal["stride", "max", "average"] = "stride"
    channels_last: bool = False
    likelihood: Literal["auto"] | Annotated[str, OneOf(LIKELIHOODS)] = "auto"
    scale: Literal["optimal", "learned", "predicted"] | Positive = "optimal"
    output_activation: Literal["auto"] | Annotated[str, OneOf(ACTIVATIONS)] = "auto"
    score_draws: Annotated[int, Ge(0)] = 16
    epochs: Literal["auto"] | Count = "auto"
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    warmup: Fraction = 0.05
    rate_cycles: Count = 1
    rate_drops: Count = 3
    rate_factor: Annotated[float, Gt(0), Lt(1)] = 0.1
    rate_patience: Count = 10
    weight_decay: NonNegative = 0.3
    l2: NonNegative = 0.0
    gradient_clip: Positive | None = 100.0
    accumulation: Count = 1
    gradient_checkpointing: bool = False
    ema: Fraction = 0.0
    patience: Count | None = None
    stopping: Annotated[str, OneOf(RULES), Unless("patience", None)] = "best"
    validation: Fraction = 0.1
    validation_split: Literal["random", "last"] = "random"
    warm_start: bool = False
    device: str = "auto"
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    compile: Literal["auto"] | bool = "auto"
    steps_per_execution: Annotated[Literal["auto"] | Count, Unless("compile", False)] = "auto"
    threads: Literal["auto"] | Count = "auto"
    seed: Annotated[int, Ge(0), Lt(2**32)] | None = 0
    verbose: Annotated[int, Ge(0), Le(2)] = 1
