"""A run that is interrupted and resumed ends as one that never was, by a bit."""

import json
import re
import shutil

import pytest
import torch
from command_line import run
from processes import HELPERS, run_ranks
from stopping import outcome, stopped_after

from compsgd.comm.traffic.kernel_counters import can_count
from compsgd.history import read_histories
from compsgd.workers.train import training
from compsgd.workers.train.evaluation import EvaluationAbandonedError

SWEEP = ["--model", "mlp", "--epochs", "2", "--batch_size", "128", "--num_workers", "4",
         "--threads", "1", "--compile", "off"]  # fmt: skip
# 2 cells of 2 epochs of 3 rounds.


LRS = ("0.003", "0.001")


def train(folder, *args, lrs=LRS, stop_after=None):
    where = ["--log_dir", folder.parent, "--exp_name", folder.name]
    with stopped_after(stop_after):
        return run(*SWEEP, "--lr", *lrs, *where, *args)


def assert_interrupted(result):
    assert result.exit_code == 1, result.output
    words = r"a checkpoint is written, --exp_name \w+ --resume goes on from it\n"
    assert re.search(words, result.stderr)
    assert result.stderr.count("\n") == 1


KINDS = {
    "original": ["--momentum", "0", "--lr_schedule", "constant", "--warmup", "0"],
    "sgd": ["--optimizer", "sgd"],
    "adamw": ["--optimizer", "adamw", "--lr_schedule", "linear", "--warmup", "2"],
    "feedback": ["--error_feedback", "--exempt_1d", "--l2", "0.1", "--evaluate_every", "2"],
    "sign_sgd": ["--optimizer", "sign_sgd", "--count_usages"],
    "compressed_sgd": ["--optimizer", "compressed_sgd", "--count_usages", "--rand_zero", "false"],
    "vote": ["--range_decay", "0.7", "--batchwise_evaluation", "2", "--shuffle", "false"],
    "mixed": ["--batch_size", "64", "--accumulate", "2", "--amp", "fp16", "--clip", "0.5"],
    "adversaries": ["--adversaries", "1", "--attack", "random", "--binning", "exp"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_again_and_again(kind, tmp_path):
    """Inside an epoch, at its end, in the second cell; seldom as the next attempt does too little
    to come to a checkpoint of its own."""
    args = KINDS[kind]
    assert train(tmp_path / "whole", *args).exit_code == 0
    assert_interrupted(train(tmp_path / "parts", *args, stop_after=2))
    for rounds in (1, 2, 4):
        assert_interrupted(train(tmp_path / "parts", *args, "--resume", stop_after=rounds))
    result = train(tmp_path / "parts", *args, "--resume")
    assert result.exit_code == 0, result.output
    assert "lr 0.001" in result.stdout
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    whole, parts = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "parts")
    )
    measured = {"seconds", "median_round_seconds", "median_compute_share"}
    for one, other in zip(whole["cells"], parts["cells"], strict=True):
        assert {k: v for k, v in one.items() if k not in measured} == {
            k: v for k, v in other.items() if k not in measured
        }
    assert not (tmp_path / "parts" / "checkpoint").exists()


def in_steps(folder, *args, stop_after=None):
    """4 rounds, of an epoch of 3 and a part of one."""
    where = ["--log_dir", folder.parent, "--exp_name", folder.name]
    with stopped_after(stop_after):
        return run(*SWEEP[:2], *SWEEP[4:], "--steps", "4", *where, *args)


@pytest.mark.parametrize("rounds", [2, 3, 4])
@pytest.mark.parametrize("args", [[], ["--evaluate_every", "2", "--count_usages"]])
def test_a_run_of_so_many_steps(rounds, args, tmp_path):
    assert in_steps(tmp_path / "whole", *args).exit_code == 0
    assert_interrupted(in_steps(tmp_path / "parts", *args, stop_after=rounds))
    result = in_steps(tmp_path / "parts", *args, "--resume")
    assert result.exit_code == 0, result.output
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    (history,) = read_histories(tmp_path / "parts" / "histories.pkl").values()
    assert history["epoch_step_hist"] == [3, 4]
    assert history["test_step_hist"] == ([2, 4] if args else [3, 4])


@pytest.mark.parametrize("num_evaluations", range(1, 7))
@pytest.mark.parametrize(
    "args",
    [["--batchwise_evaluation", "2"], ["--batchwise_evaluation", "1", "--evaluate_every", "2"]],
)
def test_evaluations_that_are_abandoned_come_again(num_evaluations, args, tmp_path):
    """Between rounds, after an epoch, at the very end."""
    assert train(tmp_path / "whole", *args, lrs=["0.003"]).exit_code == 0
    evaluate, calls = training.evaluate, []

    def abandoned(*args):
        calls.append(args)
        if len(calls) == num_evaluations:
            raise EvaluationAbandonedError
        return evaluate(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "evaluate", abandoned)
        assert_interrupted(train(tmp_path / "parts", *args, lrs=["0.003"]))
    assert train(tmp_path / "parts", *args, "--resume", lrs=["0.003"]).exit_code == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_other_numbers_of_processes_go_on(tmp_path):
    """4 processes begin, 1 goes on, 2 end it."""
    args = ["--count_usages", "--exchange", "scatter_reduce", "--checkpoint_every", "1"]
    parts = tmp_path / "parts"
    assert train(tmp_path / "whole", *args).exit_code == 0
    options = [*SWEEP, "--lr", *LRS, *args, "--log_dir", str(tmp_path), "--exp_name", "parts"]
    ranks(4, tmp_path, [[options, 2]])
    assert sorted(path.name for path in (parts / "checkpoint" / "000002").iterdir()) == [
        "shared.pt", "worker0.pt", "worker1.pt", "worker2.pt", "worker3.pt"
    ]  # fmt: skip
    assert_interrupted(train(parts, *args, "--resume", stop_after=5))
    ranks(2, tmp_path, [[[*options, "--resume"], 2], [[*options, "--resume"], None]])
    assert outcome(parts) == outcome(tmp_path / "whole")
    assert json.loads((parts / "config.json").read_text())["run"]["processes"] == 2


@pytest.mark.skipif(not can_count(), reason="the kernel counts bytes for us on Linux only")
def test_counted_bytes_go_on(tmp_path):
    """Those of the epoch under way, too, and of both processes."""
    options = [*SWEEP, "--lr", "0.003", "--range_decay", "1", "--verify_bytes"]
    options += ["--log_dir", str(tmp_path), "--exp_name"]
    whole, parts = [*options, "whole"], [*options, "parts"]
    ranks(2, tmp_path, [[whole, None], [parts, 2], [[*parts, "--resume"], None]])
    results = [json.loads((tmp_path / x / "result.json").read_text()) for x in ("whole", "parts")]
    sent = [result["cells"][0]["wire_bytes_sent"] for result in results]
    assert sent[0] == sent[1] > 0
    assert 1 < results[1]["cells"][0]["kernel_to_ledger"] < 1.1
    gradient = [result["process_0_bytes_sent"]["gradient"] for result in results]
    assert gradient[0] == gradient[1] > 0
    histories = [read_histories(tmp_path / x / "histories.pkl") for x in ("whole", "parts")]
    assert (
        histories[0][0.003, 1.0]["wire_bytes_sent_hist"]
        == (histories[1][0.003, 1.0]["wire_bytes_sent_hist"])
    )


def ranks(world_size, tmp_path, runs):
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    script = HELPERS / "rank_resumes.py"
    finished = run_ranks(world_size, script, str(tmp_path / "runs.json"), num_groups=len(runs))
    assert [(rank.exit_code, rank.stderr) for rank in finished] == [(0, "")] * world_size


def test_checkpoints_between_epochs(tmp_path):
    """Killed without warning, a run goes on from the last checkpoint there is."""
    assert train(tmp_path / "whole").exit_code == 0
    for interval, folder in (("0", "000001"), ("2", "000003")):
        parts = tmp_path / f"every{interval}"

        class KilledError(BaseException):
            pass

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training.CellTraining, "_stop", lambda self: raises(KilledError))
            with pytest.raises(KilledError):
                train(parts, "--checkpoint_every", interval, stop_after=5)
        assert (parts / "checkpoint" / folder).is_dir()
        # What the one who was killed was about to write.
        (parts / "checkpoint" / "000009").mkdir()
        (parts / "checkpoint" / "000009" / ".shared.pt.half").write_text("x")
        (parts / ".result.json.half").write_text("x")
        (parts / "weights" / ".lr.pt.half").write_text("x")
        assert train(parts, "--resume").exit_code == 0
        assert outcome(parts) == outcome(tmp_path / "whole")
        assert not list(parts.glob(".*"))


def raises(error):
    raise error


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interrupted") / "x"
    assert_interrupted(train(folder, stop_after=4))
    return folder


@pytest.mark.parametrize(
    "args",
    [
        ["--num_bits", "4"],
        ["--binning", "exp"],
        ["--num_workers", "8"],
        ["--epochs", "3"],
        ["--seed", "1"],
        ["--rand_zero", "false"],
        ["--range_decay", "0.5"],
        ["--adversaries", "1"],
        ["--count_usages", "true"],
        ["--momentum", "0.5"],
        ["--l2", "0.1"],
        ["--lr_schedule", "linear"],
        ["--warmup", "2"],
        ["--exempt_1d", "true"],
        ["--evaluate_every", "2"],
    ],
)
def test_a_changed_option_is_named(args, interrupted):
    result = train(interrupted, *args, "--resume")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"Error: {args[0]} is ")
    assert " was made with " in result.stderr
    assert result.stderr.count("\n") == 1


def test_options_that_do_not_matter_may_change(interrupted, tmp_path):
    shutil.copytree(interrupted, tmp_path / "y")
    args = ["--one_plot_optimizer", "true", "--timeout", "9", "--checkpoint_every", "2"]
    assert train(tmp_path / "y", *args, "--resume").exit_code == 0


def test_nothing_to_resume(tmp_path):
    result = train(tmp_path / "x", "--resume")
    assert result.exit_code == 2
    assert result.stderr == f"Error: there is no experiment {tmp_path / 'x'} to --resume\n"
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("")
    result = train(tmp_path / "x", "--resume")
    assert result.exit_code == 2
    assert "holds thesis.tex, which is of no experiment of compsgd; it is not" in result.stderr
    result = train(tmp_path / "x", "--resume", "--overwrite")
    assert result.exit_code == 2
    assert "give one of both" in result.stderr


def test_a_run_that_came_to_no_checkpoint_begins_anew(tmp_path, interrupted):
    shutil.copytree(interrupted, tmp_path / "x")
    shutil.rmtree(tmp_path / "x" / "checkpoint")
    result = train(tmp_path / "x", "--resume")
    assert result.exit_code == 0
    assert result.stdout.startswith("there is no checkpoint yet: the run begins anew\n")
    assert len(outcome(tmp_path / "x")) > 2


def test_a_finished_run_of_other_options_is_neither_shown_nor_deleted(tmp_path):
    assert train(tmp_path / "x").exit_code == 0
    before = outcome(tmp_path / "x")
    for args, lrs in ([["--epochs", "3"], LRS], [[], [*LRS, "0.0003"]]):
        result = train(tmp_path / "x", *args, "--resume", lrs=lrs)
        assert result.exit_code == 2
        assert "was made with" in result.stderr
        assert result.stderr.count("\n") == 1
    assert outcome(tmp_path / "x") == before


def test_what_could_not_write_its_config_can_begin_anew(tmp_path):
    (tmp_path / "x" / "weights").mkdir(parents=True)
    (tmp_path / "x" / ".config.json.half").write_text("")
    assert train(tmp_path / "x", "--resume").exit_code == 0


def test_batch_norm_goes_on(tmp_path):
    args = ["--model", "batch_normed:model", "--num_workers", "2", "--epochs", "1"]
    assert train(tmp_path / "whole", *args, lrs=["0.001"]).exit_code == 0
    assert_interrupted(train(tmp_path / "parts", *args, lrs=["0.001"], stop_after=1))
    assert train(tmp_path / "parts", *args, "--resume", lrs=["0.001"]).exit_code == 0
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_a_finished_run_says_what_it_came_to(tmp_path):
    first = train(tmp_path / "x")
    before = outcome(tmp_path / "x")
    again = train(tmp_path / "x", "--resume")
    assert again.exit_code == 0
    assert first.stdout.split("\n\n")[1] == again.stdout.split("\n\n")[0].lstrip("\n")
    assert outcome(tmp_path / "x") == before


def test_a_checkpoint_holds_the_ranges(interrupted):
    parts = sorted((interrupted / "checkpoint").glob("0*/worker*.pt"))
    assert len(parts) == 4
    for path in parts:
        saved = torch.load(path, weights_only=True)
        assert saved["optimizer"]
        for own in saved["optimizer"].values():
            assert (own["max"] >= own["min"]).all()
