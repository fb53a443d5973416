"""IDX files, the format of MNIST."""

from __future__ import annotations

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fxsim.datasets.dataset import Images, check_labels
from fxsim.datasets.layout import Part
from fxsim.errors import InputError
from fxsim.files import MOST_BYTES, MOST_INFLATED, open_regular

_CHUNK_BYTES = 1 << 20
_IDX_NAME = re.compile(r"(?P<prefix>.*)(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file (plain, or gzip where the name ends in .gz) with that many
    dimensions.

    Raises InputError on a wrong magic number, an empty shape, too few or too many bytes, damaged
    gzip. Source: Y. LeCun, C. Cortes and C. Burges, the MNIST database, "File formats".
    """
    path = Path(path)
    with open_regular(path) as file:
        if path.suffix != ".gz":
            return _read_idx(path, file, dimensions, MOST_BYTES)
        try:
            with gzip.GzipFile(fileobj=file) as unpacked:
                return _read_idx(path, unpacked, dimensions, MOST_INFLATED)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path}: damaged gzip file ({error}); fetch it again") from None


def _read_idx(
    path: Path, stream: BinaryIO | gzip.GzipFile, dimensions: int, most: int
) -> np.ndarray:
    shape = _idx_shape(path, stream.read(4 + 4 * dimensions), dimensions)
    size = math.prod(shape)
    if size > most:
        way_out = "gunzip it" if most == MOST_INFLATED else "is it the right file?"
        raise InputError(
            f"{path}: the header's shape {shape} takes {size:,} bytes, more than the {most:,} that "
            f"are read; {way_out}"
        )
    content = _read_past(stream, size)
    if len(content) != size:
        got = (
            f"truncated: {len(content):,}"
            if len(content) < size
            else f"oversized: more than {size:,}"
        )
        raise InputError(
            f"{path}: {got} bytes follow a header whose shape {shape} takes {size:,}; fetch it "
            f"again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes((0, 0, 8, dimensions))
    if header[:4] != magic:
        raise InputError(
            f"{path}: wrong magic number: got 0x{header[:4].hex()}, wanted 0x{magic.hex()} "
            f"(IDX, unsigned bytes, {dimensions} dimensions); is it the right file?"
        )
    if len(header) < 4 + 4 * dimensions:
        raise InputError(
            f"{path}: truncated: the header is {4 + 4 * dimensions} bytes, there are "
            f"{len(header)}; "
            "fetch it again"
        )
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if 0 in shape:
        raise InputError(f"{path}: the header's shape {shape} is empty; fetch it again")
    return shape


def _read_past(stream: BinaryIO | gzip.GzipFile, size: int) -> bytearray:
    """All bytes up to the end, or some more than `size`.

    A false header or archive cannot fill the memory.
    """
    content = bytearray()
    while len(content) <= size and (chunk := stream.read(_CHUNK_BYTES)):
        content += chunk
    return content


def read_mnist(images_path: Path, labels_path: Path) -> Images:
    """Images (N, 28, 28, 1) and labels of a pair of IDX files."""
    images = read_idx(images_path, 3)
    if images.shape[1:] != (28, 28):
        raise InputError(
            f"{images_path}: images are {images.shape[1]}x{images.shape[2]}, MNIST's are 28x28; "
            "read other IDX files with read_idx and build a Dataset"
        )
    labels = read_idx(labels_path, 1)
    if len(labels) != len(images):
        raise InputError(
            f"{labels_path}: {len(labels):,} labels for the {len(images):,} images of "
            f"{images_path.name}; take both files from one source"
        )
    check_labels(str(labels_path), labels, classes=10)
    return images[..., np.newaxis], labels


def find_mnist(folder: Path) -> list[Part]:
    """The train- and t10k- pairs, or the one pair that there is."""
    pairs: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _IDX_NAME.fullmatch(path.name):
            pairs.setdefault(match["prefix"], {}).setdefault(match["kind"][:6], path)
    files = {
        prefix: tuple(
            pair.get(kind, folder / f"{prefix}{kind}-{idx}-ubyte")
            for kind, idx in (("images", "idx3"), ("labels", "idx1"))
        )
        for prefix, pair in pairs.items()
    }
    if {"train-", "t10k-"} <= files.keys():
        return [Part("train", files["train-"]), Part("test", files["t10k-"])]
    if len(files) > 1:
        names = ", ".join(repr(prefix) for prefix in files)
        raise InputError(
            f"{folder}: IDX files with the prefixes {names}; leave one pair or name two train- and "
            f"t10k-"
        )
    return [Part("train+test", pair) for pair in files.values()]
