"""Files written whole or not at all, and read with one-line errors."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
import stat
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn

import numpy as np

from fxsim.errors import InputError, refused, shown

MOST_BYTES = 2**30
"""A file of arrays or of images has at most so many bytes."""

MOST_INFLATED = 2**28
"""What is compressed has at most so many bytes once it is inflated: a file of 300 kB could take all
memory otherwise.  SVHN's training images have 225 million.
"""

MOST_TEXT = 2**24
"""A file of plain data, as JSON or CSV, has at most so many bytes."""

MOST_DEPTH = 32
"""Plain data is nested at most so deep."""

MOST_DIGITS = 40
"""An integer in a JSON file has at most so many digits."""


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
    for path in Path(folder).glob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name):
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


def _without_waiting(path: str, flags: int) -> int:
    """The opener of `open_regular`: a FIFO without a writer is opened at once, too."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextlib.contextmanager
def open_regular(path: str | Path, most: int = MOST_BYTES) -> Iterator[BinaryIO]:
    """The file `path`, open for reading its bytes.  Whatever fxsim reads, it opens here.

    Args:
        path: a regular file: no folder, device, pipe or socket.
        most: the bytes that it may have.

    Raises:
        InputError: the file cannot be opened or read, is not regular, or has more bytes.

    Example:
        >>> with open_regular("/dev/zero") as file:  # doctest: +ELLIPSIS
        ...     file.read()
        Traceback (most recent call last):
            ...
        fxsim.errors.InputError: cannot read /dev/zero: it is a device, a pipe or a socket; ...
    """
    try:
        with contextlib.closing(_opened(path)) as file:
            _check_regular(path, os.fstat(file.fileno()), most)
            yield file
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str | Path, error: OSError) -> InputError:
    """What to raise where the system does not let `path` be read."""
    reason = error.strerror or error
    return InputError(f"cannot read {path}: {reason}; check the path and its permissions")


def _opened(path: str | Path) -> BinaryIO:
    try:
        return open(path, "rb", opener=_without_waiting)
    except ValueError:  # it holds a NUL, or what the file system cannot encode
        raise InputError(f"cannot read {path}: no file can have this name") from None


def _check_regular(path: str | Path, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"cannot read {path}: it is a device, a pipe or a socket; name a file with its contents"
        )
    if found.st_size > most:
        raise InputError(
            f"cannot read {path}: it has {found.st_size:,} bytes, more than the {most:,} that such "
            f"a file may have; is it the right file?"
        )


def read_bytes(path: str | Path, most: int = MOST_BYTES) -> bytes:
    """The bytes of a regular file of at most `most` bytes; else InputError."""
    with open_regular(path, most) as file:
        return file.read()


def read_text(path: str | Path, most: int = MOST_TEXT) -> str:
    """The text of a regular file of at most `most` bytes in UTF-8; else InputError."""
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is no text in UTF-8: byte {error.start} is wrong; save it as UTF-8"
        ) from None


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        InputError: the file cannot be read, or is not what `parse_json` takes.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str | bytes, where: str) -> Any:
    """What a text in JSON says.

    Args:
        text: the text; bytes are UTF-8.
        where: how messages begin.

    Raises:
        InputError: the text is no JSON, gives a key twice in one object, has a number that is not
            finite or has too many digits, or is nested deeper than MOST_DEPTH.
    """
    try:
        data = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_unique_keys,
            parse_constant=_refuse_constant,
            parse_float=finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise InputError(f"{where} is not valid JSON: it is nested too deep") from None
    except UnicodeDecodeError:
        raise InputError(f"{where} is not valid JSON: it is no text in UTF-8") from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from None
    check_depth(where, data)
    return data


def check_depth(where: str, data: object) -> None:
    """InputError where tables and lists are nested deeper than MOST_DEPTH."""
    level = [data]
    for _ in range(MOST_DEPTH):
        tables = [each.values() for each in level if isinstance(each, dict)]
        lists = [each for each in level if isinstance(each, list)]
        level = [child for each in (*tables, *lists) for child in each]
    if level:
        raise InputError(f"{where} is nested too deep: {MOST_DEPTH} levels are the most")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise InputError(f"key {shown(twice)} stands twice in one object; leave one out")
    return table


def _refuse_constant(text: str) -> NoReturn:
    raise InputError(f"{text} is no number; write a finite one")


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise InputError(f"{shown(text)} has more digits than {MOST_DIGITS}")
    return int(text)


def finite(text: str) -> float:
    """The number that `text` writes; InputError where it is infinite or none."""
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"{shown(text)} is no finite number; write one")
    return value


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz as `write_arrays` writes it: numbers and texts, not compressed.

    Raises:
        InputError: the file cannot be read, is damaged, or holds anything else.
    """
    arrays: dict[str, np.ndarray] = {}
    with open_regular(path) as file:
        for member, data in _members(path, file):
            name, dot, suffix = member.rpartition(".")
            if not dot or suffix != "npy" or name in arrays:
                raise InputError(f"{path}: {shown(member)} is no array, or is there twice")
            array = parse_npy(data, f"{path}: {shown(name)}")
            if array.dtype.kind not in "iufU":
                raise InputError(f"{path}: {shown(name)} holds {array.dtype}, no numbers or texts")
            arrays[name] = array
    return arrays


def _members(path: str | Path, file: BinaryIO) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of the members of an .npz.

    Together they are no larger than the file: no more is read than is there.
    """
    size = os.fstat(file.fileno()).st_size

    def told(text: str) -> InputError:
        return InputError(f"{path} is not an .npz of plain arrays, or is damaged")

    with refused(told, OSError), zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
        if packed or sum(member.file_size for member in members) > size:
            raise InputError(f"{path} is compressed; write it with numpy.savez")
        for member in members:
            yield member.filename, archive.read(member)


_NPY_HEADERS: dict[Any, Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def parse_npy(data: bytes, where: str) -> np.ndarray:
    """The array that the bytes of an .npy hold; nothing is allocated before they are checked.

    Args:
        data: the bytes.
        where: how messages begin.

    Raises:
        InputError: the header is none, its type is one of Python objects, its shape takes more or
            fewer bytes than follow it, or a text has a character that is none.
    """
    stream = io.BytesIO(data)

    def told(text: str) -> InputError:
        return InputError(f"{where} is not an .npy: its header is damaged")

    # The header is Python's text of a dict, and fails as any such text may.
    with refused(told), warnings.catch_warnings():
        warnings.simplefilter("error")  # what NumPy reads with a warning was not meant so
        shape, by_columns, dtype = _NPY_HEADERS[np.lib.format.read_magic(stream)](stream)
    if dtype.hasobject or not dtype.itemsize:
        raise InputError(f"{where} holds Python objects or nothing, no plain numbers")
    start = stream.tell()
    size = math.prod(shape) * dtype.itemsize
    if size != len(data) - start or any(length < 0 for length in shape):
        raise InputError(
            f"{where} is not an .npy: its shape {shown(shape)} of {shown(dtype.name)} takes "
            f"{shown(size)} bytes, and {len(data) - start} follow its header"
        )
    content = memoryview(data)[start:]
    order: Literal["F", "C"] = "F" if by_columns else "C"
    try:
        array: np.ndarray = np.ndarray(shape, dtype, content, order=order).copy()
    except ValueError:  # more axes than NumPy has
        raise InputError(f"{where} has {len(shape)} axes, more than arrays have") from None
    if dtype.kind == "U":
        characters = array.astype(dtype.newbyteorder("=")).reshape(-1).view("u4")
        if (characters > sys.maxunicode).any():
            raise InputError(f"{where} holds characters that are none")
    return array


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
