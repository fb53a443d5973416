"""MATLAB files, the format of SVHN's cropped digits.

Source: MathWorks, "MAT-File Format", version 5: a header of 128 bytes, then elements of a tag (type,
bytes) and their data.  An element of type 15 is compressed, and holds one of type 14, a matrix: its
flags, dimensions, name and numbers, each an element.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fxsim.datasets.dataset import Images, check_labels
from fxsim.errors import InputError, shown
from fxsim.files import MOST_INFLATED, open_regular

_COMPRESSED = 15
_MATRIX, _FLAGS, _DIMENSIONS, _NAME = 14, 6, 5, 1
_COMPLEX = 0x800
_STORED = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
"""Type of an element -> that of its numbers."""
_CLASSES = dict(zip(range(6, 16), ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")))
"""Class of a matrix -> the type that its numbers had in MATLAB; others are no numbers."""
_HEAD_BYTES = 1024
"""All of a matrix before its numbers takes less."""


@dataclass(frozen=True)
class _Matrix:
    """The head of a matrix, and where it is.

    dtype: of its numbers in MATLAB, None for what is no real number; stored: of those in the file,
    which are `size` bytes from byte `start` on of all `total` that the element inflates to.  place,
    length: of the compressed bytes in the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype | None
    stored: np.dtype | None
    start: int
    size: int
    total: int
    place: int
    length: int


def read_svhn(path: Path) -> Images:
    """X (32, 32, 3, N) and y (N, 1) of a file; its label 10 is the digit 0."""
    with open_regular(path) as file:
        found = _matrices(path, file)
        images = _matrix(path, found, "X")
        if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or len(images.shape) != 4:
            raise InputError(
                f"{path}: X is {images.dtype} {shown(images.shape)}, wanted uint8 (32, 32, 3, N); "
                "fetch SVHN's cropped digits (format 2)"
            )
        count = images.shape[3]
        labels = _matrix(path, found, "y")
        if labels.shape != (count, 1):
            raise InputError(
                f"{path}: y is {labels.dtype} {shown(labels.shape)}, wanted numbers ({count}, 1), "
                "a label for each image; fetch the file again"
            )
        pixels = _values(path, file, images).reshape(images.shape, order="F")
        numbers = _values(path, file, labels)
    check_labels(str(path), numbers, classes=10, first=1)
    return np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), (numbers % 10).astype(np.uint8)


def _matrix(path: Path, found: dict[str, _Matrix], name: str) -> _Matrix:
    """The matrix of real numbers of that name."""
    if name not in found or found[name].dtype is None:
        raise InputError(
            f"{path}: has no array {name!r} of numbers; wanted SVHN's cropped digits (format 2)"
        )
    if not math.prod(found[name].shape):
        raise InputError(f"{path}: {name} is empty, of shape {shown(found[name].shape)}")
    return found[name]


def _matrices(path: Path, file: BinaryIO) -> dict[str, _Matrix]:
    """The heads of the matrices in a little-endian MATLAB 5 file, each of which is compressed, as
    SVHN's are: zlib's checksum then tells damage.
    """
    header = file.read(128)
    if header[:10] != b"MATLAB 5.0" or header[124:] != b"\x00\x01IM":
        raise InputError(
            f"{path}: not a MATLAB 5.0 file; fetch it again, or save it from MATLAB with '-v7'"
        )
    found: dict[str, _Matrix] = {}
    for place, length in _compressed(path, file):
        matrix = _head(path, file, place, length)
        if matrix.name in found:
            raise InputError(f"{path}: has two arrays {shown(matrix.name)}; fetch it again")
        found[matrix.name] = matrix
    return found


def _compressed(path: Path, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """(place, length) of the compressed bytes of every element."""
    end = os.fstat(file.fileno()).st_size
    position = 128
    while position < end:
        file.seek(position)
        kind, length = struct.unpack("<II", file.read(8).ljust(8, b"\0"))
        if kind != _COMPRESSED:
            raise InputError(
                f"{path}: the variable at byte {position:,} is not compressed or its tag is "
                f"damaged; fetch the file again, or save it from MATLAB with '-v7'"
            )
        if position + 8 + length > end:
            raise InputError(
                f"{path}: truncated: its variables take {position + 8 + length:,} bytes, there are "
                f"{end:,}; fetch it again"
            )
        yield position + 8, length
        position += 8 + length


def _damaged(path: Path, place: int) -> InputError:
    return InputError(
        f"{path}: damaged MATLAB file (the variable at byte {place - 8:,}); fetch it again"
    )


def _head(path: Path, file: BinaryIO, place: int, length: int) -> _Matrix:
    """The head of the matrix whose compressed bytes begin at `place`."""
    file.seek(place)
    try:
        data = zlib.decompressobj().decompress(file.read(min(length, _HEAD_BYTES)), _HEAD_BYTES)
        kind, total = struct.unpack_from("<II", data)
        types, starts, sizes = zip(*_elements(data, 8))
        dimensions = np.frombuffer(data, "<i4", sizes[1] // 4, starts[1])
        name = data[starts[2] : starts[2] + sizes[2]].decode("latin-1")
        (flags,) = struct.unpack_from("<I", data, starts[0])
    except (zlib.error, struct.error, ValueError):
        raise _damaged(path, place) from None
    shape = tuple(dimensions.tolist())
    if kind != _MATRIX or types[:3] != (_FLAGS, _DIMENSIONS, _NAME) or min(shape, default=-1) < 0:
        raise _damaged(path, place)
    number = _CLASSES.get(flags & 0xFF)
    stored = _STORED.get(types[3])
    if number is None or stored is None or flags & _COMPLEX:
        return _Matrix(name, shape, None, None, 0, 0, 0, place, length)
    matrix = _Matrix(
        name,
        shape,
        np.dtype(number),
        np.dtype(stored),
        starts[3],
        sizes[3],
        8 + total,
        place,
        length,
    )
    needed = math.prod(shape) * np.dtype(stored).itemsize
    if matrix.size != needed or not 0 <= matrix.total - (matrix.start + needed) < 8:
        raise _damaged(path, place)
    return matrix


def _elements(data: bytes, at: int) -> Iterator[tuple[int, int, int]]:
    """(type, start, size) of the four elements of a matrix from byte `at` on.

    Each fills whole 8 bytes.  One of at most 4 bytes shares them with its tag.
    """
    for _ in range(4):
        kind, size = struct.unpack_from("<II", data, at)
        if kind >> 16:
            yield kind & 0xFFFF, at + 4, kind >> 16
            at += 8
        else:
            yield kind, at + 8, size
            at += 8 + -(-size // 8) * 8


def _values(path: Path, file: BinaryIO, matrix: _Matrix) -> np.ndarray:
    """The numbers of a matrix in one dimension, as they are stored."""
    if matrix.total > MOST_INFLATED:
        raise InputError(
            f"{path}: {matrix.name} takes {matrix.total:,} bytes, more than the {MOST_INFLATED:,} "
            f"that are read; is it the right file?"
        )
    file.seek(matrix.place)
    inflating = zlib.decompressobj()
    try:
        data = inflating.decompress(file.read(matrix.length), matrix.total + 1)
    except zlib.error:
        raise _damaged(path, matrix.place) from None
    if len(data) != matrix.total or not inflating.eof or inflating.unused_data:
        raise _damaged(path, matrix.place)
    stored = matrix.stored
    return np.frombuffer(data, stored, math.prod(matrix.shape), matrix.start)
