"""Processes that train one model together, each on its part of every batch."""

from narrows.distributed.processes import Processes, join, leads

__all__ = ["Processes", "join", "leads"]
