"""Evaluation of fitted models: numbers beside PCA's, and the report."""

from narrows.evaluation.evaluate import Evaluation, evaluate
from narrows.evaluation.report import render

__all__ = ["Evaluation", "evaluate", "render"]
