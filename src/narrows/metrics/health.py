"""Health: what the history and the codes say about a training, in plain sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Diagnosis",
    "Finding",
    "Usage",
    "active_units",
    "book_usage",
    "dead_latents",
    "dependence",
    "diagnose",
    "fit_of_prior",
    "worth_of_code",
]

Array = NDArray[np.float32]
Level = Literal["good", "notice", "problem"]


@dataclass(frozen=True)
class Finding:
    """One sentence about the model's health, and what to do where something is wrong."""

    name: str
    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"[{self.level}] {self.text}" + (f" {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Usage:
    """How the training samples use the codebooks of a discrete code.

    Attributes:
        codes: number of codes in each codebook.
        used: how many of them occur in each, ``(books,)``.
        perplexity: exp(entropy) of each one's use, ``(books,)``: so many codes, used evenly, would
            say as much.
    """

    codes: int
    used: NDArray[np.intp]
    perplexity: NDArray[np.float64]


@dataclass(frozen=True)
class Diagnosis:
    """The findings, and the numbers behind them.

    Attributes:
        findings: what was found, problems first.
        variance: variance of each unit's code over the training samples, ``(units,)``.
        kl: mean KL of each unit in nats, ``(units,)``; empty for point codes.
        active: number of units that carry information.
        usage: use of the codebooks of a discrete code, else None.
    """

    findings: Sequence[Finding]
    variance: Array
    kl: Array = field(default_factory=lambda: np.zeros(0, np.float32))
    active: int = 0
    usage: Usage | None = None

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))

    def having(self, finding: Finding, *instead_of: str) -> "Diagnosis":
        """Return this with another finding, in its place or instead of those named."""
        kept = [other for other in self.findings if other.name not in instead_of]
        return replace(self, findings=sorted([*kept, finding], key=_rank))


def _rank(finding: Finding) -> int:
    return ("problem", "notice", "good").index(finding.level)


def active_units(codes: Array, threshold: float = 0.01) -> NDArray[np.bool_]:
    """Tell which units' posterior means vary: Var_x(E[z | x]) > threshold (Burda et al., 2016).

    Args:
        codes: ``(samples, units)``.
        threshold: of the variance, for a prior of variance 1.
    """
    active: NDArray[np.bool_] = codes.var(0) > threshold
    return active


def book_usage(indices: NDArray[np.int32], books: Sequence[int], codes: int) -> Usage:
    """Count which codes occur.

    Args:
        indices: integers of discrete codes, ``(samples, places)``.
        books: the codebook of each place.
        codes: number of codes in each codebook.
    """
    book = np.asarray(books)
    counts = np.stack(
        [
            np.bincount(indices[:, book == i].ravel(), minlength=codes)
            for i in range(max(books) + 1)
        ]
    )
    shares = counts / counts.sum(1, keepdims=True)
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)
    return Usage(codes, (counts > 0).sum(1), np.exp(entropy))


def diagnose(
    history: Sequence[dict[str, float]],
    codes: Array,
    unit_kl: Array | None = None,
    usage: Usage | None = None,
    epoch: int | None = None,
) -> Diagnosis:
    """Return the findings on a training.

    Args:
        history: one row an epoch.
        codes: deterministic codes of training samples, ``(samples, units)``.
        unit_kl: mean KL of each unit in nats, or None for point codes.
        usage: use of the codebooks, where the code is discrete.
        epoch: the one whose weights were kept; None for the last one.
    """
    variance = codes.var(0)
    threshold = 0.01 if unit_kl is not None else 1e-4 * float(variance.max(initial=1e-12))
    active = active_units(codes, threshold)
    first = _units(active, variational=unit_kl is not None) if usage is None else _books(usage)
    findings = [first, *_course(history, len(history) if epoch is None else epoch)]
    findings.sort(key=_rank)
    kl = np.zeros(0, np.float32) if unit_kl is None else unit_kl
    return Diagnosis(findings, variance, kl, int(active.sum()), usage)


def _books(usage: Usage) -> Finding:
    """Say how many codes are used, of the codebook that is used least where there are several."""
    worst, count = int(usage.used.argmin()), len(usage.used)
    used, codes = int(usage.used[worst]), usage.codes
    where = "the codebook" if count == 1 else f"codebook {worst + 1} of {count}"
    if used == 1:
        return Finding(
            "collapse",
            "problem",
            f"One code of {where} stands for all training samples: it carries nothing.",
            "Train longer, lower the learning rate, or use fewer of them.",
        )
    text = (
        f"{used} of the {codes} codes of {where} are used, {used / codes:.0%}; perplexity "
        f"{usage.perplexity[worst]:.4g}."
    )
    if used < 0.5 * codes:
        remedy = f"The other {codes - used} are dead: fewer would do, or SimVQ or FSQVAE, whose "
        return Finding("dead codes", "notice", text, remedy + "codes do not die.")
    return Finding("codes", "good", text)


def dead_latents(codes: Array, tolerated: float = 0.1) -> Finding:
    """Return the finding on the units of a sparse code that no training sample activates.

    Args:
        codes: ``(samples, units)``, 0 where a unit is silent.
        tolerated: share of dead units that is a notice, not a problem.
    """
    units, dead = codes.shape[1], int((codes == 0).all(0).sum())
    shown = f"{np.count_nonzero(codes, 1).mean():.3g} of {units} units are active in a sample"
    if not dead:
        return Finding("dead latents", "good", f"{shown}; none is dead.")
    text = f"{dead} of {units} units are dead: no training sample activates them."
    level: Level = "problem" if dead > tolerated * units else "notice"
    remedy = "Lower latent_dim, train longer, or raise revival where the model has it."
    return Finding("dead latents", level, text, remedy)


def worth_of_code(row: Mapping[str, float], free: bool, least: float = 0.05) -> Finding:
    """Return the finding on what a code adds to what passes beside it.

    Args:
        row: of the history, with the share of the data's variance that the code carries.
        free: whether all of x can pass beside it.
        least: the share below which the code is useless.
    """
    share = row.get("validation_code_share", row["code_share"])
    carried = f"it carries {max(share, 0):.0%} of the variance"
    remedy = "Lower skip_rank, so that less passes beside the code."
    if share < least:
        text = f"The code is useless: {carried}."
    elif free:
        text = f"The code is useless: {carried}, but all of x can pass beside it."
    else:
        return Finding("worth of the code", "good", f"The code is of use: {carried}.")
    return Finding("worth of the code", "problem", text, remedy)


def dependence(codes: Array) -> float:
    """Return the total correlation of a normal with the codes' correlations, in nats.

    What independent units would show in so few samples, about d (d - 1) / 4n, is taken off.
    A unit that follows from others adds about 7 nats.

    Args:
        codes: ``(samples, units)``.
    """
    varying = codes[:, active_units(codes)].astype(np.float64)
    n, d = varying.shape
    if d < 2 or n <= d:
        return 0.0
    volume = np.linalg.slogdet(np.corrcoef(varying.T) + 1e-6 * np.eye(d)).logabsdet
    return max(0.0, float(-0.5 * volume - d * (d - 1) / (4 * n)))


def fit_of_prior(codes: Array, most: float = 1.0, learnable: bool = True) -> Finding:
    """Return the finding on how well independent normal units stand for the codes.

    Args:
        codes: posterior means, ``(samples, units)``.
        most: dependence of the units, in nats, up to which they do.
        learnable: whether a model whose prior learns takes such data.
    """
    nats = dependence(codes)
    text = f"The units of the code depend on one another by {nats:.1f} nats"
    if nats <= most:
        return Finding("prior", "good", f"{text}: the prior stands for the codes.")
    remedy = "Sample with density=True"
    remedy += ", or use VampPriorVAE, whose prior learns." if learnable else "."
    return Finding(
        "prior",
        "notice",
        f"{text}, of which the prior knows nothing: its samples will look less like the data.",
        remedy,
    )


def _units(active: NDArray[np.bool_], variational: bool) -> Finding:
    units, used = len(active), int(active.sum())
    if used == 0:
        remedy = (
            "Lower beta, set free_bits, or use scale='optimal' where the likelihood's is too wide."
            if variational
            else "Lower the penalties or the learning rate, or train longer."
        )
        return Finding(
            "collapse", "problem", f"The code collapsed: none of {units} units varies.", remedy
        )
    if used < units:
        text = f"{used} of {units} units of the code are active; the rest carry nothing."
        remedy = f"latent_dim={used} would do as well" + (" at this beta." if variational else ".")
        return Finding("unused units", "notice", text, remedy)
    text = f"All {units} units" if units > 1 else "The one unit"
    return Finding("units", "good", f"{text} of the code {'are' if units > 1 else 'is'} active.")


def _course(history: Sequence[dict[str, float]], kept: int) -> list[Finding]:
    """Read over- and underfitting off the curves of the mean squared error up to an epoch."""
    findings = []
    if kept < len(history):
        text = f"The weights are those of epoch {kept}, the best of {len(history)}."
        findings.append(Finding("early stopping", "good", text))
    rows = history[:kept]
    train = np.array([row["mse"] for row in rows if "mse" in row])
    held = np.array([row["validation_mse"] for row in rows if "validation_mse" in row])
    tail = max(1, len(train) // 10)
    if kept == len(history) and len(train) >= 10 and train[-1] < 0.97 * train[-1 - tail]:
        fall = 1 - train[-1] / train[-1 - tail]
        text = f"The error still fell by {fall:.0%} in the last {tail} epochs."
        findings.append(Finding("underfitting", "notice", text, "More epochs would improve it."))
    if len(held):
        least = max(held.min(), 1e-4 * held.max(), 1e-12)  # an error of symbols may be 0
        rise, gap = held[-1] / least - 1, held[-1] / max(train[-1], 1e-12)
        fell = train[-1] < train[held.argmin()]  # a rising price of the code raises both errors
        if rise > 0.1 and fell:
            text = (
                f"Overfitting: the held-out error rose by {rise:.0%} after its best at epoch "
                f"{len(rows) - len(held) + int(held.argmin()) + 1}."
            )
            remedy = "Set patience to stop there, or use dropout, more data or a smaller net."
            findings.append(Finding("overfitting", "problem", text, remedy))
        elif gap > 1.5:
            text = f"The held-out error is {gap:.1f} times the training error."
            remedy = "More data, dropout or a smaller net would narrow the gap."
            findings.append(Finding("generalisation", "notice", text, remedy))
        else:
            text = f"The held-out error is {gap:.2f} times the training error: no overfitting."
            findings.append(Finding("generalisation", "good", text))
    return findings
