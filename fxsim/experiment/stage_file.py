"""The files that one stage writes and another reads.

The kind, the version and the keys of a JSON file are checked.  A file of arrays also holds the
identity of its experiment, so that it is not taken for one of another.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from fxsim.errors import InputError
from fxsim.fields import check_head, check_keys
from fxsim.files import parse_json, read_arrays, read_json, write_arrays
from fxsim.identity import IDENTITY, Identity, check_identity

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
"""The array with the kind, the version and the identity, as JSON in UTF-8 (uint8)."""


def write_stage_arrays(
    path: str | Path, kind: str, version: int, identity: Identity, arrays: Mapping[str, np.ndarray]
) -> None:
    """Write an .npz of `arrays`, with the kind, the version and the identity of the experiment."""
    text = json.dumps({"kind": kind, "version": version, IDENTITY: identity.to_dict()})
    write_arrays(path, {**arrays, TEXT: np.frombuffer(text.encode(), np.uint8)})


def read_stage_arrays(
    path: str | Path, kind: str, version: int, identity: Identity, way_out: str
) -> dict[str, np.ndarray]:
    """The arrays that `write_stage_arrays` wrote.

    Args:
        path: the file.
        kind: what it must be.
        version: the version that it must have.
        identity: of the experiment whose file it must be.
        way_out: how messages end.

    Raises:
        InputError: the file cannot be read, or is of another kind, version or experiment.
    """
    arrays = read_arrays(path)
    if TEXT not in arrays:
        raise InputError(f"{path} is no file of kind {kind!r}; {way_out}")
    text = check_head(
        str(path), parse_json(arrays.pop(TEXT).tobytes(), str(path)), kind, version, way_out
    )
    keys = (*HEAD, IDENTITY)
    check_keys(str(path), text, keys, keys)
    check_identity(str(path), text[IDENTITY], identity.to_dict(), way_out)
    return arrays
