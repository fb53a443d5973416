"""The one exception that fxsim raises for bad input, and the parts that its messages share."""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

SHOWN_LENGTH = 80
"""A message shows at most so many characters of a value."""

LISTED_LENGTH = 120
"""A message lists at most so many characters of names."""

MESSAGE_LENGTH = 240
"""Messages are cut after so many characters where others may put words around them."""

LINE_LENGTH = 280
"""No message is longer; the command line puts a few words before it."""


class InputError(ValueError):
    r"""Bad input, told in one line: the argument, the rule, the value and the way out.

    The command line prints the message and exits with 2; a library user sees a ValueError.

    Example:
        >>> print(InputError("no such file: a\x1b[2Jb"))
        no such file: a\x1b[2Jb
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


@contextlib.contextmanager
def refused(told: Callable[[str], InputError], *kept: type[Exception]) -> Iterator[None]:
    """Within, whatever another package says of bad input becomes `told(its text)`.

    What fxsim itself refuses stays as it is, and so do a lack of memory and the classes `kept`.

    Example:
        >>> with refused(lambda text: InputError(f"the header is damaged: {text}")):
        ...     int("x1")
        Traceback (most recent call last):
        fxsim.errors.InputError: the header is damaged: invalid literal for int() with base 10: 'x1'
    """
    stays: tuple[type[Exception], ...] = (InputError, MemoryError, *kept)
    try:
        yield
    except stays:
        raise
    except Exception as error:  # packages raise any of a dozen types
        raise told(str(error)) from None


def one_line(text: str, length: int = LINE_LENGTH) -> str:
    r"""`text` on one line that a terminal may be shown, of at most so many characters.

    What is not printable is escaped.  Where the text is too long, its long words, as paths are,
    keep their ends alone; where that is not enough, it loses its middle.

    Example:
        >>> print(one_line("a\nb"))
        a\nb
        >>> one_line(f"cannot read {300 * 'x'}/data.npz: it is too large", 130)[-51:]
        'xxxxxxxxxxxxxxxxxxxxxxxxx/data.npz: it is too large'
    """
    if not text.isprintable():
        text = "".join(
            each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
        )
    if len(text) > length:
        text = re.sub(rf"\S{{{SHOWN_LENGTH + 1},}}", _ends, text)
    if len(text) <= length:
        return text
    return f"{text[: 2 * length // 3 - 5]} ... {text[-(length // 3) :]}"


def _ends(word: re.Match[str]) -> str:
    """The first and last characters of a word, SHOWN_LENGTH in all."""
    half = (SHOWN_LENGTH - 3) // 2
    return f"{word[0][:half]}...{word[0][-half:]}"


def shown(value: object) -> str:
    """`value` as a message shows it: on one line, cut after SHOWN_LENGTH characters.

    Example:
        >>> shown("relu6")
        "'relu6'"
        >>> shown(list(range(1000)))[-12:]
        '9, 20, 21...'
    """
    try:
        return cut(repr(value), SHOWN_LENGTH)
    except Exception:  # e.g. an integer of more digits than Python prints
        return f"a value of type {type(value).__name__}"


def cut(text: str, length: int = MESSAGE_LENGTH) -> str:
    """`text` on one line, cut after so many characters."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 3]}..."


def listed(names: Iterable[object]) -> str:
    """Names on one line, separated by commas, as many as fit LISTED_LENGTH, then '...'."""
    text = ", ".join(" ".join(str(name).split()) for name in names)
    if len(text) <= LISTED_LENGTH:
        return text
    return f"{text[:LISTED_LENGTH].rpartition(', ')[0] or text[:LISTED_LENGTH]}, ..."


def choice(argument: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`, else an InputError that names the nearest one."""
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"did you mean {shown(near[0])}? " if near else ""
    message = f"{argument} {shown(value)} is unknown"
    choices = f"{hint}choose from {listed(allowed)}"
    if len(message) + len(choices) > MESSAGE_LENGTH:
        choices = hint.removesuffix(" ") or f"there are {len(allowed)} names to choose from"
    raise InputError(f"{message}; {choices}")


def present(value: T | None) -> T:
    """`value`, which is there: fxsim itself guarantees it, whatever the input."""
    if value is None:
        raise RuntimeError("something that fxsim makes is missing; please report this")
    return value


def invariant(holds: bool, what: str) -> None:
    """RuntimeError unless something holds that fxsim itself guarantees, whatever the input."""
    if not holds:
        raise RuntimeError(f"{what} does not hold; please report this")
