"""All that an experiment's settings ask for: the float run, its statistics, C_o, then each design
and perturbation, one after another or side by side.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from pathlib import Path

from fxsim.analysis.statistics import check_all_trained
from fxsim.datasets import Dataset
from fxsim.errors import InputError, shown
from fxsim.experiment.dask_jobs import dask_executor
from fxsim.experiment.progress import Progress, compilations_held
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import FLOAT_RUN, Experiment, Training
from fxsim.interrupts import Interrupts, before_end
from fxsim.machine import core_count, use_threads
from fxsim.nn.precision import PERTURBATION_CLASSES, PrecisionAssignment
from fxsim.train.checkpoint import Cadence
from fxsim.train.designs import FIXED, formats, perturbed_name

MOST_JOBS = 256
LOST = ("BrokenProcessPool", "CancelledError", "KilledWorker")
"""Names of the errors by which executors tell that a worker is lost."""


def run(experiment: Experiment, executor: Executor | None = None) -> list[Outcome]:
    """Train what the settings ask for; FL also where a design in fixed point needs its statistics.

    executor: any of concurrent.futures, whose workers reach the same folder and data set; the
    trainings after FL are independent of each other and run there side by side.  Results are those
    of one after another, bit by bit, and in the same order.  A perturbation that leaves a tensor
    without bits, or gives it too many, is left out with a note.
    """
    settings = experiment.settings
    if _in_fixed_point(settings):
        check_all_trained(experiment.network)  # here, not after the float run
    outcomes = [experiment.train_float()] if _float_run(settings) else []
    assignment = experiment.assigned() if _in_fixed_point(settings) else None
    outcomes += train_all(experiment, list(_feasible(experiment, assignment)), executor)
    if assignment is not None:
        held = experiment.setup.with_sums(assignment)
        name = "mismatch" if experiment.network.decides else "output_error"
        experiment.open_results().put(name, getattr(experiment, name)(held))
    return outcomes


def train_all(
    experiment: Experiment, trainings: list[Training], executor: Executor | None
) -> Iterator[Outcome]:
    """The outcomes of these trainings, in their order; executor: see run."""
    if executor is None:
        return map(experiment.train, trainings)
    return _side_by_side(experiment, trainings, executor)


def count(settings: Settings) -> int:
    """Trainings, at most."""
    return _float_run(settings) + len(planned(settings))


def _float_run(settings: Settings) -> bool:
    return FLOAT_RUN.design in settings.designs or _in_fixed_point(settings)


def _in_fixed_point(settings: Settings) -> bool:
    """Whether a design needs what is measured on the float run."""
    return not FIXED.keys().isdisjoint(settings.designs)


def planned(settings: Settings) -> list[tuple[str, str, int, str | None]]:
    """(name, design, bits, class) of every training after FL, in order.

    Bits are added to C_o in that class of tensors.
    """
    rows = []
    for design in settings.designs:
        if design == "FX":
            classes = (None, *PERTURBATION_CLASSES) if settings.per_class else (None,)
            changes = [(0, None), *itertools.product(settings.perturb, classes)]
            rows += [(perturbed_name(bits, only), design, bits, only) for bits, only in changes]
        elif design != FLOAT_RUN.design:
            rows.append((design, design, 0, None))
    return rows


def sensitivity(settings: Settings, designs: Iterable[dict]) -> list[dict]:
    """'class' ('all' for all tensors), 'bits', and the losses and the error of every perturbation
    among the designs of results.json, class after class, and of C_o (0 bits in 'all'); none where
    nothing was perturbed.
    """
    found = {row["design"]: row for row in designs}
    rows = [
        {
            "class": only or "all",
            "bits": bits,
            **{key: found[name][key] for key in ("train_loss", "test_loss", "test_error")},
        }
        for name, design, bits, only in planned(settings)
        if design == "FX" and name in found
    ]
    order = ["all", *PERTURBATION_CLASSES]
    rows.sort(key=lambda row: (order.index(row["class"]), row["bits"]))
    return rows if len(rows) > 1 else []


def _feasible(experiment: Experiment, assignment: PrecisionAssignment | None) -> Iterator[Training]:
    """The planned trainings with their formats; a note for one that has none."""
    for name, design, bits, only in planned(experiment.settings):
        if design not in FIXED or assignment is None:
            yield Training(name, design)
            continue
        try:
            own = assignment.perturbed(bits, only) if bits else assignment
            own = experiment.setup.with_sums(own)
        except InputError as error:
            experiment.observer.note(f"{name} is left out: {error}")
        else:
            yield Training(name, design, formats(design, own), measured=name == perturbed_name(0))


def _side_by_side(
    experiment: Experiment, trainings: list[Training], executor: Executor
) -> Iterator[Outcome]:
    results = experiment.open_results()
    folder = experiment.folder.absolute()
    common = experiment.settings, folder, experiment.cadence, experiment.given
    finished = [experiment.done(training) for training in trainings]
    futures = {}
    for training, done in zip(trainings, finished):
        if done is None:
            experiment.prepare(training)
            futures[training.name] = executor.submit(train_aside, training, *common)
    for training, done in zip(trainings, finished):
        if done is not None:
            yield done
            continue
        outcome = _result_of(training.name, futures[training.name])
        experiment.observer.begin(training.name, experiment.settings)
        yield experiment.finish(outcome, results)


def _result_of(name: str, future: Future[Outcome]) -> Outcome:
    """The outcome of a training; its errors tell its name."""
    try:
        return future.result()
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:
        if type(error).__name__ not in LOST:
            raise
        raise InputError(
            f"{name}: its worker has died ({type(error).__name__}), for want of memory perhaps; go "
            "on with --resume and fewer jobs"
        ) from None


def train_aside(
    training: Training,
    settings: Settings,
    folder: Path,
    cadence: Cadence,
    dataset: Dataset | None = None,
) -> Outcome:
    """One training in a worker of an executor: a checkpoint is all that it leaves in the folder,
    progress goes to standard error by whole lines.  SIGTERM ends the worker once it has written
    the checkpoint.  It goes on from a checkpoint, so that an executor may do it again where a
    worker is lost.
    """
    progress = Progress(sys.stderr, terminal=False)
    with Interrupts() as interrupts, compilations_held():
        try:
            experiment = Experiment(
                settings,
                folder,
                progress,
                resume=True,
                cadence=cadence,
                curves=False,
                dataset=dataset,
            )
            return experiment.outcome(training)
        except KeyboardInterrupt:
            if interrupts.number == signal.SIGTERM:
                os._exit(128 + signal.SIGTERM)
            raise


def side_by_side(jobs: int | str) -> contextlib.AbstractContextManager[Executor | None]:
    """The executor that `--jobs` asks for: a number of processes, or dask://HOST:PORT."""
    return dask_executor(jobs) if isinstance(jobs, str) else processes(jobs)


@contextlib.contextmanager
def processes(jobs: int) -> Iterator[Executor | None]:
    """An executor of `jobs` processes that share the processor's cores; None for one job, which
    needs none.

    An interrupt or an error ends all of them, each with its checkpoint.
    """
    if not 1 <= jobs <= MOST_JOBS:
        raise InputError(f"jobs must be 1 to {MOST_JOBS}, got {shown(jobs)}")
    if jobs == 1:
        yield None
        return
    others = set(multiprocessing.active_children())
    threads = max(1, core_count() // jobs)
    pool = ProcessPoolExecutor(
        jobs, multiprocessing.get_context("spawn"), _begin_worker, (threads,)
    )
    try:
        with before_end("the checkpoints of the trainings side by side"):
            yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        pool.shutdown(cancel_futures=True)
        raise
    pool.shutdown()


def _begin_worker(threads: int) -> None:
    """Interrupts are the parent's to handle, and nothing outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    use_threads(threads)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)
