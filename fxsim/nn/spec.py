"""A network as data: layers, shapes and counts, no arithmetic.

A *layer* is a weighted operation (convolution or fully connected) together with all that follows
it before the next weighted operation, in this fixed order:

    weights -> + bias -> batch norm -> + residual branch -> clipped ReLU -> pooling -> dropout

so that each layer owns exactly the five tensors of the method (W, A, G^A, G^W, W^acc).  A layer
reads the output of the layer before it, or of the one that `input` names; `add` names a layer
whose output joins this one before the ReLU.  Both executors, the complexity metrics and the
precision assignment read this one definition.

Layouts everywhere in fxsim: activations `(N, H, W, C)`, convolution weights `(KH, KW, C, O)`,
fully connected weights `(I, O)` with I running over (H, W, C) in row-major order.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fxsim.errors import InputError, choice, listed, shown
from fxsim.fields import check_fields, check_keys, check_table, construct, read_fields

RELU_RANGE_EXP = 1
"""The clipped ReLU keeps activations in [0, 2**RELU_RANGE_EXP)."""

BATCH_NORM_EPSILON_EXP = -10
"""2**BATCH_NORM_EPSILON_EXP is added to the variance before the inverse square root."""

RUNNING_RATE_EXP = -4
"""A training step moves the running mean and variance by 2**RUNNING_RATE_EXP of the difference."""

AFFINE_RANGE_EXP = 1
"""gamma and beta stay in [-2**AFFINE_RANGE_EXP, 2**AFFINE_RANGE_EXP)."""

MAX_SIZE = 2**31 - 1
"""Sizes of a layer stay within this: no memory holds arrays of greater ones."""

_NAME = re.compile(r"\w*[^\W_]\w*", re.ASCII)

Shape = tuple[int, int, int]
Loss = Literal["softmax_cross_entropy", "mse", "half_mse", "sigmoid_cross_entropy"]
Targets = Literal["labels", "tensors"]


@dataclass(frozen=True)
class Pool:
    """Non-overlapping pooling over `size` x `size` windows; a remainder at the edge is dropped."""

    kind: Literal["max", "average"]
    size: int

    def __post_init__(self) -> None:
        check_fields(self, "pool")
        _at_least("pool size", self.size, 1)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every weighted layer has; use Conv or Dense.

    batch_norm: normalise the pre-activation per output channel; the layer then has no bias.
    relu: clipped ReLU to [0, 2).  dropout: share of activations zeroed in training.
    input, add: names of earlier layers, None for the layer before and for no residual branch.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a name, or a number outside its range.
    """

    name: str
    batch_norm: bool = False
    relu: bool = True
    pool: Pool | None = None
    dropout: float = 0.0
    input: str | None = None
    add: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, self._label)
        for what, name in (("name", self.name), ("input", self.input), ("add", self.add)):
            if name is not None and not _NAME.fullmatch(name):
                raise InputError(
                    f"layer {what} {shown(name)} must be letters (A to Z, a to z), digits and "
                    f"underscores"
                )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"{self._label} dropout must be in [0, 1), got {self.dropout}")

    @property
    def _label(self) -> str:
        """How messages about this layer begin."""
        return f"layer {shown(self.name)}:"

    @property
    def bias(self) -> bool:
        """Whether the layer has a bias: it has none with batch norm."""
        return not self.batch_norm


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """2-D convolution (cross-correlation), `filters` outputs, square `kernel`, zero `padding`."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in ("filters", "kernel", "stride"):
            _at_least(f"{self._label} {field}", getattr(self, field), 1)
        _at_least(f"{self._label} padding", self.padding, 0)


@dataclass(frozen=True, kw_only=True)
class Dense(Layer):
    """Fully connected layer with `units` outputs; reads its input flattened."""

    units: int

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(f"{self._label} units", self.units, 1)


@dataclass(frozen=True)
class LayerShape:
    """Shapes of one layer, per sample.

    input `(H, W, C)` of A_l; pre `(H, W, O)` before pooling; output `(H, W, O)` of A_{l+1};
    weight `(KH, KW, C, O)` or `(I, O)`; dot_length: terms of one output's dot product.
    """

    input: Shape
    pre: Shape
    output: Shape
    weight: tuple[int, ...]
    dot_length: int

    @property
    def weights(self) -> int:
        """The number of weights."""
        return math.prod(self.weight)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass for one sample."""
        return math.prod(self.pre) * self.dot_length


@dataclass(frozen=True)
class Network:
    """A network: name, input shape `(H, W, C)`, layers in an order that respects the data flow.

    The last layer gives what the loss reads.  It has no ReLU, batch norm, pooling or dropout.

    loss: what training makes small; see fxsim/numerics.md.  targets: what the outputs are compared
    with.  "labels" are class numbers: the outputs are class scores, one position of them (a Dense
    layer, or a Conv whose output is (1, 1, classes)), and every loss but softmax_cross_entropy
    takes a label for a row of zeros with a one at the label.  "tensors" have the shape of the
    outputs, which is any, and there are no decisions; where a data set is trained on, the targets
    are the images themselves, as an autoencoder has it.

    Raises:
        TypeError: a field has a value of another type.
        InputError: names repeat, a named layer does not come earlier, shapes do not fit, the last
            layer gives no class scores for labels, or the loss takes no tensors.
    """

    name: str
    input_shape: Shape
    layers: tuple[Conv | Dense, ...]
    loss: Loss = "softmax_cross_entropy"
    targets: Targets = "labels"

    def __post_init__(self) -> None:
        label = f"network {shown(self.name)}:"
        check_fields(self, label)
        for axis, size in zip("HWC", self.input_shape):
            _at_least(f"{label} {axis} of input_shape (H, W, C)", size, 1)
        if not self.layers:
            raise InputError(f"{label} layers must be at least one")
        last = self.layers[-1]
        if last.relu or last.batch_norm or last.pool or last.dropout or last.add:
            raise InputError(
                f"{label} the last layer {shown(last.name)} gives what the loss reads; set "
                "relu=False and leave batch_norm, pool, dropout and add out"
            )
        self._check_targets(label)

    def _check_targets(self, label: str) -> None:
        """InputError where loss, targets and the last layer do not go together."""
        last = self.layers[-1]
        height, width, _ = self.shape(last.name).output
        if self.targets == "tensors" and self.loss == "softmax_cross_entropy":
            raise InputError(
                f"{label} loss 'softmax_cross_entropy' takes labels; leave targets out, or choose "
                "loss 'mse', 'half_mse' or 'sigmoid_cross_entropy'"
            )
        if self.decides and (height, width) != (1, 1):
            raise InputError(
                f"{label} the last layer {shown(last.name)} must give one position of class "
                f"scores, got {height} x {width}; end with a Dense layer, or a kernel of the size "
                f"of its input, or set targets='tensors'"
            )

    @cached_property
    def _shapes(self) -> dict[str, LayerShape]:
        shapes: dict[str, LayerShape] = {}
        for layer, source in self.edges():
            if layer.name in shapes:
                raise InputError(
                    f"network {shown(self.name)}: layer name {shown(layer.name)} is used twice"
                )
            for reference in (source, layer.add):
                if reference is not None and reference not in shapes:
                    raise InputError(
                        f"layer {shown(layer.name)} reads {shown(reference)}, which is no earlier "
                        f"layer; earlier ones are {listed(shapes) or 'none'}"
                    )
            input_shape = self.input_shape if source is None else shapes[source].output
            shape = _layer_shape(layer, input_shape)
            if layer.add and shapes[layer.add].output != shape.pre:
                raise InputError(
                    f"layer {shown(layer.name)} of shape {shape.pre} cannot add "
                    f"{shown(layer.add)} of shape {shapes[layer.add].output}"
                )
            shapes[layer.name] = shape
        return shapes

    def edges(self) -> Iterator[tuple[Conv | Dense, str | None]]:
        """Each layer with the name of the layer it reads (None: the network's input)."""
        previous = None
        for layer in self.layers:
            yield layer, layer.input or previous
            previous = layer.name

    def shape(self, name: str) -> LayerShape:
        """The shapes of a layer; InputError where there is no such layer."""
        return self._shapes[choice("layer", name, self._shapes)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the layers."""
        return tuple(layer.name for layer in self.layers)

    @property
    def decides(self) -> bool:
        """Whether the outputs are class scores: the greatest is a decision, right or wrong."""
        return self.targets == "labels"

    @property
    def output_shape(self) -> Shape:
        """The shape `(H, W, O)` of the outputs for one image."""
        return self.shape(self.layers[-1].name).output

    @property
    def outputs(self) -> int:
        """The number of outputs for one image."""
        return math.prod(self.output_shape)

    @property
    def classes(self) -> int:
        """The number of classes; 0 where the outputs are no class scores."""
        return self.outputs if self.decides else 0

    def layer(self, name: str) -> Conv | Dense:
        """The layer of that name; InputError where there is none."""
        return self.layers[self.names.index(choice("layer", name, self.names))]

    def source(self, name: str) -> str | None:
        """The layer that `name` reads; None for the network's input."""
        sources = {layer.name: source for layer, source in self.edges()}
        return sources[choice("layer", name, sources)]


def _layer_shape(layer: Conv | Dense, input_shape: Shape) -> LayerShape:
    height, width, channels = input_shape
    if isinstance(layer, Dense):
        inputs = math.prod(input_shape)
        weight: tuple[int, ...] = (inputs, layer.units)
        pre = (1, 1, layer.units)
        dot_length = inputs
    else:
        rows, columns = (_positions(size, layer, input_shape) for size in (height, width))
        weight = (layer.kernel, layer.kernel, channels, layer.filters)
        pre = (rows, columns, layer.filters)
        dot_length = layer.kernel**2 * channels
    output = pre
    if layer.pool:
        output = (pre[0] // layer.pool.size, pre[1] // layer.pool.size, pre[2])
        if min(output) < 1:
            raise InputError(
                f"{layer._label} pooling by {shown(layer.pool.size)} leaves nothing of {pre}"
            )
    return LayerShape(input_shape, pre, output, weight, dot_length)


def _positions(size: int, layer: Conv, input_shape: Shape) -> int:
    span = size + 2 * layer.padding - layer.kernel
    if span < 0:
        raise InputError(
            f"{layer._label} a kernel of {shown(layer.kernel)} x {shown(layer.kernel)} with "
            f"padding {shown(layer.padding)} does not fit an input of shape {input_shape}"
        )
    return span // layer.stride + 1


def _at_least(argument: str, value: int, least: int) -> None:
    if not least <= value <= MAX_SIZE:
        raise InputError(
            f"{argument} must be an integer of at least {least}, up to {MAX_SIZE}, "
            f"got {shown(value)}"
        )


_OF_TRAINING = ("loss", "targets")
"""Fields of Network that a table may leave out."""


def to_dict(network: Network) -> dict[str, Any]:
    """The network as plain data, the same shape as the TOML form; `from_dict` reads it back."""
    rows = []
    for layer in network.layers:
        row: dict[str, Any] = {"type": type(layer).__name__.lower()}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if value != field.default:
                row[field.name] = dataclasses.asdict(value) if isinstance(value, Pool) else value
        rows.append(row)
    given = {
        name: getattr(network, name)
        for name in _OF_TRAINING
        if getattr(network, name) != getattr(Network, name)
    }
    return {
        "name": network.name,
        "input_shape": list(network.input_shape),
        **given,
        "layer": rows,
    }


def from_dict(table: object) -> Network:
    """A network from plain data (a TOML table): `name`, `input_shape` and a list `layer`.

    `loss` and `targets` are those of Network.  Each entry of `layer` has `type = "conv"` or
    `"dense"` and the fields of that class; `pool` is a table `{kind, size}`.  Without `name` it is
    'custom'.

    Raises:
        InputError: an unknown key (the message names the nearest valid one), a missing key, a
            value of another type or outside its range.

    Example:
        >>> rows = [{"type": "dense", "name": "scores", "units": 10, "relu": False}]
        >>> from_dict({"input_shape": [8, 8, 1], "layer": rows}).classes
        10
    """
    needed = ("input_shape", "layer")
    keys = ("name", *needed, *_OF_TRAINING)
    table = check_keys("network", table, keys)
    rows = table.get("layer", [])
    if not isinstance(rows, (list, tuple)):
        raise InputError(f"network: layer must be a list of tables, got {shown(rows)}")
    layers = [_layer_from_dict(row, f"layer {index}") for index, row in enumerate(rows)]
    check_keys("network", table, keys, needed)
    given = {name: table[name] for name in _OF_TRAINING if name in table}
    name = table.get("name", "custom")
    return construct(Network, "network", name, table["input_shape"], tuple(layers), **given)


_LAYERS: dict[str, type[Conv] | type[Dense]] = {"conv": Conv, "dense": Dense}


def _layer_from_dict(row: object, where: str) -> Conv | Dense:
    """The layer of one table; `where` names it until its own name is read."""
    row = dict(check_table(where, row))
    if isinstance(row.get("name"), str):
        where = f"layer {shown(row['name'])}"
    if "type" not in row:
        raise InputError(f"{where} needs 'type', {listed(_LAYERS)}")
    kind = choice(f"{where}: type", row.pop("type"), _LAYERS)
    return read_fields(_LAYERS[kind], row, where)
