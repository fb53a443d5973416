"""The only place with Numba options."""

from __future__ import annotations

import contextlib
import functools
import os

import llvmlite.binding
import numba

from fxsim.errors import InputError, shown
from fxsim.kernels.cache import KernelCache

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
        raise InputError(
            f"{EMULATE} names {shown(unknown[0])}, which cannot be emulated; choose from "
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
        with contextlib.suppress(Exception):  # where no folder can be written, as `fxsim info` says
            compiled._cache = KernelCache(function, tuple(sorted(EMULATED)))
    return compiled


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
