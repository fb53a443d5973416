"""Hypothesis strategies for operations, and the two laws that every operation keeps.

Operands lean to where fixed-point arithmetic goes wrong, as those of fxsim.testing.tensors do.  The
kernels are compiled when a strategy is built, so that a test keeps Hypothesis' deadline.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from fxsim import ops
from fxsim.accumulator import ADDEND_ROUNDINGS, WHEN, WHEN_OF_TILES, Accumulator
from fxsim.errors import InputError
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.ops.exact import Exact
from fxsim.quantizer import Quantizer
from fxsim.rng import Stream
from fxsim.tensor import Tensor, requantize
from fxsim.testing.comparison import assert_bit_exact
from fxsim.testing.strategies import drawn_tensors, formats
from fxsim.testing.warming import warm_convolutions, warm_products, warm_words
from fxsim.windows import PaddingLike, PairLike, Window

Formats = Format | st.SearchStrategy[Format] | None
Accumulators = Accumulator | st.SearchStrategy[Accumulator] | None


@dataclass(frozen=True)
class DotProduct:
    """Operands of fxsim.ops.dot: a and b (K,), bias () or None."""

    a: Tensor
    b: Tensor
    bias: Tensor | None = None
    accumulator: Accumulator | None = None

    def exact(self) -> Exact:
        """What fxsim gives."""
        return ops.dot(self.a, self.b, self.bias, accumulator=self.accumulator)


@dataclass(frozen=True)
class MatMul:
    """Operands of fxsim.ops.matmul: a (M, K) and b (K, N)."""

    a: Tensor
    b: Tensor
    accumulator: Accumulator | None = None

    def exact(self) -> Exact:
        """What fxsim gives."""
        return ops.matmul(self.a, self.b, accumulator=self.accumulator)


@dataclass(frozen=True)
class Convolution:
    """Operands of fxsim.ops.conv2d and its gradients.

    x (N, H, W, C), weight (KH, KW, C / groups, O), bias (O,) or None; grad (N, OH, OW, O) at the
    output.  stride, padding, dilation and groups are those of conv2d.
    """

    x: Tensor
    weight: Tensor
    grad: Tensor
    bias: Tensor | None = None
    stride: PairLike = 1
    padding: PaddingLike = 0
    accumulator: Accumulator | None = None
    dilation: PairLike = 1
    groups: int = 1

    @property
    def _geometry(self) -> dict[str, Any]:
        names = ("stride", "padding", "dilation", "groups")
        return {name: getattr(self, name) for name in names}

    def exact(self) -> Exact:
        """What fxsim gives: the sums of the convolution."""
        return ops.conv2d(
            self.x, self.weight, self.bias, accumulator=self.accumulator, **self._geometry
        )

    def product(self) -> Exact:
        """The convolution without bias and accumulator."""
        return ops.conv2d(self.x, self.weight, **self._geometry)

    def input_grad(self) -> Exact:
        """The gradient at x, without an accumulator."""
        return ops.conv2d_input_grad(self.grad, self.weight, self.x.shape, **self._geometry)

    def weight_grad(self) -> Exact:
        """The gradient at the weight, without an accumulator."""
        return ops.conv2d_weight_grad(self.x, self.grad, self.weight.shape, **self._geometry)


def quantizers(format: Formats = None, stochastic: bool = True) -> st.SearchStrategy[Quantizer]:
    """Quantizers in every rounding and overflow.

    Args:
        format: of the codes, given or drawn; None for 1 to 16 bits.
        stochastic: whether stochastic roundings are among them, with words of a Stream.
    """
    warm_words()
    return _quantizers(format, stochastic)


@st.composite
def _quantizers(draw: st.DrawFn, format: Formats, stochastic: bool) -> Quantizer:
    chosen = draw(_strategy(format, formats()))
    modes = [mode for mode in ROUNDINGS if stochastic or mode not in STOCHASTIC]
    rounding = draw(st.sampled_from(modes))
    words = None
    if rounding in STOCHASTIC:
        words = Stream(draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 99)), "drawn")
    return Quantizer(chosen, rounding, draw(st.sampled_from(OVERFLOWS)), words)


@st.composite
def accumulators(
    draw: st.DrawFn, max_bits: int = 20, bias: bool = False, channels: bool = False
) -> Accumulator:
    """Accumulators of 2 to `max_bits` bits in every overflow, order, rounding and number of lanes.

    Args:
        max_bits: at most 40.
        bias: whether some start from the bias.
        channels: whether some take the terms of a convolution with the channel last.
    """
    if not 2 <= max_bits <= 40:
        raise InputError(f"max_bits must be 2 to 40, got {max_bits}")
    order = draw(st.sampled_from(("sequential", "tree", "tiles")))
    first = bias and order != "tree" and draw(st.booleans())
    return Accumulator(
        draw(st.integers(2, max_bits)),
        draw(st.sampled_from(OVERFLOWS)),
        draw(st.sampled_from(WHEN_OF_TILES if order == "tiles" else WHEN)),
        order,
        draw(st.integers(2, 5)) if order == "tiles" else 0,
        draw(st.sampled_from(ADDEND_ROUNDINGS)),
        draw(st.integers(0, 4)),
        bias="first" if first else "after",
        lanes=draw(st.integers(1, 4)),
        axes="channel_last" if channels and draw(st.booleans()) else "channel_first",
    )


def dot_products(
    a: Formats = None, b: Formats = None, accumulator: Accumulators = None, max_terms: int = 24
) -> st.SearchStrategy[DotProduct]:
    """Dot products of 1 to `max_terms` terms, some with a bias.

    Args:
        a, b: formats of the operands, given or drawn; None for 2 to 8 bits.
        accumulator: given or drawn; None for exact sums.
        max_terms: of a sum.

    Example:
        >>> from hypothesis import given, settings
        >>> from fxsim import Accumulator, Format
        >>> from fxsim.testing import assert_bit_exact, dot_products
        >>> @settings(max_examples=20, database=None, deadline=None)
        ... @given(dot_products(Format(8, 0), Format(8, 0), Accumulator(16)))
        ... def test_mac(case):
        ...     held = 0
        ...     for left, right in zip(case.a.codes.tolist(), case.b.codes.tolist()):
        ...         held = min(max(held + left * right, -(2**15)), 2**15 - 1)
        ...     if case.bias is None:
        ...         assert_bit_exact(held, case.exact().tensor().codes)
        >>> test_mac()
    """
    warm_products(*map(_given, (a, b)))
    return _dot_products(a, b, accumulator, max_terms)


@st.composite
def _dot_products(
    draw: st.DrawFn, a: Formats, b: Formats, accumulator: Accumulators, max_terms: int
) -> DotProduct:
    terms = draw(st.integers(1, max_terms))
    left = draw(_operands(a, (terms,)))
    right = draw(_operands(b, (terms,)))
    held = _drawn_accumulator(draw, accumulator)
    bias = draw(_biases(left, right, held, (1,)))
    return DotProduct(left, right, None if bias is None else bias.reshape(), held)


def matmuls(
    a: Formats = None, b: Formats = None, accumulator: Accumulators = None, max_side: int = 6
) -> st.SearchStrategy[MatMul]:
    """Matrix products; args as for `dot_products`.

    max_side: of each axis.
    """
    warm_products(*map(_given, (a, b)))
    return _matmuls(a, b, accumulator, max_side)


@st.composite
def _matmuls(
    draw: st.DrawFn, a: Formats, b: Formats, accumulator: Accumulators, max_side: int
) -> MatMul:
    sides = st.integers(1, max_side)
    rows = draw(sides)
    terms = draw(sides)
    left = draw(_operands(a, (rows, terms)))
    right = draw(_operands(b, (terms, draw(sides))))
    return MatMul(left, right, _drawn_accumulator(draw, accumulator))


def convolutions(
    x: Formats = None, weight: Formats = None, accumulator: Accumulators = None, max_side: int = 6
) -> st.SearchStrategy[Convolution]:
    """Convolutions of 1 or 2 images, some with a bias.

    Kernels and strides are rectangular, kernels dilated, paddings uneven, channels in 1 to 5 groups.

    Args:
        x, weight: formats of the operands, given or drawn; None for 2 to 8 bits.  The gradient at
            the output has the weight's.
        accumulator: given or drawn; None for exact sums.
        max_side: of an image.

    Example:
        >>> from hypothesis import given, settings
        >>> from fxsim.testing import check_adjointness, check_rounding_law
        >>> from fxsim.testing import convolutions, quantizers
        >>> @settings(max_examples=20, database=None, deadline=None)
        ... @given(convolutions(), quantizers())
        ... def test_laws(convolution, quantizer):
        ...     check_rounding_law(convolution.exact, quantizer)
        ...     check_adjointness(convolution)
        >>> test_laws()
    """
    warm_convolutions(*map(_given, (x, weight)))
    return _convolutions(x, weight, accumulator, max_side)


@st.composite
def _convolutions(
    draw: st.DrawFn, x: Formats, weight: Formats, accumulator: Accumulators, max_side: int
) -> Convolution:
    groups = draw(st.sampled_from((1, 1, 2, 5)))
    channels, outputs = (groups * draw(st.integers(1, 3 if groups == 1 else 2)) for _ in range(2))
    image = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    window = draw(_windows(image))
    images = draw(st.integers(1, 2))
    source = draw(_operands(x, (images, *image, channels)))
    weights = draw(_operands(weight, (*window.size, channels // groups, outputs)))
    grad = draw(_operands(weights.format, (images, *window.positions(image), outputs)))
    held = _drawn_accumulator(draw, accumulator)
    bias = draw(_biases(source, weights, held, (outputs,)))
    where = window.stride, window.padding, held, window.dilation, groups
    return Convolution(source, weights, grad, bias, *where)


@st.composite
def _windows(draw: st.DrawFn, image: tuple[int, int]) -> Window:
    """Windows that fit images of (rows, columns), with less padding than they are wide."""
    size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    stride, dilation = (
        (draw(st.integers(1, 2)), draw(st.integers(1, 2))) for _ in ("stride", "dilation")
    )
    padding = []
    for side, taps, step in zip(image, size, dilation):
        span = step * (taps - 1) + 1
        before = draw(st.integers(max(0, (span + 1 - side) // 2), span - 1))
        padding += [before, draw(st.integers(max(0, span - side - before), span - 1))]
    top, bottom, left, right = padding
    return Window.of("", image, size, stride, (top, bottom, left, right), dilation)


def check_rounding_law(operation: Callable[[], Any], quantizer: Format | Quantizer) -> None:
    """An operation rounded at once gives what its exact result gives, rounded afterwards.

    Args:
        operation: gives the exact result anew, such as `convolution.exact`; anything with the
            methods `to` and `tensor` of fxsim.ops.Exact.
        quantizer: where the result goes; its counts are compared, too.

    Raises:
        AssertionError: where codes or counts differ.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> from fxsim.testing import check_rounding_law
        >>> x = Tensor([[100, -3], [5, 77]], Format(8, 0))
        >>> check_rounding_law(lambda: ops.matmul(x, x), Format(8, 0))
    """
    chosen = Quantizer.of(quantizer)
    seen: list[Any] = []
    modes = chosen.rounding, chosen.overflow, chosen.words
    counted = Quantizer(chosen.format, *modes, counted=seen.append)
    at_once = operation().to(counted)
    exact = operation().tensor()
    afterwards = requantize(exact, counted)
    what = f"rounded at once, {chosen.rounding}, {chosen.overflow}"
    assert_bit_exact(at_once, afterwards, what, explain=(exact, chosen))
    if seen[0] != seen[1]:
        raise AssertionError(f"{what}: got {seen[0]}, wanted {seen[1]}")


def check_adjointness(
    convolution: Convolution,
    product: Callable[[Convolution], Any] | None = None,
    input_grad: Callable[[Convolution], Any] | None = None,
    weight_grad: Callable[[Convolution], Any] | None = None,
) -> None:
    """A convolution and its two gradients are each other's adjoints, on exact codes.

    <conv2d(x, w), g> == <x, conv2d_input_grad(g, w)> == <w, conv2d_weight_grad(x, g)>

    Args:
        convolution: the operands; bias and accumulator have no part in the law.
        product, input_grad, weight_grad: one's own units, from a Convolution to integer sums in the
            step of the products; None for those of fxsim.

    Raises:
        AssertionError: where the three are not equal.

    Example:
        >>> from fxsim import Format, Tensor
        >>> from fxsim.testing import Convolution, check_adjointness
        >>> one = Tensor([[[[3]]]], Format(4, 0))
        >>> check_adjointness(Convolution(one, one, one))
        >>> check_adjointness(Convolution(one, one, one), input_grad=lambda case: [[[[8]]]])
        Traceback (most recent call last):
        AssertionError: <conv2d(x, w), g> = 27, <x, input_grad(g, w)> = 24, <w, weight_grad(x, g)> = 27
    """
    chosen = (
        (convolution.grad, product or Convolution.product),
        (convolution.x, input_grad or Convolution.input_grad),
        (convolution.weight, weight_grad or Convolution.weight_grad),
    )
    totals = [_inner_product(operand, unit(convolution)) for operand, unit in chosen]
    if len(set(totals)) > 1:
        raise AssertionError(
            f"<conv2d(x, w), g> = {totals[0]}, <x, input_grad(g, w)> = {totals[1]}, "
            f"<w, weight_grad(x, g)> = {totals[2]}"
        )


def _inner_product(operand: Tensor, sums: Any) -> int:
    """In Python integers."""
    codes = sums.tensor().codes if isinstance(sums, Exact) else sums
    codes = codes.codes if isinstance(codes, Tensor) else np.asarray(codes)
    if codes.shape != operand.shape:
        raise AssertionError(f"got sums of shape {codes.shape}, wanted {operand.shape}")
    pairs = zip(operand.codes.reshape(-1).tolist(), codes.reshape(-1).tolist())
    return sum(left * right for left, right in pairs)


def _given(value: Formats) -> Format | None:
    return value if isinstance(value, Format) else None


def _strategy(value: Any, default: st.SearchStrategy) -> st.SearchStrategy:
    if value is None:
        return default
    return value if isinstance(value, st.SearchStrategy) else st.just(value)


@st.composite
def _operands(draw: st.DrawFn, format: Formats, shape: tuple[int, ...]) -> Tensor:
    """Tensors in the integer type that kernels take, so that no other is compiled."""
    chosen = _strategy(format, formats(min_bits=2, max_bits=8))
    tensor = draw(drawn_tensors(chosen, shape))
    return Tensor._of(tensor.operand.copy(), tensor.format)


def _drawn_accumulator(draw: Any, accumulator: Accumulators) -> Accumulator | None:
    drawn: Accumulator | None = draw(_strategy(accumulator, st.none()))
    return drawn


@st.composite
def _biases(
    draw: st.DrawFn,
    x: Tensor,
    weight: Tensor,
    accumulator: Accumulator | None,
    shape: tuple[int, ...],
) -> Tensor | None:
    """None, or a bias whose step is near that of the sums, and no finer where it comes first."""
    first = accumulator is not None and accumulator.bias == "first"
    if not first and draw(st.booleans()):
        return None
    step_exp = x.format.step_exp + weight.format.step_exp
    if accumulator is not None:
        step_exp = accumulator.resolved(step_exp).drop + step_exp
    step_exp += draw(st.integers(0 if first else -4, 4))
    bits = draw(st.integers(2, 8))
    bias: Tensor = draw(_operands(Format(bits, step_exp + bits - 1), shape))
    return bias
