"""Ranks that are processes of MPI, by the package mpi4py (`pip install 'fxsim[mpi]'`)."""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

from fxsim.communicator import Communicator, Pending
from fxsim.errors import InputError, one_line

EAGER_SECONDS = 0.001
POLL_SECONDS = 0.0002
"""A rank that waits for others looks all the time at first, then so often: it may have its core from
one of those that it waits for.
"""
ABANDONED = 3


class MpiCommunicator(Communicator):
    """All processes that mpiexec has started.

    Attributes:
        here: how many of them are on this machine.

    Raises:
        InputError: mpi4py, or a library of MPI, is not installed.
    """

    def __init__(self) -> None:
        mpi = _mpi()
        self._world = mpi.COMM_WORLD
        self.rank = self._world.Get_rank()
        self.size = self._world.Get_size()
        self.here: int = self._world.Split_type(mpi.COMM_TYPE_SHARED).Get_size()

    def all_reduce(self, array: np.ndarray) -> np.ndarray:
        """The sum over all ranks."""
        return self.begin_all_reduce(array)()

    def begin_all_reduce(self, array: np.ndarray) -> Pending:
        """The sum over all ranks, once it is waited for."""
        own = np.ascontiguousarray(array)
        added = np.empty_like(own)
        request = self._world.Iallreduce(own, added)

        def wait() -> np.ndarray:
            self._wait(request)
            return added

        return wait

    def broadcast(self, data: bytes) -> bytes:
        """The data of rank 0."""
        size = np.array([len(data)], np.int64)
        self._wait(self._world.Ibcast(size))
        buffer = np.frombuffer(data, np.uint8).copy() if self.rank == 0 else None
        if buffer is None:
            buffer = np.empty(size[0], np.uint8)
        self._wait(self._world.Ibcast(buffer))
        return buffer.tobytes()

    def _wait(self, request: Any) -> None:
        begun = time.monotonic()
        while not request.Test():
            if time.monotonic() - begun > EAGER_SECONDS:
                time.sleep(POLL_SECONDS)

    def abandon(self, reason: str) -> None:
        """End all ranks, after one line on standard error."""
        print(one_line(f"fxsim: rank {self.rank} ends all: {reason}"), file=sys.stderr, flush=True)
        self._world.Abort(ABANDONED)


def _mpi() -> Any:
    """mpi4py.MPI, whose import starts MPI."""
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(
            f"several ranks need mpi4py and a library of MPI ({error}); install them: "
            "pip install 'fxsim[mpi]' mpich"
        ) from None
    return MPI
