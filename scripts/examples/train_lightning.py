"""Lightning with voted gradients: only the strategy's arguments know of compsgd.

pip install lightning
python scripts/examples/train_lightning.py

A small network learns whether numbers add up to more than 0, in two processes on CPUs.
"""

import argparse
import logging

import lightning
import torch
from lightning.pytorch.overrides.distributed import _register_ddp_comm_hook
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compsgd.comm import VoteState, vote_hook


class Module(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
        self.losses = []

    def training_step(self, batch, _):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.net(images), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self):
        # Momentum is in the vote, and so not in Adam.
        return torch.optim.AdamW(self.parameters(), lr=0.01, betas=(0.0, 0.99))


class Strategy(DDPStrategy):
    """Lightning registers hooks on GPUs only; here it does what it does there."""

    def _register_ddp_hooks(self):
        _register_ddp_comm_hook(self.model, self._ddp_comm_state, self._ddp_comm_hook)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--out", default=".", help="Lightning's folder.")
    asked = parser.parse_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    images = torch.randn(512, 8, generator=torch.Generator().manual_seed(1))
    labels = (images.sum(1) > 0).long()
    module = Module()
    state = VoteState(
        params=module.parameters(), num_bits=3, scale="mean_abs", momentum=0.9, decay_min=0.99,
        decay_max=0.99, exempt_1d=True,
    )  # fmt: skip
    strategy = Strategy(ddp_comm_state=state, ddp_comm_hook=vote_hook)
    trainer = lightning.Trainer(
        accelerator="cpu", devices=2, max_epochs=asked.epochs, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=asked.out, strategy=strategy,
    )  # fmt: skip
    trainer.fit(module, DataLoader(TensorDataset(images, labels), 32))
    if trainer.is_global_zero:
        print(f"loss {module.losses[0]:.3f} -> {module.losses[-1]:.3f}")
        print(state.summary())
