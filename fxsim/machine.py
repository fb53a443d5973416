"""What fxsim runs on: processor, kernel paths, threads, versions, Numba's cache."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from fxsim import __version__
from fxsim.kernels.jit import EMULATED, JIT_DISABLED, processor_features
from fxsim.kernels.rounding import round_shift
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.ops.paths import forward_paths

__all__ = ["JIT_DISABLED", "use_threads"]

FEATURES = (
    "sse4.2",
    "avx",
    "avx2",
    "fma",
    "avxvnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vnni",
    "amx-int8",
    "neon",
    "dotprod",
    "i8mm",
    "sve",
)
"""Processor features, by LLVM's names, that matter to integer products."""

PACKAGES = ("numpy", "numba", "llvmlite", "scipy", "matplotlib")


def describe() -> dict:
    """Plain data that says on what a result was computed.

    It names neither user, host nor folder.
    """
    paths = forward_paths()
    features = processor_features()
    emulated = {"emulated": sorted(EMULATED)} if EMULATED else {}
    return {
        "processor": processor_name(),
        "cores": core_count(),
        "features": [name for name in FEATURES if name in features],
        "kernels": {"available": list(paths), "chosen": paths[0]} | emulated,
        "threads": thread_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
    }


def processor_name() -> str:
    """The name that the system gives the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def core_count() -> int:
    """Logical processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Versions of Python, fxsim and the packages it uses; None for one that is not installed."""
    return {"python": platform.python_version(), "fxsim": __version__} | {
        name: _version(name) for name in PACKAGES
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def kernel_cache() -> dict:
    """Where Numba keeps compiled kernels, and whether it can write there.

    Folder None where it keeps none.
    """
    folder = None if JIT_DISABLED else round_shift.stats.cache_path
    writable = folder is not None and _writable(Path(folder))
    return {"folder": folder, "writable": writable}


def _writable(folder: Path) -> bool:
    """Of a folder that is not there yet, whether it can be made."""
    while not os.path.exists(folder):
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
