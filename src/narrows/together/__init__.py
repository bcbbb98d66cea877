"""Many small models at once: those of one shape train as one, on a first axis of their tensors."""

from narrows.together.ensemble import Ensemble
from narrows.together.fit import fit_together

__all__ = ["Ensemble", "fit_together"]
