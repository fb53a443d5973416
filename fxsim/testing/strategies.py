"""Hypothesis strategies: formats, shapes, tensors, small networks, assignments and batches.

Codes lean to where fixed-point arithmetic goes wrong: the ends of the range, powers of two and
their neighbours, and values half-way between two codes of a coarser format.
"""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as numpy_strategies

from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.nn.tensors import quantized_tensors
from fxsim.tensor import Tensor
from fxsim.testing.warming import warm_requantize


def formats(
    min_bits: int = 1,
    max_bits: int = 16,
    min_range_exp: int = -8,
    max_range_exp: int = 8,
    signed: bool | None = None,
) -> st.SearchStrategy[Format]:
    """Formats with bits and range exponents in these ranges; signed, unsigned, or (None) both."""
    return st.builds(
        Format,
        st.integers(min_bits, max_bits),
        st.integers(min_range_exp, max_range_exp),
        st.booleans() if signed is None else st.just(signed),
    )


def shapes(
    min_dims: int = 1, max_dims: int = 4, max_side: int = 5
) -> st.SearchStrategy[tuple[int, ...]]:
    """Shapes of `min_dims` to `max_dims` axes, each of 1 to `max_side`."""
    return numpy_strategies.array_shapes(min_dims=min_dims, max_dims=max_dims, max_side=max_side)


def edge_codes(format: Format) -> list[int]:
    """Codes of a format that tell implementations apart, the simplest first.

    0, both ends and their neighbours; +-2**i, one below and one above; ties of every coarser step,
    of both signs: (2k + 1) * 2**(i - 1) beside 0 and beside the ends.
    """
    powers = [1 << i for i in range(format.bits)]
    ends = (format.min_code, format.max_code)
    candidates = [
        0,
        *(sign * power + off for power in powers for sign in (1, -1) for off in (0, -1, 1)),
    ]
    candidates += [end + off for end in ends for off in (0, -1, 1)]
    for step in powers[1:]:
        half = step >> 1
        candidates += [sign * odd * half for odd in (1, 3, 5) for sign in (1, -1)]
        candidates += [end // step * step + half for end in ends]
    inside = (code for code in candidates if format.min_code <= code <= format.max_code)
    return list(dict.fromkeys(inside))


def codes(format: Format) -> st.SearchStrategy[int]:
    """Single codes of a format: half of them edge codes, half of them any."""
    return st.sampled_from(edge_codes(format)) | st.integers(format.min_code, format.max_code)


def tensors(
    format: Format | st.SearchStrategy[Format] | None = None,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None = None,
) -> st.SearchStrategy[Tensor]:
    """Tensors of a format and shape, each given or drawn (from `formats()` and `shapes()` where
    left out).

    The kernels of `fxsim.requantize` are compiled when the strategy is built.

    Example:
        >>> from hypothesis import given, settings
        >>> from fxsim import Format, requantize
        >>> from fxsim.testing import assert_bit_exact, tensors
        >>> @settings(max_examples=20, database=None, deadline=None)
        ... @given(tensors(Format(8, 0), (3,)))
        ... def test_shift(wide):
        ...     got = [int(code) >> 4 for code in wide.codes]
        ...     assert_bit_exact(got, requantize(wide, Format(4, 0), "floor"))
        >>> test_shift()
    """
    warm_requantize(format if isinstance(format, Format) else None)
    return drawn_tensors(format, shape)


@st.composite
def drawn_tensors(
    draw: st.DrawFn,
    format: Format | st.SearchStrategy[Format] | None,
    shape: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] | None,
) -> Tensor:
    """As `tensors`, but nothing is compiled."""
    format = draw(format) if isinstance(format, st.SearchStrategy) else format or draw(formats())
    shape = (
        draw(shape)
        if isinstance(shape, st.SearchStrategy)
        else draw(shapes())
        if shape is None
        else shape
    )
    array = draw(numpy_strategies.arrays(format.dtype, shape, elements=codes(format)))
    return Tensor(array, format)


@st.composite
def networks(
    draw: st.DrawFn,
    max_layers: int = 3,
    max_side: int = 7,
    max_channels: int = 4,
    max_classes: int = 5,
) -> Network:
    """Chains of up to `max_layers` layers: convolutions, fully connected layers, pooling, with and
    without ReLU.

    They have no batch norm, residual branch or dropout.
    """
    sides = st.integers(1, max_side)
    shape = input_shape = draw(sides), draw(sides), draw(st.integers(1, max_channels))
    scores = Dense(name="scores", units=draw(st.integers(2, max_classes)), relu=False)
    layers: list[Conv | Dense] = []
    for index in range(draw(st.integers(0, max_layers - 1))):
        layer = draw(
            _convs(f"layer{index}", shape, max_channels) | _denses(f"layer{index}", max_channels)
        )
        layers.append(layer)
        shape = Network("drawn", input_shape, (*layers, scores)).shape(layer.name).output
    return Network("drawn", input_shape, (*layers, scores))


def _denses(name: str, max_units: int) -> st.SearchStrategy[Dense]:
    return st.builds(Dense, name=st.just(name), units=st.integers(1, max_units), relu=st.booleans())


@st.composite
def _convs(draw: st.DrawFn, name: str, shape: tuple[int, int, int], max_filters: int) -> Conv:
    """Convolutions that fit an input of this shape, some with pooling."""
    padding = draw(st.integers(0, 2))
    kernel = draw(
        st.integers(padding + 1, 3).filter(lambda size: size <= min(shape[:2]) + 2 * padding)
    )
    stride = draw(st.integers(1, 2))
    positions = min((side + 2 * padding - kernel) // stride + 1 for side in shape[:2])
    pools = st.builds(Pool, st.sampled_from(("max", "average")), st.integers(1, min(3, positions)))
    return Conv(
        name=name,
        filters=draw(st.integers(1, max_filters)),
        kernel=kernel,
        stride=stride,
        padding=padding,
        relu=draw(st.booleans()),
        pool=draw(st.none() | pools),
    )


_MODED = ("activations", "activation_grads", "weight_grads", "bias_grads", "logits")
_DETERMINISTIC = tuple(mode for mode in ROUNDINGS if mode not in STOCHASTIC)


@st.composite
def assignments(
    draw: st.DrawFn, network: Network, max_bits: int = 10, modes: bool = True
) -> PrecisionAssignment:
    """Assignments for `network` with tensors of up to `max_bits` bits.

    Modes: also other roundings and overflows.
    """
    layers = {name: draw(_layer_precisions(max_bits)) for name in network.names}
    if not modes:
        return PrecisionAssignment(network.name, layers)
    present = quantized_tensors(network, layers)
    tensors = st.sampled_from([tensor for tensor in _MODED if tensor in present])
    rounding = draw(
        st.dictionaries(tensors | st.just("accumulators"), st.sampled_from(_DETERMINISTIC))
    )
    overflow = draw(st.dictionaries(tensors, st.sampled_from(OVERFLOWS)))
    return PrecisionAssignment(
        network.name, layers, Format(draw(st.integers(4, 16)), 4), rounding, overflow
    )


@st.composite
def _layer_precisions(draw: st.DrawFn, max_bits: int) -> LayerPrecision:
    def bits(least: int) -> int:
        return draw(st.integers(least, max_bits))

    weights = Format(bits(2), 0)
    bias = Format(bits(2), 0)
    ranges = st.integers(-6, 1)
    return LayerPrecision(
        weights=weights,
        bias=bias,
        activations=Format(bits(1), 1, False),
        activation_grads=Format(bits(2), draw(ranges)),
        weight_grads=Format(bits(2), draw(ranges)),
        bias_grads=Format(bits(2), draw(ranges)),
        accumulators=accumulator_format(weights, weights.step_exp - bits(1)),
        bias_accumulators=accumulator_format(bias, bias.step_exp - bits(1)),
    )


@st.composite
def networks_with_assignments(
    draw: st.DrawFn, /, max_bits: int = 10, modes: bool = True, **sizes: int
) -> tuple[Network, PrecisionAssignment]:
    """(network, assignment) pairs; arguments as for `assignments` and `networks`.

    A test that trains them compiles many kernels: give it `settings(deadline=None)`.
    """
    network = draw(networks(**sizes))
    return network, draw(assignments(network, max_bits, modes))


@st.composite
def batches(
    draw: st.DrawFn, network: Network, assignment: PrecisionAssignment, max_samples: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """(images, labels) for FixedNetwork.train_step.

    Codes (N, H, W, C) in the input's format, labels (N,) int64.
    """
    samples = draw(st.integers(1, max_samples))
    images = draw(
        drawn_tensors(
            assignment.layers[network.names[0]].activations, (samples, *network.input_shape)
        )
    )
    labels = draw(
        numpy_strategies.arrays(np.int64, samples, elements=st.integers(0, network.classes - 1))
    )
    return images.codes, labels
