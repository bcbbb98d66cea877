"""An ensemble: many models of one kind, trained at once, that answer as one."""

__all__ = ["Ensemble"]

class Ensemble: ...
