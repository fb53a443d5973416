"""Images of one's own, in one .npz file as numpy.savez writes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fxsim.datasets.dataset import MAX_PIXEL, TARGETS, Dataset, split_last_fifth
from fxsim.errors import InputError, shown
from fxsim.fields import check_keys
from fxsim.files import read_arrays

WANTED = (
    "train_images (N, H, W, C) and train_labels (N,) or train_targets (N, ...), and the same of test, "
    "as numpy.savez writes them"
)
_NEEDED = ("train_images", "train_labels")
_OPTIONAL = ("test_images", "test_labels", *TARGETS, "pixel_max", "pixel_range", "classes")


def read_npz(path: str | Path) -> Dataset:
    """The data set in an .npz file of one's own.

    Its arrays:

    - `train_images`, `test_images`: `(N, H, W, C)`, of one type.  The network's input is x in
      [0, 1].
      Integers of up to 16 bits stand for x = p / pixel_max.
      Floats need `pixel_range`, [low, high]: x = (p - low) / (high - low), kept as the nearest
      multiple of 1 / 65535.
    - `train_labels`, `test_labels`: `(N,)`, integers from 0 on.
    - `train_targets`: floats `(N, ...)` that the outputs are compared with, for a network whose
      targets are tensors.  With them the labels may be left out.
    - `pixel_max`: the integer that stands for 1.0.  uint8 needs none: it is 255 then.
    - `classes`: their number; without it, the largest label and one.

    Without the arrays of tests, the last fifth of the training set (rounded up) is the test
    set.

    Raises:
        InputError: the file cannot be read, or an array is missing, unknown, or out of its range.

    Example:
        >>> import os, tempfile
        >>> images = np.arange(40, dtype=np.uint8).reshape(10, 2, 2, 1)
        >>> path = os.path.join(tempfile.mkdtemp(), "mine.npz")
        >>> np.savez(path, train_images=images, train_labels=np.arange(10) % 3, pixel_max=39)
        >>> mine = read_npz(path)
        >>> mine.name, mine.classes, mine.pixel_max, len(mine.train_labels), len(mine.test_labels)
        ('mine', 3, 39, 8, 2)
    """
    path = Path(path)
    arrays = read_arrays(path)
    try:
        needed = _NEEDED[:1] if "train_targets" in arrays else _NEEDED
        check_keys("the file", arrays, (*_NEEDED, *_OPTIONAL), needed)
        return _dataset(path.stem, arrays)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None


def _dataset(name: str, arrays: dict[str, np.ndarray]) -> Dataset:
    tests = [key for key in arrays if key.startswith("test_")]
    if len(tests) == 1:
        raise InputError(f"{tests[0]} stands alone; give test_images and test_labels, or neither")
    kinds = [key.removeprefix("train_") for key in arrays if key.startswith("train_")]
    if tests and {f"test_{kind}" for kind in kinds} != set(tests):
        raise InputError(
            f"tests have {', '.join(sorted(tests))}, and training {', '.join(sorted(kinds))}; give "
            f"both the same"
        )
    images = {key: array for key, array in arrays.items() if key.endswith("images")}
    pixels, pixel_max = _pixels(images, arrays.get("pixel_max"), arrays.get("pixel_range"))
    labels = {key: _labels(key, arrays[key]) for key in arrays if key.endswith("labels")}
    if not labels:
        labels = {
            key.replace("images", "labels"): np.zeros(len(own), np.uint8)
            for key, own in images.items()
        }
    targets = [arrays[key] for key in TARGETS if key in arrays]
    classes = 1 + max(int(own.max()) for own in labels.values())
    if "classes" in arrays:
        classes = _integer("classes", arrays["classes"])
    train = pixels["train_images"], labels["train_labels"]
    if len(train[0]) != len(train[1]):
        raise InputError(
            f"train_labels must be one for each of {len(train[0])} images, got {len(train[1])}"
        )
    if tests:
        test = pixels["test_images"], labels["test_labels"]
    else:
        train, test = split_last_fifth(*train)
        targets = [part for own in targets for part in (own[: len(train[1])], own[len(train[1]) :])]
    return Dataset(name, *train, *test, classes, pixel_max, *targets)


def _pixels(
    images: dict[str, np.ndarray], most: np.ndarray | None, ends: np.ndarray | None
) -> tuple[dict[str, np.ndarray], int]:
    """The images as uint8 or uint16, and their pixel_max."""
    for name, array in images.items():
        if array.ndim != 4 or not array.size:
            raise InputError(f"{name} must be (N, H, W, C) and not empty, got {array.shape}")
    types = {str(array.dtype) for array in images.values()}
    if len(types) != 1:
        raise InputError(f"images must be of one type, got {' and '.join(sorted(types))}")
    if images["train_images"].dtype.kind == "f":
        if most is not None:
            raise InputError("pixel_max is for integers and the images are floats; leave it out")
        if ends is None:
            raise InputError("images are floats and pixel_range is missing; add it, [low, high]")
        return {name: _from_floats(name, own, ends) for name, own in images.items()}, MAX_PIXEL
    if ends is not None:
        raise InputError("pixel_range is for floats and the images are integers; leave it out")
    kinds = {array.dtype.kind for array in images.values()}
    if not kinds <= {"i", "u"}:
        raise InputError(f"images must be integers or floats, got {types.pop()}")
    if most is None and types != {"uint8"}:
        raise InputError(
            f"images are {types.pop()} and pixel_max is missing; add the integer that is 1.0"
        )
    pixel_max = 255 if most is None else _integer("pixel_max", most)
    return {name: _from_integers(name, own, pixel_max) for name, own in images.items()}, pixel_max


def _from_integers(name: str, pixels: np.ndarray, pixel_max: int) -> np.ndarray:
    if not 1 <= pixel_max <= MAX_PIXEL:
        raise InputError(f"pixel_max must be 1 to {MAX_PIXEL}, got {shown(pixel_max)}")
    if not 0 <= int(pixels.min()) <= int(pixels.max()) <= pixel_max:
        raise InputError(
            f"{name} must lie in 0 to pixel_max, {pixel_max}, got {pixels.min()} to {pixels.max()}"
        )
    return pixels.astype(np.uint8 if pixel_max <= 255 else np.uint16)


def _from_floats(name: str, pixels: np.ndarray, ends: np.ndarray) -> np.ndarray:
    if ends.shape != (2,) or ends.dtype.kind not in "iuf" or not np.isfinite(ends).all():
        raise InputError("pixel_range must be two finite numbers, [low, high]")
    low, high = map(float, ends)
    if not 0 < high - low < np.inf:
        raise InputError(f"pixel_range must rise, by less than 2^1024, got [{low:g}, {high:g}]")
    if not ((pixels >= low) & (pixels <= high)).all():  # NaN does not
        raise InputError(
            f"{name} must lie in pixel_range, {low:g} to {high:g}, got {pixels.min():g} to "
            f"{pixels.max():g}"
        )
    share = (pixels.astype(np.float64) - low) / (high - low)
    return np.floor(share * MAX_PIXEL + 0.5).astype(np.uint16)


def _labels(name: str, labels: np.ndarray) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.ndim != 1 or not labels.size:
        raise InputError(
            f"{name} must be integers (N,), class numbers from 0 on, got {labels.dtype} "
            f"{labels.shape}"
        )
    if not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
        raise InputError(f"{name} must lie in 0 to 255, got {labels.min()} to {labels.max()}")
    return labels.astype(np.uint8)


def _integer(name: str, value: np.ndarray) -> int:
    if value.shape != () or value.dtype.kind not in "iu":
        raise InputError(f"{name} must be one integer, got {value.dtype} {value.shape}")
    return int(value)
