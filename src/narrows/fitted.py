"""What a fitted estimator does: codes, reconstructions, scores, samples, findings."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils._set_output import _get_output_config
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from narrows.assembly import likelihood_of
from narrows.data.arrays import as_matrix
from narrows.data.modalities import Graph, Modality
from narrows.data.sources import EVEN, SLICE, Batch, InMemory
from narrows.density import CodePrior, Mixture
from narrows.errors import DataError, ParameterError
from narrows.metrics.health import Diagnosis, book_usage, dead_latents, diagnose, fit_of_prior
from narrows.net import Net
from narrows.parts.generation import Plan
from narrows.parts.latents import DiagonalGaussian, Distribution
from narrows.parts.likelihoods import LIKELIHOODS
from narrows.runtime import seeded
from narrows.settings import Settings

__all__ = ["Array", "Codes", "Fitted"]

Array = NDArray[np.float32]
Codes = NDArray[Any]
"""Codes as they are remembered: float32, or the integers of discrete ones."""


class Fitted(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Settings):
    """An estimator by what it does once it has learned; `BaseAutoencoder` learns."""

    told = True
    """Whether encoder and decoder are told the condition of a sample, where there is one."""

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
        codes = as_matrix(Z, type(self).__name__, name="Z").astype(np.float32)
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
        _check_whole("sample", "n", n, 1)
        if seed is not None:
            _check_whole("sample", "seed", seed, 0)
        latent = self.net_.latent
        prior = None if latent.categories else latent.prior()
        if prior is None and density is False:
            raise ParameterError(
                f"{type(self).__name__} has no prior to sample from. Leave density at None."
            )
        if condition is not None and density and not self.told:
            raise ParameterError(
                "density=True draws codes from a density that knows no labels. Leave `condition` "
                "at None, or `density`."
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
        """Return `steps` samples from a to b along the shortest line between their codes.

        Args:
            a: one sample, without or with a first axis of length 1.
            b: another.
            steps: how many samples, with the reconstructions of a and b at the ends.
        """
        check_is_fitted(self)
        _check_whole("interpolate", "steps", steps, 2)
        ends = [self.modality_.as_batch(sample) for sample in (a, b)]
        start, end = (self._map(X, self.net_.place) for X in ends)
        if len(start) != 1 or len(end) != 1:
            raise ParameterError(
                f"interpolate goes from one sample to another. Got {len(start)} and {len(end)} "
                "samples."
            )
        way = torch.linspace(0, 1, steps)[:, None]
        shape = self.net_.latent.code_shape
        width = int(np.prod(shape))
        codes = self.net_.latent.between(start[:, :width], end[:, :width], way)
        wanted = ((1 - way) * start + way * end)[:, width:]
        given = wanted if wanted.numel() else None
        out = self._decode(codes.reshape(-1, *shape), given)
        return self.modality_.explained.decode(out, condition=given)

    def diagnose(self) -> Diagnosis:
        """Return what training did to the code and the losses, as findings in plain sentences."""
        check_is_fitted(self)
        epoch = self.best_epoch_
        if not (categories := self.net_.latent.categories):
            found = diagnose(self.history_, self.codes_, self.unit_kl_, epoch=epoch)
            if self.net_.latent.sparse:
                return found.having(dead_latents(self.codes_), "units", "unused units")
            if not found.active or not isinstance(self.net_.latent.prior(), DiagonalGaussian):
                return found
            vamp = not (self.modality_.symbols or isinstance(self.modality_, Graph))
            return found.having(fit_of_prior(self.codes_, learnable=vamp))
        codes = self._unpacked(torch.from_numpy(self.codes_)).flatten(1).numpy()
        usage = book_usage(self.codes_, self.net_.latent.books, categories)
        return diagnose(self.history_, codes, usage=usage, epoch=epoch)

    # -- what a variant may override -----------------------------------------------------------

    def plan(self, noise: bool = False) -> Plan:
        """Return how decoders of sequences run on by themselves."""
        return Plan(noise)

    # -- behind the scenes ---------------------------------------------------------------------

    def _learned(
        self,
        fields: dict[str, Any],
        modality: Modality,
        net: Net,
        *,
        history: list[dict[str, float]],
        best_epoch: int,
        codes: Codes,
        unit_kl: Array | None,
    ) -> None:
        """Set the fitted attributes."""
        self._fitted_fields = fields
        self.__dict__.pop("_density", None)
        self.modality_, self.net_, self.history_ = modality, net, history
        self.n_iter_, self.best_epoch_ = len(history), best_epoch
        self.codes_, self.unit_kl_ = codes, unit_kl
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
        if LIKELIHOODS[likelihood_of(self, self.modality_)].support == "unit":
            source.clamp(0, 1)
        return self._slices(source, function)

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
        self,
        source: InMemory,
        function: Callable[[Batch], Tensor],
        rows: Tensor | None = None,
    ) -> Tensor:
        """Apply a function of a batch to these samples of a source, or to all."""
        self.net_.eval()
        device = self._device()
        size = self.modality_.at_once // self.net_.copies(source.known) // EVEN * EVEN
        passes = source.passes(rows, max(EVEN, size), EVEN)
        parts = (function(batch.to(device))[kept] for batch, kept in passes)
        return gathered(parts, len(source) if rows is None else len(rows))

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

        def parts() -> Iterator[Tensor]:
            for rows in torch.arange(len(codes)).split(self.modality_.at_once):
                own = plan if lengths is None else replace(plan, lengths=lengths[rows.to(device)])
                context = () if condition is None else (condition[rows].to(device),)
                yield self.net_.generate(codes[rows].to(device), own, *context)

        return gathered(parts(), len(codes))

    def _device(self) -> torch.device:
        return self.net_.progress.device


def gathered(parts: Iterator[Tensor], n: int) -> Tensor:
    """Return n rows that come in parts, in float32 on the CPU.

    They are written to one block as they come: memory of its own for each part, and then for the
    whole, would take as long as making them. NumPy asks for huge pages, torch does not.
    """
    first = next(parts)
    whole, done = torch.from_numpy(np.empty((n, *first.shape[1:]), np.float32)), 0
    for part in chain([first], parts):
        whole[done : done + len(part)] = part
        done += len(part)
    return whole


def _check_whole(method: str, name: str, value: Any, least: int) -> None:
    """Refuse what is no whole number, or too small."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ParameterError(f"{method} needs an int {name} ≥ {least}. Got {value!r} instead.")
