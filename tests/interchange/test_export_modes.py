"""Every rounding, overflow and accumulator that the exports take, at ties and at the ends."""

import dataclasses
import functools

import numpy as np
import pytest
from support.export_cases import (
    assert_exported,
    assignment,
    by_onnxruntime,
    by_qonnx,
    images_of,
)

from fxsim import (
    OVERFLOWS,
    ROUNDINGS,
    Accumulator,
    Activation,
    Conv,
    Dense,
    DroppedBits,
    FixedNetwork,
    Format,
    InputError,
    LayerPrecision,
    Network,
    Pool,
    PrecisionAssignment,
)
from fxsim.formats import DETERMINISTIC, STOCHASTIC
from fxsim.interchange import to_onnx, to_qonnx

pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

INPUT = Format(8, 3)
WHOLE = Format(4, 3)
"""A weight of code 1 is 1."""

EXPORTS = {
    "onnx": (to_onnx, by_onnxruntime),
    "qonnx": (functools.partial(to_qonnx, batch=256), by_qonnx),
}


def passing(
    middle, rounding="nearest_away", overflow="saturate", activation="none", pool=None, words=None
):
    """A network that brings every code of INPUT into the format `middle`, and gives it out.

    words: of a stochastic rounding.  pool: of the codes in that format; the image then has five positions.
    """
    places = 5 if pool else 1
    layers = (
        Conv(name="a", filters=1, kernel=1, activation=activation, pool=pool, bias=False),
        Dense(name="b", units=1, activation="none", bias=False),
    )
    network = Network("n", (1, places, 1), layers, "mse", "tensors")
    formats = {
        name: LayerPrecision(
            weights=WHOLE,
            activations=format,
            activation_grads=Format(8, 0),
            weight_grads=Format(8, 0),
            accumulators=None,
        )
        for name, format in (("a", INPUT), ("b", middle))
    }
    precision = PrecisionAssignment(
        "n",
        formats,
        Format(24, middle.range_exp + 8),
        {"activations": rounding},
        {"activations": overflow},
        words={} if words is None else {"activations": words},
    )
    weights = np.ones((1, 1, 1, 1)), np.ones((network.shape("b").weight[0], 1))
    return FixedNetwork(
        network, precision, {"a": {"weight": weights[0]}, "b": {"weight": weights[1]}}
    )


def all_codes(fixed):
    """256 images: every code of INPUT, in every position another one."""
    codes = np.arange(-128, 128).reshape(-1, 1, 1, 1)
    places = fixed.network.input_shape[1]
    return np.concatenate([np.roll(codes * (3 * n + 1), 5 * n, 0) for n in range(places)], 2)


def wrapped(codes):
    return (codes + 128) % 256 - 128


def assert_same(kind, fixed, tmp_path, what):
    export, run = EXPORTS[kind]
    codes = wrapped(all_codes(fixed))
    assert_exported(export, run, fixed, tmp_path / "m.onnx", codes, what)


FORMATS = {
    "coarse": Format(4, 2),  # drops 2 bits, ends inside
    "half": Format(6, 2),  # drops 1 bit... and ends inside
    "unsigned": Format(3, 2, False),
    "fine": Format(9, 2),  # a shift to the left
    "one bit": Format(1, 1, False),
}


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("kind", EXPORTS)
def test_every_rounding_at_every_overflow(kind, rounding, tmp_path):
    for overflow in OVERFLOWS:
        for name in ("coarse", "unsigned"):
            fixed = passing(FORMATS[name], rounding, overflow)
            assert_same(kind, fixed, tmp_path, f"{rounding}, {overflow}, {name}")


def test_the_codes_tell_all_modes_apart():
    made = set()
    for rounding in DETERMINISTIC:
        for overflow in OVERFLOWS:
            fixed = passing(FORMATS["coarse"], rounding, overflow)
            made.add(fixed.logits(wrapped(all_codes(fixed))).tobytes())
    assert len(made) == len(DETERMINISTIC) * len(OVERFLOWS)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", EXPORTS)
def test_every_shift(kind, name, tmp_path):
    for rounding in ("nearest_away", "jam", "nearest_odd"):
        for overflow in ("saturate_symmetric", "wrap"):
            fixed = passing(FORMATS[name], rounding, overflow)
            assert_same(kind, fixed, tmp_path, f"{rounding}, {overflow}, {name}")


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("kind", EXPORTS)
def test_ceilings_of_a_relu(kind, overflow, tmp_path):
    for ceiling in (None, 2.25, 4.0):
        for rounding in ("nearest_even", "jam"):
            relu = Activation("relu", ceiling=ceiling)
            fixed = passing(Format(4, 2), rounding, overflow, relu)
            assert_same(kind, fixed, tmp_path, f"{rounding}, {overflow}, ceiling {ceiling}")


@pytest.mark.parametrize("rounding", DETERMINISTIC)
@pytest.mark.parametrize("kind", EXPORTS)
def test_every_rounding_of_averages(kind, rounding, tmp_path):
    for places in (3, 2, 5):
        pool = Pool("average", (1, places), 1, rounding=rounding)
        fixed = passing(Format(8, 3), pool=pool)
        assert_same(kind, fixed, tmp_path, f"{rounding} of {places}")


@pytest.mark.parametrize("interpolation", ["none", "linear"])
@pytest.mark.parametrize("kind", EXPORTS)
def test_tables_from_end_to_end(kind, interpolation, tmp_path):
    for index_bits, range_exp in ((3, 1), (6, 2), (8, 3), (6, -1), (10, 3)):
        table = Activation(
            "table",
            function="tanh",
            interpolation=interpolation,
            index_bits=index_bits,
            range_exp=range_exp,
        )
        fixed = passing(Format(8, 0), "nearest_even", activation=table)
        assert_same(kind, fixed, tmp_path, f"2^{index_bits} to 2^{range_exp}")


@pytest.mark.parametrize("slope_exp", [-1, -3, -7])
@pytest.mark.parametrize("kind", EXPORTS)
def test_slopes_of_a_leaky_relu(kind, slope_exp, tmp_path):
    leaky = Activation("leaky_relu", slope_exp=slope_exp)
    for rounding in ("nearest_away", "nearest_zero", "floor", "nearest_odd"):
        assert_same(
            kind, passing(Format(6, 2), rounding, activation=leaky), tmp_path, f"{rounding}"
        )


@pytest.mark.parametrize("kind", EXPORTS)
def test_stochastic_rounding_by_dropped_bits(kind, tmp_path):
    for bits in (7, 6, 5, 4, 9):
        for overflow in ("saturate", "wrap"):
            fixed = passing(Format(bits, 3), "stochastic", overflow, words=DroppedBits())
            assert_same(kind, fixed, tmp_path, f"{bits} bits, {overflow}")


@pytest.mark.parametrize("rounding", STOCHASTIC)
@pytest.mark.parametrize("export", [to_onnx, to_qonnx])
def test_random_words_are_refused(export, rounding, tmp_path):
    with pytest.raises(InputError, match=f"layer 'b': activations are rounded by '{rounding}'"):
        export(passing(Format(4, 2), rounding), tmp_path / "m.onnx")
    assert set(ROUNDINGS) == {*DETERMINISTIC, *STOCHASTIC}


def dense(accumulator=None, weights=8, activations=8, extreme=False):
    """A fully connected layer of 40 inputs; extreme: all weights at the lower end."""
    network = Network("n", (1, 1, 40), (Dense(name="a", units=3, activation="none"),))
    formats = assignment(network, weights, activations)
    if accumulator:
        formats = dataclasses.replace(formats, accumulator={"forward": accumulator})
    weight = np.random.default_rng(1).uniform(-1, 1, (40, 3))
    if extreme:
        weight[:] = -2
    return FixedNetwork(network, formats, {"a": {"weight": weight, "bias": np.full(3, 0.3)}})


@pytest.mark.parametrize(
    "accumulator",
    [
        Accumulator(24),
        Accumulator(13, overflow="wrap"),
        Accumulator(13, overflow="wrap", order="tree", when="each operation"),
        Accumulator(13, when="end"),
        Accumulator(13, overflow="saturate_symmetric", when="end", bias="first"),
        Accumulator(13, overflow="saturate_zero", when="end"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", EXPORTS)
def test_accumulators_whose_order_does_not_matter(kind, accumulator, tmp_path):
    try:
        fixed = dense(accumulator)
    except InputError:  # a first bias of a finer step
        fixed = dense(dataclasses.replace(accumulator, bias="after"))
    export, run = EXPORTS[kind]
    assert_exported(export, run, fixed, tmp_path / "m.onnx", images_of(fixed, 256))


@pytest.mark.parametrize(
    "accumulator",
    [Accumulator(13), Accumulator(24, drop=2), Accumulator(13, when="end", drop=1)],
    ids=str,
)
@pytest.mark.parametrize("export", [to_onnx, to_qonnx])
def test_accumulators_that_change_sums_on_the_way_are_refused(export, accumulator, tmp_path):
    with pytest.raises(InputError, match="layer 'a': its accumulator .* no operator does"):
        export(dense(accumulator), tmp_path / "m.onnx")


@pytest.mark.parametrize("activations", [8, 9])
def test_bytes_at_their_ends(activations, tmp_path):
    """Where a processor adds pairs of products in int16, 255 times 128 twice would saturate."""
    fixed = dense(activations=activations, extreme=True)
    assert_exported(to_onnx, by_onnxruntime, fixed, tmp_path / "m.onnx", images_of(fixed, 9))


def test_formats_of_1_bit_with_a_sign_are_no_quant_nodes(tmp_path):
    with pytest.raises(InputError, match=r"layer 'a': a tensor in s1 .* 2 or more with a sign"):
        to_qonnx(passing(Format(1, 1)), tmp_path / "m.onnx")


def wide_product(drop, rounding):
    """One product of up to 24 bits, of which so many are dropped."""
    network = Network(
        "n",
        (1, 1, 1),
        (
            Dense(name="a", units=1, activation="none", bias=False),
            Dense(name="b", units=1, activation="none", bias=False),
        ),
        "mse",
        "tensors",
    )
    wide = Format(13, 12)
    step = Format(12, 12, False)
    gone = Format(24 - drop + 1, 24)
    formats = {
        name: LayerPrecision(
            weights=weights,
            activations=format,
            activation_grads=Format(8, 0),
            weight_grads=Format(8, 0),
            accumulators=None,
        )
        for name, format, weights in (("a", step, wide), ("b", gone, WHOLE))
    }
    precision = PrecisionAssignment("n", formats, Format(24, 24), {"activations": rounding})
    weights = {"a": {"weight": np.full((1, 1), 4095.0)}, "b": {"weight": np.ones((1, 1))}}
    return FixedNetwork(network, precision, weights)


@pytest.mark.parametrize("rounding", ["nearest_away", "nearest_zero", "nearest_even", "away"])
def test_sums_at_the_end_of_float32(rounding, tmp_path):
    export = functools.partial(to_qonnx, batch=4096)
    run = by_qonnx
    for drop in (1, 2, 12):
        fixed = wide_product(drop, rounding)
        codes = np.arange(4096).reshape(-1, 1, 1, 1)
        assert_exported(export, run, fixed, tmp_path / "m.onnx", codes, f"{drop} bits dropped")


def test_half_a_step_beyond_float32_is_refused(tmp_path):
    with pytest.raises(InputError, match="layer 'a': a value on the way to its output needs"):
        to_qonnx(wide_product(20, "nearest_away"), tmp_path / "m.onnx")
