"""Data sets read from a folder."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from fxsim.datasets.cifar import read_cifar
from fxsim.datasets.dataset import Dataset, Images, split_last_fifth
from fxsim.datasets.embedded import digits
from fxsim.datasets.idx import find_mnist, read_mnist
from fxsim.datasets.layout import Layout, Part, find_named
from fxsim.datasets.mat import read_svhn
from fxsim.datasets.npz import WANTED as WANTED_IN_NPZ
from fxsim.datasets.npz import read_npz
from fxsim.datasets.png import WANTED as WANTED_PNG
from fxsim.datasets.png import read_folder
from fxsim.errors import InputError, choice
from fxsim.files import unreadable

LAYOUTS = {
    "mnist": Layout(
        10,
        "train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k (or one such pair), "
        "plain or .gz",
        (60_000, 10_000),
        find_mnist,
        read_mnist,
    ),
    "cifar10": Layout(
        10,
        "data_batch_1.bin to data_batch_5.bin and test_batch.bin (the binary version), or "
        "cifar-10-batches-bin",
        (50_000, 10_000),
        partial(
            find_named,
            train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
            test="test_batch.bin",
            child="cifar-10-batches-bin",
        ),
        partial(read_cifar, label_bytes={"label": 10}),
    ),
    "cifar100": Layout(
        100,
        "train.bin and test.bin (the binary version), or cifar-100-binary",
        (50_000, 10_000),
        partial(find_named, train=("train.bin",), test="test.bin", child="cifar-100-binary"),
        partial(read_cifar, label_bytes={"coarse label": 20, "fine label": 100}),
    ),
    "svhn": Layout(
        10,
        "train_32x32.mat and test_32x32.mat (cropped digits, format 2)",
        (73_257, 26_032),
        partial(find_named, train=("train_32x32.mat",), test="test_32x32.mat"),
        read_svhn,
    ),
}

OWN: dict[str, tuple[str, Callable[[str | Path], Dataset]]] = {
    "npz": (f"a file with {WANTED_IN_NPZ}", read_npz),
    "folder": (f"a folder with {WANTED_PNG}", read_folder),
}
"""Data sets of one's own: what is wanted, and what reads it."""

NAMES = ("digits", *LAYOUTS, *OWN)
"""The data sets that `load` knows."""


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """The data set of that name; all but the embedded digits are read from `folder`.

    For 'npz' it is a file of one's own, see read_npz; for 'folder' a folder of PNG files, see
    read_folder.
    Raises InputError where the name is unknown, the folder is missing, or a file is missing or
    wrong.
    """
    if choice("dataset", name, NAMES) in OWN:
        wanted, read = OWN[name]
        if folder is None:
            raise InputError(f"dataset {name!r} needs {wanted}")
        return read(folder)
    if name != "digits":
        return _load_folder(name, folder)
    if folder is not None:
        raise InputError(
            f"dataset 'digits' is inside the package and reads no folder, got {str(folder)!r}; "
            f"leave the folder out or choose from {', '.join(NAMES[1:])}"
        )
    return digits()


def mnist(folder: str | Path) -> Dataset:
    """MNIST from IDX files, plain or .gz: 28x28x1, 10 classes.

    Takes the train- and t10k- pairs under their usual names (`-idx3-ubyte` or `.idx3-ubyte`).
    Where the folder has only one pair of images and labels, under any prefix, the last fifth of it
    (rounded up) is the test set.
    """
    return _load_folder("mnist", folder)


def cifar10(folder: str | Path) -> Dataset:
    """CIFAR-10 from its binary version, in the folder or its cifar-10-batches-bin.

    32x32x3, 10 classes.
    """
    return _load_folder("cifar10", folder)


def cifar100(folder: str | Path) -> Dataset:
    """CIFAR-100 from its binary version, in the folder or its cifar-100-binary.

    32x32x3, the 100 fine classes.
    """
    return _load_folder("cifar100", folder)


def svhn(folder: str | Path) -> Dataset:
    """SVHN's cropped digits (format 2, MATLAB files).

    32x32x3, 10 classes; the file's label 10 is the digit 0.
    """
    return _load_folder("svhn", folder)


def _load_folder(name: str, folder: str | Path | None) -> Dataset:
    layout = LAYOUTS[name]
    if folder is None:
        raise InputError(f"dataset {name!r} needs a folder with {layout.wanted}")
    parts = find_parts(layout, existing(folder))
    if not parts:
        raise InputError(f"{folder}: holds no {name} files; wanted {layout.wanted}")
    sets = [read_part(layout, part) for part in parts]
    if parts[0].split == "train+test":
        sets = list(split_last_fifth(*sets[0]))
    *train, test = sets
    images, labels = (np.concatenate(arrays) for arrays in zip(*train))
    return Dataset(name, images, labels, *test, classes=layout.classes)


def existing(folder: str | Path) -> Path:
    """The path of a folder that is there; else InputError."""
    if not Path(folder).is_dir():
        raise InputError(
            f"{folder}: no such folder; give the folder that holds the data set's files"
        )
    return Path(folder)


def find_parts(layout: Layout, folder: Path) -> list[Part]:
    """The parts of a data set in `folder`, none where it is not there.

    InputError where they are not clear.
    """
    try:
        return layout.find(folder)
    except OSError as error:
        raise unreadable(folder, error) from None


def read_part(layout: Layout, part: Part) -> Images:
    """The images of one part; InputError where a file is missing or wrong."""
    for file in part.files:
        if not file.exists():
            raise InputError(f"{file}: missing; wanted {layout.wanted}")
    return layout.read(*part.files)
