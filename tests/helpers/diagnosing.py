"""Rounds of known gradients, what a diagnosis finds in them, and what it should."""

import itertools

import numpy as np
import torch

import compsgd
from compsgd.comm import Collectives, Ledger, build_exchange
from compsgd.comm.traffic.ledger import Purpose
from compsgd.workers.train.diagnosis import Diagnosis

SHAPES = [(7, 5), (3,), (2, 2, 4)]
NUMEL = 54
NUM_WORKERS = 4
ROUNDS = 5
OPTIMIZERS = {
    "sign_sgd": compsgd.SignSGD,
    "compressed_sgd": compsgd.CompressedSGD,
    "compressed_sgd_vote": compsgd.CompressedSGDVote,
}


def cases():
    """(exchange, optimizer, rand_zero)."""
    return itertools.product(("all_gather", "scatter_reduce"), OPTIMIZERS, (True, False))


def gradient_of(round_, worker, rand_zero):
    """(gradient, by parameter whether there is one), or None for a worker that sits out. Round 1:
    the last one has no batch; round 2: worker 1 meets a NaN, worker 2 has no gradient for a
    parameter; round 3: nobody has one for it; round 4: nobody has a batch.

    What is 0 is a coin's affair where zeros are broken, and so there is none.
    """
    if round_ == 4 or (round_ == 1 and worker == NUM_WORKERS - 1):
        return None
    generator = np.random.default_rng(100 * round_ + worker)
    gradient = generator.normal(size=NUMEL).astype(np.float32)
    if not rand_zero:
        gradient *= generator.random(NUMEL) > 0.3
    present = [True, not (round_ == 3 or (round_ == 2 and worker == 2)), True]
    if not present[1]:
        gradient[35:38] = 0
    return gradient, present


def is_poisoned(round_, worker):
    return round_ == 2 and worker == 1


def findings(case, purpose_group=None):
    """What is found in every round, over the processes of a group: [cosine, agreement, update], or
    None; and the gradient bytes that were sent."""
    exchange_name, name, rand_zero = case
    ledger = Ledger()
    gradient, bookkeeping = (
        Collectives(ledger, purpose, NUM_WORKERS, purpose_group)
        for purpose in (Purpose.GRADIENT, Purpose.BOOKKEEPING)
    )
    exchange = build_exchange(exchange_name, gradient)
    parameters = [torch.zeros(shape, requires_grad=True) for shape in SHAPES]
    settings = {"exchange": exchange, "rand_zero": rand_zero, "seed": 3, "compile": "off"}
    # From weights of 0, one step of lr 1 leaves the negative of the update, to the last bit.
    optimizer = OPTIMIZERS[name](parameters, 1.0, **settings)
    buffer = torch.zeros(NUMEL)
    found = []
    for round_ in range(ROUNDS):
        diagnosis = Diagnosis(optimizer, buffer, bookkeeping)
        for slot, worker in enumerate(exchange.hosted):
            if gradient_of(round_, worker, rand_zero) is not None:
                set_gradient(parameters, buffer, round_, worker, rand_zero)
                diagnosis.note_gradient(worker)
                attack(buffer, round_, worker)
                optimizer.compress(slot)
        optimizer.zero_grad()
        with torch.no_grad():
            for parameter in parameters:
                parameter.zero_()
        optimizer.step()
        finding = diagnosis.finding()
        assert optimizer.probe is None
        update = [-float(x) for parameter in parameters for x in parameter.detach().flatten()]
        found.append(None if finding is None else [*finding, update])
    return found, [step.wire.sent_bytes for step in ledger.steps]


def set_gradient(parameters, buffer, round_, worker, rand_zero):
    gradient, present = gradient_of(round_, worker, rand_zero)
    buffer.copy_(torch.from_numpy(gradient))
    if is_poisoned(round_, worker):
        buffer[-1] = float("nan")
    parts = buffer.split([parameter.numel() for parameter in parameters])
    for parameter, part, is_here in zip(parameters, parts, present, strict=True):
        parameter.grad = part.view(parameter.shape) if is_here else None


def attack(buffer, round_, worker):
    """Worker 0 sends the negative in round 3."""
    if round_ == 3 and worker == 0:
        buffer.neg_()


def expected(round_, rand_zero, update):
    """(cosine, agreement) in float64, element by element, from gradients and an update."""
    counts = np.zeros(NUM_WORKERS)
    true_mean = np.zeros(NUMEL)
    cast = [
        (worker, *gradient_of(round_, worker, rand_zero))
        for worker in range(NUM_WORKERS)
        if gradient_of(round_, worker, rand_zero) and not is_poisoned(round_, worker)
    ]
    for i in range(NUMEL):
        parameter = 0 if i < 35 else 1 if i < 38 else 2
        voters = [(worker, float(g[i])) for worker, g, present in cast if present[parameter]]
        if not voters:
            continue
        flip = {0: -1} if round_ == 3 else {}
        signs = [np.sign(g) * flip.get(worker, 1) for worker, g in voters]
        counts[max(signs.count(sign) for sign in (-1, 0, 1)) - 1] += 1
        true_mean[i] = sum(g for _, g in voters) / len(voters)
    update = np.array(update)
    norms = np.linalg.norm(update) * np.linalg.norm(true_mean)
    return float(update @ true_mean / norms), list(counts / counts.sum())
