"""Networks, formats and modes as they are drawn: each file gives fxsim's codes, or is refused."""

import functools

import numpy as np
import pytest
from support.export_cases import (
    assert_exported,
    by_onnxruntime,
    by_qonnx,
    fixed_network,
    images_of,
)

from fxsim import (
    OVERFLOWS,
    Activation,
    Conv,
    Dense,
    Format,
    InputError,
    LayerPrecision,
    Network,
    Pool,
    PrecisionAssignment,
)
from fxsim.formats import DETERMINISTIC
from fxsim.interchange import to_onnx, to_qonnx
from fxsim.nn.layer_precision import BatchNormPrecision
from fxsim.nn.tensors import is_branch, quantized_tensors

pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

ACTIVATIONS = (
    Activation("none"),
    Activation("relu"),
    Activation("clipped_relu"),
    Activation("relu", ceiling=0.8),
    Activation("leaky_relu", slope_exp=-2),
    Activation("table", function="tanh", index_bits=5, range_exp=0),
    Activation("table", function="sigmoid", index_bits=4, range_exp=1, interpolation="linear"),
)
MODED = ("activations", "branch", "logits", "preactivations", "normalized")
IMAGES = 8


def pick(random, values):
    return values[random.integers(len(values))]


def drawn_layer(random, name, channels, earlier):
    """A layer of any kind; its fields may not fit."""
    fields = {
        "name": name,
        "activation": pick(random, ACTIVATIONS),
        "batch_norm": bool(random.random() < 0.3),
    }
    if not fields["batch_norm"]:
        fields["bias"] = bool(random.random() < 0.8)
    if random.random() < 0.4:
        fields["pool"] = pick(
            random,
            [
                Pool("max", 2),
                Pool("max", (2, 3), 1, (0, 1, 1, 0)),
                Pool("average", 2, rounding=pick(random, DETERMINISTIC)),
                Pool("average", (3, 2), (1, 2), rounding=pick(random, DETERMINISTIC)),
                Pool("average", "global"),
            ],
        )
    if earlier and random.random() < 0.5:
        fields["add"] = pick(random, earlier)
    if earlier and random.random() < 0.3:
        fields["input"] = pick(random, earlier)
    if random.random() < 0.2:
        return Dense(units=4, **fields)
    return Conv(
        filters=4,
        kernel=tuple(map(int, random.integers(1, 4, 2))),
        stride=tuple(map(int, random.integers(1, 3, 2))),
        padding=pick(random, [0, "same", (1, 0, 0, 1), 1]),
        dilation=pick(random, [1, (1, 2)]),
        groups=pick(random, [1, 2, 4]) if channels == 4 else 1,
        **fields,
    )


def drawn_network(random):
    """A network of two to four layers, drawn until one fits."""
    while True:
        shape = tuple(map(int, random.integers(4, 9, 2))), pick(random, [1, 4])
        layers = []
        try:
            for place in range(random.integers(1, 4)):
                channels = 4 if layers else shape[1]
                names = [layer.name for layer in layers]
                layers.append(drawn_layer(random, f"l{place}", channels, names))
            last = Dense(name="scores", units=3, activation="none")
            return Network("n", (*shape[0], shape[1]), (*layers, last))
        except InputError:
            continue


def drawn_format(random, signed):
    return Format(int(random.integers(2, 13)), int(random.integers(-1, 3)), signed)


def drawn_assignment(random, network):
    """Formats of 2 to 12 bits and any modes."""
    inputs = {}
    layers = {}
    for layer, source in network.edges():
        signed = source is not None and network.layer(source).activation.signed
        if source not in inputs:
            inputs[source] = drawn_format(random, signed or bool(random.random() < 0.3))
        branch = None
        if is_branch(network, layer.name):
            branch = drawn_format(random, True)
        layers[layer.name] = LayerPrecision(
            weights=drawn_format(random, True),
            activations=inputs[source],
            activation_grads=Format(8, 0),
            weight_grads=Format(8, 0),
            accumulators=None,
            bias=drawn_format(random, True),
            bias_accumulators=None,
            relu_input_grads=Format(8, 0) if layer.activation.kind == "table" else None,
            branch=branch,
            preactivations=drawn_format(random, True),
            batch_norm=BatchNormPrecision(
                mean=drawn_format(random, True),
                variance=drawn_format(random, False),
                normalized=drawn_format(random, True),
                gamma=drawn_format(random, True),
                gamma_accumulators=None,
                beta=drawn_format(random, True),
                beta_accumulators=None,
            )
            if layer.batch_norm
            else None,
        )
    tensors = sorted(quantized_tensors(network, layers) & set(MODED))
    return PrecisionAssignment(
        "n",
        layers,
        Format(16, 4),
        {tensor: pick(random, DETERMINISTIC) for tensor in tensors},
        {tensor: pick(random, OVERFLOWS) for tensor in tensors},
    )


def drawn_fixed(seed):
    """A network with formats that it takes."""
    random = np.random.default_rng(seed)
    while True:
        try:
            network = drawn_network(random)
            return fixed_network(network, drawn_assignment(random, network), seed)
        except InputError:
            continue


def check(seeds, tmp_path):
    """How many files of QONNX there were."""
    made = 0
    for seed in seeds:
        fixed = drawn_fixed(seed)
        codes = images_of(fixed, IMAGES, seed)
        path = tmp_path / "m.onnx"
        assert_exported(to_onnx, by_onnxruntime, fixed, path, codes, f"seed {seed}")
        try:
            to_qonnx(fixed, path, IMAGES)
        except InputError:
            continue
        export = functools.partial(to_qonnx, batch=IMAGES)
        assert_exported(export, by_qonnx, fixed, path, codes, f"seed {seed}")
        made += 1
    return made


def test_drawn_networks(tmp_path):
    assert check(range(25), tmp_path) > 10


@pytest.mark.slow
def test_many_drawn_networks(tmp_path):
    assert check(range(100, 600), tmp_path) > 100
