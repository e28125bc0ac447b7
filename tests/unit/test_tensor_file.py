"""Files of torch.save, read without torch's reader: the same tensors, and nothing else."""

import io
import os
import pickle
import zipfile

import pytest
import torch

from compsgd.errors import DamagedDataError
from compsgd.workers.train.tensor_file import read_tensor_file

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
          torch.int16, torch.int8, torch.uint8, torch.bool]  # fmt: skip


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_as_torch_reads(dtype):
    cube = torch.arange(24).reshape(2, 3, 4).to(dtype)
    views = [cube, cube.permute(2, 0, 1), cube[:, 1:, ::2], cube[1, 2, 3], cube[:0], cube[0, 0]]
    content = saved({"views": views, "again": views[0]})
    found = read_tensor_file(content)
    expected = torch.load(io.BytesIO(content), weights_only=True)
    for one, other in zip(found["views"], expected["views"], strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert torch.equal(one, other)
    found["views"][0].zero_()
    assert not found["again"].any()


def test_the_state_of_a_model():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    found = read_tensor_file(saved({"weights": model.state_dict(), (0.1, 1.0): [1, None, "a"]}))
    assert found[0.1, 1.0] == [1, None, "a"]
    torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)).load_state_dict(
        found["weights"]
    )
    assert list(found["weights"]) == list(model.state_dict())


def changed(state, change, **members):
    """A file of torch.save whose pickle went through `change`; its members are replaced."""
    old, file = zipfile.ZipFile(io.BytesIO(saved(state))), io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            content = change(content) if name.endswith("data.pkl") else content
            new.writestr(name, members.get(name.rpartition("/")[2], content))
    return file.getvalue()


def replaced(old, new):
    def change(content):
        assert old in content
        return content.replace(old, new)

    return change


def nothing(content):
    return content


class RunsCode:
    def __reduce__(self):
        return os.system, ("touch pwned",)


VECTOR = {"a": torch.ones(5)}
DEEP = b"\x80\x02}" + b"N" + b"\x85" * 10**5 + b"Ns."


def compressed():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, 2) + b" " * 10**6)
    return file.getvalue()


HOSTILE = {
    "code": saved({"a": RunsCode()}),
    "a module": saved({"a": torch.nn.ReLU()}),
    "a list": saved([1]),
    "a pickle alone": pickle.dumps({"a": 1}),
    "compressed": compressed(),
    "nested without end": changed(VECTOR, lambda _: DEEP),
    "more elements than there are": changed(VECTOR, replaced(b"K\x05", b"K\x06")),
    "a view beyond its end": changed(VECTOR, replaced(b"K\x05\x85", b"K\x06\x85")),
    "an offset beyond its end": changed(VECTOR, replaced(b"QK\x00", b"QK\x01")),
    "a negative offset": changed(VECTOR, replaced(b"QK\x00", b"QJ\xff\xff\xff\xff")),
    "a negative stride": changed(VECTOR, replaced(b"K\x01\x85", b"J\xff\xff\xff\xff\x85")),
    "an element that is many": changed(
        VECTOR, replaced(b"K\x05\x85q\x08K\x01", b"J\xff\xff\xff\x7f\x85q\x08K\x00")
    ),
    "other elements": changed(VECTOR, replaced(b"FloatStorage", b"DoubleStorage")),
    "elements of no kind": changed(VECTOR, replaced(b"FloatStorage", b"QInt8Storage")),
    "a storage that is not there": changed(VECTOR, replaced(b"\x00\x00\x000", b"\x00\x00\x009")),
    "a storage cut short": changed(VECTOR, nothing, **{"0": b"\0" * 19}),
    "a bool of 2": changed({"a": torch.ones(2, dtype=torch.bool)}, nothing, **{"0": b"\1\2"}),
    "another byte order": changed(VECTOR, nothing, byteorder=b"big"),
    "a sparse tensor": saved({"a": torch.eye(2).to_sparse()}),
    "a tensor nowhere": saved({"a": torch.ones(2, device="meta")}),
    "cut short": saved(VECTOR)[:-100],
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_all_else_is_refused_in_a_line(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DamagedDataError) as refused:
        read_tensor_file(HOSTILE[case])
    assert str(refused.value).isprintable()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("position", range(0, len(saved(VECTOR)), 41))
def test_any_flipped_bit_is_refused_or_harmless(position):
    content = bytearray(saved(VECTOR))
    content[position] ^= 8
    try:
        found = read_tensor_file(bytes(content))
    except DamagedDataError:
        return
    assert all(isinstance(value, torch.Tensor) for value in found.values())
