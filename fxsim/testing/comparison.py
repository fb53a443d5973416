"""The comparison bit by bit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from fxsim.golden.difference import Difference
from fxsim.tensor import Tensor

if TYPE_CHECKING:
    from fxsim.formats import Format
    from fxsim.ops.exact import Exact
    from fxsim.quantizer import Quantizer


def assert_bit_exact(
    got: Any,
    wanted: Any,
    what: str = "",
    explain: tuple[Exact | Tensor, Format | Quantizer] | None = None,
) -> None:
    """AssertionError unless `got` and `wanted` are equal in format, shape and every code.

    The message reports the first difference with its index, in codes and, with a format, in real
    values; how many codes differ; and by how much.

    Args:
        got: a Tensor, or integers in nested lists or arrays (of any integer type).
        wanted: likewise.  Formats are compared where both are Tensors.
        what: name of the thing compared, for the message.
        explain: (exact, quantizer) that `wanted` comes from: the message then also has the changes
            of semantics that give `got` (see fxsim.testing.explain).

    Raises:
        AssertionError: where they differ.
        TypeError: for anything that is no integer, or no such pair.

    Example:
        >>> from fxsim import Format, Tensor, ops
        >>> from fxsim.testing import assert_bit_exact
        >>> a = Tensor([81, -81, 83], Format(8, 0))
        >>> total, narrow = ops.add(a, a), Format(8, 3)
        >>> assert_bit_exact([20, -20, 21], total.to(narrow))
        >>> assert_bit_exact([20, -21, 20], total.to(narrow), "adder", explain=(total, narrow))
        Traceback (most recent call last):
        AssertionError: adder: first at index (1): got -21 (0xeb, -1.3125), wanted -20 (0xec, -1.25)
        2 of 3 codes differ (66.7 %); got - wanted in codes: -1 (2x)
        all codes are explained by this change of semantics (of 90 tried):
          rounding floor instead of nearest_away
    """
    exact, quantizer = _pair(explain)
    name = f"{what}: " if what else ""
    formats = [value.format for value in (got, wanted) if isinstance(value, Tensor)]
    got_codes = _codes("got", got)
    wanted_codes = _codes("wanted", wanted)
    if got_codes.shape != wanted_codes.shape:
        raise AssertionError(f"{name}got shape {got_codes.shape}, wanted {wanted_codes.shape}")
    if len(formats) == 2 and formats[0] != formats[1]:
        raise AssertionError(
            f"{name}got format {formats[0]}, wanted {formats[1]}{_as_reals(got, wanted)}"
        )
    difference = Difference.between(got_codes, wanted_codes)
    if difference:
        lines = [f"{name}{difference.text(formats[-1] if formats else None)}"]
        if exact is not None:
            # The search stands on all of fxsim.ops, which a comparison alone does not need.
            explanation = importlib.import_module("fxsim.testing.explanation").explanation
            lines.append(explanation(got, exact, quantizer).text("all codes"))
        raise AssertionError("\n".join(lines))


def _pair(explain: Any) -> tuple[Any, Any]:
    """(exact, quantizer), or (None, None)."""
    if explain is None:
        return None, None
    if not isinstance(explain, tuple) or len(explain) != 2:
        raise TypeError(f"explain must be a pair (exact, quantizer), got {explain!r}")
    return explain


def _codes(argument: str, value: Any) -> np.ndarray:
    codes = value.codes if isinstance(value, Tensor) else np.asarray(value)
    if codes.dtype == object and all(
        isinstance(code, (int, np.integer)) for code in codes.reshape(-1)
    ):
        return codes
    if codes.dtype.kind not in "iu" and codes.size:
        raise TypeError(
            f"{argument} must hold integer codes, got dtype {codes.dtype}; "
            "use fxsim.quantize for real values"
        )
    return codes


def _as_reals(got: Tensor, wanted: Tensor) -> str:
    """Whether tensors of different formats at least stand for the same values."""
    same = np.array_equal(got.real, wanted.real)
    return "; the real values are equal" if same else "; the real values differ, too"
