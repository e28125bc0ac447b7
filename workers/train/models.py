"""The models that can be trained; each fits the images or the text of its data set."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compsgd.rng import derive_key
from compsgd.workers.data.datasets import TEXTS
from compsgd.workers.data.items import seed_everything
from compsgd.workers.data.splits import Dataset, Format, ImageFormat, TextFormat
from compsgd.workers.failures import UsageError
from compsgd.workers.own_code import call, find_factory, is_own
from compsgd.workers.train.gpt import GPT, SIZES

ImageShape = tuple[int, int, int]
_CPU = torch.device("cpu")


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
    """Raises UsageError if a model is not made for what a data set holds. Of a user's own nothing
    is known yet."""
    if is_own(model) or is_own(dataset):
        return
    if (model in IMAGE_MODELS) == (dataset in TEXTS):
        kind, other = ("images", "text") if model in IMAGE_MODELS else ("text", "images")
        raise UsageError(f"--model {model} is made for {kind}, but --dataset {dataset} is {other}")


def build_model(
    name: str,
    format: Format,
    seed: int,
    *,
    size: str = "small",
    tie_embeddings: bool = True,
) -> nn.Module:
    """A model on the CPU whose initial weights depend on the seed alone, so that none need to be
    sent (design, section 4).

    Args:
        name: which one of MODELS, or the module:factory of a user's own, which is called with the
            format.
        format: of the data set.
        seed: of the run.
        size: of gpt, one of SIZES.
        tie_embeddings: of gpt.

    Raises:
        UsageError: it does not fit the data, or a user's own cannot be made.
    """
    seed_everything(derive_key(seed, "initial weights"))
    if is_own(name):
        return _own_model(name, format)
    if name in _OF_IMAGES and isinstance(format, ImageFormat):
        return _OF_IMAGES[name](format.shape, format.num_classes)
    if name not in _OF_IMAGES and isinstance(format, TextFormat):
        return GPT(format, SIZES[size], tie_embeddings)
    kind = "images (channels, height, width)" if name in _OF_IMAGES else "--dataset text or stdlib"
    raise UsageError(
        f"--model {name} is made for {kind}; this data set has {format}: MODULE:FACTORY makes a "
        "model of your own"
    )


def _own_model(name: str, format: Format) -> nn.Module:
    model = call("--model", name, find_factory("--model", name), format, "the format of the data")
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"--model {name} returns a {type(model).__name__}; it must return a torch.nn.Module"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UsageError(f"--model {name} has no parameter to train")
    others = {one.dtype for one in model.parameters()} - {torch.float32}
    if others:
        raise UsageError(
            f"--model {name} has parameters of {', '.join(map(str, others))}; all must be float32"
        )
    return model


@torch.no_grad()
def check_output(name: str, model: nn.Module, dataset: Dataset) -> None:
    """Raises UsageError if a user's model cannot tell the classes of the data apart."""
    if not is_own(name):
        return
    inputs, labels = dataset.train.batch(torch.arange(min(2, len(dataset.train))), _CPU)
    words = f"inputs of shape {tuple(inputs.shape)}"
    logits = call("--model", name, model.eval(), inputs, words)
    num_classes = _num_classes(dataset.format)
    expected = (*labels.shape, num_classes)
    if not isinstance(logits, Tensor) or tuple(logits.shape) != expected:
        found = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"--model {name} makes {found} of inputs of shape {tuple(inputs.shape)}; it must make "
            f"a tensor of shape {expected}, a number for each class"
        )


def _num_classes(format: Format) -> int:
    return len(format.vocabulary) if isinstance(format, TextFormat) else format.num_classes


def normalises_batches(model: nn.Module) -> bool:
    """Whether training needs more than one image a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
