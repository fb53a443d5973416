"""An imported network against ONNX Runtime, layer by layer."""

from __future__ import annotations

import numpy as np

from fxsim.errors import InputError, cut, refused
from fxsim.interchange.graph import Graph
from fxsim.interchange.model_file import array_of, onnx_package
from fxsim.interchange.onnx_import import Read
from fxsim.nn.floating.network import FloatNetwork

IMAGES = 64
"""Images that are compared, where the model leaves their number open."""


def differences(read: Read, network: FloatNetwork, images: np.ndarray) -> dict[str, float]:
    """Layer -> the largest difference of its output to ONNX Runtime's, as a share of the largest
    output there.

    Args:
        read: what was read.
        network: the imported network, which takes images in [0, 1].
        images: (N, H, W, C) in [0, 1]; the first IMAGES of them, or as many as the model takes.

    Raises:
        InputError: the package onnxruntime is missing, or refuses the model.
    """
    count = read.graph.shape[0] or min(IMAGES, len(images))
    chosen = images[np.arange(count) % len(images)].astype(np.float32)
    tape = network.forward_tape(chosen)
    low, high = read.pixels
    wanted = _run(read, low + (high - low) * chosen)
    found = {}
    for name, draft in read.drafts.items():
        own = tape.layers[name].output.reshape(count, -1)[:, draft.places.reshape(-1)]
        other = wanted[draft.value].reshape(count, -1).astype(np.float64)
        found[name] = float(np.abs(own - other).max() / max(np.abs(other).max(), 1e-30))
    return found


def _run(read: Read, images: np.ndarray) -> dict[str, np.ndarray]:
    """The value of each layer, by its name in the graph."""
    runtime = onnx_package("onnxruntime")
    names = list(dict.fromkeys(draft.value for draft in read.drafts.values()))
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    model = _with_outputs(read.graph, names)
    given = images.reshape(len(images), -1)[:, read.input_places].astype(np.float32)

    def told(text: str) -> InputError:
        return InputError(f"ONNX Runtime does not run the model: {cut(text, 150)}")

    with refused(told):
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        values = session.run(names, {read.graph.input: given})
    return dict(zip(names, values))


def _with_outputs(graph: Graph, names: list[str]) -> bytes:
    """The model with these values as its outputs, and no data outside of it."""
    onnx = onnx_package()
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    for tensor in model.graph.initializer:
        if tensor.data_location == tensor.EXTERNAL:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(array_of(tensor, graph.folder), tensor.name)
            )
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    data: bytes = model.SerializeToString()
    return data
