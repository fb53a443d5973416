"""The same codes written down otherwise: axes, elements, bytes or bits in another order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from fxsim.formats import Format
from fxsim.golden.arithmetic import bounded


def arrangements(
    codes: np.ndarray, format: Format, axes: Sequence[str]
) -> Iterator[tuple[str, np.ndarray]]:
    """(what is different, flat int64 codes as a reader sees them).

    codes: in `format`.  axes: a name for each axis.  An order of axes comes once, although several
    may give the same codes.
    """
    seen: set[bytes] = set()
    flat = codes.astype(np.int64).reshape(-1)
    stated = ",".join(axes)
    for order in itertools.permutations(range(codes.ndim)):
        turned = np.ascontiguousarray(codes.transpose(order), np.int64).reshape(-1)
        if order != tuple(range(codes.ndim)) and turned.tobytes() not in seen:
            seen.add(turned.tobytes())
            names = ",".join(axes[axis] for axis in order)
            yield f"elements in the order {names} instead of {stated}", turned
    yield "elements in reversed order, the last one first", flat[::-1]
    for size in _byte_counts(format):
        text = f"the {size} bytes of a code in the other order (endianness)"
        yield text, _reversed(flat, format, size * 8, 8)
    if format.bits > 1:
        text = f"the {format.bits} bits of a code in the other order"
        yield text, _reversed(flat, format, format.bits, 1)


def _byte_counts(format: Format) -> list[int]:
    """Bytes of a code: as few as hold its bits, and as many as its integer type has."""
    counts = {-(-format.bits // 8), format.dtype.itemsize}
    return sorted(count for count in counts if count > 1)


def _reversed(codes: np.ndarray, format: Format, width: int, group: int) -> np.ndarray:
    """Two's complement of `width` bits with its groups of bits in the other order, as codes."""
    mask = (1 << group) - 1
    out = np.zeros_like(codes)
    for place in range(0, width, group):
        out = out << group | codes >> place & mask
    return bounded(out, format, "wrap")
