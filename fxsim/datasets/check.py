"""The files of the data sets in a folder, each read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fxsim.datasets.dataset import split_last_fifth
from fxsim.datasets.folder import LAYOUTS, NAMES, OWN, existing, find_parts, read_part
from fxsim.datasets.layout import Layout, Part
from fxsim.datasets.png import class_names
from fxsim.errors import InputError, choice


@dataclass(frozen=True)
class FileCheck:
    """What `describe` found: `records` images in `files`, or the `problem` with them (None where
    all is well).

    split: 'train', 'test', 'train+test' for a pair that is to be split; '' where that is not clear.
    shape: (H, W, C).  pixels: the least and the greatest.  classes: 'train' and 'test' -> images
    of each class.  class_names: of a folder of PNG files, class 0 first.  target_shape: of the
    targets of one image, () without targets.
    """

    dataset: str
    split: str
    files: tuple[Path, ...]
    records: int = 0
    shape: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    target_shape: tuple[int, ...] = ()
    problem: str | None = None


def describe(folder: str | Path, dataset: str | None = None) -> list[FileCheck]:
    """The data sets that a folder holds, or that of one name; MNIST's images and labels are checked
    as a pair.

    A data set is recognised by any one of its files; the ones then missing are listed as problems.
    In a folder's place a file .npz is one of one's own, data set 'npz'; a folder with a folder
    `train` is one of PNG files, data set 'folder'.
    Raises InputError where there is no such folder.
    """
    if dataset is not None:
        choice("dataset", dataset, NAMES[1:])
    if dataset in OWN:
        return [_check_own(dataset, Path(folder))]
    if dataset is None and Path(folder).suffix == ".npz":
        return [_check_own("npz", Path(folder))]
    folder = existing(folder)
    if dataset is not None:
        return _check_folder(dataset, folder)
    checks = [check for name in LAYOUTS for check in _check_folder(name, folder)]
    if (folder / "train").is_dir():
        checks.append(_check_own("folder", folder))
    return checks


def _check_own(name: str, path: Path) -> FileCheck:
    files = (path / "train", path / "test") if name == "folder" else (path,)
    try:
        dataset = OWN[name][1](path)
    except InputError as error:
        return FileCheck(name, "", files, problem=str(error))
    images = dataset.train_images, dataset.test_images
    labels = {"train": dataset.train_labels, "test": dataset.test_labels}
    return FileCheck(
        name,
        "train+test",
        files,
        sum(map(len, images)),
        dataset.image_shape,
        (int(min(own.min() for own in images)), int(max(own.max() for own in images))),
        {split: _class_counts(own, dataset.classes) for split, own in labels.items()},
        class_names(path) if name == "folder" else (),
        dataset.target_shape,
    )


def _class_counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=classes).tolist())


def _check_folder(name: str, folder: Path) -> list[FileCheck]:
    layout = LAYOUTS[name]
    try:
        parts = find_parts(layout, folder)
    except InputError as error:
        return [FileCheck(name, "", (folder,), problem=str(error))]
    return [_check_part(name, layout, part) for part in parts]


def _check_part(name: str, layout: Layout, part: Part) -> FileCheck:
    try:
        images, labels = read_part(layout, part)
    except InputError as error:
        return FileCheck(name, part.split, part.files, problem=str(error))
    sets = {part.split: labels}
    if part.split == "train+test":
        (_, train), (_, test) = split_last_fifth(images, labels)
        sets = {"train": train, "test": test}
    classes = {split: _class_counts(own, layout.classes) for split, own in sets.items()}
    return FileCheck(
        name,
        part.split,
        part.files,
        len(labels),
        images.shape[1:],
        (int(images.min()), int(images.max())),
        classes,
    )
