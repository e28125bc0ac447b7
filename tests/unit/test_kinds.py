"""What values from outside may be: each kind takes its own, and names the place of any other."""

import math

import pytest
import torch
from mutations import deep_list

from compsgd.kinds import (
    COUNT,
    SHA256,
    TEXT,
    Exactly,
    Fields,
    Flag,
    Integer,
    ListOf,
    MappingOf,
    MisfitError,
    Number,
    Optional,
    Plain,
    Row,
    ScalarInteger,
    TensorOf,
)

CELLS = Fields({"cells": ListOf(Fields({"lr": Number()}))})


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (COUNT, 0),
        (Integer(1, 3), 3),
        (Number(0, 1), 1),
        (TEXT, ""),
        (SHA256, "0" * 64),
        (Flag(), False),
        (Exactly(0.0), 0),
        (Optional(COUNT), None),
        (Row([COUNT, TEXT]), (1, "x")),
        (MappingOf(TEXT, COUNT), {"a": 1}),
        (ScalarInteger(0, 5), torch.tensor(5)),
        (ScalarInteger(0, 5), 5),
        (TensorOf((None, 2)), torch.zeros(3, 2, dtype=torch.float16)),
        (Plain(), {"a": [1, None, "x", torch.zeros(2)]}),
    ],
)
def test_what_is_taken(kind, value):
    kind.check("x", value)
    assert kind.meaning


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (CELLS, {"cells": [{"lr": 1}, {"lr": "x"}]}, r"^cells\[1\].lr is 'x'; it must be a finite"),
        (CELLS, {"cells": [{}]}, r"^cells\[0\] has no lr$"),
        (CELLS, {"cells": [], "more": 1}, "^it has a field 'more', which is none of its own"),
        (CELLS, [], r"^it is \[\]; it must be a mapping with cells"),
        (CELLS, {"cells": [], 5: 1}, "a field's name in it is 5"),
        (COUNT, True, "x is True; it must be an integer of at least 0"),
        (COUNT, 1 << 70, "x is 1180591620717411303424"),
        (COUNT, 10**4000, "x is an integer of 13288 bits"),
        (Number(), 10**400, "x is an integer of 1329 bits"),
        (Number(), math.inf, "x is inf; it must be a finite number"),
        (Number(0, 1), 2, "x is 2; it must be a number from 0 to 1"),
        (SHA256, "0" * 63, "a SHA-256"),
        (TEXT, "x" * 0 or None, "x is None; it must be text"),
        (Row([COUNT]), [1, 2], "x is a list of 2; it must be a list of 1"),
        (MappingOf(TEXT, COUNT), {"a": "b"}, r"x\['a'\] is 'b'"),
        (Plain(), deep_list(), "it must be a plain value"),
        (Plain(), object(), "it must be a plain value"),
        (ScalarInteger(0, 5), torch.tensor(6), "x is 6; it must be an integer from 0 to 5"),
        (ScalarInteger(0, 5), torch.tensor(1.0), "a float32 tensor"),
        (TensorOf((2,)), torch.zeros(2).to_sparse(), "x is a float32 tensor.*sparse"),
        (TensorOf((2,)), torch.zeros(2, device="meta"), "without values"),
        (TensorOf((2,)), torch.zeros(2, dtype=torch.int32), "int32.*must be a dense floating ten"),
        (Exactly(3), torch.zeros(2), "it must be 3"),
    ],
)
def test_what_is_refused_is_named(kind, value, message):
    with pytest.raises(MisfitError, match=message) as raised:
        kind.check("" if kind is CELLS else "x", value)
    assert len(str(raised.value)) < 300
