"""Numba's cache of compiled kernels, of which no file is trusted and no failure stops a run."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import uuid
from collections.abc import Iterator
from pathlib import Path

from numba.core.caching import FunctionCache, IndexDataCacheFile

DIGEST_BYTES = hashlib.sha256().digest_size


class KernelCache(FunctionCache):
    """What a process compiled, for the next ones.

    A cache that cannot be read, or not be written, is one that has nothing: the kernel is
    compiled, and its damaged entry replaced.

    Args:
        function: the Python function.
        emulated: names of the emulated instruction sets, for which other code is compiled.
    """

    def __init__(self, function, emulated: tuple[str, ...]):
        super().__init__(function)
        self._emulated = emulated
        self._cache_file = CheckedFiles(self.cache_path, self._impl.filename_base, source_stamp())

    def load_overload(self, sig, target_context):
        """The compiled function, or None where there is none that can be read."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever Numba meets in its own files
            return None

    def save_overload(self, sig, data):
        """Keep a compiled function, where that can be done."""
        with contextlib.suppress(Exception):  # a full disk, a folder that is gone
            super().save_overload(sig, data)

    def _index_key(self, sig, codegen):
        return (*super()._index_key(sig, codegen), *self._emulated)


class CheckedFiles(IndexDataCacheFile):
    """Numba's index and data files, each with the digest of its content behind it.

    A file whose digest is another is as one that is not there: nothing of it is unpickled or run.
    Numba's readers stop where its content ends.
    """

    def _load_index(self):
        if is_whole(self._index_path):
            with contextlib.suppress(Exception):  # another build of Numba wrote it
                return super()._load_index()
        return {}

    def _load_data(self, name):
        return super()._load_data(name) if is_whole(self._data_path(name)) else None

    def _data_name(self, number):
        """A name that no process has given before.

        Numba counts, so that two processes that compile at once, or one beside files of older
        sources, may find under a name the machine code of another signature.
        """
        return f"{Path(self._index_name).stem}.{uuid.uuid4().hex}.nbc"

    @contextlib.contextmanager
    def _open_for_write(self, filepath) -> Iterator[io.BytesIO]:
        content = io.BytesIO()
        yield content
        with super()._open_for_write(filepath) as file:
            file.write(content.getvalue())
            file.write(hashlib.sha256(content.getvalue()).digest())


def is_whole(path: str) -> bool:
    """Whether a file can be read and ends with the digest of what stands before it."""
    try:
        content = Path(path).read_bytes()
    except OSError:
        return False
    end = len(content) - DIGEST_BYTES
    return end > 0 and hashlib.sha256(content[:end]).digest() == content[end:]


@functools.lru_cache
def source_stamp() -> tuple:
    """Of all kernels: Numba asks for the age of a function's own file alone, and what it calls
    may be in another.
    """
    folder = Path(__file__).parent
    stats = (
        (path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*.py"))
    )
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)
