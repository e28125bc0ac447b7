"""Data sets of images, unpacked where that is allowed: once, before runs of them start together."""

import functools
from pathlib import Path

from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.failures import UsageError


@functools.cache
def unpacked(name: str, data: Path, scratch: Path) -> Path:
    """The folder in which a data set is ready to be read.

    Args:
        name: of the data set.
        data: where it is, unpacked, or as archives that nothing need be written beside.
        scratch: where archives are unpacked.

    Raises:
        UsageError: it is not there.
    """
    try:
        load_dataset(name, data, download=False)
        return data
    except UsageError:
        archives = list((data / name / "raw").glob("*.gz"))
        if not archives:
            raise
    raw = scratch / name / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        link = raw / archive.name
        link.unlink(missing_ok=True)
        link.symlink_to(archive.resolve())
    load_dataset(name, scratch, download=True)
    return scratch
