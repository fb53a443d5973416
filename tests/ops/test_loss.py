"""Softmax cross-entropy and its gradient as operations equal the twin, in every mode."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import softmax as oracle
from support.bits import assert_same_codes
from support.operations_cases import EVERY_MODE, codes_of, roundeds, tuple_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.quantizer import Counts
from fxsim.tensor import Tensor


def check_loss(logits, labels):
    rows = logits.codes.tolist()
    step_exp = logits.format.step_exp
    losses, wrong = ops.softmax_cross_entropy(logits, labels)
    wanted = [oracle.loss(row, label, step_exp) for row, label in zip(rows, labels)]
    assert_same_codes(losses.codes, wanted, what=f"losses of {logits.format}")
    assert losses.format == ops.LOSS
    assert wrong == sum(oracle.wrong(row, label) for row, label in zip(rows, labels))


def check_gradient(logits, labels, rounded, step_exp):
    format = rounded.format(step_exp)
    words = rounded.words(logits.size)
    width = logits.shape[1]
    stochastic = rounded.rounding.startswith("stochastic")
    cells = []
    for n, (row, label) in enumerate(zip(logits.codes.tolist(), labels)):
        cells += oracle.gradient(
            row,
            label,
            logits.format.step_exp,
            len(logits),
            tuple_of(format),
            rounded.rounding,
            rounded.overflow,
            words[n * width : (n + 1) * width] if stochastic else None,
        )
    seen = []
    quotient = ops.softmax_cross_entropy_grad(logits, labels)
    assert quotient.shape == logits.shape
    got = quotient.to(rounded.quantizer(format, logits.shape, seen.append))
    what = f"gradient of {logits.format}, {rounded}"
    assert_same_codes(got.codes.reshape(-1), [cell[0] for cell in cells], what=what)
    assert seen == [Counts(logits.size, *(sum(cell[k] for cell in cells) for k in (1, 2, 3)))]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_triple_of_2_bit_logits_in_every_mode(rounded):
    codes = np.array(list(itertools.product(range(-2, 2), repeat=3)))
    logits = Tensor(codes, Format(2, 1))
    labels = [n % 3 for n in range(len(codes))]
    check_loss(logits, labels)
    check_gradient(logits, labels, rounded, -10)


@st.composite
def batches(draw):
    bits = draw(st.integers(2, 32))
    range_exp = draw(st.integers(-6, 13).filter(lambda exp: -50 <= exp - bits + 1 <= 5))
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 8))
    format = Format(bits, range_exp)
    seed = draw(st.integers(0, 2**32 - 1))
    logits = Tensor(codes_of(seed, format, shape), format)
    labels = np.random.default_rng(seed).integers(0, shape[1], shape[0])
    return logits, labels.tolist()


@given(batches(), roundeds(bits=(1, 24), shifts=(-8, 12)))
def test_random_batches(batch, rounded):
    check_loss(*batch)
    check_gradient(*batch, rounded, -16)


@pytest.mark.parametrize("kind", [np.int8, np.uint64, ">i4", np.int64])
def test_labels_of_every_integer_type(kind):
    logits = Tensor([[3, -1], [0, 2], [1, 1]], Format(4, 1))
    wanted = ops.softmax_cross_entropy(logits, [0, 0, 1])
    for labels in (np.array([0, 0, 1], kind), np.array([1, 9, 0, 9, 0], kind)[::-2]):
        got = ops.softmax_cross_entropy(logits, labels)
        assert got.losses.equals(wanted.losses) and got.wrong == wanted.wrong


@pytest.mark.parametrize(
    "labels, message",
    [
        ([0], r"labels must have shape \(2,\), one for each image, got \(1,\)"),
        ([0, 1, 2], r"labels must have shape \(2,\)"),
        ([[1, 0, 0], [0, 1, 0]], r"one-hot rows: labels.argmax\(axis=1\)"),
        ([0, 3], r"labels must be in \[0, 2\], got \[0, 3\]; number the classes from 0"),
        ([-1, 0], r"labels must be in \[0, 2\]"),
        ([2**64, 0], "labels must fit 64-bit integers"),
        (np.array([0, 2**64 - 1], np.uint64), r"labels must be in \[0, 2\]"),
    ],
)
@pytest.mark.parametrize("operation", [ops.softmax_cross_entropy, ops.softmax_cross_entropy_grad])
def test_labels_that_do_not_fit_are_refused(operation, labels, message):
    logits = Tensor([[1, 2, 3], [3, 2, 1]], Format(4, 3))
    with pytest.raises(InputError, match=message):
        operation(logits, labels)


@pytest.mark.parametrize(
    "labels", [[0.0, 1.0], ["a", "b"], None, {0, 1}, [True, False], [[0], [1, 2]]]
)
def test_labels_that_are_no_integers_are_refused(labels):
    logits = Tensor([[1, 2, 3], [3, 2, 1]], Format(4, 3))
    with pytest.raises(TypeError, match="labels must"):
        ops.softmax_cross_entropy(logits, labels)


@pytest.mark.parametrize(
    "format", [Format(8, 3, False), Format(8, 14), Format(32, -20), Format(2, 7)], ids=str
)
def test_logits_that_the_loss_does_not_take_are_refused(format):
    with pytest.raises(InputError, match=r"logits must be signed, with a range up to 2\^13"):
        ops.softmax_cross_entropy(Tensor([[0, 1]], format), [0])
