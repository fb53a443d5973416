"""The only place with Numba options."""
from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import llvmlite.binding
import numba

JIT_DISABLED = bool(numba.config.DISABLE_JIT)
OPTIONS = {"nogil": True, "error_model": "numpy"}


def jit(function=None, **options):
    """Compile with the project's options: cached, without the GIL, integer semantics of NumPy.

    Further options go to numba.njit.
    """
    if function is None:
        return functools.partial(jit, **options)
    compiled = numba.njit(cache=True, **OPTIONS, **options)(function)
    if not JIT_DISABLED:
        with contextlib.suppress(AttributeError):  # of a Numba that keeps its stamps elsewhere
            compiled._cache._cache_file._source_stamp = _source_stamp()
    return compiled


@functools.lru_cache
def _source_stamp() -> tuple:
    """Of all kernels: Numba asks for the age of a function's own file alone, and what it calls may be in another."""
    stats = ((path.name, path.stat()) for path in sorted(Path(__file__).parent.glob("*.py")))
    return tuple((name, stat.st_mtime, stat.st_size) for name, stat in stats)


@functools.lru_cache
def processor_features() -> frozenset[str]:
    """Names, by LLVM, of the features that Numba compiles for: this processor's, unless its environment variables say else."""
    chosen = numba.config.CPU_FEATURES
    if chosen is None:
        found = llvmlite.binding.get_host_cpu_features()
        return frozenset(name for name, has in found.items() if has and (numba.config.ENABLE_AVX or not name.startswith("avx")))
    return frozenset(name[1:] for name in chosen.split(",") if name.startswith("+"))
