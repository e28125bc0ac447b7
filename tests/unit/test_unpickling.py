"""A machine for pickles: plain data of every protocol; nothing runs or ends the process."""

import os
import pickle
import struct

import pytest

from compsgd.errors import DamagedDataError
from compsgd.unpickling import Global, StandIn, unpickle

DATA = {
    (0.1, 1.0): {"a": [1, 2.5, -7, 2**40, -(2**70), True, None], "b": b"\0\xff", "ü": ()},
    "deep": [[[((1, 2), (3, 4, 5, 6))]]],
    3: bytearray(b"xyz"),
}


def test_a_bytearray_needs_protocol_5():
    assert unpickle(pickle.dumps(DATA, 5), {}) == DATA


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_of_every_protocol(protocol):
    data = {key: value for key, value in DATA.items() if key != 3}
    known = {("_codecs", "encode"): Global("encode", lambda text: text[0].encode("latin1"))}
    assert unpickle(pickle.dumps(data, protocol), known) == data


def test_what_is_referred_to_twice_is_one_object():
    shared = [1]
    found = unpickle(pickle.dumps([shared, shared]), {})
    assert found == [[1], [1]]
    assert found[0] is found[1]


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pwned",)


class HasState:
    def __init__(self):
        self.state = 1


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("value", [RunsCode(), HasState(), print, {1}, 1j, object()])
def test_nothing_else_is_made_or_called(value, protocol, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedDataError):
        unpickle(pickle.dumps([value], protocol), {})
    assert list(tmp_path.iterdir()) == []


def itself():
    inside = []
    inside.append(inside)
    return inside


def nested(times):
    return b"]" * times + b"a" * (times - 1) + b"."


HOSTILE = {
    "nothing": b"",
    "no end": b"\x80\x04]",
    "more behind its end": b"N.N.",
    "two objects": b"NN.",
    "an open mark": b"(N.",
    "an unknown opcode": b"\xff.",
    "nothing to append to": b"NNa.",
    "nothing on the stack": b"a.",
    "a tuple of nothing": b"\x85.",
    "a key without a value": b"}(Nu.",
    "a list as a key": b"}]Ns.",
    "a nested tuple as a key, which is hashed without end": b"}" + b"N" + b"\x85" * 10**5 + b"Ns.",
    "nested without end": nested(10**5),
    "itself": pickle.dumps(itself()),
    "a memo that is not there": b"h\x05.",
    "a set": b"\x8f.",
    "an instance": b"(ios\nsystem\n.",
    "a class without arguments": b"cbuiltins\nlist\n)\x81.",
    "an extension": b"\x82\x01.",
    "a persistent id": b"Pthere\n.",
    "a buffer from outside": b"\x97.",
    "a name that is no text": b"N\x8c\x01a\x93.",
    "a name with a bell": b"c\x07\nx\n.",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 2**62) + b".",
    "a bytearray that is not there": b"\x96" + struct.pack("<Q", 2**62) + b".",
    "a long that is not there": b"\x8b" + struct.pack("<i", 2**31 - 1) + b".",
    "a long of negative length": b"\x8b" + struct.pack("<i", -1) + b".",
    "no number": b"Ix\n.",
    "a number of a million digits": b"L" + b"9" * 10**6 + b"L\n.",
    "text that is no UTF-8": b"X" + struct.pack("<I", 1) + b"\xff.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_in_a_line(case):
    with pytest.raises(DamagedDataError) as refused:
        unpickle(HOSTILE[case], {})
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 400


def test_a_memo_of_any_number_takes_no_room():
    assert unpickle(b"Nr" + struct.pack("<I", 2**32 - 1) + b".", {}) is None


class Sum(StandIn):
    def __init__(self):
        self.total = None

    def set_state(self, state):
        self.total = state

    def finish(self):
        return self.total


def test_stand_ins_are_called_given_a_state_and_replaced():
    known = {("a", "b"): Global("a.b", lambda arguments: Sum()), ("a", "c"): Global("a.c")}
    assert unpickle(b"(ca\nb\n)RK\x07bt.", known) == (7,)
    for not_made_for_it in (
        b"ca\nc\n)R.",
        b"ca\nb\nNR.",
        b"ca\nb\n.",
        b"]K\x07b.",
        b"(ca\nb\nN\x86.",
    ):
        with pytest.raises(DamagedDataError):
            unpickle(not_made_for_it, known)


def test_persistent_ids_are_for_who_asks():
    assert unpickle(b"K\x07Q.", {}, persistent=lambda name: name + 1) == 8
