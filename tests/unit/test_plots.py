"""What the figures draw: lines, labels, limits and data, not pixels."""

import itertools

import numpy as np
import pytest

from compsgd.errors import CompsgdError
from compsgd.plots import (
    RatePoint,
    Run,
    agreement_figure,
    average_figure,
    compression_figure,
    curves_figure,
    mean_majority_figure,
    mean_usage_figure,
    usages_figure,
)
from compsgd.plots.curves import X_LABELS, metric_label
from compsgd.plots.experiment import (
    COSINE,
    CURVES,
    PLOT_NAMES,
    TEXT_CURVES,
    curve_figure,
    draw_experiment,
)

EPOCHS, STEPS = 2, 6


def history(scale=1.0, counted=True):
    return {
        "avg_epoch_loss_hist": [2.0 * scale, 1.0 * scale],
        "avg_epoch_acc_hist": [50.0, 60.0],
        "batch_loss_hist": [1.0, 2.0, 3.0],
        "batch_acc_hist": [10.0, 20.0, 30.0],
        "batch_step_hist": [2, 4, 6],
        "bin_usage": np.tile([4, 0, 0, 0, 0, 0, 0, 0, 12], (STEPS, 1)) if counted else np.empty(0),
        "test_loss_hist": [2.0, 1.0],
        "test_acc_hist": [55.0, 65.0],
        "bytes_sent_hist": [1_000_000] * STEPS,
        "seconds_hist": [0.1] * STEPS,
    }


def text_history():
    accuracies = {"avg_epoch_acc_hist", "batch_acc_hist", "test_acc_hist"}
    return {name: values for name, values in history().items() if name not in accuracies} | {
        "avg_epoch_perplexity_hist": [7.4, 2.7],
        "batch_perplexity_hist": [2.7, 7.4, 20.1],
        "test_perplexity_hist": [7.4, 2.7],
    }


CELLS = {(0.1, 1.0): history(), (0.2, 1.0): history(3.0), (0.3, 1.0): history(counted=False)}
LABELS = {cell: f"lr {cell[0]}" for cell in CELLS}
EXPECTED = {
    "avg_epoch_loss.png": ([1, 2], [2, 1]),
    "avg_epoch_acc.png": ([1, 2], [50, 60]),
    "batch_loss.png": ([2, 4, 6], [1, 2, 3]),
    "batch_acc.png": ([2, 4, 6], [10, 20, 30]),
    "test_acc_by_bytes.png": ([3, 6], [55, 65]),
}


@pytest.mark.parametrize("plot", CURVES, ids=lambda plot: plot.file_name)
def test_curves_in_one_axis(plot):
    figure = curve_figure(CELLS, LABELS, plot, "run", one_axis=True)
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == list(LABELS.values())
    x, y = EXPECTED[plot.file_name]
    assert axis.lines[0].get_xdata().tolist() == x
    assert axis.lines[0].get_ydata().tolist() == y
    assert len({(line.get_color(), line.get_linestyle()) for line in axis.lines}) == len(CELLS)
    assert axis.get_xlabel() == X_LABELS[plot.x]
    assert axis.get_ylabel() == metric_label(plot.metric)
    assert "run" in figure.get_suptitle()
    assert axis.get_legend() is None
    (legend,) = figure.legends
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= axis.get_tightbbox().y0
    assert_nothing_is_clipped(figure)


@pytest.mark.parametrize("plot", CURVES, ids=lambda plot: plot.file_name)
def test_curves_in_an_axis_each(plot):
    figure = curve_figure(CELLS, LABELS, plot, "run", one_axis=False)
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == list(LABELS.values())
    assert [len(axis.lines) for axis in shown] == [1] * len(CELLS)
    # Side by side they have one scale, and say once what it is.
    assert len({axis.get_ylim() for axis in shown}) == 1
    assert len({axis.get_xlim() for axis in shown}) == 1
    values = [value for axis in shown for line in axis.lines for value in line.get_ydata()]
    assert shown[0].get_ylim()[0] <= min(values) <= max(values) <= shown[0].get_ylim()[1]
    assert {" ".join(axis.get_xlabel().split()) for axis in shown} == {X_LABELS[plot.x]}
    assert [axis.get_ylabel() for axis in shown] == [metric_label(plot.metric), "", ""]
    assert_nothing_is_clipped(figure)


SWEEP = {
    (lr, decay): history(10 * lr) | {"bytes_sent_hist": [123_456_789] * STEPS}
    for lr in (0.0001, 0.0003, 0.001)
    for decay in (0.5, 0.99)
}
SWEEP_LABELS = {(lr, decay): f"lr {lr:g}, decay {decay:g}" for lr, decay in SWEEP}
LONG_TITLE = "compressed_sgd_vote, vanilla_cnn on FashionMNIST, 3 bits, 4 workers, batches of 512"


@pytest.mark.parametrize("plot", CURVES, ids=lambda plot: plot.file_name)
@pytest.mark.parametrize("one_axis", [True, False])
def test_a_sweep_of_six_cells_fits_its_figure(plot, one_axis):
    figure = curve_figure(SWEEP, SWEEP_LABELS, plot, LONG_TITLE, one_axis)
    assert_nothing_is_clipped(figure)
    rows = {}
    for axis in figure.axes:
        names = [one for one in axis.get_xticklabels() if one.get_visible() and one.get_text()]
        rows.setdefault(round(axis.get_position().y0, 3), []).extend(
            one.get_window_extent() for one in names
        )
    for row in rows.values():
        boxes = sorted(row, key=lambda box: box.x0)
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("plot", [*CURVES, COSINE], ids=lambda plot: plot.file_name)
def test_labels_of_one_row_of_a_grid_keep_out_of_the_next(plot):
    cells = {cell: one | diagnosed() for cell, one in SWEEP.items()}
    figure = curve_figure(cells, SWEEP_LABELS, plot, LONG_TITLE, one_axis=False)
    figure.draw_without_rendering()
    labels = [axis.yaxis.label.get_window_extent() for axis in figure.axes if axis.get_ylabel()]
    assert len(labels) == 2
    boxes = sorted(labels, key=lambda box: box.y0)
    assert all(below.y1 < above.y0 for below, above in itertools.pairwise(boxes))


def assert_nothing_is_clipped(figure):
    figure.draw_without_rendering()
    page, whole = figure.get_tightbbox(), figure.bbox_inches
    assert page.x0 >= -0.01
    assert page.y0 >= -0.01
    assert page.x1 <= whole.x1 + 0.01
    assert page.y1 <= whole.y1 + 0.01


@pytest.mark.parametrize("num_bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("count", [1, 3, 6])
def test_a_legend_of_levels_fits_its_figure(num_bits, count):
    runs = [
        Run(f"experiment_{i}, lr 0.0001, decay 0.{i}", {"bin_usage": np.ones((4, 2**num_bits + 1))})
        for i in range(count)
    ]
    assert_nothing_is_clipped(usages_figure(runs, title=LONG_TITLE))


def test_legends_and_titles_of_any_length_fit():
    for words in (
        "short",
        "a label of many words " * 4,
        "one_word_that_never_ends" * 5,
        "mmm " * 30,
    ):
        runs = [Run(f"{words}{i}", history()) for i in range(7)]
        assert_nothing_is_clipped(curves_figure(runs, "test_acc_hist", title=words))


def test_of_one_epoch_the_ticks_are_whole_numbers():
    one = history() | {"avg_epoch_acc_hist": [50.0]}
    for figure in (
        curves_figure([Run("a", one)], "avg_epoch_acc_hist", x="epochs"),
        average_figure([("a", [Run("a", one)])], "avg_epoch_acc_hist", x="epochs"),
    ):
        (axis,) = figure.axes
        low, high = axis.get_xlim()
        assert [tick for tick in axis.get_xticks() if low <= tick <= high] == [1]


def usage_of(cells):
    return usages_figure([Run(LABELS[cell], one) for cell, one in cells.items()], title="run")


COUNTED = {cell: one for cell, one in CELLS.items() if one["bin_usage"].ndim == 2}


def test_usage_is_stacked_to_all_elements():
    figure = usage_of(COUNTED)
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["lr 0.1", "lr 0.2"]
    top = shown[0].collections[-1].get_paths()[0].vertices
    assert top[:, 1].max() == pytest.approx(100)
    assert top[:, 1].min() == pytest.approx(25)
    assert shown[0].get_xlim() == (0, STEPS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "-4", "-3", "-2", "-1", "0", "+1", "+2", "+3", "+4",
    ]  # fmt: skip


@pytest.mark.parametrize("num_bits", [5, 8])
def test_a_legend_of_many_levels_names_a_few(num_bits):
    many = history() | {"bin_usage": np.ones((STEPS, 2**num_bits + 1))}
    figure = usage_of({(0.1, 1.0): many})
    largest = 2 ** (num_bits - 1)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [int(name) for name in names] == [-largest, -largest // 2, 0, largest // 2, largest]


def test_usage_in_one_axis_is_a_line_a_cell():
    figure = mean_usage_figure([Run(LABELS[cell], one) for cell, one in COUNTED.items()])
    lines = figure.axes[0].lines
    assert [line.get_label() for line in lines] == ["lr 0.1", "lr 0.2"]
    assert lines[0].get_ydata().tolist() == [25, 0, 0, 0, 0, 0, 0, 0, 75]


def test_there_is_no_figure_of_what_was_not_counted_or_has_no_values(tmp_path):
    nothing = {"batch_loss_hist": [], "batch_acc_hist": [], "batch_step_hist": []}
    bare = history(counted=False) | nothing
    paths = draw_experiment({(0.1, 1.0): bare}, LABELS, tmp_path, title="run", one_axis=True)
    names = {path.name for path in paths}
    assert not names & {"bin_usage.png", "batch_loss.png", "batch_acc.png", "cosine.png"}
    assert "avg_epoch_loss.png" in names
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_many_steps_are_averaged():
    long = history() | {"bin_usage": np.tile([1, 0, 3], (10_001, 1))}
    figure = usage_of({(0.1, 1.0): long})
    (axis,) = figure.axes
    assert len(axis.collections[0].get_paths()[0].vertices) < 2000
    assert axis.get_xlim() == (0, 10_001)


@pytest.mark.parametrize("one_axis", [True, False])
def test_every_figure_is_written(tmp_path, one_axis):
    paths = draw_experiment(CELLS, LABELS, tmp_path, title="run", one_axis=one_axis)
    assert len(paths) == 6
    assert sorted(paths) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize("one_axis", [True, False])
def test_text_has_perplexity_in_place_of_accuracy(tmp_path, one_axis):
    cells = {cell: text_history() for cell in CELLS}
    paths = draw_experiment(cells, LABELS, tmp_path, title="run", one_axis=one_axis)
    assert sorted(path.name for path in paths) == [
        "avg_epoch_loss.png", "avg_epoch_perplexity.png", "batch_loss.png",
        "batch_perplexity.png", "bin_usage.png", "test_loss_by_bytes.png",
    ]  # fmt: skip
    assert {path.name for path in paths} < set(PLOT_NAMES)
    plot = TEXT_CURVES[-1]
    (axis,) = curve_figure(cells, LABELS, plot, "run", one_axis=True).axes
    assert axis.lines[0].get_ydata().tolist() == [2, 1]
    assert axis.get_ylabel() == "test loss (nats)"
    assert metric_label("avg_epoch_perplexity_hist") == "avg epoch perplexity"


def test_compression_rates_against_accuracy():
    lines = {
        "one": [RatePoint("3 bits", 32 / 3, 90.0), RatePoint("8 bits", 4.0, 95.0)],
        "two": [RatePoint("3 bits", 32 / 3, 92.0)],
    }
    figure = compression_figure(lines, title="Rates", y_label="accuracy")
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["one", "two"]
    assert axis.lines[0].get_xdata().tolist() == [4, 32 / 3]
    assert axis.lines[0].get_ydata().tolist() == [95, 90]
    # A label shared by points of several lines is written once, at the highest.
    assert {text.get_text(): text.xy for text in axis.texts} == {
        "3 bits": (32 / 3, 92),
        "8 bits": (4, 95),
    }
    assert (figure.get_suptitle(), axis.get_ylabel()) == ("Rates", "accuracy")
    assert axis.get_xscale() == "log"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


AGREEMENT = np.array([[0.0, 0.5, 0.3, 0.2], [0.0, 0.1, 0.3, 0.6], [0.0, 0.0, 0.0, 1.0]])


def diagnosed(shares=AGREEMENT):
    steps = [10 * i for i in range(1, len(shares) + 1)]
    cosines = np.linspace(0.9, 0.7, len(shares)).tolist()
    return history() | {
        "diagnosis_step_hist": steps, "cosine_hist": cosines, "agreement_hist": shares
    }  # fmt: skip


def test_agreement_is_stacked_by_the_size_of_the_majority():
    figure = agreement_figure([Run("a", diagnosed()), Run("b", diagnosed())], title="t")
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["a", "b"]
    for axis in shown:
        # Half of the four ballots at least; a diagnosis stands for the steps before it.
        bands = [band.get_paths()[0].vertices for band in axis.collections]
        assert len(bands) == 3
        for band, bounds in zip(bands, ([0, 50], [50, 80], [80, 100]), strict=True):
            first = band[band[:, 0] == 0]
            assert sorted({round(y, 9) for y in first[:, 1]}) == bounds
        assert (axis.get_xlim(), axis.get_ylim()) == ((0, 30), (0, 100))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "majority of 2", "majority of 3", "majority of 4"
    ]  # fmt: skip
    assert [axis.get_xlabel() for axis in shown] == ["step"] * 2
    assert [axis.get_ylabel() for axis in shown] == ["elements (%)", ""]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= min(a.get_tightbbox().y0 for a in shown)
    assert_nothing_is_clipped(figure)


@pytest.mark.parametrize("draw", [agreement_figure, mean_majority_figure])
def test_rounds_in_which_fewer_workers_vote_are_left_out_and_told_of(draw):
    striped = np.insert(AGREEMENT, [1, 3], [0.0, 0.5, 0.5, 0.0], axis=0)
    figure = draw([Run("a", diagnosed(striped))], title="t")
    note = "without 2 of 5 rounds, in which fewer workers had a batch"
    assert " ".join(figure.get_suptitle().split()) == f"t {note}"
    (axis,) = figure.axes
    if draw is mean_majority_figure:
        assert axis.lines[0].get_xdata().tolist() == [10, 30, 40]
    else:
        assert {x for band in axis.collections for x, _ in band.get_paths()[0].vertices} == {
            0, 10, 30, 40,
        }  # fmt: skip
    assert_nothing_is_clipped(figure)
    assert "without" not in draw([Run("a", diagnosed())], title="t").get_suptitle()


def test_agreement_in_one_axis_is_the_mean_majority():
    figure = mean_majority_figure([Run("a", diagnosed()), Run("b", diagnosed(AGREEMENT[:1]))])
    (axis,) = figure.axes
    assert [line.get_label() for line in axis.lines] == ["a", "b"]
    assert axis.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axis.lines[0].get_ydata() == pytest.approx([2.7, 3.5, 4.0])
    assert axis.get_ylabel() == "mean majority (ballots)"


def test_thousands_of_diagnoses_of_many_workers():
    many = np.tile(np.eye(64)[31:].mean(axis=0), (10_001, 1))
    figure = agreement_figure([Run("a", diagnosed(many))])
    (axis,) = figure.axes
    assert len(axis.collections) == 33
    assert len(axis.collections[0].get_paths()[0].vertices) < 2000
    assert axis.get_xlim() == (0, 100_010)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [f"majority of {size}" for size in (32, 40, 48, 56, 64)]


@pytest.mark.parametrize("draw", [agreement_figure, mean_majority_figure])
def test_agreement_that_was_not_recorded(draw):
    for empty in (history(), diagnosed(np.empty((0, 4))), diagnosed(np.empty(0))):
        with pytest.raises(CompsgdError, match="b: agreement was not recorded"):
            draw([Run("a", diagnosed()), Run("b", empty)])


def test_agreement_of_different_numbers_of_workers():
    wide = diagnosed(np.tile([0, 0, 0, 0, 0.5, 0.5], (2, 1)))
    with pytest.raises(CompsgdError, match="4 and 6 workers"):
        agreement_figure([Run("a", diagnosed()), Run("b", wide)])


def test_the_direction_of_the_update():
    figure = curve_figure({(0.1, 1.0): diagnosed()}, LABELS, COSINE, "run", one_axis=True)
    (axis,) = figure.axes
    assert axis.lines[0].get_xdata().tolist() == [10, 20, 30]
    assert axis.lines[0].get_ydata() == pytest.approx([0.9, 0.8, 0.7])
    assert axis.get_ylabel() == "cosine to the mean gradient"
    # All that a cosine may be: what is cut off makes little look like much.
    assert axis.get_ylim() == (0, 1)
    against = diagnosed() | {"cosine_hist": [0.2, -0.1, 0.1]}
    figure = curve_figure({(0.1, 1.0): against}, LABELS, COSINE, "run", one_axis=True)
    assert figure.axes[0].get_ylim() == (-1, 1)


@pytest.mark.parametrize("one_axis", [True, False])
def test_a_diagnosis_adds_two_figures(tmp_path, one_axis):
    cells = {(0.1, 1.0): diagnosed(), (0.2, 1.0): diagnosed()}
    paths = draw_experiment(cells, LABELS, tmp_path, title="run", one_axis=one_axis)
    added = {COSINE.file_name, "agreement.png"}
    names = {plot.file_name for plot in CURVES} | {"bin_usage.png"} | added
    assert {path.name for path in paths} == names <= set(PLOT_NAMES)
    assert sorted(paths) == sorted(tmp_path.iterdir())


def test_a_curve_of_thousands_of_steps_is_thinned():
    long = history() | {
        "batch_loss_hist": list(range(5000)), "batch_step_hist": list(range(1, 5001))
    }  # fmt: skip
    plot = next(plot for plot in CURVES if plot.file_name == "batch_loss.png")
    figure = curve_figure({(0.1, 1.0): long}, LABELS, plot, "run", one_axis=False)
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) == 1000
    assert line.get_xdata()[0] == pytest.approx(3.0)
