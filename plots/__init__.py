"""Histories and benchmarks to figures."""

from compsgd.plots.benchmark import draw_codec_benchmark
from compsgd.plots.experiment import PLOT_NAMES, draw_experiment

__all__ = ["PLOT_NAMES", "draw_codec_benchmark", "draw_experiment"]
