"""MATLAB files, the format of SVHN's cropped digits."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fxsim.datasets.dataset import Images, check_labels, unreadable
from fxsim.errors import InputError

_MAT_COMPRESSED = 15


def read_svhn(path: Path) -> Images:
    """X (32, 32, 3, N) and y (N, 1) of a file; its label 10 is the digit 0."""
    variables = _load_mat(path)
    for name in ("X", "y"):
        if not isinstance(variables.get(name), np.ndarray):
            raise InputError(
                f"{path}: has no array {name!r}; wanted SVHN's cropped digits (format 2)"
            )
    images = variables["X"]
    labels = variables["y"]
    if (
        images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[:3] != (32, 32, 3)
        or not images.size
    ):
        raise InputError(
            f"{path}: X is {images.dtype} {images.shape}, wanted uint8 (32, 32, 3, N); "
            "fetch SVHN's cropped digits (format 2)"
        )
    if labels.dtype.kind not in "uif" or labels.shape != (images.shape[3], 1):
        raise InputError(
            f"{path}: y is {labels.dtype} {labels.shape}, wanted numbers ({images.shape[3]}, 1), "
            "a label for each image; fetch the file again"
        )
    labels = labels[:, 0]
    check_labels(str(path), labels, classes=10, first=1)
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels % 10).astype(np.uint8)


def _load_mat(path: Path) -> dict:
    import scipy.io  # here, because `import fxsim` should not pay for a reader that few runs need

    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            _check_mat(path, stream)
            warnings.simplefilter(
                "ignore"
            )  # a variable that scipy cannot read arrives as a string, refused later
            return scipy.io.loadmat(stream, variable_names=("X", "y"))
    except InputError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    except (
        Exception
    ) as error:  # damage surfaces as any of a dozen types, from zlib.error to UnicodeDecodeError
        raise InputError(f"{path}: damaged MATLAB file ({error!r}); fetch it again") from error


def _check_mat(path: Path, stream: BinaryIO) -> None:
    """A little-endian MATLAB 5 file, whole, with every variable compressed, as SVHN's are; rewinds
    the stream.

    zlib's checksum then reveals damage before scipy meets it: a wrong type in a bare variable's tag
    can make scipy's reader read outside its tables and end the process.
    """
    header = stream.read(128)
    if header[:10] != b"MATLAB 5.0" or header[124:] != b"\x00\x01IM":
        raise InputError(
            f"{path}: not a MATLAB 5.0 file; fetch it again, or save it from MATLAB with '-v7'"
        )
    end = stream.seek(0, os.SEEK_END)
    position = 128
    while position < end:
        stream.seek(position)
        kind, size = struct.unpack("<II", stream.read(8).ljust(8, b"\0"))
        if kind != _MAT_COMPRESSED:
            raise InputError(
                f"{path}: the variable at byte {position:,} is not compressed or its tag is "
                f"damaged; "
                "fetch the file again, or save it from MATLAB with '-v7'"
            )
        position += 8 + size
    if position != end:
        raise InputError(
            f"{path}: truncated: its variables take {position:,} bytes, there are {end:,}; fetch "
            f"it again"
        )
    stream.seek(0)
