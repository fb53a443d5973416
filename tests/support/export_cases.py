"""Networks, formats and runners for the exports to ONNX and QONNX."""

import warnings

import numpy as np
import pytest

from fxsim import (
    Activation,
    Conv,
    Dense,
    FixedNetwork,
    Format,
    LayerPrecision,
    Network,
    Pool,
    PrecisionAssignment,
)
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import BatchNormPrecision, accumulator_format
from fxsim.nn.networks import build
from fxsim.nn.tensors import is_branch
from support.bits import assert_same_codes

TABLE = Activation("table", function="tanh", interpolation="linear", index_bits=4, range_exp=1)
SIGMOID = Activation("table", function="sigmoid", index_bits=6, range_exp=2)


BIAS = Format(13, 1)


def scores(units=4):
    return Dense(name="scores", units=units, activation="none")


def network(*layers, shape):
    return Network("n", shape, (*layers, scores()))


SMALL = {
    "lenet5": build("lenet5", 0.5),
    "resnet8": build("resnet8", 0.25),
    "dscnn": build("kws-dscnn", 0.125),
    "autoencoder": build("digits-autoencoder", 0.5),
    "convnet_1d": build("ecg-convnet", 0.25),
    "mobilenet": network(
        Conv(name="a", filters=4, padding="same", stride=2, batch_norm=True),
        Conv(name="b", filters=4, groups=4, padding="same", batch_norm=True),
        Conv(name="c", filters=8, kernel=1, batch_norm=True),
        Conv(name="d", filters=8, groups=8, padding="same", stride=2, batch_norm=True),
        Conv(name="e", filters=16, kernel=1, batch_norm=True, pool=Pool("average", "global")),
        shape=(12, 12, 3),
    ),
    "mlp": network(
        Dense(name="a", units=24, batch_norm=True),
        Dense(name="b", units=12, batch_norm=True, activation="relu"),
        shape=(1, 1, 16),
    ),
    "residual": network(
        Conv(name="a", filters=4, padding=1),
        Conv(name="b", filters=4, padding=1, activation="none", input="a"),
        Conv(name="c", filters=4, kernel=1, activation="none", input="a"),
        Conv(name="d", filters=4, padding=1, add="b", input="c", pool=Pool("max", 2)),
        shape=(6, 6, 2),
    ),
    "asymmetric": network(
        Conv(
            name="a",
            filters=6,
            kernel=(3, 2),
            padding=(2, 0, 1, 0),
            stride=(2, 1),
            pool=Pool("max", (3, 2), (2, 1), (1, 0, 0, 1)),
        ),
        Conv(name="b", filters=4, kernel=2, dilation=(1, 2), groups=2, padding=(0, 1, 0, 2)),
        shape=(9, 7, 3),
    ),
    "leaky": network(
        Conv(
            name="a",
            filters=4,
            activation=Activation("leaky_relu", slope_exp=-3),
            pool=Pool("max", 2, 1, (1, 0, 0, 1)),
        ),
        Dense(name="b", units=6, activation=Activation("leaky_relu", slope_exp=-1)),
        shape=(5, 5, 2),
    ),
    "tables": network(
        Conv(name="a", filters=4, activation=TABLE, pool=Pool("average", 3, 1)),
        Conv(name="b", filters=4, activation=SIGMOID),
        Dense(name="c", units=4, activation=Activation("relu", ceiling=1.3)),
        shape=(7, 7, 2),
    ),
    "one_position": network(
        Conv(name="a", filters=6, kernel=2, pool=Pool("average", "global")),
        Dense(name="b", units=6, add="a"),
        Conv(name="c", filters=6, kernel=1, add="b"),
        shape=(5, 4, 2),
    ),
    "images": Network(
        "n",
        (6, 5, 3),
        (
            Conv(name="a", filters=4, padding=1, activation="relu"),
            Conv(name="b", filters=3, padding=1, activation="none"),
        ),
        "mse",
        "tensors",
    ),
}
"""Of each kind that a hardware network has, small."""

LARGE = {
    name: build(name)
    for name in (
        "lenet5",
        "resnet8",
        "kws-dscnn",
        "vww-mobilenet",
        "ad-autoencoder",
        "ecg-convnet",
        "jet-mlp",
        "digits-convnet",
    )
}


def assignment(network, weights=8, activations=8, **modes):
    """Formats of so many bits: unsigned activations behind a ReLU, 16 bits for all else."""
    layers = {}
    for layer, source in network.edges():
        signed = source is not None and network.layer(source).activation.signed
        w = Format(weights, 1)
        layers[layer.name] = LayerPrecision(
            weights=w,
            activations=Format(activations, 1 if source else 0, signed),
            activation_grads=Format(16, 0),
            weight_grads=Format(16, 0),
            accumulators=accumulator_format(w, w.step_exp - 16),
            relu_input_grads=Format(16, 0) if layer.activation.kind == "table" else None,
            bias=BIAS,
            bias_accumulators=accumulator_format(BIAS, -20),
            branch=Format(activations, 2) if is_branch(network, layer.name) else None,
            batch_norm=BatchNormPrecision() if layer.batch_norm else None,
        )
    return PrecisionAssignment(network.name, layers, Format(16, 5), **modes)


def fixed_network(network, formats, seed=0):
    """The network with weights of its start, and biases and statistics that are not those."""
    random = np.random.default_rng(seed)
    real = initial_parameters(network, seed)
    for own in real.values():
        for name, values in own.items():
            if name in ("bias", "beta", "running_mean"):
                values[...] = random.normal(0, 0.2, values.shape)
            if name in ("gamma", "running_var"):
                values[...] = random.uniform(0.6, 1.4, values.shape)
    return FixedNetwork(network, formats, real)


def images_of(fixed, count, seed=0):
    """Codes of images: drawn, the last ones all at an end of the format."""
    format = fixed.input_format
    shape = (count, *fixed.network.input_shape)
    drawn = np.random.default_rng(seed).integers(format.min_code, format.max_code + 1, shape)
    drawn[-1] = format.max_code
    drawn[-2] = format.min_code
    return drawn


def by_onnxruntime(path, fixed, codes):
    """The codes of the logits that ONNX Runtime computes from an integer file."""
    onnxruntime = pytest.importorskip(
        "onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)"
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (made,) = session.run(["logits"], {"images": codes.astype(fixed.input_format.dtype)})
    assert made.dtype == fixed.assignment.logits.dtype
    return made


def by_qonnx(path, fixed, codes):
    """The codes of the logits that qonnx's executor computes from a QONNX file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("qonnx", reason="needs QONNX (pip install qonnx)")
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx

        real = (codes * fixed.input_format.step).transpose(0, 3, 1, 2).astype(np.float32)
        made = execute_onnx(ModelWrapper(str(path)), {"images": real})["logits"]
    found = made.astype(np.float64) / fixed.assignment.logits.step
    assert (found == np.floor(found)).all()
    return found.astype(np.int64)


def assert_exported(export, run, fixed, path, codes, what=""):
    """The export of a network, run by its tool, gives fxsim's codes."""
    export(fixed, path)
    wanted = fixed.logits(codes)
    assert_same_codes(run(path, fixed, codes), wanted, what=what)
    return wanted
