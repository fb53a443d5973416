"""One command at a time writes into a folder.

The command holds a lock file there.  The system frees the lock when the process ends, however it
ends, so that a file left by one that was killed stops nobody.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fxsim.errors import InputError, shown
from fxsim.files import make_folder

FILE = "fxsim.lock"


@contextlib.contextmanager
def hold_folder(folder: str | Path, command: str) -> Iterator[None]:
    """Hold the lock of a folder, which is made where it is missing.

    A folder that was made and that is empty in the end is removed.

    Args:
        folder: where the command writes.
        command: the command line, for others to see.

    Raises:
        InputError: another command holds it, or nothing can be written there.
    """
    folder = Path(folder)
    made = not folder.exists()
    make_folder(folder)
    try:
        with hold(folder / FILE, folder, command):
            yield
    finally:
        if made:
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()


@contextlib.contextmanager
def hold(path: Path, folder: Path, command: str) -> Iterator[None]:
    """Hold the lock file `path` of `folder`; see `hold_folder`."""
    try:
        file = _taken(path, folder)
    except OSError as error:
        raise InputError(f"cannot lock {path}: {error.strerror}; choose another folder") from None
    try:
        _sign(file, path, command)
        yield
    finally:
        if _is_still(path, file):
            path.unlink(missing_ok=True)
        os.close(file)


def _taken(path: Path, folder: Path) -> int:
    """The lock file, open and locked, as a file descriptor."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, file):
                _refuse_other_host(path, folder, _holder(file))
                return file
        except BlockingIOError:
            holder = _described(_holder(file))
            os.close(file)
            raise InputError(
                f"{folder} is in use by {holder}; wait for its end, or choose another folder"
            ) from None
        except BaseException:
            os.close(file)
            raise
        os.close(file)  # its command has ended just now, and has removed it


def _is_still(path: Path, file: int) -> bool:
    """Whether `file` is what is at `path`: two commands may not lock two files of one name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except OSError:
        return False


def _refuse_other_host(path: Path, folder: Path, holder: dict[str, Any]) -> None:
    """InputError where the lock was taken on another host.

    There the process may live, whatever the file system tells this host about the lock.
    """
    if holder.get("host", platform.node()) != platform.node():
        raise InputError(
            f"{folder} is in use by {_described(holder)}; if that has ended, delete {path}"
        )


def _sign(file: int, path: Path, command: str) -> None:
    """Write into the lock file who holds it."""
    now = datetime.datetime.now().astimezone()
    holder = {
        "command": command,
        "pid": os.getpid(),
        "host": platform.node(),
        "start": now.isoformat(" ", "seconds"),
    }
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(holder).encode() + b"\n", 0)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another folder") from None


def _holder(file: int) -> dict[str, Any]:
    """What the lock file says; nothing where its holder has not written it yet."""
    try:
        found = json.loads(os.pread(file, 10_000, 0))
    except (ValueError, RecursionError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def _described(holder: dict[str, Any]) -> str:
    if not holder:
        return "another command"
    process, host, start = (shown(holder.get(name)).strip("'") for name in ("pid", "host", "start"))
    return f"{shown(holder.get('command'))} (process {process} on {host}, since {start})"
