"""What workers remember, as it stands in optimizer.state."""

from collections import defaultdict

import torch

from compsgd import VoteSettings
from compsgd.layout import FlatLayout
from compsgd.optim.state import StateViews, join_workers, split_workers
from compsgd.voting.encoder import WorkerEncoder

SHAPES = [(2, 2), (3,)]
LAYOUT = FlatLayout([4, 3])


def make(workers=(0, 2)):
    parameters = [torch.zeros(shape) for shape in SHAPES]
    encoders = {
        worker: WorkerEncoder.fresh(LAYOUT.numel, torch.device("cpu"), VoteSettings())
        for worker in workers
    }
    remembered = [
        {
            f"{name}.{worker}": flat[span.slice].view(shape)
            for worker, encoder in encoders.items()
            for name, flat in encoder.state.items()
        }
        for span, shape in zip(LAYOUT.spans, SHAPES, strict=True)
    ]
    return parameters, encoders, StateViews(parameters, remembered)


def adopted(workers=(0, 2)):
    parameters, encoders, views = make(workers)
    state = defaultdict(dict)
    views.adopt(state)
    return parameters, encoders, views, state


def test_views_are_of_the_flat_vectors():
    parameters, encoders, _, state = adopted()
    encoders[2].state["max"][:] = torch.arange(7.0)
    assert state[parameters[0]]["max.2"].tolist() == [[0, 1], [2, 3]]
    assert state[parameters[1]]["max.2"].tolist() == [4, 5, 6]
    assert set(state[parameters[1]]) == {"step", "max.0", "min.0", "max.2", "min.2"}
    assert set(state[parameters[0]]) - set(state[parameters[1]]) == {"num_non_finite"}


def test_the_step_is_one_for_all():
    parameters, _, views, state = adopted()
    views.step += 1
    assert [int(state[parameter]["step"]) for parameter in parameters] == [1, 1]


def test_who_remembers_nothing_has_only_the_step():
    parameters = [torch.zeros(2)]
    views = StateViews(parameters, [{}])
    state = defaultdict(dict)
    views.adopt(state)
    assert set(state[parameters[0]]) == {"step", "num_non_finite"}


def test_are_in_notices_every_replacement():
    parameters, _, views, state = adopted()
    assert views.are_in(state)
    for parameter in parameters:
        for name in list(state[parameter]):
            own = state[parameter][name]
            state[parameter][name] = own.clone()
            assert not views.are_in(state)
            del state[parameter][name]
            assert not views.are_in(state)
            state[parameter][name] = own
    assert views.are_in(state)
    assert not views.are_in(defaultdict(dict))


def test_adopt_takes_the_values_that_are_there():
    parameters, encoders, views, state = adopted()
    state[parameters[1]]["min.0"] = torch.tensor([7.0, 8.0, 9.0])
    state[parameters[0]]["step"] = 5
    views.adopt(state)
    assert encoders[0].state["min"].tolist() == [float("inf")] * 4 + [7, 8, 9]
    assert int(views.step) == 5
    assert views.are_in(state)


def test_adopt_leaves_what_it_does_not_know():
    parameters, _, views, state = adopted()
    state[parameters[0]]["of somebody else"] = 1
    views.adopt(state)
    assert state[parameters[0]]["of somebody else"] == 1


def saved_of(parameters, state):
    return [dict(state[parameter]) for parameter in parameters]


def test_the_kinds_take_what_is_there():
    parameters, _, views, state = adopted()
    for own, kinds in zip(saved_of(parameters, state), views.kinds(), strict=True):
        assert set(own) == set(kinds)
        for name, kind in kinds.items():
            kind.check(name, own[name])


def numbered_state():
    parameters, encoders, views, state = adopted()
    for worker, encoder in encoders.items():
        for name, flat in encoder.state.items():
            flat[:] = torch.arange(7.0) + 100 * worker + (10 if name == "min" else 0)
    views.step += 3
    return dict(enumerate(saved_of(parameters, state)))


def test_split_and_join_undo_each_other():
    state = numbered_state()
    shared, by_worker = split_workers(state)
    assert set(by_worker) == {0, 2}
    assert set(shared[0]) == {"step", "num_non_finite"}
    assert set(by_worker[2][1]) == {"max", "min"}
    joined = join_workers(shared, by_worker)
    assert {i: set(own) for i, own in joined.items()} == {i: set(own) for i, own in state.items()}
    for index, own in state.items():
        for name, value in own.items():
            assert torch.equal(joined[index][name], value)


def test_join_takes_only_the_workers_that_are_given():
    shared, by_worker = split_workers(numbered_state())
    joined = join_workers(shared, {2: by_worker[2]})
    assert set(joined[1]) == {"step", "max.2", "min.2"}
    assert set(shared[1]) == {"step"}
