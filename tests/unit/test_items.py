"""A user's own data, and folders of images."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from compsgd.workers.data.datasets import load_dataset
from compsgd.workers.data.items import ItemSplit, load_folder, load_own, seed_everything
from compsgd.workers.data.splits import ImageFormat, ItemFormat
from compsgd.workers.failures import RunError, UsageError

CPU = torch.device("cpu")


def split(items, num_classes=3):
    return ItemSplit(items, "training data", num_classes)


def pairs(number, shape=(2,)):
    return [(torch.full(shape, float(one)), one % 3) for one in range(number)]


def test_a_batch_of_items():
    inputs, labels = split(pairs(5)).batch(torch.tensor([4, 1]), CPU)
    assert inputs.tolist() == [[4, 4], [1, 1]]
    assert (labels.dtype, labels.tolist()) == (torch.int64, [1, 1])


def test_a_class_for_every_place():
    items = [(torch.zeros(4), torch.tensor([0, 1, 2, 0], dtype=torch.int32))] * 2
    _, labels = split(items).batch(torch.arange(2), CPU)
    assert labels.tolist() == [[0, 1, 2, 0]] * 2
    assert labels.dtype == torch.int64


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (5, "item 1 of the training data is a int; it must be a pair"),
        ((torch.zeros(2),), "is a tuple; it must be a pair"),
        (("x", 1), r"begins with a str; its input must be a tensor \(of an image"),
        ((torch.zeros(2), "x"), "ends with a str; its class must be an integer"),
        ((torch.zeros(2), 1.5), "ends with a float"),
        ((torch.zeros(2), torch.tensor(1.0)), "ends with a Tensor"),
        ((torch.zeros(2), 3), "has class 3; there are 3, from 0 to 2"),
        ((torch.zeros(2), -1), "has class -1"),
        ((torch.zeros(3), 1), r"item 1 .* shape \(3,\), and item 0 .* of \(2,\); all must be"),
        ((torch.zeros(2, dtype=torch.float64), 1), "has a torch.float64 tensor"),
    ],
)
def test_items_that_cannot_be_are_named(item, message):
    with pytest.raises(RunError, match=message):
        split([(torch.zeros(2), 0), item]).batch(torch.arange(2), CPU)


class Failing:
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {}[index]


def test_what_a_users_data_raises_is_a_line():
    with pytest.raises(RunError, match=r"item 1 of the training data fails: KeyError: 1 \(.*line"):
        split(Failing()).batch(torch.tensor([1]), CPU)


class Noisy(Failing):
    """Of three sources of random numbers."""

    def __getitem__(self, index):
        return torch.rand(2) + random.random() + float(np.random.rand()), index


def test_a_digest_does_not_depend_on_what_was_drawn_before():
    seed_everything(1)
    first = split(Noisy()).digest()
    seed_everything(2)
    assert split(Noisy()).digest() == first
    assert split(pairs(2)).digest() != first
    assert split(pairs(200)).digest() != split(pairs(201)).digest()


def own(returned, monkeypatch, tmp_path):
    monkeypatch.setattr("compsgd.workers.data.items.find_factory", lambda *_: lambda root: returned)
    return load_own("own:data", tmp_path)


class WithClasses(list):
    classes = ("a", "b", "c")


@pytest.mark.parametrize("returned", [(pairs(4), pairs(2), 3), (WithClasses(pairs(4)), pairs(2))])
def test_what_a_factory_may_return(returned, monkeypatch, tmp_path):
    data = own(returned, monkeypatch, tmp_path)
    assert (len(data.train), len(data.test)) == (4, 2)
    assert data.format == ItemFormat((2,), 3)


def test_items_of_three_dimensions_are_images(monkeypatch, tmp_path):
    images = pairs(4, shape=(1, 8, 8))
    assert own((images, images, 3), monkeypatch, tmp_path).format == ImageFormat((1, 8, 8), 3)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, r"returns a NoneType; it must return \(train, test\)"),
        ((pairs(2),), "returns a tuple"),
        ((pairs(2), iter(pairs(2))), "its test is a list_iterator"),
        ((pairs(2), []), "its test is a list; it must be a data set with a length of at least 1"),
        ((pairs(2), pairs(2)), "does not say how many classes there are"),
        ((pairs(2), pairs(2), "3"), "does not say how many classes"),
    ],
)
def test_what_a_factory_may_not_return(returned, message, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match=message):
        own(returned, monkeypatch, tmp_path)


def images(root, names, size=(6, 4)):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (10 * number, 20, 255)).save(path)


@pytest.fixture
def folder(tmp_path):
    images(tmp_path, ["train/cat/1.png", "train/cat/2.png", "train/dog/3.png"])
    images(tmp_path, ["val/cat/4.png", "val/dog/5.png"])
    return tmp_path


def test_a_folder_of_images(folder):
    data = load_dataset("folder", folder, download=False)
    assert data.format == ImageFormat((3, 4, 6), 2)
    assert (len(data.train), len(data.test)) == (3, 2)
    inputs, labels = data.train.batch(torch.tensor([2, 0]), CPU)
    assert labels.tolist() == [1, 0]
    assert inputs[0, :, 0, 0].tolist() == pytest.approx([20 / 255, 20 / 255, 1.0])
    digest = data.digest
    assert load_folder(folder, None).digest == digest
    images(folder, ["train/dog/6.png"])
    assert load_folder(folder, None).digest != digest


def test_images_are_scaled_and_cut(folder):
    images(folder, ["train/dog/7.png"], size=(30, 50))
    with pytest.raises(RunError, match="must be alike: --image_size scales and cuts them"):
        load_folder(folder, None).train.batch(torch.arange(4), CPU)
    data = load_folder(folder, 5)
    assert data.format == ImageFormat((3, 5, 5), 2)
    assert data.train.batch(torch.arange(4), CPU)[0].shape == (4, 3, 5, 5)


def test_a_damaged_image_is_named(folder):
    (folder / "train" / "cat" / "1.png").write_bytes(b"no image")
    with pytest.raises(RunError, match=r"item 0 of the training images fails: .*cat/1\.png"):
        load_folder(folder, None)


def test_folders_that_are_none(folder, tmp_path):
    with pytest.raises(UsageError, match="has no folder train; images are looked for in"):
        load_folder(tmp_path / "nowhere", None)
    images(folder, ["val/cow/1.png"])
    with pytest.raises(UsageError, match="train has the classes cat, dog, and test cat, cow, dog"):
        load_folder(folder, None)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(UsageError, match="no valid file for the classes empty"):
        load_folder(folder, None)
