"""Histories and benchmarks to figures."""

import compsgd.plots.any_backend  # noqa: F401  before matplotlib is imported
from compsgd.plots.agreement import agreement_figure, mean_majority_figure
from compsgd.plots.bandwidths import bandwidth_figure
from compsgd.plots.benchmark import draw_codec_benchmark
from compsgd.plots.compression import RatePoint, compression_figure
from compsgd.plots.curves import Run, average_figure, curves_figure
from compsgd.plots.experiment import PLOT_NAMES, draw_experiment, experiment_figures
from compsgd.plots.style import save_figure, write_figure
from compsgd.plots.usages import mean_usage_figure, usages_figure

__all__ = [
    "PLOT_NAMES",
    "RatePoint",
    "Run",
    "agreement_figure",
    "average_figure",
    "bandwidth_figure",
    "compression_figure",
    "curves_figure",
    "draw_codec_benchmark",
    "draw_experiment",
    "experiment_figures",
    "mean_majority_figure",
    "mean_usage_figure",
    "save_figure",
    "usages_figure",
    "write_figure",
]
