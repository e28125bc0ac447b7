"""The scripts of the published experiments: what they run, compare and draw."""

import json
import re
import signal
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner
from processes import ROOT, run_command, started_command
from shared_files import SHARED

from compsgd.history import write_histories
from compsgd.workers.bench.provenance import footer, here_today
from compsgd.workers.commands.cli import train as train_command

SCRIPTS = ROOT / "scripts" / "reproduce"
sys.path.insert(0, str(SCRIPTS))

import bin_usages  # noqa: E402
import binnings  # noqa: E402
import compression  # noqa: E402
import decays  # noqa: E402
import learning_rates  # noqa: E402
import many_bits  # noqa: E402
import methods  # noqa: E402
import num_workers  # noqa: E402
import one_bit  # noqa: E402
import run_all  # noqa: E402
from cells import FULL, GRIDS, PUBLISHED_SEED, SHORT, Cell, Contrast, Family, Training  # noqa: E402
from figures import family_figure  # noqa: E402
from reproducing import command, in_turns  # noqa: E402
from running import Laboratory, missing  # noqa: E402
from tables import as_markdown, cells_table, contrasts_table  # noqa: E402

FAMILY_SCRIPTS = (bin_usages, binnings, compression, decays, learning_rates, many_bits, methods,
                  num_workers, one_bit)  # fmt: skip
BY_NAME = {family.name: family for family in run_all.FAMILIES}
PUBLISHED = {name: family for name, family in BY_NAME.items() if name != "compression"}
COMPARED = {name: family for name, family in PUBLISHED.items() if name != "bin_usages"}


def first_word(text):
    return re.match(r"\w*", text).group().lower()


def labels(family, grid):
    return {cell.label for cell in family.chosen(grid)}


def test_all_scripts_are_in_run_all():
    assert {family for script in FAMILY_SCRIPTS for family in script.FAMILIES} == set(
        run_all.FAMILIES
    )
    scripts = {
        path.stem for path in SCRIPTS.glob("*.py") if "__main__" in path.read_text()
    } - {"run_all"}  # fmt: skip
    assert scripts == {script.__name__ for script in FAMILY_SCRIPTS}


@pytest.mark.parametrize("name", COMPARED)
def test_the_short_grid_has_the_best_and_the_worst_cell_and_the_claim(name):
    family = COMPARED[name]
    of_the_seed = [cell for cell in family.cells if cell.training.seed == PUBLISHED_SEED]
    short = [cell.published[0] for cell in family.chosen(SHORT)]
    assert max(cell.published[0] for cell in of_the_seed) in short
    assert min(cell.published[0] for cell in of_the_seed) in short
    assert any({one.more, one.less} <= labels(family, SHORT) for one in family.contrasts)


@pytest.mark.parametrize("name", BY_NAME)
def test_contrasts_are_between_cells_and_labels_are_unique(name):
    family = BY_NAME[name]
    assert len(labels(family, FULL)) == len(family.cells)
    for one in family.contrasts:
        assert {one.more, one.less} <= labels(family, FULL)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers_are_those_of_the_reference(name):
    reference = SHARED / "reference" / "published.md"
    if not reference.is_file():
        pytest.skip(f"there is no {reference}")
    family = PUBLISHED[name]
    sections = re.split(r"^## ", reference.read_text(), flags=re.MULTILINE)
    (section,) = [one for one in sections if first_word(one) == first_word(family.source)]
    for cell in family.cells:
        decimals = 1 if len(cell.published) > 1 else 2
        text = " | ".join(f"{number:.{decimals}f}" for number in cell.published)
        assert text in section, cell.label


def test_compression_has_every_number_of_bits():
    cells = compression.FAMILIES[0].chosen(SHORT)
    assert {cell.training.num_bits for cell in cells} == set(range(1, 9))
    assert {f"{cell.training.lr * 2 ** (cell.training.num_bits - 1):g}" for cell in cells[1:]} == {
        "0.001",
        "0.0004",
    }


def test_no_two_trainings_share_a_folder():
    everything = set(in_turns(run_all.FAMILIES, FULL, laboratory(SCRIPTS)))
    assert len({training.name for training in everything}) == len(everything)


def test_a_training_has_the_published_settings():
    training = Training(7.8125e-7, 0.3, 5, num_bits=8, binning="exp", num_workers=2,
                        rand_zero=False)  # fmt: skip
    given = train_command.make_context("train", training.options()).params
    expected = {
        "lr": (7.8125e-7,), "range_decay": (0.3,), "epochs": 5, "num_bits": 8, "binning": "exp",
        "num_workers": 2, "rand_zero": False, "seed": 1917, "optimizer": "compressed_sgd_vote",
        "model": "vanilla_cnn", "batch_size": 64, "shuffle": False, "count_usages": False,
        "momentum": 0.0, "lr_schedule": "constant", "warmup": 0.0, "l2": 0.0,
        "error_feedback": False, "exempt_1d": False, "min_compress_numel": 0, "steps": None,
        "evaluate_every": 0, "batchwise_evaluation": 0, "decay_min": None, "decay_max": None,
        "threads": 1,
    }  # fmt: skip
    assert {name: given[name] for name in expected} == expected


@pytest.mark.parametrize(("family", "num_updates"), [("num_workers", 1800), ("one_bit", 2300)])
def test_workers_are_compared_after_as_many_updates(family, num_updates):
    for cell in BY_NAME[family].cells:
        training = cell.training
        updates = training.epochs * -(-938 // training.num_workers)
        assert updates == pytest.approx(num_updates, rel=0.06)


TRAININGS = [Training(0.1, 0.5), Training(0.2, 0.5), Training(0.3, 0.5)]
FAMILY = Family(
    "family", "Title", "a table", "full-train accuracy", "A claim.",
    tuple(Cell(f"cell {i}", training, (95.0 + i,)) for i, training in enumerate(TRAININGS)),
    (Contrast("0 - 1", "cell 0", "cell 1"), Contrast("1 - 2", "cell 1", "cell 2")),
)  # fmt: skip


def laboratory(out, **changed):
    return Laboratory(**{"dataset": "digits", "dataset_root": out, "download": False, "out": out}
                      | changed)  # fmt: skip


def finish(place, training, history=None, **summary):
    """Leaves what a finished run does."""
    folder = place.folder(training)
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(json.dumps({"cells": [summary]}))
    write_histories(folder / "histories.pkl", {(training.lr, training.decay): history or {}})


def test_what_is_finished_is_not_run_again(tmp_path):
    place = laboratory(tmp_path)
    finish(place, TRAININGS[0], train_acc=90.0)
    place.folder(TRAININGS[1]).mkdir()
    assert missing([*TRAININGS, TRAININGS[2]], place) == TRAININGS[1:]
    assert place.command(TRAININGS[1])[-1] == "--resume"
    assert "--resume" not in place.command(TRAININGS[2])


def test_families_take_turns(tmp_path):
    one, two, three = TRAININGS
    other = Family("o", "", "", "", "", (Cell("a", three), Cell("b", one, more_seeds=(3,))))
    place = laboratory(tmp_path)
    assert in_turns([FAMILY, other], SHORT, place) == [one, three, two, one, three]
    assert in_turns([FAMILY, other], GRIDS[0], place) == [one, three]
    assert [training.seed for training in in_turns([other], FULL, place)] == [1917, 1917, 3]
    shrunk = laboratory(tmp_path, epochs=9)
    assert {training.epochs for training in in_turns([FAMILY], SHORT, shrunk)} == {9}


def test_ours_stand_beside_the_published(tmp_path):
    place = laboratory(tmp_path)
    finish(place, TRAININGS[0], train_acc=95.5)
    finish(place, TRAININGS[1], train_acc=95.25)
    assert cells_table(FAMILY, SHORT, place).rows == [
        ["cell 0", "95.50", "95.00", "+0.50", "", "1/1"],
        ["cell 1", "95.25", "96.00", "-0.75", "*", "1/1"],
        ["cell 2", "-", "97.00", "-", "", "0/1"],
    ]
    assert contrasts_table(FAMILY, SHORT, place).rows == [
        ["0 - 1", "+0.25", "-1.00"],
        ["1 - 2", "-", "-1.00"],
    ]
    lines = as_markdown(FAMILY, SHORT, place).splitlines()
    assert lines[0] == "### Title"
    assert "| cell 1 | 95.25 | 96.00 | -0.75 | * | 1/1 |" in lines


def test_seeds_are_averaged(tmp_path):
    cell = Cell("mean", TRAININGS[0], (91.0,), more_seeds=(1, 2))
    family = Family("f", "", "", "full-train accuracy", "", (cell,))
    place = laboratory(tmp_path)
    for training, accuracy in zip(cell.trainings(FULL), (90.0, 92.0), strict=False):
        finish(place, training, train_acc=accuracy)
    assert cells_table(family, FULL, place).rows[0][1:] == ["91.00", "91.00", "+0.00", "", "2/3"]


def test_curves_are_means_of_a_hundred_steps(tmp_path):
    place = laboratory(tmp_path)
    steps = list(range(1, 201))
    history = {"batch_acc_hist": [50.0] * 100 + [60.0] * 100, "batch_step_hist": steps}
    finish(place, TRAININGS[0], history, train_acc=1.0)
    (axis,) = family_figure(FAMILY, SHORT, place).axes
    (line,) = axis.lines
    assert line.get_label() == "cell 0"
    assert line.get_xdata().tolist() == [100, 200]
    assert line.get_ydata().tolist() == [50, 60]
    assert axis.figure.get_suptitle() == "Title"
    assert "training accuracy (%)" in axis.get_ylabel()


def test_usages_are_compared_by_level_and_drawn(tmp_path):
    cell = Cell("counted", TRAININGS[0], (25.0, 0.0, 75.0))
    family = Family("usages", "Title", "", "bin usage", "", (cell,))
    place = laboratory(tmp_path)
    finish(place, TRAININGS[0], {"bin_usage": np.tile([1, 1, 2], (4, 1))})
    assert cells_table(family, SHORT, place).rows == [
        ["counted", "25.0 25.0 50.0", "25.0 0.0 75.0", "+25.00", "*", "1/1"]
    ]
    (axis,) = family_figure(family, SHORT, place).axes
    assert axis.get_ylim() == (0, 100)
    assert axis.get_xlim() == (0, 4)


def test_compression_rates_are_drawn(tmp_path):
    (family,) = compression.FAMILIES
    place = laboratory(tmp_path)
    for cell in family.chosen(SHORT):
        bits = 32 if cell.training.optimizer == "sgd" else cell.training.num_bits
        finish(place, cell.training, test_acc=90.0 + bits / 10, compression_rate=32 / bits)
    (axis,) = family_figure(family, SHORT, place).axes
    assert [line.get_label() for line in axis.lines] == [
        "float32 SGD 0.5", "largest step 0.001", "largest step 0.0004",
    ]  # fmt: skip
    assert [text.get_text() for text in axis.texts][:2] == ["32 bits", "3 bits"]
    assert axis.lines[1].get_xdata().tolist() == [32 / bits for bits in range(8, 0, -1)]
    assert axis.lines[1].get_ydata().tolist() == [90 + bits / 10 for bits in range(8, 0, -1)]


def test_nothing_is_drawn_of_nothing(tmp_path):
    assert family_figure(FAMILY, SHORT, laboratory(tmp_path)) is None


@pytest.mark.parametrize("script", [*FAMILY_SCRIPTS, run_all], ids=lambda script: script.__name__)
def test_a_script_without_results_shows_the_published(script, tmp_path):
    page = tmp_path / "page.md"
    pages = ["--page", str(page)] if script is run_all else []
    arguments = ["--jobs", "0", "--epochs", "2", "--out", str(tmp_path), *pages]
    shown = CliRunner().invoke(command(script.FAMILIES, has_page=script is run_all), arguments)
    assert shown.exit_code == 0, shown.output
    if script is run_all:
        assert "MNIST, the short grid, all with 2 epochs." in page.read_text()
    for family in script.FAMILIES:
        assert family.title in shown.output
        files = [tmp_path / f"{family.name}.md", *([page] if script is run_all else [])]
        assert all(f"### {family.title}" in file.read_text() for file in files)


def test_data_that_are_missing_are_one_clear_line(tmp_path):
    with pytest.raises(click.UsageError, match=r"MNIST is not complete in .*--dataset_root"):
        command(many_bits.FAMILIES).main(
            ["--dataset_root", str(tmp_path), "--out", str(tmp_path / "out")],
            standalone_mode=False,
        )


@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_all_families_on_small_settings(tmp_path):
    arguments = ["--grid", "first", "--dataset", "digits", "--epochs", "1", "--out", str(tmp_path)]
    script = [sys.executable, "-W", "ignore", str(SCRIPTS / "run_all.py"), *arguments]
    page = tmp_path / "page.md"
    finished = run_command(*script, "--jobs", "2", "--page", str(page), timeout_s=500)
    assert finished.exit_code == 0, finished.stdout + finished.stderr
    table = page.read_text()
    assert table.count("| 1/1 |") == len(run_all.FAMILIES)
    assert table.rstrip().endswith(footer([here_today()]))
    assert {path.stem for path in tmp_path.glob("*.png")} == set(BY_NAME)
    again = run_command(*script)
    assert again.exit_code == 0
    assert again.stdout == finished.stdout[finished.stdout.index(run_all.FAMILIES[0].title) :]


@pytest.mark.heavy
def test_a_terminated_script_goes_on_where_it_was(tmp_path):
    script = [sys.executable, "-W", "ignore", str(SCRIPTS / "many_bits.py"), "--grid", "first",
              "--dataset", "digits", "--epochs", "20", "--out", str(tmp_path)]  # fmt: skip
    place = laboratory(tmp_path, epochs=20)
    log = place.log(place.adapted(many_bits.FAMILIES[0].cells[0].training))
    with started_command(*script) as process:
        while not (log.exists() and "epoch 2:" in log.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
        assert process.stderr.read().strip() == "Error: interrupted"
    assert "a checkpoint is written" in log.read_text()
    finished = run_command(*script)
    assert finished.exit_code == 0, finished.stderr
    assert "goes on in epoch" in log.read_text()
    assert "1/1" in finished.stdout
