"""Integer arithmetic as nodes of ONNX, and on it the roundings and overflows of fixed point.

Every value carries the ends that it cannot leave, and an operation is refused where a result may
not be held exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxsim.errors import InputError
from fxsim.interchange.nodes import Nodes, Shape
from fxsim.quantizer import Quantizer, Requantization


@dataclass(frozen=True)
class Integers:
    """A tensor of integers, all of them low to high."""

    name: str
    shape: Shape
    low: int
    high: int

    @property
    def largest(self) -> int:
        """No magnitude is greater."""
        return max(-self.low, self.high)


class Arithmetic(ABC):
    """Operations on integers that a tensor of `dtype` carries.

    limit: greatest magnitude that is exact.  holder: how messages name that.
    """

    dtype: np.dtype
    limit: int
    holder: str

    def __init__(self, nodes: Nodes):
        self.nodes = nodes

    def check(self, largest: int) -> None:
        """InputError where a magnitude is not held exactly."""
        if largest > self.limit:
            raise InputError(
                f"layer {self.nodes.scope!r}: a value on the way to its output needs "
                f"{largest.bit_length() + 1} bits, and {self.holder}; lower the layer's widths"
            )

    def number(self, value: int) -> str:
        """A constant."""
        self.check(abs(value))
        return self.nodes.constant(np.array(value, self.dtype))

    def made(
        self, operator: str, inputs: list[str], like: Integers, low: int, high: int, **given: Any
    ) -> Integers:
        """The result of a node, which lies within low to high and has the shape of `like`."""
        self.check(max(-low, high))
        name = self.nodes.node(operator, inputs, like.shape, self.dtype, **given)
        return Integers(name, like.shape, low, high)

    def plus(self, x: Integers, y: Integers | int) -> Integers:
        """x + y."""
        if isinstance(y, Integers):
            return self.made("Add", [x.name, y.name], x, x.low + y.low, x.high + y.high)
        if y == 0:
            return x
        return self.made("Add", [x.name, self.number(y)], x, x.low + y, x.high + y)

    def minus(self, x: Integers, y: Integers, ends: tuple[int, int] | None = None) -> Integers:
        """x - y.  ends: what it cannot leave, where more is known than follows from x and y."""
        low, high = ends or (x.low - y.high, x.high - y.low)
        return self.made("Sub", [x.name, y.name], x, low, high)

    def times(self, x: Integers, factor: int) -> Integers:
        """x times a number."""
        if factor == 1:
            return x
        low, high = sorted((x.low * factor, x.high * factor))
        return self.made("Mul", [x.name, self.number(factor)], x, low, high)

    def product(self, x: Integers, y: Integers) -> Integers:
        """x y."""
        ends = [one * other for one in (x.low, x.high) for other in (y.low, y.high)]
        return self.made("Mul", [x.name, y.name], x, min(ends), max(ends))

    def at_least(self, x: Integers, low: int) -> Integers:
        """The greater of x and a number."""
        if x.low >= low:
            return x
        return self.made("Max", [x.name, self.number(low)], x, low, max(x.high, low))

    def at_most(self, x: Integers, high: int) -> Integers:
        """The lesser of x and a number."""
        if x.high <= high:
            return x
        return self.made("Min", [x.name, self.number(high)], x, min(x.low, high), high)

    def clipped(self, x: Integers, low: int, high: int) -> Integers:
        """x brought to low .. high."""
        return self.at_most(self.at_least(x, low), high)

    def negative(self, x: Integers) -> Integers:
        """1 where x < 0, else 0."""
        below = self.nodes.node("Less", [x.name, self.number(0)], x.shape, np.bool_)
        return self.made("Cast", [below], x, 0, 1, to=self.element(self.dtype))

    def element(self, dtype: Any) -> int:
        """ONNX's number of a NumPy type."""
        made: int = self.nodes.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return made

    def low_bits(self, x: Integers, bits: int) -> Integers:
        """x modulo 2**bits."""
        whole = self.times(self.shifted(x, bits), 1 << bits)
        return self.minus(x, whole, (0, (1 << bits) - 1))

    def with_last_bit(self, x: Integers) -> Integers:
        """x with its last bit set."""
        even = self.times(self.shifted(x, 1), 2)
        return self.plus(even, 1)

    @abstractmethod
    def shifted(self, x: Integers, bits: int) -> Integers:
        """x / 2**bits toward -infinity, bits being 1 or more."""

    @abstractmethod
    def divided(self, x: Integers, divisor: int) -> Integers:
        """x / divisor toward -infinity."""


class Int64(Arithmetic):
    """In int64.  Sums of 62 bits, as fixed point has them, and what rounding adds are below 2**62."""

    dtype = np.dtype(np.int64)
    limit = 2**62
    holder = "int64 is exact up to 63 bits here"

    def shifted(self, x: Integers, bits: int) -> Integers:
        """By BitShift, which takes unsigned numbers: 2**62 is added first, and taken off after."""
        if bits > 61:
            raise InputError(
                f"layer {self.nodes.scope!r}: a rounding drops {bits} bits, at most 61 are dropped "
                f"here; bring the steps of its formats together"
            )
        unsigned = np.dtype(np.uint64)
        raised = self.nodes.node("Add", [x.name, self.number(2**62)], x.shape, self.dtype)
        cast = self.nodes.node("Cast", [raised], x.shape, unsigned, to=self.element(unsigned))
        count = self.nodes.constant(np.array(bits, unsigned))
        shifted = self.nodes.node("BitShift", [cast, count], x.shape, unsigned, direction="RIGHT")
        back = self.nodes.node("Cast", [shifted], x.shape, self.dtype, to=self.element(self.dtype))
        off = self.number(2 ** (62 - bits))
        return self.made("Sub", [back, off], x, x.low >> bits, x.high >> bits)

    def divided(self, x: Integers, divisor: int) -> Integers:
        """By Div, which cuts toward 0: a multiple of the divisor makes x positive first."""
        whole = max(-(x.low // divisor), 0)
        raised = self.plus(x, whole * divisor)
        ends = raised.low // divisor, raised.high // divisor
        quotient = self.made("Div", [raised.name, self.number(divisor)], x, *ends)
        return self.plus(quotient, -whole)


class Float32(Arithmetic):
    """In float32, whose products and sums of integers below 2**24 are exact."""

    dtype = np.dtype(np.float32)
    limit = 2**24 - 1
    holder = "float32 is exact up to 25 bits with the sign"

    def shifted(self, x: Integers, bits: int) -> Integers:
        """By Mul, which is exact, and Floor."""
        factor = self.nodes.constant(np.array(2.0**-bits, np.float32))
        scaled = self.nodes.node("Mul", [x.name, factor], x.shape, self.dtype)
        return self.made("Floor", [scaled], x, x.low >> bits, x.high >> bits)

    def divided(self, x: Integers, divisor: int) -> Integers:
        """The quotient is the nearest float.

        It is below the next integer n, since n - x / divisor >= 1 / divisor, and half a unit in its
        last place is at most 2**-24 x / divisor, x < 2**24.
        """
        quotient = self.nodes.node("Div", [x.name, self.number(divisor)], x.shape, self.dtype)
        return self.made("Floor", [quotient], x, x.low // divisor, x.high // divisor)


def requantized(numbers: Arithmetic, x: Integers, quantizer: Quantizer, step_exp: int) -> Integers:
    """Codes of integers with step 2**step_exp, rounded and brought into range.

    A stochastic rounding is one by dropped bits.
    """
    way = quantizer.at(step_exp)
    if way.shift <= 0:
        codes = numbers.times(x, 1 << -way.shift)
    elif quantizer.stochastic:
        codes = rounded_by_dropped_bits(numbers, x, way.shift)
    else:
        codes = rounded(numbers, x, way)
    if way.rounding.jam:
        codes = numbers.with_last_bit(codes)
    return bounded(numbers, codes, (way.range.low, way.range.high), way.overflow)


def rounded(numbers: Arithmetic, x: Integers, way: Requantization) -> Integers:
    """x / 2**shift as integers but for jam, by the table of fxsim/kernels/rounding.py.

    floor(x / 2**d) + floor((r + carry) / 2**d), r the rest, is floor((x + carry) / 2**d).
    """
    terms = way.rounding
    carried = numbers.plus(x, terms.base)
    if terms.neg:
        carried = numbers.plus(carried, numbers.times(numbers.negative(x), terms.neg))
    if terms.odd:
        odd = numbers.low_bits(numbers.shifted(x, way.shift), 1)
        carried = numbers.plus(carried, numbers.times(odd, terms.odd))
    return numbers.shifted(carried, way.shift)


def rounded_by_dropped_bits(numbers: Arithmetic, x: Integers, shift: int) -> Integers:
    """x / 2**shift as integers, by fxsim.DroppedBits: see "Random words" in fxsim/numerics.md."""
    magnitude = numbers.made("Abs", [x.name], x, 0, x.largest)
    half = shift // 2
    dropped = numbers.low_bits(magnitude, shift)
    difference = dropped
    if half:
        word = numbers.times(numbers.low_bits(dropped, half), 1 << shift % 2)
        difference = numbers.minus(numbers.shifted(dropped, half), word)
    up = numbers.clipped(difference, 0, 1)
    whole = numbers.plus(numbers.shifted(magnitude, shift), up)
    sign = numbers.made("Sign", [x.name], x, -1, 1)
    return numbers.product(sign, whole)


def bounded(numbers: Arithmetic, x: Integers, ends: tuple[int, int], overflow: str) -> Integers:
    """x brought to the ends (low, high) of its format."""
    low, high = ends
    if low <= x.low and x.high <= high:
        return x
    if overflow == "wrap":
        bits = (high - low).bit_length()
        return numbers.plus(numbers.low_bits(numbers.plus(x, -low), bits), low)
    inside = numbers.clipped(x, low, high)
    if overflow == "saturate":
        return inside
    nodes = numbers.nodes
    same = nodes.node("Equal", [x.name, inside.name], x.shape, np.bool_)
    return numbers.made("Where", [same, x.name, numbers.number(0)], x, min(low, 0), max(high, 0))


def quotient(numbers: Arithmetic, x: Integers, divisor: int) -> Integers:
    """x / divisor, two bits below the step, the last of which is 1 where anything lies below it.

    Every rounding of it is that of the exact quotient: it is 0, below, at or above half a step
    where that is.
    """
    fine = numbers.times(x, 4)
    floor = numbers.divided(fine, divisor)
    rest = numbers.minus(fine, numbers.times(floor, divisor), (0, divisor - 1))
    even = numbers.times(numbers.shifted(floor, 1), 2)
    last = numbers.minus(floor, even, (0, 1))
    sticky = numbers.at_most(numbers.plus(last, numbers.at_most(rest, 1)), 1)
    return numbers.plus(even, sticky)
