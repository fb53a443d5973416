"""The one exception that fxsim raises for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


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


def present(value: T | None) -> T:
    """`value`, which is there: fxsim itself guarantees it, whatever the input."""
    if value is None:
        raise RuntimeError("something that fxsim makes is missing; please report this")
    return value


def invariant(holds: bool, what: str) -> None:
    """RuntimeError unless something holds that fxsim itself guarantees, whatever the input."""
    if not holds:
        raise RuntimeError(f"{what} does not hold; please report this")
