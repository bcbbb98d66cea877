"""Evaluation of fitted models: numbers beside PCA's, and the report."""

from narrows.evaluation.evaluate import Evaluation, evaluate
from narrows.evaluation.links import LinkEvaluation, evaluate_links, render_links
from narrows.evaluation.report import render

__all__ = [
    "Evaluation",
    "LinkEvaluation",
    "evaluate",
    "evaluate_links",
    "render",
    "render_links",
]
