"""A worker's gradient, as parts of the flat vector."""

import pytest
import torch

from compsgd.errors import SettingError
from compsgd.gradient import Gradient, GradientPart, gather
from compsgd.layout import FlatLayout, Span, Workspace
from compsgd.optim.flat_gradients import FlatGradients

CPU = torch.device("cpu")
SIZES = [2, 3, 1]
LAYOUT = FlatLayout(SIZES)


def parameters_with(gradients):
    parameters = [torch.zeros(size, requires_grad=True) for size in SIZES]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = None if gradient is None else torch.tensor(gradient)
    return parameters


def gathered(*gradients):
    return gather(parameters_with(gradients), LAYOUT, CPU)


FULL = ([1.0, 2.0], [3.0, -4.0, 5.0], [6.0])
MIDDLE_ABSENT = ([1.0, 2.0], None, [6.0])


def test_a_part_for_each_gradient():
    gradient = gathered(*MIDDLE_ABSENT)
    assert gradient.present == [True, False, True]
    assert [part.span for part in gradient.parts] == [(0, 2), (5, 6)]
    assert gradient.flat().tolist() == [1, 2, 0, 0, 0, 6]
    assert gradient.present_spans() == [(0, 2), (5, 6)]
    assert gradient.absent_spans() == [(2, 5)]


@pytest.mark.parametrize("absent", range(3))
def test_absent_elements_are_0_even_in_used_memory(absent):
    workspace = Workspace()
    workspace.take("gradient", LAYOUT.numel, torch.float32, CPU).fill_(9)
    some = [None if i == absent else values for i, values in enumerate(FULL)]
    plain = gathered(*some)
    gradient = Gradient(plain.parts, plain.present, LAYOUT, CPU, workspace)
    span = LAYOUT.spans[absent]
    expected = torch.tensor([1.0, 2.0, 3.0, -4.0, 5.0, 6.0])
    expected[span.slice] = 0
    assert torch.equal(gradient.flat(), expected)


def test_a_parts_values_are_the_gradients_own_memory():
    parameters = parameters_with(FULL)
    gradient = gather(parameters, LAYOUT, CPU)
    for part, parameter in zip(gradient.parts, parameters, strict=True):
        assert part.values.data_ptr() == parameter.grad.data_ptr()


def test_a_common_buffer_is_one_part_and_not_copied():
    parameters = [torch.zeros(size, requires_grad=True) for size in SIZES]
    flat = FlatGradients(parameters)
    flat.begin()
    sum(parameter.sum() for parameter in parameters).backward()
    flat.end()
    gradient = gather(parameters, LAYOUT, CPU)
    assert [part.span for part in gradient.parts] == [(0, 6)]
    assert gradient.flat().data_ptr() == flat.buffer.data_ptr()


def test_absent_is_the_same_worker_with_nothing():
    nothing = gathered(*FULL).absent()
    assert nothing.present == [False] * 3
    assert nothing.present_spans() == []
    assert nothing.absent_spans() == [(0, 6)]
    assert nothing.flat().tolist() == [0] * 6
    assert nothing.sums == []


def test_sums_are_of_parts_and_show_what_is_not_finite():
    assert gathered(*FULL).sums == [3, 4, 6]
    sums = gathered([1.0, float("inf")], None, [float("nan")]).sums
    assert sums[0] == float("inf")
    assert sums[1] != sums[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("index", range(3))
def test_the_first_that_is_not_finite(bad, index):
    gradients = [list(values) for values in FULL]
    for values in gradients[index:]:
        values[-1] = bad
    assert gathered(*gradients).first_non_finite() == index
    assert gathered(*FULL).first_non_finite() is None


def test_the_first_that_is_not_finite_in_a_part_of_several_parameters():
    values = torch.tensor([1.0, 2.0, 3.0, 4.0, float("nan"), 6.0])
    part = GradientPart(Span(0, 6), values)
    assert Gradient([part], [True] * 3, LAYOUT, CPU).first_non_finite() == 1


def test_large_finite_numbers_are_no_fault():
    gradient = gathered([3e38, 3e38], None, None)
    assert gradient.sums == [float("inf")]
    assert gradient.first_non_finite() is None


def test_sparse_and_half_gradients_become_plain():
    parameters = [torch.zeros(size) for size in SIZES[:2]]
    parameters[0].grad = torch.tensor([0.0, 7.0]).to_sparse()
    half = torch.zeros(1, dtype=torch.float16)
    half.grad = torch.tensor([0.5], dtype=torch.float16)
    gradient = gather([*parameters, half], LAYOUT, CPU)
    assert gradient.flat().tolist() == [0, 7, 0, 0, 0, 0.5]
    assert {part.values.dtype for part in gradient.parts} == {torch.float32}


def test_complex_gradients_are_refused():
    parameter = torch.zeros(2, dtype=torch.complex64)
    parameter.grad = torch.ones(2, dtype=torch.complex64)
    with pytest.raises(SettingError, match="complex"):
        gather([parameter], FlatLayout([2]), CPU)
