"""One flat buffer behind the gradients of a model."""

import pytest
import torch
from torch import nn

import compsgd
from compsgd.gradient import gather
from compsgd.layout import FlatLayout
from compsgd.optim.flat_gradients import FlatGradients


class Branching(nn.Module):
    """A model one of whose layers a batch may leave out."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x, skip=False):
        hidden = self.first(x)
        return hidden.sum() if skip else self.second(hidden).square().sum()


def layout_of(model):
    return FlatLayout([parameter.numel() for parameter in model.parameters()])


def flat_of(model):
    return gather(list(model.parameters()), layout_of(model), torch.device("cpu")).flat()


def test_the_buffer_holds_what_backward_computes():
    plain, model = Branching(), Branching()
    gradients = FlatGradients(model.parameters())
    for seed in range(3):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        plain.zero_grad()
        plain(x).backward()
        gradients.begin()
        model(x).backward()
        gradients.end()
        flat = flat_of(model)
        assert flat.data_ptr() == gradients.buffer.data_ptr()
        assert torch.equal(flat, flat_of(plain))


def test_a_parameter_without_a_gradient_is_not_hidden():
    model = Branching()
    gradients = FlatGradients(model.parameters())
    gradients.begin()
    model(torch.ones(1, 3), skip=True).backward()
    gradients.end()
    assert model.first.weight.grad is not None
    assert model.second.weight.grad is None
    flat = flat_of(model)
    assert flat.data_ptr() != gradients.buffer.data_ptr()
    assert flat[-10:].tolist() == [0.0] * 10


def test_zero_grad_drops_the_views_for_a_while_only():
    model = Branching()
    gradients = FlatGradients(model.parameters())
    gradients.begin()
    model(torch.ones(1, 3)).backward()
    model.zero_grad()
    assert all(parameter.grad is None for parameter in model.parameters())
    gradients.begin()
    model(torch.ones(1, 3)).backward()
    gradients.end()
    assert flat_of(model).data_ptr() == gradients.buffer.data_ptr()
    assert gradients.buffer.abs().sum() > 0


def test_any_other_gradients_are_copied():
    parameters = [torch.zeros(3), torch.zeros(2)]
    layout = FlatLayout([3, 2])
    buffer = torch.arange(10.0)
    in_order = [buffer[2:5], buffer[5:7]]
    for grads, is_view in (
        (in_order, True),
        ([buffer[2:5], buffer[6:8]], False),
        ([buffer[2:5], buffer[5:7].clone()], False),
        ([buffer[2:8:2], buffer[8:10]], False),
        ([buffer[2:5], None], False),
    ):
        for parameter, grad in zip(parameters, grads, strict=True):
            parameter.grad = grad
        flat = gather(parameters, layout, torch.device("cpu")).flat()
        assert (flat.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()) == is_view
        expected = [torch.zeros(2) if grad is None else grad for grad in grads]
        assert torch.equal(flat, torch.cat(expected))


@pytest.mark.parametrize("optimizer", [compsgd.SGD, compsgd.CompressedSGDVote])
def test_workers_that_share_the_buffer_vote_with_their_own_gradients(optimizer):
    results = []
    for is_shared in (False, True):
        model = Branching()
        one = optimizer(model.parameters(), 0.1, num_workers=2)
        gradients = FlatGradients(model.parameters())
        for worker in range(2):
            if is_shared:
                gradients.begin()
            else:
                one.zero_grad()
            x = torch.randn(5, 3, generator=torch.Generator().manual_seed(worker))
            model(x).backward()
            one.compress(worker)
        gradients.begin()
        one.step()
        results.append(
            torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        )
    assert torch.equal(*results)


def test_other_types_are_refused():
    with pytest.raises(compsgd.CompsgdError, match="float32"):
        FlatGradients([torch.zeros(2, dtype=torch.float64)])
    assert FlatGradients([]).buffer.numel() == 0
