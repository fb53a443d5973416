"""Integer batch norm.

Inverse roots, statistics, sums over channels; agreement with the float executor; end to end.
"""

import dataclasses
from fractions import Fraction
from math import isqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import batch_norm as oracle
from oracle.rounding import quantize, step
from support.bits import assert_same_codes

from fxsim.analysis.assign import assign
from fxsim.analysis.measure import measure
from fxsim.analysis.statistics import GradientStatistics
from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError
from fxsim.factors import Factor, LearningRate
from fxsim.formats import Format
from fxsim.kernels.elementwise import affine
from fxsim.kernels.jit import JIT_DISABLED
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import BatchNormPrecision, LayerPrecision, accumulator_format
from fxsim.nn.networks import cifar10_convnet, cifar10_resnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network
from fxsim.ops.batch_norm import EPSILON as DEFAULT_EPSILON
from fxsim.ops.batch_norm import RATE as DEFAULT_RATE
from fxsim.ops.batch_norm import BatchNorm, BatchNormFormats, BatchNormGrad, InverseRoot, Running
from fxsim.ops.exact import max_pooled
from fxsim.ops.integers import divided, integers, times
from fxsim.ops.summation import ChannelSum
from fxsim.quantizer import Counts, Quantizer
from fxsim.rng import Stream
from fxsim.windows import Window

EPSILON = Factor.nearest(DEFAULT_EPSILON).odd
RATE = Factor.nearest(DEFAULT_RATE).odd


def tuple_of(format):
    return format.bits, format.range_exp, format.signed


@pytest.mark.parametrize("range_exp", [3, 0, -1, -6, 12])
def test_the_inverse_root_of_every_16_bit_variance_is_the_nearest(range_exp):
    format = Format(16, range_exp, signed=False)
    unit = InverseRoot(format, EPSILON)
    roots = unit.of(np.arange(2**16)).tolist()
    step_exp = min(format.step_exp, -10)
    scale = -2 * unit.format.step_exp - step_exp  # root**2 * value * 2**-scale is about 1
    for code, root in enumerate(roots):
        value = (code << format.step_exp - step_exp) + (1 << -10 - step_exp)
        places = max(root.bit_length() - 16, 0)
        mantissa = root >> places
        assert mantissa << places == root
        wanted = 1 << 2 + scale - 2 * places
        assert (2 * mantissa - 1) ** 2 * value < wanted < (2 * mantissa + 1) ** 2 * value
        assert code == 0 or root <= roots[code - 1]


@pytest.mark.parametrize(
    "format",
    [Format(7, 0, signed=False), Format(8, 2), Format(6, 20, signed=False), Format(9, -13)],
)
def test_every_inverse_root_of_a_small_format_equals_the_twin(format):
    codes = range(format.max_code + 1)
    unit = oracle.root_unit(tuple_of(format))
    wanted = [oracle.inverse_root(code * step(tuple_of(format))) / unit for code in codes]
    root = InverseRoot(format, EPSILON)
    assert Fraction(2) ** root.format.step_exp == unit
    assert_same_codes(root.of(np.array(codes)), wanted, codes)
    assert root.format.max_code >= max(wanted)


@given(
    st.lists(st.integers(-(2**70), 2**70) | st.integers(-(2**61), 2**61), min_size=1, max_size=5),
    st.integers(1, 2**50),
    st.integers(-40, 40),
)
def test_a_division_is_rounded_once_ties_away_from_zero(numerators, denominator, exp):
    wanted = [
        oracle.divide_nearest_away(Fraction(value) * Fraction(2) ** exp, denominator)
        for value in numerators
    ]
    assert divided(integers(numerators), denominator, exp).tolist() == wanted
    if max(map(abs, numerators)) < 2**63:
        assert divided(np.array(numerators, np.int64), denominator, exp).tolist() == wanted


@pytest.mark.parametrize("bits", range(28, 36))
def test_products_leave_int64_before_they_overflow(bits):
    values = np.array([2**bits, -(2**bits), 2**bits - 1], np.int64)
    for factors in (values, 2**bits, -(2**bits)):
        wanted = [
            int(a) * int(b)
            for a, b in zip(values, factors if isinstance(factors, np.ndarray) else [factors] * 3)
        ]
        assert (
            times(values, factors).tolist() == times(integers(values), factors).tolist() == wanted
        )


SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 9), st.integers(1, 9), st.integers(1, 70))


@given(SHAPES, st.integers(0, 2**32 - 1), st.sampled_from([np.int16, np.int32]))
def test_moments_of_codes_at_their_extremes(shape, seed, dtype):
    bits = 15 if dtype == np.int16 else 26
    x, y = (
        np.random.default_rng(seed)
        .choice([-(2**bits), 2**bits - 1, 0, 1], (2, *shape))
        .astype(dtype)
    )
    wanted = [
        [sum(column), sum(int(a) * int(b) for a, b in zip(column, other))]
        for column, other in zip(oracle.channels(x.tolist()), oracle.channels(y.tolist()))
    ]
    assert_same_codes(channel_moments(x, y).T, wanted)


def test_moments_of_more_than_one_block():
    x, y = np.random.default_rng(0).integers(-(2**15), 2**15, (2, 3, 40, 41, 23)).astype(np.int16)
    x[..., 0] = y[..., 0] = -(2**15)
    assert np.array_equal(
        channel_moments(x, y),
        [x.sum(axis=(0, 1, 2), dtype=np.int64), np.einsum("nhwc,nhwc->c", x, y, dtype=np.int64)],
    )


@given(
    SHAPES,
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(0, 24),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["nearest_away", "floor", "nearest_even", "jam", "stochastic"]),
)
@settings(max_examples=80)
def test_channel_sums_are_exact_and_quantized_once(shape, seed, bits, shift, relu, two, rounding):
    """On both sides of what int32 holds, and of what doubles hold."""
    random = np.random.default_rng(seed)
    x_format = Format(16, 3)
    y_format = Format(9, 1, signed=False)
    first, second, constant = random.integers(-(2**bits), 2**bits + 1, (3, shape[-1])).astype(
        object
    )
    x = random.integers(x_format.min_code, x_format.max_code + 1, shape).astype(np.int16)
    y = random.integers(0, y_format.max_code + 1, shape).astype(np.int16) if two else None
    sums = ChannelSum(
        first, second if two else 0 * second, constant, -20, x_format, y_format if two else None
    )
    exact = [
        [a * u + c + (b * v if two else 0) for u, v in zip(left, right)]
        for left, right, a, b, c in zip(
            oracle.channels(x.tolist()),
            oracle.channels((x if y is None else y).tolist()),
            first,
            second,
            constant,
        )
    ]
    assert_same_codes(sums.of(x, y).sums(), oracle.together(exact, shape))
    assert (
        max(abs(value) for column in exact for value in column)
        <= sums.bound
        <= sums.format.max_code
    )
    target = Format(8, shift - 13)
    stream = Stream(1, 2, "t")
    seen = []
    drawn = stream if rounding == "stochastic" else None
    quantizer = Quantizer(target, rounding, words=drawn, counted=seen.append)
    codes, mask = sums.of(x, y).rounded(quantizer, relu)
    words = stream.words(shape).reshape(-1).tolist()
    flat = [
        value
        for sample in oracle.together(exact, shape)
        for row in sample
        for pixel in row
        for value in pixel
    ]
    wanted = [
        quantize(
            Fraction(max(value, 0) if relu else value, 2**20), tuple_of(target), rounding, word=word
        )
        for value, word in zip(flat, words)
    ]
    assert_same_codes(codes.reshape(-1), [row[0] for row in wanted], flat)
    assert seen == [Counts(x.size, *(sum(row[k] for row in wanted) for k in (1, 2, 3)))]
    assert (mask is not None) == relu
    if relu:
        ceiling = Fraction(2) ** target.range_exp
        assert mask.reshape(-1).tolist() == [0 < Fraction(value, 2**20) < ceiling for value in flat]


@given(
    st.tuples(
        st.integers(1, 4),
        st.integers(1, 9),
        st.integers(1, 9),
        st.sampled_from([16, 3, 32, 40, 64]),
    ),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
    st.sampled_from([3, 14, 30]),
    st.booleans(),
    st.sampled_from([np.int16, np.int32]),
)
@settings(max_examples=60)
def test_pooling_at_once_is_pooling_afterwards(shape, size, seed, bits, two, dtype):
    """Codes, winners and the counts of all positions, those of no window among them."""
    random = np.random.default_rng(seed)
    (images, height, width, channels) = shape
    first, second, constant = random.integers(-(2**bits), 2**bits + 1, (3, channels)).astype(object)
    x, y = random.integers(-(2**15), 2**15, (2, *shape)).astype(dtype)
    y = y if two else None
    sums = ChannelSum(
        first,
        second if two else 0 * second,
        constant,
        -20,
        Format(16, 3),
        Format(16, 3) if two else None,
    )
    seen = []
    quantizer = Quantizer(Format(6, bits - 4, signed=False), counted=seen.append)
    made = []
    combine = affine.combine_and_pool
    size = min(size, height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            affine, "combine_and_pool", lambda *args: made.append(combine(*args)) or made[-1]
        )
        fused = sums.of(x, y).relu_max_pool(quantizer, size)
    takes = width * size % LANES_OF[channels] == height % size * width % LANES_OF[channels] == 0
    assert (made[0] is not None) == (takes and not JIT_DISABLED)
    codes, mask = sums.of(x, y).rounded(quantizer, relu=True)
    for got, wanted in zip(fused, max_pooled(codes, mask, Window((size, size), (size, size)))):
        assert np.array_equal(got.codes, wanted)
    assert len(seen) == 2 and seen[0] == seen[1]


LANES_OF = {16: 1, 3: 16, 32: 1, 40: 2, 64: 1}
"""Positions that fill whole registers of 16 channels."""


def test_running_statistics_move_by_a_sixteenth_rounded_away_from_zero():
    running = Running(np.array([0, 5, -8, 2**20], np.int64), np.array([1, 8, 24, 0], np.int64))
    mean = running.mean
    variance = running.variance
    codes = np.array([3, 0, 0, -32768]), np.array([0, 0, 0, 65535])
    wanted = [
        [oracle.moved(old, code) for old, code in zip(olds.tolist(), new.tolist())]
        for olds, new in zip((mean, variance), codes)
    ]
    running.move(*codes, RATE)
    assert running.mean is mean and [mean.tolist(), variance.tolist()] == wanted
    assert wanted[1][:3] == [1, 7, 22]


def test_formats_that_no_int64_holds_are_refused():
    formats = BatchNormFormats(normalized=Format(32, 12), gamma=Format(31, 1))
    with pytest.raises(InputError, match="at most 62 are exact here; lower the widths"):
        BatchNorm(Format(16, 3), formats, None)


# Widths at which the fixed executor should be as good as the float one.

PRECISE = BatchNormPrecision(
    mean=Format(22, 3),
    variance=Format(24, 3, False),
    normalized=Format(20, 3),
    gamma_grads=Format(24, 2),
    beta_grads=Format(24, 2),
    preactivation_grads=Format(24, 2),
)

RESIDUAL = Network(
    "residual",
    (8, 8, 2),
    (
        Conv(name="stem", filters=5, padding=1, batch_norm=True),
        Conv(name="shortcut", filters=6, padding=1, stride=2, batch_norm=True, relu=False),
        Conv(name="c1", filters=6, padding=1, stride=2, batch_norm=True, input="stem"),
        Conv(name="c2", filters=6, padding=1, batch_norm=True, add="shortcut"),
        Conv(name="c3", filters=6, padding=1, add="c2"),
        Dense(name="d1", units=12, batch_norm=True),
        Dense(name="fc", units=4, relu=False),
    ),
)


def precise_assignment(network):
    """Formats of many bits; batch norm's and a branch's only where there is one."""
    weights = Format(16, 0)
    read = {source for _, source in network.edges()}
    added = {layer.add for layer in network.layers}
    layers = {
        name: LayerPrecision(
            weights=weights,
            activations=Format(16, 0 if network.source(name) is None else 1, False),
            activation_grads=Format(22, -2),
            weight_grads=Format(26, 2),
            accumulators=accumulator_format(weights, -30),
            bias_grads=Format(24, 2),
            preactivations=Format(20, 3),
            branch=Format(22, 3) if name in added - read else None,
            batch_norm=PRECISE if network.layer(name).batch_norm else None,
        )
        for name in network.names
    }
    return PrecisionAssignment(network.name, layers, logits=Format(20, 4))


def both_steps(network, images, labels):
    """What probes see in one step of the fixed and of the float executor, with equal parameters.

    And both networks.
    """
    parameters = initial_parameters(network, 3)
    fixed = FixedNetwork(network, precise_assignment(network), parameters)
    floating = FloatNetwork(network, parameters, np.float64)
    for name, own in fixed.parameters.items():
        floating.parameters[name]["weight"][:] = own["weight"].codes * own["weight"].format.step
    ours = {}
    theirs = {}
    fixed.train_step(
        images,
        labels,
        LearningRate.of(0.05),
        0,
        lambda tensor, layer, value: ours.update({(tensor, layer): value.real}),
    )
    floating.train_step(
        images / 2**16,
        labels,
        LearningRate.of(0.05).real,
        step=0,
        probe=lambda tensor, layer, array: theirs.update({(tensor, layer): np.array(array)}),
    )
    return ours, theirs, fixed, floating


def difference(ours, theirs):
    return np.linalg.norm(ours.reshape(-1) - theirs.reshape(-1)) / np.linalg.norm(theirs)


def test_at_large_widths_a_step_is_that_of_the_float_executor():
    random = np.random.default_rng(4)
    images = random.integers(0, 2**16, (16, 8, 8, 2))
    labels = random.integers(0, 4, 16)
    ours, theirs, fixed, floating = both_steps(RESIDUAL, images, labels)
    for tensor in (
        "activations",
        "weight_grads",
        "bias_grads",
        "gamma_grads",
        "beta_grads",
        "activation_grads",
        "preactivation_grads",
    ):
        for layer in RESIDUAL.names:
            if (tensor, layer) in theirs:
                assert difference(ours[tensor, layer], theirs[tensor, layer]) < 2e-3, (
                    tensor,
                    layer,
                )
    for name, running in fixed.running.items():
        mean, variance = (
            codes * format.step / 2**16
            for codes, format in (
                (running.mean, PRECISE.mean),
                (running.variance, PRECISE.variance),
            )
        )
        assert difference(mean, floating.parameters[name]["running_mean"]) < 1e-4
        assert difference(variance, floating.parameters[name]["running_var"]) < 1e-4
    for name, own in fixed.parameters.items():
        for kind, parameter in own.items():
            held = (
                parameter.codes * parameter.format.step
                + parameter.accumulators * parameter.accumulator_format.step
            )
            assert difference(held, floating.parameters[name][kind]) < 1e-4, (name, kind)
    scores = fixed.logits(images) * fixed.assignment.logits.step
    assert difference(scores, floating.logits(images / 2**16)) < 1e-3


@pytest.mark.parametrize("kind", ["scales", "slopes", "offsets"])
def test_the_comparison_with_the_float_executor_sees_a_wrong_term(monkeypatch, kind):
    right = BatchNormGrad._sums

    def wrong(self, *args):
        sums = right(self, *args)
        field = {"scales": "first", "slopes": "second", "offsets": "constant"}[kind]
        return dataclasses.replace(sums, **{field: getattr(sums, field) * 9 // 10})

    monkeypatch.setattr(BatchNormGrad, "_sums", wrong)
    with pytest.raises(AssertionError):
        test_at_large_widths_a_step_is_that_of_the_float_executor()


@pytest.mark.parametrize("build", [cifar10_convnet, cifar10_resnet])
def test_a_narrow_network_of_the_paper_trains_in_the_formats_that_the_analysis_assigns(
    build, tmp_path
):
    network = build(1 / 16)
    random = np.random.default_rng(2)
    labels = np.arange(24) % 10
    pixels = (random.integers(0, 64, (24, 32, 32, 3)) + 18 * labels[:, None, None, None]).astype(
        np.uint8
    )
    parameters = initial_parameters(network, 1)
    floating = FloatNetwork(network, parameters)
    gradients = GradientStatistics(network)
    losses = [
        floating.train_step(
            pixels / 255, labels, 0.05, step=index, probe=gradients.probe(index)
        ).loss
        for index in range(3)
    ]
    statistics = measure(
        FloatNetwork(network, floating.parameters, np.float64),
        gradients,
        pixels[:4] / 255,
        [(pixels[:16] / 255, labels[:16])],
        0.05,
    )
    assign(network, statistics).save(tmp_path / "assignment.json")
    fixed = FixedNetwork(
        network, PrecisionAssignment.load(tmp_path / "assignment.json"), parameters
    )
    images = pixel_codes(255, fixed.input_format)[pixels]
    results = [fixed.train_step(images, labels, LearningRate.of(0.05), index) for index in range(3)]
    assert [result.loss for result in results] == pytest.approx(losses, abs=0.35)
    for (layer, tensor), counts in results[0].counts.items():
        if tensor in (
            "preactivations",
            "mean",
            "variance",
            "normalized",
            "branch",
            "gamma_grads",
            "beta_grads",
        ):
            assert counts.clipped <= 0.05 * counts.elements, (layer, tensor)
    evaluated = fixed.evaluate(images, labels)
    assert fixed.evaluate(images, labels) == evaluated  # running statistics rest


def test_a_batch_whose_sums_may_overflow_is_refused():
    network = Network(
        "n",
        (2, 2, 1),
        (
            Conv(name="c", filters=1, kernel=1, batch_norm=True),
            Dense(name="d", units=2, relu=False),
        ),
    )
    layers = {
        name: dataclasses.replace(
            row, preactivations=Format(32, 3), batch_norm=row.batch_norm and BatchNormPrecision()
        )
        for name, row in precise_assignment(network).layers.items()
    }
    with pytest.raises(
        InputError,
        match="layer 'c': sums of 4 squared pre-activations in .* may pass 63 bits; lower the",
    ):
        FixedNetwork(network, PrecisionAssignment("n", layers), initial_parameters(network, 0))


def test_the_root_of_a_perfect_square_is_exact():
    root = InverseRoot(Format(16, 0, signed=False), EPSILON)
    codes = [
        (1 << 2 * k) - (1 << 6) for k in range(3, 9)
    ]  # variance + 2**-10 is 2**-10, 2**-8, .. 1
    assert all(isqrt(code + 64) ** 2 == code + 64 for code in codes)
    wanted = [2 ** (8 - k) for k in range(3, 9)]
    assert [int(value) * root.format.step for value in root.of(np.array(codes))] == wanted
