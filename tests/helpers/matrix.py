"""Every combination of workers, exchange, optimizer, bits and zeros on a tiny model, with workers
that sit out; what it leaves behind must not depend on the number of processes by a bit."""

import hashlib
import itertools

import torch

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange

SHAPES = [(7, 5), (3,), (2, 2, 4)]
ROUNDS = 5
OPTIMIZERS = {
    "sgd": compsgd.SGD,
    "adamw": compsgd.AdamW,
    "sign_sgd": compsgd.SignSGD,
    "compressed_sgd": compsgd.CompressedSGD,
    "compressed_sgd_vote": compsgd.CompressedSGDVote,
}


# What keeps the accuracy (design, section 2b), by what an optimizer knows of it.
EXTRAS = {
    "momentum": 0.9,
    "error_feedback": True,
    "l2": 0.1,
    "exempt_1d": True,
    "exempt_lr": 0.005,
}


def cases():
    """(num_workers, exchange, optimizer, num_bits, rand_zero, has_extras)."""
    for num_workers, exchange in itertools.product((2, 4, 8), ("all_gather", "scatter_reduce")):
        yield num_workers, exchange, "adamw", 32, False, False
        for has_extras in (True, False):
            yield num_workers, exchange, "sgd", 32, False, has_extras
        for rand_zero, has_extras in itertools.product((True, False), repeat=2):
            yield num_workers, exchange, "sign_sgd", 1, rand_zero, has_extras
            for name, num_bits in itertools.product(
                ("compressed_sgd", "compressed_sgd_vote"), (3,) if has_extras else (1, 3, 8)
            ):
                yield num_workers, exchange, name, num_bits, rand_zero, has_extras


def build_optimizer(parameters, case, exchange):
    _, _, name, num_bits, rand_zero, has_extras = case
    settings = {"exchange": exchange}
    if has_extras:
        known = OPTIMIZERS[name].known_settings
        settings |= {key: value for key, value in EXTRAS.items() if key in known}
    if name not in ("sgd", "adamw"):
        settings |= {"rand_zero": rand_zero, "seed": 3, "count_usages": True}
    if name.startswith("compressed"):
        settings |= {"num_bits": num_bits, "decay_max": 0.9, "decay_min": 0.7}
    return OPTIMIZERS[name](parameters, 0.01, **settings)


def set_gradients(parameters, round_, worker, num_workers):
    """False for a worker without a batch. Round 1: the last one has none; round 2: worker 1 meets
    a NaN, worker 2 has no gradient for a parameter; round 3: nobody has one for it."""
    if round_ == 1 and worker == num_workers - 1:
        return False
    generator = torch.Generator().manual_seed(1000 * round_ + worker)
    for parameter in parameters:
        gradient = torch.randn(parameter.shape, generator=generator)
        parameter.grad = gradient * (torch.rand(parameter.shape, generator=generator) > 0.3)
    if round_ == 2 and worker == 1:
        parameters[2].grad[0, 0, 0] = float("nan")
    if (round_ == 2 and worker == 2) or round_ == 3:
        parameters[1].grad = None
    return True


def run_case(case, exchange):
    """What a case leaves behind, as text."""
    num_workers = case[0]
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    optimizer = build_optimizer(parameters, case, exchange)
    participants = []
    for round_ in range(ROUNDS):
        for slot, worker in enumerate(exchange.hosted):
            if set_gradients(parameters, round_, worker, num_workers):
                optimizer.compress(slot)
        optimizer.zero_grad()
        optimizer.step()
        participants.append(len(optimizer.participants))
    assert participants == [num_workers, num_workers - 1, num_workers - 1] + [num_workers] * 2
    assert optimizer.num_non_finite == 1
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.detach().numpy().tobytes())
    for counts in getattr(optimizer, "bin_counts", []):
        digest.update(counts.tobytes())
    return digest.hexdigest()


def run_matrix(purpose, group):
    """Every case over the processes of a group: its digest, and its logical bytes by step."""
    results = {}
    world_size = 1 if group is None else group.size()
    for case in cases():
        if case[0] % world_size:
            continue
        ledger = Ledger()
        exchange = build_exchange(case[1], Collectives(ledger, purpose, case[0], group))
        digest = run_case(case, exchange)
        logical = [[step.logical, step.participants] for step in ledger.steps]
        wire = [step.wire.sent_bytes for step in ledger.steps]
        results[" ".join(map(str, case))] = {"digest": digest, "logical": logical, "wire": wire}
    return results
