"""Where tests find the reference vectors and the real data sets."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from figures_of_runs import draw_nothing, drawing
from shared_files import HISTORIES, data_folder
from silence import state_of_log

VECTORS = Path(__file__).resolve().parent / "vectors"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_stays_as_it_was() -> Iterator[None]:
    before = state_of_log()
    yield
    assert state_of_log() == before, "what sets up the log has to restore it; see silent_log()"


@pytest.fixture(autouse=True, scope="session")
def _runs_draw_nothing() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        draw_nothing(patch)
        yield


@pytest.fixture(autouse=True)
def _unless_they_should(request: pytest.FixtureRequest) -> Iterator[None]:
    with drawing() if "figures" in request.keywords else nullcontext():
        yield


@pytest.fixture(scope="session")
def vectors() -> dict[str, dict[str, npt.NDArray[np.generic]]]:
    """The reference vectors by file and key (tests/vectors/README.md)."""
    return {path.stem: dict(np.load(path)) for path in VECTORS.glob("*.npz")}


@pytest.fixture(scope="session")
def published_histories() -> list[Path]:
    """The histories.pkl files that the original research code wrote."""
    if not HISTORIES.is_dir():
        pytest.skip(f"the published histories are not at {HISTORIES}")
    return sorted(HISTORIES.glob("*/histories.pkl"))


@pytest.fixture
def mnist_root(tmp_path: Path) -> Path:
    """A scratch data folder with links to MNIST's archives, so that nothing is unpacked beside
    them."""
    root = data_folder()
    archives = list((root / "MNIST" / "raw").glob("*.gz"))
    if len(archives) != 4:
        pytest.skip(f"MNIST is not in {root} (set COMPSGD_DATA to a folder that has it)")
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in archives:
        (raw / archive.name).symlink_to(archive.resolve())
    return tmp_path / "data"
