"""`compsgd plot`, and the figures behind it: lines, labels, limits and data, not pixels."""

import numpy as np
import pytest
from click.testing import CliRunner

from compsgd.errors import CompsgdError
from compsgd.history import write_histories
from compsgd.plots import Run, average_figure, curves_figure, usages_figure
from compsgd.plots.curves import metric_label
from compsgd.workers.commands.group import compsgd

EPOCHS, STEPS = 2, 6


def history(shift=0.0):
    return {
        "avg_epoch_loss_hist": [2.0, 1.0],
        "batch_acc_hist": [10.0 + shift, 20.0 + shift, 30.0 + shift],
        "batch_step_hist": [2, 4, 6],
        "bin_usage": np.tile([4, 0, 0, 0, 0, 0, 0, 0, 12], (STEPS, 1)),
        "test_acc_hist": [55.0, 65.0],
        "bytes_sent_hist": [1_000_000] * STEPS,
        "seconds_hist": [0.5] * STEPS,
        "diagnosis_step_hist": [3, 6],
        "cosine_hist": [0.5 + shift / 10, 0.25],
        "agreement_hist": np.array([[0.0, 0.4, 0.6], [0.0, 0.2, 0.8]]),
    }


def old(length=3):
    """As the original code wrote them."""
    return {"avg_epoch_loss_hist": [2.0, 1.0], "batch_acc_hist": list(range(length)),
            "bin_usage": np.empty(0)}  # fmt: skip


def points(figure, index=0):
    line = figure.axes[0].lines[index]
    return line.get_xdata().tolist(), line.get_ydata().tolist()


@pytest.mark.parametrize(
    ("metric", "x", "places"),
    [
        ("batch_acc_hist", "steps", [2, 4, 6]),
        ("batch_acc_hist", "epochs", [2 / 3, 4 / 3, 2]),
        ("batch_acc_hist", "seconds", [1, 2, 3]),
        ("batch_acc_hist", "bytes", [2, 4, 6]),
        ("test_acc_hist", "steps", [3, 6]),
        ("test_acc_hist", "epochs", [1, 2]),
        ("test_acc_hist", "bytes", [3, 6]),
        ("bytes_sent_hist", "steps", [1, 2, 3, 4, 5, 6]),
        ("cosine_hist", "steps", [3, 6]),
        ("cosine_hist", "bytes", [3, 6]),
    ],
)
def test_each_metric_over_each_x(metric, x, places):
    figure = curves_figure([Run("a", history())], metric, x=x)
    assert points(figure)[0] == pytest.approx(places)
    assert points(figure)[1] == history()[metric]
    (axis,) = figure.axes
    assert axis.get_ylabel() == metric_label(metric)
    assert {"steps": "step", "bytes": "MB"}.get(x, "") in axis.get_xlabel()


def test_lines_have_their_labels_beside_the_axis():
    figure = curves_figure(
        [Run("a", history()), Run("b", history(1))], "batch_acc_hist", title="t", x_label="rounds",
        y_label="%",
    )  # fmt: skip
    (axis,), (legend,) = figure.axes, figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b"]
    assert (figure.get_suptitle(), axis.get_xlabel(), axis.get_ylabel()) == ("t", "rounds", "%")
    assert points(figure, 1)[1] == [11, 21, 31]
    figure.draw_without_rendering()
    assert legend.get_window_extent().y1 <= axis.get_tightbbox().y0


def test_thousands_of_points_become_means_of_neighbours():
    long = history() | {"bytes_sent_hist": list(range(5000))}
    places, values = points(curves_figure([Run("a", long)], "bytes_sent_hist"))
    assert len(places) == 1000
    assert values[0] == pytest.approx(2.0)
    assert values[-1] == pytest.approx(4997.0)


def test_histories_that_do_not_say_when():
    figure = curves_figure([Run("a", old())], "batch_acc_hist", steps_between=100)
    assert points(figure) == ([100, 200, 300], [0, 1, 2])
    assert points(curves_figure([Run("a", old())], "avg_epoch_loss_hist", x="epochs"))[0] == [1, 2]
    for metric, x, reason in (
        ("batch_acc_hist", "steps", "--steps_between"),
        ("avg_epoch_loss_hist", "steps", "how many steps an epoch has"),
        ("test_acc_hist", "steps", "there is no metric test_acc_hist; there are avg_epoch"),
    ):
        with pytest.raises(CompsgdError, match=f"a: .*{reason}"):
            curves_figure([Run("a", old())], metric, x=x)


def test_histories_that_do_not_say_when_are_drawn_over_what_they_tell():
    for metric, place, values in (
        ("batch_acc_hist", "evaluation", [0, 1, 2]),
        ("avg_epoch_loss_hist", "epoch", [2, 1]),
    ):
        runs = [Run("a", old())]
        for figure in (curves_figure(runs, metric), average_figure([("a", runs)], metric)):
            assert figure.axes[0].get_xlabel() == place
            assert points(figure) == ([*range(1, len(values) + 1)], values)
    # Steps only where all tell them.
    both = [Run("a", history()), Run("b", old())]
    assert curves_figure(both, "batch_acc_hist").axes[0].get_xlabel() == "evaluation"
    only = [Run("a", {"avg_epoch_acc_hist": [50.0, 60.0]})]
    assert curves_figure(only, "avg_epoch_acc_hist").axes[0].get_xlabel() == "epoch"
    with pytest.raises(CompsgdError, match="b: there is no metric test_acc_hist"):
        curves_figure(both, "test_acc_hist")


def test_a_mean_over_files_and_the_band_around_it():
    runs = [Run(str(shift), history(shift)) for shift in (0, 1, 5)]
    figure = average_figure([("cell", runs)], "batch_acc_hist")
    assert points(figure) == ([2, 4, 6], [12, 22, 32])
    assert figure.legends[0].get_texts()[0].get_text() == "cell (mean of 3)"
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10, 35)
    with pytest.raises(CompsgdError, match="have 3 and 4 values"):
        average_figure([("cell", [Run("a", old()), Run("b", old(4))])], "batch_acc_hist",
                       steps_between=1)  # fmt: skip


def test_usages_in_a_grid():
    figure = usages_figure([Run(name, history()) for name in "abc"])
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_title() for axis in shown] == ["a", "b", "c"]
    assert all(axis.get_xlim() == (0, STEPS) and axis.get_ylim() == (0, 100) for axis in shown)
    with pytest.raises(CompsgdError, match="b: bin usage was not counted"):
        usages_figure([Run("a", history()), Run("b", old())])
    wide = history() | {"bin_usage": np.ones((STEPS, 33))}
    with pytest.raises(CompsgdError, match="9 and 33 levels"):
        usages_figure([Run("a", history()), Run("b", wide)])


@pytest.fixture
def logs(tmp_path):
    for name, shift in (("seed_1", 0), ("seed_2", 4)):
        (tmp_path / name).mkdir()
        cells = {(0.1, 1.0): history(shift), (0.2, 0.7): history(shift + 1)}
        write_histories(tmp_path / name / "histories.pkl", cells)
    return tmp_path


def run(logs, *arguments):
    return CliRunner().invoke(compsgd, ["plot", *arguments, "--log_dir", str(logs)])


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["curves", "seed_1", "seed_2", "--metric", "batch_acc_hist", "--key", "0.1,1"],
        ["average", "seed_*", "--metric", "test_acc_hist", "--x", "bytes"],
        ["usages", "seed_1", "--key", "0.2,0.7"],
        ["agreement", "seed_1", "seed_2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_write_figures(logs, arguments, ending):
    out = logs / f"figure.{ending}"
    result = run(logs, *arguments, "--out", str(out))
    assert (result.exit_code, result.output) == (0, f"{out}\n")
    head = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[ending]
    assert out.read_bytes().startswith(head)


def test_a_pattern_takes_histories_only(logs, monkeypatch):
    monkeypatch.chdir(logs)
    (logs / "seed_1.png").write_bytes(b"no pickle")
    result = run(logs, "curves", "seed_1*", "--metric", "batch_acc_hist", "--out", "x.png")
    assert (result.exit_code, result.output) == (0, "x.png\n")
    result = run(logs, "list", "seed_1.png")
    assert isinstance(result.exception, CompsgdError)


def test_list_says_what_a_file_holds(logs):
    result = run(logs, "list", str(logs / "seed_1" / "histories.pkl"))
    rows = [line.split() for line in result.output.splitlines()]
    assert rows[0] == ["seed_1"]
    assert ["0.1,1", "batch_acc_hist", "3", "30"] in rows
    assert ["0.2,0.7", "bin_usage", "6", "9", "columns"] in rows
    assert ["0.2,0.7", "agreement_hist", "2", "3", "columns"] in rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed_3", "--out", "x.png"], "seed_3 is neither a histories file nor an experiment in"),
        (["seed_1", "--out", "x.jpg"], "'--out': x.jpg must end in one of .png, .pdf, .svg"),
        (["seed_1", "--out", "no/x.png"], "'--out': no/x.png: there is no folder no"),
        (["seed_1", "--out", "x.png", "--key", "3"], "'3' is not LR,DECAY, as in 0.0001,0.7"),
        (["seed_1", "--out", "x.png", "--key", "3,1"], "--key 3,1: there are 0.1,1, 0.2,0.7"),
        (["seed_1", "--out", "x.png", "--label", "a"], "1 --label for 2 lines"),
        (["seed_1", "--out", "x.png", "--metric", "speed"], "there is no metric speed; there are"),
    ],
)
def test_mistakes_are_told_in_a_line(logs, arguments, message):
    result = run(logs, "curves", "--metric", "batch_acc_hist", *arguments)
    assert result.exit_code == 2
    assert message in result.output
