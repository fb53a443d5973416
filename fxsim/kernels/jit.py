"""The only place with Numba options."""
from __future__ import annotations

import os

import numba

JIT_DISABLED = bool(numba.config.DISABLE_JIT)


def jit(function=None, **options):
    """Compile with the project's options: cached, without the GIL, integer semantics of NumPy.

    Options of numba.njit may be added; `parallel=True` for kernels with a prange.
    """
    compile_ = numba.njit(cache=True, nogil=True, error_model="numpy", **options)
    return compile_ if function is None else compile_(function)


def thread_count() -> int:
    """Threads that the parallel kernels use now."""
    return numba.get_num_threads()


def cache_folder() -> str | None:
    """The folder NUMBA_CACHE_DIR names, else None (Numba then caches beside the module)."""
    return os.environ.get("NUMBA_CACHE_DIR")
