"""What precision costs: C_o for several targets, and with bits taken or added, from one float run.

Trainings, checkpoints and results are those of study.py, so that a sweep goes on where it was
broken off, and finds what a run in the same folder has trained.  Beside results.json it writes

    sweep.json   kind, version, identity; 'float': the row of FL; 'rows': one for each point
    sweep.csv    the same rows, and that of FL first

A row has design, target (None where bits were added to C_o), bits, the losses, the error and the
four costs.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fxsim.errors import InputError, shown
from fxsim.experiment import results, study
from fxsim.experiment.stages import (
    FLOAT_RUN,
    STATISTICS,
    SWEEP,
    Experiment,
    Training,
)
from fxsim.files import write_text
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train.designs import perturbed_name

TARGETS = (0.001, 0.003, 0.01, 0.03, 0.1)
PERTURB = (-2, -1, 1)
KIND = "fxsim sweep"
VERSION = 1
MEASURES = ("test_error", "test_loss", "train_loss")
COSTS = ("weight_storage", "activation_storage", "training_macs", "communication")
COLUMNS = ("design", "target", "bits", *MEASURES, *COSTS)


@dataclass(frozen=True)
class Point:
    """C_o for this target, or where that is None with so many bits added, and its training.

    Points whose formats are the same share one training.
    """

    target: float | None
    bits: int
    training: Training


def points(experiment: Experiment, targets: Sequence[float], perturb: Sequence[int]) -> list[Point]:
    """The points of a sweep, the experiment's own target among them, targets first.

    Raises:
        InputError: a target does not lie between 0 and 1, or a value stands there twice, or there
            are 0 bits.
    """
    _check("targets", targets)
    _check("perturb", perturb)
    if wrong := [target for target in targets if not 0 < target < 1]:
        raise InputError(f"targets must lie between 0 and 1, got {shown(wrong[0])}")
    if 0 in perturb:
        raise InputError("perturb must not hold 0: that is C_o, which a sweep trains anyway")
    chosen = experiment.assigned()
    held = experiment.setup.with_sums(chosen)
    if not experiment.path(STATISTICS).exists():
        experiment.analyze()
    own = experiment.settings.target
    found = [Point(own, 0, Training(perturbed_name(0), "FX", held, measured=True))]
    for target in targets:
        make = partial(experiment.assignment_for, target)
        if target != own:
            found += [
                Point(target, 0, training)
                for training in _feasible(experiment, f"FX for {target}", make)
            ]
    shared = [found[0].training]
    found.sort(key=lambda point: point.target or 0.0)
    for bits in perturb:
        make = partial(chosen.perturbed, bits)
        found += [
            Point(None, bits, training)
            for training in _feasible(experiment, perturbed_name(bits), make)
        ]
    return [Point(point.target, point.bits, _shared(point.training, shared)) for point in found]


def _check(name: str, values: Sequence) -> None:
    if len(set(values)) != len(values):
        raise InputError(f"{name} must hold each value once, got {shown(list(values))}")


def _feasible(
    experiment: Experiment, name: str, make: Callable[[], PrecisionAssignment]
) -> Iterator[Training]:
    """The training in the formats that are made; none, with a note, where there are no such."""
    try:
        yield Training(name, "FX", experiment.setup.with_sums(make()))
    except InputError as error:
        experiment.observer.note(f"{name} is left out: {error}")


def _shared(training: Training, earlier: list[Training]) -> Training:
    """The first of the `earlier` trainings with the same formats, else this one, which joins them."""
    own = results.formats(training.assignment)
    for other in earlier:
        if results.formats(other.assignment) == own:
            return other
    earlier.append(training)
    return training


def run(experiment: Experiment, found: Sequence[Point], executor: Executor | None = None) -> dict:
    """Train the points; what sweep.json holds, which is written with sweep.csv.

    executor: see study.run.
    """
    trainings = trainings_of(found)
    for _ in study.train_all(experiment, trainings, executor):
        pass
    store = experiment.open_results()
    rows = [_row(store, point.training.name, point.target, point.bits) for point in found]
    reference = _row(store, FLOAT_RUN.name, None, 0)
    data = {
        "kind": KIND,
        "version": VERSION,
        "identity": experiment.setup.identity.to_dict(),
        "float": reference,
        "rows": rows,
    }
    write_text(experiment.path(f"{SWEEP}.json"), json.dumps(data, indent=1) + "\n")
    _write_table(experiment.path(f"{SWEEP}.csv"), [reference, *rows])
    return data


def trainings_of(found: Sequence[Point]) -> list[Training]:
    """Each training once."""
    return list({point.training.name: point.training for point in found}.values())


def _row(store: results.Results, design: str, target: float | None, bits: int) -> dict:
    row = store.row(design)
    if row is None:
        raise InputError(
            f"{store.folder} has no results of {design}; train it again: fxsim train --out "
            f"{store.folder}"
        )
    return {
        "design": design,
        "target": target,
        "bits": bits,
        **{name: row[name] for name in MEASURES},
        **{name: row["costs"]["total"][name] for name in COSTS},
    }


def _write_table(path: Path, rows: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
