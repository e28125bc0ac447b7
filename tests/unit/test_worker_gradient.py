"""One worker's gradient, in pieces and at another precision, against the plain one."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import compsgd
from compsgd.workers.train.scores import batch_loss
from compsgd.workers.train.worker_gradient import WorkerGradient

CPU = torch.device("cpu")


class Items:
    """Random ones, with one large input at the end."""

    def __init__(self, num_items=10):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(num_items, 6, generator=generator)
        self.labels = torch.randint(3, (num_items,), generator=generator)

    def batch(self, index, device):
        return self.inputs[index], self.labels[index]


def computed(indices, items=None, batch_size=10, clip=None, amp="off", model=None):
    """After gradients on these items, one behind the other by one worker: what computed them, and
    the last score."""
    torch.manual_seed(1)
    model = model or nn.Linear(6, 3)
    optimizer = compsgd.SGD(model.parameters(), lr=0.1)
    options = SimpleNamespace(batch_size=batch_size, clip=clip, amp=amp)
    trained = list(model.parameters())
    gradient = WorkerGradient(model, trained, optimizer, items or Items(), CPU, options)
    for index in indices:
        score = gradient.compute(0, torch.tensor(index))
    return gradient, score


def plain(index):
    """Of torch alone."""
    torch.manual_seed(1)
    model = nn.Linear(6, 3)
    loss, score = batch_loss(model(Items().inputs[index]), Items().labels[index])
    loss.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters()]), score


def test_a_whole_batch_is_that_of_torch_by_a_bit():
    index = [3, 1, 4, 7, 5, 9, 2]
    gradient, score = computed([index])
    expected, expected_score = plain(index)
    assert torch.equal(gradient.buffer, expected)
    assert score == expected_score


@pytest.mark.parametrize("batch_size", [1, 2, 3, 6])
def test_pieces_are_the_batch_up_to_rounding(batch_size):
    """Also where the last piece is smaller: every item weighs the same."""
    index = [3, 1, 4, 7, 5, 9, 2]
    gradient, score = computed([index], batch_size=batch_size)
    expected, expected_score = plain(index)
    torch.testing.assert_close(gradient.buffer, expected, rtol=1e-5, atol=1e-7)
    assert score.loss == pytest.approx(expected_score.loss)
    assert score[1:] == expected_score[1:]


def test_the_gradient_of_all_pieces_is_clipped():
    gradient, _ = computed([[0, 1, 2, 3]], batch_size=2, clip=0.01)
    assert gradient.buffer.norm() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("amp", ["bf16", "fp16"])
def test_the_forward_pass_is_of_mixed_precision(amp):
    seen = []

    class Net(nn.Linear):
        def forward(self, inputs):
            outputs = super().forward(inputs)
            seen.append(outputs.dtype)
            return outputs

    torch.manual_seed(1)
    index = [3, 1, 4, 7]
    gradient, _ = computed([index], amp=amp, model=Net(6, 3))
    expected, _ = plain(index)
    assert seen == [{"bf16": torch.bfloat16, "fp16": torch.float16}[amp]]
    assert gradient.buffer.dtype == torch.float32
    assert not torch.equal(gradient.buffer, expected)
    torch.testing.assert_close(gradient.buffer, expected, rtol=0.05, atol=0.01)


def overflowing():
    """Item 0 makes a gradient that no float16 holds, once it is scaled."""
    items = Items()
    items.inputs[0] = 3e4
    items.labels[0] = 0
    return items


def test_a_gradient_that_overflows_stays_infinite_and_lowers_the_scale():
    gradient, _ = computed([[0]], overflowing(), amp="fp16")
    assert not gradient.buffer.isfinite().all()
    assert gradient.state(0)["scale"] == 2.0**15
    gradient.compute(0, torch.tensor([1]))
    assert gradient.buffer.isfinite().all()
    assert gradient.state(0)["_growth_tracker"] == 1


def test_the_scale_goes_on_from_its_state():
    before, _ = computed([[0], [0], [1]], overflowing(), amp="fp16")
    after, _ = computed([[1]], amp="fp16")
    after.restore(0, before.state(0))
    assert after.state(0) == before.state(0)
    assert after.state(0)["scale"] == 2.0**14


def test_without_a_scale_there_is_no_state():
    gradient, _ = computed([[1]], amp="bf16")
    assert gradient.state(0) == {}
