"""Fields of dataclasses, checked against their annotations in one place.

`check_fields` stands first in `__post_init__` of every public dataclass.  `read_fields` makes a
dataclass from a table of a JSON or TOML file; it is strict: nothing in the table goes unread.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union

import numpy as np

from fxsim.errors import InputError, choice, cut, shown

Check = Callable[[str, Any], Any]
"""check(argument, value): the value in its normal form, else TypeError or InputError."""

T = TypeVar("T")


class FrozenDict(dict[Any, Any]):
    """A dict that nobody can change, and that has a hash where its values have one.

    Frozen dataclasses keep their mappings as such copies: what the caller does to his own dict
    later changes nothing.
    """

    def _refuse(self, *_arguments: object, **_names: object) -> typing.NoReturn:
        raise TypeError("this dict is part of a frozen object; make a new one with dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        return hash(frozenset(self.items()))

    def __copy__(self) -> FrozenDict:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenDict, (dict(self),)


def check_fields(instance: object, where: str | None = None) -> None:
    """Check each field of a frozen dataclass against its annotation, and bring it to normal form.

    An integer may be a NumPy integer and becomes an int; a bool is none.  A float must be finite
    and may be an integer.  A tuple may be a list.  A mapping becomes a FrozenDict.

    Args:
        instance: a dataclass under construction, in its `__post_init__`.
        where: how messages begin; None for the name of the class.

    Raises:
        TypeError: a field has a value of another type.
        InputError: a float is not finite, a Literal has no such value, a tuple another length.
    """
    prefix = type(instance).__name__ if where is None else where
    values = instance.__dict__
    cls: Any = type(instance)  # Any, since mypy takes no type[object] for a Hashable
    for name, check in _checks(cls):
        value = values[name]
        checked = check(f"{prefix} {name}" if prefix else name, value)
        if checked is not value:
            object.__setattr__(instance, name, checked)


@cache
def _annotations(cls: Any) -> dict[str, Any]:
    """Name -> resolved annotation of the fields of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


@cache
def _checks(cls: Any) -> tuple[tuple[str, Check], ...]:
    return tuple((name, _check_for(hint)) for name, hint in _annotations(cls).items())


def integer(argument: str, value: object) -> int:
    """`value` as an int; TypeError for a bool and for all but Python's and NumPy's integers."""
    if type(value) is int:
        return value
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{argument} must be an integer, got {shown(value)}")
    return int(value)


def number(argument: str, value: object) -> float:
    """`value` as a finite float; TypeError for a bool and for all that is no real number."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise TypeError(f"{argument} must be a number, got {shown(value)}")
    try:
        real = float(value)
    except OverflowError:
        real = math.inf
    if not math.isfinite(real):
        raise InputError(f"{argument} must be a finite number, got {shown(value)}")
    return real


def boolean(argument: str, value: object) -> bool:
    """`value` as a bool; TypeError for all but True and False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{argument} must be True or False, got {shown(value)}")
    return bool(value)


def string(argument: str, value: object) -> str:
    """`value` as a str; TypeError for all but texts."""
    if not isinstance(value, str):
        raise TypeError(f"{argument} must be a text, got {shown(value)}")
    return str(value)


_SIMPLE: dict[object, Check] = {int: integer, float: number, bool: boolean, str: string}


def _check_for(hint: Any) -> Check:
    """The check of one annotation."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _union(hint)
    if origin is Literal:
        return lambda argument, value: choice(argument, value, arguments)
    if origin is tuple:
        return _tuple(arguments)
    if origin is list:
        check = _tuple((*arguments, Ellipsis))
        return lambda argument, value: list(check(argument, value))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping(*map(_check_for, arguments))
    if _is_class(hint):
        return _instance(hint)
    raise _without_check(hint)


def _inner(hint: Any) -> list[Any]:
    """The members of a union but None."""
    return [each for each in typing.get_args(hint) if each is not type(None)]


def _union(hint: Any) -> Check:
    """The check of a union: of `T | None`, of classes, or of numbers, texts and tuples."""
    members = typing.get_args(hint)
    inner = _inner(hint)
    if len(inner) == 1:
        check = _check_for(inner[0])
    elif all(_is_class(each) and each not in _SIMPLE for each in inner):
        check = _instance(*inner)
    else:
        check = _any_of(inner)
    if len(inner) == len(members):
        return check
    return lambda argument, value: None if value is None else check(argument, value)


def _is_class(hint: Any) -> bool:
    """Whether an annotation is a plain class; to Python 3.10 list[int] is a type, too."""
    return isinstance(hint, type) and hint is not Any and typing.get_origin(hint) is None


def _any_of(hints: list[Any]) -> Check:
    """The check of a value that may be of several kinds."""
    checks = [_check_for(hint) for hint in hints]
    words = [hint for hint in hints if typing.get_origin(hint) is Literal]
    expected = " or ".join(_described(hint) for hint in hints)

    def check(argument: str, value: object) -> object:
        if isinstance(value, str) and words:
            return choice(argument, value, typing.get_args(words[0]))
        for each in checks:
            try:
                return each(argument, value)
            except (InputError, TypeError):
                continue
        kind = InputError if isinstance(value, (tuple, list)) else TypeError
        raise kind(f"{argument} must be {expected}, got {shown(value)}")

    return check


_NAMES: dict[object, str] = {int: "an integer", float: "a number", bool: "True or False"}


def _described(hint: Any) -> str:
    """What a message calls a value of this annotation."""
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if typing.get_origin(hint) is tuple:
        return f"[{', '.join('integer' for _ in typing.get_args(hint))}]"
    if hint in _NAMES:
        return _NAMES[hint]
    return "a text" if hint is str else f"a {hint.__name__}"


def _without_check(hint: Any) -> NotImplementedError:
    return NotImplementedError(f"fields of type {hint} have no check; add one to fxsim/fields.py")


def instance(argument: str, value: object, *classes: type) -> Any:
    """`value`, which is of one of these classes, else a TypeError that names them."""
    if isinstance(value, classes):
        return value
    names = " or ".join(f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in classes)
    raise TypeError(f"{argument} must be a {names}, got {shown(value)}")


def strings(argument: str, value: object) -> list[str]:
    """`value`, several texts, as a list; TypeError for one text, or parts that are none."""
    if not isinstance(value, Iterable) or isinstance(value, (str, bytes)):
        raise TypeError(f"{argument} must be a list of texts, got {shown(value)}")
    return [string(f"{argument}[{place}]", each) for place, each in enumerate(value)]


def _instance(*classes: type) -> Check:
    return lambda argument, value: instance(argument, value, *classes)


def _tuple(arguments: tuple[Any, ...]) -> Check:
    any_length = len(arguments) == 2 and arguments[1] is Ellipsis
    checks = tuple(map(_check_for, arguments[:1] if any_length else arguments))

    def check(argument: str, value: object) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{argument} must be a tuple, got {shown(value)}")
        own = checks * len(value) if any_length else checks
        if len(value) != len(own):
            raise InputError(f"{argument} must have {len(own)} elements, got {shown(value)}")
        return tuple(
            each(f"{argument}[{index}]", element)
            for index, (each, element) in enumerate(zip(own, value))
        )

    return check


def function(argument: str, value: object) -> Any:
    """`value`, which can be called or is None, else a TypeError."""
    if value is not None and not callable(value):
        raise TypeError(f"{argument} must be a function or None, got {shown(value)}")
    return value


def mapping(argument: str, value: object) -> Mapping[Any, Any]:
    """`value`, which is a mapping, else a TypeError."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{argument} must be a mapping, got {shown(value)}")
    return value


def _mapping(key_check: Check, value_check: Check) -> Check:
    def check(argument: str, value: object) -> FrozenDict:
        return FrozenDict(
            (key_check(f"{argument}: key", key), value_check(f"{argument}[{shown(key)}]", element))
            for key, element in mapping(argument, value).items()
        )

    return check


def check_table(where: str, table: object) -> Mapping[str, Any]:
    """`table`, if it is a table (an object of JSON) whose keys are texts, else an InputError."""
    if not isinstance(table, Mapping):
        raise InputError(f"{where} must be a table of keys and values, got {shown(table)}")
    for key in table:
        if not isinstance(key, str):
            raise InputError(f"{where}: keys must be texts, got {shown(key)}")
    return table


def check_head(where: str, data: object, kind: str, version: int, way_out: str) -> dict[str, Any]:
    """`data`, if it is the table of a file whose keys 'kind' and 'version' hold these values.

    Raises:
        InputError: ends with the way out.
    """
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise InputError(f"{where} is no file of kind {kind!r}; {way_out}")
    found = data.get("version")
    if type(found) is not int or found != version:
        raise InputError(
            f"{where} has version {shown(found)}, and this fxsim reads version {version}; {way_out}"
        )
    return data


def check_keys(
    where: str, table: object, allowed: Iterable[str], needed: Iterable[str] = ()
) -> Mapping[str, Any]:
    """`table`, if all its keys are `allowed` and none that is `needed` is missing.

    Raises:
        InputError: names the nearest valid key, or the missing ones.
    """
    table = check_table(where, table)
    allowed = list(allowed)
    for key in table:
        choice(f"{where}: key", key, allowed)
    missing = [key for key in needed if key not in table]
    if missing:
        raise InputError(f"{where} needs {', '.join(map(repr, missing))}")
    return table


def read_fields(cls: type[T], table: object, where: str, derived: Iterable[str] = ()) -> T:
    """The dataclass `cls` that a table of a JSON or TOML file describes.

    Keys are the names of fields; those without a default are needed.  A field whose annotation is
    a dataclass is a table, too: it is read by that class's `from_dict(table, where)` where it has
    one, else by this function.

    Args:
        cls: a dataclass.
        table: the table.
        where: how messages begin.
        derived: further keys, names of attributes of `cls`, which may be left out and must say
            what the object says.

    Raises:
        InputError: for all that is wrong: the table's type, its keys, their values.
    """
    described: Any = cls  # Any, since mypy takes no type[T] for a Hashable
    hints = _annotations(described)
    derived = tuple(derived)
    needed = [
        field.name
        for field in dataclasses.fields(described)
        if field.default is field.default_factory is dataclasses.MISSING
    ]
    table = check_keys(where, table, (*hints, *derived), needed)
    checks = dict(_checks(described))
    values = {}
    for key in table:
        if key in hints:
            value = _read(hints[key], table[key], f"{where}, {key}")
            values[key] = construct(checks[key], f"{where}:", f"{where}: {key}", value)
    made = construct(cls, where, **values)
    for key in derived:
        if key in table:
            check_derived(where, key, table[key], getattr(made, key))
    return made


def construct(cls: Callable[..., T], where: str, *values: Any, **names: Any) -> T:
    """`cls(*values, **names)`; its TypeError or InputError becomes an InputError that names where."""
    try:
        return cls(*values, **names)
    except (TypeError, InputError) as error:
        text = str(error)
        raise InputError(cut(text if text.startswith(where) else f"{where}: {text}")) from None


def check_derived(where: str, key: str, value: object, right: object) -> None:
    """InputError unless a key that only repeats what others say repeats it right."""
    if value != right or isinstance(value, bool) != isinstance(right, bool):
        raise InputError(
            f"{where}: {key} {shown(value)} contradicts the other keys, which give "
            f"{shown(right)}; change those, or leave {key} out"
        )


def _read(hint: Any, value: object, where: str) -> object:
    """`value` of a file with its tables made into the dataclasses that the annotation names."""
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        inner = _inner(hint)
        return value if value is None or len(inner) > 1 else _read(inner[0], value, where)
    if origin in (tuple, list) and isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return [_read(inner, each, f"{where}[{index}]") for index, each in enumerate(value)]
    if origin is not None and isinstance(value, Mapping) and issubclass(origin, Mapping):
        inner = typing.get_args(hint)[1]
        return {key: _read(inner, each, f"{where}, {shown(key)}") for key, each in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):
            return value
        reader = getattr(hint, "from_dict", None)
        return reader(value, where) if reader else read_fields(hint, value, where)
    return value
