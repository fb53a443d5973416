"""The comparison bit by bit."""

from __future__ import annotations

import numpy as np

from fxsim.golden.difference import Difference
from fxsim.tensor import Tensor


def assert_bit_exact(got, wanted, what: str = "") -> None:
    """AssertionError unless `got` and `wanted` are equal in format, shape and every code.

    got, wanted: Tensors, or integers in nested lists or arrays (of any integer type).  Formats are
    compared where both are Tensors.  what: name of the thing compared, for the message, which tells
    the first difference with its index, in codes and, with a format, in real values; how many codes
    differ; and by how much. Raises TypeError for anything that is no integer.
    """
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
        raise AssertionError(f"{name}{difference.text(formats[-1] if formats else None)}")


def _codes(argument: str, value) -> np.ndarray:
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
