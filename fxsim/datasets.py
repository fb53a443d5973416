"""Pictures to train on: the embedded digits, and readers for MNIST, CIFAR-10, CIFAR-100 and SVHN.

Every reader returns a `Dataset` of uint8 pixels `(N, H, W, C)` and uint8 labels `(N,)`.  It checks sizes
and labels before it hands anything out and unpickles nothing; what is wrong with a file is told in
one InputError that names it.  Where a set comes without a test set, its last fifth (rounded up) is one.
"""
from __future__ import annotations

import gzip
import importlib.resources
import math
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np

from fxsim.errors import InputError, choice

_CHUNK_BYTES = 1 << 20
_MAT_COMPRESSED = 15
_IDX_NAME = re.compile(r"(?P<prefix>.*)(?P<kind>images[-.]idx3|labels[-.]idx1)-ubyte(\.gz)?")

Pictures = tuple[np.ndarray, np.ndarray]
"""Pixels `(N, H, W, C)` and labels `(N,)`, both uint8."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Pictures and labels, split into a training and a test set.

    train_images, test_images: `(N, H, W, C)` uint8 pixels in 0..pixel_max, where pixel_max stands for 1.0.
    train_labels, test_labels: `(N,)` uint8 in 0..classes-1.
    Raises TypeError where an array is not uint8, InputError where shapes, labels or pixels do not fit.
    """

    name: str
    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    classes: int
    pixel_max: int = 255

    def __post_init__(self):
        if not 1 <= self.classes <= 256:
            raise InputError(f"dataset {self.name!r}: classes must be 1 to 256, got {self.classes}")
        if not 1 <= self.pixel_max <= 255:
            raise InputError(f"dataset {self.name!r}: pixel_max must be 1 to 255, got {self.pixel_max}")
        _check_pictures(f"dataset {self.name!r}: train", self.train_images, self.train_labels, self)
        _check_pictures(f"dataset {self.name!r}: test", self.test_images, self.test_labels, self)
        if self.test_images.shape[1:] != self.image_shape:
            raise InputError(f"dataset {self.name!r}: test_images are {self.test_images.shape[1:]}, "
                             f"train_images {self.image_shape}; give both one (H, W, C)")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of one picture, the input shape that a network needs."""
        return self.train_images.shape[1:]


def _check_pictures(where: str, images: np.ndarray, labels: np.ndarray, dataset: Dataset) -> None:
    for name, array in (("images", images), ("labels", labels)):
        if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
            kind = getattr(array, "dtype", type(array).__name__)
            raise TypeError(f"{where}_{name} must be a NumPy array of uint8, got {kind}")
    if images.ndim != 4 or not images.size:
        raise InputError(f"{where}_images must be (N, H, W, C) and not empty, got {images.shape}")
    if labels.shape != images.shape[:1]:
        raise InputError(f"{where}_labels must be one for each of {len(images):,} pictures, got {labels.shape}")
    _check_labels(f"{where}_labels", labels, dataset.classes)
    if images.max() > dataset.pixel_max:
        index = np.argmax(images.max(axis=(1, 2, 3)) > dataset.pixel_max)
        raise InputError(f"{where}_images: picture {index:,} has pixel {images[index].max()}, above "
                         f"pixel_max {dataset.pixel_max}; scale the pixels or raise pixel_max")


def _check_labels(where: str, labels: np.ndarray, classes: int, first: int = 0, name: str = "label") -> None:
    """Each label is a whole number in first..first+classes-1; NaN is not."""
    wrong = ~np.isin(labels, np.arange(first, first + classes))
    if wrong.any():
        index = np.argmax(wrong)
        raise InputError(f"{where}: record {index:,} has {name} {labels[index]}, outside {first} to "
                         f"{first + classes - 1}; the file is damaged or of another data set")


def digits() -> Dataset:
    """The UCI handwritten digits inside the package: 1,797 pictures of 8x8, pixels 0..16, 10 classes.

    Rows 0..1436 of the file train, rows 1437..1796 (the last fifth, 360 pictures) test.  Source: E. Alpaydin
    and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; see data/README.md.
    """
    resource = importlib.resources.files("fxsim") / "data" / "digits.csv.gz"
    with resource.open("rb") as packed, gzip.open(packed, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    images = np.ascontiguousarray(rows[:, :64]).reshape(-1, 8, 8, 1)
    train, test = _split_last_fifth(images, rows[:, 64].copy())
    return Dataset("digits", *train, *test, classes=10, pixel_max=16)


def _split_last_fifth(images: np.ndarray, labels: np.ndarray) -> tuple[Pictures, Pictures]:
    cut = len(labels) - math.ceil(len(labels) / 5)
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])


def read_idx(path: str | Path, dimensions: int) -> np.ndarray:
    """The uint8 array of an IDX file (plain, or gzip where the name ends in .gz) with that many dimensions.

    Raises InputError on a wrong magic number, an empty shape, too few or too many bytes, damaged gzip.
    Source: Y. LeCun, C. Cortes and C. Burges, the MNIST database, "File formats".
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            shape = _idx_shape(path, stream.read(4 + 4 * dimensions), dimensions)
            content = _read_past(stream, math.prod(shape))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: damaged gzip file ({error}); fetch it again") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    size = math.prod(shape)
    if len(content) != size:
        got = f"truncated: {len(content):,}" if len(content) < size else f"oversized: more than {size:,}"
        raise InputError(f"{path}: {got} bytes follow a header whose shape {shape} takes {size:,}; fetch it again")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _idx_shape(path: Path, header: bytes, dimensions: int) -> tuple[int, ...]:
    magic = bytes((0, 0, 8, dimensions))
    if header[:4] != magic:
        raise InputError(f"{path}: wrong magic number: got 0x{header[:4].hex()}, wanted 0x{magic.hex()} "
                         f"(IDX, unsigned bytes, {dimensions} dimensions); is it the right file?")
    if len(header) < 4 + 4 * dimensions:
        raise InputError(f"{path}: truncated: the header is {4 + 4 * dimensions} bytes, there are {len(header)}; "
                         "fetch it again")
    shape = tuple(int(size) for size in np.frombuffer(header, ">u4", offset=4))
    if 0 in shape:
        raise InputError(f"{path}: the header's shape {shape} is empty; fetch it again")
    return shape


def _read_past(stream: BinaryIO, size: int) -> bytearray:
    """All bytes up to the end, or some more than `size`: a false header or archive cannot fill the memory."""
    content = bytearray()
    while len(content) <= size and (chunk := stream.read(_CHUNK_BYTES)):
        content += chunk
    return content


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path}: cannot be read ({error.strerror or error}); check the path and its permissions")


def _read_mnist(images_path: Path, labels_path: Path) -> Pictures:
    images = read_idx(images_path, 3)
    if images.shape[1:] != (28, 28):
        raise InputError(f"{images_path}: pictures are {images.shape[1]}x{images.shape[2]}, MNIST's are 28x28; "
                         "read other IDX files with read_idx and build a Dataset")
    labels = read_idx(labels_path, 1)
    if len(labels) != len(images):
        raise InputError(f"{labels_path}: {len(labels):,} labels for the {len(images):,} pictures of "
                         f"{images_path.name}; take both files from one source")
    _check_labels(str(labels_path), labels, classes=10)
    return images[..., np.newaxis], labels


def _read_cifar(path: Path, label_bytes: dict[str, int]) -> Pictures:
    """Records of label bytes (name: classes; the last one counts), then R, G and B planes of 32x32."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    record = len(label_bytes) + 3 * 32 * 32
    if not content or len(content) % record:
        raise InputError(f"{path}: truncated: {len(content):,} bytes is not a multiple of {record:,}, the size of "
                         "a record; fetch it again, in the binary version")
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    for column, (name, classes) in enumerate(label_bytes.items()):
        _check_labels(str(path), records[:, column], classes, name=name)
    planes = records[:, len(label_bytes):].reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), records[:, len(label_bytes) - 1].copy()


def _read_svhn(path: Path) -> Pictures:
    variables = _load_mat(path)
    for name in ("X", "y"):
        if not isinstance(variables.get(name), np.ndarray):
            raise InputError(f"{path}: has no array {name!r}; wanted SVHN's cropped digits (format 2)")
    images, labels = variables["X"], variables["y"]
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3) or not images.size:
        raise InputError(f"{path}: X is {images.dtype} {images.shape}, wanted uint8 (32, 32, 3, N); "
                         "fetch SVHN's cropped digits (format 2)")
    if labels.dtype.kind not in "uif" or labels.shape != (images.shape[3], 1):
        raise InputError(f"{path}: y is {labels.dtype} {labels.shape}, wanted numbers ({images.shape[3]}, 1), "
                         "a label for each picture; fetch the file again")
    labels = labels[:, 0]
    _check_labels(str(path), labels, classes=10, first=1)
    return np.ascontiguousarray(images.transpose(3, 0, 1, 2)), (labels % 10).astype(np.uint8)


def _load_mat(path: Path) -> dict:
    import scipy.io  # here, because `import fxsim` should not pay for a reader that few runs need

    try:
        with path.open("rb") as stream, warnings.catch_warnings():
            _check_mat(path, stream)
            warnings.simplefilter("ignore")  # a variable that scipy cannot read arrives as a string, refused later
            return scipy.io.loadmat(stream, variable_names=("X", "y"))
    except InputError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    except Exception as error:  # damage surfaces as any of a dozen types, from zlib.error to UnicodeDecodeError
        raise InputError(f"{path}: damaged MATLAB file ({error!r}); fetch it again") from error


def _check_mat(path: Path, stream: BinaryIO) -> None:
    """A little-endian MATLAB 5 file, whole, with every variable compressed, as SVHN's are; rewinds the stream.

    zlib's checksum then reveals damage before scipy meets it: a wrong type in a bare variable's tag can make
    scipy's reader read outside its tables and end the process.
    """
    header = stream.read(128)
    if header[:10] != b"MATLAB 5.0" or header[124:] != b"\x00\x01IM":
        raise InputError(f"{path}: not a MATLAB 5.0 file; fetch it again, or save it from MATLAB with '-v7'")
    end = stream.seek(0, os.SEEK_END)
    position = 128
    while position < end:
        stream.seek(position)
        kind, size = struct.unpack("<II", stream.read(8).ljust(8, b"\0"))
        if kind != _MAT_COMPRESSED:
            raise InputError(f"{path}: the variable at byte {position:,} is not compressed or its tag is damaged; "
                             "fetch the file again, or save it from MATLAB with '-v7'")
        position += 8 + size
    if position != end:
        raise InputError(f"{path}: truncated: its variables take {position:,} bytes, there are {end:,}; fetch it again")
    stream.seek(0)


@dataclass(frozen=True)
class _Part:
    """Files that are read together, and what they hold: 'train', 'test' or 'train+test' (to be split)."""

    split: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Layout:
    """How a data set lies in a folder: `find` lists its parts (none if not there), `read` reads one."""

    classes: int
    wanted: str
    find: Callable[[Path], list[_Part]]
    read: Callable[..., Pictures]


def _find_named(folder: Path, train: tuple[str, ...], test: str, child: str = "") -> list[_Part]:
    for base in (folder, folder / child):
        parts = [_Part("train", (base / name,)) for name in train] + [_Part("test", (base / test,))]
        if any(file.exists() for part in parts for file in part.files):
            return parts
    return []


def _find_mnist(folder: Path) -> list[_Part]:
    pairs: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _IDX_NAME.fullmatch(path.name):
            pairs.setdefault(match["prefix"], {}).setdefault(match["kind"][:6], path)
    files = {prefix: tuple(pair.get(kind, folder / f"{prefix}{kind}-{idx}-ubyte")
                           for kind, idx in (("images", "idx3"), ("labels", "idx1")))
             for prefix, pair in pairs.items()}
    if {"train-", "t10k-"} <= files.keys():
        return [_Part("train", files["train-"]), _Part("test", files["t10k-"])]
    if len(files) > 1:
        names = ", ".join(repr(prefix) for prefix in files)
        raise InputError(f"{folder}: IDX files with the prefixes {names}; leave one pair or name two train- and t10k-")
    return [_Part("train+test", pair) for pair in files.values()]


_LAYOUTS = {
    "mnist": _Layout(
        10, "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k (or one such pair), plain or .gz",
        _find_mnist, _read_mnist),
    "cifar10": _Layout(
        10, "data_batch_1.bin to data_batch_5.bin and test_batch.bin (the binary version), or cifar-10-batches-bin",
        partial(_find_named, train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)), test="test_batch.bin",
                child="cifar-10-batches-bin"),
        partial(_read_cifar, label_bytes={"label": 10})),
    "cifar100": _Layout(
        100, "train.bin and test.bin (the binary version), or cifar-100-binary",
        partial(_find_named, train=("train.bin",), test="test.bin", child="cifar-100-binary"),
        partial(_read_cifar, label_bytes={"coarse label": 20, "fine label": 100})),
    "svhn": _Layout(
        10, "train_32x32.mat and test_32x32.mat (cropped digits, format 2)",
        partial(_find_named, train=("train_32x32.mat",), test="test_32x32.mat"),
        _read_svhn),
}

NAMES = ("digits", *_LAYOUTS)
"""The data sets that `load` knows."""


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """The data set of that name; all but the embedded digits are read from `folder`.

    Raises InputError where the name is unknown, the folder is missing, or a file is missing or wrong.
    """
    if choice("dataset", name, NAMES) != "digits":
        return _load_folder(name, folder)
    if folder is not None:
        raise InputError(f"dataset 'digits' is inside the package and reads no folder, got {str(folder)!r}; "
                         f"leave the folder out or choose from {', '.join(_LAYOUTS)}")
    return digits()


def mnist(folder: str | Path) -> Dataset:
    """MNIST from IDX files, plain or .gz: 28x28x1, 10 classes.

    Takes the train- and t10k- pairs under their usual names (`-idx3-ubyte` or `.idx3-ubyte`).  Where the folder
    has only one pair of images and labels, under any prefix, the last fifth of it (rounded up) is the test set.
    """
    return _load_folder("mnist", folder)


def cifar10(folder: str | Path) -> Dataset:
    """CIFAR-10 from its binary version, in the folder or its cifar-10-batches-bin: 32x32x3, 10 classes."""
    return _load_folder("cifar10", folder)


def cifar100(folder: str | Path) -> Dataset:
    """CIFAR-100 from its binary version, in the folder or its cifar-100-binary: 32x32x3, the 100 fine classes."""
    return _load_folder("cifar100", folder)


def svhn(folder: str | Path) -> Dataset:
    """SVHN's cropped digits (format 2, MATLAB files): 32x32x3, 10 classes; the file's label 10 is the digit 0."""
    return _load_folder("svhn", folder)


def _load_folder(name: str, folder: str | Path | None) -> Dataset:
    layout = _LAYOUTS[name]
    if folder is None:
        raise InputError(f"dataset {name!r} needs a folder with {layout.wanted}")
    parts = _find_parts(layout, _existing(folder))
    if not parts:
        raise InputError(f"{folder}: holds no {name} files; wanted {layout.wanted}")
    pictures = [_read_part(layout, part) for part in parts]
    if parts[0].split == "train+test":
        pictures = _split_last_fifth(*pictures[0])
    *train, test = pictures
    images, labels = (np.concatenate(arrays) for arrays in zip(*train))
    return Dataset(name, images, labels, *test, classes=layout.classes)


def _existing(folder: str | Path) -> Path:
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; give the folder that holds the data set's files")
    return Path(folder)


def _find_parts(layout: _Layout, folder: Path) -> list[_Part]:
    try:
        return layout.find(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error


def _read_part(layout: _Layout, part: _Part) -> Pictures:
    for file in part.files:
        if not file.exists():
            raise InputError(f"{file}: missing; wanted {layout.wanted}")
    return layout.read(*part.files)


@dataclass(frozen=True)
class FileCheck:
    """What `describe` found: `records` pictures in `files`, or the `problem` with them (None where all is well).

    split: 'train', 'test', 'train+test' for a pair that is to be split; '' where that is not clear.
    """

    dataset: str
    split: str
    files: tuple[Path, ...]
    records: int = 0
    problem: str | None = None


def describe(folder: str | Path) -> list[FileCheck]:
    """The data sets that a folder holds, each file read and checked; MNIST's images and labels are checked as a pair.

    A data set is recognised by any one of its files; the ones then missing are listed as problems.
    Raises InputError where there is no such folder.
    """
    folder = _existing(folder)
    return [check for name in _LAYOUTS for check in _check_folder(name, folder)]


def _check_folder(name: str, folder: Path) -> list[FileCheck]:
    layout = _LAYOUTS[name]
    try:
        parts = _find_parts(layout, folder)
    except InputError as error:
        return [FileCheck(name, "", (folder,), problem=str(error))]
    return [_check_part(name, layout, part) for part in parts]


def _check_part(name: str, layout: _Layout, part: _Part) -> FileCheck:
    try:
        _, labels = _read_part(layout, part)
    except InputError as error:
        return FileCheck(name, part.split, part.files, problem=str(error))
    return FileCheck(name, part.split, part.files, len(labels))
