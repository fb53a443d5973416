"""Fixed-point formats, and the notations in which hardware people write them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_derived, check_fields, check_keys, construct
from fxsim.kernels.rounding import OVERFLOWS, ROUNDINGS, STOCHASTIC, code_range

__all__ = ["DETERMINISTIC", "Format", "ROUNDINGS", "OVERFLOWS", "STOCHASTIC", "MAX_TENSOR_BITS"]

DETERMINISTIC = tuple(mode for mode in ROUNDINGS if mode not in STOCHASTIC)
"""Roundings that take no random words."""

MAX_TENSOR_BITS = 32
Q_CONVENTIONS = ("ti", "arm")


@dataclass(frozen=True)
class Format:
    """`bits` wide codes for real values in [-r, r) (signed) or [0, r) (unsigned), r = 2**range_exp.

    A code stands for code * step, with step = r * 2**-(bits-1) signed, r * 2**-bits unsigned.
    Tensors that are quantized to have 1 to 32 bits; exact sums are held in up to 64 (unsigned: 63).
    Source: Sakr and Shanbhag (ICLR 2019), section 2.
    """

    bits: int
    range_exp: int
    signed: bool = True

    def __post_init__(self) -> None:
        check_fields(self, "")
        most = 64 if self.signed else 63
        if not 1 <= self.bits <= most:
            raise InputError(
                f"bits must be 1 to {most} for {'a signed' if self.signed else 'an unsigned'} "
                f"format "
                f"(1 to {MAX_TENSOR_BITS} to quantize to), got {shown(self.bits)}"
            )
        if not -512 <= self.range_exp <= 512:
            raise InputError(f"range_exp must be -512 to 512, got {shown(self.range_exp)}")

    @cached_property
    def step_exp(self) -> int:
        """The step is 2**step_exp."""
        return self.range_exp - self.bits + int(self.signed)

    @property
    def step(self) -> float:
        """The real value of code 1."""
        return math.ldexp(1.0, self.step_exp)

    @property
    def range(self) -> float:
        """r: real values lie in [-r, r) (signed) or [0, r) (unsigned)."""
        return math.ldexp(1.0, self.range_exp)

    @cached_property
    def min_code(self) -> int:
        """The least code."""
        return code_range(self.bits, self.signed, "saturate")[0]

    @cached_property
    def max_code(self) -> int:
        """The greatest code."""
        return code_range(self.bits, self.signed, "saturate")[1]

    @property
    def min(self) -> float:
        """The least real value."""
        return self.min_code * self.step

    @property
    def max(self) -> float:
        """The greatest real value."""
        return self.max_code * self.step

    @property
    def dtype(self) -> np.dtype:
        """The smallest NumPy integer type that holds every code."""
        width = next(w for w in (8, 16, 32, 64) if self.bits <= w)
        return np.dtype(f"{'int' if self.signed else 'uint'}{width}")

    @cached_property
    def storage(self) -> np.dtype:
        """The signed NumPy integer type that kernels keep codes in.

        The smallest of at least 16 bits that holds every code.
        """
        bits = self.bits + (not self.signed)
        return np.dtype(next(f"int{width}" for width in (16, 32, 64) if bits <= width))

    def q(self, convention: str = "ti") -> str:
        """Qm.n (signed) or UQm.n: n fraction bits, m integer bits.

        Texas Instruments ('ti') does not count the sign bit in m, ARM ('arm') does; the name of
        the convention is part of the text: 'Q0.7 (ti)' and 'Q1.7 (arm)' are the same format.
        """
        counted = self.signed if choice("convention", convention, Q_CONVENTIONS) == "arm" else 0
        return f"{'Q' if self.signed else 'UQ'}{self.range_exp + counted}.{-self.step_exp} ({convention})"

    def ap_fixed(self) -> str:
        """`ap_fixed<W,I>` or `ap_ufixed<W,I>` of Vitis HLS; I counts the sign bit."""
        return f"ap_{'' if self.signed else 'u'}fixed<{self.bits},{self.range_exp + self.signed}>"

    def wl_fl(self) -> str:
        """'(wordlength, fraction length)', with a leading 'u' for an unsigned format."""
        return f"{'' if self.signed else 'u'}({self.bits}, {-self.step_exp})"

    @classmethod
    def parse(cls, text: str, convention: str = "ti") -> Format:
        """The format that `q`, `ap_fixed` or `wl_fl` wrote.

        A Q text without a named convention is read in `convention`.  Raises InputError for any
        other text, TypeError for what is no text.
        """
        if not isinstance(text, str):
            raise TypeError(f"format must be a text, got {shown(text)}")
        for pattern, build in _NOTATIONS:
            match = re.fullmatch(pattern, text.strip())
            if match:
                return build(match, choice("convention", convention, Q_CONVENTIONS))
        raise InputError(
            f"format {shown(text)} is in no known notation; write Q0.7 (ti), Q1.7 (arm), UQ1.7, "
            "ap_fixed<8,1>, ap_ufixed<8,1>, (8, 7) or u(8, 7)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `from_dict` reads it back.

        `step_exp` and `q` only repeat what the other keys say.
        """
        return {
            "bits": self.bits,
            "range_exp": self.range_exp,
            "signed": self.signed,
            "step_exp": self.step_exp,
            "q": self.q("ti"),
        }

    @classmethod
    def from_dict(cls, table: object, where: str = "format") -> Format:
        """The format that `to_dict` gave.

        Args:
            table: needs `bits`, `range_exp` and `signed`.  It may have `step_exp`, `q`, `ap_fixed`
                and `wl_fl`, which must say the same.
            where: how messages begin.

        Raises:
            InputError: an unknown or missing key, a wrong value, keys that contradict each other.
        """
        own = ("bits", "range_exp", "signed")
        table = check_keys(where, table, (*own, "step_exp", *_WRITTEN), own)
        made = construct(cls, where, *(table[key] for key in own))
        if "step_exp" in table:
            check_derived(where, "step_exp", table["step_exp"], made.step_exp)
        for key in _WRITTEN:
            if key in table and construct(cls.parse, f"{where}, {key}", table[key]) != made:
                check_derived(where, key, table[key], getattr(made, key)())
        return made

    def __str__(self) -> str:
        return (
            f"{'s' if self.signed else 'u'}{self.bits} r=2^{self.range_exp} step=2^{self.step_exp}"
        )


def _from_q(match: re.Match[str], convention: str) -> Format:
    unsigned, integer, fraction, named = match.groups()
    signed = not unsigned
    sign_counted = signed and (named or convention) == "arm"
    range_exp = int(integer) - sign_counted
    return Format(range_exp + int(fraction) + signed, range_exp, signed)


def _from_ap_fixed(match: re.Match[str], _convention: str) -> Format:
    unsigned, width, integer = match.groups()
    return Format(int(width), int(integer) - (not unsigned), not unsigned)


def _from_wl_fl(match: re.Match[str], _convention: str) -> Format:
    unsigned, width, fraction = match.groups()
    return Format(int(width), int(width) - int(fraction) - (not unsigned), not unsigned)


_NOTATIONS = (
    (r"(U?)Q(-?\d+)\.(-?\d+)(?:\s*\((ti|arm)\))?", _from_q),
    (r"ap_(u?)fixed<\s*(\d+)\s*,\s*(-?\d+)\s*>", _from_ap_fixed),
    (r"(u?)\(\s*(\d+)\s*,\s*(-?\d+)\s*\)", _from_wl_fl),
)

_WRITTEN = ("q", "ap_fixed", "wl_fl")
"""Methods of Format that write a text which `parse` reads."""
