"""The convolution and its gradients as operations: rounded as the twin says, adjoint, with
accumulators, and by the fused kernels and Winograd's algorithm.
"""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import accumulators as accumulator_oracle
from oracle import operations as oracle
from oracle import products as products_oracle
from oracle import rounding as rounding_oracle
from support.conv_cases import sums_of
from support.operations_cases import (
    EVERY_MODE,
    Rounded,
    accumulators,
    check_exact,
    check_rounded,
    codes_of,
    inner,
    reals,
    roundeds,
    tensor_of,
    tuple_of,
)

from fxsim import ops
from fxsim.accumulator import Overflows
from fxsim.errors import InputError
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.ops.products import ProductSum
from fxsim.quantizer import Quantizer
from fxsim.rng import Stream
from fxsim.tensor import Tensor, requantize

FORMATS = st.builds(Format, st.integers(1, 17), st.integers(-3, 3), st.booleans())
SEEDS = st.integers(0, 2**32 - 1)


def numbers(least, most):
    """A number, or one for rows and one for columns."""
    sizes = st.integers(least, most)
    return st.one_of(sizes, st.tuples(sizes, sizes))


@st.composite
def paddings(draw, spans):
    """A padding in any of its forms, narrower than the kernel."""
    rows, columns = (st.integers(0, span - 1) for span in spans)
    form = draw(st.integers(0, 4))
    if form < 2:
        return ("same", "valid")[form]
    if form == 2:
        return draw(st.integers(0, min(spans) - 1))
    if form == 3:
        return draw(rows), draw(columns)
    return draw(rows), draw(rows), draw(columns), draw(columns)


@st.composite
def cases(draw, most=3):
    """(x, w, g, bias, geometry) of a small convolution."""
    kernel = products_oracle.both(draw(numbers(1, 3)))
    stride = draw(numbers(1, 3))
    dilation = draw(numbers(1, 2))
    spans = products_oracle.spans_of(kernel, dilation)
    padding = draw(paddings(spans))
    height, width = (draw(st.integers(span, span + 3)) for span in spans)
    groups = draw(st.integers(1, most))
    channels, outputs = (groups * draw(st.integers(1, 2)) for _ in range(2))
    x_shape = (draw(st.integers(1, most)), height, width, channels)
    w_shape = (*kernel, channels // groups, outputs)
    geometry = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    around = products_oracle.around(padding, x_shape, w_shape, stride, dilation)
    positions = products_oracle.positions(x_shape, w_shape, stride, around, dilation)
    shapes = x_shape, w_shape, (x_shape[0], *positions, outputs), (outputs,)
    x, w, g, bias = (tensor_of(draw(SEEDS), draw(FORMATS), shape) for shape in shapes)
    return x, w, g, bias if draw(st.booleans()) else None, geometry


def where_of(case):
    """The geometry as the twin takes it: (stride, padding on four sides), and what is further."""
    x, w, _, _, geometry = case
    dilation = geometry.get("dilation", 1)
    stride = geometry["stride"]
    around = products_oracle.around(geometry["padding"], x.shape, w.shape, stride, dilation)
    return (stride, around), {"dilation": dilation, "groups": geometry.get("groups", 1)}


def step_of(tensor):
    return rounding_oracle.step(tuple_of(tensor.format))


def three(case, path="auto", **options):
    """Kind -> a function that computes the exact result anew."""
    x, w, g, bias, geometry = case
    options |= geometry
    return {
        "forward": lambda: ops.conv2d(x, w, bias, **options).by(path),
        "input_grad": lambda: ops.conv2d_input_grad(g, w, x.shape, **options).by(path),
        "weight_grad": lambda: ops.conv2d_weight_grad(x, g, w.shape, **options).by(path),
    }


def wanted(case):
    """Kind -> exact flat values."""
    x, w, g, bias, geometry = case
    where, more = where_of(case)
    x_list, w_list, g_list = (tensor.codes.tolist() for tensor in (x, w, g))
    sums = {
        "forward": products_oracle.conv_forward(x_list, w_list, *where, **more),
        "input_grad": products_oracle.conv_input_grad(g_list, w_list, x.shape, *where, **more),
        "weight_grad": products_oracle.conv_weight_grad(x_list, g_list, w.shape, *where, **more),
    }
    steps = {
        "forward": step_of(x) * step_of(w),
        "input_grad": step_of(g) * step_of(w),
        "weight_grad": step_of(x) * step_of(g),
    }
    values = {kind: [code * steps[kind] for code in oracle.flat(sums[kind])] for kind in sums}
    if bias is not None:
        added = reals(bias) * (len(values["forward"]) // len(bias))
        values["forward"] = [total + more for total, more in zip(values["forward"], added)]
    return values


@given(cases(), roundeds(shifts=(-4, 34)))
def test_random_convolutions_rounded_once(case, rounded):
    values = wanted(case)
    for kind, make in three(case).items():
        check_exact(make(), values[kind], kind)
        check_rounded(make, values[kind], rounded, kind)


@pytest.mark.parametrize("rounded", EVERY_MODE, ids=str)
def test_every_pair_of_3_bit_codes_in_every_mode(rounded):
    """A 1x1 kernel: a column for each code of x, a filter for each code of w."""
    x = Tensor(np.arange(-4, 4).reshape(1, 1, 8, 1), Format(3, 0))
    w = Tensor(np.arange(-4, 4).reshape(1, 1, 1, 8), Format(3, 1))
    g = Tensor(np.resize(np.arange(-2, 2), (1, 1, 8, 8)), Format(2, 0))
    bias = Tensor(np.arange(-4, 4), Format(4, 0))
    case = x, w, g, bias, {"stride": 1, "padding": 0}
    values = wanted(case)
    for kind, make in three(case).items():
        check_rounded(make, values[kind], rounded, kind)


@given(cases(most=4))
def test_the_three_products_are_adjoint(case):
    x, w, g, _, geometry = case
    forward, input_grad, weight_grad = sums_of(x, w, g, **geometry)
    assert inner(forward, g) == inner(x, input_grad) == inner(w, weight_grad)


@given(cases(most=2), accumulators(), roundeds(shifts=(-3, 16)))
def test_random_convolutions_with_an_accumulator(case, model, rounded):
    x, w, g, bias, geometry = case
    where, more = where_of(case)
    x_list, w_list, g_list = (tensor.codes.tolist() for tensor in (x, w, g))
    held = dataclasses.asdict(model)
    steps = {
        "forward": step_of(x) * step_of(w) * 2**model.drop,
        "input_grad": step_of(g) * step_of(w) * 2**model.drop,
        "weight_grad": step_of(x) * step_of(g) * 2**model.drop,
    }
    shifts = (0, 0)
    if bias is not None:
        finest = min(steps["forward"], step_of(bias))
        shifts = [int(step / finest).bit_length() - 1 for step in (steps["forward"], step_of(bias))]
        steps["forward"] = finest
    added = bias.codes.tolist() if bias is not None else None
    found = {
        "forward": accumulator_oracle.forward(x_list, w_list, *where, held, added, shifts, **more),
        "input_grad": accumulator_oracle.input_grad(g_list, w_list, x.shape, *where, held, **more),
        "weight_grad": accumulator_oracle.weight_grad(
            x_list, g_list, w.shape, *where, held, **more
        ),
    }
    for kind, make in three(case, accumulator=model).items():
        sums, met = found[kind]
        values = [total * steps[kind] for total in oracle.flat(sums)]
        try:
            exact = make()
        except InputError as error:
            assert "at most 6" in str(error)
            continue
        what = f"{kind}, {model}"
        check_exact(exact, values, what)
        assert exact.overflows == Overflows(len(values), met), what
        check_rounded(make, values, rounded, what)


LARGE = {
    "4 by 4": ((2, 4, 4, 32), 32, {"stride": 1, "padding": 1}),
    "7 by 6": ((2, 7, 6, 32), 64, {"stride": 1, "padding": 1}),
    "strided": ((2, 7, 6, 32), 33, {"stride": 2, "padding": 1}),
    "without padding": ((1, 8, 8, 64), 32, {"stride": 1, "padding": 0}),
}
WIDTHS = {
    "bytes": (Format(8, 1, False), Format(8, 0), Format(9, -2)),
    "signed bytes": (Format(8, 1), Format(8, 0), Format(8, -2)),
    "int16": (Format(13, 1, False), Format(11, 0), Format(14, -2)),
    "parts": (Format(18, 1), Format(17, 0), Format(19, -2)),
}


def large_case(name, widths, with_bias=True):
    shape, outputs, geometry = LARGE[name]
    positions = [
        products_oracle.output_size(size, 3, geometry["stride"], geometry["padding"])
        for size in shape[1:3]
    ]
    shapes = shape, (3, 3, shape[3], outputs), (shape[0], *positions, outputs)
    x, w, g = (
        Tensor(codes_of(seed, format, own), format)
        for seed, (format, own) in enumerate(zip(WIDTHS[widths], shapes))
    )
    bias = tensor_of(9, Format(16, 2), (outputs,)) if with_bias else None
    return x, w, g, bias, geometry


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("name", LARGE)
def test_large_convolutions_by_every_algorithm(name, widths):
    """32 channels and more: vector instructions, Winograd's algorithm, bytes, parts; every mode.

    All bits equal those of plain loops, which small cases compare with the twin; what `to`, `relu`
    and `relu_max_pool` give equals what they give of plain loops' bits.
    """
    case = large_case(name, widths)
    plain = {kind: make().tensor() for kind, make in three(case, "plain").items()}
    x, w, g, _, geometry = case
    forward, input_grad, weight_grad = sums_of(x, w, g, **geometry)
    assert inner(forward, g) == inner(x, input_grad) == inner(w, weight_grad)
    for kind, make in three(case).items():
        assert make().tensor().equals(plain[kind]), kind
        for rounding in ROUNDINGS:
            for overflow in OVERFLOWS if rounding in ("floor", "nearest_away") else OVERFLOWS[:1]:
                check_laws(make, plain[kind], Rounded(8, True, 9, rounding, overflow))
        for rounded in (
            Rounded(8, False, 9),
            Rounded(5, True, 14, "floor"),
            Rounded(16, True, 4, "jam"),
            Rounded(32, True, 0),
            Rounded(32, False, -3, "zero"),
        ):
            check_laws(make, plain[kind], rounded)


def check_laws(make, bits, rounded):
    """What `make` rounds equals what its bits (a Tensor) are requantized to, counts included."""
    format = rounded.format(bits.format.step_exp)
    seen = []
    again = []
    words = Stream(5, 1, "words") if rounded.rounding.startswith("stochastic") else None
    modes = rounded.rounding, rounded.overflow, words
    quantizer = Quantizer(format, *modes, counted=seen.append)
    other = Quantizer(format, *modes, counted=again.append)
    assert make().to(quantizer).equals(requantize(bits, other)), rounded
    codes, mask = make().relu(quantizer)
    above, passed = ops.relu(bits, other) if bits.format.bits <= 32 else sums_relu(bits, other)
    assert codes.equals(above), rounded
    assert mask.equals(passed), rounded
    assert isinstance(make(), ProductSum)
    if bits.ndim == 4 and bits.shape[1] > 3:
        pooled, winner = make().relu_max_pool(quantizer, 2)
        codes, places = ops.max_pool2d(above, 2)
        assert pooled.equals(codes), rounded
        again.append(again[-1])
        open_ = passed.codes
        for index in np.ndindex(winner.shape):
            n, y, x, c = index
            place = int(places.codes[index])
            own = open_[n, 2 * y + place // 2, 2 * x + place % 2, c]
            assert winner.codes[index] == (place if own else 4), rounded
    assert seen == again, rounded


def sums_relu(bits, quantizer):
    """The ReLU of a Tensor of more than 32 bits, as an exact result."""
    return ops.add(
        bits, Tensor(np.zeros((1,) * bits.ndim, int), Format(2, bits.format.range_exp))
    ).relu(quantizer)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda x, w, g: ops.conv2d(x, w.transpose(3, 2, 0, 1)),
            r"weight must have shape \(KH, KW, 2, O\) .*PyTorch's layout is \(O, C, KH, KW\)",
        ),
        (lambda x, w, g: ops.conv2d(x[0], w), r"x must have axes \(N, H, W, C\), got shape"),
        (lambda x, w, g: ops.conv2d(x[..., :1], w), r"weight must have shape \(KH, KW, 1, O\)"),
        (lambda x, w, g: ops.conv2d(x, w, w[0, 0, 0, :1]), r"bias must have shape \(4,\)"),
        (
            lambda x, w, g: ops.conv2d(x, w, stride=0),
            "stride must be an integer of at least 1, .* got 0",
        ),
        (
            lambda x, w, g: ops.conv2d(x, w, padding=-1),
            "padding must be an integer of at least 0, .* got -1",
        ),
        (
            lambda x, w, g: ops.conv2d(x[:, :2], w),
            "a kernel that spans 3 x 3 does not fit images of 2 x 5",
        ),
        (lambda x, w, g: ops.conv2d(x[:0], w), "x must have at least one element"),
        (
            lambda x, w, g: ops.conv2d_input_grad(g, w, (2, 5, 5, 2)),
            r"grad must have shape \(2, 3, 3, 4\), got \(1, 3, 3, 4\)",
        ),
        (lambda x, w, g: ops.conv2d_input_grad(g, w, (5, 5, 2)), "input_shape must be a shape"),
        (lambda x, w, g: ops.conv2d_input_grad(g, w, 5), "input_shape must be a shape"),
        (
            lambda x, w, g: ops.conv2d_weight_grad(x, g, (3, 3, 2, 3)),
            r"grad must have shape \(1, 3, 3, 3\), got",
        ),
        (lambda x, w, g: ops.conv2d_weight_grad(x, g, (3, 2, 2, 4)), "grad must have shape"),
        (lambda x, w, g: ops.conv2d(x, w, padding=3), "padding must be narrower than the kernel"),
        (lambda x, w, g: ops.conv2d(x, w, padding=(0, 3)), "padding must be narrower"),
        (lambda x, w, g: ops.conv2d(x, w, padding=(1, 1, 1)), "padding must be a number, "),
        (lambda x, w, g: ops.conv2d(x, w, padding="smae"), "did you mean 'same'"),
        (lambda x, w, g: ops.conv2d(x, w, stride=(1, 2, 3)), "stride must be a number or "),
        (lambda x, w, g: ops.conv2d(x, w, dilation=3), "a kernel that spans 7 x 7 does not fit"),
        (lambda x, w, g: ops.conv2d(x, w, groups=3), "groups must divide the 2 channels"),
        (lambda x, w, g: ops.conv2d(x, w, groups=2), r"weight must have shape \(KH, KW, 1, O\)"),
        (lambda x, w, g: ops.conv2d_weight_grad(x, g, (0, 0, 2, 4)), "must be at least 1"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    x, w, g = (
        Tensor(np.ones(shape, int), Format(4, 3))
        for shape in ((1, 5, 5, 2), (3, 3, 2, 4), (1, 3, 3, 4))
    )
    with pytest.raises(InputError, match=message):
        call(x, w, g)


@given(cases(), st.sampled_from(("half", "column")))
@settings(max_examples=20)
def test_views_of_tensors_are_operands(case, which):
    """Slices and transposed axes of Tensors have the sums of their copies."""
    x, w, _, _, geometry = case
    groups = geometry["groups"]
    flipped = x[:, ::-1, ::-1] if which == "half" else x.transpose(0, 2, 1, 3)
    copied = Tensor(np.array(flipped.codes), x.format)
    if any(size < taps for size, taps in zip(flipped.shape[1:3], w.shape)):
        return
    found = ops.conv2d(flipped, w, groups=groups).tensor()
    assert found.equals(ops.conv2d(copied, w, groups=groups).tensor())
