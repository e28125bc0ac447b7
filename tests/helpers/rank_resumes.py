"""A rank that runs a command once for each item of a JSON file: [options, rounds to stop after]."""

import json
import os
import sys
from pathlib import Path

from stopping import stopped_after

from compsgd.workers.commands.cli import launch
from compsgd.workers.failures import InterruptedRunError

if __name__ == "__main__":
    ports = os.environ["STORE_PORTS"].split()
    runs = json.loads(Path(sys.argv[1]).read_text())
    for (options, num_rounds), port in zip(runs, ports, strict=True):
        os.environ["MASTER_PORT"] = port
        with stopped_after(num_rounds):
            try:
                launch.main(options, standalone_mode=False)
            except InterruptedRunError:
                assert num_rounds is not None
            else:
                assert num_rounds is None
