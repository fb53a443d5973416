"""Accumulators in every order equal the twin, bit for bit and overflow for overflow."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import accumulators as oracle
from oracle.rounding import DETERMINISTIC
from support.bits import assert_same_codes

from fxsim import Accumulator, InputError
from fxsim.accumulator import ADDEND_ROUNDINGS, WHEN
from fxsim.formats import OVERFLOWS
from fxsim.kernels.accumulators import adders
from fxsim.kernels.products.paths import INT32_MAX
from fxsim.ops import accumulation as kernel

ORDERS = {
    "sequential": {},
    "tree": {"order": "tree"},
    "tiles of 2": {"order": "tiles", "tile": 2},
    "tiles of 3": {"order": "tiles", "tile": 3},
}


def sums_of(a, b, model):
    """(sums, overflows), both (M, N)."""
    sums, overflows = kernel.accumulate(a, b, model)
    if model.at_end:
        overflows = np.array(
            [kernel.bounded(one, model)[1] for one in sums.reshape(-1, 1)]
        ).reshape(sums.shape)
    return kernel.bounded(sums, model)[0], overflows


def check(a, b, model):
    rows = a.tolist()
    columns = b.T.tolist()
    wanted = [
        [
            oracle.accumulate([x * y for x, y in zip(row, column)], dataclasses.asdict(model))
            for column in columns
        ]
        for row in rows
    ]
    inputs = np.array([[f"{row} . {column}" for column in columns] for row in rows], dtype=object)
    got, overflows = sums_of(a, b, model)
    assert_same_codes(got, [[cell[0] for cell in row] for row in wanted], inputs, str(model))
    assert_same_codes(
        overflows, [[cell[1] for cell in row] for row in wanted], inputs, f"overflows of {model}"
    )
    return overflows


def every_row(bits, terms):
    return np.array(
        list(itertools.product(range(-(2 ** (bits - 1)), 2 ** (bits - 1)), repeat=terms)), np.int16
    )


@pytest.mark.parametrize("when", WHEN)
@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order", ORDERS)
def test_every_sum_of_three_terms(order, overflow, when):
    """In every rounding, which the overflow does not touch, where it saturates.

    In some where it does not.
    """
    rows = every_row(3, 3)
    ones = np.ones((3, 1), np.int16)
    modes = DETERMINISTIC if overflow == "saturate" else ("nearest_odd", "jam")
    for bits, mode, drop in ((3, "floor", 0), (3, "jam", 0), *((2, mode, 1) for mode in modes)):
        model = Accumulator(bits, overflow, when, rounding=mode, drop=drop, **ORDERS[order])
        assert check(rows, ones, model).any()


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("terms", [1, 2, 4, 5, 7])
def test_every_sum_of_up_to_seven_terms(terms, order, overflow):
    """Trees that are full, lack one leaf, or have a single leaf beside a full one.

    Tiles that end short.
    """
    rows = every_row(2, terms)[:: max(1, 4**terms // 1024)]
    check(
        rows,
        np.array([[1], [-1]] * terms, np.int16)[:terms],
        Accumulator(2, overflow, **ORDERS[order]),
    )


MODELS = st.builds(
    lambda bits, overflow, when, order, tile, mode, drop: Accumulator(
        bits, overflow, when, order, tile if order == "tiles" else 0, mode, drop
    ),
    st.integers(2, 62),
    st.sampled_from(OVERFLOWS),
    st.sampled_from(WHEN),
    st.sampled_from(["sequential", "tree", "tiles"]),
    st.integers(2, 40),
    st.sampled_from(DETERMINISTIC),
    st.integers(0, 20),
)


@given(
    MODELS,
    st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 4)),
    st.integers(1, 24),
    st.integers(1, 24),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_random_products(model, shape, a_bits, b_bits, tight, seed):
    random = np.random.default_rng(seed)
    m, k, n = shape
    a, b = (
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size).astype(np.int32)
        for bits, size in ((a_bits, (m, k)), (b_bits, (k, n)))
    )
    if tight:  # a width at which such sums do overflow
        model = dataclasses.replace(model, bits=max(2, a_bits + b_bits - 2 - model.drop))
    check(a, b, model)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", ["saturate", "wrap", "saturate_zero"])
def test_int32_and_int64_agree_on_both_sides_of_what_int32_holds(monkeypatch, order, rule):
    """Products and limits next to 2**31, and one step beyond."""
    used = []
    right = adders.parallel_for
    monkeypatch.setattr(
        adders, "parallel_for", lambda *args: (used.append(args[3].dtype), right(*args))[1]
    )
    tile = {"sequential": 1, "tree": 1}.get(order) or ORDERS[order]["tile"]
    model = Accumulator(
        24, rule if order != "sequential" or rule != "saturate" else "wrap", **ORDERS[order]
    )
    room = INT32_MAX - 1 if order == "tree" else (INT32_MAX - 2**23) // tile - 1
    for most, dtype in ((room, np.int32), (room + 1, np.int64)):
        a = np.array([[most, -most, most, 1, most]])
        b = np.ones((5, 1), np.int64)
        check(a, b, model)
        assert used.pop() == dtype


def test_more_outputs_than_a_strip():
    random = np.random.default_rng(3)
    a, b = (
        random.integers(-128, 128, shape).astype(np.int16)
        for shape in ((2, 9), (9, adders.STRIP + 3))
    )
    for options in ORDERS.values():
        assert check(a, b, Accumulator(15, "saturate_zero", **options)).any()


@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=30),
    st.integers(2, 24),
    st.integers(0, 3),
)
def test_wrapping_is_the_same_in_every_order_and_at_the_end(terms, bits, drop):
    rows = np.array([terms], np.int32)
    results = {
        int(
            sums_of(
                rows,
                np.ones((len(terms), 1), np.int32),
                Accumulator(bits, "wrap", when, drop=drop, **options),
            )[0].item()
        )
        for options in ORDERS.values()
        for when in WHEN
    }
    assert len(results) == 1


def test_orders_differ_where_they_saturate():
    """7 + 7 - 7 - 7 + 1 in 4 bits.

    7, 7, 0, -7, -6; by tree (7 + 7) + (-7 - 7) + 1 = 7 - 8 + 1; by pairs 7, -7, -6.
    """
    terms = np.array([[7, 7, -7, -7, 1]], np.int16)
    got = {
        name: tuple(
            part.item()
            for part in sums_of(terms, np.ones((5, 1), np.int16), Accumulator(4, **options))
        )
        for name, options in ORDERS.items()
    }
    assert got == {
        "sequential": (-6, 1),
        "tree": (0, 2),
        "tiles of 2": (-6, 1),
        "tiles of 3": (1, 0),
    }
    assert sums_of(terms, np.ones((5, 1), np.int16), Accumulator(4, when="end"))[0].item() == 1


shapes = st.tuples(
    st.integers(1, 2),
    st.integers(1, 5),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(0, 2),
).filter(lambda s: s[5] > s[7] and min(s[1], s[2]) + 2 * s[7] >= s[5])
"""N, H, W, C, O, kernel, stride, padding."""


@pytest.mark.parametrize("kind", ["forward", "input_grad", "weight_grad"])
@given(shapes, MODELS, st.integers(2, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_convolutions(kind, shape, model, bits, seed):
    n, height, width, c, o, size, stride, padding = shape
    random = np.random.default_rng(seed)
    model = dataclasses.replace(model, bits=bits, drop=model.drop % 4)
    positions = [(side + 2 * padding - size) // stride + 1 for side in (height, width)]
    x, w, g = (
        random.integers(-16, 16, dims).astype(np.int16)
        for dims in ((n, height, width, c), (size, size, c, o), (n, *positions, o))
    )
    plain = dataclasses.asdict(model)
    if kind == "forward":
        lowered = kernel.lower_forward(x, w, stride, padding)
        wanted, met = oracle.forward(x.tolist(), w.tolist(), stride, padding, plain)
    elif kind == "input_grad":
        lowered = kernel.lower_input_grad(g, w, x.shape, stride, padding)
        wanted, met = oracle.input_grad(g.tolist(), w.tolist(), x.shape, stride, padding, plain)
    else:
        lowered = kernel.lower_weight_grad(x, g, size, stride, padding)
        wanted, met = oracle.weight_grad(x.tolist(), g.tolist(), w.shape, stride, padding, plain)
    sums, overflows = kernel.accumulate_blocks(lowered, model)
    sums, more = kernel.bounded(sums, model)
    assert_same_codes(sums.reshape(np.shape(wanted)), wanted, what=f"{kind}, {model}")
    assert overflows + more == met


@pytest.mark.parametrize("turned", [1, 3, 5, 512])
def test_blocks_of_rows_make_one_product(monkeypatch, turned):
    random = np.random.default_rng(8)
    x = random.integers(-8, 8, (2, 5, 5, 2)).astype(np.int16)
    w = random.integers(-8, 8, (3, 3, 2, 4)).astype(np.int16)
    model = Accumulator(7, order="tree")
    lowered = kernel.lower_forward(x, w, 1, 1)
    whole, met = kernel.accumulate_blocks(lowered, model)
    monkeypatch.setattr(kernel, "BLOCK_CODES", 18 * 7)
    monkeypatch.setattr(kernel, "TURNED_ROWS", turned)
    parts, met_in_parts = kernel.accumulate_blocks(lowered, model)
    assert np.array_equal(whole, parts)
    assert met == met_in_parts > 0


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=4, max_size=4), min_size=1, max_size=3),
    st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=4, max_size=4),
    st.integers(0, 15),
)
def test_no_sum_of_some_terms_is_larger_than_the_bound(left, right, subset):
    chosen = [k for k in range(4) if subset >> k & 1]
    bound = kernel.largest_sum(np.array(left), np.array(right))
    for row, column in itertools.product(left, zip(*right)):
        assert abs(sum(row[k] * column[k] for k in chosen)) <= bound


def test_the_bound_is_reached():
    assert kernel.largest_sum(np.array([[-8, 8]], np.int16), np.array([[3], [-4]], np.int16)) == 56


TEXTS = {
    "24 bits, saturate each addition, sequential": Accumulator(24),
    "16 bits, wrap at the end, tree, floor 2": Accumulator(16, "wrap", "end", "tree", drop=2),
    "12 bits, saturate_symmetric each addition, tiles of 16, nearest_even 3": Accumulator(
        12, "saturate_symmetric", order="tiles", tile=16, rounding="nearest_even", drop=3
    ),
    "20 bits, saturate_zero each addition, sequential, jam 0": Accumulator(
        20, "saturate_zero", rounding="jam"
    ),
    "24 bits, saturate each addition, tree, zero to 2^-12": Accumulator(
        24, order="tree", rounding="zero", step_exp=-12
    ),
}


@pytest.mark.parametrize("text", TEXTS)
def test_an_accumulator_is_written_and_read(text):
    assert str(TEXTS[text]) == text
    assert Accumulator.parse(text) == TEXTS[text]


@given(MODELS)
def test_every_accumulator_is_read_as_it_was_written(model):
    assert Accumulator.parse(str(model)) == model
    assert Accumulator.from_dict(model.to_dict()) == model


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("24", Accumulator(24)),
        ("wrap, 9 bits", Accumulator(9, "wrap")),
        ("8 bits, saturate end", Accumulator(8, when="end")),
        (" tree ,1 0 bits".replace("1 0", "10"), Accumulator(10, order="tree")),
    ],
)
def test_a_short_text_is_enough(text, wanted):
    assert Accumulator.parse(text) == wanted


@pytest.mark.parametrize(
    "text, why",
    [
        ("saturate", "has no bits"),
        ("24 bits, satürate", "'satürate' is unknown"),
        ("24 bits, 12 bits", "says twice"),
        ("24 bits, tree, tiles of 4", "says twice"),
        ("24 bits, stochastic 2", "unknown"),
        ("1 bits", "2 to 62"),
        ("63 bits", "2 to 62"),
        ("24 bits, tiles of 1", "at least 2"),
        ("24 bits, floor 63", "0 to 62"),
    ],
)
def test_a_text_that_is_no_accumulator(text, why):
    with pytest.raises(InputError, match=why):
        Accumulator.parse(text)


@pytest.mark.parametrize(
    "options, why",
    [
        ({"tile": 4}, "for order 'tiles'"),
        ({"overflow": "clip"}, "unknown"),
        ({"when": "never"}, "unknown"),
        ({"rounding": "stochastic"}, "unknown"),
        ({"order": "tre"}, "did you mean 'tree'"),
        ({"drop": 1, "step_exp": -3}, "leave one out"),
    ],
)
def test_an_accumulator_that_is_none(options, why):
    with pytest.raises(InputError, match=why):
        Accumulator(8, **options)


def test_addends_round_in_every_deterministic_mode():
    assert set(ADDEND_ROUNDINGS) == set(DETERMINISTIC)
