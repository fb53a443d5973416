"""Ranks that are threads of one process, to test what several take together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from fxsim.communicator import Communicator, Pending


class _Meeting:
    """Where the threads meet, and what each of them brings."""

    def __init__(self, size: int):
        self.barrier = threading.Barrier(size, timeout=60)
        self.brought: list[Any] = [None] * size


class ThreadRank(Communicator):
    """One of the threads.

    wire: (dtype, elements) of all that it has exchanged.  waits: how many of these were begun when
    it waited for one.
    """

    def __init__(self, meeting: _Meeting, rank: int):
        self.rank = rank
        self.size = len(meeting.brought)
        self.wire: list[tuple[np.dtype, int]] = []
        self.waits: list[int] = []
        self._meeting = meeting

    def _exchange(self, own: Any) -> list[Any]:
        self._meeting.brought[self.rank] = own
        self._meeting.barrier.wait()
        everything = list(self._meeting.brought)
        self._meeting.barrier.wait()
        return everything

    def all_reduce(self, array: np.ndarray) -> np.ndarray:
        assert array.dtype in (np.int32, np.int64)
        self.wire.append((array.dtype, array.size))
        arrays = self._exchange(array)
        assert {(each.shape, each.dtype) for each in arrays} == {(array.shape, array.dtype)}
        exact = sum(each.astype(object) for each in arrays)
        added = sum(arrays)
        assert (added == exact).all(), "a sum does not fit what goes over the wire"
        return added

    def begin_all_reduce(self, array: np.ndarray) -> Pending:
        added = super().begin_all_reduce(array)

        def wait() -> np.ndarray:
            self.waits.append(len(self.wire))
            return added()

        return wait

    def broadcast(self, data: bytes) -> bytes:
        return self._exchange(data)[0]

    def abandon(self, reason: str) -> None:
        self._meeting.barrier.abort()


def on_ranks(size: int, work: Callable[[ThreadRank], Any]) -> list[Any]:
    """What `work` gives on each of so many ranks; raises what the first of them raised that did not
    just wait for another.
    """
    meeting = _Meeting(size)
    results: list[Any] = [None] * size
    errors: list[BaseException] = []

    def run(rank: int) -> None:
        try:
            results[rank] = work(ThreadRank(meeting, rank))
        except threading.BrokenBarrierError:
            pass
        except BaseException as error:
            errors.append(error)
            meeting.barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
