"""The inference of a FixedNetwork as QONNX: real numbers in float32, and Quant nodes.

Every scale is a power of two, and every tensor holds codes times their step, laid out (N, C, H, W).
Float32 carries a sum of them exactly where it has at most 24 significant bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.interchange.arithmetic import Float32, Integers
from fxsim.interchange.export import INPUT, OUTPUT, Export, Value
from fxsim.interchange.nodes import Shape
from fxsim.nn.fixed.layer import FixedLayer
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.spec import MAX_ELEMENTS, Conv
from fxsim.ops.checks import whole
from fxsim.ops.summation import ChannelSum
from fxsim.quantizer import Quantizer, Requantization
from fxsim.windows import Window

DOMAIN = "qonnx.custom_op.general"
ROUNDING = {
    "nearest_even": "ROUND",
    "nearest_away": "HALF_UP",
    "nearest_zero": "HALF_DOWN",
    "floor": "FLOOR",
    "ceil": "CEIL",
    "zero": "DOWN",
    "away": "UP",
}
"""Rounding -> rounding_mode of a Quant node; the others are nodes of their own before it."""

MOST_BITS = 24
"""Of a code: so many bits are exact in float32."""

EXPONENTS = range(-100, 101)
"""Of steps: float32 has their codes, and no number on the way leaves its range."""

REAL = np.dtype(np.float32)


def to_qonnx(network: FixedNetwork, path: str | Path, batch: int = 1) -> None:
    """Write the inference of a network as a QONNX file: float32, Quant nodes, scales 2**n.

    The file's input `images` (N, C, H, W) takes reals: codes times the step of their format, or
    pixels over their greatest value, which the first node rounds to codes.  Its output `logits`
    (N, outputs) has the reals of `network.logits`, codes times the step, every one.  The file's
    metadata_props hold the formats of all tensors.

    Args:
        network: The network.  Batch norm takes the running statistics, whose sums seldom fit
            float32: FixedNetwork.folded gives a network without it.
        path: The file.
        batch: N, the images of a run: QONNX has no open sizes.

    Raises:
        TypeError: For what is no FixedNetwork.
        InputError: onnx is not installed, sums need more bits than float32 has, or the network has
            what no node does: see to_onnx.  The message names the layer.

    Example:
        >>> import tempfile
        >>> from fxsim import Dense, FixedNetwork, Network, presets
        >>> from fxsim.interchange import to_qonnx
        >>> from fxsim.nn.init import initial_parameters
        >>> network = Network("n", (1, 1, 3), (Dense(name="scores", units=2, relu=False),))
        >>> formats = presets.uniform("Q4.4").assignment(network)
        >>> fixed = FixedNetwork(network, formats, initial_parameters(network, 0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_qonnx(fixed, f"{folder}/n.onnx")
    """
    size = whole("batch", batch, 1, MAX_ELEMENTS)
    RealExport(network, size).save(path)


class RealExport(Export):
    """The graph of `to_qonnx`; every Value's tensor holds real numbers, in float32."""

    what = "fxsim inference in QONNX"
    opsets: Mapping[str, int] = {"": 13, DOMAIN: 1}

    def __init__(self, network: FixedNetwork, batch: int):
        super().__init__(network, Float32, batch)

    @property
    def input_type(self) -> Any:
        return REAL

    @property
    def output_type(self) -> Any:
        return REAL

    def input(self) -> Value:
        height, width, channels = self.network.network.input_shape
        format = self.network.input_format
        shape = (self.batch, channels, height, width)
        return Value(INPUT, shape, format.step_exp, format.min_code, format.max_code)

    def images(self, given: Value) -> Value:
        format = self.network.input_format
        codes = self._quant(given.name, given.shape, format, "HALF_UP", False)
        first = self.network.network.names[0]
        name = self.nodes.named(codes, f"{first}.activations")
        return Value(name, given.shape, given.step_exp, given.low, given.high)

    def logits(self, value: Value) -> Value:
        name = value.name
        if len(value.shape) > 2:
            batch, channels, height, width = value.shape
            turned = (batch, height, width, channels)
            name = self.nodes.node("Transpose", [name], turned, REAL, perm=[0, 2, 3, 1])
            name = self._reshaped(name, (self.batch, self.network.network.outputs))
        shape = (self.batch, self.network.network.outputs)
        return Value(self.nodes.named(name, OUTPUT), shape, value.step_exp, value.low, value.high)

    def integers(self, value: Value) -> Integers:
        self.numbers.check(value.largest)
        name = self._scaled(value.name, value.shape, -value.step_exp)
        return Integers(name, value.shape, value.low, value.high)

    def value(self, integers: Integers, step_exp: int) -> Value:
        name = self._scaled(integers.name, integers.shape, step_exp)
        return Value(name, integers.shape, step_exp, integers.low, integers.high)

    def _scaled(self, x: str, shape: Shape, exponent: int) -> str:
        """x times 2**exponent."""
        if exponent == 0:
            return x
        return self.nodes.node("Mul", [x, self._power(exponent)], shape, REAL)

    def _power(self, exponent: int) -> str:
        """The constant 2**exponent."""
        if exponent not in EXPONENTS:
            raise InputError(
                f"layer {self.nodes.scope!r}: the step 2^{exponent} is beyond what float32 scales "
                f"by; bring its formats near to 1"
            )
        return self.nodes.constant(np.array(2.0**exponent, REAL))

    def product(self, layer: FixedLayer, x: Value, bound: int) -> Value:
        product = layer.forward_product
        activations, weights = product.formats
        if bound > self.numbers.limit:
            raise InputError(
                f"layer {layer.name!r}: its sums of {activations.bits}-bit activations times "
                f"{weights.bits}-bit weights need {bound.bit_length() + 1} bits, and "
                f"{self.numbers.holder}; lower the widths, or export integers (--onnx)"
            )
        parameters = self.parameters(layer)
        real = parameters["weight"].tensor.real
        inputs = []
        if "bias" in parameters:
            bias = parameters["bias"]
            inputs.append(self._parameter("bias", bias.tensor.real, bias.format))
        if isinstance(layer.layer, Conv):
            self.products[layer.name] = "Conv of float32"
            filters = self._parameter("weights", real.transpose(3, 2, 0, 1), weights)
            name, shape = self._convolved(layer, x, [filters, *inputs])
        else:
            self.products[layer.name] = "MatMul of float32"
            matrix = self._parameter("weights", self._by_planes(layer, real), weights)
            name, shape = self._multiplied(layer, x, [matrix, *inputs])
        return Value(name, shape, product.format.step_exp, -bound, bound)

    def _parameter(self, tensor: str, real: np.ndarray, format: Format) -> str:
        """A parameter behind its Quant node."""
        constant = self.nodes.constant(real.astype(REAL), tensor)
        return self._quant(constant, real.shape, format, "ROUND", False)

    def _by_planes(self, layer: FixedLayer, real: np.ndarray) -> np.ndarray:
        """Weights (I, O) with I over (C, H, W)."""
        height, width, channels = layer.shape.input
        apart = real.reshape(height, width, channels, -1)
        planes: np.ndarray = apart.transpose(2, 0, 1, 3).reshape(real.shape)
        return planes

    def _convolved(self, layer: FixedLayer, x: Value, operands: list[str]) -> tuple[str, Shape]:
        geometry = layer.forward_product.geometry
        height, width, channels = geometry.input
        rows, columns, outputs = geometry.output
        image = self._like(x, (self.batch, channels, height, width))
        shape = (self.batch, outputs, rows, columns)
        made = self.nodes.node(
            "Conv",
            [image.name, *operands],
            shape,
            REAL,
            group=geometry.groups,
            **_window(geometry.window),
            dilations=list(geometry.window.dilation),
        )
        return made, shape

    def _multiplied(self, layer: FixedLayer, x: Value, operands: list[str]) -> tuple[str, Shape]:
        inputs, outputs = layer.shape.weight
        matrix, *bias = operands
        flat = self._like(x, (self.batch, inputs))
        shape = (self.batch, outputs)
        made = self.nodes.node("MatMul", [flat.name, matrix], shape, REAL)
        if bias:
            made = self.nodes.node("Add", [made, *bias], shape, REAL)
        return made, shape

    def combined(self, form: ChannelSum, x: Value, y: Value | None) -> Value:
        bounds = self.bounds(form, x, y)
        self._check_combined(form, bounds)
        total = self._by_channel("Mul", x.name, form.first, form.step_exp - x.step_exp, x.shape)
        if y is not None:
            other = self._like(y, x.shape).name
            exponent = form.step_exp - y.step_exp
            other = self._by_channel("Mul", other, form.second, exponent, x.shape)
            total = self.nodes.node("Add", [total, other], x.shape, REAL)
        total = self._by_channel("Add", total, form.constant, form.step_exp, x.shape)
        return Value(total, x.shape, form.step_exp, -max(bounds), max(bounds))

    def _check_combined(self, form: ChannelSum, bounds: list[int]) -> None:
        """InputError where a channel's sum has more bits than float32, its last zeros left out."""
        numbers = zip(form.first, form.second, form.constant, bounds)
        for first, second, constant, bound in numbers:
            joint = math.gcd(int(first), int(second), int(constant))
            bound //= (joint & -joint) or 1
            if bound > self.numbers.limit:
                raise InputError(
                    f"layer {self.nodes.scope!r}: batch norm or the residual addition needs "
                    f"{bound.bit_length() + 1} bits, and {self.numbers.holder}; fold batch norm "
                    f"(--folded), lower the widths, or export integers (--onnx)"
                )

    def _by_channel(
        self, operator: str, x: str, numbers: np.ndarray, exponent: int, shape: Shape
    ) -> str:
        """x times, or plus, numbers 2**exponent of the channels."""
        reals = np.array([math.ldexp(int(number), exponent) for number in numbers], REAL)
        if np.all(reals == (operator == "Mul")):
            return x
        constant = self.nodes.constant(reals.reshape(-1, *[1] * (len(shape) - 2)), "channels")
        return self.nodes.node(operator, [x, constant], shape, REAL)

    def relu(self, x: Value) -> Value:
        name = self.nodes.node("Relu", [x.name], x.shape, REAL)
        return Value(name, x.shape, x.step_exp, max(x.low, 0), max(x.high, 0))

    def leaked(self, x: Value, slope_exp: int) -> Value:
        name = self.nodes.node("LeakyRelu", [x.name], x.shape, REAL, alpha=2.0**slope_exp)
        ends = x.low, x.high << -slope_exp
        return Value(name, x.shape, x.step_exp + slope_exp, *ends)

    def quantized(self, x: Value, quantizer: Quantizer) -> Value:
        """By a Quant node where it has the modes, else by nodes before it."""
        format = quantizer.format
        way = quantizer.at(x.step_exp)
        if not self._is_quant(x, quantizer, way):
            codes = super().quantized(x, quantizer)
            name = self._quant(codes.name, codes.shape, format, "ROUND", False)
            return Value(name, codes.shape, codes.step_exp, codes.low, codes.high)
        narrow = way.range.low > format.min_code
        name = self._quant(x.name, x.shape, format, ROUNDING[quantizer.rounding], narrow)
        if way.range.high < format.max_code:
            ceiling = np.array(math.ldexp(way.range.high, format.step_exp), REAL)
            name = self.nodes.node("Min", [name, self.nodes.constant(ceiling)], x.shape, REAL)
        return Value(name, x.shape, format.step_exp, *_ends_of_codes(x, way))

    def _is_quant(self, x: Value, quantizer: Quantizer, way: Requantization) -> bool:
        """Whether a Quant node alone gives the codes.

        Halves are rounded by adding 1/2: with d bits to drop, |v| + 2**(d-1) must be exact, or |v|
        so small that 1/2 + |v| 2**-d, rounded, is below 1.
        """
        if quantizer.rounding not in ROUNDING or way.overflow != "saturate":
            return False
        if way.shift <= 0 or not ROUNDING[quantizer.rounding].startswith("HALF"):
            return True
        return x.largest + 2 ** (way.shift - 1) <= 2**24 or x.largest <= 2**23

    def _quant(self, x: str, shape: Shape, format: Format, mode: str, narrow: bool) -> str:
        """A Quant node that brings x to a format."""
        if format.bits > MOST_BITS or (format.signed and format.bits == 1):
            raise InputError(
                f"layer {self.nodes.scope!r}: a tensor in {format} is no Quant node of float32: "
                f"that has at most {MOST_BITS} bits, and 2 or more with a sign; change the width, "
                f"or export integers (--onnx)"
            )
        constants = [
            self._power(format.step_exp),
            self.nodes.constant(np.array(0, REAL)),
            self.nodes.constant(np.array(format.bits, REAL)),
        ]
        return self.nodes.node(
            "Quant",
            [x, *constants],
            shape,
            REAL,
            domain=DOMAIN,
            signed=int(format.signed),
            narrow=int(narrow),
            rounding_mode=mode,
        )

    def max_pooled(self, x: Value, window: Window, format: Format) -> Value:
        shape = self._pooled_shape(x, window)
        name = self.nodes.node("MaxPool", [x.name], shape, REAL, **_window(window))
        return Value(name, shape, x.step_exp, x.low, x.high)

    def averaged(self, x: Value, window: Window, quantizer: Quantizer) -> Value:
        """By AveragePool where the number of places is a power of two: it is exact."""
        bits = window.taps.bit_length() - 1
        if window.taps != 1 << bits:
            exact = super().averaged(x, window, quantizer)
            name = self._quant(exact.name, exact.shape, quantizer.format, "ROUND", False)
            return Value(name, exact.shape, exact.step_exp, exact.low, exact.high)
        ends = x.low << bits, x.high << bits
        self.numbers.check(x.largest << bits)
        shape = self._pooled_shape(x, window)
        name = self.nodes.node("AveragePool", [x.name], shape, REAL, **_window(window))
        return self.quantized(Value(name, shape, x.step_exp - bits, *ends), quantizer)

    def window_sums(self, x: Value, window: Window) -> Value:
        self.numbers.check(x.largest * window.taps)
        channels = int(x.shape[1])
        ones = self.nodes.constant(np.ones((channels, 1, *window.size), REAL), "ones")
        shape = self._pooled_shape(x, window)
        inputs = [x.name, ones]
        name = self.nodes.node("Conv", inputs, shape, REAL, group=channels, **_window(window))
        return Value(name, shape, x.step_exp, x.low * window.taps, x.high * window.taps)

    def _pooled_shape(self, x: Value, window: Window) -> Shape:
        batch, channels, height, width = x.shape
        return (batch, channels, *window.positions((int(height), int(width))))

    def _like(self, x: Value, shape: Shape) -> Value:
        """x in another shape."""
        if x.shape == shape:
            return x
        return Value(self._reshaped(x.name, shape), shape, x.step_exp, x.low, x.high)

    def _reshaped(self, x: str, shape: Shape) -> str:
        sizes = self.nodes.constant(np.array(shape, np.int64), "shape")
        return self.nodes.node("Reshape", [x, sizes], shape, REAL)


def _window(window: Window) -> dict[str, Any]:
    """The attributes of a window."""
    top, bottom, before, after = window.padding
    return {
        "kernel_shape": list(window.size),
        "strides": list(window.stride),
        "pads": [top, before, bottom, after],
    }


def _ends_of_codes(x: Value, way: Requantization) -> tuple[int, int]:
    """What no code of x leaves, whatever the rounding."""
    finer = max(-way.shift, 0)
    drop = max(way.shift, 0)
    least = (x.low << finer) >> drop
    most = -((-x.high << finer) >> drop)
    low = way.range.low
    high = way.range.high
    return min(max(least, low), high), min(max(most, low), high)
