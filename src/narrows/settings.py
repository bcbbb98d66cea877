"""The parameters that every autoencoder has: its data, its net, its likelihood, its training."""

from typing import Annotated, Literal

from annotated_types import Ge, Le

from narrows.data.modalities import MODALITIES
from narrows.fields import Count, Fraction, NonNegative, OneOf, Parameters, Positive
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.parts.networks import ACTIVATIONS, ARCHITECTURES
from narrows.training import SCHEDULES

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
        architecture: networks of encoder and decoder; "auto" takes the modality's.
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
        schedule: course of the learning rate after the warm-up.
        warmup: share of the steps over which the learning rate rises.
        weight_decay: decoupled decay of the weight matrices.
        gradient_clip: largest global norm of a gradient (100 tames batches with outlying samples);
            None for any.
        patience: stop after so many epochs without a better loss, and restore the best; None
            trains to the end.
        validation: share of the samples held out to watch training; 0 holds out none.
        validation_split: hold out "random" samples or the "last" ones, for data in time order.
        warm_start: let `fit` go on from the net it finds instead of a new one.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        precision: "float32", or "bfloat16" for the forward passes of training.
        compile: run each full batch of training, with gradients and updates, as one compiled
            graph, which takes half a minute to make; "auto" does so in long runs of `fit`, by
            their number of steps. `partial_fit` never does.
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
    likelihood: Literal["auto"] | Annotated[str, OneOf(LIKELIHOODS)] = "auto"
    scale: Literal["optimal", "learned", "predicted"] | Positive = "optimal"
    output_activation: Literal["auto"] | Annotated[str, OneOf(ACTIVATIONS)] = "auto"
    score_draws: Annotated[int, Ge(0)] = 16
    epochs: Literal["auto"] | Count = "auto"
    batch_size: Count = 128
    learning_rate: Positive = 2e-3
    schedule: Annotated[str, OneOf(SCHEDULES)] = "cosine"
    warmup: Fraction = 0.05
    weight_decay: NonNegative = 0.3
    gradient_clip: Positive | None = 100.0
    patience: Count | None = None
    validation: Fraction = 0.1
    validation_split: Literal["random", "last"] = "random"
    warm_start: bool = False
    device: str = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto"] | bool = "auto"
    threads: Literal["auto"] | Count = "auto"
    seed: Annotated[int, Ge(0)] | None = 0
    verbose: Annotated[int, Ge(0), Le(2)] = 1
