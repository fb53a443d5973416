"""The one exception that fxsim raises for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """Bad input, told in one line: the argument, the rule, the value and the way out.

    The command line prints the message and exits with 2; a library user sees a ValueError.
    """


LONGEST_VALUE = 80
LONGEST_INTEGER_BITS = 128


def shown(value: Any) -> str:
    """A caller's value for a message: its repr in one line of at most 80 characters."""
    if isinstance(value, int) and value.bit_length() > LONGEST_INTEGER_BITS:
        return f"an integer of {value.bit_length()} bits"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def choice(argument: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`, else an InputError that names the nearest one."""
    allowed = list(allowed)
    if isinstance(value, str) and value in allowed:
        return value
    near = difflib.get_close_matches(value, allowed, n=1) if isinstance(value, str) else []
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"{argument} {shown(value)} is unknown; {hint}choose from {', '.join(allowed)}"
    )
