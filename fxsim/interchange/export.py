"""The inference of a FixedNetwork, layer by layer, as nodes of ONNX.

What the two exports share is here: the order of a layer's operations, the bounds of its sums, what
is refused, and what a file says of itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxsim import __version__
from fxsim.errors import InputError, present
from fxsim.fields import instance
from fxsim.formats import STOCHASTIC, Format
from fxsim.interchange.arithmetic import Arithmetic, Integers, bounded, quotient, requantized
from fxsim.interchange.nodes import Nodes, Shape
from fxsim.nn.fixed.activation import FixedActivation, relu_quantizer
from fxsim.nn.fixed.layer import FixedLayer
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.fixed.parameters import TrainedParameter
from fxsim.ops.lookup import index_format
from fxsim.ops.summation import ChannelSum
from fxsim.quantizer import Quantizer
from fxsim.windows import Window
from fxsim.words import DroppedBits

INPUT = "images"
OUTPUT = "logits"


@dataclass(frozen=True)
class Value:
    """A tensor of numbers that are integers, low to high, times 2**step_exp.

    How the tensor carries them is the export's own: as integers, or as real numbers.
    """

    name: str
    shape: Shape
    step_exp: int
    low: int
    high: int

    @property
    def largest(self) -> int:
        """No integer has a greater magnitude."""
        return max(-self.low, self.high)


class Export(ABC):
    """A graph that computes what `network.logits` does; `save` writes it.

    what: the file's kind, as it says itself.  opsets: domain -> version of the operators.
    """

    what: str
    opsets: Mapping[str, int]

    def __init__(self, network: FixedNetwork, numbers: type[Arithmetic], batch: int | str):
        self.network: FixedNetwork = instance("network", network, FixedNetwork)
        self.nodes = Nodes()
        self.numbers = numbers(self.nodes)
        self.batch = batch
        self.products: dict[str, str] = {}

    def save(self, path: str | Path) -> None:
        """Write the file."""
        network = self.network.network
        self.nodes.scope = INPUT
        taken = self.input()
        values: dict[str | None, Value] = {None: self.images(taken)}
        for layer, source in network.edges():
            self.nodes.scope = layer.name
            branch = values[layer.add] if layer.add else None
            own = self.network.layers[layer.name]
            values[layer.name] = self._layer(own, values[source], branch)
        self.nodes.scope = OUTPUT
        logits = self.logits(values[network.names[-1]])
        given, result = (
            self.nodes.info(each.name, each.shape, dtype)
            for each, dtype in ((taken, self.input_type), (logits, self.output_type))
        )
        self.nodes.save(path, network.name, (given, result), self.opsets, self._properties())

    @property
    @abstractmethod
    def input_type(self) -> Any:
        """NumPy type of the graph's input."""

    @property
    @abstractmethod
    def output_type(self) -> Any:
        """NumPy type of the graph's output."""

    @abstractmethod
    def input(self) -> Value:
        """The graph's input."""

    @abstractmethod
    def images(self, given: Value) -> Value:
        """The images, as the layers read them."""

    @abstractmethod
    def logits(self, value: Value) -> Value:
        """The graph's output (N, outputs)."""

    @abstractmethod
    def product(self, layer: FixedLayer, x: Value, bound: int) -> Value:
        """The sums of products, with the bias; none exceeds the bound."""

    @abstractmethod
    def combined(self, form: ChannelSum, x: Value, y: Value | None) -> Value:
        """The sums of a ChannelSum."""

    @abstractmethod
    def max_pooled(self, x: Value, window: Window, format: Format) -> Value:
        """The greatest code of each window."""

    @abstractmethod
    def window_sums(self, x: Value, window: Window) -> Value:
        """The sum of each window."""

    @abstractmethod
    def integers(self, value: Value) -> Integers:
        """The integers of a value."""

    @abstractmethod
    def value(self, integers: Integers, step_exp: int) -> Value:
        """The value that has these integers."""

    @abstractmethod
    def leaked(self, x: Value, slope_exp: int) -> Value:
        """x where x > 0, else x 2**slope_exp."""

    def _layer(self, layer: FixedLayer, x: Value, branch: Value | None) -> Value:
        z = self._held(layer, self.product(layer, x, self._bound(layer, x)))
        u = self._added(layer, z, branch)
        return self._named(layer, self._pooled(layer, self._activated(layer, u)))

    def _named(self, layer: FixedLayer, value: Value) -> Value:
        """The output of a layer under the name that fxsim has for it."""
        owner, tensor, _ = layer.output
        name = self.nodes.named(value.name, f"{owner}.{tensor}")
        return Value(name, value.shape, value.step_exp, value.low, value.high)

    def parameters(self, layer: FixedLayer) -> Mapping[str, TrainedParameter]:
        """The layer's parameters."""
        return self.network.parameters[layer.name]

    def _bound(self, layer: FixedLayer, x: Value) -> int:
        """What no sum of some of the products of an output exceeds, a bias included.

        In steps of the product's format; max |x| times the greatest sum of |weights|.
        """
        product = layer.forward_product
        parameters = self.parameters(layer)
        weight = parameters["weight"].codes.astype(np.int64)
        columns = np.abs(weight).reshape(-1, weight.shape[-1]).sum(axis=0)
        bias = product.bias_of(parameters["bias"].codes if "bias" in parameters else None)
        return (x.largest * int(columns.max()) << bias.sum_shift) + bias.largest

    def bounds(self, form: ChannelSum, x: Value, y: Value | None) -> list[int]:
        """What the sum of each channel does not exceed, nor any part of it."""
        largest = (x.largest, y.largest if y is not None else 0, 1)
        return [
            sum(abs(int(number)) * most for number, most in zip(numbers, largest))
            for numbers in zip(form.first, form.second, form.constant)
        ]

    def _held(self, layer: FixedLayer, z: Value) -> Value:
        """The sums as the layer's accumulator leaves them.

        Without an overflow on the way it leaves them as they are; where it acts at the end, or
        wraps, the order of the additions does not matter.
        """
        model = layer.forward_product.accumulator
        if model is None:
            return z
        extra = layer.forward_product.format.bits - model.bits
        low, high = model.range(extra)
        if model.adds_products_whole and z.largest <= high:
            return z
        if not model.adds_products_whole or not (model.at_end or model.overflow == "wrap"):
            raise InputError(
                f"layer {layer.name!r}: its accumulator ({model}) rounds or overflows on the way, "
                f"which no operator does; widen it to {(z.largest >> extra).bit_length() + 1} bits "
                f"without a drop, or export without it"
            )
        overflow = model.overflow.removesuffix("_symmetric")
        sums = bounded(self.numbers, self.integers(z), (low, high), overflow)
        return self.value(sums, z.step_exp)

    def _added(self, layer: FixedLayer, z: Value, branch: Value | None) -> Value:
        """After batch norm and the residual addition, if there are any."""
        norm = layer.norm
        if norm is None:
            return z if layer.addition is None else self.combined(layer.addition, z, branch)
        parameters = self.parameters(layer)
        gamma, beta = (parameters[kind].codes.astype(np.int64) for kind in ("gamma", "beta"))
        mean, variance = norm.inference_statistics(self.network.running[layer.name])
        y = self.quantized(z, self._quantizer(layer.name, "preactivations", norm.input))
        sums = self.combined(norm.normalization(mean, norm.inverse_root.of(variance)), y, None)
        normalized = self._quantizer(layer.name, "normalized", norm.formats.normalized)
        return self.combined(norm.affine(gamma, beta), self.quantized(sums, normalized), branch)

    def _quantizer(self, layer: str, tensor: str, format: Format) -> Quantizer:
        """The Quantizer of a tensor, if its rounding needs no words but the dropped bits."""
        assignment = self.network.assignment
        rounding = assignment.rounding_of(tensor)
        words = assignment.words_of(layer, tensor) if rounding in STOCHASTIC else None
        if words is not None and not isinstance(words, DroppedBits):
            raise InputError(
                f"layer {layer!r}: {tensor} are rounded by {rounding!r}, for whose random words "
                f"ONNX has no operator; export under an assignment that rounds them otherwise"
            )
        return Quantizer(format, rounding, assignment.overflow_of(tensor), words)

    def quantized(self, x: Value, quantizer: Quantizer) -> Value:
        """x rounded once, then brought into range."""
        codes = requantized(self.numbers, self.integers(x), quantizer, x.step_exp)
        return self.value(codes, quantizer.format.step_exp)

    def _activated(self, layer: FixedLayer, u: Value) -> Value:
        """The codes of what leaves the activation."""
        owner, tensor, _ = layer.output
        quantizer = relu_quantizer(layer.layer, self._quantizer(owner, tensor, layer.relu_format))
        own = layer.layer.activation
        if own.is_relu:
            u = self.relu(u)
        elif own.kind == "leaky_relu":
            u = self.leaked(u, present(own.slope_exp))
        elif own.kind == "table":
            u = self._looked_up(present(layer.activation), u)
        return self.quantized(u, quantizer)

    def relu(self, x: Value) -> Value:
        """The greater of x and 0."""
        return self.value(self.numbers.at_least(self.integers(x), 0), x.step_exp)

    def _looked_up(self, activation: FixedActivation, u: Value) -> Value:
        """The entries of a table at u, or lines between them; see fxsim/ops/lookup.py."""
        own = activation.activation
        numbers = self.numbers
        index = index_format(present(own.index_bits), present(own.range_exp))
        x = self.integers(u)
        bits = index.step_exp - u.step_exp
        if bits < 0:  # beyond 2**index_bits all values have the index of the table's end
            x = numbers.clipped(x, -(1 << index.bits), 1 << index.bits)
            x = numbers.times(x, 1 << min(-bits, index.bits))
            bits = 0
        x = numbers.clipped(x, index.min_code << bits, (index.max_code + 1) << bits)
        place = numbers.at_most(numbers.shifted(x, bits) if bits else x, index.max_code)
        entries = present(activation.table).values
        codes = entries.codes.astype(np.int64)
        from_0 = numbers.plus(place, -index.min_code)
        left = self._gathered(codes[: 1 << index.bits], from_0)
        if own.interpolation == "none":
            return self.value(left, entries.format.step_exp)
        rest = numbers.minus(x, numbers.times(place, 1 << bits), (0, 1 << bits))
        rise = self._gathered(np.diff(codes), from_0)
        line = numbers.plus(numbers.times(left, 1 << bits), numbers.product(rise, rest))
        return self.value(line, entries.format.step_exp - bits)

    def _gathered(self, entries: np.ndarray, place: Integers) -> Integers:
        """entries[place]."""
        low = int(entries.min())
        high = int(entries.max())
        self.numbers.check(max(-low, high))
        index = self.nodes.node(
            "Cast", [place.name], place.shape, np.int64, to=self.numbers.element(np.int64)
        )
        table = self.nodes.constant(entries.astype(self.numbers.dtype), "table")
        return self.numbers.made("Gather", [table, index], place, low, high, axis=0)

    def _pooled(self, layer: FixedLayer, x: Value) -> Value:
        pool = layer.layer.pool
        window = layer.shape.pool
        if pool is None or window is None or (window.taps == 1 and window.stride == (1, 1)):
            return x
        format = layer.output.format
        if pool.kind == "max":
            return self.max_pooled(x, window, format)
        return self.averaged(x, window, Quantizer(format, pool.rounding))

    def averaged(self, x: Value, window: Window, quantizer: Quantizer) -> Value:
        """The averages of windows; quantizer: how they are rounded to the step of x."""
        sums = self.integers(self.window_sums(x, window))
        exact = quotient(self.numbers, sums, window.taps)
        codes = requantized(self.numbers, exact, quantizer, quantizer.format.step_exp - 2)
        return self.value(codes, x.step_exp)

    def _properties(self) -> dict[str, Any]:
        """What the file says of itself."""
        network = self.network
        return {
            "fxsim.kind": self.what,
            "fxsim.version": __version__,
            "fxsim.network": network.network.name,
            "fxsim.fingerprint": network.fingerprint(),
            "fxsim.formats": self._formats(),
            "fxsim.products": self.products,
        }

    def _formats(self) -> dict[str, dict[str, Any]]:
        """'layer.tensor' -> format and modes, of all that inference has."""
        assignment = self.network.assignment
        found: dict[str, dict[str, Any]] = {}
        for layer in self.network.layers.values():
            given = layer.formats.given()
            names = ["activations", "weights", *layer.layer.further_parameters]
            if layer.norm:
                names += ["preactivations", "mean", "variance", "normalized"]
            found |= {f"{layer.name}.{name}": given[name].to_dict() for name in names}
            owner, tensor, format = layer.output
            found[f"{owner}.{tensor}"] = format.to_dict()
        for name, row in found.items():
            tensor = name.rpartition(".")[2]
            row["rounding"] = assignment.rounding_of(tensor)
            row["overflow"] = assignment.overflow_of(tensor)
        return found
