"""The one exception that fxsim raises for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line: the argument, the rule, the value and the way out.

    The command line prints the message and exits with 2; a library user sees a ValueError.
    """


def choice(argument: str, value: str, allowed: Iterable[str]) -> str:
    """`value` if it is one of `allowed`, else an InputError that names the nearest one."""
    allowed = list(allowed)
    if value in allowed:
        return value
    near = difflib.get_close_matches(str(value), allowed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(f"{argument} {value!r} is unknown; {hint}choose from {', '.join(allowed)}")
