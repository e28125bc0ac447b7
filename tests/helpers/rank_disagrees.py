"""Ranks that are not alike, in the way their first argument names; the rest are options."""

import sys

import torch

from compsgd.comm.group.rank_info import RankInfo
from compsgd.workers.commands.cli import launch
from compsgd.workers.commands.execution import execute
from compsgd.workers.train.training import CellTraining


def move_a_weight_in_the_second_epoch(rank):
    whole_epoch = CellTraining._check_weights

    def check_weights(self, epoch):
        if rank == 1 and epoch == 1:
            with torch.no_grad():
                next(self._model.parameters()).view(-1)[0] += 1
        whole_epoch(self, epoch)

    CellTraining._check_weights = check_weights


if __name__ == "__main__":
    _, way, *options = sys.argv
    rank = RankInfo.from_environment().rank
    if way == "weights":
        move_a_weight_in_the_second_epoch(rank)
    else:
        options += [f"--{way}", str(3 + rank // 2)]
    sys.argv = [sys.argv[0], *options]
    execute(launch, "launch.py")
