"""A network as data: layers, shapes and counts, no arithmetic.

A *layer* is a weighted operation (convolution or fully connected) together with all that follows
it before the next weighted operation, in this fixed order:

    weights -> + bias -> batch norm -> + residual branch -> activation -> pooling -> dropout

so that each layer owns exactly the five tensors of the method (W, A, G^A, G^W, W^acc).  A layer
reads the output of the layer before it, or of the one that `input` names; `add` names a layer
whose output joins this one before the activation.  Both executors, the complexity metrics and the
precision assignment read this one definition.

Layouts everywhere in fxsim: activations `(N, H, W, C)`, convolution weights `(KH, KW, C / groups, O)`,
fully connected weights `(I, O)` with I running over (H, W, C) in row-major order.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from fxsim.activation import CLIPPED_RELU, NONE, Activation
from fxsim.errors import InputError, choice, listed, shown
from fxsim.exponential import DEFAULT, Exponential
from fxsim.fields import check_fields, check_keys, check_table, construct, read_fields, string
from fxsim.formats import DETERMINISTIC
from fxsim.windows import (
    MAX_SIZE,
    PaddingLike,
    Pair,
    PairLike,
    Window,
    check_groups,
    pair,
)

AFFINE_RANGE_EXP = 1
"""gamma and beta stay in [-2**AFFINE_RANGE_EXP, 2**AFFINE_RANGE_EXP)."""

MAX_ELEMENTS = 2**28
"""A layer has at most so many weights, and an image so many activations before or after it."""

_NAME = re.compile(r"\w*[^\W_]\w*", re.ASCII)

Shape = tuple[int, int, int]
Loss = Literal["softmax_cross_entropy", "mse", "half_mse", "sigmoid_cross_entropy"]
Targets = Literal["labels", "tensors"]
Train = Literal["all", "bias", "none"]


@dataclass(frozen=True)
class Pool:
    """Pooling over windows; rows and columns at the edge that no window covers are dropped.

    size: of a window, as a number, (rows, columns), or 'global' for one window over all positions.
    stride: from a window to the next, as a number or (rows, columns); None for `size`.
    padding: as for Conv, of max pooling only; what lies there never wins.
    rounding: of averages and of their gradients, deterministic.
    """

    kind: Literal["max", "average"]
    size: PairLike | Literal["global"]
    stride: PairLike | None = None
    padding: PaddingLike = 0
    rounding: str = "nearest_away"

    def __post_init__(self) -> None:
        check_fields(self, "pool")
        if self.size == "global":
            if self.stride is not None or self.padding != 0:
                raise InputError("pool size 'global' takes no stride and no padding")
        else:
            pair("pool size", self.size)
        if self.stride is not None:
            pair("pool stride", self.stride)
        if self.kind == "average" and self.padding not in (0, "valid"):
            raise InputError(
                f"pool padding must be 0 for averages, got {shown(self.padding)}; only max pooling "
                "takes it"
            )
        choice("pool rounding", self.rounding, DETERMINISTIC)
        if self.kind == "max" and self.rounding != "nearest_away":
            raise InputError(
                f"pool rounding is that of averages, got {self.rounding!r}; max pooling rounds "
                "nothing"
            )

    def window(self, label: str, image: Pair) -> Window:
        """The window over images of (rows, columns)."""
        size = image if self.size == "global" else self.size
        steps = size if self.stride is None else self.stride
        return Window.of(f"{label}pool ", image, size, steps, self.padding, what="size")


@dataclass(frozen=True)
class BatchNorm:
    """Batch norm of a layer.

    epsilon: added to the variance before the inverse square root, above 0, at most 1.
    running_rate: share of the difference by which a training step moves the running mean and
    variance, above 0, at most 1.  Each is held as the nearest number with a mantissa of 16 bits.
    frozen: training normalizes by the running statistics, too, and leaves them as they are; gamma
    and beta are trained all the same, unless the layer's train is 'none'.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a number outside its range.

    Example:
        >>> Dense(name="fc", units=8, batch_norm=BatchNorm(epsilon=1e-3)).batch_norm.running_rate
        0.0625
    """

    epsilon: float = 2.0**-10
    running_rate: float = 2.0**-4
    frozen: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "batch_norm")
        for name in ("epsilon", "running_rate"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(
                    f"batch_norm {name} must be above 0, at most 1, got {shown(value)}"
                )
        if self.frozen and self.running_rate != BatchNorm.running_rate:
            raise InputError(
                f"batch_norm running_rate has no effect where the statistics are frozen, got "
                f"{shown(self.running_rate)}; leave it out"
            )

    def to_dict(self) -> bool | dict[str, Any]:
        """True, or what is not as by default."""
        fields = dataclasses.fields(self)
        values = {field.name: getattr(self, field.name) for field in fields}
        given = {field.name for field in fields if values[field.name] != field.default}
        return {name: values[name] for name in values if name in given} or True


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What every weighted layer has; use Conv or Dense.

    batch_norm: normalise the pre-activation per output channel; the layer then has no bias.  True
    stands for BatchNorm(), which is what the layer that is made has.
    bias: whether there is one; None for one where there is no batch norm.
    activation: the function of the sums; its kind alone may stand for it.  relu: the short way to
    say activation 'clipped_relu' (True) or 'none' (False); it is None in the layer that is made.
    dropout: share of activations zeroed in training.
    train: which parameters training changes: 'all', the 'bias' alone, or 'none' of a frozen layer.
    The gradients of the others are not computed.
    input, add: names of earlier layers, None for the layer before and for no residual branch.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a name, or a number outside its range.
    """

    name: str
    batch_norm: bool | BatchNorm = False
    bias: bool | None = None
    activation: Activation = CLIPPED_RELU
    relu: bool | None = None
    pool: Pool | None = None
    dropout: float = 0.0
    train: Train = "all"
    input: str | None = None
    add: str | None = None

    def __post_init__(self) -> None:
        self._read_activation()
        if self.batch_norm is True:
            object.__setattr__(self, "batch_norm", BatchNorm())
        check_fields(self, self._label)
        for what, name in (("name", self.name), ("input", self.input), ("add", self.add)):
            if name is not None and not _NAME.fullmatch(name):
                raise InputError(
                    f"layer {what} {shown(name)} must be letters (A to Z, a to z), digits and "
                    f"underscores"
                )
        if self.bias and self.batch_norm:
            raise InputError(
                f"{self._label} bias must be left out with batch_norm, whose beta takes its place"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise InputError(f"{self._label} dropout must be in [0, 1), got {self.dropout}")
        if self.train == "none" and self.norm and not self.norm.frozen:
            raise InputError(
                f"{self._label} train must be 'all' with batch_norm, whose statistics move in "
                f"training, got 'none'; freeze them, too: batch_norm = {{frozen = true}}"
            )
        if self.train == "bias" and not self.has_bias:
            raise InputError(f"{self._label} train 'bias' needs a bias; choose 'all' or 'none'")

    def _read_activation(self) -> None:
        """Bring `activation` and `relu` to their normal form."""
        if isinstance(self.activation, str):
            made = Activation.from_dict(self.activation, f"{self._label} activation")
            object.__setattr__(self, "activation", made)
        if self.relu is None:
            return
        check_fields(self, self._label)
        if self.activation is not CLIPPED_RELU:
            raise InputError(f"{self._label} relu and activation say the same; leave relu out")
        object.__setattr__(self, "activation", CLIPPED_RELU if self.relu else NONE)
        object.__setattr__(self, "relu", None)

    @property
    def _label(self) -> str:
        """How messages about this layer begin."""
        return f"layer {shown(self.name)}:"

    @property
    def norm(self) -> BatchNorm | None:
        """The layer's batch norm, if it has one."""
        return self.batch_norm if isinstance(self.batch_norm, BatchNorm) else None

    @property
    def has_bias(self) -> bool:
        """Whether the layer has a bias."""
        return not self.batch_norm if self.bias is None else self.bias

    @property
    def trained(self) -> tuple[str, ...]:
        """The parameters that training changes."""
        if self.train == "all":
            return "weight", *self.further_parameters
        return ("bias",) if self.train == "bias" else ()

    @property
    def further_parameters(self) -> tuple[str, ...]:
        """The parameters beside the weight."""
        if self.batch_norm:
            return "gamma", "beta"
        return ("bias",) if self.has_bias else ()


@dataclass(frozen=True, kw_only=True)
class Conv(Layer):
    """2-D convolution (cross-correlation) with `filters` outputs.

    kernel, stride, dilation: a number, or (rows, columns).
    padding: zeros around the image: a number, (rows, columns), (top, bottom, left, right), 'valid'
    for none, or 'same' for ceil(size / stride) positions (TensorFlow's rule: bottom and right have
    one zero more if their number is odd).
    groups: channels and filters fall into so many groups, and a filter reads the channels of its
    own group alone.  It divides both; with as many groups as channels the layer is depthwise.

    A signal of one dimension is an image of one row: see Network.
    """

    filters: int
    kernel: PairLike = 3
    stride: PairLike = 1
    padding: PaddingLike = 0
    dilation: PairLike = 1
    groups: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least(f"{self._label} filters", self.filters, 1)
        for field in ("kernel", "stride", "dilation"):
            pair(f"{self._label} {field}", getattr(self, field))
        self.window((MAX_SIZE, MAX_SIZE))

    def window(self, image: Pair) -> Window:
        """The window over images of (rows, columns)."""
        label = f"{self._label} "
        return Window.of(label, image, self.kernel, self.stride, self.padding, self.dilation)


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
    weight `(KH, KW, C / groups, O)` or `(I, O)`; dot_length: terms of one output's dot product.
    window, pool: of a convolution and of pooling.
    """

    input: Shape
    pre: Shape
    output: Shape
    weight: tuple[int, ...]
    dot_length: int
    window: Window = Window((1, 1))
    pool: Window | None = None

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

    An input shape `(length, channels)` is that of a signal: `(1, length, channels)`.

    The last layer gives what the loss reads.  It has no activation, batch norm, pooling or dropout.

    loss: what training makes small; see fxsim/numerics.md.  targets: what the outputs are compared
    with.  "labels" are class numbers: the outputs are class scores, one position of them (a Dense
    layer, or a Conv whose output is (1, 1, classes)), and every loss but softmax_cross_entropy
    takes a label for a row of zeros with a one at the label.  "tensors" have the shape of the
    outputs, which is any, and there are no decisions; where a data set is trained on, the targets
    are the images themselves, as an autoencoder has it.

    exponential: how fixed point makes the powers of a cross-entropy; see fxsim.Exponential.

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
    exponential: Exponential = DEFAULT

    def __post_init__(self) -> None:
        label = f"network {shown(self.name)}:"
        if isinstance(self.input_shape, (tuple, list)) and len(self.input_shape) == 2:
            object.__setattr__(self, "input_shape", (1, *self.input_shape))
        check_fields(self, label)
        for axis, size in zip("HWC", self.input_shape):
            _at_least(f"{label} {axis} of input_shape (H, W, C)", size, 1)
        if not self.layers:
            raise InputError(f"{label} layers must be at least one")
        last = self.layers[-1]
        linear = last.activation.kind == "none"
        if not linear or last.batch_norm or last.pool or last.dropout or last.add:
            raise InputError(
                f"{label} the last layer {shown(last.name)} gives what the loss reads; set "
                "activation 'none' and leave batch_norm, pool, dropout and add out"
            )
        self._check_targets(label)
        if not self.reached:
            raise InputError(
                f"{label} no layer is trained; set train='all' or 'bias' in one of them"
            )

    def _check_targets(self, label: str) -> None:
        """InputError where loss, its fields, targets and the last layer do not go together."""
        if self.exponential != DEFAULT and "cross_entropy" not in self.loss:
            raise InputError(
                f"{label} exponential has no effect on loss {self.loss!r}; leave it out, or choose "
                f"'softmax_cross_entropy' or 'sigmoid_cross_entropy'"
            )
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
            _check_elements(self.name, layer.name, shape)
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

    @cached_property
    def reached(self) -> frozenset[str]:
        """The layers at whose output training needs the gradient.

        Those that are trained, and those that read or add what such layers make.
        """
        reached: set[str | None] = set()
        for layer, source in self.edges():
            if layer.trained or {source, layer.add} & reached:
                reached.add(layer.name)
        return frozenset(name for name in reached if name is not None)

    def training_only(self, *names: str) -> Network:
        """The same network with all but these frozen: 'layer' for all of it, or 'layer.bias'.

        Raises:
            InputError: no such layer or parameter, or a frozen layer has batch norm whose statistics
                are not frozen.

        Example:
            >>> from fxsim import Dense
            >>> layers = (Dense(name="a", units=4), Dense(name="b", units=2, relu=False))
            >>> [layer.train for layer in Network("n", (1, 1, 3), layers).training_only("b").layers]
            ['none', 'all']
        """
        chosen: dict[str, Train] = {}
        for name in names:
            layer, dot, kind = string("names", name).partition(".")
            choice("layer", layer, self.names)
            if dot:
                choice(f"parameter of {layer}", kind, ("bias",))
            chosen[layer] = "bias" if dot else "all"
        layers = tuple(
            dataclasses.replace(layer, train=chosen.get(layer.name, "none"))
            for layer in self.layers
        )
        return dataclasses.replace(self, layers=layers)

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
    window = Window((1, 1))
    if isinstance(layer, Dense):
        inputs = math.prod(input_shape)
        weight: tuple[int, ...] = (inputs, layer.units)
        pre = (1, 1, layer.units)
        dot_length = inputs
    else:
        window = layer.window((height, width))
        groups = check_groups(f"{layer._label} ", layer.groups, channels, layer.filters)
        weight = (*window.size, channels // groups, layer.filters)
        pre = (*window.positions((height, width)), layer.filters)
        dot_length = window.taps * channels // groups
    output = pre
    pool = None
    if layer.pool:
        pool = layer.pool.window(f"{layer._label} ", pre[:2])
        output = (*pool.positions(pre[:2]), pre[2])
    return LayerShape(input_shape, pre, output, weight, dot_length, window, pool)


def _check_elements(network: str, layer: str, shape: LayerShape) -> None:
    tensors = {"input": shape.input, "weights": shape.weight, "output": shape.pre}
    for tensor, size in tensors.items():
        if math.prod(size) > MAX_ELEMENTS:
            raise InputError(
                f"network {shown(network)}: layer {shown(layer)} has {tensor} of shape "
                f"{shown(size)}, more than {MAX_ELEMENTS:,} elements; make the layer smaller"
            )


def _at_least(argument: str, value: int, least: int) -> None:
    if not least <= value <= MAX_SIZE:
        raise InputError(
            f"{argument} must be an integer of at least {least}, up to {MAX_SIZE}, "
            f"got {shown(value)}"
        )


_OF_TRAINING = ("loss", "targets", "exponential")
"""Fields of Network that a table may leave out."""


def to_dict(network: Network) -> dict[str, Any]:
    """The network as plain data, the same shape as the TOML form; `from_dict` reads it back."""
    rows = []
    for layer in network.layers:
        row: dict[str, Any] = {"type": type(layer).__name__.lower()}
        for field in dataclasses.fields(layer):
            value = getattr(layer, field.name)
            if value != field.default:
                row[field.name] = _plain(value)
        rows.append(row)
    given = {
        name: _plain(getattr(network, name))
        for name in _OF_TRAINING
        if getattr(network, name) != getattr(Network, name)
    }
    return {
        "name": network.name,
        "input_shape": list(network.input_shape),
        **given,
        "layer": rows,
    }


def _plain(value: Any) -> Any:
    """The value of a field as plain data."""
    if isinstance(value, (Activation, BatchNorm)):
        return value.to_dict()
    return dataclasses.asdict(value) if isinstance(value, (Pool, Exponential)) else value


def from_dict(table: object) -> Network:
    """A network from plain data (a TOML table): `name`, `input_shape` and a list `layer`.

    `loss`, `targets` and `exponential`, a table of the fields of Exponential, are those of Network.
    Each entry of `layer` has `type = "conv"` or `"dense"` and the fields of that class; `pool` is a
    table `{kind, size}`, `activation` a kind or a table of its fields, `batch_norm` true or a table
    of the fields of BatchNorm.  Without `name` it is 'custom'.

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
    if "exponential" in given:
        given["exponential"] = read_fields(
            Exponential, given["exponential"], "network, exponential"
        )
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
    if isinstance(row.get("batch_norm"), Mapping):
        row["batch_norm"] = read_fields(BatchNorm, row["batch_norm"], f"{where}, batch_norm")
    return read_fields(_LAYERS[kind], row, where)
