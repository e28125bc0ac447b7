"""Data sets and the plan of batches."""

from pathlib import Path

import pytest
import torch
from sklearn import datasets
from sklearn.model_selection import train_test_split

from compsgd.workers.data.datasets import IMAGE_FORMATS, BatchPlan, load_dataset
from compsgd.workers.data.splits import ImageFormat
from compsgd.workers.failures import UsageError
from compsgd.workers.train.models import IMAGE_MODELS, build_model, check_model


def test_digits_are_those_of_scikit_learn():
    digits = load_dataset("digits", Path(), download=False)
    source = datasets.load_digits()
    found = train_test_split(
        source.images, source.target, test_size=0.2, random_state=0, stratify=source.target
    )
    for ours, theirs in zip(
        (digits.train.images[:, 0], digits.test.images[:, 0],
         digits.train.labels, digits.test.labels), found, strict=True,
    ):  # fmt: skip
        assert (ours.numpy() == theirs).all()


def test_digits_are_split_once_and_for_all(tmp_path):
    one, two = (load_dataset("digits", tmp_path, download=False) for _ in range(2))
    assert torch.equal(one.train.images, two.train.images)
    assert len(one.train) == 1437
    assert len(one.test) == 360
    assert one.format == ImageFormat((1, 8, 8), 10) == IMAGE_FORMATS["digits"]
    assert one.digest == two.digest
    assert one.train.counted == "images"
    seen = {bytes(image.numpy().tobytes()) for image in one.train.images}
    assert not any(image.numpy().tobytes() in seen for image in one.test.images)
    images, labels = one.train.batch(torch.arange(100), torch.device("cpu"))
    assert images.dtype == torch.float32
    assert images.min() == 0
    assert images.max() == 1
    assert set(labels.tolist()) == set(range(10))


def test_mnist_as_torchvision_reads_it(mnist_root):
    dataset = load_dataset("MNIST", mnist_root, download=True)
    assert dataset.train.images.shape == (60_000, 1, 28, 28)
    assert dataset.test.images.shape == (10_000, 1, 28, 28)
    assert dataset.train.labels[:5].tolist() == [5, 0, 4, 1, 9]


@pytest.mark.parametrize(("name", "num_classes"), [("CIFAR10", 10), ("CIFAR100", 100)])
def test_cifar_becomes_channels_first(name, num_classes, tmp_path, monkeypatch):
    class Cifar:
        def __init__(self, root, train, download):
            self.data = torch.arange(2 * 32 * 32 * 3).to(torch.uint8).view(2, 32, 32, 3).numpy()
            self.targets = [3, 7]

    monkeypatch.setattr(f"torchvision.datasets.{name}", Cifar)
    dataset = load_dataset(name, tmp_path, download=False)
    assert dataset.format == IMAGE_FORMATS[name] == ImageFormat((3, 32, 32), num_classes)
    assert dataset.train.images[0, :, 0, 1].tolist() == [3, 4, 5]
    assert dataset.train.labels.tolist() == [3, 7]


def test_missing_data(tmp_path):
    with pytest.raises(UsageError, match=str(tmp_path)):
        load_dataset("MNIST", tmp_path, download=False)


@pytest.mark.parametrize("num_workers", [1, 3, 4])
@pytest.mark.parametrize("num_items", [10, 11, 12, 13])
def test_every_item_goes_to_one_worker_once(num_items, num_workers):
    plan = BatchPlan(num_items, batch_size=2, num_workers=num_workers, seed=0, shuffle=True)
    order = plan.order(0)
    batches = [
        plan.batch(order, round_, worker)
        for round_ in range(plan.num_rounds)
        for worker in range(num_workers)
    ]
    given = [batch for batch in batches if batch is not None]
    assert sorted(torch.cat(given).tolist()) == list(range(num_items))
    assert torch.equal(torch.cat(given), order)
    assert len(given) == plan.num_batches
    assert len(given[-1]) == (num_items - 1) % 2 + 1
    assert batches[0] is not None


def test_shuffling_depends_on_seed_and_epoch_alone():
    plan = BatchPlan(100, 10, 4, seed=1, shuffle=True)
    same = BatchPlan(100, 20, 2, seed=1, shuffle=True)
    assert torch.equal(plan.order(3), same.order(3))
    assert not torch.equal(plan.order(3), plan.order(4))
    assert not torch.equal(plan.order(3), BatchPlan(100, 10, 4, seed=2, shuffle=True).order(3))
    assert torch.equal(BatchPlan(5, 1, 1, 0, shuffle=False).order(7), torch.arange(5))


@pytest.mark.parametrize("name", IMAGE_MODELS)
@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
def test_models_fit_their_images_and_their_seed(name, image_shape):
    images = ImageFormat(image_shape, 10)
    model, same, other = (build_model(name, images, seed) for seed in (0, 0, 1))
    assert model(torch.zeros(2, *image_shape)).shape == (2, 10)
    for parameter, equal in zip(model.parameters(), same.parameters(), strict=True):
        assert torch.equal(parameter, equal)
    assert any(
        not torch.equal(parameter, different)
        for parameter, different in zip(model.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("model", ["mlp", "gpt"])
@pytest.mark.parametrize("dataset", ["digits", "text", "stdlib"])
def test_a_model_is_made_for_images_or_for_text(model, dataset):
    if (model == "gpt") == (dataset != "digits"):
        check_model(model, dataset)
        return
    with pytest.raises(UsageError, match=f"--model {model} is made for .* --dataset {dataset} is"):
        check_model(model, dataset)
