"""The only place with Numba options."""

from __future__ import annotations

import contextlib
import functools
import os
import uuid
from pathlib import Path

import llvmlite.binding
import numba

JIT_DISABLED = bool(numba.config.DISABLE_JIT)
OPTIONS = {"nogil": True, "error_model": "numpy"}
EMULATE = "FXSIM_EMULATE"
EMULABLE = ("vnni", "amx", "avx512")


def _emulated() -> frozenset[str]:
    """The instruction sets that the environment asks to be emulated where the processor lacks them.

    A processor with AMX has VNNI, too.
    """
    names = [name.strip() for name in os.environ.get(EMULATE, "").split(",")]
    chosen = frozenset(filter(None, names))
    unknown = sorted(chosen - frozenset(EMULABLE))
    if unknown:
        raise ValueError(
            f"{EMULATE} names {unknown[0]!r}, which cannot be emulated; choose from "
            f"{', '.join(EMULABLE)}, separated by commas"
        )
    return chosen | {"vnni"} if "amx" in chosen else chosen


EMULATED = _emulated()
"""See `emulation.py`."""


def jit(function=None, **options):
    """Compile with the project's options: cached where a folder can be written, without the GIL,
    integer semantics of NumPy.

    Further options go to numba.njit.
    """
    if function is None:
        return functools.partial(jit, **options)
    compiled = numba.njit(**OPTIONS, **options)(function)
    if not JIT_DISABLED:
        with contextlib.suppress(
            RuntimeError
        ):  # no folder can be written: every process compiles, as `fxsim info` says
            compiled.enable_caching()
        with contextlib.suppress(
            AttributeError
        ):  # nothing is cached, or by a Numba that keeps these elsewhere
            files = compiled._cache._cache_file
            files._source_stamp = _source_stamp()
            files._data_name_pattern = _UniqueNames(files._data_name_pattern)
            index_key = compiled._cache._index_key
            compiled._cache._index_key = lambda *of: (*index_key(*of), *sorted(EMULATED))
    return compiled


class _UniqueNames:
    """Names of cached files that no process has given before.

    Numba counts, so that two processes that compile at once, or one beside files of older sources,
    may find under a name the machine code of another signature.
    """

    def __init__(self, pattern: str):
        self._base = pattern.partition(".{number")[0]

    def format(self, number: int) -> str:
        return f"{self._base}.{uuid.uuid4().hex}.nbc"


@functools.lru_cache
def _source_stamp() -> tuple:
    """Of all kernels: Numba asks for the age of a function's own file alone, and what it calls
    may be in another.
    """
    folder = Path(__file__).parent
    stats = (
        (path.relative_to(folder).as_posix(), path.stat()) for path in sorted(folder.rglob("*.py"))
    )
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)


@functools.lru_cache
def processor_features() -> frozenset[str]:
    """Names, by LLVM, of the features that Numba compiles for.

    This processor's, unless its environment variables say else.
    """
    chosen = numba.config.CPU_FEATURES
    if chosen is None:
        found = llvmlite.binding.get_host_cpu_features()
        return frozenset(
            name
            for name, has in found.items()
            if has and (numba.config.ENABLE_AVX or not name.startswith("avx"))
        )
    return frozenset(name[1:] for name in chosen.split(",") if name.startswith("+"))
