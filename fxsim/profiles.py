"""Compatibility profiles: rounding and overflow by the names that other tools use, told in fxsim's
modes.

A mode of another tool is listed with the fxsim mode that gives the same code for every value, or
with None and the reason where there is none.  `fxsim profiles` prints them as tables
(report/profiles.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fxsim.errors import InputError, choice
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.tensor import quantize

KINDS = ("rounding", "overflow")
ROUNDING_CASES = (-2.5, -1.75, -1.5, -1.25, -1.0, -0.5, 0.5, 1.0, 1.25, 1.5, 1.75, 2.5)
"""Steps of the target that the rounding table shows: ties and others, of both signs."""
OVERFLOW_CASES = (-19, -9, -8, 7, 8, 19)
OVERFLOW_FORMAT = Format(4, 3)
"""The overflow table's: 4 bits, signed, codes -8 to 7."""


RUN = "run"
BY_FORMULA = "by formula"
BY_EXAMPLES = "by examples"
NOT_COMPARED = "not compared"
"""Of Profile.checked; CHECKED tells their meaning."""


@dataclass(frozen=True)
class Profile:
    """One named mode of one system.

    kind: 'rounding' or 'overflow'.  mode: the fxsim mode that equals it, None where no mode does.
    note: conditions, or why there is none.  source: where the meaning is stated.  checked: what the
    tests compare with.
    """

    system: str
    name: str
    kind: str
    mode: str | None
    source: str
    checked: str
    note: str = ""

    def __post_init__(self) -> None:
        choice("kind", self.kind, KINDS)
        if self.mode is not None:
            choice("mode", self.mode, ROUNDINGS if self.kind == "rounding" else OVERFLOWS)


def _rows(
    system: str,
    kind: str,
    source: str,
    checked: str,
    modes: dict[str, str | tuple[str | None, str]],
) -> Iterable[Profile]:
    """Profiles of one system; a value is a mode, or (mode, note)."""
    for name, value in modes.items():
        mode, note = value if isinstance(value, tuple) else (value, "")
        yield Profile(
            system, name, kind, mode, source, NOT_COMPARED if mode in STOCHASTIC else checked, note
        )


_AP_FIXED = "AMD UG1399, Vitis HLS: quantization modes, overflow modes"
_FIMATH = "MathWorks, Fixed-Point Designer: fimath object properties; ceil, convergent, fix, floor, nearest, round"
_FIXED_PKG = "IEEE 1076-2008, fixed_generic_pkg: round_fixed, resize"
_NUMERIC_STD = 'IEEE 1076.3 numeric_std: resize, shift_right, "/"'
_VERILOG = "IEEE 1800-2017: 11.4.10 shift, 11.4.3 arithmetic, 10.7 assignment truncation"
_APYTYPES = "APyTypes 0.5: QuantizationMode, OverflowMode"
_QONNX = "QONNX: Quant operator, rounding_mode and narrow"
_ONNX = "ONNX: QuantizeLinear"
_GEMMLOWP = "gemmlowp: fixedpoint/fixedpoint.h"
_FPGA_FIXED_POINT = "WangXuan95/FPGA-FixedPoint: RTL/fixedpoint.v"
_TFLITE = "TensorFlow Lite: kernels/internal/common: MultiplyByQuantizedMultiplier"

CHECKED = """\
How it was checked (tests/ops/test_profiles.py): "run" and "run in": every 8-bit code, compared with the system
itself or with one that has the mode under the same name; "by formula": with the formula of its source or
standard; "by examples": with the examples of its documents alone; "not compared": taken from the documents, or
random words of its own."""

PROFILES: tuple[Profile, ...] = (
    *_rows(
        "ap_fixed",
        "rounding",
        _AP_FIXED,
        "run in APyTypes",
        {
            "AP_RND": "nearest_up",
            "AP_RND_ZERO": "nearest_zero",
            "AP_RND_MIN_INF": "nearest_down",
            "AP_RND_INF": "nearest_away",
            "AP_RND_CONV": "nearest_even",
            "AP_TRN": ("floor", "the default"),
            "AP_TRN_ZERO": "zero",
        },
    ),
    *_rows(
        "ap_fixed",
        "overflow",
        _AP_FIXED,
        BY_EXAMPLES,
        {
            "AP_SAT": "saturate",
            "AP_SAT_ZERO": "saturate_zero",
            "AP_SAT_SYM": ("saturate_symmetric", "the least code itself becomes the next one"),
            "AP_WRAP": ("wrap", "the default, with N = 0 saturated bits; N above 0 has no equal"),
        },
    ),
    *_rows(
        "ap_fixed",
        "overflow",
        _AP_FIXED,
        NOT_COMPARED,
        {"AP_WRAP_SM": (None, "sign-magnitude wrap keeps a sign bit and inverts the others")},
    ),
    *_rows(
        "MATLAB fimath",
        "rounding",
        _FIMATH,
        BY_EXAMPLES,
        {
            "Ceiling": "ceil",
            "Convergent": "nearest_even",
            "Floor": "floor",
            "Nearest": ("nearest_up", "the default; ties toward positive infinity"),
            "Round": ("nearest_away", "ties away from zero"),
            "Zero": "zero",
        },
    ),
    *_rows(
        "MATLAB fimath",
        "overflow",
        _FIMATH,
        NOT_COMPARED,
        {"Saturate": ("saturate", "the default"), "Wrap": "wrap"},
    ),
    *_rows(
        "VHDL fixed_pkg",
        "rounding",
        _FIXED_PKG,
        "run in GHDL",
        {
            "fixed_round": (
                "nearest_even",
                "the default; round_fixed takes a tie up only where the last bit is 1",
            ),
            "fixed_truncate": "floor",
        },
    ),
    *_rows(
        "VHDL fixed_pkg",
        "overflow",
        _FIXED_PKG,
        "run in GHDL",
        {"fixed_saturate": ("saturate", "the default"), "fixed_wrap": "wrap"},
    ),
    *_rows(
        "VHDL numeric_std",
        "rounding",
        _NUMERIC_STD,
        "run in GHDL",
        {
            "shift_right(signed)": "floor",
            "signed / 2**n": ("zero", "division truncates toward zero"),
        },
    ),
    *_rows(
        "VHDL numeric_std",
        "overflow",
        _NUMERIC_STD,
        "run in GHDL",
        {
            "resize(unsigned)": "wrap",
            "resize(signed)": (
                None,
                "keeps the sign bit and the low bits: no wrap; slice the vector to wrap",
            ),
        },
    ),
    *_rows(
        "SystemVerilog",
        "rounding",
        _VERILOG,
        "run in Icarus",
        {
            ">>>": ("floor", "on signed operands; an unsigned one makes the expression unsigned"),
            "signed / 2**n": ("zero", "division truncates toward zero"),
        },
    ),
    *_rows(
        "SystemVerilog",
        "overflow",
        _VERILOG,
        "run in Icarus",
        {"narrower assignment": ("wrap", "also of signed values, and of size casts")},
    ),
    *_rows(
        "APyTypes",
        "rounding",
        _APYTYPES,
        RUN,
        {
            "TO_NEG": "floor",
            "TO_POS": "ceil",
            "TO_ZERO": "zero",
            "TO_AWAY": "away",
            "TIES_EVEN": "nearest_even",
            "TIES_ODD": "nearest_odd",
            "TIES_AWAY": "nearest_away",
            "TIES_ZERO": "nearest_zero",
            "TIES_POS": "nearest_up",
            "TIES_NEG": "nearest_down",
            "JAM": "jam",
            "JAM_UNBIASED": (None, "leaves exact values as they are; jam sets their last bit, too"),
            "TRN_MAG": (None, "adds one to the floor of every negative value, exact ones too"),
            "STOCH_WEIGHTED": ("stochastic", "the same law, other random words"),
            "STOCH_EQUAL": ("stochastic_equal", "the same law, other random words"),
        },
    ),
    *_rows(
        "APyTypes",
        "overflow",
        _APYTYPES,
        RUN,
        {
            "SAT": "saturate",
            "WRAP": "wrap",
            "NUMERIC_STD": (None, "keeps the sign bit and the low bits, as numeric_std's resize"),
        },
    ),
    *_rows(
        "QONNX",
        "rounding",
        _QONNX,
        RUN,
        {
            "ROUND": ("nearest_even", "the default"),
            "HALF_EVEN": "nearest_even",
            "HALF_UP": ("nearest_away", "ties away from zero, whatever the name says"),
            "HALF_DOWN": "nearest_zero",
            "CEIL": "ceil",
            "FLOOR": "floor",
            "UP": "away",
            "DOWN": "zero",
        },
    ),
    *_rows(
        "QONNX",
        "overflow",
        _QONNX,
        RUN,
        {
            "narrow=0": ("saturate", "1-bit signed Quant is bipolar, -1 and +1, and has no equal"),
            "narrow=1": (
                "saturate_symmetric",
                "signed; an unsigned one loses its highest code and has no equal",
            ),
        },
    ),
    *_rows("ONNX", "rounding", _ONNX, "run in ONNX Runtime", {"QuantizeLinear": "nearest_even"}),
    *_rows("ONNX", "overflow", _ONNX, "run in ONNX Runtime", {"QuantizeLinear": "saturate"}),
    *_rows(
        "gemmlowp",
        "rounding",
        _GEMMLOWP,
        BY_FORMULA,
        {
            "RoundingDivideByPOT": "nearest_away",
            "SaturatingRoundingDoublingHighMul": (
                "nearest_up",
                "of the product a * b, by 31 bits (15 for int16)",
            ),
        },
    ),
    *_rows(
        "gemmlowp",
        "overflow",
        _GEMMLOWP,
        BY_FORMULA,
        {
            "SaturatingRoundingDoublingHighMul": (
                "saturate",
                "only the least value times itself overflows",
            )
        },
    ),
    *_rows(
        "FPGA-FixedPoint",
        "rounding",
        _FPGA_FIXED_POINT,
        "run in Icarus",
        {
            "fxp_zoom ROUND=1": (
                "nearest_up",
                "the default; up to the input's integer bits in the output, beyond which the greatest "
                "code is not rounded up and there is no equal",
            ),
            "fxp_zoom ROUND=0": "floor",
            "fxp_mul": ("nearest_up", "of the exact product; ROUND=0: floor"),
            "fxp_add": ("nearest_up", "of the exact sum; ROUND=0: floor"),
        },
    ),
    *_rows(
        "FPGA-FixedPoint",
        "overflow",
        _FPGA_FIXED_POINT,
        "run in Icarus",
        {"fxp_zoom": "saturate", "fxp_mul": "saturate", "fxp_add": "saturate"},
    ),
    *_rows(
        "TensorFlow Lite",
        "rounding",
        _TFLITE,
        BY_FORMULA,
        {
            "double rounding": (
                None,
                "two roundings: nearest_up by 31 bits, then nearest_away by the rest; requantize "
                "twice, through a 32-bit format",
            ),
            "TFLITE_SINGLE_ROUNDING": "nearest_up",
        },
    ),
)


def profile(name: str, kind: str, system: str | None = None) -> Profile:
    """The profile of a name such as 'AP_RND' or 'Nearest', of a kind, in one system or in any.

    Raises InputError where the name is unknown, or means different things in different systems.
    """
    choice("kind", kind, KINDS)
    if system is not None:
        choice("system", system, dict.fromkeys(row.system for row in PROFILES))
    rows = [row for row in PROFILES if row.kind == kind and system in (None, row.system)]
    choice(f"name of {kind}", name, dict.fromkeys(row.name for row in rows))
    found = [row for row in rows if row.name == name]
    if len({row.mode for row in found}) > 1:
        raise InputError(
            f"name of {kind} {name!r} differs among {', '.join(row.system for row in found)}; "
            "give the system"
        )
    return found[0]


def truth(kind: str, mode: str) -> tuple[int, ...] | None:
    """What fxsim makes of ROUNDING_CASES (rounded to a step of 1) or OVERFLOW_CASES (in
    OVERFLOW_FORMAT).

    None for the stochastic roundings.
    """
    if mode in STOCHASTIC:
        return None
    if kind == "rounding":
        codes = quantize(np.array(ROUNDING_CASES), Format(8, 7), rounding=mode).codes
    else:
        codes = quantize(np.array(OVERFLOW_CASES), OVERFLOW_FORMAT, overflow=mode).codes
    return tuple(int(code) for code in codes)
