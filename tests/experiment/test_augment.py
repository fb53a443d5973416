"""Augmentation against its definition, one pixel at a time."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsim import InputError
from fxsim.datasets import load
from fxsim.factors import LearningRate
from fxsim.train.augment import Augmentation
from fxsim.train.loop import TrainingPlan, train
from fxsim.train.schedule import Schedule


def pixel(image, word, flip, crop, row, column):
    """The pixel at (row, column) of an augmented image, as Python lists.

    Padding is (0,) * channels.
    """
    height = len(image)
    width = len(image[0])
    if flip and word >= 2**31:
        column = width - 1 - column
    y = row + ((word % 2**15) * (2 * crop + 1) >> 15) - crop
    x = column + ((word >> 15) % 2**15 * (2 * crop + 1) >> 15) - crop
    return image[y][x] if 0 <= y < height and 0 <= x < width else [0] * len(image[0][0])


@given(
    st.booleans(),
    st.integers(0, 5),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3)),
    st.integers(0, 2**32 - 1),
)
def test_every_pixel_is_where_the_definition_puts_it(flip, crop, words, shape, seed):
    pixels = np.random.default_rng(seed).integers(1, 256, (len(words), *shape)).astype(np.uint8)
    got = Augmentation(flip, crop).apply(pixels, np.array(words, np.uint32))
    wanted = [
        [
            [pixel(image, word, flip, crop, row, column) for column in range(shape[1])]
            for row in range(shape[0])
        ]
        for image, word in zip(pixels.tolist(), words)
    ]
    assert got.dtype == np.uint8
    assert got.tolist() == wanted


def test_every_offset_and_both_sides_occur_about_equally_often():
    words = Augmentation(True, 4).words(seed=3, epoch=1, images=9000)
    assert 4300 < (words >> 31).sum() < 4700
    for shift in (0, 15):
        counts = np.bincount((words.astype(np.int64) >> shift) % 2**15 * 9 >> 15, minlength=9)
        assert len(counts) == 9 and counts.min() > 850 and counts.max() < 1150


def test_words_belong_to_the_image_and_change_with_epoch_and_seed():
    augmentation = Augmentation(True, 4)
    words = augmentation.words(0, 0, 100)
    assert np.array_equal(augmentation.words(0, 0, 50), words[:50])
    assert not np.array_equal(augmentation.words(0, 1, 100), words)
    assert not np.array_equal(augmentation.words(1, 0, 100), words)


@pytest.mark.parametrize("crop", [-1, 65])
def test_a_crop_has_limits(crop):
    with pytest.raises(InputError, match="crop must be 0 to 64"):
        Augmentation(crop=crop)


class Recorder:
    """A learner that keeps what it is shown."""

    def __init__(self):
        self.batches = []

    def step(self, pixels: np.ndarray, labels: np.ndarray, rate: LearningRate, step: int) -> float:
        self.batches.append(pixels)
        return 0.0

    def evaluate(self, pixels: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
        return 0.0, 0.0


def test_the_loop_augments_training_images_only_and_in_the_same_order():
    dataset = load("digits")
    shown = {}
    for augmentation in (Augmentation(), Augmentation(True, 2)):
        learner = Recorder()
        train(learner, TrainingPlan(dataset, Schedule(1, 0.1), 32, 0, augmentation))
        shown[augmentation] = np.concatenate(learner.batches)
    plain, augmented = shown.values()
    assert plain.shape == augmented.shape
    assert not np.array_equal(plain, augmented)
    unmoved = (plain == augmented).all(axis=(1, 2, 3)).mean()
    assert 0.01 < unmoved < 0.05  # one in 2 * 5 * 5
