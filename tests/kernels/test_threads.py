"""Work shared among threads.

All of it is done, once, whatever the pieces; errors and interrupts come back to the caller.
"""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref

import numba
import numpy as np
import pytest

from fxsim.kernels import threads
from fxsim.kernels.threads import parallel_for, thread_count, use_threads

pytestmark = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")


@pytest.fixture(autouse=True)
def two_threads():
    before = thread_count()
    use_threads(2)
    yield
    use_threads(before)


def add_one(start, stop, visits):
    visits[start:stop] += 1


def visit(count, grain=1):
    visits = np.zeros(count, np.int64)
    parallel_for(add_one, count, grain, visits)
    return visits


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 8, 9, 1000])
@pytest.mark.parametrize("grain", [1, 3, 5000])
def test_every_index_is_visited_once(count, grain):
    assert (visit(count, grain) == 1).all()


def test_helpers_take_part():
    names = set()
    both = threading.Barrier(2)

    def meet(start, stop):
        if start in (0, 1):
            both.wait(timeout=60)  # the first two pieces are done at the same time
        names.add(threading.current_thread().name)

    parallel_for(meet, 2, 1)
    assert len(names) == 2


@pytest.mark.parametrize("place", [0, 1])
def test_an_error_comes_back_whichever_thread_meets_it(place):
    both = threading.Barrier(2)

    def fail(start, stop):
        both.wait(timeout=60)
        if start == place:
            raise ZeroDivisionError(f"at {start}")

    with pytest.raises(ZeroDivisionError, match=f"at {place}"):
        parallel_for(fail, 2, 1)
    assert (visit(100) == 1).all()


def test_an_interrupt_waits_for_what_helpers_are_at():
    both = threading.Barrier(2)
    finished = []

    def interrupted(start, stop):
        both.wait(timeout=60)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.05)
        finished.append(start)

    with pytest.raises(KeyboardInterrupt):
        parallel_for(interrupted, 2, 1)
    assert len(finished) == 1
    assert (visit(100) == 1).all()


def test_a_helper_that_sleeps_is_woken():
    for pause in (0.0, 0.001, 0.05):
        time.sleep(pause)
        assert (visit(64) == 1).all()


def test_a_caller_waits_for_a_slow_helper():
    def slow(start, stop, visits):
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.05)
        visits[start:stop] += 1

    visits = np.zeros(2, np.int64)
    parallel_for(slow, 2, 1, visits)
    assert visits.tolist() == [1, 1]


def test_work_may_come_from_several_threads_and_from_within_work():
    def nested(start, stop, visits):
        for k in range(start, stop):
            visits[k] += visit(50).sum()

    results = [np.zeros(20, np.int64) for _ in range(4)]
    callers = [
        threading.Thread(target=parallel_for, args=(nested, 20, 1, result)) for result in results
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert all((result == 50).all() for result in results)


def test_arguments_are_let_go_of():
    visits = np.zeros(100, np.int64)
    alive = weakref.ref(visits)
    parallel_for(add_one, 100, 1, visits)
    del visits
    gc.collect()
    assert alive() is None


def test_a_count_of_threads_is_bounded_by_the_number_that_numba_allows():
    use_threads(10**6)
    assert thread_count() == numba.config.NUMBA_NUM_THREADS


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs two processors",
)
def test_helpers_are_kept_off_the_processor_of_the_caller_whose_own_affinity_stays():
    before = os.sched_getaffinity(0)
    assert (visit(64) == 1).all()
    for helper in threads._helpers:
        assert os.sched_getaffinity(helper.native_id) == before - {threads._processor}
    assert os.sched_getaffinity(0) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings(
    "ignore:This process"
)  # Python warns of a fork with threads; there the child starts anew
def test_a_forked_child_has_helpers_of_its_own():
    assert (visit(64) == 1).all() and threads._helpers
    child = os.fork()
    if child == 0:
        os._exit(0 if not threads._helpers and (visit(64) == 1).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
