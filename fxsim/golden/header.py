"""C headers with the codes of a tensor."""

from __future__ import annotations

import numpy as np

from fxsim.formats import Format

CODES_PER_LINE = 16


def to_header(name: str, codes: np.ndarray, format: Format, identifier: str) -> bytes:
    """A C99 header: a row-major array of codes, macros for its size, dimensions, width and step.

    name: 'layer.tensor', for a comment.  identifier: 'layer_tensor', from `identifiers`; that of
    the array is `fxsim_layer_tensor`, macros are FXSIM_LAYER_TENSOR_BITS and so on.
    """
    identifier = f"fxsim_{identifier}"
    macro = identifier.upper()
    dimensions = "".join(
        f"#define {macro}_DIM{axis} {size}\n" for axis, size in enumerate(codes.shape)
    )
    kind = f"{'' if format.signed else 'u'}int{8 * format.dtype.itemsize}_t"
    return (
        (
            f"/* {name}: {format}, value = code * 2^{macro}_STEP_EXP, row-major */\n"
            f"#ifndef {macro}_H\n#define {macro}_H\n#include <stdint.h>\n"
            f"#define {macro}_SIZE {codes.size}\n#define {macro}_DIMS {codes.ndim}\n{dimensions}"
            f"#define {macro}_BITS {format.bits}\n#define {macro}_STEP_EXP ({format.step_exp})\n"
            f"static const {kind} {identifier}[{macro}_SIZE] = {{\n"
        ).encode()
        + _decimals(codes.reshape(-1))
        + b"};\n#endif\n"
    )


def _decimals(codes: np.ndarray) -> bytes:
    """Right-aligned decimal numbers, each with a comma, CODES_PER_LINE to a line."""
    rest = np.abs(codes.astype(np.int64))
    digits = np.maximum(1, np.searchsorted(10 ** np.arange(19), rest, side="right"))
    width = int(digits.max(initial=1)) + 1
    text = np.full((codes.size, width + 2), ord(" "), np.uint8)
    for place in range(width - 1, 0, -1):
        rest, digit = np.divmod(rest, 10)
        text[:, place] = np.where(digits >= width - place, digit + ord("0"), ord(" "))
    negative = np.flatnonzero(codes < 0)
    text[negative, width - 1 - digits[negative]] = ord("-")
    text[:, width] = ord(",")
    text[CODES_PER_LINE - 1 :: CODES_PER_LINE, width + 1] = ord("\n")
    text[-1:, width + 1] = ord("\n")
    return text.tobytes()
