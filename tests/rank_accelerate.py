"""An Accelerate user's script: one line more after prepare."""

import warnings

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compsgd.comm import wrap

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    accelerator = Accelerator(cpu=True)
    images = torch.randn(512, 8, generator=torch.Generator().manual_seed(1))
    labels = (images.sum(1) > 0).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    loader = DataLoader(TensorDataset(images, labels), 32)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    state = wrap(model, scale="mean_abs", compile="off")
    for _ in range(3):
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            accelerator.backward(loss)
            optimizer.step()
    assert len(state.ledger.steps) == 3 * 8
    assert loss < 0.4
    if accelerator.is_main_process:
        print(state.summary())
    accelerator.end_training()
