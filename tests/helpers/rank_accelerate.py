"""An Accelerate user's script: one line more after prepare."""

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compsgd.comm import register_vote_hook

if __name__ == "__main__":
    ddp_kwargs = DistributedDataParallelKwargs(gradient_as_bucket_view=True, bucket_cap_mb=1)
    accelerator = Accelerator(cpu=True, kwargs_handlers=[ddp_kwargs])
    images = torch.randn(512, 8, generator=torch.Generator().manual_seed(1))
    labels = (images.sum(1) > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, betas=(0.0, 0.99))
    loader = DataLoader(TensorDataset(images, labels), 32)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    state = register_vote_hook(
        model, optimizer=optimizer, num_bits=3, scale="mean_abs", momentum=0.9, decay_min=0.99,
        decay_max=0.99, exempt_1d=True,
    )  # fmt: skip
    for _ in range(3):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
    assert model.gradient_as_bucket_view
    assert state.ledger.num_steps == 3 * 8
    assert loss < 0.4
    if accelerator.is_main_process:
        print(state.summary())
    accelerator.end_training()
