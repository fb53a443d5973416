"""Trainings side by side on the workers of Dask (`pip install 'fxsim[dask]'`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import Executor

from fxsim.errors import InputError, shown

SCHEME = "dask://"
SECONDS_TO_CONNECT = 20


@contextlib.contextmanager
def dask_executor(address: str) -> Iterator[Executor]:
    """An executor of the workers that a scheduler of Dask has.

    They must reach the folder and the data set by the same paths.  A training whose worker is lost
    goes on elsewhere, from its checkpoint.  At the end of the block what has not begun is dropped.

    Args:
        address: 'dask://HOST:PORT', that of the scheduler.

    Raises:
        InputError: Dask is not installed, the address is none, or nobody answers there.
    """
    try:
        from distributed import Client
    except ImportError:
        raise InputError(
            f"jobs {shown(address)} need Dask; install it: pip install 'fxsim[dask]'"
        ) from None
    host, colon, port = address.removeprefix(SCHEME).rpartition(":")
    if not host or not colon or not port.isdigit():
        raise InputError(f"jobs {shown(address)} must be like {SCHEME}HOST:PORT, or a number")
    try:
        client = Client(f"tcp://{host}:{port}", timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"jobs {shown(address)}: no scheduler of Dask answers ({error}); start one with dask "
            "scheduler, and workers with dask worker --nthreads 1"
        ) from None
    with client:
        yield client.get_executor(pure=False)
