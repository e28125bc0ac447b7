"""A Ray user's script: Ray Train starts the workers, and makes the process group."""

import os
import sys

import ray
import torch
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer, prepare_model
from torch import nn

from compsgd.comm import register_vote_hook


def train_on_each_worker():
    torch.manual_seed(0)
    model = prepare_model(nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)))
    votes = register_vote_hook(model, scale="mean_abs", momentum=0.9, compile="off")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.0, 0.99))
    torch.manual_seed(ray.train.get_context().get_world_rank())
    losses = []
    for _ in range(40):
        images = torch.randn(32, 8)
        loss = nn.functional.cross_entropy(model(images), (images.sum(1) > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    ray.train.report(
        {
            "first": losses[0],
            "last": losses[-1],
            "steps": votes.ledger.num_steps,
            "rate": votes.compression_rate,
            "summary": votes.summary(),
        }
    )


if __name__ == "__main__":
    # Workers import what this process does, whose own folder is no package of theirs.
    ray.init(
        num_cpus=4, include_dashboard=False, log_to_driver=True,
        runtime_env={"env_vars": {"PYTHONPATH": os.environ.get("PYTHONPATH", "")}},
    )  # fmt: skip
    trainer = TorchTrainer(
        train_on_each_worker,
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(storage_path=sys.argv[1]),
    )
    found = trainer.fit().metrics
    ray.shutdown()
    assert found["steps"] == 40
    assert found["last"] < 0.6 * found["first"]
    print(found["summary"])
