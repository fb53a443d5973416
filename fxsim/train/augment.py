"""Augmentation of training images.

Horizontal flips and padded crops, on pixels, from counter-based random words.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxsim.errors import InputError
from fxsim.rng import Stream


@dataclass(frozen=True)
class Augmentation:
    """flip: turn half of the images left to right.  crop: pixels of zero padding on each side, of
    which a window of the image's own size is cut out at a random place.

    The word w of an image, Stream(seed, epoch, 'augment') at its place in the training set,
    decides:

        flipped     w >= 2**31
        first row   ((w mod 2**15) (2 crop + 1)) >> 15      of the window in the padded image
        first column the same with (w >> 15) mod 2**15

    The image is cut out first, then flipped.
    """

    flip: bool = False
    crop: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.crop <= 64:
            raise InputError(f"crop must be 0 to 64 pixels, got {self.crop}")

    def words(self, seed: int, epoch: int, images: int) -> np.ndarray:
        """The random words (uint32) of all images of the training set in one epoch."""
        return Stream(seed, epoch, "augment").words(images) if self else np.zeros(images, np.uint32)

    def __bool__(self) -> bool:
        return self.flip or self.crop > 0

    def apply(self, pixels: np.ndarray, words: np.ndarray) -> np.ndarray:
        """Pixels (N, H, W, C) of images with the given words, augmented."""
        if not self:
            return pixels
        count, height, width, _ = pixels.shape
        offsets = words[:, None] >> np.array([0, 15], np.uint32) & 0x7FFF
        rows, columns = (offsets.astype(np.int64) * (2 * self.crop + 1) >> 15).T
        padded = np.pad(pixels, ((0, 0), (self.crop, self.crop), (self.crop, self.crop), (0, 0)))
        out = np.empty_like(pixels)
        for i in range(count):
            window = padded[i, rows[i] : rows[i] + height, columns[i] : columns[i] + width]
            out[i] = window[:, ::-1] if self.flip and words[i] >> 31 else window
        return out
