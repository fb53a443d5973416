"""The inference of a FixedNetwork in the integer operators of standard ONNX.

Every tensor holds integers, laid out (N, H, W, C) as in fxsim.  Where both operands of a product
have 8 bits it is a ConvInteger or MatMulInteger, elsewhere a MatMul of int64, over windows that a
Gather lays side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fxsim.formats import Format
from fxsim.interchange.arithmetic import Int64, Integers
from fxsim.interchange.export import INPUT, OUTPUT, Export, Value
from fxsim.interchange.nodes import Shape
from fxsim.nn.fixed.layer import FixedLayer
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.ops.products import Geometry
from fxsim.ops.summation import ChannelSum
from fxsim.windows import Window

ZERO = 128
"""Signed bytes go into integer products as unsigned ones with this zero point.

Products of unsigned by signed bytes saturate pairs of products to int16 on some processors.
"""

BYTE = np.dtype(np.uint8)


def to_onnx(network: FixedNetwork, path: str | Path) -> None:
    """Write the inference of a network as an ONNX file of integer operators.

    The file's input `images` (N, H, W, C) takes image codes, its output `logits` (N, outputs) has
    the codes of `network.logits`, every one.  N is open.  Both have the NumPy type of their format
    (`Format.dtype`).  The file's metadata_props hold the formats of all tensors.

    Args:
        network: The network.  Batch norm takes the running statistics; see FixedNetwork.folded.
        path: The file.

    Raises:
        TypeError: For what is no FixedNetwork.
        InputError: onnx is not installed, or the network has what no operator does: a stochastic
            rounding, an accumulator that overflows on the way, a rounding that drops more than 61
            bits.  The message names the layer.

    Example:
        >>> import tempfile
        >>> from fxsim import Dense, FixedNetwork, Network, presets
        >>> from fxsim.interchange import to_onnx
        >>> from fxsim.nn.init import initial_parameters
        >>> network = Network("n", (1, 1, 3), (Dense(name="scores", units=2, relu=False),))
        >>> formats = presets.uniform("Q4.4").assignment(network)
        >>> fixed = FixedNetwork(network, formats, initial_parameters(network, 0))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     to_onnx(fixed, f"{folder}/n.onnx")
    """
    IntegerExport(network).save(path)


class IntegerExport(Export):
    """The graph of `to_onnx`; every Value's tensor holds its integers, in int64."""

    what = "fxsim inference in integers"
    opsets: Mapping[str, int] = {"": 18}

    def __init__(self, network: FixedNetwork):
        super().__init__(network, Int64, "N")

    @property
    def input_type(self) -> Any:
        return self.network.input_format.dtype

    @property
    def output_type(self) -> Any:
        return self.network.assignment.logits.dtype

    def input(self) -> Value:
        format = self.network.input_format
        shape = (self.batch, *self.network.network.input_shape)
        return Value(INPUT, shape, format.step_exp, format.min_code, format.max_code)

    def images(self, given: Value) -> Value:
        first = self.network.network.names[0]
        cast = self._cast(given.name, given.shape, np.int64)
        name = self.nodes.named(cast, f"{first}.activations")
        return Value(name, given.shape, given.step_exp, given.low, given.high)

    def logits(self, value: Value) -> Value:
        outputs = self.network.network.outputs
        flat = self._reshaped(value.name, (self.batch, outputs), np.int64)
        cast = self._cast(flat, (self.batch, outputs), self.output_type)
        name = self.nodes.named(cast, OUTPUT)
        return Value(name, (self.batch, outputs), value.step_exp, value.low, value.high)

    def integers(self, value: Value) -> Integers:
        return Integers(value.name, value.shape, value.low, value.high)

    def value(self, integers: Integers, step_exp: int) -> Value:
        return Value(integers.name, integers.shape, step_exp, integers.low, integers.high)

    def product(self, layer: FixedLayer, x: Value, bound: int) -> Value:
        product = layer.forward_product
        geometry = product.geometry
        shape = (self.batch, *layer.shape.pre)
        codes = self.parameters(layer)["weight"].codes.reshape(geometry.weight)
        terms = geometry.taps * geometry.channels // geometry.groups
        narrow = all(format.bits <= 8 for format in product.formats)
        if narrow and terms * 255 * 255 < 2**31:
            sums = self._by_bytes(layer, x, codes)
        else:
            sums = self._by_int64(layer, x, codes.astype(np.int64))
        self.numbers.check(bound)
        z = Integers(sums, shape, -bound, bound)
        bias = self.parameters(layer).get("bias")
        held = product.bias_of(None if bias is None else bias.codes)
        if held.sum_shift:
            number = self.numbers.number(1 << held.sum_shift)
            z = self.numbers.made("Mul", [z.name, number], z, -bound, bound)
        if held.aligned is not None:
            name = self.nodes.constant(held.aligned, "bias")
            z = self.numbers.made("Add", [z.name, name], z, -bound, bound)
        return self.value(z, product.format.step_exp)

    def _by_bytes(self, layer: FixedLayer, x: Value, weight: np.ndarray) -> str:
        """The sums as a ConvInteger or a MatMulInteger makes them.

        Both operands are unsigned.  A sum of K products of theirs fits int32, K 255**2 < 2**31, and
        so do the terms that take the zero points off, all modulo 2**32.
        """
        geometry = layer.forward_product.geometry
        signed, _ = (format.signed for format in layer.forward_product.formats)
        zero = ZERO if signed else 0
        raised = self.numbers.plus(self.integers(x), zero).name
        left = self._cast(raised, x.shape, BYTE)
        right = (weight.astype(np.int64) + ZERO).astype(BYTE)
        zeros = [self.nodes.constant(np.array(each, BYTE)) for each in (zero, ZERO)]
        shape: Shape = (self.batch, *layer.shape.pre)
        if geometry.input[:2] == (1, 1) and geometry.taps == 1 and geometry.groups == 1:
            self.products[layer.name] = "MatMulInteger"
            flat = self._reshaped(left, (self.batch, geometry.channels), BYTE)
            matrix = self.nodes.constant(right.reshape(-1, geometry.outputs), "weights")
            inputs = [flat, matrix, *zeros]
            made = (self.batch, geometry.outputs)
            sums = self.nodes.node("MatMulInteger", inputs, made, np.int32)
            sums = self._reshaped(sums, shape, np.int32)
        else:
            self.products[layer.name] = "ConvInteger"
            sums = self._convolved(layer, left, right, zeros)
        return self._cast(sums, shape, np.int64)

    def _convolved(self, layer: FixedLayer, left: str, right: np.ndarray, zeros: list[str]) -> str:
        geometry = layer.forward_product.geometry
        window = geometry.window
        height, width, channels = geometry.input
        rows, columns, outputs = geometry.output
        planes = self._transposed(left, (self.batch, height, width, channels), (0, 3, 1, 2), BYTE)
        filters = self.nodes.constant(right.transpose(3, 2, 0, 1), "weights")
        top, bottom, before, after = window.padding
        sums = self.nodes.node(
            "ConvInteger",
            [planes, filters, *zeros],
            (self.batch, outputs, rows, columns),
            np.int32,
            group=geometry.groups,
            pads=[top, before, bottom, after],
            strides=list(window.stride),
            dilations=list(window.dilation),
        )
        made = (self.batch, outputs, rows, columns)
        return self._transposed(sums, made, (0, 2, 3, 1), np.int32)

    def _by_int64(self, layer: FixedLayer, x: Value, weight: np.ndarray) -> str:
        """The sums as MatMul of int64 makes them, over windows side by side."""
        self.products[layer.name] = "MatMul of int64"
        geometry = layer.forward_product.geometry
        places = math.prod(geometry.output[:2])
        terms = geometry.taps * geometry.channels // geometry.groups
        left = self._operand(x, geometry)
        taps = geometry.taps
        groups = geometry.groups
        outputs = geometry.outputs
        if groups == 1:
            matrix = self.nodes.constant(weight.reshape(terms, outputs), "weights")
            sums = self.nodes.node(
                "MatMul", [left, matrix], (self.batch, places, outputs), np.int64
            )
        else:
            apart = weight.reshape(terms, groups, outputs // groups).transpose(1, 0, 2)
            matrix = self.nodes.constant(apart, "weights")
            shape: Shape = (self.batch, places, taps, groups, geometry.channels // groups)
            split = self._reshaped(left, shape, np.int64)
            turned = self._transposed(split, shape, (0, 3, 1, 2, 4), np.int64)
            rows = self._reshaped(turned, (self.batch, groups, places, terms), np.int64)
            made: Shape = (self.batch, groups, places, outputs // groups)
            each = self.nodes.node("MatMul", [rows, matrix], made, np.int64)
            sums = self._transposed(each, made, (0, 2, 1, 3), np.int64)
        return self._reshaped(sums, (self.batch, *layer.shape.pre), np.int64)

    def _operand(self, x: Value, geometry: Geometry) -> str:
        """(N, positions, terms of all groups): what the weights of each position are multiplied with."""
        window = geometry.window
        places = math.prod(geometry.output[:2])
        whole = (self.batch, places, geometry.taps * geometry.channels)
        name = x.name
        if window != Window((1, 1)):
            shaped = Value(
                self._reshaped(x.name, (self.batch, *geometry.input), np.int64),
                (self.batch, *geometry.input),
                x.step_exp,
                x.low,
                x.high,
            )
            name = self._windows(shaped, window, 0)
        return self._reshaped(name, whole, np.int64)

    def _windows(self, x: Value, window: Window, fill: int) -> str:
        """(N, positions, taps, C) of (N, H, W, C); fill: what lies outside of the image."""
        _, height, width, channels = x.shape
        index = _window_index((int(height), int(width)), window)
        size = int(height) * int(width)
        flat = self._reshaped(x.name, (self.batch, size, channels), np.int64)
        if index.max() == size:
            more = self.nodes.constant(np.array([0, 0, 0, 0, 1, 0], np.int64), "pads")
            inputs = [flat, more, self.numbers.number(fill)]
            flat = self.nodes.node("Pad", inputs, (self.batch, size + 1, channels), np.int64)
        places = self.nodes.constant(index, "windows")
        shape = (self.batch, *index.shape, channels)
        return self.nodes.node("Gather", [flat, places], shape, np.int64, axis=1)

    def combined(self, form: ChannelSum, x: Value, y: Value | None) -> Value:
        bound = max(self.bounds(form, x, y))
        self.numbers.check(bound)
        total = self._scaled(x.name, form.first, x.shape)
        if y is not None:
            other = self._scaled(y.name, form.second, x.shape)
            total = self.nodes.node("Add", [total, other], x.shape, np.int64)
        if np.any(form.constant):
            constant = self.nodes.constant(form.constant.astype(np.int64), "constant")
            total = self.nodes.node("Add", [total, constant], x.shape, np.int64)
        return Value(total, x.shape, form.step_exp, -bound, bound)

    def _scaled(self, x: str, factors: np.ndarray, shape: Shape) -> str:
        if np.all(factors == 1):
            return x
        factor = self.nodes.constant(factors.astype(np.int64), "factors")
        return self.nodes.node("Mul", [x, factor], shape, np.int64)

    def max_pooled(self, x: Value, window: Window, format: Format) -> Value:
        return self._reduced("ReduceMax", x, window, format.min_code, (x.low, x.high))

    def window_sums(self, x: Value, window: Window) -> Value:
        return self._reduced("ReduceSum", x, window, 0, (x.low * window.taps, x.high * window.taps))

    def _reduced(
        self, operator: str, x: Value, window: Window, fill: int, ends: tuple[int, int]
    ) -> Value:
        _, height, width, channels = x.shape
        positions = window.positions((int(height), int(width)))
        axes = self.nodes.constant(np.array([2], np.int64), "axes")
        inputs = [self._windows(x, window, fill), axes]
        flat = (self.batch, math.prod(positions), channels)
        made = self.nodes.node(operator, inputs, flat, np.int64, keepdims=0)
        shape = (self.batch, *positions, channels)
        return Value(self._reshaped(made, shape, np.int64), shape, x.step_exp, *ends)

    def leaked(self, x: Value, slope_exp: int) -> Value:
        own = self.integers(x)
        fine = self.numbers.times(own, 1 << -slope_exp)
        zero = self.numbers.number(0)
        positive = self.nodes.node("Greater", [x.name, zero], x.shape, np.bool_)
        inputs = [positive, fine.name, x.name]
        made = self.numbers.made("Where", inputs, own, x.low, fine.high)
        return self.value(made, x.step_exp + slope_exp)

    def _cast(self, x: str, shape: Shape, dtype: Any) -> str:
        return self.nodes.node("Cast", [x], shape, dtype, to=self.numbers.element(dtype))

    def _reshaped(self, x: str, shape: Shape, dtype: Any) -> str:
        """Of N images: the first size stays."""
        sizes = self.nodes.constant(np.array([0, *shape[1:]], np.int64), "shape")
        return self.nodes.node("Reshape", [x, sizes], shape, dtype)

    def _transposed(self, x: str, shape: Any, order: tuple[int, ...], dtype: Any) -> str:
        made = tuple(shape[axis] for axis in order)
        return self.nodes.node("Transpose", [x], made, dtype, perm=list(order))


def _window_index(image: tuple[int, int], window: Window) -> np.ndarray:
    """(positions, taps): the place in the image, row-major, of each tap; H W outside of it."""
    rows, columns = (
        position * stride - before + np.arange(taps) * spread
        for position, stride, before, taps, spread in zip(
            (np.arange(count)[:, None] for count in window.positions(image)),
            window.stride,
            window.before,
            window.size,
            window.dilation,
        )
    )
    height, width = image
    y = rows[:, None, :, None]
    x = columns[None, :, None, :]
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    index = np.where(inside, y * width + x, height * width)
    return index.reshape(len(rows) * len(columns), -1).astype(np.int64)
