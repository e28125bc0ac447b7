"""Where the hook finds the DistributedDataParallel that it is for."""

import pytest
import torch
import torch.distributed as dist
from ranks import on_ranks
from tiny_training import SETTINGS, loss_of, model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from compsgd import SettingError
from compsgd.comm import register_vote_hook

pytestmark = pytest.mark.heavy


class Wrapper(nn.Module):
    """As the modules of training frameworks, which forward to the one inside."""

    def __init__(self, *inside):
        super().__init__()
        self.inside = nn.ModuleList(inside)

    def forward(self, *args):
        return self.inside[0](*args)


@pytest.mark.parametrize("wrap", [Wrapper, torch.compile], ids=["wrapper", "compile"])
@on_ranks(2)
def test_it_is_found_inside(wrap):
    ddp = DistributedDataParallel(model())
    state = register_vote_hook(wrap(ddp), **SETTINGS)
    loss_of(ddp, dist.get_rank(), 0).backward()
    assert state.iteration == 1
    assert state.bytes_per_step > 0


@on_ranks(2)
def test_none_or_two_of_them():
    with pytest.raises(SettingError, match="and got a Wrapper without one inside: wrap the model"):
        register_vote_hook(Wrapper(model()))
    with pytest.raises(SettingError, match="and got a NoneType"):
        register_vote_hook(None)
    two = Wrapper(DistributedDataParallel(model()), DistributedDataParallel(model()))
    with pytest.raises(SettingError, match="there are 2 DistributedDataParallel inside this"):
        register_vote_hook(two)
