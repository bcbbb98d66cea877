"""Fit many models on the same data: at once where they are of one shape, else one by one."""

import warnings
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Any, TypeVar, Unpack

import torch
from torch import Generator

from narrows.base import BaseAutoencoder
from narrows.callbacks import Callbacks
from narrows.data.sources import InMemory
from narrows.errors import ParameterError, TrainingError
from narrows.fitting import FitOptions, check_options
from narrows.net import forms, outline, settled
from narrows.progress import displays
from narrows.runtime import choose_threads, products, resolve_device, seeded, threads
from narrows.together.loop import ApartError, Joint
from narrows.together.passes import Numbers
from narrows.training import Training

__all__ = ["fit_together"]

M = TypeVar("M", bound=BaseAutoencoder)
T = TypeVar("T")
OWN = {
    "gradient_clip",
    "learning_rate",
    "patience",
    "rate_cycles",
    "rate_drops",
    "rate_factor",
    "rate_patience",
    "schedule",
    "score_draws",
    "seed",
    "stopping",
    "validation",
    "validation_split",
    "verbose",
    "warmup",
    "weight_decay",
}
"""Fields that each model of one shape may have its own of, and that no loss reads."""
ALONE = {"accumulation", "ema", "gradient_checkpointing", "l2"}
"""Fields of the step that only a run alone has, unless they are as by default."""
RUNNING = {"callbacks", "checkpoint", "checkpoint_every", "resume", "strategy"}
"""Options of `fit` that are for a single run."""


def fit_together(
    models: Iterable[M], X: Any, y: Any = None, **options: Unpack[FitOptions]
) -> list[M]:
    """Fit models on the same data: those of one shape at once, which is several times faster.

    Models of one class can be trained at once where they differ in numbers alone: seeds, learning
    rates, weights in their objectives. Each then learns what it learns alone, to rounding (by
    which a discrete code may fall the other way): it has its own held-out rows, order of samples,
    noise, clipping and early stopping. The others are fitted one after another. A warning tells
    where models of one shape cannot be trained at once: two players, several stages, a number
    that decides instead of being calculated with.

    What pays are small models and batches, whose steps are mostly overhead.

    Args:
        models: estimators, which are fitted in place.
        X: samples, as `fit` takes them.
        y: labels or conditions, for models that read them.
        **options: what `fit` takes of the data: `sample_weight`, `validation`, `groups`.

    Returns:
        The models, fitted.

    Raises:
        ParameterError: a parameter cannot work.
        DataError: X cannot be used.
        TrainingError: the loss of a model became infinite or not a number. All others are fitted.

    >>> from narrows import VAE, fit_together
    >>> from sklearn.datasets import load_iris
    >>> X = load_iris().data
    >>> models = fit_together([VAE(latent_dim=2, beta=b, epochs=20) for b in (0.5, 1, 2)], X)
    >>> kl = [model.history_[-1]["kl"] / model.beta for model in models]
    >>> kl[0] > kl[1] > kl[2]
    True
    """
    made = list(models)
    check_options(options)
    if found := sorted(RUNNING & options.keys()):
        raise ParameterError(
            f"fit_together has no option '{found[0]}', which is for a single run: use fit."
        )
    if len({id(model) for model in made}) < len(made):
        raise ParameterError("A model is in the list twice; each needs an estimator of its own.")
    errors: dict[BaseAutoencoder, TrainingError] = {}
    for group in grouped(made, key_of_fields):
        errors |= fit_group(group, X, y, options)
    if errors:
        places = ", ".join(str(i) for i, model in enumerate(made) if model in errors)
        raise TrainingError(
            f"{next(iter(errors.values()))} Of the {len(made)} models, all but those at "
            f"{places} are fitted."
        )
    return made


def fit_group(
    models: Sequence[M], X: Any, y: Any, options: FitOptions
) -> dict[BaseAutoencoder, TrainingError]:
    """Fit models that differ in numbers alone; return what ended those whose training failed."""
    if len(models) == 1:
        return fit_each(models, X, y, options)
    members = [Member(model) for model in models]
    errors: dict[BaseAutoencoder, TrainingError] = {}
    try:
        for member in members:
            member.begin(X, y=y, **options)
        for part in grouped(members, key_of_shape):
            try:
                errors |= fit_each(train(part), X, y, options)
            except ApartError as reason:
                for member in part:
                    member.abandon()
                if str(reason):
                    warnings.warn(
                        f"{len(part)} models of {type(models[0]).__name__} are fitted one after "
                        f"another: {reason}.",
                        stacklevel=3,
                    )
                errors |= fit_each([member.model for member in part], X, y, options)
    except BaseException:
        for member in members:
            member.abandon()
        raise
    return errors


def fit_each(
    models: Sequence[BaseAutoencoder], X: Any, y: Any, options: FitOptions
) -> dict[BaseAutoencoder, TrainingError]:
    """Fit models one after another; return what ended those whose training failed."""
    errors = {}
    for model in models:
        try:
            model.fit(X, y, **options)
        except TrainingError as error:
            errors[model] = error
    return errors


class Member:
    """A model on its way from its own start to its own end.

    Args:
        model: an estimator, which is put back as it was if it does not come to that.
    """

    run: Training
    generator: Generator

    def __init__(self, model: BaseAutoencoder) -> None:
        self.model, self.unharmed = model, ExitStack()

    def begin(self, X: Any, **options: Any) -> None:
        """Make the run, and a generator of its noise."""
        device = resolve_device(self.model.device)
        self.unharmed.enter_context(self.model._unharmed())
        with seeded(self.model.seed, device) as seed:
            self.run = self.model._begin(X, device, seed, **options)
            cpu = device.type == "cpu"
            state = torch.get_rng_state() if cpu else torch.cuda.get_rng_state(device)
            self.generator = Generator(device).set_state(state)

    def finish(self) -> None:
        """End the run."""
        with self.unharmed, seeded(self.run.seed, self.run.device):
            self.run.end()
            self.model._finish(self.run)

    def abandon(self) -> None:
        """Put the model back, unless it is finished."""
        with suppress(ApartError), self.unharmed:
            raise ApartError


def train(members: Sequence[Member]) -> list[BaseAutoencoder]:
    """Train models of one shape at once; return those that broke down, as they were before.

    Raises:
        ApartError: they must be trained one after another.
    """
    if len(members) == 1:
        raise ApartError
    runs, models = [member.run for member in members], [member.model for member in members]
    lead, model = runs[0], models[0]
    for run in runs:
        refuse(run)
    joint = Joint(runs, [member.generator for member in members], numbers_of(models, lead.device))
    one = lead.source.take(torch.zeros(1, dtype=torch.long, device=lead.device))
    size = len(runs) * model.batch_size
    count = choose_threads(lead.net, one, size) if model.threads == "auto" else model.threads
    with (
        threads(count),
        products(model.precision),
        Callbacks(lead, displays(model.verbose)) as callbacks,
    ):
        joint.train(callbacks.epoch)
    for member, error in zip(members, joint.errors, strict=True):
        if error is None:
            member.finish()
        else:
            member.abandon()
    pairs = zip(models, joint.errors, strict=True)
    return [model for model, error in pairs if error is not None]


def refuse(run: Training) -> None:
    """Refuse a run whose steps are of several moves, or whose batches are of several shapes.

    Raises:
        ApartError: with the reason.
    """
    fields, defaults = run.model.fields(), run.model.defaults()
    if set_ := [name for name in sorted(ALONE) if fields[name] != defaults[name]]:
        raise ApartError(f"{set_[0]} is set")
    if run.model.precision == "float16":
        raise ApartError("in float16 each loss is scaled by itself")
    if len(run.optimizers) > 1:
        raise ApartError("a critic plays against the rest of each")
    if len(run.stages) > 1 or run.stage.net is not run.net:
        raise ApartError("they are trained in stages")
    if type(run.model).after_epoch is not BaseAutoencoder.after_epoch:
        raise ApartError("each acts by itself after an epoch")
    if type(run.source) is not InMemory:
        raise ApartError("their samples are linked")
    if run.source.trims and run.source.lengths is not None:
        raise ApartError("their batches are as long as the longest sequence of each")


def numbers_of(models: Sequence[BaseAutoencoder], device: torch.device) -> Numbers:
    """Return the fields that losses may read and in which models differ, ``(K,)`` each."""
    fields = [model.fields() for model in models]
    numbers: dict[str, Any] = {}
    for name, value in fields[0].items():
        each = [field[name] for field in fields]
        if name in OWN or all(other == value for other in each):
            continue
        if isinstance(value, dict):
            numbers[name] = {k: torch.tensor([e[k] for e in each], device=device) for k in value}
        else:
            numbers[name] = torch.tensor(each, device=device)
    return numbers


def key_of_fields(model: BaseAutoencoder) -> Hashable:
    """Return what models of one group share: their class, and their fields but for numbers."""
    fields = {name: blank(value) for name, value in model.fields().items() if name not in OWN}
    return type(model), repr(fields)


def blank(value: Any) -> Any:
    """Return a field's value without its numbers."""
    if isinstance(value, float):
        return float
    if isinstance(value, dict) and all(isinstance(part, float) for part in value.values()):
        return dict.fromkeys(value, float)
    return value


def key_of_shape(member: Member) -> Hashable:
    """Return what runs that can be one share: all but tensors' values and fields' numbers."""
    run, fields = member.run, member.model.fields()
    learned = {name: value for name, value in vars(member.model).items() if name not in fields}
    data = [source and forms(source.tensors()) for source in (run.source, run.validation)]
    return repr((outline(run.net), settled(learned), data, run.epochs))


def grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    """Return items of equal keys together, in their order."""
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())
