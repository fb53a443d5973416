"""The files of the data sets in a folder, each read and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fxsim.datasets.dataset import split_last_fifth
from fxsim.datasets.folder import LAYOUTS, existing, find_parts, read_part
from fxsim.datasets.layout import Layout, Part
from fxsim.errors import InputError, choice


@dataclass(frozen=True)
class FileCheck:
    """What `describe` found: `records` images in `files`, or the `problem` with them (None where
    all is well).

    split: 'train', 'test', 'train+test' for a pair that is to be split; '' where that is not clear.
    shape: (H, W, C).  pixels: the least and the greatest.  classes: 'train' and 'test' -> images
    of each class.
    """

    dataset: str
    split: str
    files: tuple[Path, ...]
    records: int = 0
    shape: tuple[int, ...] = ()
    pixels: tuple[int, ...] = ()
    classes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    problem: str | None = None


def describe(folder: str | Path, dataset: str | None = None) -> list[FileCheck]:
    """The data sets that a folder holds, or that of one name; MNIST's images and labels are checked
    as a pair.

    A data set is recognised by any one of its files; the ones then missing are listed as problems.
    Raises InputError where there is no such folder.
    """
    names = LAYOUTS if dataset is None else [choice("dataset", dataset, LAYOUTS)]
    folder = existing(folder)
    return [check for name in names for check in _check_folder(name, folder)]


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
    classes = {
        split: tuple(np.bincount(own, minlength=layout.classes).tolist())
        for split, own in sets.items()
    }
    return FileCheck(
        name,
        part.split,
        part.files,
        len(labels),
        images.shape[1:],
        (int(images.min()), int(images.max())),
        classes,
    )
