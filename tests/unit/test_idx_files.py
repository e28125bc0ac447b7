"""MNIST as people have it: packed or not, elsewhere, renamed, damaged; a line says what to do."""

import gzip
import shutil

import pytest
import torch

from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.failures import RunError, UsageError

IMAGES = "train-images-idx3-ubyte"


def raw(root):
    return root / "MNIST" / "raw"


def replace(path, content):
    """Not what a link in its place leads to."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def load(root, download=False):
    return load_dataset("MNIST", root, download)


def test_packed_and_unpacked_are_the_same_and_nothing_is_written(mnist_root):
    before = sorted(raw(mnist_root).iterdir())
    packed = load(mnist_root)
    assert sorted(raw(mnist_root).iterdir()) == before
    for path in before:
        replace(path.with_suffix(""), gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load(mnist_root).digest == packed.digest
    assert packed.train.images.shape == (60_000, 1, 28, 28)
    assert packed.test.labels.dtype == torch.int64


HTML = b"<!DOCTYPE html><html><body>404 Not Found</body></html>"


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: HTML,
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:-1],
        lambda packed: b"",
        lambda packed: gzip.compress(bytes(10**8), 1),
        lambda packed: gzip.compress(b"short"),
        lambda packed: packed[:5000] + bytes([packed[5000] ^ 1]) + packed[5001:],
    ],
    ids=["a page", "half", "no end", "nothing", "a bomb", "other content", "a bit"],
)
@pytest.mark.parametrize("download", [True, False])
def test_a_damaged_archive_is_named(damage, download, mnist_root):
    path = raw(mnist_root) / f"{IMAGES}.gz"
    replace(path, damage(path.read_bytes()))
    with pytest.raises(RunError, match=rf"{path} is damaged: .*; delete it, and --download true"):
        load(mnist_root, download)


@pytest.mark.parametrize("name", [IMAGES, "t10k-labels-idx1-ubyte"])
def test_a_flipped_bit_in_an_unpacked_file_is_named(name, mnist_root):
    packed = raw(mnist_root) / f"{name}.gz"
    content = bytearray(gzip.decompress(packed.read_bytes()))
    content[len(content) // 2] ^= 1
    replace(raw(mnist_root) / name, content)
    with pytest.raises(RunError, match=f"{name} is damaged: .*; delete it"):
        load(mnist_root)
    (raw(mnist_root) / name).unlink()
    assert len(load(mnist_root).train) == 60_000


def test_another_data_set_under_its_name(mnist_root):
    shutil.move(mnist_root / "MNIST", mnist_root / "FashionMNIST")
    with pytest.raises(RunError, match="its content is not that of FashionMNIST's train-images"):
        load_dataset("FashionMNIST", mnist_root, download=True)


@pytest.mark.parametrize("inside", ["MNIST", "MNIST/raw"])
@pytest.mark.parametrize("download", [True, False])
def test_a_root_that_is_a_folder_of_it(inside, download, mnist_root):
    with pytest.raises(
        UsageError, match=rf"{IMAGES}\.gz must be .* give --dataset_root {mnist_root}$"
    ):
        load(mnist_root / inside, download)


def test_files_in_a_folder_of_another_name(mnist_root):
    shutil.move(raw(mnist_root), mnist_root / "mine")
    with pytest.raises(UsageError, match=r"must be in MNIST/raw of .*: move all four there"):
        load(mnist_root / "mine", download=True)


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_other_names(ending, mnist_root):
    packed = raw(mnist_root) / f"{IMAGES}.gz"
    packed.rename(raw(mnist_root) / f"train-images.idx3-ubyte{ending}")
    with pytest.raises(UsageError, match=rf"train-images\.idx3-ubyte{ending} has another name"):
        load(mnist_root, download=True)


def test_a_missing_one_tells_of_the_option(mnist_root, monkeypatch):
    (raw(mnist_root) / f"{IMAGES}.gz").unlink()
    with pytest.raises(UsageError, match=f"no {IMAGES}.*--dataset_root or allow --download true"):
        load(mnist_root)

    def offline(*args, **settings):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.MNIST", offline)
    with pytest.raises(RunError, match="no route to host; --dataset_root names a folder"):
        load(mnist_root, download=True)


def test_a_damaged_batch_of_cifar10_is_named(tmp_path):
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir()
    batch.write_bytes(b"junk")
    with pytest.raises(UsageError, match=f"{batch} is damaged; delete it"):
        load_dataset("CIFAR10", tmp_path, download=False)
