"""Images of one's own as PNG files, one folder for each class; Pillow reads them."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fxsim.datasets.dataset import Dataset, Images
from fxsim.errors import InputError, refused, shown
from fxsim.files import MOST_BYTES, read_bytes, unreadable

WANTED = "train/CLASS/*.png and test/CLASS/*.png, of one size and one kind, grey or RGB"

MOST_CLASSES = 256
MOST_FILE = 2**26
"""A file has at most so many bytes."""
MOST_SIDE = 2**12
"""Rows or columns of an image, at most."""


class Kind(NamedTuple):
    """A kind of PNG: its name, its channels, the type of its pixels, and their maximum."""

    name: str
    channels: int
    dtype: str
    pixel_max: int


KINDS = {
    (8, 0): Kind("grey of 8 bits", 1, "uint8", 255),
    (16, 0): Kind("grey of 16 bits", 1, "uint16", 65535),
    (8, 2): Kind("RGB of 8 bits", 3, "uint8", 255),
}
"""(bits of a sample, colour type in the header) -> what is read; see the PNG specification."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEADER = struct.Struct(">8sI4sIIBB")


class Header(NamedTuple):
    """Width, height and kind of an image, from the first bytes of its file."""

    width: int
    height: int
    kind: Kind

    def __str__(self) -> str:
        return f"{self.width}x{self.height}, {self.kind.name}"


def read_folder(folder: str | Path) -> Dataset:
    """The data set in a folder of PNG files.

    `train/CLASS/NAME.png` and `test/CLASS/NAME.png`.  The classes are the folders in `train`, in
    the order of their names as Python sorts texts: '10' before '2', 'B' before 'a'.  All images
    have one size and one kind: grey of 8 or 16 bits, or RGB of 8 bits, without transparency, and
    nothing else is in the folders but names that begin with a dot.  The files of a class follow in
    the order of their names, spread evenly over the set, so that its last tenth has all classes.

    Raises:
        InputError: Pillow is missing, or a folder or a file is none of these; the message names it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{folder}: no such folder; give the folder with {WANTED}")
    _pillow()
    classes = class_names(root)
    found = {split: _files(root / split, classes) for split in ("train", "test")}
    header = _header(found["train"][0][0])
    elements = header.width * header.height * header.kind.channels
    size = elements * sum(map(len, found.values())) * np.dtype(header.kind.dtype).itemsize
    if size > MOST_BYTES:
        raise InputError(
            f"{folder}: its images have {size:,} bytes, at most {MOST_BYTES:,} are read; leave some "
            f"out"
        )
    train, test = (_images(files, header) for files in found.values())
    return Dataset(
        root.resolve().name or "folder",
        *train,
        *test,
        classes=len(classes),
        pixel_max=header.kind.pixel_max,
    )


def class_names(folder: Path) -> tuple[str, ...]:
    """The classes of a folder of PNG files, class 0 first."""
    names = tuple(path.name for path in _folders(folder / "train"))
    if not 1 <= len(names) <= MOST_CLASSES:
        raise InputError(
            f"{folder / 'train'}: has folders of {len(names)} classes, 1 to {MOST_CLASSES} can be; "
            f"wanted {WANTED}"
        )
    return names


def _listed(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name; hidden files are left out."""
    try:
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except FileNotFoundError:
        raise InputError(f"{folder}: no such folder; wanted {WANTED}") from None
    except OSError as error:
        raise unreadable(folder, error) from None
    return sorted(paths, key=lambda path: path.name)


def _folders(folder: Path) -> list[Path]:
    paths = _listed(folder)
    for path in paths:
        if not path.is_dir():
            raise InputError(f"{path}: is no folder of a class; move it away (wanted {WANTED})")
    return paths


def _files(folder: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    """(file, class) of a split, the files of each class spread evenly."""
    placed = []
    for path in _folders(folder):
        if path.name not in classes:
            raise InputError(f"{path}: is no class of train; the classes are those of train/")
        files = _listed(path)
        if not files:
            raise InputError(f"{path}: holds no image; fill it, or remove it")
        for index, file in enumerate(files):
            if file.suffix.lower() != ".png":
                raise InputError(f"{file}: is no .png; move it away (wanted {WANTED})")
            label = classes.index(path.name)
            placed.append(((2 * index + 1) / (2 * len(files)), label, file))
    if not placed:
        raise InputError(f"{folder}: holds no image; wanted {WANTED}")
    return [(file, label) for _, label, file in sorted(placed)]


def _images(files: Sequence[tuple[Path, int]], header: Header) -> Images:
    shape = (len(files), header.height, header.width, header.kind.channels)
    pixels = np.empty(shape, header.kind.dtype)
    for place, (file, _) in enumerate(files):
        pixels[place] = _pixels(file, header)
    return pixels, np.array([label for _, label in files], np.uint8)


def _header(path: Path) -> Header:
    return _parsed(path, read_bytes(path, MOST_FILE))


def _parsed(path: Path, data: bytes) -> Header:
    """The header of a file; nothing is decoded before it is checked."""
    if len(data) < _HEADER.size or data[:8] != _SIGNATURE:
        raise InputError(f"{path}: is no PNG; write it as one")
    _, length, chunk, width, height, bits, colour = _HEADER.unpack_from(data)
    if (length, chunk) != (13, b"IHDR"):
        raise InputError(f"{path}: is no PNG, or is damaged; write it again")
    kind = KINDS.get((bits, colour))
    if kind is None:
        raise InputError(
            f"{path}: has colour type {colour} of {bits} bits (a palette, transparency or another "
            f"depth); convert it to grey of 8 or 16 bits or to RGB of 8 bits"
        )
    if not (1 <= width <= MOST_SIDE and 1 <= height <= MOST_SIDE):
        raise InputError(f"{path}: is {width}x{height}, at most {MOST_SIDE}x{MOST_SIDE} is read")
    return Header(width, height, kind)


def _pixels(path: Path, wanted: Header) -> np.ndarray:
    """(H, W, C) pixels of an image of that header."""
    data = read_bytes(path, MOST_FILE)
    found = _parsed(path, data)
    if found != wanted:
        raise InputError(f"{path}: is {found}, and others are {wanted}; give all one size and kind")

    def told(text: str) -> InputError:
        return InputError(f"{path}: is damaged ({shown(text)}); write it again")

    with refused(told), _pillow().open(io.BytesIO(data), formats=["PNG"]) as image:
        image.load()
        plain = "transparency" not in image.info and not getattr(image, "is_animated", False)
        pixels = np.asarray(image)
    if not plain:
        raise InputError(f"{path}: has transparency or several frames; write it without")
    shape = (wanted.height, wanted.width, wanted.kind.channels)
    return pixels.astype(wanted.kind.dtype).reshape(shape)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ModuleNotFoundError:
        raise InputError(
            "dataset 'folder' needs Pillow to read PNG files; python -m pip install pillow"
        ) from None
    return Image
