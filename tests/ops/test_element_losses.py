"""mse, half_mse and sigmoid_cross_entropy and their gradients equal the twin, in every mode."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import losses as oracle
from support.bits import assert_same_codes
from support.operations_cases import EVERY_MODE, codes_of, roundeds, tuple_of

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.loss import ELEMENT_LOSSES
from fxsim.quantizer import Counts
from fxsim.tensor import Tensor

LOSSES = tuple(ELEMENT_LOSSES)


def check_losses(loss, outputs, targets):
    rows = outputs.codes.reshape(len(outputs), -1).tolist()
    wanted = targets.codes.reshape(len(outputs), -1).tolist()
    step_exp = outputs.format.step_exp
    quotient = ELEMENT_LOSSES[loss].losses(outputs, targets)
    unit = Fraction(2) ** quotient.step_exp / quotient.divisor
    assert unit == oracle.unit(loss, step_exp, len(rows[0]))
    assert_same_codes(
        quotient.numerators,
        [oracle.loss(loss, *each, step_exp) for each in zip(rows, wanted)],
        what=f"{loss} of {outputs.format}",
    )


def check_gradient(loss, outputs, targets, rounded, step_exp):
    format = rounded.format(step_exp)
    words = rounded.words(outputs.size)
    stochastic = rounded.rounding.startswith("stochastic")
    count = len(outputs)
    rows = outputs.codes.reshape(count, -1).tolist()
    wanted = targets.codes.reshape(count, -1).tolist()
    modes = rounded.rounding, rounded.overflow
    width = len(rows[0])
    cells = []
    for n, each in enumerate(zip(rows, wanted)):
        own = words[n * width : (n + 1) * width] if stochastic else None
        exponent = outputs.format.step_exp
        cells += oracle.gradient(loss, *each, exponent, count, tuple_of(format), modes, own)
    seen = []
    quotient = ELEMENT_LOSSES[loss].grad(outputs, targets)
    assert quotient.shape == outputs.shape
    got = quotient.to(rounded.quantizer(format, outputs.shape, seen.append))
    what = f"gradient of {loss} of {outputs.format}, {rounded}"
    assert_same_codes(got.codes.reshape(-1), [cell[0] for cell in cells], what=what)
    assert seen == [Counts(outputs.size, *(sum(cell[k] for cell in cells) for k in (1, 2, 3)))]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_pair_of_3_bit_codes_in_every_mode(loss, rounded):
    format = Format(3, 1)
    highest = 2 if loss == "sigmoid_cross_entropy" else 3
    lowest = 0 if loss == "sigmoid_cross_entropy" else -4
    pairs = list(itertools.product(range(-4, 4), range(lowest, highest + 1)))
    pairs += pairs[: len(pairs) % 2]
    codes = np.array(pairs).T.reshape(2, -1, 2, 1)
    outputs, targets = (Tensor(each, format) for each in codes)
    check_losses(loss, outputs, targets)
    check_gradient(loss, outputs, targets, rounded, -9)


@st.composite
def batches(draw):
    loss = draw(st.sampled_from(LOSSES))
    entropy = loss == "sigmoid_cross_entropy"
    bits = draw(st.integers(2, 32 if entropy else 28))
    exponents = st.integers(-6, 13)
    if entropy:
        exponents = exponents.filter(lambda exp: -24 <= exp - bits + 1 <= 0)
    format = Format(bits, draw(exponents))
    shape = (draw(st.integers(1, 4)), *draw(st.sampled_from([(3,), (2, 1, 2), (1, 1, 4)])))
    seed = draw(st.integers(0, 2**32 - 1))
    outputs = Tensor(codes_of(seed, format, shape), format)
    targets = codes_of(seed + 1, format, shape)
    if entropy:
        targets = np.abs(targets.astype(np.int64)) % (
            min(1 << -format.step_exp, format.max_code) + 1
        )
    return loss, outputs, Tensor(targets, format)


@given(batches(), roundeds(bits=(1, 24), shifts=(-8, 12)))
def test_random_batches(batch, rounded):
    check_losses(*batch)
    check_gradient(*batch, rounded, -16)


@given(batches())
def test_the_gradient_of_a_batch_is_that_of_its_images(batch):
    """Law: the numerators of a batch are those of its images, the divisor takes the batch."""
    loss, outputs, targets = batch
    whole = ELEMENT_LOSSES[loss].grad(outputs, targets)
    parts = [
        ELEMENT_LOSSES[loss].grad(
            Tensor(outputs.codes[n : n + 1], outputs.format),
            Tensor(targets.codes[n : n + 1], outputs.format),
        )
        for n in range(len(outputs))
    ]
    assert_same_codes(
        whole.numerators, np.concatenate([part.numerators for part in parts]), what=loss
    )
    assert {whole.divisor} == {part.divisor * len(outputs) for part in parts}


@given(batches())
def test_the_loss_is_least_at_its_target(batch):
    """Law: the gradient is 0 at the target of a squared error, and its sign is that of the way."""
    loss, outputs, targets = batch
    if loss == "sigmoid_cross_entropy":
        return
    grad = ELEMENT_LOSSES[loss].grad(outputs, targets).numerators
    difference = outputs.codes.astype(np.int64) - targets.codes
    assert np.array_equal(np.sign(grad), np.sign(difference))
    assert not ELEMENT_LOSSES[loss].losses(targets, targets).numerators.any()


def test_the_sigmoid_is_symmetric_and_near_the_real_one():
    format = Format(12, 3)
    codes = np.arange(-2048, 2048)[:, None]
    zero = Tensor(np.zeros_like(codes), format)
    grad = ops.sigmoid_cross_entropy_grad(Tensor(codes, format), zero)
    sigmoids = grad.numerators / 2.0**16
    assert np.abs(sigmoids - 1 / (1 + np.exp(-codes * format.step))).max() < 2**-16
    assert np.abs(sigmoids[1:] + sigmoids[:0:-1] - 1).max() <= 2**-16


def test_sigmoid_cross_entropy_is_near_the_real_one():
    format = Format(16, 5)
    random = np.random.default_rng(0)
    codes, targets = random.integers(-(2**15), 2**15, (500, 3)), random.integers(0, 1025, (500, 3))
    losses = ops.sigmoid_cross_entropy(Tensor(codes, format), Tensor(targets, format))
    z, t = codes * format.step, targets * format.step
    real = np.logaddexp(0, -z) * t + np.logaddexp(0, z) * (1 - t)
    assert np.abs(losses.numerators * 2.0**-24 - real.sum(axis=1)).max() < 1e-5


OUTPUTS = Tensor([[1, 2, 3]], Format(4, 3))


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_targets_that_do_not_fit_are_refused(loss, gradient):
    operation = ELEMENT_LOSSES[loss].grad if gradient else ELEMENT_LOSSES[loss].losses
    for targets, message in (
        (Tensor([[1, 0]], Format(4, 3)), r"targets must have shape \(1, 3\), got \(1, 2\), that"),
        (Tensor([1, 0, 0], Format(4, 3)), r"targets must have shape \(1, 3\)"),
        (Tensor([[1, 0, 0]], Format(4, 2)), "targets must be in the outputs' format s4 r=2\\^3"),
    ):
        with pytest.raises(InputError, match=message):
            operation(OUTPUTS, targets)
    with pytest.raises(TypeError, match="targets must be a fxsim.Tensor"):
        operation(OUTPUTS, [[1, 0, 0]])
    with pytest.raises(InputError, match=r"outputs must have axes \(N, ...\)"):
        operation(Tensor([1], Format(4, 3)), Tensor([1], Format(4, 3)))


@pytest.mark.parametrize("operation", [ops.mse, ops.half_mse_grad])
def test_squares_beyond_62_bits_are_refused(operation):
    wide = Tensor(np.zeros((1, 5), int), Format(30, 0))
    with pytest.raises(InputError, match="squared error of 5 outputs in s30 .* needs 63 bits"):
        operation(wide, wide)


def test_what_sigmoid_cross_entropy_does_not_take_is_refused():
    for format in (Format(8, 3, False), Format(8, 14), Format(32, 3), Format(2, 7)):
        zero = Tensor([[0]], format)
        with pytest.raises(InputError, match=r"outputs must be signed, with a range up to 2\^13"):
            ops.sigmoid_cross_entropy(zero, zero)
    for wrong in (-1, 2):
        with pytest.raises(InputError, match=r"targets must be in \[0, 1\].*stand for 0 to 1 in"):
            ops.sigmoid_cross_entropy(OUTPUTS, Tensor([[0, 0, wrong]], Format(4, 3)))
