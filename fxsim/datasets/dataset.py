"""Dataset: images and labels, checked."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fxsim.arrays import frozen
from fxsim.errors import InputError, present, shown
from fxsim.fields import check_fields
from fxsim.files import write_arrays

Images = tuple[np.ndarray, np.ndarray]
"""Pixels `(N, H, W, C)`, uint8 or uint16, and labels `(N,)`, uint8."""

ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
TARGETS = ("train_targets", "test_targets")
MAX_PIXEL = 2**16 - 1
"""The greatest pixel_max."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels, split into a training and a test set.

    train_images, test_images: `(N, H, W, C)` pixels, uint8 or uint16, in 0..pixel_max, where
    pixel_max stands for 1.0. train_labels, test_labels: `(N,)` uint8 in 0..classes-1.
    train_targets, test_targets: None, or real numbers `(N, ...)`, float32 or float64, that the
    outputs of a network with targets = "tensors" are compared with, in the place of the images;
    their labels may all be 0.  Arrays that somebody could write into are copied.
    Raises TypeError where an array has another type, InputError where shapes, labels or pixels do
    not fit.
    """

    name: str
    train_images: np.ndarray = field(repr=False)
    train_labels: np.ndarray = field(repr=False)
    test_images: np.ndarray = field(repr=False)
    test_labels: np.ndarray = field(repr=False)
    classes: int
    pixel_max: int = 255
    train_targets: np.ndarray | None = field(default=None, repr=False)
    test_targets: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        where = f"dataset {shown(self.name)}:"
        check_fields(self, where)
        if not 1 <= self.classes <= 256:
            raise InputError(f"{where} classes must be 1 to 256, got {shown(self.classes)}")
        if not 1 <= self.pixel_max <= MAX_PIXEL:
            raise InputError(
                f"{where} pixel_max must be 1 to {MAX_PIXEL}, got {shown(self.pixel_max)}"
            )
        _check_images(f"{where} train", self.train_images, self.train_labels, self)
        _check_images(f"{where} test", self.test_images, self.test_labels, self)
        for name in ARRAYS:
            object.__setattr__(self, name, frozen(getattr(self, name)))
        if self.test_images.shape[1:] != self.image_shape:
            raise InputError(
                f"{where} test_images are {self.test_images.shape[1:]}, "
                f"train_images {self.image_shape}; give both one (H, W, C)"
            )
        if self.train_targets is not None or self.test_targets is not None:
            self._check_targets(where)

    def _check_targets(self, where: str) -> None:
        for split in ("train", "test"):
            name = f"{split}_targets"
            targets = getattr(self, name)
            if targets is None:
                raise InputError(f"{where} {name} is missing; give targets of both splits, or none")
            _check_targets(f"{where} {name}", targets, len(getattr(self, f"{split}_images")))
            object.__setattr__(self, name, frozen(targets))
        if self.target_shape != present(self.test_targets).shape[1:]:
            raise InputError(
                f"{where} test_targets are {present(self.test_targets).shape[1:]}, train_targets "
                f"{self.target_shape}; give both one shape"
            )

    @property
    def target_shape(self) -> tuple[int, ...]:
        """The shape of the targets of one image; () without targets."""
        return () if self.train_targets is None else self.train_targets.shape[1:]

    @property
    def train_wanted(self) -> np.ndarray:
        """What outputs are compared with: the targets, or the labels where there are none."""
        return self.train_labels if self.train_targets is None else self.train_targets

    @property
    def test_wanted(self) -> np.ndarray:
        """As train_wanted, of the test set."""
        return self.test_labels if self.test_targets is None else self.test_targets

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """`(H, W, C)` of one image, the input shape that a network needs."""
        return self.train_images.shape[1:]

    def save(self, path: str | Path) -> None:
        """Write the data set as an .npz of one's own, for `--dataset npz --data PATH`.

        The name is not kept: read_npz takes the file's.

        Raises:
            InputError: the name does not end in .npz, or the file cannot be written.

        Example:
            >>> import os, tempfile
            >>> images = np.zeros((4, 8, 8, 1), np.uint8)
            >>> labels = np.arange(4, dtype=np.uint8)
            >>> mine = Dataset("mine", images, labels, images, labels, classes=10)
            >>> mine.save(os.path.join(tempfile.mkdtemp(), "mine.npz"))
        """
        if Path(path).suffix != ".npz":
            raise InputError(f"path must end in .npz, got {shown(str(path))}; rename it")
        arrays = {name: getattr(self, name) for name in ARRAYS}
        if self.train_targets is not None:
            arrays |= {name: getattr(self, name) for name in TARGETS}
        numbers = {"classes": np.array(self.classes), "pixel_max": np.array(self.pixel_max)}
        write_arrays(path, arrays | numbers)


def _check_images(where: str, images: np.ndarray, labels: np.ndarray, dataset: Dataset) -> None:
    for name, array, types in (
        ("images", images, ("uint8", "uint16")),
        ("labels", labels, ("uint8",)),
    ):
        if isinstance(array, np.ma.MaskedArray) or array.dtype not in types:
            kind = type(array).__name__ if array.dtype in types else array.dtype
            raise TypeError(
                f"{where}_{name} must be a NumPy array of {' or '.join(types)}, got {kind}"
            )
    if images.ndim != 4 or not images.size:
        raise InputError(f"{where}_images must be (N, H, W, C) and not empty, got {images.shape}")
    if labels.shape != images.shape[:1]:
        raise InputError(
            f"{where}_labels must be one for each of {len(images):,} images, got {labels.shape}"
        )
    check_labels(f"{where}_labels", labels, dataset.classes)
    if images.max() > dataset.pixel_max:
        index = np.argmax(images.max(axis=(1, 2, 3)) > dataset.pixel_max)
        raise InputError(
            f"{where}_images: image {index:,} has pixel {images[index].max()}, above "
            f"pixel_max {dataset.pixel_max}; scale the pixels or raise pixel_max"
        )


def _check_targets(where: str, targets: np.ndarray, images: int) -> None:
    if isinstance(targets, np.ma.MaskedArray) or targets.dtype not in ("float32", "float64"):
        raise TypeError(f"{where} must be a NumPy array of float32 or float64, got {targets.dtype}")
    if targets.ndim < 2 or not targets.size or len(targets) != images:
        raise InputError(
            f"{where} must be ({images}, ...), an array for each image, got {targets.shape}"
        )
    if not np.isfinite(targets).all():
        raise InputError(f"{where} must be finite, and one is not; leave its image out")


def check_labels(
    where: str, labels: np.ndarray, classes: int, first: int = 0, name: str = "label"
) -> None:
    """InputError unless each label is a whole number in first..first+classes-1; NaN is not."""
    wrong = ~np.isin(labels, np.arange(first, first + classes))
    if wrong.any():
        index = np.argmax(wrong)
        raise InputError(
            f"{where}: record {index:,} has {name} {labels[index]}, outside {first} to "
            f"{first + classes - 1}; the file is damaged or of another data set"
        )


def split_last_fifth(images: np.ndarray, labels: np.ndarray) -> tuple[Images, Images]:
    """(training, test) set, the last fifth (rounded up) to test."""
    cut = len(labels) - math.ceil(len(labels) / 5)
    return (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
