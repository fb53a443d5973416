"""The files that one stage writes and another reads.

The kind, the version and the keys of a JSON file are checked.  A file of arrays also holds the
settings of its training, so that it is not taken for one of another training.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fxsim.errors import InputError
from fxsim.fields import check_head, check_keys
from fxsim.files import read_arrays, read_json, write_arrays

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
    again = "run the stage again that writes it, in another folder"
    data = check_head(str(path), _read(path), kind, version, again)
    needed = (*HEAD, *required)
    check_keys(str(path), data, (*needed, *more), needed)
    return data


TEXT = "text"
"""The array with the kind, the version and the settings, as JSON in UTF-8 (uint8)."""


def write_stage_arrays(
    path: str | Path, kind: str, version: int, settings: dict, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write an .npz of `arrays`, with the kind, the version and the settings of the training."""
    text = json.dumps({"kind": kind, "version": version, "settings": settings})
    write_arrays(path, {**arrays, TEXT: np.frombuffer(text.encode(), np.uint8)})


def read_stage_arrays(
    path: str | Path, kind: str, version: int, settings: dict
) -> dict[str, np.ndarray]:
    """The arrays that `write_stage_arrays` wrote.

    Raises:
        InputError: the file cannot be read, or is of another kind or version, or of a training
            with other settings.
    """
    arrays = read_arrays(path)
    again = "run `fxsim train` again, in another folder"
    try:
        text = json.loads(arrays.pop(TEXT).tobytes())
        found = text["kind"], text["version"]
        stored = text["settings"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise InputError(f"{path} is no file of kind {kind!r}; {again}") from None
    if found != (kind, version):
        raise InputError(
            f"{path} is {reprlib.repr(found[0])}, version {reprlib.repr(found[1])}; this fxsim "
            f"reads {kind!r}, version {version}; {again}"
        )
    own = json.loads(json.dumps(settings))  # tuples to lists, as they come back
    for name, value in own.items():
        if not isinstance(stored, dict) or name not in stored or stored[name] != value:
            there = stored.get(name) if isinstance(stored, dict) else None
            raise InputError(
                f"{path} is of another training: {name} is {reprlib.repr(there)} there, "
                f"{reprlib.repr(value)} here; {again}"
            )
    return arrays


def _read(path: str | Path):
    try:
        return read_json(path)
    except RecursionError:
        raise InputError(f"{path} is nested too deeply to be a file of fxsim") from None
