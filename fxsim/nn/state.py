"""The arrays that a network in training consists of, by name, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np

from fxsim.errors import InputError

Arrays = dict[str, np.ndarray]


def arrays_of(value, name: str) -> Arrays:
    """All arrays in `value`, nested mappings and dataclasses, by dotted name.

    They are lent, not copied.
    """
    return dict(_walk(value, name))


def _walk(value, name: str) -> Iterator[tuple[str, np.ndarray]]:
    parts: Mapping = {}
    if isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, Mapping):
        parts = value
    elif dataclasses.is_dataclass(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    for key, part in parts.items():
        yield from _walk(part, f"{name}.{key}")


def restore(own: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> None:
    """Copy the `given` arrays into the `own` ones of the same names.

    Raises InputError, before anything is copied, where a name is missing or unknown, or a shape or
    dtype differs.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"a state must be a dictionary of arrays, got {type(given).__name__}")
    for name in (*own, *given):
        if name not in given or name not in own:
            raise InputError(f"array {name!r} is {'missing' if name in own else 'unknown'}")
        if not isinstance(given[name], np.ndarray) or isinstance(given[name], np.ma.MaskedArray):
            raise TypeError(
                f"array {name!r} must be a plain NumPy array, got {type(given[name]).__name__}"
            )
        if (given[name].shape, given[name].dtype) != (own[name].shape, own[name].dtype):
            raise InputError(
                f"array {name!r} must be {own[name].dtype} of shape {own[name].shape}, "
                f"got {given[name].dtype} of shape {given[name].shape}"
            )
    for name, array in own.items():
        array[...] = given[name]
