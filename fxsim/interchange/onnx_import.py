"""A float network from an ONNX model: the layers that the reader found, in order, with their loss."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.fields import number
from fxsim.interchange.attributes import tried
from fxsim.interchange.draft import NO_PADDING, Draft, Value
from fxsim.interchange.graph import Graph, read_graph
from fxsim.interchange.reader import LOSSES, Reader
from fxsim.nn.init import Parameters
from fxsim.nn.spec import Dense, Network, Shape


class Imported(NamedTuple):
    """A network, and its parameters: layer -> name -> float64 array."""

    network: Network
    parameters: Parameters


def from_onnx(
    path: str | Path,
    *,
    name: str | None = None,
    layout: str | None = None,
    image_shape: Shape | None = None,
    loss: str | None = None,
    targets: str | None = None,
    pixels: tuple[float, float] = (0.0, 1.0),
) -> Imported:
    """The float network in an ONNX file, as PyTorch, tf2onnx and their like write it.

    Weights come in fxsim's layouts: images are (H, W, C), kernels (KH, KW, C / groups, O), and the
    rows of a fully connected layer follow the order of (H, W, C).  A bias before batch norm joins
    the running mean, which changes no output.  Batch norm of the last layer is folded.

    The last Softmax, LogSoftmax or Sigmoid is left to the loss: the network's outputs are what it
    reads.  Where the model does not end so, the loss is assumed: 'mse' with targets 'tensors' if
    there are as many outputs as inputs, as an autoencoder has them, else 'softmax_cross_entropy'.

    Args:
        path: the file; tensors outside of it are read where they are in a file beside it.
        name: of the network; None for the file's, with underscores.
        layout: of a four-dimensional input, 'NCHW' or 'NHWC'; None for NHWC where the model turns
            it into NCHW at once, as tf2onnx writes it, else NCHW.
        image_shape: (H, W, C) of the images where the model reads them flat, (N, H * W * C) in this
            order; None for (1, 1, features).
        loss, targets: as for Network, in place of what is assumed.
        pixels: what the model reads where fxsim's images have 0 and 1.  Another range than the
            default is folded into weights and bias of the layers that read the images.

    Returns:
        (network, parameters), as FloatNetwork takes them.

    Raises:
        InputError: the package onnx is missing (fxsim[onnx]); the file is no ONNX model or is
            damaged; an operator, an attribute, a shape or an order of operators that a layer has
            not, naming the node.

    Example:
        >>> from fxsim import FloatNetwork
        >>> from fxsim.interchange import from_onnx
        >>> network, parameters = from_onnx("model.onnx")  # doctest: +SKIP
        >>> FloatNetwork(network, parameters).logits(images)  # doctest: +SKIP
    """
    wanted = Wanted(name, layout, image_shape, loss, targets, pixels)
    return read_onnx(path, wanted).imported


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What a caller says of a model; see from_onnx."""

    name: str | None = None
    layout: str | None = None
    image_shape: Shape | None = None
    loss: str | None = None
    targets: str | None = None
    pixels: tuple[float, float] = (0.0, 1.0)


@dataclasses.dataclass(frozen=True)
class Read:
    """What was read: the graph, the network and its parameters, and each layer's draft by name.

    input_places: for each element of the model's input, its place in (H, W, C).  pixels: what the
    model reads for 0 and 1.
    """

    graph: Graph
    imported: Imported
    drafts: dict[str, Draft]
    input_places: np.ndarray
    pixels: tuple[float, float]


def read_onnx(path: str | Path, wanted: Wanted) -> Read:
    """What `from_onnx` gives, with what it was made of."""
    graph = read_graph(path)
    reader = Reader(graph, wanted.layout, wanted.image_shape)
    reader.walk()
    label = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII).strip("_")
    name = wanted.name or label or "imported"
    network, drafts = _network(reader, name, wanted.loss, wanted.targets)
    low, high = (number("pixels", each) for each in wanted.pixels)
    for draft in drafts.values():
        if draft.source is None:
            _fold_pixels(draft, network, low, high)
    parameters = {own: draft.parameters for own, draft in drafts.items()}
    places = reader.values[graph.input].places
    return Read(graph, Imported(network, parameters), drafts, places, (low, high))


def _network(
    reader: Reader, name: str, loss: str | None, targets: str | None
) -> tuple[Network, dict[str, Draft]]:
    """The network of all layers, and their drafts by name."""
    value = reader.values.get(reader.graph.output)
    if value is None or value.draft is None or value.padding != NO_PADDING:
        raise InputError(f"output {shown(reader.graph.output)} is not made by a layer")
    drafts = _in_order(reader.drafts, value.draft)
    last = drafts[-1]
    last.fold()
    of_training: tuple[Any, Any] = _loss(reader, value, loss, targets)
    _arrange_outputs(last, value.places, of_training[1], _image_places(reader, value))
    layers = []
    for draft, before in zip(drafts, (None, *drafts)):
        source = draft.source.layer.name if draft.source else None
        if draft.source is before:
            source = None
        elif source is None:
            raise draft.node.fault(
                "it reads the images, and other layers come before it; fxsim has one layer that "
                "reads them"
            )
        branch = draft.branch.layer.name if draft.branch else None
        layers.append(dataclasses.replace(draft.layer, input=source, add=branch))
    made = tried(last.node, lambda: Network(name, reader.input_shape, tuple(layers), *of_training))
    return made, {draft.layer.name: draft for draft in drafts}


def _loss(reader: Reader, value: Value, loss: str | None, targets: str | None) -> tuple[str, str]:
    """Loss and targets, given or assumed."""
    alike = value.places.size == math.prod(reader.input_shape)
    if reader.ending is not None:
        own = LOSSES[reader.ending]
        if loss not in (None, own):
            raise InputError(
                f"loss {shown(loss)} contradicts the model, which ends with {reader.ending}: "
                f"leave it out, or end the model before that"
            )
        loss = own
    if loss is None:
        loss = "mse" if alike and targets != "labels" else "softmax_cross_entropy"
    if targets is None:
        targets = "tensors" if alike and loss != "softmax_cross_entropy" else "labels"
    return loss, targets


def _image_places(reader: Reader, value: Value) -> np.ndarray | None:
    """For each output, as the model orders them, its place in an image; None for no image."""
    start = reader.values[reader.graph.input].places
    if start.size != value.places.size:
        return None
    return start.reshape(-1)


def _arrange_outputs(
    last: Draft, places: np.ndarray, targets: str, images: np.ndarray | None
) -> None:
    """Permute the outputs of the last layer: labels as the model numbers them, tensors as images."""
    wanted = places.reshape(-1)
    if targets == "tensors" and images is not None:
        order = np.empty_like(wanted)
        order[images] = wanted
        wanted = order
    if (wanted == np.arange(wanted.size)).all():
        return
    if not isinstance(last.layer, Dense):
        raise last.node.fault(
            "the order of the outputs is not that of the layer; leave it as it is"
        )
    last.parameters = {name: array[..., wanted] for name, array in last.parameters.items()}
    inverse = np.empty_like(wanted)
    inverse[wanted] = np.arange(wanted.size)
    last.places = inverse[last.places]


def _fold_pixels(draft: Draft, network: Network, low: float, high: float) -> None:
    """Make a layer that reads low + (high - low) x one that reads x."""
    if not low < high:
        raise InputError(f"pixels must rise, got {low:g}, {high:g}")
    window = network.shape(draft.layer.name).window
    if low and any(window.padding):
        raise draft.node.fault(
            f"it pads images with zeros, which are no pixels from {low:g} on for the model and "
            f"darkest for fxsim; train it with pixels from 0 on"
        )
    own = draft.parameters
    sums = low * own["weight"].reshape(-1, own["weight"].shape[-1]).sum(axis=0)
    own["weight"] = own["weight"] * (high - low)
    if draft.layer.norm is not None:
        own["running_mean"] = own["running_mean"] - sums
    elif draft.layer.has_bias:
        own["bias"] = own["bias"] + sums
    elif low:
        raise draft.node.fault(f"it has no bias, and pixels from {low:g} on need one; add one")


def _in_order(drafts: list[Draft], last: Draft) -> list[Draft]:
    """The layers that the last one needs, each after those that it reads and adds."""
    done: list[Draft] = []
    waiting = [draft for draft in drafts if draft is not last] + [last]
    needed = {id(last)}
    stack = [last]
    while stack:
        draft = stack.pop()
        for other in (draft.source, draft.branch):
            if other is not None and id(other) not in needed:
                needed.add(id(other))
                stack.append(other)
    waiting = [draft for draft in waiting if id(draft) in needed]
    placed: set[int] = {id(None)}
    while waiting:
        ready = next(draft for draft in waiting if {id(draft.source), id(draft.branch)} <= placed)
        waiting.remove(ready)
        placed.add(id(ready))
        done.append(ready)
    return done
