"""What a file of an experiment is of, so that it is not taken for one of another.

Every stage file holds the `Identity` of its experiment as plain data, and every reader compares it
by `check_identity`.  A file that nobody edits is sealed, too: it holds the digest of its content.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fxsim.errors import InputError, shown
from fxsim.fields import check_fields

VERSION = 1
"""Raised with every change of bits: what was measured before then does not fit what is run now."""

IDENTITY = "identity"
"""The key of a file under which its identity stands."""

SEAL = "sha256"
"""The key of a sealed table."""


@dataclass(frozen=True)
class Identity:
    """What tells an experiment from all others.

    Args:
        settings: Settings.to_dict; the seed is one of them.
        network: spec.to_dict.
        images: training, test: how many; sha256: of their pixels and labels.
        version: of the bits, see VERSION.

    Raises:
        TypeError: a field has a value of another type.
    """

    settings: Mapping[str, object]
    network: Mapping[str, object]
    images: Mapping[str, object]
    version: int = VERSION

    def __post_init__(self) -> None:
        check_fields(self, "identity")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as a JSON file gives it back: lists in place of tuples.

        Example:
            >>> Identity({"seed": 1, "drops": (9,)}, {}, {}).to_dict()["settings"]
            {'seed': 1, 'drops': [9]}
        """
        return dict(plain(asdict(self)))


def plain(data: Any) -> Any:
    """Data as it comes back from a JSON file."""
    return json.loads(json.dumps(data))


def check_identity(where: str, found: object, own: Mapping[str, object], way_out: str) -> None:
    """InputError unless the identity that a file holds is one's own.

    Args:
        where: the file.
        found: what it holds, plain data.
        own: what it must hold, plain data.
        way_out: how the message ends.

    Example:
        >>> check_identity("a.npz", {"seed": 1}, {"seed": 2}, "train again")
        Traceback (most recent call last):
            ...
        fxsim.errors.InputError: a.npz is of another training: seed is 1 there, 2 here; train again
    """
    if not isinstance(found, Mapping):
        raise InputError(f"{where} does not say of which training it is; {way_out}")
    differences = list(_differences(found, own))
    if differences:
        more = f" ({len(differences) - 1} more differ)" if len(differences) > 1 else ""
        raise InputError(f"{where} is of another training: {differences[0]}{more}; {way_out}")


def _differences(there: object, here: object, name: str = "") -> Iterator[str]:
    """One text for each value in which two pieces of plain data differ."""
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here):
        there = dict(enumerate(there))
        here = dict(enumerate(here))
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys((*there, *here)):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(there.get(key), here.get(key), inner)
    elif there != here:
        yield f"{name} is {shown(there)} there, {shown(here)} here"


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Plain data with the SHA-256 of its canonical JSON: sorted keys, no white space.

    Example:
        >>> sealed({"b": 1, "a": [2]})["sha256"][:12]
        '63c9663de90e'
    """
    return {**table, SEAL: _digest(table)}


def check_seal(where: str, table: Mapping[str, Any], way_out: str) -> None:
    """InputError unless `table` is as `sealed` left it."""
    if table.get(SEAL) != _digest(table):
        raise InputError(
            f"{where} was changed after fxsim wrote it (its SHA-256 differs); {way_out}"
        )


def _digest(table: Mapping[str, Any]) -> str:
    content = {key: value for key, value in table.items() if key != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
