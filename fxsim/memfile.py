"""Memory files of Verilog: codes as two's complement hexadecimal for $readmemh, one to a line.

A code of `bits` bits takes ceil(bits / 4) digits, most significant first; the bits that fill up the
first digit are 0.  Lines follow the array's row-major order (last axis fastest).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format

_DIGITS = np.frombuffer(b"0123456789abcdef", np.uint8)
_NO_DIGIT = 255
_VALUES = np.full(256, _NO_DIGIT, np.uint8)
_VALUES[_DIGITS] = np.arange(16)
_VALUES[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_NEWLINE = ord("\n")
_TOKEN = re.compile(rb"[ \t\r\n\f\v]+|//[^\n]*|(?P<token>[0-9A-Za-z_?@]+)")
_COMMENT_LINES = re.compile(rb"^[ \t]*//[^\n]*\n?", re.MULTILINE)


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


def most_bytes(count: int) -> int:
    """The bytes that a memory file of `count` codes may have: comments take some, too."""
    return 2**20 + 64 * count


def from_hex(data: bytes, format: Format, count: int, where: str) -> np.ndarray:
    """The `count` codes (1-D, format.dtype) that a memory file holds.

    Takes what $readmemh takes: comments, `@address`, underscores between digits, upper-case
    digits; zeros in front may be missing.  Every code must be given, and once.

    Args:
        data: the bytes of the file.
        format: of the codes.
        count: of the codes.
        where: the file's name for messages.

    Raises:
        InputError: fewer or more codes than `count`, no or two codes at an address, digits that
            are none (x, z), more digits than the format's width, or bits set beyond it.
    """
    digits = digits_of(format.bits)
    for text in (data, _COMMENT_LINES.sub(b"", data)):
        lines = _lines(text, digits, count)
        if lines is not None:
            words = np.zeros(count, np.uint64)
            for place in range(digits):
                words = words << np.uint64(4) | lines[:, place]
            return _codes(words, format, where)
    return _codes(_words(data, digits, count, where), format, where)


def _lines(data: bytes, digits: int, count: int) -> np.ndarray | None:
    """`data` as (count, digits) values of digits, if it is just that many lines of that many
    digits.
    """
    text = np.frombuffer(data, np.uint8)
    if text.size != count * (digits + 1):
        return None
    lines = text.reshape(count, digits + 1)
    values = _VALUES[lines[:, :digits]]
    if (lines[:, digits] != _NEWLINE).any() or (values == _NO_DIGIT).any():
        return None
    return values


def _words(data: bytes, digits: int, count: int, where: str) -> np.ndarray:
    """The `count` words of a memory file of any layout; InputError where they cannot be told."""
    words: list[int] = []
    addresses: list[int] = []
    starts: list[int] = []
    address = 0
    for start, token in _tokens(data, where):
        if start + len(token) == len(data) and len(token) < digits:
            raise InputError(
                f"{_place(data, start, where)}: the file ends within {_shown(token)}; write it "
                f"again, with a newline at its end"
            )
        if token.startswith(b"@"):
            address = _number(token[1:], 16, data, start, where)
            continue
        words.append(_number(token, digits, data, start, where))
        addresses.append(address)
        starts.append(start)
        address += 1
    if len(words) != count:
        raise InputError(
            f"{where} holds {len(words)} codes, {'fewer' if len(words) < count else 'more'} than "
            f"the {count} of the tensor; dump the whole tensor, and nothing else"
        )
    if addresses == list(range(count)):
        return np.array(words, np.uint64)
    given: dict[int, int] = {}
    for start, address, word in zip(starts, addresses, words):
        if address >= count or address in given:
            wrong = "beyond the tensor" if address >= count else "given twice"
            raise InputError(
                f"{_place(data, start, where)}: address {address:x} is {wrong}; dump each code of "
                f"the tensor once, the first at address 0"
            )
        given[address] = word
    return np.array([given[address] for address in range(count)], np.uint64)


def _tokens(data: bytes, where: str) -> Iterator[tuple[int, bytes]]:
    """(start, token) of every address and number, in a time that grows with the length of `data`."""
    start = 0
    while start < len(data):
        if data.startswith(b"/*", start):
            end = data.find(b"*/", start + 2) + 2
            if end < 2:
                raise InputError(f"{_place(data, start, where)}: a comment has no end; close it")
            start = end
            continue
        match = _TOKEN.match(data, start)
        if match is None:
            raise InputError(
                f"{_place(data, start, where)}: {_shown(data[start : start + 1])} is no digit, "
                f"address or comment; write a memory file for $readmemh"
            )
        if match["token"]:
            yield start, match["token"]
        start = match.end()


def _number(token: bytes, digits: int, data: bytes, start: int, where: str) -> int:
    """The number that `token`, at `start` in `data`, writes with at most `digits` digits."""
    text = token.replace(b"_", b"") if b"_" in token[1:] else token
    if len(text) <= digits and not text.translate(None, b"0123456789abcdefABCDEF") and text:
        return int(text, 16)
    wrong = f"has more than {digits} hexadecimal digits; write every code at the format's width"
    if not re.fullmatch(rb"[0-9a-fA-F]+", text):
        wrong = "is not hexadecimal"
        if set(token.lower()) & set(b"xz?"):
            wrong = f"{wrong} (undriven or uninitialised in the device)"
    raise InputError(f"{_place(data, start, where)}: {_shown(token)} {wrong}")


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


def _place(data: bytes, start: int, where: str) -> str:
    """'FILE, line L, column C'."""
    above = data[:start].split(b"\n")
    return f"{where}, line {len(above)}, column {len(above[-1]) + 1}"


def _shown(token: bytes) -> str:
    return repr(token[:24].decode("ascii", "replace"))
