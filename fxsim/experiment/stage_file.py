"""The files that one stage writes and another reads.

The kind, the version and the keys of a JSON file are checked.  A file of arrays also holds the
settings of its training, so that it is not taken for one of another training.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.fields import check_head, check_keys
from fxsim.files import parse_json, read_arrays, read_json, write_arrays

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
    data = check_head(str(path), read_json(path), kind, version, again)
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
    if TEXT not in arrays:
        raise InputError(f"{path} is no file of kind {kind!r}; {again}")
    text = check_head(
        str(path), parse_json(arrays.pop(TEXT).tobytes(), str(path)), kind, version, again
    )
    keys = (*HEAD, "settings")
    stored = check_keys(str(path), text, keys, keys)["settings"]
    own = json.loads(json.dumps(settings))  # tuples to lists, as they come back
    for name, value in own.items():
        if not isinstance(stored, dict) or name not in stored or stored[name] != value:
            there = stored.get(name) if isinstance(stored, dict) else None
            raise InputError(
                f"{path} is of another training: {name} is {shown(there)} there, "
                f"{shown(value)} here; {again}"
            )
    return arrays
