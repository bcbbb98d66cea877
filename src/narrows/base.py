"""The estimator: what a variant may override, how it learns, and how it is kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from narrows import checkpoint
from narrows.assembly import assemble, start_latent, start_lengths, start_output
from narrows.callbacks import Callbacks
from narrows.data.modalities import MODALITIES, Modality, modality_of, read_by
from narrows.data.sources import Batch, InMemory
from narrows.distributed import Processes, join, leads
from narrows.errors import ParameterError
from narrows.fields import Weighs, choices, describe_type
from narrows.fitted import Codes, Fitted
from narrows.fitting import FitOptions, check_continues, check_options, epochs, sources
from narrows.net import Move, Net, Player, Stage, Step, Terms
from narrows.parts.latents import Gaussian, Latent
from narrows.parts.penalties import PENALTIES
from narrows.parts.principal import start_path
from narrows.persistence import restored, state_of
from narrows.progress import displays
from narrows.runtime import choose_threads, products, resolve_device, seeded, threads
from narrows.storage import load_model, save_model
from narrows.training import Training

__all__ = ["MODELS", "BaseAutoencoder", "load", "register"]

MODELS: dict[str, type["BaseAutoencoder"]] = {}
"""Every estimator by its class name."""
LOADABLE: dict[str, Any] = {}
"""What else `load` restores, by class name: it has `state` and `restore` as an estimator has."""
REMEMBERED = 10_000
"""Training codes that are kept, for a density over codes and for `diagnose`."""
FEW = 3
"""Models that share an architecture of their own, at most."""


def register(cls: type["BaseAutoencoder"]) -> type["BaseAutoencoder"]:
    """Make an estimator known by its class name to `narrows.load` and `narrows models`.

    Raises:
        ParameterError: narrows itself has a model of this name.
    """
    known = MODELS.get(cls.__name__, cls)
    if known.__module__ != cls.__module__ and known.__module__.startswith("narrows."):
        raise ParameterError(
            f"narrows has a model called {cls.__name__}, which saved models name. Call yours "
            "otherwise."
        )
    MODELS[cls.__name__] = cls
    return cls


def load(path: str | Path) -> "BaseAutoencoder":
    """Return the fitted estimator in a folder that `save` wrote; nothing is unpickled.

    Raises:
        ModelFileError: the folder is missing, damaged, of a newer format or an unknown class.
    """
    return load_model(path, MODELS | LOADABLE)


class BaseAutoencoder(Fitted):
    """Base of every autoencoder: encoder -> latent -> decoder -> likelihood.

    A variant overrides, from commonest to rarest, `latent`, `objective`, `build` or `losses`; one
    that overrides nothing is a VAE. The parameters are in `Settings`.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        with suppress(NameError):  # of an annotation that is defined later
            cls._find_weights()
        if not cls.__name__.startswith("_"):
            register(cls)

    # -- what a variant may override -----------------------------------------------------------

    @property
    def calculates(self) -> bool:
        """Whether the model calculates with the values of x, so that x cannot be symbols."""
        return any(PENALTIES[name].calculates for name in self.penalty_weights())

    def describe(self, X: Any, y: Any) -> Modality:
        """Note the form of the data, and of y where the model reads it."""
        del y
        readable = set().union(*map(read_by, MODALITIES.values()))
        fields = {name: value for name, value in self.fields().items() if name in readable}
        return modality_of(X, self.modality, **fields)

    def latent(self) -> Latent:
        """Return the layer between encoder and decoder: a diagonal Gaussian by default."""
        return Gaussian(self.latent_dim)

    def objective(self, step: Step) -> Terms:
        """Return the named terms of the loss, from one pass."""
        weights, terms = self.charge_weights(step), {"nll": step.nll}
        for name, cost in step.charges.items():
            terms[name] = weights[name] * cost if name in weights else cost
        for name, weight in self.penalty_weights().items():
            terms[name] = weight * PENALTIES[name].price(self.net_, step)
        return terms

    def charge_weights(self, step: Step) -> Mapping[str, float | Tensor]:
        """Return the weights of what a step charges by name; 1 where there is none, or None."""
        del step
        weights = {charge: getattr(self, field) for charge, field in self._weighed.items()}
        return {charge: weight for charge, weight in weights.items() if weight is not None}

    def penalty_weights(self) -> dict[str, float]:
        """Return the weights of the penalties that the objective adds, by name."""
        return {}

    def build(self, modality: Modality) -> Net:
        """Return a new net for data of this modality, with what the penalties need."""
        net = assemble(self, modality)
        for name in self.penalty_weights():
            PENALTIES[name].build(self, net, modality.shape)
        return net

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

    def prepare(self, source: InMemory) -> None:
        """Look at the training samples before the first step, as penalties may."""
        for name in self.penalty_weights():
            PENALTIES[name].prepare(self.net_, source)

    @property
    def incomparable(self) -> str:
        """Why the losses of epochs do not compare with one another; "" where they do."""
        return ""

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
        self._find_weights()

    # -- what a user calls ---------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None, **options: Unpack[FitOptions]) -> Self:
        """Learn from X.

        Args:
            X: samples in their own form: ``(n, d)``, images, volumes, a data frame, series, texts.
            y: labels or conditions, for models that read them; ignored by the others.
            **options: see `FitOptions`.

        Returns:
            The estimator, with `net_`, `modality_`, `history_` (one row an epoch), `codes_` (of
            training samples; the integers of a discrete code), `held_out_` (rows of X), `n_iter_`
            (epochs) and `best_epoch_` (whose weights it has, from 1 on: with `patience` the best,
            else the last). A row holds each term of the loss as it was weighed (so "kl" is
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
        """Make one pass over X; the first call of all learns the modality.

        The learning rate rises over the first 100 steps, and is constant from then on.
        The optimizer's state lasts from call to call. Nothing is held out, and courses over
        training, such as that of `kl_schedule`, stand at their end.
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

    _weighed: ClassVar[dict[str, str]] = {}
    """By the name of a charge: the field that is marked to weigh it."""

    @classmethod
    def _find_weights(cls) -> None:
        """Note the marks; a field that is declared again without one keeps its own."""
        found: dict[str, str] = {}
        for base in reversed(cls.__mro__):
            if issubclass(base, BaseAutoencoder):
                marks = {m.charge: name for name, m in base.marks() if isinstance(m, Weighs)}
                left = {c: name for c, name in found.items() if name not in marks.values()}
                found = left | marks
        cls._weighed = found

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
        latent = self.net_.latent
        size = len(latent.books) or int(np.prod(latent.code_shape))

        def look(batch: Batch) -> Tensor:
            code, kl = self.net_.look(batch)
            return code if kl is None else torch.cat([code, kl], 1)

        seen = self._slices(training.source, look, training.source.even(REMEMBERED)).numpy()
        codes, kl = np.ascontiguousarray(seen[:, :size]), seen[:, size:]
        codes = codes.astype(np.int32) if latent.categories else codes
        self._learned(
            self.fields(),
            self.modality_,
            self.net_,
            history=training.history,
            best_epoch=training.kept,
            codes=codes,
            unit_kl=kl.mean(0) if kl.size else None,
        )
        self.after_fit(codes)

    def _threads(self, source: InMemory) -> int:
        if self.threads != "auto":
            return self.threads
        one = source.take(torch.zeros(1, dtype=torch.long, device=source.x.device))
        return choose_threads(self.net_, one, self.batch_size)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
