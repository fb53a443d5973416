"""Walks the nodes of an ONNX graph: patterns of nodes become drafts of layers.

Each node is taken once, in the order of the graph.  A weighted operation begins a layer; what may
follow it within a layer (nn/spec.py) joins it, as long as nothing else reads what was there before.
Operators that only move elements change a table of places, so that weights can be permuted where a
fully connected layer reads.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fxsim.activation import NONE
from fxsim.errors import InputError, choice, shown
from fxsim.fields import integer
from fxsim.interchange.activations import ACTIVATIONS
from fxsim.interchange.attributes import (
    broadcast,
    padding_of,
    pair,
    per_channel,
    pool_kind,
    sides,
    steps_of,
    tried,
)
from fxsim.interchange.draft import NO_PADDING, Draft, Stage, Value, channels_first
from fxsim.interchange.graph import BATCH, Folding, Graph, Node, axes_of, new_shape
from fxsim.nn.spec import BatchNorm, Conv, Dense, Pool, Shape

LAYOUTS = ("NCHW", "NHWC")

LOSSES = {
    "Softmax": "softmax_cross_entropy",
    "LogSoftmax": "softmax_cross_entropy",
    "Sigmoid": "sigmoid_cross_entropy",
}
"""What a model ends with -> the loss that it was trained with."""

MOST_ELEMENTS = 2**24
"""An image has at most so many activations before or after a layer."""


_FLOAT = 1
"""The number of FLOAT among ONNX's types."""


class Reader:
    """Walks the nodes of a graph."""

    def __init__(self, graph: Graph, layout: str | None, image_shape: Shape | None) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.folding = Folding()
        self.drafts: list[Draft] = []
        self.names: set[str] = set()
        self.ending: str | None = None
        self.layout = _layout_of(graph) if layout is None else choice("layout", layout, LAYOUTS)
        self.input_shape, places = _input(graph, self.layout, image_shape)
        shared = graph.uses[graph.input] > 1
        self.values = {graph.input: Value(None, places, shared)}

    def walk(self) -> None:
        """Take all nodes."""
        for node in self.graph.nodes:
            if all(name in self.constants for name in node.inputs if name):
                given = [self.constants[name] if name else None for name in node.inputs]
                result = self.folding.fold(node, given)
                if result is None:
                    raise self._unknown(node)
                self._one_output(node)
                self.constants[node.outputs[0]] = result
            elif node.op == "Shape":
                self.constants[node.outputs[0]] = self._shape(node)
            elif node.op in _OPERATORS:
                self._one_output(node)
                value = _OPERATORS[node.op](self, node)
                self._bind(node.outputs[0], value)
            else:
                raise self._unknown(node)

    def _unknown(self, node: Node) -> InputError:
        return node.fault(
            "fxsim imports no such operator; it takes those of feed-forward networks, such as Conv, "
            "Gemm, BatchNormalization, Relu, Add and MaxPool"
        )

    def _one_output(self, node: Node) -> None:
        for name in node.outputs[1:]:
            if name and self.graph.uses[name]:
                raise node.fault(f"its output {shown(name)} is read; fxsim has the first alone")

    def _bind(self, name: str, value: Value) -> None:
        """Give a value its name."""
        value = dataclasses.replace(value, shared=value.shared or self.graph.uses[name] > 1)
        self.values[name] = value
        draft = value.draft
        if draft is not None and not value.ended and value.padding == NO_PADDING:
            draft.value = name
            draft.places = value.places

    # Inputs of nodes.

    def value(self, node: Node, at: int = 0) -> Value:
        """The input of that number, which is no constant."""
        name = node.inputs[at] if at < len(node.inputs) else ""
        if name not in self.values:
            raise node.fault(f"input {at} must come from the images, and is a constant")
        value = self.values[name]
        if value.ended:
            raise node.fault("it follows what fxsim leaves to the loss; end the model there")
        if value.padding != NO_PADDING and node.op != "Conv":
            raise node.fault("it reads the output of Pad, which fxsim has before Conv alone")
        return value

    def constant(self, node: Node, at: int, what: str) -> np.ndarray:
        """The input of that number, which is a constant."""
        found = self.optional(node, at, what)
        if found is None:
            raise node.fault(f"input {at}, {what}, is missing")
        return found

    def optional(self, node: Node, at: int, what: str) -> np.ndarray | None:
        """The same; None where it is left out."""
        if at >= len(node.inputs) or not node.inputs[at]:
            return None
        if node.inputs[at] not in self.constants:
            raise node.fault(f"input {at}, {what}, must be a constant")
        return self.constants[node.inputs[at]]

    def reals(self, node: Node, at: int, what: str, shape: tuple[int, ...]) -> np.ndarray:
        """A constant of reals of this shape, float64."""
        array = self.constant(node, at, what)
        if array.dtype.kind != "f" or array.shape != shape:
            raise node.fault(
                f"{what} must be floats of shape {shape}, got {array.dtype} {array.shape}"
            )
        return array.astype(np.float64)

    def image(self, node: Node, value: Value) -> Shape:
        """(H, W, C) of a value that is one image."""
        if not value.is_image:
            raise node.fault(
                f"its input of shape {shown(value.places.shape)} is no image (C, H, W) or (C, L) as "
                f"the layer before gives it"
            )
        own = self.input_shape if value.draft is None else value.draft.output
        if value.image != own:
            raise node.fault(
                f"it reads an image of (H, W, C) {value.image}, and the layer before gives {own}; "
                f"fxsim has no reshaping into images"
            )
        return own

    def joined(self, node: Node, value: Value, stage: Stage) -> Draft:
        """The layer that a node joins as its part `stage`."""
        draft = value.draft
        if draft is None:
            raise node.fault("it reads the images; in fxsim it follows Conv or Gemm")
        if value.shared:
            raise node.fault(
                f"others read what it reads, too; in fxsim it is part of layer "
                f"{shown(draft.layer.name)}, whose result alone is read"
            )
        if draft.stage >= stage and not (stage == draft.stage == Stage.BIAS):
            raise node.fault(
                f"layer {shown(draft.layer.name)} has {draft.stage.name.lower()} already; the order "
                f"is bias, batch norm, add, activation, pool, dropout, each once"
            )
        return draft

    # Weighted operations.

    def conv(self, node: Node) -> Value:
        """A convolution begins a layer."""
        value = self.value(node)
        image = self.image(node, value)
        weight = self.constant(node, 1, "the weight")
        axes = value.places.ndim - 1
        if weight.dtype.kind != "f" or weight.ndim != axes + 2 or not weight.size:
            raise node.fault(
                f"the weight must be floats of {axes + 2} axes, got {weight.dtype} {weight.shape}"
            )
        options = node.options(
            auto_pad="NOTSET", dilations=None, group=1, kernel_shape=None, pads=None, strides=None
        )
        filters, channels, *kernel = weight.shape
        if options["kernel_shape"] not in (None, tuple(kernel)):
            raise node.fault(f"kernel_shape {options['kernel_shape']} is not that of the weight")
        if channels * options["group"] != image[2]:
            raise node.fault(
                f"the weight is for {channels} channels in each of {options['group']} groups, and "
                f"the image has {image[2]}"
            )
        layer = self._made(
            node,
            Conv,
            filters=filters,
            kernel=pair(kernel),
            stride=steps_of(node, "strides", options["strides"], axes),
            dilation=steps_of(node, "dilations", options["dilations"], axes),
            groups=options["group"],
            padding=padding_of(node, options, axes, value.padding),
        )
        window = tried(node, lambda: layer.window(image[:2]))
        taps = weight.reshape(filters, channels, *pair(kernel)).transpose(2, 3, 1, 0)
        draft = self._begin(node, value, layer, taps, (*window.positions(image[:2]), filters))
        if (bias := self.optional(node, 2, "the bias")) is not None:
            draft.shift(per_channel(node, "the bias", bias, filters))
        return self._whole(draft, value.places.ndim)

    def gemm(self, node: Node) -> Value:
        """A fully connected layer begins, with its bias."""
        options = node.options(alpha=1.0, beta=1.0, transA=0, transB=0)
        if options["transA"]:
            raise node.fault("transA must be 0")
        weight = self.constant(node, 1, "the weight")
        weight = weight.T if options["transB"] else weight
        draft = self._dense(node, weight, options["alpha"])
        if (bias := self.optional(node, 2, "the bias")) is not None:
            units = weight.shape[1]
            draft.shift(options["beta"] * per_channel(node, "the bias", bias, units))
        return self._whole(draft, 1)

    def matmul(self, node: Node) -> Value:
        """A fully connected layer begins; Add may bring its bias."""
        node.options()
        return self._whole(self._dense(node, self.constant(node, 1, "the weight")), 1)

    def _dense(self, node: Node, weight: np.ndarray, alpha: float = 1.0) -> Draft:
        value = self.value(node)
        if value.places.ndim != 1:
            raise node.fault(
                f"it reads shape {shown(value.places.shape)}, and fxsim multiplies vectors; put a "
                f"Flatten before it"
            )
        inputs = value.places.size
        if weight.dtype.kind != "f" or weight.ndim != 2 or weight.shape[0] != inputs:
            raise node.fault(
                f"the weight must be floats of shape ({inputs}, units), got {weight.dtype} "
                f"{weight.shape}"
            )
        rows = np.empty(weight.shape)
        rows[value.places] = weight
        layer = self._made(node, Dense, units=weight.shape[1])
        return self._begin(node, value, layer, alpha * rows, (1, 1, weight.shape[1]))

    def _made(self, node: Node, kind: type, **fields: Any) -> Any:
        """The layer of a weighted operation, alone."""
        name = self._name(node, kind)
        return tried(node, lambda: kind(name=name, activation=NONE, bias=False, **fields))

    def _name(self, node: Node, kind: type) -> str:
        """From the weight's name, as 'conv1.weight', or the node's, as '/conv1/Conv'."""
        weight = node.inputs[1]
        text = f"{kind.__name__.lower()}{len(self.drafts) + 1}"
        if weight.endswith(".weight"):
            text = weight.removesuffix(".weight")
        elif "/" in node.name:
            text = node.name.rpartition("/")[0]
        text = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_")[:60]
        text = text if re.search("[A-Za-z]", text) else f"{kind.__name__.lower()}{text}"
        name = text
        number = 1
        while name in self.names:
            number += 1
            name = f"{text}_{number}"
        self.names.add(name)
        return name

    def _begin(
        self, node: Node, value: Value, layer: Any, weight: np.ndarray, output: Shape
    ) -> Draft:
        if math.prod(output) > MOST_ELEMENTS:
            raise node.fault(f"its output {output} has more than {MOST_ELEMENTS:,} elements")
        real = np.ascontiguousarray(weight, np.float64)
        draft = Draft(layer, {"weight": real}, output, node, value.draft)
        self.drafts.append(draft)
        return draft

    def _whole(self, draft: Draft, axes: int) -> Value:
        """The output of a layer, as so many axes."""
        height, width, channels = draft.output
        shape = {1: (channels,), 2: (channels, width), 3: (channels, height, width)}[axes]
        return Value(draft, channels_first(draft.output).reshape(shape))

    # What joins a layer.

    def batch_norm(self, node: Node) -> Value:
        """BatchNormalization joins the layer; a bias before it joins the running mean."""
        value = self.value(node)
        draft = self.joined(node, value, Stage.NORM)
        options = node.options(epsilon=1e-5, momentum=0.9, training_mode=0, spatial=1)
        if options["training_mode"] or not options["spatial"]:
            raise node.fault("it must be of inference, by channel; export with model.eval()")
        shape = draft.output[2:]
        names = ("gamma", "beta", "running_mean", "running_var")
        own = {name: self.reals(node, at, name, shape) for at, name in enumerate(names, 1)}
        if own["running_var"].min() < 0:
            raise node.fault("the variance must be at least 0")
        rate = round(1.0 - options["momentum"], 6)
        fields = {"running_rate": rate} if rate else {"frozen": True}
        norm = tried(node, lambda: BatchNorm(epsilon=options["epsilon"], **fields))
        own["running_mean"] -= draft.parameters.pop("bias", 0.0)
        draft.parameters |= own
        draft.set(Stage.NORM, batch_norm=norm, bias=None)
        return value

    def add(self, node: Node) -> Value:
        """A constant is a bias; another layer is a residual branch."""
        node.options(axis=0, broadcast=0)
        constant = [at for at in (0, 1) if node.inputs[at] in self.constants]
        if constant:
            value = self.value(node, 1 - constant[0])
            stage = Stage.ADD if value.draft and value.draft.stage == Stage.NORM else Stage.BIAS
            draft = self.joined(node, value, stage)
            amount = self.constants[node.inputs[constant[0]]]
            draft.shift(broadcast(node, amount, value.places.shape))
            return value
        return self._residual(node, self.value(node, 0), self.value(node, 1))

    def _residual(self, node: Node, one: Value, other: Value) -> Value:
        """The sum of a layer and of an earlier one: the later takes the earlier."""
        if one.places.shape != other.places.shape or not (one.places == other.places).all():
            raise node.fault(
                f"it adds shapes {shown(one.places.shape)} and {shown(other.places.shape)}, and "
                f"fxsim adds outputs of layers that are alike"
            )
        able = [
            (main.draft, branch.draft, main)
            for main, branch in ((one, other), (other, one))
            if main.draft
            and branch.draft
            and main.draft is not branch.draft
            and not main.shared
            and main.draft.stage < Stage.ADD
        ]
        if not able:
            raise node.fault(
                "in fxsim a layer takes the output of another before its activation, once; neither "
                "input is such a layer that nobody else reads"
            )
        taker, branch, value = max(able, key=lambda pair: self.drafts.index(pair[0]))
        taker.branch = branch
        taker.stage = Stage.ADD
        return value

    def activation(self, node: Node) -> Value:
        """An activation function joins the layer, or the model ends with Sigmoid."""
        if node.op in LOSSES and node.outputs[0] == self.graph.output:
            return self._end(node, {})
        value = self.value(node)
        function = tried(node, lambda: ACTIVATIONS[node.op](node, self.optional))
        draft = value.draft
        if draft and draft.stage == Stage.POOL and not value.shared:
            pool = draft.layer.pool
            own = draft.layer.activation
            if pool and pool.kind == "max" and own.kind == "none":
                draft.set(Stage.POOL, activation=function)  # it rises, as the maximum does
                return value
        self.joined(node, value, Stage.ACTIVATION).set(Stage.ACTIVATION, activation=function)
        return value

    def softmax(self, node: Node) -> Value:
        """The model ends with Softmax or LogSoftmax, which the loss has."""
        if node.outputs[0] != self.graph.output:
            raise node.fault("fxsim has it at the end alone, as part of the loss")
        return self._end(node, {"axis": -1})

    def _end(self, node: Node, options: dict[str, int]) -> Value:
        value = self.value(node)
        axis = node.options(**options).get("axis", -1)
        if node.op != "Sigmoid" and (value.places.ndim != 1 or axis not in (1, -1)):
            raise node.fault(f"it must be over the classes of (N, classes), got axis {axis}")
        if value.draft is None or value.shared or self.graph.uses[self.graph.output] > 1:
            raise node.fault("it must follow a layer, and nothing may read it or what it reads")
        self.ending = node.op
        return dataclasses.replace(value, ended=True)

    def pool(self, node: Node) -> Value:
        """MaxPool or AveragePool joins the layer."""
        value = self.value(node)
        image = self.image(node, value)
        axes = value.places.ndim - 1
        options = node.options(
            auto_pad="NOTSET",
            ceil_mode=0,
            count_include_pad=0,
            dilations=None,
            kernel_shape=None,
            pads=None,
            storage_order=0,
            strides=None,
        )
        if options["kernel_shape"] is None:
            raise node.fault("kernel_shape is missing")
        if options["dilations"] is not None and set(options["dilations"]) != {1}:
            raise node.fault(f"dilations must be 1, got {shown(options['dilations'])}")
        padding = padding_of(node, options, axes, NO_PADDING)
        pool = tried(
            node,
            lambda: Pool(
                pool_kind(node),
                steps_of(node, "kernel_shape", options["kernel_shape"], axes),
                steps_of(node, "strides", options["strides"], axes),
                0 if padding == NO_PADDING else padding,
            ),
        )
        window = tried(node, lambda: pool.window("", image[:2]))
        if options["ceil_mode"] and any(
            (size + sum(edge) - span) % step
            for size, edge, span, step in zip(image, window.edges, window.span, window.stride)
        ):
            raise node.fault(
                "ceil_mode: fxsim drops what no window covers; export with ceil_mode=0"
            )
        return self._pooled(node, value, pool)

    def global_pool(self, node: Node) -> Value:
        """A pooling over the whole image joins the layer."""
        node.options()
        value = self.value(node)
        return self._pooled(node, value, Pool(pool_kind(node), "global"))

    def mean(self, node: Node) -> Value:
        """ReduceMean over rows and columns is global average pooling."""
        options = node.options(axes=None, keepdims=1, noop_with_empty_axes=0)
        value = self.value(node)
        axes = axes_of(node, self.optional(node, 1, "axes"))
        ndim = value.places.ndim + 1
        if axes is None or {axis % ndim for axis in axes} != set(range(2, ndim)):
            raise node.fault(
                f"it must be over all rows and columns, got axes {shown(axes)} of {ndim}"
            )
        pooled = self._pooled(node, value, Pool("average", "global"))
        return pooled if options["keepdims"] else pooled.arranged(pooled.places.reshape(-1))

    def _pooled(self, node: Node, value: Value, pool: Pool) -> Value:
        image = self.image(node, value)
        draft = self.joined(node, value, Stage.POOL)
        window = tried(node, lambda: pool.window("", image[:2]))
        draft.set(Stage.POOL, pool=pool)
        draft.output = (*window.positions(image[:2]), image[2])
        return self._whole(draft, value.places.ndim)

    def dropout(self, node: Node) -> Value:
        """Dropout joins the layer; in inference it drops nothing."""
        options = node.options(ratio=0.5, seed=0)
        value = self.value(node)
        ratio = self.optional(node, 1, "the ratio")
        training = self.optional(node, 2, "training_mode")
        if training is not None and training.any():
            raise node.fault("it drops in inference, too; export with model.eval()")
        share = float(options["ratio"] if ratio is None else ratio)
        if share:
            draft = self.joined(node, value, Stage.DROPOUT)
            tried(node, lambda: draft.set(Stage.DROPOUT, dropout=share))
        return value

    # What moves elements, or nothing.

    def identity(self, node: Node) -> Value:
        """Identity, or Cast to what it is."""
        if node.op == "Cast" and node.options(to=0)["to"] != _FLOAT:
            raise node.fault("it must make floats of 32 bits")
        return self.value(node)

    def flatten(self, node: Node) -> Value:
        """All axes but that of the images become one."""
        value = self.value(node)
        axis = node.options(axis=1)["axis"]
        if axis not in (1, -value.places.ndim):
            raise node.fault(f"axis must be 1, got {axis}: images stay apart")
        return value.arranged(value.places.reshape(-1))

    def reshape(self, node: Node) -> Value:
        """The elements take other axes."""
        value = self.value(node)
        wanted = node.ints("shape", self.constant(node, 1, "the shape"))
        first = {0, -1, BATCH, self.graph.shape[0] or BATCH}
        own = value.places.shape
        if not wanted or wanted[0] not in first or BATCH in wanted[1:]:
            raise node.fault(f"shape {shown(wanted)} must keep the axis of the images")
        kept = (1, *wanted[1:]) if -1 in wanted[1:] or wanted[0] != -1 else (-1, *wanted[1:])
        shape = new_shape(node, (1, *own), kept)
        if shape[0] != 1:
            raise node.fault(f"shape {shown(wanted)} must keep the {value.places.size} elements")
        return value.arranged(value.places.reshape(shape[1:]))

    def squeeze(self, node: Node) -> Value:
        """Axes of size 1 go, or come."""
        value = self.value(node)
        node.options(axes=None)
        axes = axes_of(node, self.optional(node, 1, "axes"))
        places = value.places[np.newaxis]
        ndim = places.ndim + (len(axes or ()) if node.op == "Unsqueeze" else 0)
        if axes is None or any(not 0 < axis % ndim < ndim for axis in axes):
            raise node.fault(f"axes {shown(axes)} must be given, without that of the images")
        change = np.expand_dims if node.op == "Unsqueeze" else np.squeeze
        try:
            return value.arranged(change(places, axes)[0])
        except ValueError:
            raise node.fault(f"axes {shown(axes)} do not fit {shown(value.places.shape)}") from None

    def transpose(self, node: Node) -> Value:
        """The axes take another order."""
        value = self.value(node)
        perm = node.ints("perm", node.options(perm=())["perm"])
        if sorted(perm) != list(range(value.places.ndim + 1)) or perm[0] != 0:
            raise node.fault(f"perm {shown(perm)} must leave the axis of the images the first")
        return value.arranged(value.places.transpose([axis - 1 for axis in perm[1:]]))

    def pad(self, node: Node) -> Value:
        """Zeros around the image, which a Conv takes in."""
        value = self.value(node)
        options = node.options(mode="constant", pads=None, value=0.0)
        pads = options["pads"] or node.ints("pads", self.constant(node, 1, "pads"))
        fill = self.optional(node, 2, "the value")
        if options["mode"] != "constant" or options["value"] or (fill is not None and fill.any()):
            raise node.fault("fxsim pads with zeros alone")
        ndim = value.places.ndim + 1
        if len(node.inputs) > 3 or len(pads) != 2 * ndim or min(pads) < 0:
            raise node.fault(
                f"pads {shown(pads)} must be two of at least 0 for each of {ndim} axes"
            )
        before = pads[:ndim]
        after = pads[ndim:]
        if any((*before[:2], *after[:2])):
            raise node.fault(f"pads {shown(pads)} must be of rows and columns alone")
        if not any(pads):
            return value
        self.image(node, value)
        return dataclasses.replace(value, padding=sides(before[2:], after[2:]))

    def _shape(self, node: Node) -> np.ndarray:
        options = node.options(start=0, end=None)
        sizes = (BATCH, *self.value(node).places.shape)
        return np.array(sizes, np.int64)[options["start"] : options["end"]]


def _layout_of(graph: Graph) -> str:
    """NHWC where all that reads the images turns them into NCHW."""
    if len(graph.shape) != 4:
        return "NCHW"
    readers = [node for node in graph.nodes if graph.input in node.inputs]
    turned = [
        node.op == "Transpose" and tuple(node.attributes.get("perm", ())) == (0, 3, 1, 2)
        for node in readers
    ]
    return "NHWC" if turned and all(turned) else "NCHW"


def _input(graph: Graph, layout: str, image_shape: Shape | None) -> tuple[Shape, np.ndarray]:
    """(H, W, C) of the images, and the places of the model's input in them."""
    sizes = tuple(size or 0 for size in graph.shape[1:])
    shape: Any
    if math.prod(sizes) > MOST_ELEMENTS:
        raise InputError(f"input {shown(sizes)} has more than {MOST_ELEMENTS:,} elements")
    if len(sizes) == 1:
        shape = (1, 1, sizes[0])
        if image_shape is not None:
            shape = tuple(integer("image_shape", size) for size in image_shape)
            if len(shape) != 3 or math.prod(shape) != sizes[0] or min(shape) < 1:
                raise InputError(
                    f"image_shape must be (H, W, C) of {sizes[0]} elements, got {shown(shape)}"
                )
        return shape, np.arange(sizes[0], dtype=np.int32)
    if len(sizes) == 2:
        shape = (1, sizes[1], sizes[0])
    elif layout == "NHWC":
        shape = sizes
    else:
        shape = (sizes[1], sizes[2], sizes[0])
    if image_shape is not None and tuple(image_shape) != shape:
        raise InputError(
            f"image_shape is for models that read vectors; this one reads images of {shape}, got "
            f"{shown(image_shape)}; leave it out"
        )
    if len(sizes) == 3 and layout == "NHWC":
        return shape, np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    return shape, channels_first(shape).reshape(sizes)


_OPERATORS: dict[str, Callable[[Reader, Node], Value]] = {
    "Add": Reader.add,
    "AveragePool": Reader.pool,
    "BatchNormalization": Reader.batch_norm,
    "Cast": Reader.identity,
    "Conv": Reader.conv,
    "Dropout": Reader.dropout,
    "Flatten": Reader.flatten,
    "Gemm": Reader.gemm,
    "GlobalAveragePool": Reader.global_pool,
    "GlobalMaxPool": Reader.global_pool,
    "Identity": Reader.identity,
    "LogSoftmax": Reader.softmax,
    "MatMul": Reader.matmul,
    "MaxPool": Reader.pool,
    "Pad": Reader.pad,
    "ReduceMean": Reader.mean,
    "Reshape": Reader.reshape,
    "Softmax": Reader.softmax,
    "Squeeze": Reader.squeeze,
    "Transpose": Reader.transpose,
    "Unsqueeze": Reader.squeeze,
    **dict.fromkeys(ACTIVATIONS, Reader.activation),
}
"""Operator -> what it does to layers."""
