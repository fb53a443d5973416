"""Accumulators in every order equal the twin, bit for bit and overflow for overflow."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import accumulators as oracle
from oracle.rounding import DETERMINISTIC
from support.bits import assert_same_codes

from fxsim import Accumulator, InputError
from fxsim.accumulator import ADDEND_ROUNDINGS, AXES, BIASES, WHEN, WHEN_OF_TILES
from fxsim.formats import OVERFLOWS
from fxsim.kernels.accumulators import adders
from fxsim.kernels.products.paths import INT32_MAX
from fxsim.ops import accumulation as kernel
from fxsim.windows import Window

ORDERS = {
    "sequential": {},
    "tree": {"order": "tree"},
    "tiles of 2": {"order": "tiles", "tile": 2},
    "tiles of 3": {"order": "tiles", "tile": 3},
}


def window(size, stride, padding):
    """Square, alike on all sides."""
    return Window((size, size), (stride, stride), (padding,) * 4)


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
    check_whole(a, b, model)
    return overflows


def check_whole(a, b, model, bias=None, shifts=(0, 0)):
    """Bias, lanes and all, as operations ask for it.  Returns the sums and their overflows."""
    plain = dataclasses.asdict(model)
    wanted = [
        [
            oracle.accumulate(
                [x * y for x, y in zip(row, column)],
                plain,
                None if bias is None else bias[n],
                shifts,
            )
            for n, column in enumerate(b.T.tolist())
        ]
        for row in a.tolist()
    ]
    codes = None if bias is None else np.array(bias, np.int32)
    got, overflows = kernel.accumulated_sums(
        kernel.lower_matmul(a, b), model, kernel.Bias(codes, *shifts)
    )
    assert_same_codes(
        got, [[cell[0] for cell in row] for row in wanted], what=f"{model}, bias {bias}"
    )
    assert overflows == sum(cell[1] for row in wanted for cell in row), f"overflows of {model}"
    return got, overflows


MOMENTS = [
    (order, when)
    for order in ORDERS
    for when in WHEN
    if ORDERS[order].get("order") != "tiles" or when in WHEN_OF_TILES
]
"""Orders with the moments at which their overflow may act."""


def every_row(bits, terms):
    return np.array(
        list(itertools.product(range(-(2 ** (bits - 1)), 2 ** (bits - 1)), repeat=terms)), np.int16
    )


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order, when", MOMENTS)
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


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order, when", MOMENTS)
def test_every_sum_of_three_terms_with_every_bias_place_and_lanes(order, overflow, when):
    """In every rounding of the terms; a column has a bias of its own."""
    rows = every_row(2, 3)
    columns = np.array([[3, -2, 2], [1, 3, -3], [3, 2, -3]], np.int16)
    met = dict.fromkeys(BIASES, 0)
    for place, lanes, mode in itertools.product(BIASES, (1, 2, 3, 5), DETERMINISTIC):
        if order == "tree" and place == "first":
            continue
        options = {"rounding": mode, "drop": 1, "bias": place, "lanes": lanes}
        model = Accumulator(3, overflow, when, **options, **ORDERS[order])
        for bias in (None, [-5, 3, 1]):
            met[place] += check_whole(rows, columns, model, bias, (0, 1))[1]
    assert met["after"]
    assert met["first"] or order == "tree"


@pytest.mark.parametrize("overflow", OVERFLOWS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("lanes", [2, 3, 4, 6, 7])
def test_every_sum_of_six_terms_in_lanes(order, overflow, lanes):
    """Lanes as long as each other, shorter by one, of one term, and without any."""
    rows = every_row(2, 6)[::5]
    ones = np.ones((6, 1), np.int16)
    for place in BIASES[: 1 if order == "tree" else 2]:
        model = Accumulator(3, overflow, bias=place, lanes=lanes, **ORDERS[order])
        assert check_whole(rows, ones, model, [-3])[1]
    assert check(rows, ones, Accumulator(2, overflow, lanes=lanes, **ORDERS[order])).any()


def test_where_the_bias_and_the_lanes_stand_is_seen_in_the_sum():
    """7 + 7 - 7 - 7 with a bias of 3 in 4 bits, which saturate at -8 and 7."""
    terms = np.array([[7, 7, -7, -7]])
    ones = np.ones((4, 1), np.int64)

    def sums(**options):
        got, met = check_whole(terms, ones, Accumulator(4, **options), [3])
        return got.item(), met

    assert sums() == (-4, 1)  # 7, 7, 0, -7, then -4
    assert sums(bias="first") == (-7, 2)  # 3, 7, 7, 0, -7
    assert sums(lanes=2) == (3, 0)  # 7 - 7 and 7 - 7, then 3
    assert sums(lanes=2, bias="first") == (0, 1)  # 3, 7, 0 and 7 - 7
    assert sums(lanes=4) == (-4, 1)  # 7, 7, 0, -7, then -4
    assert sums(lanes=9) == sums(lanes=4)
    assert sums(order="tiles", tile=2, bias="first") == (-7, 1)  # 3, 17 and 7, -7
    assert sums(bias="first", when="end") == sums(when="end", lanes=3) == (3, 0)


def test_a_bias_out_of_range_overflows_at_the_start():
    zeros = np.zeros((1, 1), np.int64)
    for overflow, wanted in (
        ("saturate", [7, -8]),
        ("saturate_symmetric", [7, -7]),
        ("saturate_zero", [0, 0]),
        ("wrap", [-6, 7]),
    ):
        model = Accumulator(4, overflow, bias="first")
        got, met = check_whole(zeros, np.zeros((1, 2), np.int64), model, [10, -9])
        assert got.tolist() == [wanted]
        assert met == 2


def bias_last(a, b, model, bias):
    return a, b, dataclasses.replace(model, bias="after"), bias


def lanes_of_neighbours(a, b, model, bias):
    """Term k in lane k // (K / lanes)."""
    order = np.arange(len(b)).reshape(model.lanes, -1).T.reshape(-1)
    return a[:, order], b[order], model, bias


def lanes_added_descending(a, b, model, bias):
    order = np.arange(len(b)).reshape(-1, model.lanes)[:, ::-1].reshape(-1)
    return a[:, order], b[order], model, bias


def terms_descending(a, b, model, bias):
    return a[:, ::-1], b[::-1], model, bias


@pytest.mark.parametrize(
    "bug, model, bias",
    [
        (bias_last, Accumulator(3, bias="first"), [2]),
        (bias_last, Accumulator(3, order="tiles", tile=2, bias="first", lanes=2), [2]),
        (lanes_of_neighbours, Accumulator(3, lanes=3), None),
        (lanes_of_neighbours, Accumulator(3, order="tree", lanes=3), [1]),
        (lanes_added_descending, Accumulator(3, lanes=3), None),
        (lanes_added_descending, Accumulator(2, "saturate_zero", lanes=3), [1]),
        (terms_descending, Accumulator(3, lanes=2, bias="first"), [-1]),
    ],
)
def test_a_planted_bug_is_caught(monkeypatch, bug, model, bias):
    rows = every_row(2, 6)[::3]
    ones = np.ones((6, 1), np.int16)
    check_whole(rows, ones, model, bias)
    right = kernel.accumulated_sums

    def wrong(lowered, model, bias):
        *product, model, bias = bug(rows, ones, model, bias)
        return right(kernel.lower_matmul(*product), model, bias)

    monkeypatch.setattr(kernel, "accumulated_sums", wrong)
    with pytest.raises(AssertionError, match="differ, first at"):
        check_whole(rows, ones, model, bias)


def build(bits, overflow, when, order, tile, mode, drop, bias, lanes, axes):
    """Where tree and bias first, or tiles and each operation meet, the order gives way."""
    if when == "each operation" and order == "tiles":
        order = "sequential"
    if bias == "first" and order == "tree":
        order = "sequential"
    tile = tile if order == "tiles" else 0
    return Accumulator(
        bits, overflow, when, order, tile, mode, drop, bias=bias, lanes=lanes, axes=axes
    )


MODELS = st.builds(
    build,
    st.integers(2, 62),
    st.sampled_from(OVERFLOWS),
    st.sampled_from(WHEN),
    st.sampled_from(["sequential", "tree", "tiles"]),
    st.integers(2, 40),
    st.sampled_from(DETERMINISTIC),
    st.integers(0, 20),
    st.sampled_from(BIASES),
    st.one_of(st.just(1), st.integers(1, 9)),
    st.sampled_from(AXES),
)


@given(
    MODELS,
    st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 9)),
    st.tuples(st.integers(1, 24), st.integers(1, 24), st.integers(1, 24)),
    st.tuples(st.integers(0, 8), st.integers(0, 8)),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_random_products_with_a_bias(model, shape, widths, shifts, tight, seed):
    random = np.random.default_rng(seed)
    m, k, n = shape
    a_bits, b_bits, bias_bits = widths
    a, b, bias = (
        random.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), size).astype(np.int32)
        for bits, size in zip(widths, ((m, k), (k, n), n))
    )
    if tight:  # a width at which such sums do overflow
        model = dataclasses.replace(model, bits=max(2, a_bits + b_bits - 2 - model.drop))
    sum_shift = 0 if model.bias == "first" else min(shifts[0], 62 - model.bits)
    if model.bias == "after" and model.bits + sum_shift > 61:
        model = dataclasses.replace(model, bits=61 - sum_shift)
    check_whole(a, b, model, bias.tolist(), (sum_shift, shifts[1]))


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
                Accumulator(bits, "wrap", when, drop=drop, **ORDERS[order]),
            )[0].item()
        )
        for order, when in MOMENTS
    }
    assert len(results) == 1


def test_a_term_that_saturates_by_itself_gives_another_sum():
    """-8 + 12 in 4 bits: 12 becomes 7 first, counted, and the sum -1; added whole it gives 4."""
    rows, ones = np.array([[-8, 12]], np.int16), np.ones((2, 1), np.int16)
    got = {
        when: tuple(part.item() for part in sums_of(rows, ones, Accumulator(4, when=when)))
        for when in WHEN
    }
    assert got == {"each addition": (4, 0), "each operation": (-1, 1), "end": (4, 0)}


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
    bias = None
    if kind == "forward":
        bias = kernel.Bias(random.integers(-32, 32, o).astype(np.int8), 0, 1)
        lowered = kernel.lower_forward(x, w, window(size, stride, padding))
        wanted, met = oracle.forward(
            x.tolist(), w.tolist(), stride, padding, plain, bias.codes.tolist(), (0, 1)
        )
    elif kind == "input_grad":
        lowered = kernel.lower_input_grad(g, w, x.shape[:3], window(size, stride, padding))
        wanted, met = oracle.input_grad(g.tolist(), w.tolist(), x.shape, stride, padding, plain)
    else:
        lowered = kernel.lower_weight_grad(x, g, window(size, stride, padding))
        wanted, met = oracle.weight_grad(x.tolist(), g.tolist(), w.shape, stride, padding, plain)
    sums, overflows = kernel.accumulated_sums(lowered, model, bias)
    assert_same_codes(sums.reshape(np.shape(wanted)), wanted, what=f"{kind}, {model}")
    assert overflows == met


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("turned", [1, 3, 5, 512])
def test_blocks_of_rows_make_one_product(monkeypatch, turned, bias, axes):
    random = np.random.default_rng(8)
    x = random.integers(-8, 8, (2, 5, 5, 2)).astype(np.int16)
    w = random.integers(-8, 8, (3, 3, 2, 4)).astype(np.int16)
    start = kernel.Bias(random.integers(-99, 99, 4))
    model = Accumulator(7, bias=bias, lanes=2, axes=axes)
    lowered = kernel.lower_forward(x, w, window(3, 1, 1))
    whole, met = kernel.accumulated_sums(lowered, model, start)
    monkeypatch.setattr(kernel, "BLOCK_CODES", 18 * 7)
    monkeypatch.setattr(kernel, "TURNED_ROWS", turned)
    parts, met_in_parts = kernel.accumulated_sums(lowered, model, start)
    assert np.array_equal(whole, parts)
    assert met == met_in_parts > 0


@pytest.mark.parametrize("kind", ["forward", "input_grad"])
def test_the_order_of_axes_is_seen_where_sums_saturate_and_not_elsewhere(kind):
    random = np.random.default_rng(9)
    x, w = random.integers(-8, 8, (2, 4, 4, 3)), random.integers(-8, 8, (3, 3, 3, 3))
    lower = {
        "forward": lambda: kernel.lower_forward(x, w, window(3, 1, 1)),
        "input_grad": lambda: kernel.lower_input_grad(x, w, x.shape[:3], window(3, 1, 1)),
    }[kind]
    for bits, equal in ((8, False), (40, True)):
        first, last = (
            kernel.accumulated_sums(lower(), Accumulator(bits, axes=axes))[0] for axes in AXES
        )
        assert np.array_equal(first, last) == equal


def test_the_axes_change_no_weight_gradient():
    random = np.random.default_rng(9)
    x, g = random.integers(-8, 8, (2, 4, 4, 3)), random.integers(-8, 8, (2, 4, 4, 3))
    lowered = kernel.lower_weight_grad(x, g, window(3, 1, 1))
    first, last = (kernel.accumulated_sums(lowered, Accumulator(8, axes=axes)) for axes in AXES)
    assert np.array_equal(first[0], last[0])
    assert first[1] == last[1] > 0


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


@given(
    st.lists(st.lists(st.integers(-9, 9), min_size=5, max_size=5), min_size=1, max_size=3),
    st.lists(st.lists(st.integers(-9, 9), min_size=2, max_size=2), min_size=5, max_size=5),
    st.one_of(st.none(), st.lists(st.integers(-200, 200), min_size=2, max_size=2)),
    st.integers(2, 12),
    MODELS,
    st.integers(0, 3),
)
def test_what_never_overflows_is_the_exact_sum(left, right, bias, bits, model, shift):
    model = dataclasses.replace(model, bits=bits, drop=0)
    a = np.array(left)
    b = np.array(right)
    shifts = (0, shift) if model.bias == "first" else (shift, 0)
    codes = None if bias is None else np.array(bias)
    if not kernel.never_overflows(a, b, model, kernel.Bias(codes, *shifts)):
        return
    exact = (a @ b << shifts[0]) + (0 if bias is None else codes << shifts[1])
    got, met = check_whole(a, b, model, bias, shifts)
    assert np.array_equal(got, exact)
    assert met == 0


def test_one_more_in_the_bias_may_overflow():
    """10 * 3 + 97 = 127 fits 8 bits."""
    factors = np.array([[-10]]), np.array([[3]])
    for place in BIASES:
        for bias, never in (([97], True), ([98], False), ([-98], False)):
            model = Accumulator(8, bias=place)
            assert kernel.never_overflows(*factors, model, kernel.Bias(np.array(bias))) == never


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
    "24 bits, saturate each addition, sequential, bias first, 4 lanes, channel last": Accumulator(
        24, bias="first", lanes=4, axes="channel_last"
    ),
    "16 bits, wrap each operation, sequential, floor to 2^-8": Accumulator(
        16, "wrap", "each operation", step_exp=-8
    ),
    "24 bits, wrap each addition, tiles of 2, jam 1, bias first": Accumulator(
        24, "wrap", order="tiles", tile=2, rounding="jam", drop=1, bias="first"
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
        (" tree ,10 bits", Accumulator(10, order="tree")),
        ("9 bits, 1 lane, bias after, channel first", Accumulator(9)),
        ("2 lanes, 9", Accumulator(9, lanes=2)),
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
        ("24 bits, 0 lanes", "at least 1"),
        ("24 bits, lanes 2", "'lanes 2' is unknown"),
        ("24 bits, bias last", "'bias last' is unknown"),
        ("24 bits, bias first, bias after", "says twice"),
        ("24 bits, tree, bias first", "got order 'tree', which has no start"),
        ("24 bits, channels last", "unknown"),
        ("24 bits, wrap each operation, tiles of 2", "'tiles', whose terms are summed exactly"),
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
        ({"bias": "last"}, "choose from after, first"),
        ({"axes": "channel last"}, "did you mean 'channel_last'"),
        ({"lanes": 0}, "at least 1, got 0"),
        ({"lanes": -2}, "at least 1, got -2"),
        ({"order": "tree", "bias": "first"}, "use bias 'after'"),
    ],
)
def test_an_accumulator_that_is_none(options, why):
    with pytest.raises(InputError, match=why):
        Accumulator(8, **options)


def test_addends_round_in_every_deterministic_mode():
    assert set(ADDEND_ROUNDINGS) == set(DETERMINISTIC)


@pytest.mark.parametrize(
    "options",
    [
        {"bits": 8.0},
        {"bits": True},
        {"bits": "8"},
        {"bits": 8, "lanes": 2.0},
        {"bits": 8, "lanes": None},
        {"bits": 8, "drop": False},
        {"bits": 8, "bias": True},
        {"bits": 8, "bias": None},
        {"bits": 8, "axes": ["channel_last"]},
        {"bits": 8, "overflow": 0},
        {"bits": 8, "step_exp": "-3"},
    ],
)
def test_a_field_of_another_type_is_refused(options):
    for make in (lambda row: Accumulator(**row), Accumulator.from_dict):
        with pytest.raises(TypeError, match="must be"):
            make(options)


def test_numpy_integers_become_json():
    model = Accumulator(np.int64(8), lanes=np.uint8(3), step_exp=np.int32(-2))
    assert json.loads(json.dumps(model.to_dict())) == model.to_dict()
    assert model == Accumulator(8, lanes=3, step_exp=-2)


def test_a_mapping_that_is_no_accumulator():
    with pytest.raises(InputError, match="did you mean 'lanes'"):
        Accumulator.from_dict({"bits": 8, "lane": 2})
    with pytest.raises(TypeError, match="mapping"):
        Accumulator.from_dict([8])


def test_a_first_bias_needs_the_accumulators_step():
    model = Accumulator(8, bias="first")
    lowered = kernel.lower_matmul(np.ones((1, 2), np.int8), np.ones((2, 1), np.int8))
    bias = kernel.Bias(np.array([4]), 1, 0)
    with pytest.raises(InputError, match="1 bits finer.*use bias 'after'"):
        kernel.accumulated_sums(lowered, model, bias)
    assert kernel.accumulated_sums(lowered, Accumulator(8), bias)[0].item() == 8
    with pytest.raises(InputError, match=r"step 2\^-12, got 2\^-13"):
        kernel.bias_shifts(model, -12, -13)
    assert kernel.bias_shifts(model, -12, -12) == (0, 0)
    assert kernel.bias_shifts(Accumulator(8), -12, -13) == (1, 0)


def test_fields_without_effect_are_refused_for_one_operation():
    first = Accumulator(8, bias="first")
    last = Accumulator(8, axes="channel_last")
    first.check_used("conv2d", has_bias=True, has_channels=True)
    last.check_used("conv2d", has_bias=False, has_channels=True)
    with pytest.raises(InputError, match="matmul: .*bias 'first' has no effect"):
        first.check_used("matmul", has_bias=False, has_channels=False)
    with pytest.raises(InputError, match="linear: .*axes 'channel_last' has no effect"):
        last.check_used("linear", has_bias=True, has_channels=False)


@pytest.mark.parametrize(
    "codes, model, bias",
    [
        (2**31 - 1, Accumulator(40, order="tiles", tile=4), None),
        (2**31 - 1, Accumulator(40, when="end"), None),
        (1, Accumulator(40), kernel.Bias(np.array([2**31]), 0, 32)),
        (1, Accumulator(40, bias="first"), kernel.Bias(np.array([2**31]), 0, 32)),
        (1, Accumulator(60), kernel.Bias(np.array([1]), 4, 0)),
    ],
)
def test_what_int64_may_not_hold_is_refused(codes, model, bias):
    factors = np.full((1, 4), codes, np.int64), np.full((4, 1), codes, np.int64)
    with pytest.raises(InputError, match=r"within 2\^62 before they overflow, got up to 2\^6"):
        kernel.accumulated_sums(kernel.lower_matmul(*factors), model, bias)


def test_an_accumulator_with_a_step_must_be_resolved():
    lowered = kernel.lower_matmul(np.ones((1, 2), np.int8), np.ones((2, 1), np.int8))
    with pytest.raises(InputError, match="resolve it first"):
        kernel.accumulated_sums(lowered, Accumulator(8, step_exp=-3))
