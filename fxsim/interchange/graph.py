"""The graph of an ONNX model, normalized: nodes in order, constants folded, nothing unread."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fxsim.errors import InputError, listed, refused, shown
from fxsim.interchange.model_file import DOMAINS, TYPES, array_of, read_model, tensor_type

BATCH = 2**40 + 1
"""Stands for the number of images where a model computes shapes."""

MOST_NODES = 20_000
MOST_FOLDED = 2**16
"""Elements of what is computed from constants, where it may have more than they have."""
MOST_FOLDED_BYTES = 2**27
"""Bytes of all that is computed from constants."""

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Node:
    """A node: its operator, with the domain where that is not ONNX's own; names of values."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def fault(self, rule: object) -> InputError:
        """An InputError that names node and operator."""
        return InputError(f"node {shown(self.name)} ({self.op}): {rule}")

    def options(self, **defaults: Any) -> dict[str, Any]:
        """The attributes, with these defaults; InputError for one that is not among them."""
        for key in self.attributes:
            if key not in defaults:
                raise self.fault(f"attribute {shown(key)} is none that fxsim knows")
        found = {**defaults, **self.attributes}
        for key, default in defaults.items():
            if isinstance(default, (int, float)) and not isinstance(found[key], (int, float)):
                raise self.fault(f"{key} must be a number, got {shown(found[key])}")
            if isinstance(default, str) and not isinstance(found[key], str):
                raise self.fault(f"{key} must be a text, got {shown(found[key])}")
        return found

    def ints(self, name: str, value: Any) -> tuple[int, ...]:
        """A list of integers: an attribute, or a constant."""
        array = np.asarray(value)
        if array.dtype.kind not in "iu" and array.size:
            raise self.fault(f"{name} must be integers, got {shown(value)}")
        return tuple(int(each) for each in array.reshape(-1))


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of the data flow; constants, folded ones too.

    input, shape: name and sizes of the one input, None for the number of images.  output: the name
    of the one output.  uses: how often each value is read, other than for its shape.
    """

    model: Any
    folder: Path
    nodes: tuple[Node, ...]
    constants: Arrays
    input: str
    shape: tuple[int | None, ...]
    output: str
    uses: Mapping[str, int] = field(default_factory=Counter)


def read_graph(path: str | Path) -> Graph:
    """The graph of the ONNX model in a file.

    Raises:
        InputError: see read_model and array_of; a graph that is cyclic or out of order, more than
            one input or output, a dynamic shape.
    """
    model = read_model(path)
    folder = Path(path).parent
    graph = model.graph
    if len(graph.node) > MOST_NODES:
        raise InputError(f"{path} has {len(graph.node):,} nodes; {MOST_NODES:,} are the most")
    constants: Arrays = {}
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise InputError(f"{path}: tensor {shown(tensor.name)} is there twice")
        constants[tensor.name] = array_of(tensor, folder)
    name, shape = _input(path, [each for each in graph.input if each.name not in constants])
    if len(graph.output) != 1:
        raise InputError(
            f"{path} has {len(graph.output)} outputs, {listed(each.name for each in graph.output)}; "
            f"export it with one, the class scores"
        )
    nodes = [_node(each, folder) for each in graph.node]
    uses = Counter(each for node in nodes if node.op != "Shape" for each in node.inputs)
    uses[graph.output[0].name] += 1
    known = {name, *constants}
    for node in nodes:
        _check_order(node, known)
        known |= set(filter(None, node.outputs))
    if graph.output[0].name not in known:
        raise InputError(f"{path}: no node makes the output {shown(graph.output[0].name)}")
    return Graph(model, folder, tuple(nodes), constants, name, shape, graph.output[0].name, uses)


def _input(path: str | Path, inputs: list[Any]) -> tuple[str, tuple[int | None, ...]]:
    """Name and shape of the input; None for the number of images."""
    if len(inputs) != 1:
        raise InputError(
            f"{path} has {len(inputs)} inputs, {listed(each.name for each in inputs) or 'none'}; "
            f"fxsim reads models with one, the images"
        )
    tensor = inputs[0].type.tensor_type
    where = f"{path}: input {shown(inputs[0].name)}"
    if tensor.elem_type != tensor_type("FLOAT"):
        raise InputError(f"{where} must be of floats of 32 bits; export the model so")
    sizes = [each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim]
    if not 2 <= len(sizes) <= 4:
        raise InputError(
            f"{where} must be (N, C, H, W), (N, C, L) or (N, features), got {len(sizes)} axes"
        )
    if any(size is None or size < 1 for size in sizes[1:]):
        raise InputError(
            f"{where} has a dynamic shape, {shown(sizes)}: only the first, the number of images, "
            f"may be open; export it with fixed sizes"
        )
    return inputs[0].name, (sizes[0], *sizes[1:])


def _node(proto: Any, folder: Path) -> Node:
    domain = "" if proto.domain in DOMAINS else f"{proto.domain}."
    outputs = tuple(proto.output)
    name = proto.name or (outputs[0] if outputs else "")
    node = Node(f"{domain}{proto.op_type}", name, tuple(proto.input), outputs, {})
    if not outputs or not outputs[0]:
        raise node.fault("it has no output")
    attributes = {}
    for each in proto.attribute:
        if each.name in attributes:
            raise node.fault(f"attribute {shown(each.name)} is there twice")
        attributes[each.name] = _attribute(node, each, folder)
    return Node(node.op, name, node.inputs, outputs, attributes)


def _attribute(node: Node, proto: Any, folder: Path) -> Any:
    """The value of an attribute as plain data, or an array."""
    kinds: dict[int, Callable[[], Any]] = {
        proto.FLOAT: lambda: float(str(np.float32(proto.f))),  # 0.1, as it was written
        proto.INT: lambda: proto.i,
        proto.STRING: lambda: proto.s.decode("utf-8", "replace"),
        proto.TENSOR: lambda: array_of(proto.t, folder),
        proto.FLOATS: lambda: tuple(proto.floats),
        proto.INTS: lambda: tuple(proto.ints),
    }
    if proto.type not in kinds:
        raise node.fault(f"attribute {shown(proto.name)} is none of numbers, texts and tensors")
    return kinds[proto.type]()


def _check_order(node: Node, known: set[str]) -> None:
    """InputError unless a node reads what is there, and makes what is not."""
    for name in node.inputs:
        if name and name not in known:
            raise node.fault(
                f"it reads {shown(name)}, which no node before it makes: the graph is cyclic, or "
                f"out of order"
            )
    for name in node.outputs:
        if name in known:
            raise node.fault(f"it makes {shown(name)}, which is there already")


class Folding:
    """Computes nodes whose inputs are all constant, within bounds."""

    def __init__(self) -> None:
        self.bytes = 0

    def fold(self, node: Node, inputs: list[np.ndarray | None]) -> np.ndarray | None:
        """The output of a node; None where the operator is none that is folded.

        Raises:
            InputError: the inputs do not fit, or the result is too large.
        """
        function = _FOLDED.get(node.op)
        if function is None:
            return None
        with refused(lambda text: node.fault("its constant inputs do not fit together")):
            result = np.asarray(function(node, *inputs))
        self.bytes += result.nbytes
        if self.bytes > MOST_FOLDED_BYTES:
            raise node.fault("its constant result is too large")
        return result


def _bounded(node: Node, size: int) -> None:
    if size > MOST_FOLDED:
        raise node.fault(f"its constant result would have {size:,} elements")


def _cast(node: Node, data: np.ndarray) -> np.ndarray:
    wanted = {tensor_type(name): dtype for name, (dtype, _) in TYPES.items()}
    to = node.attributes["to"]
    return data if wanted[to] == data.dtype else data.astype(wanted[to])


def _concat(node: Node, *parts: np.ndarray) -> np.ndarray:
    _bounded(node, sum(part.size for part in parts))
    return np.concatenate(parts, node.attributes["axis"])


def _constant_of_shape(node: Node, shape: np.ndarray) -> np.ndarray:
    sizes = node.ints("shape", shape)
    _bounded(node, math.prod(sizes))
    value = node.attributes.get("value", np.zeros(1, np.float32))
    return np.full(sizes, value.reshape(-1)[0])


def _gather(node: Node, data: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = node.attributes.get("axis", 0)
    _bounded(node, indices.size * data.size // max(data.shape[axis], 1))
    return np.take(data, indices, axis)


def _slice(node: Node, data: np.ndarray, *given: np.ndarray | None) -> np.ndarray:
    starts, ends, axes, steps = (*given, None, None)[:4]
    if starts is None or ends is None:
        raise node.fault("starts and ends must be inputs")
    firsts = node.ints("starts", starts)
    places = range(len(firsts)) if axes is None else node.ints("axes", axes)
    strides = [1] * len(firsts) if steps is None else node.ints("steps", steps)
    parts = [slice(None)] * data.ndim
    least = -(2**62)
    for axis, start, end, step in zip(
        places, firsts, node.ints("ends", ends), strides, strict=True
    ):
        stop = None if step < 0 and end <= least else end
        parts[axis] = slice(start, stop, step)
    return data[tuple(parts)]


def _arithmetic(function: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def compute(node: Node, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        _bounded(node, math.prod(np.broadcast_shapes(left.shape, right.shape)))
        return function(left, right)

    return compute


def axes_of(node: Node, given: np.ndarray | None) -> tuple[int, ...] | None:
    """The axes of an operator that takes them as attribute or, newer, as input."""
    axes = node.attributes.get("axes", given)
    return None if axes is None else node.ints("axes", axes)


def _squeeze(node: Node, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.squeeze(data, axes_of(node, axes))


def _unsqueeze(node: Node, data: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
    return np.expand_dims(data, axes_of(node, axes) or ())


def new_shape(node: Node, old: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...]:
    """What Reshape makes of a shape: 0 keeps a size, one -1 takes what is left."""
    zero = not node.options(allowzero=0)["allowzero"]
    sizes = [
        old[at] if size == 0 and zero and at < len(old) else size for at, size in enumerate(wanted)
    ]
    if -1 in sizes:
        rest = -math.prod(sizes)
        sizes[sizes.index(-1)] = math.prod(old) // rest if rest > 0 else -1
    if min(sizes, default=0) < 0 or math.prod(sizes) != math.prod(old):
        raise node.fault(f"shape {shown(old)} cannot become {shown(wanted)}")
    return tuple(sizes)


def _reshape(node: Node, data: np.ndarray, shape: np.ndarray) -> np.ndarray:
    return data.reshape(new_shape(node, data.shape, node.ints("shape", shape)))


def _constant(node: Node) -> np.ndarray:
    ((key, value),) = node.attributes.items()
    types = {"value": None, "value_float": np.float32, "value_int": np.int64}
    types |= {"value_floats": np.float32, "value_ints": np.int64}
    return np.asarray(value, types[key])


_FOLDED: dict[str, Callable[..., np.ndarray]] = {
    "Add": _arithmetic(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Gather": _gather,
    "Identity": lambda node, data: data,
    "Mul": _arithmetic(np.multiply),
    "Reshape": _reshape,
    "Shape": lambda node, data: np.array(data.shape, np.int64),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _arithmetic(np.subtract),
    "Transpose": lambda node, data: data.transpose(node.attributes.get("perm")),
    "Unsqueeze": _unsqueeze,
}
"""Operator -> what it makes of constants.

They are those that exporters leave in a graph where it computes the shape of a Reshape or a Pad."""
