"""Histories to figures."""

from compsgd.plots.experiment import PLOT_NAMES, draw_experiment

__all__ = ["PLOT_NAMES", "draw_experiment"]
