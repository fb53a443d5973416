"""The paper's four networks (Sakr and Shanbhag, ICLR 2019, section 4), small ones, and those that
hardware is measured on.

Every builder takes a width multiplier, so that a narrow relative trains in minutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

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


def lenet5(width: float = 1.0) -> Network:
    """6C5 - MP2 - 16C5 - MP2 - 120FC - 84FC - 10 on 28x28 digits: 61,706 parameters.

    Source: Y. LeCun et al., "Gradient-based learning applied to document recognition" (1998), with
    ReLU and max pooling.
    """
    pool = Pool("max", 2)
    return Network(
        "lenet5",
        (28, 28, 1),
        (
            Conv(name="conv1", filters=_scaled(6, width), kernel=5, padding=2, pool=pool),
            Conv(name="conv2", filters=_scaled(16, width), kernel=5, pool=pool),
            Dense(name="fc1", units=_scaled(120, width)),
            Dense(name="fc2", units=_scaled(84, width)),
            Dense(name="fc3", units=10, relu=False),
        ),
    )


def resnet8(width: float = 1.0) -> Network:
    """ResNet-8 on 32x32 images: 16C3, blocks of 16, 32 and 64 filters, 8x8 average pool, FC.

    Source: MLPerf Tiny (C. Banbury et al., NeurIPS 2021), image classification: 77,360 weights and
    12.5 million MACs.
    """
    stem = _scaled(16, width)
    layers: list[Conv | Dense] = [_same("stem", stem)]
    for stage, filters in enumerate((16, 32, 64), start=1):
        filters = _scaled(filters, width)
        source = layers[-1].name
        shortcut = source
        stride = 1
        if stage > 1:
            stride = 2
            shortcut = f"s{stage}_shortcut"
            layers.append(
                Conv(
                    name=shortcut,
                    filters=filters,
                    kernel=1,
                    stride=2,
                    relu=False,
                    input=source,
                )
            )
        layers.append(_same(f"s{stage}_conv1", filters, stride=stride, input=source))
        pool = Pool("average", "global") if stage == 3 else None
        layers.append(_same(f"s{stage}_conv2", filters, add=shortcut, pool=pool))
    layers.append(Dense(name="fc", units=10, relu=False))
    return Network("resnet8", (32, 32, 3), tuple(layers))


def kws_dscnn(width: float = 1.0) -> Network:
    """Depthwise separable network for keywords, on 49 frames of 10 coefficients, 12 classes.

    Source: MLPerf Tiny, keyword spotting: 2.66 million MACs.
    """
    filters = _scaled(64, width)
    layers: list[Conv | Dense] = [_same("conv1", filters, kernel=(10, 4), stride=2, dropout=0.2)]
    for block in range(1, 5):
        last = block == 4
        layers += _separable(f"b{block}", filters, filters, 1, last)
    layers.append(Dense(name="fc", units=12, relu=False))
    return Network("kws-dscnn", (49, 10, 1), tuple(layers))


def vww_mobilenet(width: float = 1.0) -> Network:
    """MobileNetV1 x 0.25 on 96x96 images, 2 classes.

    Source: MLPerf Tiny, visual wake words: 7.49 million MACs.
    """
    channels = _scaled(8, width)
    layers: list[Conv | Dense] = [_same("conv1", channels, stride=2)]
    blocks = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5]
    blocks += [(256, 2), (256, 1)]
    for block, (filters, stride) in enumerate(blocks, start=1):
        filters = _scaled(filters, width)
        layers += _separable(f"b{block}", channels, filters, stride, block == len(blocks))
        channels = filters
    layers.append(Dense(name="fc", units=2, relu=False))
    return Network("vww-mobilenet", (96, 96, 3), tuple(layers))


def jet_mlp(width: float = 1.0) -> Network:
    """64FC - 32FC - 32FC - 5 on 16 features of particle jets: 4,389 parameters.

    Source: J. Duarte et al., "Fast inference of deep neural networks in FPGAs for particle
    physics" (JINST 2018).
    """
    units = (64, 32, 32)
    layers = [
        Dense(name=f"fc{index}", units=_scaled(count, width))
        for index, count in enumerate(units, 1)
    ]
    return Network("jet-mlp", (1, 1, 16), (*layers, Dense(name="fc4", units=5, relu=False)))


def ecg_convnet(width: float = 1.0) -> Network:
    """Residual network of one dimension on heartbeats of 187 samples, 5 classes.

    32C5, five blocks of two 32C5 with max pooling over 5 samples at stride 2, two of 32FC.

    Source: M. Kachuee, S. Fazeli and M. Sarrafzadeh, "ECG heartbeat classification: a deep
    transferable representation" (ICHI 2018).
    """
    filters = _scaled(32, width)

    def conv(name: str, **fields: Any) -> Conv:
        return Conv(name=name, filters=filters, kernel=(1, 5), padding="same", **fields)

    stem = Conv(name="stem", filters=filters, kernel=(1, 5), relu=False)
    layers: list[Conv | Dense] = [stem]
    for block in range(1, 6):
        source = layers[-1].name
        pool = Pool("max", (1, 5), (1, 2))
        layers.append(conv(f"b{block}_conv1", input=source))
        layers.append(conv(f"b{block}_conv2", add=source, pool=pool))
    layers += [Dense(name=f"fc{index}", units=_scaled(32, width)) for index in (1, 2)]
    layers.append(Dense(name="fc3", units=5, relu=False))
    return Network("ecg-convnet", (1, 187, 1), tuple(layers))


def _same(name: str, filters: int, **fields: Any) -> Conv:
    """A convolution with 'same' padding and batch norm."""
    return Conv(name=name, filters=filters, padding="same", batch_norm=True, **fields)


def _separable(label: str, channels: int, filters: int, stride: int, last: bool) -> list[Conv]:
    """A depthwise 3x3 convolution and a pointwise one, averaged over all positions if `last`."""
    pool = Pool("average", "global") if last else None
    return [
        _same(f"{label}_depthwise", channels, groups=channels, stride=stride),
        _same(f"{label}_pointwise", filters, kernel=1, pool=pool),
    ]


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
    "lenet5": lenet5,
    "resnet8": resnet8,
    "kws-dscnn": kws_dscnn,
    "vww-mobilenet": vww_mobilenet,
    "jet-mlp": jet_mlp,
    "ecg-convnet": ecg_convnet,
    "digits-autoencoder": digits_autoencoder,
    "ad-autoencoder": ad_autoencoder,
}


def build(name: str, width: float = 1.0) -> Network:
    """The built-in network `name`; an InputError names the nearest where there is none."""
    return BUILDERS[choice("network", name, BUILDERS)](width)
