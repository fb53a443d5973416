"""An ONNX file as its protobuf message: bounded, and checked before anything is allocated.

The package onnx is imported here alone, when it is needed.
"""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from fxsim.errors import InputError, listed, refused, shown
from fxsim.files import open_regular, read_bytes

MOST_BYTES = 2**27
"""A model, or a file of its weights, has at most so many bytes: 32 million weights."""

OLDEST_OPSET = 7
"""Operators of older versions broadcast in other ways."""

TYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "FLOAT": (np.dtype("<f4"), "float_data"),
    "DOUBLE": (np.dtype("<f8"), "double_data"),
    "INT8": (np.dtype("i1"), "int32_data"),
    "UINT8": (np.dtype("u1"), "int32_data"),
    "BOOL": (np.dtype("?"), "int32_data"),
    "INT32": (np.dtype("<i4"), "int32_data"),
    "INT64": (np.dtype("<i8"), "int64_data"),
}
"""Type of a tensor -> NumPy's, and the field that holds its values where raw_data does not."""

DOMAINS = ("", "ai.onnx")
"""Names of ONNX's own operators."""


def onnx_package(name: str = "onnx") -> Any:
    """The package onnx, or another of its extra; InputError where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"ONNX files need the package {name}: python -m pip install 'fxsim[onnx]'"
        ) from None


def tensor_type(name: str) -> int:
    """The number of a type of tensors."""
    return int(onnx_package().TensorProto.DataType.Value(name))


def read_model(path: str | Path) -> Any:
    """The onnx.ModelProto in a file.

    Raises:
        InputError: the package onnx is missing; the file cannot be read, is no regular file, has
            more than MOST_BYTES, is no ONNX model, or has local functions, training information or
            sparse tensors.
    """
    onnx = onnx_package()
    model = onnx.ModelProto()
    data = read_bytes(path, MOST_BYTES)

    def told(text: str) -> InputError:
        return InputError(f"{path} is no ONNX model, or it is damaged or cut off")

    with refused(told):
        model.ParseFromString(data)
    if not model.HasField("graph") or not model.graph.node:
        raise InputError(f"{path} is no ONNX model: it has no graph, or one without nodes")
    for what, there in (
        ("local functions", model.functions),
        ("training information", model.training_info),
        ("sparse tensors", model.graph.sparse_initializer),
    ):
        if there:
            raise InputError(f"{path} has {what}; export it for inference without them")
    _check_opset(path, model)
    return model


def _check_opset(path: str | Path, model: Any) -> None:
    versions = [entry.version for entry in model.opset_import if entry.domain in DOMAINS]
    if len(versions) != 1:
        raise InputError(f"{path} must name one version of ONNX's operators, got {shown(versions)}")
    newest = onnx_package().defs.onnx_opset_version()
    if not OLDEST_OPSET <= versions[0] <= newest:
        raise InputError(
            f"{path} has operators of version {versions[0]}; fxsim reads {OLDEST_OPSET} to "
            f"{newest}: export it with opset_version=17"
        )


def array_of(tensor: Any, folder: Path) -> np.ndarray:
    """The array that an onnx.TensorProto holds, read-only; its data may be in a file in `folder`.

    Raises:
        InputError: another type, a shape that does not fit the data, data in a file that is not
            beside the model or is too large; for reals NaN or infinity.
    """
    where = f"tensor {shown(tensor.name)}"
    names = {tensor_type(name): name for name in TYPES}
    if tensor.data_type not in names:
        raise InputError(
            f"{where} has type {tensor.data_type} of ONNX's; fxsim reads {listed(TYPES)}: export "
            f"the model with floats of 32 bits"
        )
    if tensor.HasField("segment"):
        raise InputError(f"{where} is in segments; export it whole")
    dtype, field = TYPES[names[tensor.data_type]]
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or len(shape) > 8:
        raise InputError(f"{where} has shape {shown(shape)}, which no tensor has")
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_BYTES:
        raise InputError(f"{where} declares {shown(size)} bytes, more than {MOST_BYTES:,}")
    if tensor.data_location == tensor.EXTERNAL:
        data = _external(where, tensor, folder, size)
    elif tensor.HasField("raw_data"):
        data = tensor.raw_data
    else:
        data = _typed(where, getattr(tensor, field), dtype)
    if len(data) != size:
        raise InputError(
            f"{where} of shape {shown(shape)} takes {size:,} bytes, and has {len(data):,}"
        )
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"{where} holds NaN or infinity")
    return array


def _typed(where: str, values: Any, dtype: np.dtype) -> bytes:
    array = np.array(values, np.int64 if dtype.kind in "iub" else dtype)
    if dtype.kind in "iu" and array.size:
        ends = np.iinfo(dtype)
        if array.min() < ends.min or array.max() > ends.max:
            raise InputError(f"{where} has values that {dtype.name} does not hold")
    return array.astype(dtype).tobytes()


def _external(where: str, tensor: Any, folder: Path, size: int) -> bytes:
    """The bytes of a tensor that are in a file beside the model."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = folder / location
    plain = location not in ("", ".", "..") and not set(location) & set("/\\:\0")
    if not plain or path.is_symlink():
        raise InputError(
            f"{where} has its data in {shown(location)}; only a file in the folder of the model is "
            f"read, with no folder in its name and no link"
        )
    numbers = {key: entries.get(key, "0") for key in ("offset", "length")}
    if not all(text.isascii() and text.isdigit() and len(text) < 16 for text in numbers.values()):
        raise InputError(f"{where} has data at {shown(numbers)}, which must be numbers of bytes")
    offset = int(numbers["offset"])
    length = int(numbers["length"]) or size
    if length != size:
        raise InputError(f"{where} takes {size:,} bytes, and its data in {location} has {length:,}")
    with open_regular(path, MOST_BYTES) as file:
        file.seek(offset)
        return file.read(size)
