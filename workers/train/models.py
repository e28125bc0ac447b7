"""The models that can be trained; each fits the images and classes of its data set."""

from collections.abc import Callable

import torch
from torch import nn

from compsgd.rng import derive_key

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


_BUILDERS: dict[str, Callable[[ImageShape, int], nn.Module]] = {
    "vanilla_cnn": vanilla_cnn,
    "mlp": mlp,
    "resnet18": resnet18,
}
MODELS = tuple(_BUILDERS)


def build_model(name: str, image_shape: ImageShape, num_classes: int, seed: int) -> nn.Module:
    """A model on the CPU whose initial weights depend on the seed alone, so that none need to be
    sent (design, section 4)."""
    torch.manual_seed(derive_key(seed, "initial weights"))
    return _BUILDERS[name](image_shape, num_classes)


def normalises_batches(model: nn.Module) -> bool:
    """Whether training needs more than one image a batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
