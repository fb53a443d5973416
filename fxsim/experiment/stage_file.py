"""The JSON files that one stage writes and another reads: kind, version and keys are checked."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from fxsim.errors import InputError, choice
from fxsim.files import read_json

HEAD = ("kind", "version")


def read_stage_file(
    path: str | Path, kind: str, version: int, required: Collection[str], more: Collection[str] = ()
) -> dict:
    """The table in a JSON file of this kind and version.

    Args:
        path: the file.
        kind: what its key 'kind' must hold.
        version: what its key 'version' must hold.
        required: its other keys.
        more: keys that it may have, too.

    Raises:
        InputError: the file cannot be read, is of another kind or version, lacks a required key,
            or has a key that is neither required nor in `more`.
    """
    data = _read(path)
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise InputError(
            f"{path} is no file of kind {kind!r}; choose another folder, or delete the file and "
            f"run the stage again that writes it"
        )
    found = data.get("version")
    if type(found) is not int or found != version:
        raise InputError(
            f"{path} has version {found!r}, and this fxsim reads version {version}; run the stage "
            f"again that writes it, in another folder"
        )
    check_keys(f"{path}: key", data, (*HEAD, *required), more)
    return data


def check_keys(what: str, row: dict, required: Collection[str], more: Collection[str] = ()) -> None:
    """InputError unless `row` has all `required` keys and no others, but for those in `more`."""
    for key in row:
        choice(what, key, (*required, *more))
    missing = [key for key in required if key not in row]
    if missing:
        raise InputError(f"{what} {missing[0]!r} is missing; the file was cut or edited")


def _read(path: str | Path):
    try:
        return read_json(path)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be a file of fxsim") from None
