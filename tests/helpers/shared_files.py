"""Where the files are that some tests need, and that are not part of the project."""

import os
from pathlib import Path

SHARED = Path(__file__).resolve().parents[3] / "shared"
HISTORIES = SHARED / "reference" / "histories"


def data_folder():
    """Of the data sets: COMPSGD_DATA, or the folder beside the project."""
    return Path(os.environ.get("COMPSGD_DATA", SHARED / "data"))
