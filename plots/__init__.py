"""Histories to figures."""

from compsgd.plots.experiment import draw_experiment

__all__ = ["draw_experiment"]
