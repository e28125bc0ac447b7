"""N workers over W processes, either exchange: one truth (design, section 6)."""

import pytest
import torch.distributed as dist
from matrix import cases, run_case, run_matrix
from silence import silent_log

import compsgd
from compsgd.comm import (
    AllGatherExchange,
    Collectives,
    Ledger,
    ScatterReduceExchange,
    build_exchange,
)
from compsgd.comm.traffic.cost import StepCost
from compsgd.comm.traffic.ledger import Purpose


@pytest.fixture(scope="module")
def alone():
    return run_matrix(Purpose.GRADIENT, None)


def run_on_a_rank():
    with silent_log():
        return run_matrix(Purpose.GRADIENT, dist.new_group())


@pytest.fixture(scope="module", params=[2, 4])
def ranks(request, rank_pool):
    return rank_pool.call(run_on_a_rank, request.param)


def test_weights_usages_and_logical_bytes_do_not_depend_on_the_processes(alone, ranks):
    for results in ranks:
        assert len(results) >= len(alone) * 2 / 3
        for case, result in results.items():
            assert result["digest"] == alone[case]["digest"], case
            assert result["logical"] == alone[case]["logical"], case


def test_a_process_for_each_worker_sends_its_logical_bytes(ranks):
    world_size, compared = len(ranks), 0
    for results in ranks:
        for case, result in results.items():
            logical = [flow[0] for flow, _ in result["logical"]]
            if case.startswith(f"{world_size} "):
                compared += 1
                assert result["wire"] == logical, case
            assert all(sent > 0 for sent in result["wire"])
    assert compared == world_size * len(list(cases())) / 3


def test_the_exchange_makes_no_difference(alone):
    for case in cases():
        other = (case[0], "all_gather", *case[2:])
        key, other_key = (" ".join(map(str, one)) for one in (case, other))
        assert alone[key]["digest"] == alone[other_key]["digest"], key


def test_processes_agree_with_the_exchange_inside_one(alone):
    for case in cases():
        digest = run_case(case, compsgd.InProcessExchange(case[0]))
        assert digest == alone[" ".join(map(str, case))]["digest"], case


def test_everything_else_makes_a_difference(alone):
    """One bit votes as signSGD does; any two other cases end apart."""
    digests = {
        result["digest"]
        for case, result in alone.items()
        if "all_gather" in case and "compressed_sgd_vote 1 " not in case
    }
    floats, signs, levels, levels_with_extras = 1 + 2, 2 * 2, (3 + 2) * 2, 2 * 2
    assert len(digests) == 3 * (floats + signs + levels + levels_with_extras)


def test_auto_takes_what_sends_less():
    for num_workers in range(1, 10):
        collectives = Collectives(Ledger(), Purpose.GRADIENT, num_workers)
        chosen = build_exchange("auto", collectives)
        cost = StepCost(10**6, 1, 3, zeros=False)
        sent = {
            AllGatherExchange: cost.all_gather(num_workers),
            ScatterReduceExchange: cost.scatter_reduce(num_workers),
        }
        assert sent[type(chosen)] == min(sent.values())
