"""Checkpoints: where a run can go on, on the disk.

`checkpoint/manifest.json` names the parts of the last complete checkpoint with their sizes and
digests, and is itself digested; a new one takes its place only when all its parts are written. The
parts are one file that all share and one a worker, so that any number of processes can go on: each
writes and reads those of the workers it hosts. (torch.distributed.checkpoint keeps a pickle of its
own beside the data, and neither digests nor the last good version.)
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compsgd.comm.group.collectives import Collectives
from compsgd.comm.group.messages import all_succeed, gather_messages, on_rank_0
from compsgd.errors import CompsgdError, DamagedDataError
from compsgd.files import atomic_write
from compsgd.kinds import Kind, Optional
from compsgd.workers.failures import RunError, UsageError
from compsgd.workers.results.formats import SIGNED, WRITTEN, manifest_format, read_checked
from compsgd.workers.train.tensor_file import read_tensor_file

FOLDER = "checkpoint"
_MANIFEST = "manifest.json"
_FORMAT = 2
_SHARED = "shared.pt"
_FAILURES = (UsageError, RunError)

State = dict[str, Any]


@dataclass(frozen=True)
class Loaded:
    """A checkpoint as one process reads it.

    Attributes:
        shared: what all processes have in common.
        by_worker: what belongs to each worker hosted here.
    """

    shared: State
    by_worker: dict[int, State]


class Checkpoints:
    """The checkpoints of one experiment; all processes call the same methods in the same order."""

    def __init__(
        self,
        path: Path,
        num_cells: int,
        hosted: Sequence[int],
        peers: Collectives,
        is_first_here: bool,
    ) -> None:
        """
        Args:
            path: the folder.
            num_cells: of the run.
            hosted: the workers of this process.
            peers: all processes.
            is_first_here: whether this process tidies up on its machine.
        """
        self.path = path
        self._hosted = hosted
        self._peers = peers
        self._is_first_here = is_first_here
        self._format = manifest_format(
            num_cells, [_SHARED, *map(_part_name, range(peers.num_workers))]
        )
        self._serial = 0
        self._found: State | None = None

    def find(self) -> State | None:
        """The facts of the checkpoint that rank 0 has here, None if there is none.

        Raises:
            RunError: its manifest is damaged.
        """
        manifest = Optional(self._format)
        self._found = on_rank_0(self._peers, self._read_manifest, _FAILURES, manifest)
        if self._found is None:
            return None
        self._serial = self._found["serial"]
        facts: State = self._found["facts"]
        return facts

    def load(self, shared: Kind, of_worker: Callable[[State], Kind]) -> Loaded:
        """The parts of the checkpoint that `find` has found.

        Args:
            shared: what the part of all must be.
            of_worker: what that of a worker must be, beside such a shared one.

        Raises:
            RunError: on every process alike: a part is missing, damaged, or none of this run.
        """
        found = self._found
        assert found is not None, "find has found one"

        def read() -> Loaded:
            of_all = self._read_part(found, _SHARED, shared)
            kind = of_worker(of_all)
            by_worker = {
                worker: self._read_part(found, _part_name(worker), kind) for worker in self._hosted
            }
            return Loaded(of_all, by_worker)

        loaded: Loaded = self._together(read)
        return loaded

    def save(self, facts: State, shared: State, by_worker: Mapping[int, State]) -> None:
        """Writes a checkpoint, then forgets the one before.

        1. Everybody writes its parts. 2. Rank 0 writes the manifest. 3. Older parts are deleted.

        Args:
            facts: what can be known without reading the parts; JSON.
            shared: the same on every process.
            by_worker: of the hosted workers.

        Raises:
            RunError: it cannot be written; the one before is as it was.
        """
        self._serial += 1
        folder = self.path / self._folder_name
        contents = {_part_name(worker): state for worker, state in by_worker.items()}
        if self._peers.rank == 0:
            contents[_SHARED] = shared
        written = self._together(lambda: _write_parts(folder, contents))
        everyones = gather_messages(self._peers, written, WRITTEN)
        parts = {name: part for theirs in everyones for name, part in theirs.items()}
        manifest = {"format": _FORMAT, "serial": self._serial, "facts": facts, "parts": parts}
        on_rank_0(self._peers, lambda: self._commit(manifest), _FAILURES)
        self._tidy(keep={_MANIFEST, self._folder_name})

    def tidy(self) -> None:
        """Deletes what is left of a checkpoint that was never completed."""
        self._tidy(keep={_MANIFEST, self._folder_name})

    def remove(self) -> None:
        """Deletes all: the run is finished."""
        with contextlib.suppress(OSError):
            (self.path / _MANIFEST).unlink(missing_ok=True)
        self._tidy(keep=set())
        if self._is_first_here:
            with contextlib.suppress(OSError):
                self.path.rmdir()

    @property
    def _folder_name(self) -> str:
        return f"{self._serial:06d}"

    def _together(self, action: Any) -> Any:
        return all_succeed(self._peers, action, _FAILURES)

    def _commit(self, manifest: State) -> None:
        text = json.dumps(manifest)
        signed = {"sha256": hashlib.sha256(text.encode()).hexdigest(), "manifest": manifest}
        with _write_errors(self.path), atomic_write(self.path / _MANIFEST) as file:
            file.write(json.dumps(signed).encode())
        _sync(self.path)

    def _tidy(self, keep: set[str]) -> None:
        if not self._is_first_here or not self.path.is_dir():
            return
        for entry in self.path.iterdir():
            if entry.name not in keep:
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)

    def _read_manifest(self) -> State | None:
        path = self.path / _MANIFEST
        try:
            signed = read_checked(path, SIGNED)
        except FileNotFoundError:
            return None
        manifest: State = signed["manifest"]
        digest = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
        if signed["sha256"] != digest:
            raise RunError(f"{path} is damaged: its content does not match its digest")
        if manifest["format"] != _FORMAT:
            raise RunError(
                f"{path} is of format {manifest['format']}; this version reads {_FORMAT}"
            )
        try:
            self._format.check("", manifest)
        except CompsgdError as error:
            raise RunError(f"{path} is none of this run: {error}") from error
        return manifest

    def _read_part(self, manifest: State, name: str, kind: Kind) -> State:
        path = self.path / f"{manifest['serial']:06d}" / name
        expected = manifest["parts"][name]
        size_bytes = expected["size_bytes"]
        try:
            found_bytes = path.stat().st_size
            # Nothing of another size is read.
            content = path.read_bytes() if found_bytes == size_bytes else b""
        except OSError as error:
            raise RunError(f"{path} cannot be read: {error.strerror}") from error
        if found_bytes != size_bytes:
            raise RunError(f"{path} is damaged: {found_bytes:,} bytes instead of {size_bytes:,}")
        if hashlib.sha256(content).hexdigest() != expected["sha256"]:
            raise RunError(f"{path} is damaged: its content does not match its digest")
        state = read_tensors(path, content)
        try:
            kind.check("", state)
        except CompsgdError as error:
            raise RunError(f"{path} is none of this run: {error}") from error
        return state


def read_tensors(path: Path, content: bytes) -> State:
    """A dict of tensors and plain values from a file of torch.save, running nothing in it.

    Raises:
        RunError: it is none, or holds anything else.
    """
    try:
        return read_tensor_file(content)
    except DamagedDataError as error:
        raise RunError(f"{path} is no file of tensors: {error}") from error


def _write_parts(folder: Path, contents: Mapping[str, State]) -> State:
    """Writes the parts; name to size and digest."""
    written: State = {}
    with _write_errors(folder):
        # The experiment's own folder is there, unless somebody has removed it.
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(exist_ok=True)
        try:
            for name, state in contents.items():
                buffer = io.BytesIO()
                torch.save(state, buffer)
                content = buffer.getbuffer()
                with atomic_write(folder / name) as file:
                    file.write(content)
                digest = hashlib.sha256(content).hexdigest()
                written[name] = {"size_bytes": len(content), "sha256": digest}
            _sync(folder)
        except OSError:
            # They would only take the room that is lacking.
            for name in contents:
                with contextlib.suppress(OSError):
                    (folder / name).unlink(missing_ok=True)
            raise
    return written


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _write_errors(path: Path) -> Any:
    try:
        yield
    except FileNotFoundError as error:
        raise RunError(
            f"cannot write the checkpoint to {path}: its folder has been removed or moved during "
            "the run"
        ) from error
    except OSError as error:
        raise RunError(
            f"cannot write the checkpoint to {path}: {error.strerror}; the one before is kept"
        ) from error


def _part_name(worker: int) -> str:
    return f"worker{worker}.pt"
