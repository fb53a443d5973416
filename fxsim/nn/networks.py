"""The paper's four networks (Sakr and Shanbhag, ICLR 2019, section 4), small ones, autoencoders.

Every builder takes a width multiplier, so that a narrow relative trains in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from fxsim.errors import InputError, choice
from fxsim.nn.spec import Conv, Dense, Network, Pool, Shape


def digits_convnet(width: float = 1.0) -> Network:
    """16C3 - 16C3 - MP2 - 32C3 - MP2 - 64FC - 10 on 8x8 digits, 'same' padding, no batch norm."""
    return Network(
        "digits-convnet",
        (8, 8, 1),
        (
            Conv(name="conv1", filters=_scaled(16, width), padding=1),
            Conv(name="conv2", filters=_scaled(16, width), padding=1, pool=Pool("max", 2)),
            Conv(name="conv3", filters=_scaled(32, width), padding=1, pool=Pool("max", 2)),
            Dense(name="fc1", units=_scaled(64, width)),
            Dense(name="fc2", units=10, relu=False),
        ),
    )


def mnist_convnet(width: float = 1.0) -> Network:
    """LeNet-like: 16C5 - MP2 - 32C5 - MP2 - 128FC - 10 on 28x28 digits, no batch norm."""
    return Network(
        "mnist-convnet",
        (28, 28, 1),
        (
            Conv(name="conv1", filters=_scaled(16, width), kernel=5, pool=Pool("max", 2)),
            Conv(name="conv2", filters=_scaled(32, width), kernel=5, pool=Pool("max", 2)),
            Dense(name="fc1", units=_scaled(128, width)),
            Dense(name="fc2", units=10, relu=False),
        ),
    )


def cifar10_convnet(width: float = 1.0) -> Network:
    """2x(64C3) - MP2 - 2x(128C3) - MP2 - 2x(256C3) - 2x(512FC) - 10, unpadded, with batch norm."""
    return _paper_convnet("cifar10-convnet", width)


def svhn_convnet(width: float = 1.0) -> Network:
    """The architecture of cifar10-convnet."""
    return _paper_convnet("svhn-convnet", width)


def _paper_convnet(name: str, width: float) -> Network:
    layers: list[Conv | Dense] = []
    for stage, filters in enumerate((64, 128, 256)):
        pool = Pool("max", 2) if stage < 2 else None
        filters = _scaled(filters, width)
        layers.append(Conv(name=f"conv{2 * stage + 1}", filters=filters, batch_norm=True))
        layers.append(
            Conv(name=f"conv{2 * stage + 2}", filters=filters, batch_norm=True, pool=pool)
        )
    units = _scaled(512, width)
    layers.append(Dense(name="fc1", units=units, batch_norm=True))
    layers.append(Dense(name="fc2", units=units, batch_norm=True))
    layers.append(Dense(name="fc3", units=10, relu=False))
    return Network(name, (32, 32, 3), tuple(layers))


def cifar10_resnet(width: float = 1.0) -> Network:
    """Wide ResNet-20: 128C3, three blocks each of 128, 256 and 512 filters, 8x8 average pool,
    FC.
    """
    return _paper_resnet("cifar10-resnet", width, 10)


def cifar100_resnet(width: float = 1.0) -> Network:
    """The architecture of cifar10-resnet with 100 classes."""
    return _paper_resnet("cifar100-resnet", width, 100)


def _paper_resnet(name: str, width: float, classes: int) -> Network:
    def conv(name, filters, **fields):
        return Conv(name=name, filters=filters, padding=1, batch_norm=True, **fields)

    stem = _scaled(128, width)
    layers: list[Conv | Dense] = [conv("stem", stem)]
    for stage, filters in enumerate((128, 256, 512), start=1):
        filters = _scaled(filters, width)
        for block in range(1, 4):
            source = layers[-1].name
            label = f"s{stage}b{block}"
            first_of_later_stage = block == 1 and stage > 1
            stride = 1
            shortcut = source
            if first_of_later_stage:
                stride = 2
                shortcut = f"{label}_shortcut"
                layers.append(conv(shortcut, filters, stride=2, relu=False, input=source))
            layers.append(conv(f"{label}_conv1", filters, stride=stride, dropout=0.2, input=source))
            last_block = stage == 3 and block == 3
            layers.append(
                conv(
                    f"{label}_conv2",
                    filters,
                    add=shortcut,
                    pool=Pool("average", 8) if last_block else None,
                )
            )
    layers.append(Dense(name="fc", units=classes, relu=False))
    return Network(name, (32, 32, 3), tuple(layers))


def digits_autoencoder(width: float = 1.0) -> Network:
    """64FC - 32FC - 64FC - 64 on 8x8 digits, mean squared error; batch norm but for the last."""
    units = {"encoder": _scaled(64, width), "code": _scaled(32, width)}
    units |= {"decoder": _scaled(64, width)}
    return _autoencoder("digits-autoencoder", (8, 8, 1), units, "pixels")


def ad_autoencoder(width: float = 1.0) -> Network:
    """640 - 4x128FC - 8FC - 4x128FC - 640, batch norm and ReLU but for the last, mean squared error.

    Anomaly detection of MLPerf Tiny (C. Banbury et al., "MLPerf Tiny Benchmark", NeurIPS 2021),
    the baseline of DCASE 2020, task 2: five frames of 128 mel bands.  Its layers with batch norm
    have a bias, too, which changes nothing; here they have none.
    """
    outer = _scaled(128, width)
    units = {f"encoder{number}": outer for number in range(1, 5)}
    units |= {"code": _scaled(8, width)}
    units |= {f"decoder{number}": outer for number in range(1, 5)}
    return _autoencoder("ad-autoencoder", (1, 1, 640), units, "frames")


def _autoencoder(name: str, input_shape: Shape, units: dict[str, int], last: str) -> Network:
    """Fully connected layers with these units, and a last one that gives the input."""
    hidden = (Dense(name=label, units=size, batch_norm=True) for label, size in units.items())
    output = Dense(name=last, units=math.prod(input_shape), relu=False)
    return Network(name, input_shape, (*hidden, output), "mse", "tensors")


def _scaled(count: int, width: float) -> int:
    if not width > 0:
        raise InputError(f"width must be above 0, got {width}")
    return max(1, round(count * width))


BUILDERS: dict[str, Callable[[float], Network]] = {
    "digits-convnet": digits_convnet,
    "mnist-convnet": mnist_convnet,
    "cifar10-convnet": cifar10_convnet,
    "svhn-convnet": svhn_convnet,
    "cifar10-resnet": cifar10_resnet,
    "cifar100-resnet": cifar100_resnet,
    "digits-autoencoder": digits_autoencoder,
    "ad-autoencoder": ad_autoencoder,
}


def build(name: str, width: float = 1.0) -> Network:
    """The built-in network `name`; an InputError names the nearest where there is none."""
    return BUILDERS[choice("network", name, BUILDERS)](width)
