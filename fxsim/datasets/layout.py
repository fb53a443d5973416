"""How a data set lies in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fxsim.datasets.dataset import Images


@dataclass(frozen=True)
class Part:
    """Files that are read together, and what they hold.

    'train', 'test' or 'train+test' (to be split).
    """

    split: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Layout:
    """How a data set lies in a folder: `find` lists its parts (none if not there), `read` reads
    one.

    wanted: names of its files.  published: images to train and to test in the set as its authors
    give it.
    """

    classes: int
    wanted: str
    published: tuple[int, int]
    find: Callable[[Path], list[Part]]
    read: Callable[..., Images]


def find_named(folder: Path, train: tuple[str, ...], test: str, child: str = "") -> list[Part]:
    """One part for each file, in the folder or its `child`."""
    for base in (folder, folder / child):
        parts = [Part("train", (base / name,)) for name in train] + [Part("test", (base / test,))]
        if any(file.exists() for part in parts for file in part.files):
            return parts
    return []
