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
from collections.abc import Iterator
from dataclasses import dataclass

from fxsim.errors import InputError, choice

RELU_RANGE_EXP = 1
"""The clipped ReLU keeps activations in [0, 2**RELU_RANGE_EXP)."""

BATCH_NORM_EPSILON_EXP = -10
"""2**BATCH_NORM_EPSILON_EXP is added to the variance before the inverse square root."""

RUNNING_RATE_EXP = -4
"""A training step moves the running mean and variance by 2**RUNNING_RATE_EXP of the difference."""

AFFINE_RANGE_EXP = 1
"""gamma and beta stay in [-2**AFFINE_RANGE_EXP, 2**AFFINE_RANGE_EXP)."""

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Pool:
    """Non-overlapping pooling over `size` x `size` windows; a remainder at the edge is dropped."""

    kind: str  # 'max' or 'average'
    size: int

    def __post_init__(self):
        choice("pool kind", self.kind, ("max", "average"))
        _at_least("pool size", self.size, 1)


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every weighted layer has; use Conv or Dense.

    batch_norm: normalise the pre-activation per output channel; the layer then has no bias.
    relu: clipped ReLU to [0, 2).  dropout: share of activations zeroed in training.
    input, add: names of earlier layers, None for the layer before and for no residual branch.
    """

    name: str
    batch_norm: bool = False
    relu: bool = True
    pool: Pool | None = None
    dropout: float = 0.0
    input: str | None = None
    add: str | None = None

    def __post_init__(self):
        if not self.name.replace("_", "").isalnum():
            raise InputError(f"layer name {self.name!r} must be letters, digits and underscores")
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"layer {self.name!r}: dropout must be in [0, 1), got {self.dropout}")

    @property
    def bias(self) -> bool:
        return not self.batch_norm


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """2-D convolution (cross-correlation), `filters` outputs, square `kernel`, zero `padding`."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: int = 0

    def __post_init__(self):
        super().__post_init__()
        for field in ("filters", "kernel", "stride"):
            _at_least(f"layer {self.name!r}: {field}", getattr(self, field), 1)
        _at_least(f"layer {self.name!r}: padding", self.padding, 0)


@dataclass(frozen=True, kw_only=True)
class Dense(Layer):
    """Fully connected layer with `units` outputs; reads its input flattened."""

    units: int

    def __post_init__(self):
        super().__post_init__()
        _at_least(f"layer {self.name!r}: units", self.units, 1)


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
        return math.prod(self.weight)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the forward pass for one sample."""
        return math.prod(self.pre) * self.dot_length


@dataclass(frozen=True)
class Network:
    """A network: name, input shape `(H, W, C)`, layers in an order that respects the data flow.

    The last layer gives the class scores; it has no ReLU, batch norm, pooling or dropout.
    Raises InputError where names repeat, a named layer does not come earlier, or shapes do not fit.
    """

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]

    def __post_init__(self):
        object.__setattr__(self, "input_shape", tuple(self.input_shape))
        object.__setattr__(self, "layers", tuple(self.layers))
        if len(self.input_shape) != 3 or min(self.input_shape) < 1:
            raise InputError(
                f"network {self.name!r}: input_shape must be (H, W, C), got {self.input_shape}"
            )
        if not self.layers:
            raise InputError(f"network {self.name!r} needs at least one layer")
        last = self.layers[-1]
        if last.relu or last.batch_norm or last.pool or last.dropout or last.add:
            raise InputError(
                f"network {self.name!r}: the last layer {last.name!r} gives the class scores; set "
                f"relu=False "
                "and leave batch_norm, pool, dropout and add out"
            )
        object.__setattr__(self, "_shapes", self._infer_shapes())

    def _infer_shapes(self) -> dict[str, LayerShape]:
        shapes: dict[str, LayerShape] = {}
        for layer, source in self.edges():
            if layer.name in shapes:
                raise InputError(f"network {self.name!r}: layer name {layer.name!r} is used twice")
            for reference in (source, layer.add):
                if reference is not None and reference not in shapes:
                    raise InputError(
                        f"layer {layer.name!r} reads {reference!r}, which is no earlier layer; "
                        f"earlier ones are {', '.join(shapes) or 'none'}"
                    )
            input_shape = self.input_shape if source is None else shapes[source].output
            shape = _layer_shape(layer, input_shape)
            if layer.add and shapes[layer.add].output != shape.pre:
                raise InputError(
                    f"layer {layer.name!r} of shape {shape.pre} cannot add {layer.add!r} "
                    f"of shape {shapes[layer.add].output}"
                )
            shapes[layer.name] = shape
        return shapes

    def edges(self) -> Iterator[tuple[Layer, str | None]]:
        """Each layer with the name of the layer it reads (None: the network's input)."""
        previous = None
        for layer in self.layers:
            yield layer, layer.input or previous
            previous = layer.name

    def shape(self, name: str) -> LayerShape:
        return self._shapes[name]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(layer.name for layer in self.layers)

    @property
    def classes(self) -> int:
        return self.shape(self.layers[-1].name).output[-1]

    def layer(self, name: str) -> Layer:
        return self.layers[self.names.index(choice("layer", name, self.names))]

    def source(self, name: str) -> str | None:
        """The layer that `name` reads; None for the network's input."""
        return {layer.name: source for layer, source in self.edges()}[name]


def _layer_shape(layer: Layer, input_shape: Shape) -> LayerShape:
    height, width, channels = input_shape
    if isinstance(layer, Dense):
        inputs = math.prod(input_shape)
        weight = (inputs, layer.units)
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
                f"layer {layer.name!r}: pooling by {layer.pool.size} leaves nothing of {pre}"
            )
    return LayerShape(input_shape, pre, output, weight, dot_length)


def _positions(size: int, layer: Conv, input_shape: Shape) -> int:
    span = size + 2 * layer.padding - layer.kernel
    if span < 0:
        raise InputError(
            f"layer {layer.name!r}: a {layer.kernel}x{layer.kernel} kernel with padding "
            f"{layer.padding} does not fit an input of shape {input_shape}"
        )
    return span // layer.stride + 1


def _at_least(name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{name} must be an integer of at least {least}, got {value!r}")


def to_dict(network: Network) -> dict:
    """The network as plain data, the same shape as the TOML form; `from_dict` reads it back."""
    rows = []
    for layer in network.layers:
        row = {"type": type(layer).__name__.lower()}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if value != field.default:
                row[field.name] = dataclasses.asdict(value) if isinstance(value, Pool) else value
        rows.append(row)
    return {"name": network.name, "input_shape": list(network.input_shape), "layer": rows}


def from_dict(table: dict) -> Network:
    """A network from plain data (a TOML table): `name`, `input_shape` and a list `layer`.

    Each entry of `layer` has `type = "conv"` or `"dense"` and the fields of that class; `pool` is a
    table `{kind, size}`.  An unknown key is an InputError that names the nearest valid one.
    """
    _check_keys("network", table, ("name", "input_shape", "layer"))
    rows = [_layer_from_dict(dict(row)) for row in table.get("layer", ())]
    return Network(table.get("name", "custom"), tuple(table.get("input_shape", ())), tuple(rows))


def _layer_from_dict(row: dict) -> Layer:
    kind = {"conv": Conv, "dense": Dense}[
        choice("layer type", row.pop("type", ""), ("conv", "dense"))
    ]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    _check_keys(f"layer {row.get('name', '')!r}", row, fields)
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in row:
            raise InputError(
                f"layer {row.get('name', '')!r} of type {kind.__name__.lower()!r} needs {name!r}"
            )
    if "pool" in row:
        _check_keys("pool", row["pool"], ("kind", "size"))
        row["pool"] = Pool(**row["pool"])
    return kind(**row)


def _check_keys(where: str, table: dict, allowed) -> None:
    for key in table:
        choice(f"{where}: key", key, allowed)
