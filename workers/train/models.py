"""The models that can be trained; each fits the images or the text of its data set."""

from collections.abc import Callable

import torch
from torch import nn

from compsgd.rng import derive_key
from compsgd.workers.data.datasets import TEXTS
from compsgd.workers.data.splits import ImageFormat, TextFormat
from compsgd.workers.failures import UsageError
from compsgd.workers.train.gpt import GPT, SIZES

ImageShape = tuple[int, int, int]


def vanilla_cnn(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The model of the published results: 3,217,226 parameters on 28 x 28 images."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Conv2d(channels, 32, kernel_size=3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(32 * (height // 2) * (width // 2), 512),
        nn.ReLU(),
        nn.Linear(512, num_classes),
    )


def mlp(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """Two hidden layers of 256 and 128 units."""
    channels, height, width = image_shape
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(channels * height * width, 256),
        nn.ReLU(),
        nn.Linear(256, 128),
        nn.ReLU(),
        nn.Linear(128, num_classes),
    )


def resnet18(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """torchvision's, with first layers for small images: a 3 x 3 convolution of stride 1 and no
    max-pooling."""
    import torchvision  # takes seconds that only this model should cost

    model = torchvision.models.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(image_shape[0], 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    built: nn.Module = model
    return built


_OF_IMAGES: dict[str, Callable[[ImageShape, int], nn.Module]] = {
    "vanilla_cnn": vanilla_cnn,
    "mlp": mlp,
    "resnet18": resnet18,
}
IMAGE_MODELS = tuple(_OF_IMAGES)
MODELS = (*IMAGE_MODELS, "gpt")


def check_model(model: str, dataset: str) -> None:
    """Raises UsageError if a model is not made for what a data set holds."""
    if (model in IMAGE_MODELS) == (dataset in TEXTS):
        kind, other = ("images", "text") if model in IMAGE_MODELS else ("text", "images")
        raise UsageError(f"--model {model} is made for {kind}, but --dataset {dataset} is {other}")


def build_model(
    name: str,
    format: ImageFormat | TextFormat,
    seed: int,
    *,
    size: str = "small",
    tie_embeddings: bool = True,
) -> nn.Module:
    """A model on the CPU whose initial weights depend on the seed alone, so that none need to be
    sent (design, section 4).

    Args:
        name: which one of MODELS.
        format: of the data set; one that check_model has found to fit.
        seed: of the run.
        size: of gpt, one of SIZES.
        tie_embeddings: of gpt.
    """
    torch.manual_seed(derive_key(seed, "initial weights"))
    if isinstance(format, TextFormat):
        return GPT(format, SIZES[size], tie_embeddings)
    return _OF_IMAGES[name](format.shape, format.num_classes)


def normalises_batches(model: nn.Module) -> bool:
    """Whether training needs more than one image a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
