"""Files written whole or not at all, and read with one-line errors."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fxsim.errors import InputError


def write_atomically(path: str | Path, write: Callable) -> None:
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


def write_text(path: str | Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))


def write_arrays(path: str | Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz of plain arrays."""
    write_atomically(path, lambda file: np.savez(file, **arrays))


def read_json(path: str | Path):
    try:
        return json.loads(Path(path).read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path} is not valid JSON: {error}") from None


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
