"""A rank that trains once for each list of options in a JSON file, without starting anew."""

import json
import os
import sys
from pathlib import Path

import pytest
from figures_of_runs import draw_nothing

from compsgd.workers.commands.cli import launch

if __name__ == "__main__":
    draw_nothing(pytest.MonkeyPatch())
    ports = os.environ["STORE_PORTS"].split()
    for options, port in zip(json.loads(Path(sys.argv[1]).read_text()), ports, strict=True):
        # Each run joins a process group anew, and so needs a store that nobody has used.
        os.environ["MASTER_PORT"] = port
        launch.main(options, standalone_mode=False)
