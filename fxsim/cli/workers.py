"""--workers: the ranks that train together."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

from fxsim.communicator import ALONE, Communicator
from fxsim.errors import InputError, choice
from fxsim.interrupts import SIGNALS
from fxsim.machine import core_count, use_threads
from fxsim.mpi import MpiCommunicator
from fxsim.train.leading import end, follow

WORKERS = ("mpi",)
STARTED = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
"""Environment variables in which mpiexec says how many processes it has started."""


@contextlib.contextmanager
def ranks(workers: str | None) -> Iterator[Communicator | None]:
    """Those that train together, for rank 0; None for every other, once all is done.

    Raises:
        InputError: workers are unknown, or mpiexec has started processes that nobody leads.
    """
    if workers is None:
        _check_alone()
        yield ALONE
        return
    choice("workers", workers, WORKERS)
    communicator = MpiCommunicator()
    use_threads(max(1, core_count() // communicator.here))
    if communicator.rank:
        for number in SIGNALS:  # rank 0 writes its checkpoint, then lets the others end
            signal.signal(number, signal.SIG_IGN)
        follow(communicator)
        yield None
        return
    try:
        yield communicator
    finally:
        end(communicator)


def _check_alone() -> None:
    """InputError where this is one of several processes that mpiexec has started."""
    for name in STARTED:
        if os.environ.get(name, "1") != "1":
            raise InputError(
                f"mpiexec has started {os.environ[name]} processes of this command; give --workers "
                "mpi to let them train together, or start one"
            )
