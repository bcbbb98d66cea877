"""The estimator: fields are parameters; fit, transform, reconstruct, score, sample, save."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from narrows import checkpoint
from narrows.assembly import assemble, start_latent, start_lengths, start_output
from narrows.callbacks import Callbacks
from narrows.data.modalities import MODALITIES, Graph, Modality, modality_of, read_by
from narrows.data.sources import EVEN, SLICE, Batch, InMemory, at_once
from narrows.density import CodePrior, Mixture
from narrows.distributed import Processes, join, leads
from narrows.errors import DataError, ParameterError
from narrows.fields import choices, describe_type
from narrows.fitting import FitOptions, check_continues, check_options, epochs, sources
from narrows.metrics.health import Diagnosis, book_usage, diagnose, fit_of_prior
from narrows.net import Move, Net, Player, Stage, Step, Terms
from narrows.parts.generation import Plan
from narrows.parts.latents import DiagonalGaussian, Distribution, Latent
from narrows.parts.principal import start_path
from narrows.persistence import restored, state_of
from narrows.progress import displays
from narrows.runtime import choose_threads, products, resolve_device, seeded, threads
from narrows.settings import Settings
from narrows.storage import load_model, save_model
from narrows.training import Training

__all__ = ["MODELS", "BaseAutoencoder", "load", "register"]

Array = NDArray[np.float32]
Codes = NDArray[Any]
"""Codes as they are remembered: float32, or the integers of discrete ones."""
MODELS: dict[str, type["BaseAutoencoder"]] = {}
"""Every estimator by its class name."""
LOADABLE: dict[str, Any] = {}
"""What else `load` restores, by class name: it has `state` and `restore` as an estimator has."""
REMEMBERED = 10_000
"""Training codes that are kept, for a density over codes and for `diagnose`."""


FEW = 3
"""Models that share an architecture of their own, at most."""


def register(cls: type["BaseAutoencoder"]) -> type["BaseAutoencoder"]:
    """Make an estimator known by its class name to `narrows.load` and `narrows models`."""
    MODELS[cls.__name__] = cls
    return cls


def load(path: str | Path) -> "BaseAutoencoder":
    """Return the fitted estimator in a folder that `save` wrote; nothing is unpickled.

    Raises:
        ModelFileError: the folder is missing, damaged, of a newer format or an unknown class.
    """
    return load_model(path, MODELS | LOADABLE)


class BaseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Settings):
    """Base of every autoencoder: encoder -> latent -> decoder -> likelihood.

    A variant overrides, from commonest to rarest, `latent`, `objective`, `build` or `losses`. The
    parameters are in `Settings`.
    """

    calculates = False
    """Whether the model calculates with the values of x, so that x cannot be symbols."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if not cls.__name__.startswith("_"):
            register(cls)

    # -- what a variant may override -----------------------------------------------------------

    def describe(self, X: Any, y: Any) -> Modality:
        """Note the form of the data, and of y where the model reads it."""
        del y
        readable = set().union(*map(read_by, MODALITIES.values()))
        fields = {name: value for name, value in self.fields().items() if name in readable}
        return modality_of(X, self.modality, **fields)

    def latent(self) -> Latent:
        """Return the layer between encoder and decoder."""
        raise NotImplementedError

    def objective(self, step: Step) -> Terms:
        """Return the named terms of the loss, from one pass."""
        return {"nll": step.nll, **step.charges}

    def build(self, modality: Modality) -> Net:
        """Return a new net for data of this modality."""
        return assemble(self, modality)

    def losses(self, batch: Batch) -> Iterator[Move]:
        """Yield the players' moves on a batch, in order; each is made before the next is asked."""
        step = self.net_(batch)
        yield Move("autoencoder", self.objective(step), step)

    def players(self) -> dict[str, Player]:
        """Return the players of the net, with the options of their optimizers."""
        return self.net_.players()

    def stages(self, epochs: int | None) -> list[Stage]:
        """Return the parts of training in their order: one, of the whole net.

        Where there is no end, as in `partial_fit`, `epochs` is None.
        """
        del epochs
        return [Stage(self.net_, self.players(), self.losses)]

    def plan(self, noise: bool = False) -> Plan:
        """Return how decoders of sequences run on by themselves."""
        return Plan(noise)

    def prepare(self, source: InMemory) -> None:
        """Look at the training samples before the first step; nothing by default."""

    def after_epoch(self) -> None:
        """Act at the end of an epoch; nothing by default."""

    def after_fit(self, codes: Codes) -> None:
        """Act on the codes of the training samples; nothing by default."""

    def check_parameters(self) -> None:
        """Check every field; of an architecture that few models have, say which."""
        name, own = self.architecture, type(self).annotations()["architecture"]
        owners = [
            other
            for other, model in MODELS.items()
            if name in choices(model.annotations()["architecture"])
        ]
        if name not in choices(own) and 0 < len(owners) <= FEW:
            raise ParameterError(
                f"architecture='{name}' is for {', '.join(owners)} alone, whose nets are made "
                f"for it; that of {type(self).__name__} must be {describe_type(own)}."
            )
        super().check_parameters()

    # -- what a user calls ---------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, **options: Unpack[FitOptions]) -> Self:
        """Learn from X.

        Args:
            X: samples in their own form: ``(n, d)``, images, volumes, a data frame, series, texts.
            y: labels or conditions, for models that read them; ignored by the others.
            **options: see `FitOptions`.

        Returns:
            The estimator, with `net_`, `modality_`, `history_` (one row an epoch), `codes_` (of
            training samples; the integers of a discrete code), `held_out_` (rows of X) and
            `n_iter_` (epochs). A row holds each term of the loss as it was weighed (so "kl" is
            beta * KL), and "mse" in the model's units (of text, the share of wrong symbols), from
            about 16 batches of the epoch.

        Raises:
            ParameterError: a parameter cannot work.
            DataError: X cannot be used.
            TrainingError: the loss became infinite or not a number.
        """
        self.check_parameters()
        check_options(options)
        if options.get("resume") and self.seed is None:
            raise ParameterError("resume=True needs a seed: with None, every run is another one.")
        folder, resume = options.pop("checkpoint", None), options.pop("resume", False)
        every = checkpoint.interval(options.pop("checkpoint_every", "epoch"))
        watching = [*displays(self.verbose), *(options.pop("callbacks", None) or ())]
        strategy = options.pop("strategy", None)
        processes = join(strategy, resolve_device(self.device))
        device = processes.device
        with self._unharmed(), seeded(processes.seed(self.seed), device) as seed:
            training = self._begin(X, device, seed, processes, y=y, **options)
            with (
                threads(self._threads(training.source)),
                products(self.precision),
                processes.sharing(*(stage.net for stage in training.stages)),
                checkpoint.kept(training, folder, every, bool(resume)) as run,
                Callbacks(training, () if processes.rank else watching) as callbacks,
            ):
                if strategy is not None:
                    processes.agree(checkpoint.identity(training) | training.place)
                run(callbacks.epoch)
            self._finish(training)
            self._shared = strategy is not None
        return self

    def partial_fit(self, X: Any, y: Any = None, sample_weight: ArrayLike | None = None) -> Self:
        """Make one pass over X at a constant learning rate; the first call learns the modality.

        The optimizer's state lasts from call to call. Nothing is held out.
        """
        self.check_parameters()
        device = resolve_device(self.device)
        with self._unharmed(), seeded(self.seed, device) as seed:
            source, _ = self._start(X, device, seed, True, 0.0, y=y, sample_weight=sample_weight)
            training = Training(self, source, None, None, seed)
            if before := self.__dict__.get("_partial"):
                training.load(*before)
            torch.manual_seed(seed + training.epoch)
            with threads(self._threads(source)), products(self.precision):
                training.run_epoch()
            self._partial = training.snapshot()
            training.exchange()
            self._finish(training)
        return self

    def transform(self, X: Any, y: Any = None) -> Array:
        """Return the deterministic codes ``(n, code size)``: the posterior's mean for a VAE.

        Here and below, y is what is known of X, for models that read it. As pandas' frames, codes
        of windows are labelled with the first stamp of each.
        """
        codes = self._codes(X, y).numpy()
        # scikit-learn would label them with the rows of X, and there is another number of those.
        if _get_output_config("transform", self)["dense"] != "pandas":
            return codes
        labelled: Array = self.modality_.labelled(codes, X)
        return labelled

    def inverse_transform(self, Z: ArrayLike, condition: Any = None) -> Any:
        """Return E[x | z] of codes ``(n, code size)`` in the type, shape and units of the data.

        A model that takes conditions decodes under this one, or one for each code.
        """
        check_is_fitted(self)
        shape = self.net_.latent.code_shape
        codes = check_array(Z, dtype=np.float32, input_name="Z", estimator=self)
        if codes.shape[1] != int(np.prod(shape)):
            raise DataError(
                f"Z has {codes.shape[1]} values a row, but the code of {type(self).__name__} has "
                f"{int(np.prod(shape))}. Give codes as `transform` returns them."
            )
        wanted = self._wanted(condition, len(codes))
        out = self._decode(torch.tensor(codes).view(-1, *shape), wanted)
        return self.modality_.explained.decode(out, condition=wanted)

    def reconstruct(self, X: Any, y: Any = None) -> Any:
        """Return what the model makes of X, in X's own type, shape and units; deterministic."""
        check_is_fitted(self)

        plan = self.plan()
        made = self._map(X, lambda batch: self.net_.reconstruct(batch, plan), y)
        return self.modality_.explained.decode(made, like=X)

    def score_samples(self, X: Any, y: Any = None) -> Array:
        """Return a score of each sample in nats, ``(n,)``: higher = more normal.

        Where codes are drawn it is the ELBO, -nll - KL, a lower bound on log p(x); its
        expectation is taken over `score_draws` codes whose noise is the same for every sample.
        For point codes it is -nll, which bounds nothing. Gaussian and Laplace likelihoods are
        densities of X in its own units, those of counts and levels probabilities; the Bernoulli's
        is neither.
        """
        check_is_fitted(self)
        noise = None
        if self.score_draws:
            generator = torch.Generator().manual_seed(0)
            noise = self.net_.latent.noise(self.score_draws, generator).to(self._device())
        return self._map(X, lambda batch: self.net_.elbo(batch, noise), y).numpy()

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean of `score_samples`."""
        return float(self.score_samples(X, y).mean(dtype=np.float64))

    def sample(
        self,
        n: int = 1,
        *,
        condition: Any = None,
        seed: int | None = 0,
        density: bool | None = None,
        noise: bool = False,
    ) -> Any:
        """Return n new samples in the type, shape and units of the data.

        Args:
            n: how many.
            condition: what they shall be: one condition, or one for each; None draws conditions
                like those of the training samples. Only for models that take conditions.
            seed: the same seed gives the same samples; None gives new ones.
            density: draw codes from a density fitted to the training codes, when it is first
                asked for, instead of the prior; None does so where there is no prior, and for
                discrete codes. It is a Gaussian mixture (Ghosh et al., 2020), or a transformer
                over the integers of a discrete code (van den Oord et al., 2017).
            noise: draw from the likelihood instead of taking its mean.
        """
        check_is_fitted(self)
        if n < 1:
            raise ParameterError(f"sample needs n ≥ 1. Got {n} instead.")
        latent = self.net_.latent
        prior = None if latent.categories else latent.prior()
        if prior is None and density is False:
            raise ParameterError(
                f"{type(self).__name__} has no prior to sample from. Leave density at None."
            )
        with seeded(seed, self._device()) as fixed:
            wanted = self._drawn(n) if condition is None else self._wanted(condition, n)
            if density or prior is None:
                kept = torch.as_tensor(self._fitted_density().sample(n, fixed))
                codes = self._unpacked(kept)
            else:
                codes = self._prior_codes(prior, n, wanted)
            plan = replace(self.plan(noise), lengths=self.net_.lengths(n))
            out = self._decode(codes, wanted, plan)
            return self.modality_.explained.decode(out, condition=wanted)

    def interpolate(self, a: Any, b: Any, steps: int = 10) -> Any:
        """Return `steps` samples from a to b along a straight line between their codes.

        Args:
            a: one sample, without or with a first axis of length 1.
            b: another.
            steps: how many samples, with the reconstructions of a and b at the ends.
        """
        check_is_fitted(self)
        ends = [self.modality_.as_batch(sample) for sample in (a, b)]
        start, end = (self._map(X, self.net_.place) for X in ends)
        if len(start) != 1 or len(end) != 1 or steps < 2:
            raise ParameterError(
                "interpolate goes from one sample to another in 2 or more steps. Got "
                f"{len(start)} and {len(end)} samples and {steps} steps."
            )
        way = torch.linspace(0, 1, steps)[:, None]
        line, shape = (1 - way) * start + way * end, self.net_.latent.code_shape
        codes, wanted = line.tensor_split([int(np.prod(shape))], 1)
        given = wanted if wanted.numel() else None
        out = self._decode(codes.reshape(-1, *shape), given)
        return self.modality_.explained.decode(out, condition=given)

    def diagnose(self) -> Diagnosis:
        """Return what training did to the code and the losses, as findings in plain sentences."""
        check_is_fitted(self)
        if not (categories := self.net_.latent.categories):
            found = diagnose(self.history_, self.codes_, self.unit_kl_)
            if not found.active or not isinstance(self.net_.latent.prior(), DiagonalGaussian):
                return found
            vamp = not (self.modality_.symbols or isinstance(self.modality_, Graph))
            return found.having(fit_of_prior(self.codes_, learnable=vamp))
        codes = self._unpacked(torch.from_numpy(self.codes_)).flatten(1).numpy()
        usage = book_usage(self.codes_, self.net_.latent.books, categories)
        return diagnose(self.history_, codes, usage=usage)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the fitted estimator as a folder that `narrows.load` reads; no pickle inside.

        Of processes that trained it together, the first one writes.

        Raises:
            FileError: the folder exists and `overwrite` is off, or it cannot be written.
        """
        check_is_fitted(self)
        if not self.__dict__.get("_shared") or leads():
            save_model(self, path, overwrite)

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return all that was learned, as JSON data and tensors by name."""
        return state_of(self)

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Return the estimator whose `state` this is."""
        return restored(cls, config, tensors)

    # -- behind the scenes ---------------------------------------------------------------------

    def _begin(
        self,
        X: Any,
        device: torch.device,
        seed: int,
        processes: Processes | None = None,
        **options: Any,
    ) -> Training:
        """Return a run that is ready for its first epoch."""
        self.__dict__.pop("_partial", None)
        source, held = self._start(X, device, seed, self.warm_start, self.validation, **options)
        if processes is not None:
            processes.align(self.net_)
        return Training(self, source, held, epochs(self, source), seed, processes)

    def _start(
        self, X: Any, device: torch.device, seed: int, warm: bool, fraction: float, **options: Any
    ) -> tuple[InMemory, InMemory | None]:
        """Read the data and, unless training goes on from an earlier one, learn and build anew."""
        known = self.__dict__.get("modality_") if warm else None
        self.modality_, source, held, self.held_out_ = sources(
            self, X, known, seed, fraction=fraction, **options
        )
        if known is None:
            self.net_: Net = self.build(self.modality_)
            start_output(self.net_, source)
            start_path(self.net_, source)
            start_latent(self.net_, source)
            start_lengths(self.net_, source)
        else:
            check_continues(self)
        self.net_.to(device)
        source, held = source.to(device), held and held.to(device)
        for part in (source, held):
            if part is not None:
                part.trims = self.net_.takes_any_length
        self.prepare(source)
        return source, held

    @contextmanager
    def _unharmed(self) -> Iterator[None]:
        """Leave the estimator as it was when what runs inside fails."""
        before = dict(self.__dict__)
        if "net_" in before:
            before["net_"] = deepcopy(before["net_"])
        try:
            yield
        except BaseException:
            self.__dict__ = before
            raise

    def _finish(self, training: Training) -> None:
        """Keep what later methods need: the net, the history, codes of the training samples."""
        self.net_ = training.processes.whole(self.net_)
        n = len(training.source)
        rows = torch.linspace(0, n - 1, min(n, REMEMBERED), dtype=torch.float64).long()
        latent = self.net_.latent
        size = len(latent.books) or int(np.prod(latent.code_shape))

        def look(batch: Batch) -> Tensor:
            code, kl = self.net_.look(batch)
            return code if kl is None else torch.cat([code, kl], 1)

        seen = self._slices(training.source, look, rows.to(training.device)).numpy()
        codes, kl = np.ascontiguousarray(seen[:, :size]), seen[:, size:]
        codes = codes.astype(np.int32) if latent.categories else codes
        self._learned(
            self.fields(),
            self.modality_,
            self.net_,
            history=training.history,
            codes=codes,
            unit_kl=kl.mean(0) if kl.size else None,
        )
        self.after_fit(codes)

    def _learned(
        self,
        fields: dict[str, Any],
        modality: Modality,
        net: Net,
        *,
        history: list[dict[str, float]],
        codes: Codes,
        unit_kl: Array | None,
    ) -> None:
        """Set the fitted attributes."""
        self._fitted_fields = fields
        self.__dict__.pop("_density", None)
        self.modality_, self.net_, self.history_ = modality, net, history
        self.codes_, self.unit_kl_, self.n_iter_ = codes, unit_kl, len(history)
        self._n_features_out = int(np.prod(net.latent.code_shape))
        self.n_features_in_ = modality.n_features
        if modality.feature_names:
            self.feature_names_in_ = np.array(modality.feature_names, dtype=object)

    def _map(self, X: Any, function: Callable[[Batch], Tensor], y: Any = None) -> Tensor:
        """Apply a function of a batch to all samples of X."""
        check_is_fitted(self)
        array = self.modality_.read(X, type(self).__name__)
        source = self.modality_.source(array, y)
        source.trims = self.net_.takes_any_length
        return self._slices(source, function, torch.arange(len(source)))

    def _codes(self, X: Any, y: Any = None) -> Tensor:
        return self._map(X, lambda batch: self.net_.code(batch).flatten(1), y)

    def _wanted(self, condition: Any, n: int) -> Tensor | None:
        """Return the condition that a user wants for n samples, as the networks get it."""
        if condition is None:
            return None
        if self.modality_.condition is None:
            raise ParameterError(f"{type(self).__name__} takes no condition. Leave it at None.")
        return self.modality_.condition.wanted(condition, n)

    def _prior_codes(self, prior: Distribution, n: int, wanted: Tensor | None) -> Tensor:
        """Draw n codes of the prior; the condition does not change it, but for some models."""
        del wanted
        return prior.sample(n)

    def _drawn(self, n: int) -> Tensor | None:
        """Return n conditions to sample under; None where the model takes none."""
        del n
        return None

    @torch.inference_mode()
    def _slices(
        self, source: InMemory, function: Callable[[Batch], Tensor], rows: Tensor
    ) -> Tensor:
        self.net_.eval()
        device = self._device()
        parts = []
        for batch, kept in source.passes(rows, at_once(source.x.shape[1:]), EVEN):
            parts.append(function(batch.to(device))[kept.to(device)])
        return torch.cat(parts).float().cpu()

    def _fitted_density(self) -> Mixture | CodePrior:
        """Return the density of the training codes, fitted now if it was not before."""
        if "_density" not in self.__dict__:
            books = self.net_.latent.books
            self._density = (
                CodePrior.fit(self.codes_, books) if books else Mixture.fit(self.codes_)
            )
        return self._density

    @torch.inference_mode()
    def _unpacked(self, kept: Tensor) -> Tensor:
        """Return the codes that were remembered in this form."""
        self.net_.eval()
        parts = [self.net_.latent.unpack(p.to(self._device())) for p in kept.split(SLICE)]
        return torch.cat(parts).cpu()

    @torch.inference_mode()
    def _decode(
        self, codes: Tensor, condition: Tensor | None = None, plan: Plan | None = None
    ) -> Tensor:
        """Return samples in the modality's units for codes of any number."""
        self.net_.eval()
        device, plan = self._device(), plan or replace(self.plan(), lengths=self.net_.lengths())
        lengths = None if plan.lengths is None else plan.lengths.expand(len(codes))
        outs = []
        for rows in torch.arange(len(codes)).split(at_once(self.modality_.shape)):
            own = plan if lengths is None else replace(plan, lengths=lengths[rows.to(device)])
            context = () if condition is None else (condition[rows].to(device),)
            outs.append(self.net_.generate(codes[rows].to(device), own, *context))
        return torch.cat(outs).float().cpu()

    def _device(self) -> torch.device:
        return self.net_.progress.device

    def _threads(self, source: InMemory) -> int:
        if self.threads != "auto":
            return self.threads
        one = source.take(torch.zeros(1, dtype=torch.long, device=source.x.device))
        return choose_threads(self.net_, one, self.batch_size)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
