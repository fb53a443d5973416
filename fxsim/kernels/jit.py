"""The only place with Numba options."""
from __future__ import annotations

import numba

JIT_DISABLED = bool(numba.config.DISABLE_JIT)
OPTIONS = {"nogil": True, "error_model": "numpy"}


def jit(function=None, **options):
    """Compile with the project's options: cached, without the GIL, integer semantics of NumPy.

    Further options go to numba.njit.
    """
    compile_ = numba.njit(cache=True, **OPTIONS, **options)
    return compile_ if function is None else compile_(function)
