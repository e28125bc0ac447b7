"""Who stands where in the flat vector, and the memory that is kept for it."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compsgd.layout import (
    FlatLayout,
    Span,
    Voters,
    Workspace,
    shard_numel,
    shard_span,
    voters_within,
)

CPU = torch.device("cpu")

spans = st.tuples(st.integers(0, 40), st.integers(0, 40)).map(lambda ends: Span(*sorted(ends)))
layouts = st.lists(st.integers(0, 9), max_size=8).map(FlatLayout)


def elements(span):
    return list(range(span.start, span.end))


@given(spans, spans)
def test_within_is_the_intersection(one, other):
    part = one.within(other)
    assert elements(part) == [i for i in elements(one) if i in elements(other)]
    assert other.start <= part.start <= part.end <= other.end


@given(spans, st.integers(1, 12))
def test_chunks_are_the_span_in_pieces(span, numel):
    chunks = list(span.chunks(numel))
    assert [i for chunk in chunks for i in elements(chunk)] == elements(span)
    assert all(chunk.numel == numel for chunk in chunks[:-1])
    assert all(0 < chunk.numel <= numel for chunk in chunks)


def test_a_span_is_a_slice_that_moves():
    span = Span(2, 5)
    assert list(range(10))[span.slice] == [2, 3, 4]
    assert span.shifted(-2) == (0, 3)
    assert span.numel == span.shifted(100).numel == 3


@given(st.integers(0, 50), st.integers(1, 12))
def test_shards_are_the_vector_in_order(numel, num_shards):
    shards = [shard_span(numel, num_shards, i) for i in range(num_shards)]
    assert [i for shard in shards for i in elements(shard)] == list(range(numel))
    assert max(shard.numel for shard in shards) == shard_numel(numel, num_shards)


def test_voters_within_a_span_are_cut_to_it():
    voters = [Voters(Span(0, 4), (0, 1)), Voters(Span(4, 6), (1,)), Voters(Span(8, 9), (0,))]
    assert voters_within(voters, Span(3, 8)) == [((3, 4), (0, 1)), ((4, 6), (1,))]
    assert voters_within(voters, Span(6, 8)) == []


@given(layouts)
def test_parameters_stand_one_behind_the_other(layout):
    everything = [i for span in layout.spans for i in elements(span)]
    assert everything == list(range(layout.numel))


@given(layouts, spans)
def test_parts_of_a_span_are_its_elements_by_parameter(layout, span):
    expected = {
        index: [i for i in elements(own) if i in elements(span)]
        for index, own in enumerate(layout.spans)
    }
    found = {index: elements(part) for index, part in layout.parts_of(span)}
    assert found == {index: part for index, part in expected.items() if part}


@given(layouts, st.data())
def test_labelled_spans_join_equal_neighbours_and_keep_order(layout, data):
    size = len(layout.spans)
    labels = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    joined = layout.labelled_spans(labels)
    assert all(a != b for (a, _), (b, _) in itertools.pairwise(joined))
    by_element = [label for label, span in joined for _ in elements(span)]
    own = zip(labels, layout.spans, strict=True)
    assert by_element == [label for label, span in own for _ in elements(span)]


def test_each_parameter_has_a_label():
    with pytest.raises(ValueError, match="zip"):
        FlatLayout([1, 2]).labelled_spans([True])


def test_a_workspace_hands_out_the_same_memory_until_it_must_grow():
    workspace = Workspace()
    first = workspace.take("codes", 8, torch.uint8, CPU)
    smaller = workspace.take("codes", 3, torch.uint8, CPU)
    assert (first.shape, smaller.shape) == ((8,), (3,))
    assert smaller.data_ptr() == first.data_ptr()
    assert workspace.size_bytes == 8
    larger = workspace.take("codes", 9, torch.uint8, CPU)
    assert larger.data_ptr() != first.data_ptr()
    assert workspace.size_bytes == 9


def test_names_and_types_have_memory_of_their_own():
    workspace = Workspace()
    taken = [
        workspace.take(name, 4, dtype, CPU)
        for name in ("codes", "update")
        for dtype in (torch.uint8, torch.float32)
    ]
    assert len({buffer.data_ptr() for buffer in taken}) == 4
    assert [buffer.dtype for buffer in taken] == [torch.uint8, torch.float32] * 2
    assert workspace.size_bytes == 2 * (4 + 16)
