"""Batch norm and its gradient as operations, with all constants as arguments, equal the twin."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle import batch_norm as oracle
from oracle import rounding as rounding_oracle
from support.bits import assert_same_codes
from support.operations_cases import (
    EVERY_MODE,
    Rounded,
    check_exact,
    check_rounded,
    reals,
    roundeds,
    tensor_of,
    tuple_of,
)

from fxsim import ops
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.ops.batch_norm import BatchNormFormats, running_format
from fxsim.quantizer import Counts, Quantizer
from fxsim.tensor import Tensor

RUNNING = 2**16


def step(format):
    return rounding_oracle.step(tuple_of(format))


def constant(value):
    mantissa, exponent = rounding_oracle.sixteen_bits(Fraction(value))
    return mantissa * Fraction(2) ** exponent


def columns(tensor):
    """The codes of each channel of a (..., C) Tensor."""
    rows = tensor.codes.reshape(-1, tensor.shape[-1]).tolist()
    return [list(column) for column in zip(*rows)]


def by_rows(of_channels):
    """The numbers of channels in row-major order."""
    return [value for row in zip(*of_channels) for value in row]


class Twin:
    """The forward call in exact arithmetic: statistics, roots, x-hat, the affine map."""

    def __init__(self, x, gamma, beta, formats, rounded, epsilon, statistics=None):
        self.x, self.gamma, self.formats = x, gamma, formats
        values = [[code * step(x.format) for code in column] for column in columns(x)]
        if statistics is None:
            statistics = [oracle.statistics(column) for column in values]
            statistics = [
                [
                    rounding_oracle.quantize(value, tuple_of(format))[0]
                    for value, format in zip(pair, (formats.mean, formats.variance))
                ]
                for pair in statistics
            ]
        self.codes = statistics
        self.roots = [
            oracle.inverse_root(variance * step(formats.variance), constant(epsilon))
            for _, variance in statistics
        ]
        exact = [
            oracle.normalized(column, mean * step(formats.mean), root)
            for column, (mean, _), root in zip(values, statistics, self.roots)
        ]
        words = rounded.words(x.size)
        flat, self.counts = rounding_oracle.quantize_all(
            by_rows(exact),
            tuple_of(formats.normalized),
            rounded.rounding,
            rounded.overflow,
            words,
        )
        self.normalized = flat
        scale, shift = reals(gamma), reals(beta)
        channels = len(scale)
        unit = step(formats.normalized)
        self.output = [
            code * unit * scale[place % channels] + shift[place % channels]
            for place, code in enumerate(flat)
        ]


FORMATS = st.builds(
    BatchNormFormats,
    st.builds(Format, st.integers(3, 20), st.integers(-1, 4)),
    st.builds(Format, st.integers(3, 20), st.integers(-1, 4), st.booleans()),
    st.builds(Format, st.integers(2, 14), st.integers(0, 4)),
    st.builds(Format, st.integers(2, 12), st.integers(-1, 2)),
    st.builds(Format, st.integers(2, 12), st.integers(-1, 2)),
)
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.sampled_from([(5, 3), (1, 1), (2, 2, 3, 2), (3, 1, 2), (7, 1)])
CONSTANTS = st.sampled_from((2.0**-10, 1e-5, 0.001, 1.0, 0.1))


def call(x, gamma, beta, formats, rounded, **options):
    seen = []
    normalized = rounded.quantizer(formats.normalized, x.shape, seen.append)
    result = ops.batch_norm(
        x,
        gamma,
        beta,
        statistics=(formats.mean, formats.variance),
        normalized=normalized,
        **options,
    )
    return result, seen


@given(
    st.builds(Format, st.integers(2, 14), st.integers(-1, 3), st.booleans()),
    FORMATS,
    SHAPES,
    SEEDS,
    CONSTANTS,
    CONSTANTS,
    roundeds(),
    roundeds(shifts=(0, 24)),
)
def test_random_batches(x_format, formats, shape, seed, epsilon, rate, norm_modes, rounded):
    x = tensor_of(seed, x_format, shape)
    channels = shape[-1:]
    gamma = tensor_of(seed + 1, formats.gamma, channels)
    beta = tensor_of(seed + 2, formats.beta, channels)
    starts = [
        tensor_of(seed + k, running_format(format), channels)
        for k, format in ((3, formats.mean), (4, formats.variance))
    ]
    starts[1] = Tensor(abs(starts[1].codes.astype(int)) // 2, starts[1].format)
    options = {"epsilon": epsilon, "rate": rate, "running": tuple(starts)}
    twin = Twin(x, gamma, beta, formats, norm_modes, epsilon)
    try:
        result, seen = call(x, gamma, beta, formats, norm_modes, **options)
    except InputError as error:
        assert "bits" in str(error)
        return
    check_exact(result.output, twin.output)
    assert seen == [Counts(x.size, *twin.counts)]
    check_rounded(
        lambda: call(x, gamma, beta, formats, norm_modes, **options)[0].output,
        twin.output,
        rounded,
    )
    share = constant(rate)
    for place, (start, moved) in enumerate(zip(starts, result.running)):
        wanted = [
            old + rounding_oracle.round_exact((pair[place] * RUNNING - old) * share, "nearest_away")
            for old, pair in zip(start.codes.tolist(), twin.codes)
        ]
        assert_same_codes(moved.codes, wanted, what=("mean", "variance")[place])
        assert moved.format == start.format

    # at rest: the running statistics, rounded; they do not move
    at_rest = [
        [
            oracle.at_rest(start.codes.tolist()[channel], tuple_of(format))
            for start, format in zip(starts, (formats.mean, formats.variance))
        ]
        for channel in range(*channels)
    ]
    twin = Twin(x, gamma, beta, formats, norm_modes, epsilon, at_rest)
    normalized = norm_modes.quantizer(formats.normalized, x.shape, [].append)
    output = ops.batch_norm_inference(
        x,
        gamma,
        beta,
        tuple(starts),
        statistics=(formats.mean, formats.variance),
        normalized=normalized,
        epsilon=epsilon,
    )
    check_exact(output, twin.output)


@given(
    st.builds(Format, st.integers(3, 12), st.integers(0, 2)),
    FORMATS,
    SHAPES,
    SEEDS,
    st.builds(Format, st.integers(2, 12), st.integers(-3, 1), st.booleans()),
    st.lists(roundeds(bits=(3, 16)), min_size=3, max_size=3),
    st.lists(st.integers(-4, 2), min_size=3, max_size=3),
)
def test_random_gradients(x_format, formats, shape, seed, grad_format, modes, ranges):
    x = tensor_of(seed, x_format, shape)
    channels = shape[-1:]
    gamma = tensor_of(seed + 1, formats.gamma, channels)
    beta = tensor_of(seed + 2, formats.beta, channels)
    grad = tensor_of(seed + 3, grad_format, shape)
    twin = Twin(x, gamma, beta, formats, Rounded(1, True, 0), 2.0**-10)
    targets = [Format(row.bits, range_exp, row.signed) for row, range_exp in zip(modes, ranges)]
    shapes = shape, channels, channels
    try:
        saved = ops.batch_norm(
            x,
            gamma,
            beta,
            statistics=(formats.mean, formats.variance),
            normalized=formats.normalized,
        ).saved
        seen = [[], [], []]
        found = ops.batch_norm_grad(
            grad,
            saved,
            **{
                name: row.quantizer(format, own, counted.append)
                for name, row, format, own, counted in zip(
                    ("x", "gamma", "beta"), modes, targets, shapes, seen
                )
            },
        )
    except InputError as error:
        assert "bits" in str(error)
        return
    exact = gradients(twin, grad, targets[0])
    for got, values, row, format, counted in zip(found, exact, modes, targets, seen):
        codes, counts = rounding_oracle.quantize_all(
            values, tuple_of(format), row.rounding, row.overflow, row.words(len(values))
        )
        assert_same_codes(got.codes.reshape(-1), codes, what=f"{row} {format}")
        assert got.format == format
        assert counted == [Counts(len(values), *counts)]


def gradients(twin, grad, target):
    """Exact flat values of the gradients at x, of gamma and of beta."""
    channels = len(twin.roots)
    unit = step(twin.formats.normalized)
    norms = [
        [code * unit for code in twin.normalized[place::channels]] for place in range(channels)
    ]
    grads = [[code * step(grad.format) for code in column] for column in columns(grad)]
    at_x = []
    for g, x, gamma, root in zip(grads, norms, reals(twin.gamma), twin.roots):
        scale, slope, offset = oracle.constants(
            g, x, gamma, root, step(grad.format), unit, step(target)
        )
        at_x.append([scale * a + slope * b + offset for a, b in zip(g, x)])
    of_gamma = [sum(a * b for a, b in zip(g, x)) for g, x in zip(grads, norms)]
    return by_rows(at_x), of_gamma, [sum(g) for g in grads]


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_6_bit_code_in_every_mode(rounded):
    x = Tensor(np.arange(-32, 32).reshape(32, 2), Format(6, 1))
    formats = BatchNormFormats(gamma=Format(5, 1), beta=Format(5, 1))
    gamma = Tensor([13, -7], formats.gamma)
    beta = Tensor([-2, 9], formats.beta)
    twin = Twin(x, gamma, beta, formats, rounded, 2.0**-10)
    result, _ = call(x, gamma, beta, formats, rounded)
    check_exact(result.output, twin.output)
    check_rounded(
        lambda: call(x, gamma, beta, formats, rounded)[0].output,
        twin.output,
        rounded._replace(shift=12),
    )


ONE = Tensor([64], Format(8, 1))
X = Tensor([[10], [20], [30], [60]], Format(8, 3))


def test_wide_running_statistics_come_back():
    """They have 16 bits more than a batch's: what one call returns the next one takes."""
    statistics = (Format(24, 3), Format(24, 3, False))
    running = ops.running_statistics([0.5], [1.0], statistics)
    for _ in range(2):
        running = ops.batch_norm(X, ONE, ONE, running=running, statistics=statistics).running
    ops.batch_norm_inference(X, ONE, ONE, running, statistics=statistics)
    assert running[0].format.bits == 40


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"gamma": Tensor([1, 2], Format(4, 1))}, r"gamma must have shape \(1,\), got \(2,\)"),
        ({"beta": Tensor([[1]], Format(4, 1))}, r"beta must have shape \(1,\), got \(1, 1\)"),
        ({"x": X[:0]}, "x must have shape .* with at least one element"),
        ({"x": Tensor([1], Format(8, 3))}, r"x must have shape \(..., C\)"),
        ({"epsilon": 0.0}, "epsilon must be a number above 0, at most 1, got 0.0"),
        ({"epsilon": float("nan")}, "epsilon must be a number above 0"),
        ({"rate": 1.5}, "rate must be a number above 0, at most 1, got 1.5"),
        ({"running": (ONE, ONE)}, "running mean must be in s32 .*, got s8"),
        (
            {
                "running": (
                    Tensor([0], running_format(Format(16, 3))),
                    Tensor([-5], running_format(Format(16, 3))),
                ),
                "statistics": (Format(16, 3), Format(16, 3)),
            },
            "running variance must be at least 0",
        ),
        ({"normalized": Format(32, 14), "gamma": Tensor([1], Format(32, 1))}, "at most 62"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ops.batch_norm(**({"x": X, "gamma": ONE, "beta": ONE} | arguments))


def test_types_are_refused():
    for running in (ONE, [ONE, ONE], (ONE,)):
        with pytest.raises(TypeError, match="running must be a pair of Tensors"):
            ops.batch_norm(X, ONE, ONE, running=running)
    with pytest.raises(TypeError, match=r"running mean must be a fxsim\.Tensor, got list"):
        ops.batch_norm(X, ONE, ONE, running=([0], [1]))
    with pytest.raises(TypeError, match=r"saved must come from ops\.batch_norm, got Tensor"):
        ops.batch_norm_grad(X, X, x=ONE.format, gamma=ONE.format, beta=ONE.format)
    for statistics in (Format(8, 0), (Format(8, 0),), (Format(8, 0), Quantizer(Format(8, 0)))):
        with pytest.raises(TypeError, match="statistics must be the Formats"):
            ops.running_statistics([0.0], [1.0], statistics)
        with pytest.raises(TypeError, match="statistics must be the Formats"):
            ops.batch_norm(X, ONE, ONE, statistics=statistics)


def test_a_gradient_of_another_shape_is_refused():
    saved = ops.batch_norm(X, ONE, ONE).saved
    with pytest.raises(InputError, match=r"grad must have shape \(4, 1\), got \(2, 1\)"):
        ops.batch_norm_grad(X[:2], saved, x=ONE.format, gamma=ONE.format, beta=ONE.format)
