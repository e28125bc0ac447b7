"""Damaged, foreign and hostile files through everything that reads one: each is read, or refused in
a line of ours.

python scripts/robustness/fuzz_files.py --count 100000

Valid and hostile files of every kind are mutated: bits are flipped, ends cut off, bytes put in or
taken out, opcodes swapped, two files spliced. Where a digest or a checksum would refuse all of them
alike, it is made to fit. They are read in a process of its own: if that ends or hangs, it was this
file, which --keep keeps. Some would leave a file behind if anything in them ran.
"""

import contextlib
import functools
import gzip
import hashlib
import io
import json
import multiprocessing
import os
import pickle
import pickletools
import random
import resource
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from compsgd.comm.group.collectives import Collectives
from compsgd.comm.traffic.ledger import Ledger, Purpose
from compsgd.errors import CompsgdError
from compsgd.history import read_histories, write_histories
from compsgd.history.axes import line, metric_names
from compsgd.workers.commands import cli
from compsgd.workers.commands.path_option import PathOption, make_folder
from compsgd.workers.commands.run_options import read_options
from compsgd.workers.data import idx_files
from compsgd.workers.data.text import load_text
from compsgd.workers.report.tables import markdown_table
from compsgd.workers.results.experiment import Experiment
from compsgd.workers.train.checkpoint import Checkpoints, read_tensors

OUTCOMES = ("read", "refused", "crashed", "hung", "code run", "other exceptions")
BAD = OUTCOMES[2:]
CANARY = "canary"
HANGS_AFTER_S = 60.0
MOST_SHOWN = 20
OPCODES = bytes(ord(opcode.code) for opcode in pickletools.opcodes)
INTERESTING = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0\0\0\0\x40", b"\0" * 8, b"1e999")


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Attributes:
        name: for the table.
        seeds: what is mutated.
        read: reads the file of this content in a folder of its own; raises what readers raise.
        wrap: puts what was mutated into the whole file, as with the digest that fits.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[Path, bytes], None]
    wrap: Callable[[bytes], bytes] = bytes


class RunsCode:
    """Unpickled, it would leave a file behind."""

    def __init__(self, call: Callable[..., Any], argument: str) -> None:
        self._call = call, (argument,)

    def __reduce__(self) -> Any:
        return self._call


HOSTILE = (
    RunsCode(os.system, f"touch {CANARY}"),
    RunsCode(eval, f"open({CANARY!r}, 'w').close()"),
    RunsCode(exec, f"open({CANARY!r}, 'w').close()"),
)
HISTORY = {
    "avg_epoch_loss_hist": [2.5, 1.25],
    "test_acc_hist": [50.0, 60.5],
    "batch_loss_hist": [2.0, 1.0, np.float64(0.5)],
    "batch_step_hist": [1, 2, 3],
    "seconds_hist": [0.5, 0.25, 2**40],
    "bytes_sent_hist": [10, 20, 30],
    "bin_usage": np.arange(27).reshape(3, 9),
    "cosine_hist": [],
    "empty": np.empty(0),
    "flags": np.asfortranarray(np.ones((2, 3), dtype=bool)),
}
CELL = dict.fromkeys(
    ("lr", "decay", "train_loss", "train_acc", "test_loss", "test_acc", "last_epoch_acc",
     "bytes_per_worker_and_step", "compression_rate", "num_non_finite", "seconds",
     "num_parameters", "num_steps"), 1,
) | {"lr": 0.1, "weights": "weights/x.pt", "weights_sha256": "0" * 64}  # fmt: skip
HISTORIES = {(0.1, 1.0): HISTORY, (0.01, 0.5): {"test_acc_hist": [1.0]}}


def formats(folder: Path) -> list[Format]:
    """All that we read. A reader of another kind of file is a line here."""
    pickles = tuple(
        pickle.dumps(content, protocol)
        for protocol in range(6)
        # Mostly valid ones: what is hostile as it is gets no further by being changed.
        for content in (*[HISTORIES] * 9, *({(0.1, 1.0): {"a_hist": one}} for one in HOSTILE))
    )
    state = {"weights": torch.nn.BatchNorm1d(3).state_dict(), "round": 7, "range": torch.ones(2, 3)}
    experiment, checkpoints = prepared(folder)
    manifest = {"format": 2, "serial": 1, "facts": {"cell": 0, "options": {}, "surroundings": {}},
                "parts": {name: {"size_bytes": 10, "sha256": "0" * 64}
                          for name in ("shared.pt", "worker0.pt")}}  # fmt: skip
    result = {"cells": [CELL], "process_0_bytes_sent": {purpose.value: 1 for purpose in Purpose}}
    labels = b"\0\0\x08\x01\0\0\x27\x10" + bytes(range(10)) * 1000
    return [
        Format("histories", pickles, read_histories_file),
        Format("histories, digest kept", (written(folder),), read_histories_file),
        Format("part of a checkpoint", (saved(state),), read_part),
        Format("the pickle in a part", (*[member(saved(state))] * 9, *map(torch_pickle, HOSTILE)),
               read_part, functools.partial(with_member, saved(state))),
        Format("manifest, digest fits", (json.dumps(manifest).encode(),),
               functools.partial(read_manifest, checkpoints), signed),
        Format("config.json", (config(experiment),), functools.partial(read_config, experiment)),
        Format("result.json", (json.dumps(result).encode(),),
               functools.partial(read_result, experiment)),
        Format("idx", (labels,), functools.partial(read_idx, "")),
        Format("idx, packed", (gzip.compress(labels),), functools.partial(read_idx, ".gz")),
        Format("text", ("To be, or nöt to be\r\n".encode() * 40,), read_text),
    ]  # fmt: skip


def read_histories_file(folder: Path, content: bytes) -> None:
    path = folder / "histories.pkl"
    path.write_bytes(content)
    for history in read_histories(path).values():
        for metric in metric_names(history):
            for x in ("steps", "epochs", "seconds", "bytes"):
                with contextlib.suppress(CompsgdError):
                    line(history, metric, x, 2)


def read_part(folder: Path, content: bytes) -> None:
    for value in read_tensors(folder / "shared.pt", content).values():
        str(value)


def read_manifest(checkpoints: Checkpoints, folder: Path, content: bytes) -> None:
    (checkpoints.path / "manifest.json").write_bytes(content)
    checkpoints.find()


def read_config(experiment: Experiment, folder: Path, content: bytes) -> None:
    (experiment.path / "config.json").write_bytes(content)
    experiment.check_resumable()


def read_result(experiment: Experiment, folder: Path, content: bytes) -> None:
    (experiment.path / "result.json").write_bytes(content)
    if experiment.read_results():
        experiment.table()


def read_idx(ending: str, folder: Path, content: bytes) -> None:
    raw = folder / f"idx{ending}" / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for part in ("images-idx3", "labels-idx1"):
        (raw / f"t10k-{part}-ubyte{ending}").write_bytes(content)
    idx_files.read_labelled_images("MNIST", folder / f"idx{ending}", "t10k")


def read_text(folder: Path, content: bytes) -> None:
    (folder / "text").write_bytes(content)
    load_text(folder / "text", context=8)


def written(folder: Path) -> bytes:
    write_histories(folder / "histories.pkl", HISTORIES)
    return (folder / "histories.pkl").read_bytes()


def saved(state: Any) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def torch_pickle(value: Any) -> bytes:
    return pickle.dumps({"weights": value}, 2)


def member(file: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(file)) as archive:
        return archive.read("archive/data.pkl")


def with_member(file: bytes, content: bytes) -> bytes:
    """The same archive with another pickle in it."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(file)) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name == "archive/data.pkl" else old.read(name))
    return changed.getvalue()


def signed(manifest: bytes) -> bytes:
    """With the digest that belongs to it, if it is still JSON."""
    try:
        content = json.loads(manifest)
        text = json.dumps(content)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return json.dumps({"sha256": digest, "manifest": content}).encode()
    except (ValueError, RecursionError):
        return manifest


def prepared(folder: Path) -> tuple[Experiment, Checkpoints]:
    """An experiment that has begun, for the files of one that is resumed."""
    arguments = ["--log_dir", str(folder), "--exp_name", "x", "--model", "mlp", "--lr", "0.1",
                 "--range_decay", "1", "--num_workers", "1", "--epochs", "1"]  # fmt: skip
    context = cli.train.make_context("train", arguments)
    options = read_options(dict(context.params), cli.RankInfo())
    experiment = Experiment(options)
    experiment.create({})
    (experiment.path / "checkpoint").mkdir(exist_ok=True)
    alone = Collectives(Ledger(), Purpose.BOOKKEEPING, 1, None)
    return experiment, Checkpoints(
        experiment.path / "checkpoint", 1, [0], alone, is_first_here=True
    )


def config(experiment: Experiment) -> bytes:
    return (experiment.path / "config.json").read_bytes()


def mutated(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """One to four changes; now and then none."""
    for _ in range(draw.choice((0, 1, 1, 1, 2, 2, 3, 4))):
        content = draw.choice(MUTATIONS)(draw, content, others)
    return content


def flip_bits(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(draw.randint(1, 4)):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def truncate(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def swap_opcodes(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    """Where there is an opcode, or a letter that might be one, another."""
    places = [i for i, byte in enumerate(content) if byte in OPCODES]
    changed = bytearray(content)
    for place in draw.sample(places, min(len(places), draw.randint(1, 3))):
        changed[place] = draw.choice(OPCODES)
    return bytes(changed)


def insert(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    place = draw.randrange(len(content) + 1)
    new = draw.choice((draw.randbytes(draw.randint(1, 8)), draw.choice(INTERESTING)))
    return content[:place] + new + content[place:]


def overwrite(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    place, new = draw.randrange(len(content) + 1), draw.choice(INTERESTING)
    return content[:place] + new + content[place + len(new) :]


def remove(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    place = draw.randrange(len(content) + 1)
    return content[:place] + content[place + draw.randint(1, 16) :]


def repeat(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    place = draw.randrange(len(content) + 1)
    part = content[place : place + draw.randint(1, 40)]
    return content[:place] + part * draw.choice((2, 5, 500)) + content[place:]


def splice(draw: random.Random, content: bytes, others: tuple[bytes, ...]) -> bytes:
    other = draw.choice(others)
    return content[: draw.randrange(len(content) + 1)] + other[draw.randrange(len(other) + 1) :]


MUTATIONS = (flip_bits, truncate, swap_opcodes, insert, overwrite, remove, repeat, splice)


def file_of(number: int, seed: int, known: list[Format]) -> tuple[Format, bytes]:
    """The number-th file: a function of the two numbers alone."""
    draw = random.Random(f"{seed} {number}")
    kind = known[number % len(known)]
    return kind, kind.wrap(mutated(draw, draw.choice(kind.seeds), kind.seeds))


def read_all(seed: int, start: int, stop: int, counts: Any, at: Any, findings: str) -> None:
    """In a process of its own: reads files, and counts what becomes of each.

    Args:
        seed, start, stop: which.
        counts: shared, of each kind and outcome.
        at: shared, which file is being read; the first below `start` by none.
        findings: the file that exceptions are written to.
    """
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory(prefix="compsgd_fuzz_") as name:
        os.chdir(name)
        folder = Path(name) / "files"
        folder.mkdir()
        known = formats(folder)
        for number in range(start, stop):
            kind, content = file_of(number, seed, known)
            at.value = number
            outcome = outcome_of(kind, folder, content, number, findings)
            if Path(CANARY).exists() or (folder / CANARY).exists():
                outcome = "code run"
                Path(CANARY).unlink(missing_ok=True)
            counts[number % len(known) * len(OUTCOMES) + OUTCOMES.index(outcome)] += 1
    at.value = stop


def outcome_of(kind: Format, folder: Path, content: bytes, number: int, findings: str) -> str:
    try:
        kind.read(folder, content)
    except (CompsgdError, click.ClickException):
        return "refused"
    except Exception as error:
        with Path(findings).open("a") as file:
            file.write(f"{kind.name}, file {number}: {type(error).__name__}: {error!s:.200}\n")
        return "other exceptions"
    return "read"


def ends_of(process: Any, at: Any) -> Iterator[str]:
    """How the process ended: nothing, or "crashed" or "hung"."""
    last, since = at.value, time.monotonic()
    while process.is_alive():
        process.join(1)
        if at.value != last:
            last, since = at.value, time.monotonic()
        elif time.monotonic() - since > HANGS_AFTER_S:
            process.kill()
            process.join()
            yield "hung"
            return
    if process.exitcode:
        yield "crashed"


@click.command()
@click.option("--count", type=click.IntRange(min=1), default=100_000, show_default=True)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--keep", type=PathOption(file_okay=False), default=None,
              help="Where files that end or hang a process are kept.")  # fmt: skip
def main(count: int, seed: int, keep: Path | None) -> None:
    """Prints how many files were read and refused; exit code 1 if anything else became of any."""
    if keep is not None:
        make_folder("--keep", keep)
    with tempfile.TemporaryDirectory(prefix="compsgd_fuzz_") as name:
        known = formats(Path(name))
        counts, findings = tried(count, seed, known, Path(name) / "findings", keep)
    names = [kind.name for kind in known]
    size = len(OUTCOMES)
    rows = [[one, *counts[i * size : (i + 1) * size]] for i, one in enumerate(names)]
    rows.append(["all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])])
    table = [[str(row[0]), *(f"{number:,}" for number in row[1:])] for row in rows]
    click.echo(markdown_table(["file", *OUTCOMES], table))
    for finding in findings[:MOST_SHOWN]:
        click.echo(finding)
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    click.echo(f"\nmemory of the reading process at its peak: {peak_mb:,.0f} MB")
    sys.exit(1 if any(rows[-1][1 + OUTCOMES.index(bad)] for bad in BAD) else 0)


def tried(
    count: int, seed: int, known: list[Format], findings: Path, keep: Path | None
) -> tuple[list[int], list[str]]:
    """How many files of each kind came to each outcome, and what was found."""
    context = multiprocessing.get_context("spawn")
    counts = context.RawArray("q", len(known) * len(OUTCOMES))
    at = context.RawValue("q", -1)
    start = 0
    while start < count:
        process = context.Process(
            target=read_all, args=(seed, start, count, counts, at, str(findings))
        )
        process.start()
        ends = list(ends_of(process, at))
        if not ends:
            break
        number = max(at.value, start)
        kind, content = file_of(number, seed, known)
        counts[number % len(known) * len(OUTCOMES) + OUTCOMES.index(ends[0])] += 1
        with findings.open("a") as file:
            file.write(f"{kind.name}, file {number}: {ends[0]}, exit code {process.exitcode}\n")
        if keep is not None:
            (keep / f"{seed}_{number}").write_bytes(content)
        start = number + 1
    return list(counts), findings.read_text().splitlines() if findings.exists() else []


if __name__ == "__main__":
    main()
