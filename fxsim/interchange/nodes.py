"""A graph of ONNX nodes under construction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fxsim.errors import InputError
from fxsim.files import write_bytes

IR_VERSION = 8
"""Of the files: that of ONNX 1.11, which every later reader takes."""

MOST_BYTES = 2**31 - 2**24
"""Of all constants: a file of protobuf ends at 2 GB."""

Shape = tuple[int | str, ...]
"""Of a tensor; a name stands for a size that is open."""


class Tensor(NamedTuple):
    """A tensor of the graph."""

    name: str
    shape: Shape


def onnx_package() -> Any:
    """The package onnx; InputError where it is not installed."""
    try:
        import onnx
    except ImportError:
        raise InputError(
            "ONNX files need the package onnx, which is not installed; run: pip install "
            "'fxsim[onnx]'"
        ) from None
    return onnx


class Nodes:
    """The nodes, constants and shapes of a graph.

    scope: the layer that is being written; names of nodes begin with it.
    """

    def __init__(self) -> None:
        self.onnx = onnx_package()
        self.scope = ""
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._scalars: dict[tuple[str, str], str] = {}
        self._infos: dict[str, Any] = {}
        self._bytes = 0

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        shape: Shape,
        dtype: Any,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node with one output of that shape and NumPy type; returns the output's name."""
        name = f"{self.scope}/{operator}_{len(self._nodes)}"
        made = self.onnx.helper.make_node(
            operator, list(inputs), [name], name=name, domain=domain, **attributes
        )
        self._nodes.append(made)
        self._infos[name] = self.info(name, shape, dtype)
        return name

    def constant(self, array: np.ndarray, what: str = "constant") -> str:
        """The name of a constant; scalars of one value and type are one constant."""
        if array.ndim:
            return self._added(array, f"{self.scope}/{what}_{len(self._constants)}")
        key = str(array.dtype), str(array)
        if key not in self._scalars:
            self._scalars[key] = self._added(array, f"scalar_{len(self._constants)}")
        return self._scalars[key]

    def _added(self, array: np.ndarray, name: str) -> str:
        self._bytes += array.nbytes
        if self._bytes > MOST_BYTES:
            raise InputError(
                f"layer {self.scope!r}: the network's constants need more than {MOST_BYTES:,} "
                f"bytes, and an ONNX file holds 2 GB; export a smaller network"
            )
        array = np.ascontiguousarray(array).reshape(array.shape)
        self._constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def info(self, name: str, shape: Shape, dtype: Any) -> Any:
        """Name, type and shape of a tensor as ONNX has them."""
        element = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.onnx.helper.make_tensor_value_info(name, element, list(shape))

    def named(self, tensor: str, name: str) -> str:
        """Give the output of the last node another name.

        It is given by a node of its own where the tensor is that of another node.
        """
        last = self._nodes[-1]
        if last.output[0] != tensor:
            raise RuntimeError("the last node gives another tensor; please report this")
        last.output[0] = name
        found = self._infos.pop(tensor)
        found.name = name
        self._infos[name] = found
        return name

    def save(
        self,
        path: str | Path,
        title: str,
        ends: tuple[Any, Any],
        opsets: Mapping[str, int],
        properties: Mapping[str, Any],
    ) -> None:
        """Write the graph.

        Args:
            path: The file.
            title: The graph's name.
            ends: The `info` of its input and of its output.
            opsets: Domain -> version of its operators.
            properties: What the file says of itself, plain data; text stays text, all else is JSON.
        """
        helper = self.onnx.helper
        given, result = ends
        self._infos.pop(result.name, None)
        graph = helper.make_graph(
            self._nodes,
            title,
            [given],
            [result],
            list(self._constants.values()),
            value_info=list(self._infos.values()),
        )
        imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
        model = helper.make_model(
            graph, opset_imports=imports, ir_version=IR_VERSION, producer_name="fxsim"
        )
        texts = {
            key: value if isinstance(value, str) else json.dumps(value)
            for key, value in properties.items()
        }
        helper.set_model_props(model, texts)
        write_bytes(path, model.SerializeToString(deterministic=True))
