"""Evaluation of fitted models: numbers beside PCA's, and the report."""

from narrows.evaluation.evaluate import Evaluation, evaluate
from narrows.evaluation.link_report import render_links
from narrows.evaluation.links import LinkEvaluation, evaluate_links
from narrows.evaluation.report import render

__all__ = [
    "Evaluation",
    "LinkEvaluation",
    "evaluate",
    "evaluate_links",
    "render",
    "render_links",
]
