"""numpy's arrays and numbers out of a pickle: each by a stand-in that nothing gets past."""

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from compsgd.errors import DamagedDataError
from compsgd.history import read_histories
from compsgd.history.pickled_numpy import numpy_globals
from compsgd.unpickling import unpickle

TYPES = ["?", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", ">f8", ">i4"]
CUBE = np.arange(24.0).reshape(2, 3, 4)
ARRAYS = [
    *(np.array([0, 1, 3]).astype(name) for name in TYPES),
    CUBE, np.asfortranarray(CUBE), CUBE.transpose(1, 0, 2), CUBE[:, ::2], np.empty(0),
    np.empty((0, 9)), np.array(2.5), np.array(True),
]  # fmt: skip


def read(content, most_bytes=10**6):
    return unpickle(content, numpy_globals(most_bytes))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("core", ["numpy._core", "numpy.core"])
def test_arrays_and_numbers_of_every_protocol(protocol, core):
    """As numpy 2 writes them and, under its older name, numpy 1."""
    numbers = [np.float64(2.5), np.float32(1), np.int64(-7), np.bool_(True), np.uint8(255)]
    content = pickle.dumps([*ARRAYS, *numbers], protocol)
    if protocol < 4:
        content = content.replace(b"numpy._core", core.encode())
    for found, expected in zip(read(content), [*ARRAYS, *numbers], strict=True):
        assert type(found) is type(expected)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


def test_a_file_of_python_2():
    """Its text is bytes."""
    old = (
        b"}(U\x01acnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
        b"(K\x01(K\x02tcnumpy\ndtype\n(U\x02f8K\x00K\x01tR(K\x03U\x01<NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x10" + np.array([1.0, 2.0]).tobytes() + b"tbu."
    )
    assert read(old)["a"].tolist() == [1.0, 2.0]


F8 = b"cnumpy\ndtype\n(X\x02\x00\x00\x00f8\x89\x88tR"
MINUS_1 = b"J\xff\xff\xff\xff"
ARRAY = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85C\x01btR"


def dtype(state):
    return F8 + b"(" + state + b"tb"


def array(shape=b"K\x01\x85", dtype=F8, order=b"\x89", data=b"C\x08AAAAAAAA", version=b"K\x01"):
    return ARRAY + b"(" + version + shape + dtype + order + data + b"tb."


VALID = dtype(b"K\x03X\x01\x00\x00\x00<NNN" + MINUS_1 * 2 + b"K\x00")


def test_the_valid_one_is_read():
    assert read(array()).shape == read(array(dtype=VALID)).shape == (1,)


HOSTILE = {
    "a state of six": array(dtype=dtype(b"K\x03X\x01\x00\x00\x00NN" + MINUS_1 * 2 + b"K\x00")),
    "the flag for references": array(
        dtype=dtype(b"K\x03X\x01\x00\x00\x00<NNN" + MINUS_1 * 2 + b"K\x01")
    ),
    "another size": array(dtype=dtype(b"K\x03X\x01\x00\x00\x00<NNNK\x01" + MINUS_1 + b"K\x00")),
    "a subtype": array(dtype=dtype(b"K\x03X\x01\x00\x00\x00<)NN" + MINUS_1 * 2 + b"K\x00")),
    "a byte order of its own": array(
        dtype=dtype(b"K\x03X\x01\x00\x00\x00ONNN" + MINUS_1 * 2 + b"K\x00")
    ),
    "a type of objects": array(dtype=F8.replace(b"f8", b"O8")),
    "a type with fields": array(dtype=b"cnumpy\ndtype\n(]\x89\x88tR"),
    "no type": array(dtype=b"N"),
    "too little data": array(data=b"C\x07AAAAAAA"),
    "too much data": array(data=b"C\x09AAAAAAAAA"),
    "objects as data": array(data=b"]"),
    "a negative size": array(shape=MINUS_1 + b"\x85"),
    "a huge size": array(shape=b"\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40\x85"),
    "a huge size beside nothing": array(
        shape=b"K\x00\x8a\x08\x00\x00\x00\x00\x00\x00\x00\x40\x86", data=b"C\x00"
    ),
    "100 dimensions": array(shape=b"(" + b"K\x01" * 100 + b"t"),
    "no shape": array(shape=b"N"),
    "another version": array(version=b"K\x02"),
    "a state of nothing": ARRAY + b"Nb.",
    "no state": ARRAY + b".",
    "the array's class, called": b"cnumpy\nndarray\n)R.",
    "the array's class": b"cnumpy\nndarray\n.",
    "another class": ARRAY.replace(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n") + b".",
    "a type alone in a call": b"cnumpy\ndtype\n)R.",
    "bytes in another encoding": b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00utf-8tR.",
    "bytes that are none": (
        b"c_codecs\nencode\n(X\x02\x00\x00\x00\xc4\x80X\x06\x00\x00\x00latin1tR."
    ),
    "other functions": b"cnumpy\nload\n(X\x01\x00\x00\x00atR.",
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_crafted_ones_are_refused(case):
    with pytest.raises(DamagedDataError):
        read(HOSTILE[case])


def test_no_more_memory_than_the_file_has_bytes():
    """A thousand arrays of the same bytes."""
    content = b"(" + array()[:-1].replace(b"C\x08AAAAAAAA", b"h\x00") * 1000 + b"t."
    content = b"C\x08AAAAAAAAq\x00" + content[:-1] + b"\x86."
    assert len(read(content)[1]) == 1000
    with pytest.raises(DamagedDataError, match="larger than the file"):
        read(content, most_bytes=7000)


CELL = pickle.dumps((0.1, 1.0), 4)[:-1] + b"}X\x01\x00\x00\x00a"
FILES = {
    name: b"\x80\x04}" + CELL + HOSTILE[name][:-1] + b"ss."
    for name in ("a state of six", "the flag for references")
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_ended_the_process_are_named(name, tmp_path):
    (tmp_path / "h.pkl").write_bytes(FILES[name])
    with pytest.raises(
        DamagedDataError, match=r"h\.pkl is no histories file: it has a numpy dtype"
    ):
        read_histories(tmp_path / "h.pkl")
    command = [str(Path(sys.executable).parent / "compsgd"), "plot", "list", "h.pkl"]
    listed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert listed.returncode == 1
    assert listed.stderr.startswith("Error: h.pkl is no histories file")
    assert listed.stderr.count("\n") == 1
