"""A Ray user's script: Ray Train starts the workers, and makes their process group."""

import os
import sys
from pathlib import Path

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from compsgd.comm import register_vote_hook

NUM_STEPS = 40


def train_on_each_worker(config):
    torch.manual_seed(0)
    model = prepare_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.0, 0.99))
    votes = register_vote_hook(
        model, optimizer=optimizer, num_bits=3, scale="mean_abs", momentum=0.9, decay_min=0.99,
        decay_max=0.99, exempt_1d=True,
    )  # fmt: skip
    rank = ray.train.get_context().get_world_rank()
    torch.manual_seed(rank)
    losses = []
    for _ in range(NUM_STEPS):
        images = torch.randn(32, 8)
        loss = nn.functional.cross_entropy(model(images), (images.sum(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert votes.ledger.num_steps == NUM_STEPS
    assert losses[-1] < 0.6 * losses[0]
    if rank == 0:
        Path(config["summary"]).write_text(votes.summary())


if __name__ == "__main__":
    # Workers import what this process does.
    variables = {"PYTHONPATH": os.environ.get("PYTHONPATH", ""), "TORCH_COMPILE_DISABLE": "1"}
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
        runtime_env={"env_vars": variables},
    )  # fmt: skip
    summary = Path(sys.argv[1], "summary.txt")
    TorchTrainer(
        train_on_each_worker,
        train_loop_config={"summary": str(summary)},
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=sys.argv[1]),
    ).fit()
    ray.shutdown()
    print(summary.read_text())
