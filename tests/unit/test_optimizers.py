"""The optimizers as users of torch.optim know them, and a round against its parts."""

import copy
import inspect
import io
import logging
import pickle
from collections import defaultdict

import numpy as np
import pytest
import torch
from rounds import empty_range

import compsgd
from compsgd.codec.binning import discretise, signed, update_range
from compsgd.codec.combine import vote
from compsgd.codec.compiling import Eager
from compsgd.layout import FlatLayout, Span
from compsgd.rng import BREAK_TIE, BREAK_ZERO, derive_key, random_bits

SHAPES = [(3, 4), (5,), (2, 2, 2)]
LEVEL_OPTIMIZERS = [compsgd.SignSGD, compsgd.CompressedSGD, compsgd.CompressedSGDVote]
OPTIMIZERS = [compsgd.SGD, *LEVEL_OPTIMIZERS]


def make_parameters(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]


def set_gradients(parameters, seed):
    """Gradients with some zeros."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient * (torch.rand(parameter.shape, generator=generator) > 0.3)


def take_rounds(optimizer, parameters, rounds, num_workers=1):
    for round_ in rounds:
        for worker in range(num_workers):
            set_gradients(parameters, 100 * round_ + worker)
            optimizer.compress(worker)
        optimizer.step()


def values(parameters):
    return torch.cat([parameter.detach().flatten() for parameter in parameters])


def flat_gradient(parameters):
    return torch.cat([parameter.grad.flatten() for parameter in parameters])


def break_zeros(levels, bits):
    """Every level 0 becomes -1 or +1, as its bit says."""
    return torch.where(levels == 0, 2 * bits.to(levels.dtype) - 1, levels)


@pytest.mark.parametrize("rand_zero", [True, False])
@pytest.mark.parametrize("num_bits", [1, 3, 8])
@pytest.mark.parametrize("binning", ["lin", "exp"])
def test_a_round_is_its_manual_chain(binning, num_bits, rand_zero):
    num_workers, lr, seed = 3, 0.01, 5
    parameters = make_parameters()
    optimizer = compsgd.CompressedSGDVote(
        parameters,
        lr,
        num_bits=num_bits,
        binning=binning,
        decay_min=0.9,
        decay_max=0.7,
        rand_zero=rand_zero,
        seed=seed,
        num_workers=num_workers,
        count_usages=True,
    )
    expected = values(parameters)
    numel = expected.numel()
    ranges = [empty_range(numel) for _ in range(num_workers)]
    for round_ in range(4):
        total = torch.zeros(numel, dtype=torch.int32)
        for worker, (maximum, minimum) in enumerate(ranges):
            set_gradients(parameters, 100 * round_ + worker)
            gradient = flat_gradient(parameters)
            update_range(maximum, minimum, gradient, decay_max=0.7, decay_min=0.9)
            levels = signed(*discretise(gradient, maximum, minimum, num_bits, binning))
            if rand_zero:
                key = derive_key(seed, BREAK_ZERO, round_, worker)
                levels = break_zeros(levels, random_bits(key, 0, numel))
            packed = compsgd.pack(levels, num_bits, zeros=not rand_zero)
            total += compsgd.unpack(packed, numel, num_bits, zeros=not rand_zero)
        voted = vote(total, num_workers)
        if rand_zero:
            key = derive_key(seed, BREAK_TIE, round_)
            voted = break_zeros(voted, random_bits(key, 0, numel))
        rounded_lr = torch.tensor(lr, dtype=torch.float32).double()
        expected = (expected.double() - rounded_lr * voted.double()).float()
        take_rounds(optimizer, parameters, [round_], num_workers)
        assert torch.equal(values(parameters), expected)
        largest = 2 ** (num_bits - 1)
        counts = [int((voted == level).sum()) for level in range(-largest, largest + 1)]
        assert optimizer.bin_counts[-1].tolist() == counts


def test_sgd_steps_by_the_mean_in_worker_order():
    parameters = make_parameters()
    before = values(parameters)
    optimizer = compsgd.SGD(parameters, 0.1, num_workers=3)
    total = torch.zeros_like(before)
    for worker in range(3):
        set_gradients(parameters, worker)
        total += flat_gradient(parameters)
        optimizer.compress(worker)
    optimizer.step()
    assert torch.equal(values(parameters), before.add(total / 3, alpha=-float(np.float32(0.1))))


def test_sgd_alone_is_torch_sgd():
    ours, theirs = make_parameters(), make_parameters()
    optimizer, reference = compsgd.SGD(ours, 0.1), torch.optim.SGD(theirs, 0.1)
    for seed in range(5):
        for parameters, one in ((ours, optimizer), (theirs, reference)):
            set_gradients(parameters, seed)
            one.step()
    assert torch.allclose(values(ours), values(theirs), rtol=1e-6)


def test_compressed_sgd_steps_by_the_exact_mean():
    parameters = make_parameters()
    before = values(parameters)
    optimizer = compsgd.CompressedSGD(parameters, 1.0, num_workers=3, count_usages=True)
    take_rounds(optimizer, parameters, [0], 3)
    thirds = (before - values(parameters)) * 3
    assert torch.allclose(thirds, thirds.round(), atol=1e-4)
    assert bool((thirds.round() % 3 != 0).any())
    rounded = (thirds.round().abs() / 3).ceil() * thirds.sign()
    counts = [int((rounded == level).sum()) for level in range(-4, 5)]
    assert optimizer.bin_counts[0].tolist() == counts


@pytest.mark.parametrize("rand_zero", [True, False])
@pytest.mark.parametrize("num_bits", [1, 3])
def test_one_worker_votes_as_it_compresses(num_bits, rand_zero):
    results = []
    for optimizer in (compsgd.CompressedSGD, compsgd.CompressedSGDVote):
        parameters = make_parameters()
        one = optimizer(parameters, 0.01, num_bits=num_bits, rand_zero=rand_zero)
        take_rounds(one, parameters, range(5))
        results.append(values(parameters))
    assert torch.equal(*results)


@pytest.mark.parametrize("rand_zero", [True, False])
def test_one_bit_vote_is_sign_sgd(rand_zero):
    results = []
    for optimizer, settings in (
        (compsgd.SignSGD, {}),
        (compsgd.CompressedSGDVote, {"num_bits": 1, "decay_max": 0.9}),
    ):
        parameters = make_parameters()
        one = optimizer(parameters, 0.01, rand_zero=rand_zero, num_workers=4, **settings)
        take_rounds(one, parameters, range(5), 4)
        results.append(values(parameters))
    assert torch.equal(*results)


@pytest.mark.parametrize("numel", [1, 7, 8, 33, 4099])
def test_the_update_is_rounded_once(numel):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.randn(numel, generator=generator).requires_grad_()
    before = parameter.detach().clone()
    parameter.grad = torch.randn(numel, generator=generator)
    compsgd.SignSGD([parameter], 3e-3).step()
    lr = torch.tensor(3e-3, dtype=torch.float32).double()
    expected = (before.double() - lr * parameter.grad.sign().double()).float()
    assert torch.equal(parameter.detach(), expected)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_gradients_stay_as_they_are(optimizer):
    parameters = make_parameters()
    set_gradients(parameters, 0)
    before = [(parameter.grad, parameter.grad.clone()) for parameter in parameters]
    optimizer(parameters, 0.01).step()
    for parameter, (gradient, content) in zip(parameters, before, strict=True):
        assert parameter.grad is gradient
        assert torch.equal(gradient, content)


def odd_gradients(shape):
    base = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return {
        "half": (base.half(), base.half().float()),
        "double": (base.double(), base),
        "transposed": (base.t().contiguous().t(), base),
        "expanded": (torch.tensor(2.0).expand(shape), torch.full(shape, 2.0)),
        "sparse": (base.to_sparse(), base),
        "view": (torch.cat([base, base])[: shape[0]], base),
    }


@pytest.mark.parametrize("kind", list(odd_gradients((6, 5))))
def test_any_real_gradient_tensor_will_do(kind):
    gradient, plain = odd_gradients((6, 5))[kind]
    # torch itself insists on the parameter's type in p.grad, so the parameter follows.
    odd, reference = (torch.zeros(6, 5, dtype=g.dtype) for g in (gradient, plain))
    odd.grad, reference.grad = gradient, plain
    for parameter in (odd, reference):
        compsgd.CompressedSGDVote([parameter], 0.5, num_bits=3).step()
    assert torch.equal(odd.float(), reference)


def test_channels_last_parameters_follow_the_logical_order():
    plain = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        parameter = plain.clone(memory_format=memory_format).requires_grad_()
        parameter.grad = (plain * 3 - 1).clone(memory_format=memory_format)
        compsgd.CompressedSGDVote([parameter], 0.1).step()
        results.append(parameter.detach().contiguous())
    assert torch.equal(*results)


def test_complex_gradients_are_refused():
    parameter = torch.zeros(3, dtype=torch.complex64)
    parameter.grad = torch.ones(3, dtype=torch.complex64)
    with pytest.raises(compsgd.CompsgdError, match="complex"):
        compsgd.SignSGD([parameter], 0.1).step()


# State.


def reload_through_state_dict(optimizer, parameters):
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    fresh = make_parameters()
    for new, old in zip(fresh, parameters, strict=True):
        new.data.copy_(old.data)
    other = type(optimizer)(fresh, 0.5, num_workers=2, seed=3)
    other.load_state_dict(torch.load(file, weights_only=True))
    return other, fresh


def copy_deeply(optimizer, parameters):
    # Deepcopy of both together, as with a model that owns the parameters.
    return copy.deepcopy((optimizer, parameters))


def pickle_and_back(optimizer, parameters):
    return pickle.loads(pickle.dumps((optimizer, parameters)))


@pytest.mark.parametrize("survive", [reload_through_state_dict, copy_deeply, pickle_and_back])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("workers", [[0], [1], [0, 1]])
def test_state_survives_even_between_compress_and_step(workers, optimizer, survive):
    parameters = make_parameters()
    settings = {} if optimizer is compsgd.SGD else {"seed": 3}
    one = optimizer(parameters, 0.01, num_workers=2, **settings)
    take_rounds(one, parameters, range(3), 2)
    for worker in workers:
        set_gradients(parameters, 77 + worker)
        one.compress(worker)
    if optimizer is compsgd.SGD and survive is reload_through_state_dict:
        fresh = make_parameters()
        for new, old in zip(fresh, parameters, strict=True):
            new.data.copy_(old.data)
        other, others = compsgd.SGD(fresh, 0.5, num_workers=2), fresh
        other.load_state_dict(copy.deepcopy(one.state_dict()))
    else:
        other, others = survive(one, parameters)
    for each, its_parameters in ((one, parameters), (other, others)):
        each.step()
        take_rounds(each, its_parameters, range(10, 13), 2)
    assert torch.equal(values(parameters), values(others))
    assert one.round == other.round == 7


def test_load_state_dict_copies():
    parameters = make_parameters()
    one = compsgd.CompressedSGDVote(parameters, 0.01)
    take_rounds(one, parameters, range(2))
    saved = one.state_dict()
    other = compsgd.CompressedSGDVote(make_parameters(), 0.01)
    other.load_state_dict(saved)
    maximum = other.worker_range(0)[0].clone()
    take_rounds(one, parameters, range(2, 5))
    assert torch.equal(other.worker_range(0)[0], maximum)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: compsgd.CompressedSGDVote([torch.zeros(3)], 0.1), "shape"),
        (lambda: compsgd.SignSGD([torch.zeros(2)], 0.1), "no num_bits"),
        (lambda: torch.optim.SGD([torch.zeros(2)], 0.1), "no "),
        (lambda: compsgd.CompressedSGD([torch.zeros(2)], 0.1, seed=7), "seed=7; here it is 0"),
        (lambda: compsgd.CompressedSGD([torch.zeros(2)], 0.1, num_bits=5), "num_bits=5"),
        (lambda: compsgd.CompressedSGD([torch.zeros(2)], 0.1, binning="exp"), "binning='exp'"),
        (lambda: compsgd.CompressedSGD([torch.zeros(1), torch.zeros(1)], 0.1), "groups of"),
    ],
)
def test_foreign_state_is_refused_and_changes_nothing(other, message):
    parameters = [torch.zeros(2)]
    one = compsgd.CompressedSGDVote(parameters, 0.01)
    parameters[0].grad = torch.tensor([1.0, -2.0])
    one.step()
    with pytest.raises(compsgd.CompsgdError, match=message):
        one.load_state_dict(other().state_dict())
    assert one.round == 1
    assert one.worker_range(0)[0].tolist() == [1.0, -2.0]


def test_state_without_a_hosted_worker_is_refused():
    two = compsgd.CompressedSGD([torch.zeros(2)], 0.1, num_workers=2)
    three = compsgd.CompressedSGD([torch.zeros(2)], 0.1, num_workers=3)
    with pytest.raises(compsgd.CompsgdError, match="no max of worker 2"):
        three.load_state_dict(two.state_dict())
    two.load_state_dict(three.state_dict())


# Groups, closures, schedulers.


def test_groups_have_their_own_lr():
    first, second = torch.zeros(3), torch.zeros(2)
    optimizer = compsgd.SignSGD([{"params": [first], "lr": 0.5}, {"params": [second]}], lr=0.25)
    first.grad, second.grad = torch.ones(3), -torch.ones(2)
    optimizer.step()
    assert first.tolist() == [-0.5] * 3
    assert second.tolist() == [0.25] * 2


def test_a_group_added_late_starts_with_a_range_that_saw_nothing():
    old, new = torch.zeros(3), torch.zeros(2)
    optimizer = compsgd.CompressedSGDVote([old], 1.0, num_bits=3)
    old.grad = torch.tensor([4.0, 4.0, 4.0])
    optimizer.step()
    optimizer.add_param_group({"params": [new], "lr": 0.5})
    old.grad, new.grad = torch.ones(3), torch.ones(2)
    optimizer.step()
    assert old.tolist() == [-5.0] * 3
    assert new.tolist() == [-2.0] * 2
    assert optimizer.worker_range(0)[0].tolist() == [4.0] * 3 + [1.0] * 2


def test_groups_cannot_differ_in_more_than_lr():
    with pytest.raises(compsgd.CompsgdError, match="num_bits"):
        compsgd.CompressedSGD([{"params": [torch.zeros(2)], "num_bits": 1}], 0.1)


def test_no_group_is_added_between_compress_and_step():
    parameter = torch.zeros(2)
    optimizer = compsgd.SignSGD([parameter], 0.1)
    parameter.grad = torch.ones(2)
    optimizer.compress()
    with pytest.raises(compsgd.CompsgdError, match="between compress and step"):
        optimizer.add_param_group({"params": [torch.zeros(1)]})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_closure(optimizer):
    parameter = torch.tensor([3.0, -4.0], requires_grad=True)
    one = optimizer([parameter], 0.1)

    def closure():
        one.zero_grad()
        loss = parameter.square().sum()
        loss.backward()
        return loss

    assert one.step(closure).item() == 25.0
    assert parameter[0] < 3
    assert parameter[1] > -4


def test_schedulers_drive_lr():
    parameter = torch.zeros(1)
    optimizer = compsgd.SignSGD([parameter], 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    for _ in range(3):
        parameter.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    assert parameter.item() == -1.75


# Compress.


def test_the_later_ballot_counts_and_the_range_sees_both():
    parameter = torch.zeros(2)
    optimizer = compsgd.CompressedSGDVote([parameter], 1.0, num_bits=3)
    parameter.grad = torch.tensor([8.0, -8.0])
    optimizer.compress()
    parameter.grad = torch.tensor([2.0, 4.0])
    optimizer.compress()
    optimizer.step()
    assert parameter.tolist() == [-1.0, -4.0]
    assert optimizer.worker_range(0)[0].tolist() == [8.0, 4.0]
    assert optimizer.worker_range(0)[1].tolist() == [2.0, -8.0]


def test_step_without_compress_needs_to_know_whose_gradients_these_are():
    parameter = torch.zeros(2)
    optimizer = compsgd.SignSGD([parameter], 0.1, num_workers=2)
    parameter.grad = torch.ones(2)
    with pytest.raises(compsgd.CompsgdError, match=r"hosts 2 workers.*compress\(worker=i\)"):
        optimizer.step()


@pytest.mark.parametrize("worker", [-1, 2, 1.0, True])
def test_unknown_workers_are_refused(worker):
    optimizer = compsgd.SignSGD([torch.zeros(2)], 0.1, num_workers=2)
    with pytest.raises(compsgd.CompsgdError, match="worker is"):
        optimizer.compress(worker)


# Sitting out (design, section 5).


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_sits_out(optimizer, bad, caplog):
    """The round equals one in which only the other two workers voted."""
    results = []
    for poison in (True, False):
        parameters = make_parameters()
        one = optimizer(zip("abc", parameters, strict=True), 0.01, num_workers=3)
        with caplog.at_level(logging.WARNING, "compsgd"):
            for round_ in range(3):
                for worker in range(3):
                    set_gradients(parameters, 10 * round_ + worker)
                    if worker == 1 and poison:
                        parameters[1].grad[2] = bad
                    elif worker == 1:
                        one.zero_grad()
                    one.compress(worker)
                one.step()
        assert one.participants == (0, 2)
        assert one.num_non_finite == (3 if poison else 0)
        results.append(values(parameters))
    assert torch.equal(*results)
    assert [record.getMessage() for record in caplog.records] == [
        "worker 1 sits out round 0: the gradient of parameter b is not finite "
        "(reported once, counted from here on)"
    ]


def test_sitting_out_leaves_the_range_alone():
    parameter = torch.zeros(2)
    optimizer = compsgd.CompressedSGDVote([parameter], 1.0, decay_max=0.5, decay_min=0.5)
    parameter.grad = torch.tensor([8.0, -8.0])
    optimizer.step()
    parameter.grad = torch.tensor([float("nan"), 100.0])
    optimizer.step()
    assert [bound.tolist() for bound in optimizer.worker_range(0)] == [[8.0, -8.0]] * 2


def test_strict_makes_it_an_error():
    parameter = torch.zeros(2)
    optimizer = compsgd.SignSGD([parameter], 0.1, strict=True)
    parameter.grad = torch.tensor([1.0, float("nan")])
    with pytest.raises(compsgd.CompsgdError, match=r"worker 0 sits out round 0: .* number 0"):
        optimizer.step()
    assert parameter.tolist() == [0, 0]
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert parameter.tolist() == [pytest.approx(-0.1)] * 2
    assert optimizer.round == 2


@pytest.mark.parametrize("optimizer", LEVEL_OPTIMIZERS)
def test_a_round_without_participants_changes_nothing(optimizer):
    parameter = torch.ones(5)
    one = optimizer([parameter], 0.1, count_usages=True)
    one.step()
    assert one.participants == ()
    assert one.round == 1
    assert parameter.tolist() == [1] * 5
    assert one.bin_counts[0].sum() == one.bin_counts[0][len(one.bin_counts[0]) // 2] == 5


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_parameter_nobody_has_a_gradient_for_is_left_alone(optimizer):
    parameters = make_parameters()
    before = [parameter.detach().clone() for parameter in parameters]
    one = optimizer(parameters, 0.1, num_workers=2)
    for worker in range(2):
        set_gradients(parameters, worker)
        parameters[1].grad = None
        one.compress(worker)
    one.step()
    unchanged = [torch.equal(p, b) for p, b in zip(parameters, before, strict=True)]
    assert unchanged == [False, True, False]


@pytest.mark.parametrize("rand_zero", [True, False])
def test_who_lacks_a_gradient_sits_out_for_that_parameter_only(rand_zero):
    """Where workers disagree, each parameter is as if only those with a gradient existed."""

    def drive(participants):
        parameters = make_parameters()
        one = compsgd.CompressedSGDVote(
            parameters, 0.01, num_workers=3, rand_zero=rand_zero, count_usages=True
        )
        for round_ in range(3):
            for worker in participants:
                set_gradients(parameters, 10 * round_ + worker)
                if len(participants) == 3 and worker == 1:
                    parameters[0].grad = None
                one.compress(worker)
            one.step()
        return parameters, one

    mixed, optimizer = drive((0, 1, 2))
    without_1, _ = drive((0, 2))
    with_all = make_parameters()
    full = compsgd.CompressedSGDVote(with_all, 0.01, num_workers=3, rand_zero=rand_zero)
    for round_ in range(3):
        for worker in range(3):
            set_gradients(with_all, 10 * round_ + worker)
            full.compress(worker)
        full.step()
    assert torch.equal(mixed[0], without_1[0])
    assert torch.equal(mixed[1], with_all[1])
    assert torch.equal(mixed[2], with_all[2])
    numel = sum(parameter.numel() for parameter in mixed)
    assert {int(counts.sum()) for counts in optimizer.bin_counts} == {numel}
    assert bool(optimizer.worker_range(1)[0][:12].isinf().all())


def test_stale_gradients_of_a_finished_worker_never_vote():
    parameter = torch.zeros(2)
    optimizer = compsgd.SignSGD([parameter], 1.0, num_workers=2)
    parameter.grad = torch.ones(2)
    optimizer.compress(0)
    parameter.grad = -torch.ones(2)
    optimizer.compress(1)
    optimizer.step()
    parameter.grad = torch.ones(2)
    optimizer.compress(0)
    optimizer.step()
    assert optimizer.participants == (0,)


# Arguments.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1}, "lr is -1"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": 1e39}, "lr is 1e"),
        ({"lr": 1e-50}, "lr is 1e"),
        ({"rand_zero": "false"}, "rand_zero is 'false'"),
        ({"strict": 1}, "strict is 1"),
        ({"num_bits": 9}, "num_bits is 9"),
        ({"num_bits": 3.0}, "num_bits is 3.0"),
        ({"binning": "log"}, "binning is 'log'.*lin, exp"),
        ({"decay_min": 0}, "decay_min is 0"),
        ({"decay_max": 1.5}, "decay_max is 1.5"),
        ({"decay_max": float("nan")}, "decay_max is nan"),
        ({"num_workers": 0}, "num_workers is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "x"}, "seed is 'x'"),
    ],
)
def test_bad_arguments_name_the_value(settings, message):
    with pytest.raises(compsgd.CompsgdError, match=message):
        compsgd.CompressedSGDVote([torch.zeros(2)], **{"lr": 0.1, **settings})


def test_num_workers_must_agree_with_the_exchange():
    exchange = compsgd.InProcessExchange(3)
    assert compsgd.SignSGD([torch.zeros(1)], 0.1, exchange=exchange).exchange.num_workers == 3
    with pytest.raises(compsgd.CompsgdError, match=r"num_workers is 2.*connects 3"):
        compsgd.SignSGD([torch.zeros(1)], 0.1, num_workers=2, exchange=exchange)


def test_layout_joins_neighbours_with_equal_labels():
    layout = FlatLayout([2, 3, 0, 4])
    assert layout.labelled_spans("aabb") == [("a", (0, 5)), ("b", (5, 9))]
    assert list(layout.parts_of(Span(1, 6))) == [(0, (1, 2)), (1, (2, 5)), (3, (5, 6))]


@pytest.mark.parametrize("rand_zero", [True, False])
@pytest.mark.parametrize("num_bits", [1, 2, 3, 4, 5])
def test_working_in_pieces_makes_no_difference(num_bits, rand_zero, monkeypatch):
    """Against one piece for everything, with a parameter that one worker has no gradient for."""
    results = []
    for piece_numel in (1 << 12, 1 << 20):
        monkeypatch.setattr(Eager, "chunk_numel", piece_numel)
        generator = torch.Generator().manual_seed(0)
        parameters = [torch.zeros(size) for size in (9_000, 5, 72_345)]
        optimizer = compsgd.CompressedSGDVote(
            parameters,
            0.1,
            num_bits=num_bits,
            rand_zero=rand_zero,
            decay_max=0.9,
            num_workers=2,
            compile="off",
        )
        for _ in range(3):
            for worker in range(2):
                for parameter in parameters:
                    parameter.grad = torch.randn(parameter.shape, generator=generator)
                if worker == 1:
                    parameters[2].grad = None
                optimizer.compress(worker)
            optimizer.step()
        results.append(values(parameters))
    assert torch.equal(*results)


def test_bin_counts_survive_in_the_state():
    parameters = make_parameters()
    one = compsgd.SignSGD(parameters, 0.1, count_usages=True)
    take_rounds(one, parameters, range(3))
    saved = one.state_dict()
    take_rounds(one, parameters, range(3, 5))
    other = compsgd.SignSGD(make_parameters(), 0.1, count_usages=True)
    other.load_state_dict(saved)
    assert len(other.bin_counts) == 3
    for ours, theirs in zip(other.bin_counts, one.bin_counts, strict=False):
        assert ours.tolist() == theirs.tolist()


def test_an_empty_group_is_no_obstacle():
    parameter = torch.zeros(2)
    optimizer = compsgd.SignSGD([{"params": []}, {"params": [parameter]}], 0.5)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert parameter.tolist() == [-0.5] * 2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_was_saved_in_mid_round_stays_as_it_was(optimizer):
    parameters, others = make_parameters(), make_parameters()
    one, other = (optimizer(group, 0.1, num_workers=3) for group in (parameters, others))
    set_gradients(parameters, 0)
    one.compress(0)
    saved = one.state_dict()
    for worker in (1, 2):
        set_gradients(parameters, worker)
        one.compress(worker)
    other.load_state_dict(saved)
    for worker in (1, 2):
        set_gradients(others, worker)
        other.compress(worker)
    for each in (one, other):
        each.step()
    assert one.participants == other.participants == (0, 1, 2)
    assert torch.equal(values(parameters), values(others))


# The conventions of torch.


def test_repr_shows_what_it_was_made_with():
    optimizer = compsgd.CompressedSGDVote([torch.zeros(2)], 0.25, num_bits=2, binning="exp", seed=4)
    lines = {line.strip() for line in repr(optimizer).splitlines()}
    assert {"lr: 0.25", "num_bits: 2", "binning: exp", "seed: 4"} <= lines
    assert repr(optimizer).startswith("CompressedSGDVote (")


def test_the_signature_shows_the_settings():
    parameters = inspect.signature(compsgd.CompressedSGDVote).parameters
    assert list(parameters)[:2] == ["params", "lr"]
    assert parameters["num_bits"].default == 3
    assert parameters["num_bits"].kind is inspect.Parameter.KEYWORD_ONLY
    assert "changes" not in parameters
    assert "num_bits" not in inspect.signature(compsgd.SignSGD).parameters


def moved(value):
    return value.to("cpu")


def replace_state_tensors(optimizer, change):
    """The loop that many programs have, to move an optimizer's state to a device."""
    for per_param in optimizer.state.values():
        for key, value in per_param.items():
            if torch.is_tensor(value):
                per_param[key] = change(value)


@pytest.mark.parametrize("change", [moved, torch.clone], ids=["to", "clone"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_replaced_state_tensors_go_on(optimizer, change):
    results = []
    for replaces in (True, False):
        parameters = make_parameters()
        one = optimizer(parameters, 0.01, num_workers=2)
        for round_ in range(4):
            take_rounds(one, parameters, [round_], 2)
            if replaces:
                replace_state_tensors(one, change)
        assert one.round == 4
        results.append(values(parameters))
    assert torch.equal(*results)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("after", ["first", "last"])
def test_state_tensors_replaced_in_mid_round_lose_no_ballot(optimizer, after):
    results = []
    for replaces in (True, False):
        parameters = make_parameters()
        one = optimizer(parameters, 0.01, num_workers=2)
        for round_ in range(3):
            for worker in range(2):
                set_gradients(parameters, 100 * round_ + worker)
                one.compress(worker)
                if replaces and worker == ("first", "last").index(after):
                    replace_state_tensors(one, torch.clone)
            one.step()
            assert one.participants == (0, 1)
        set_gradients(parameters, 999)
        one.compress(0)
        assert one.round == 3
        results.append(values(parameters))
    assert torch.equal(*results)


def test_values_written_into_the_state_count():
    parameter = torch.zeros(2)
    optimizer = compsgd.CompressedSGDVote([parameter], 1.0)
    parameter.grad = torch.tensor([1.0, 2.0])
    optimizer.step()
    optimizer.state[parameter]["max.0"] = torch.tensor([4.0, 2.0])
    optimizer.step()
    assert parameter.tolist() == [-4.0 - 1, -4.0 - 4]
    assert optimizer.worker_range(0)[0].tolist() == [4.0, 2.0]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_emptied_state_starts_afresh(optimizer):
    parameters = make_parameters()
    one = optimizer(parameters, 0.01)
    take_rounds(one, parameters, range(3))
    one.state = defaultdict(dict)
    fresh = [parameter.detach().clone().requires_grad_() for parameter in parameters]
    other = optimizer(fresh, 0.01)
    set_gradients(parameters, 5)
    one.step()
    set_gradients(fresh, 5)
    other.step()
    assert one.round == 1
    assert torch.equal(values(parameters), values(fresh))
    if one.keeps_range:
        for ours, theirs in zip(one.worker_range(0), other.worker_range(0), strict=True):
            assert torch.equal(ours, theirs)


def test_an_emptied_state_has_an_empty_range():
    parameter = torch.zeros(2)
    optimizer = compsgd.CompressedSGDVote([parameter], 0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    optimizer.state = defaultdict(dict)
    optimizer.state_dict()
    assert optimizer.round == 0
    assert optimizer.worker_range(0)[0].tolist() == [-float("inf")] * 2


def one_cycle(optimizer, **settings):
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=4, **settings)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_cycle_would_move_a_momentum_that_is_not_there(optimizer):
    parameter = torch.zeros(1)
    one = optimizer([parameter], 1.0)
    one_cycle(one)
    parameter.grad = torch.ones(1)
    with pytest.raises(compsgd.SettingError, match="set cycle_momentum=False"):
        one.step()
    assert parameter.item() == 0


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_cycle_without_momentum_trains(optimizer):
    parameter = torch.zeros(1)
    one = optimizer([parameter], 1.0)
    scheduler = one_cycle(one, cycle_momentum=False)
    moves = []
    for _ in range(3):
        before = parameter.item()
        parameter.grad = torch.ones(1)
        one.step()
        moves.append((before - parameter.item(), one.param_groups[0]["lr"]))
        scheduler.step()
    per_lr = [move / lr for move, lr in moves]
    assert len({lr for _, lr in moves}) == 3
    assert per_lr == pytest.approx([per_lr[0]] * 3)


@pytest.mark.parametrize(
    ("name", "value"), [("num_bits", 1), ("binning", "exp"), ("seed", 1), ("rand_zero", False)]
)
def test_what_is_fixed_cannot_be_changed_in_a_group(name, value):
    parameter = torch.zeros(1)
    optimizer = compsgd.CompressedSGDVote([parameter], 0.1)
    optimizer.param_groups[0][name] = value
    parameter.grad = torch.ones(1)
    with pytest.raises(compsgd.SettingError, match=f"{name} of a parameter group is {value!r}; it"):
        optimizer.step()
    assert parameter.item() == 0


@pytest.mark.parametrize("lr", [torch.tensor(0.5), torch.tensor([0.5]), np.float32(0.5)])
def test_an_lr_may_be_a_tensor(lr):
    parameter = torch.zeros(1)
    optimizer = compsgd.SignSGD([{"params": [parameter], "lr": lr}], lr)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.tolist() == [-0.5]


def test_an_lr_of_0_moves_nothing_and_sees_the_gradient():
    parameter = torch.zeros(1)
    optimizer = compsgd.CompressedSGDVote([parameter], 0.0)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.item() == 0
    assert optimizer.worker_range(0)[0].item() == 1


@pytest.mark.parametrize(
    "extra", [{"weight_decay": 0.0}, {"name": "head"}, {"momentum": 0}, {"num_bits": 3}]
)
def test_groups_may_say_what_is_so_anyway(extra):
    parameter = torch.zeros(1)
    optimizer = compsgd.CompressedSGDVote([{"params": [parameter], **extra}], 0.5)
    parameter.grad = torch.ones(1)
    optimizer.step()
    assert parameter.tolist() == [-2.0]
    (name,) = extra
    assert optimizer.param_groups[0][name] == extra[name]


@pytest.mark.parametrize("extra", [{"weight_decay": 0.1}, {"momentum": 0.9}, {"nesterov": True}])
def test_groups_cannot_ask_for_what_is_not_there(extra):
    (name,) = extra
    with pytest.raises(compsgd.SettingError, match=f"a parameter group sets {name}="):
        compsgd.CompressedSGDVote([{"params": [torch.zeros(1)], **extra}], 0.5)


def test_a_lazy_module_is_told_what_to_do():
    with pytest.raises(compsgd.SettingError, match="run a batch through the model first"):
        compsgd.SignSGD(torch.nn.LazyLinear(3).parameters(), 0.1)


def test_a_shortened_list_of_parameters():
    parameters = make_parameters()
    optimizer = compsgd.SignSGD(parameters, 0.1)
    del optimizer.param_groups[0]["params"][1]
    set_gradients(parameters, 0)
    with pytest.raises(compsgd.SettingError, match=r"hold 2 parameters, and held 3 before; make a"):
        optimizer.step()


@pytest.mark.parametrize(
    "state", [{"ranges": {0: torch.zeros(2)}, "ballots": {}}, {"ranges": {}}, {"ballots": {}}]
)
def test_state_of_the_old_format_is_refused_in_words(state):
    optimizer = compsgd.CompressedSGDVote([torch.zeros(2)], 0.1)
    old = {"state": {"round": 3, **state}, "param_groups": optimizer.state_dict()["param_groups"]}
    with pytest.raises(compsgd.SettingError, match=r"of compsgd 0\.1, which kept its state in ano"):
        optimizer.load_state_dict(old)
    assert optimizer.round == 0


def test_state_without_anything_is_refused():
    optimizer = compsgd.CompressedSGDVote([torch.zeros(2)], 0.1)
    empty = {"state": {}, "param_groups": optimizer.state_dict()["param_groups"]}
    with pytest.raises(compsgd.SettingError, match="no step"):
        optimizer.load_state_dict(empty)


def test_a_settings_object_is_its_keyword_arguments():
    changes = {"num_bits": 2, "binning": "exp", "decay_max": 0.9, "seed": 4, "rand_zero": False}
    results = []
    for arguments in (changes, {"settings": compsgd.VoteSettings(**changes)}):
        parameters = make_parameters()
        optimizer = compsgd.CompressedSGDVote(parameters, 0.01, num_workers=2, **arguments)
        assert optimizer.settings == compsgd.VoteSettings(**changes)
        take_rounds(optimizer, parameters, range(3), 2)
        results.append(values(parameters))
    assert torch.equal(*results)


def test_keyword_arguments_win_over_a_settings_object():
    settings = compsgd.VoteSettings(num_bits=2, seed=4)
    optimizer = compsgd.CompressedSGD([torch.zeros(2)], 0.1, settings=settings, num_bits=5)
    assert (optimizer.settings.num_bits, optimizer.settings.seed) == (5, 4)


@pytest.mark.parametrize(
    ("optimizer", "settings", "message"),
    [
        (compsgd.CompressedSGDVote, {"scale": 2.0}, "no setting scale, which is 2.0"),
        (compsgd.SGD, {"exempt_1d": True}, "no setting exempt_1d, which is True"),
        (compsgd.SignSGD, {"error_feedback": True}, "no setting error_feedback, which is True"),
        (compsgd.AdamW, {"momentum": 0.9}, "no setting momentum, which is 0.9"),
        (compsgd.SignSGD, {"num_bits": 2}, "no setting num_bits, which is 2"),
        (compsgd.SGD, {"seed": 1}, "no setting seed, which is 1"),
    ],
)
def test_settings_that_an_optimizer_does_not_know_are_refused(optimizer, settings, message):
    found = compsgd.VoteSettings(**settings)
    with pytest.raises(compsgd.SettingError, match=f"{optimizer.__name__} has {message}"):
        optimizer([torch.zeros(2)], 0.1, settings=found)
    (name,) = settings
    with pytest.raises(compsgd.SettingError, match=f"{optimizer.__name__} has no setting {name}"):
        optimizer([torch.zeros(2)], 0.1, **settings)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_parameters_keep_a_float32_range(dtype):
    def half_parameters():
        return [parameter.detach().to(dtype) for parameter in make_parameters()]

    def take(optimizer, parameters, rounds):
        for round_ in rounds:
            generator = torch.Generator().manual_seed(round_)
            for parameter in parameters:
                parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype)
            optimizer.step()

    parameters, others = half_parameters(), half_parameters()
    one, other = (
        compsgd.CompressedSGDVote(some, 0.01, decay_max=0.9, decay_min=0.7)
        for some in (parameters, others)
    )
    take(one, parameters, range(3))
    # Decayed bounds are no numbers of half precision.
    assert not torch.equal(one.worker_range(0)[0].to(dtype).float(), one.worker_range(0)[0])
    for new, old in zip(others, parameters, strict=True):
        new.copy_(old)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for ours, theirs in zip(one.worker_range(0), other.worker_range(0), strict=True):
        assert ours.dtype == torch.float32
        assert torch.equal(ours, theirs)
    take(one, parameters, range(3, 6))
    take(other, others, range(3, 6))
    assert torch.equal(values(parameters), values(others))


def test_a_grad_scaler_for_each_hosted_worker():
    """One alone refuses to unscale twice before a step; a worker whose gradient is not finite sits
    out by itself, and its scaler alone backs off."""
    net = torch.nn.Linear(4, 2)
    optimizer = compsgd.CompressedSGDVote(net.parameters(), lr=1e-3, num_workers=2)
    scalers = [torch.amp.GradScaler("cpu", init_scale=1024.0) for _ in range(2)]
    for step, participants in enumerate([(0, 1), (0,), (0, 1)]):
        for worker, scaler in enumerate(scalers):
            optimizer.zero_grad()
            loss = net(torch.randn(3, 4)).square().mean()
            scaler.scale(loss * (float("inf") if (step, worker) == (1, 1) else 1.0)).backward()
            scaler.unscale_(optimizer)
            optimizer.compress(worker)
        optimizer.step()
        for scaler in scalers:
            scaler.update()
        assert optimizer.participants == participants
    assert [scaler.get_scale() for scaler in scalers] == [1024.0, 512.0]
