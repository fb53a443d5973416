"""The handwritten digits inside the package."""

from __future__ import annotations

import gzip
import importlib.resources

import numpy as np

from fxsim.datasets.dataset import Dataset, split_last_fifth


def digits() -> Dataset:
    """The UCI handwritten digits inside the package: 1,797 images of 8x8, pixels 0..16, 10
    classes.

    Rows 0..1436 of the file train, rows 1437..1796 (the last fifth, 360 images) test.  Source: E.
    Alpaydin and C. Kaynak, UCI Machine Learning Repository, CC BY 4.0; see data/README.md.
    """
    resource = importlib.resources.files("fxsim") / "data" / "digits.csv.gz"
    with resource.open("rb") as packed, gzip.open(packed, "rt") as lines:
        rows = np.loadtxt(lines, delimiter=",", dtype=np.uint8)
    images = np.ascontiguousarray(rows[:, :64]).reshape(-1, 8, 8, 1)
    train, test = split_last_fifth(images, rows[:, 64].copy())
    return Dataset("digits", *train, *test, classes=10, pixel_max=16)
