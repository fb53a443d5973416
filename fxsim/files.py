"""Files written whole or not at all, and read with one-line errors."""

from __future__ import annotations

import contextlib
import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from fxsim.errors import InputError, shown


def write_atomically(path: str | Path, write: Callable[[BinaryIO], object]) -> None:
    """Call `write(binary_file)` on a temporary file beside `path`, flush it to disk, then
    rename it.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def remove_leftovers(folder: str | Path) -> None:
    """Remove the temporary files of processes that were killed while they wrote into `folder`.

    No other may write there.
    """
    for path in Path(folder).glob(".*.*.tmp"):
        path.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """A file of these bytes."""
    write_atomically(path, lambda file: file.write(data))


def write_text(path: str | Path, text: str) -> None:
    """A file of this text in UTF-8."""
    write_bytes(path, text.encode())


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz of plain arrays."""
    named: dict[str, Any] = dict(arrays)
    write_atomically(path, lambda file: np.savez(file, **named))


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: the file cannot be read, is no JSON, gives a key twice in one object, or has a
            number that is not finite.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except RecursionError:
        raise InputError(f"{path} is not valid JSON: it is nested too deep") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} stands twice in one object; leave one out")
    return table


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number; write a finite one")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is too large for a number; write a finite one")
    return value


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz; pickled objects are refused."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except (
        ValueError,
        TypeError,
        RuntimeError,
        zipfile.BadZipFile,
        AttributeError,
        EOFError,
    ) as error:
        raise InputError(f"{path} is not an .npz of plain arrays: {error}") from None


def make_folder(path: str | Path) -> Path:
    """The folder `path`, made where it is missing; InputError where it cannot be written."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder {path}: {error.strerror}; choose another"
        ) from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to the folder {path}; choose another")
    return path
