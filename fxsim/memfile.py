"""Memory files of Verilog: codes as two's complement hexadecimal for $readmemh, one to a line.

A code of `bits` bits takes ceil(bits / 4) digits, most significant first; the bits that fill up the
first digit are 0.  Lines follow the array's row-major order (last axis fastest).
"""

from __future__ import annotations

import re

import numpy as np

from fxsim.errors import InputError, present
from fxsim.formats import Format

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, np.uint8)
_VALUES[_DIGITS] = np.arange(16)
_VALUES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_NEWLINE = ord("\n")
_TOKEN = re.compile(rb"//[^\n]*|/\*.*?\*/|\S+", re.DOTALL)


def digits_of(bits: int) -> int:
    """Hexadecimal digits of a code of `bits` bits."""
    return -(-bits // 4)


def to_hex(codes: np.ndarray, bits: int) -> bytes:
    """The memory file of integer `codes` of `bits` bits (1 to 64)."""
    digits = digits_of(bits)
    words = codes.reshape(-1).astype(np.int64).view(np.uint64) & np.uint64(2**bits - 1)
    text = np.full((words.size, digits + 1), _NEWLINE, np.uint8)
    for place in range(digits):
        text[:, digits - 1 - place] = _DIGITS[(words >> np.uint64(4 * place)) & np.uint64(15)]
    return text.tobytes()


def from_hex(data: bytes, format: Format, count: int, where: str) -> np.ndarray:
    """The `count` codes (1-D, format.dtype) that a memory file holds.

    Takes what $writememh writes: comments, `@address` where it is the next one, upper-case digits.
    where: the file's name for messages.  Raises InputError for fewer or more codes than `count`,
    digits that are none (x, z), a width other than the format's, or bits set beyond it.
    """
    digits = digits_of(format.bits)
    lines = _lines(data, digits, count)
    if lines is None:
        lines = _lines(re.sub(rb"//[^\n]*\n", b"", data), digits, count)
    if lines is None:
        lines = present(_lines(_regular(data, digits, count, where), digits, count))
    nibbles = _VALUES[lines[:, :digits]]
    _check_digits(nibbles, lines, where)
    words = np.zeros(count, np.uint64)
    for place in range(digits):
        words = words << np.uint64(4) | nibbles[:, place]
    return _codes(words, format, where)


def _lines(data: bytes, digits: int, count: int) -> np.ndarray | None:
    """`data` as (count, digits + 1) characters, if it is just that many lines of that many
    characters.
    """
    text = np.frombuffer(data, np.uint8)
    if text.size != count * (digits + 1):
        return None
    lines = text.reshape(count, digits + 1)
    return (
        lines
        if (lines[:, digits] == _NEWLINE).all() and not (lines[:, :digits] <= ord(" ")).any()
        else None
    )


def _regular(data: bytes, digits: int, count: int, where: str) -> bytes:
    """The same codes with `digits` digits and one newline each.

    InputError where they cannot be told.
    """
    words: list[bytes] = []
    for match in _TOKEN.finditer(data):
        token = match[0]
        if token.startswith((b"//", b"/*")):
            continue
        if token.startswith(b"@"):
            _check_address(token, len(words), where, _line(data, match))
        elif len(token) != digits:
            raise InputError(
                f"{where}, line {_line(data, match)}: {_shown(token)} is not {digits} hexadecimal "
                f"digits; "
                "write every code at the manifest's width, one to a line"
            )
        else:
            words.append(token)
    if len(words) != count:
        raise InputError(
            f"{where} holds {len(words)} codes, {'fewer' if len(words) < count else 'more'} than "
            f"the "
            f"manifest's {count}; dump the whole tensor, and nothing else"
        )
    return b"".join(word + b"\n" for word in words)


def _check_address(token: bytes, expected: int, where: str, line: int) -> None:
    if not re.fullmatch(rb"@[0-9a-fA-F]+", token) or int(token[1:], 16) != expected:
        raise InputError(
            f"{where}, line {line}: address {_shown(token)}, where {expected:x} is next; "
            "dump the tensor from address 0, without gaps"
        )


def _check_digits(nibbles: np.ndarray, lines: np.ndarray, where: str) -> None:
    bad = np.flatnonzero((nibbles == _NO_DIGIT).any(axis=1))
    if bad.size:
        token = lines[bad[0], :-1].tobytes()
        unknown = (
            " (undriven or uninitialised in the device)" if set(token.lower()) & set(b"xz") else ""
        )
        raise InputError(
            f"{where}: {bad.size} codes are not hexadecimal, the first is number {bad[0]}: "
            f"{_shown(token)}"
            f"{unknown}"
        )


def _codes(words: np.ndarray, format: Format, where: str) -> np.ndarray:
    if format.bits < 64:
        outside = np.flatnonzero(words >> np.uint64(format.bits))
        if outside.size:
            word = int(words[outside[0]])
            raise InputError(
                f"{where}: {outside.size} codes have bits beyond the format's {format.bits}, the "
                f"first is "
                f"number {outside[0]}: {word:x}; write two's complement of exactly {format.bits} "
                f"bits"
            )
    if format.signed:
        unused = 64 - format.bits
        left: np.ndarray = (words << np.uint64(unused)).view(np.int64)
        right: np.ndarray = left >> np.int64(unused)
        return right.astype(format.dtype)
    return words.astype(format.dtype)


def _line(data: bytes, match: re.Match[bytes]) -> int:
    return data.count(b"\n", 0, match.start()) + 1


def _shown(token: bytes) -> str:
    return repr(token[:24].decode("ascii", "replace"))
