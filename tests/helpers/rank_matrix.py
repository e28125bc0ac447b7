"""A rank of the matrix; writes its results as JSON."""

import json
import logging
import sys
from pathlib import Path

import torch.distributed as dist
from matrix import run_matrix

from compsgd.comm.traffic.ledger import Purpose

if __name__ == "__main__":
    logging.getLogger("compsgd").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    results = run_matrix(Purpose.GRADIENT, dist.new_group())
    Path(sys.argv[1]).joinpath(f"{dist.get_rank()}.json").write_text(json.dumps(results))
    dist.destroy_process_group()
