"""`fxsim vectors`: its arguments, and what its two commands do.

Nothing heavy is imported before a command runs, so that --help is quick.
"""

from __future__ import annotations

import dataclasses
import textwrap
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fxsim.cli.options import (
    ACCUMULATOR_EPILOG,
    STOCHASTIC_EPILOG,
    add_accumulator,
    add_formats,
    add_in_place,
    add_stochastic,
    as_asked,
    integer,
)
from fxsim.errors import InputError
from fxsim.golden.explain.tried import NOT_TRIED, TRIED

if TYPE_CHECKING:
    from fxsim.nn.precision import PrecisionAssignment
    from fxsim.nn.spec import Network

RUN_FOLDER = "fxsim-run"
VECTORS_FOLDER = "fxsim-vectors"


def add_vectors_commands(commands) -> None:
    """Add `vectors export` and `vectors check` to the subparsers of `fxsim`.

    `run_vectors` runs what was chosen.
    """
    parser = commands.add_parser(
        "vectors",
        help="golden vectors of a training step for RTL: write them, compare a device's dump with "
        "them",
        description="Golden vectors of a training step, and the comparison with what a device "
        "wrote.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_export(actions)
    _add_check(actions)


def run_vectors(arguments: Namespace) -> int:
    """Run `vectors export` or `vectors check`; returns the exit code, 1 for a mismatch."""
    return {"export": _export, "check": _check}[arguments.action](arguments)


def _add_export(actions) -> None:
    parser: ArgumentParser = actions.add_parser(
        "export",
        help="write every tensor of one fixed-point training step",
        description="Train in fixed point up to a step, and write every tensor of that step.",
        epilog="""\
examples:
  fxsim run && fxsim vectors export --step 3
  fxsim vectors export --run mine --step 100 --layers conv2 --batch 4 --out conv2-vectors
  fxsim vectors export --network digits-convnet --assignment mine/assignment.json --seed 1

written to the folder of --out, the same bytes every time:
  LAYER.TENSOR.mem    two's complement hexadecimal for $readmemh, one code to a line, row-major
  LAYER.TENSOR.npy    NumPy array of codes
  LAYER.TENSOR.h      C array of codes, with its dimensions
  manifest.json       formats, shapes, order, rounding, overflow, accumulator, seed, versions, SHA-256 of each file

"""
        + ACCUMULATOR_EPILOG
        + "\n\n"
        + STOCHASTIC_EPILOG,
    )
    parser.add_argument(
        "--run",
        metavar="FOLDER",
        help=f"experiment whose settings and assignment to take (default: {RUN_FOLDER})",
    )
    parser.add_argument(
        "--network", metavar="NAME", help="built-in network, instead of an experiment's"
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="where the data set's files are; npz: the file"
    )
    parser.add_argument(
        "--assignment", metavar="FILE", help="formats (default: the experiment's assignment.json)"
    )
    add_formats(parser)
    add_accumulator(parser)
    add_in_place(parser)
    add_stochastic(parser)
    parser.add_argument(
        "--seed", type=integer, metavar="N", help="of parameters, order of images and random words"
    )
    parser.add_argument(
        "--batch", type=integer, metavar="N", help="images per step (default: the experiment's)"
    )
    parser.add_argument(
        "--step", type=integer, default=0, metavar="N", help="which step, from 0 (default: 0)"
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="these layers, with their inputs and outputs (default: all)",
    )
    parser.add_argument(
        "--files", nargs="+", metavar="KIND", help="mem, hex, npy, c (default: mem npy c)"
    )
    parser.add_argument(
        "--out",
        default=VECTORS_FOLDER,
        metavar="FOLDER",
        help=f"new folder, or one with an earlier export (default: {VECTORS_FOLDER})",
    )


def _add_check(actions) -> None:
    parser: ArgumentParser = actions.add_parser(
        "check",
        help="compare a device's dump with vectors, and say where and why they differ",
        description="Compare a device's dump with vectors; on a mismatch, find the first in "
        "data-flow order and the "
        "single change of semantics that explains it.",
        epilog=f"""\
examples:
  fxsim vectors check fxsim-vectors dump                               every result of the step
  fxsim vectors check fxsim-vectors dump --tensor conv2.activations    one of them
  fxsim vectors check fxsim-vectors dump --tensor 'conv2.*grads'       some
  fxsim vectors check fxsim-vectors out.mem --tensor conv2.weight_grads

tried for the first tensor that differs, one change at a time; named is what gives all of its codes:
{_tried()}
Where no single change does it, the report says so.
{NOT_TRIED}

exit codes: 0 all codes equal; 1 a code differs; 2 a dump is missing, short, long or malformed""",
    )
    parser.add_argument(
        "vectors", metavar="VECTORS", help="folder that `fxsim vectors export` wrote"
    )
    parser.add_argument(
        "dump", metavar="DUMP", help="folder with files of the same names, or one file"
    )
    parser.add_argument(
        "--tensor",
        nargs="+",
        metavar="LAYER.TENSOR",
        help="names or patterns (default: all results; those inputs that were dumped)",
    )


def _tried() -> str:
    """The table of what is tried, for the help."""
    indent = " " * 17
    rows = (
        textwrap.fill(text, 117, initial_indent=f"  {of:<15}", subsequent_indent=indent)
        for of, text in TRIED.items()
    )
    return "\n".join(rows)


def _export(arguments: Namespace) -> int:
    from fxsim.golden.export import DEFAULT_KINDS, check_place, write_vectors

    check_place(arguments.out)
    step = _run_step if arguments.network is None else _network_step
    golden, compared = step(arguments)
    manifest = write_vectors(golden, arguments.out, arguments.files or DEFAULT_KINDS)
    codes = sum(array.size for array in golden.codes.values())
    print(
        f"step {manifest.step} of {manifest.network.name}: {codes} codes of "
        f"{len(manifest.tensors)} tensors written to {arguments.out}; {compared}next: fxsim "
        f"vectors check {arguments.out} DUMP"
    )
    return 0


def preset_of(arguments: Namespace, network: Network) -> PrecisionAssignment | None:
    """The assignment that --formats gives; None without it."""
    from fxsim.presets import Uniform

    if arguments.formats is None:
        return None
    if arguments.assignment is not None:
        raise InputError("--formats and --assignment both give the formats; leave one out")
    return Uniform.parse(arguments.formats).assignment(network)


def _changes(arguments: Namespace) -> dict:
    """The settings that the command line gives."""
    given = {name: getattr(arguments, name) for name in ("data", "seed", "batch")}
    return {name: value for name, value in given.items() if value is not None}


def _network_step(arguments: Namespace) -> tuple:
    """A step of a network in its default settings; nothing is there to compare it with."""
    from fxsim.experiment.replay import replay
    from fxsim.experiment.settings import Settings
    from fxsim.experiment.training import TrainingSetup
    from fxsim.nn.precision import PrecisionAssignment

    if arguments.run is not None:
        raise InputError(
            f"--run {arguments.run} has no effect beside --network {arguments.network}; leave one "
            f"of them out"
        )
    if arguments.assignment is None and arguments.formats is None:
        raise InputError(
            "--network needs --assignment FILE or --formats; or leave it out and name an experiment "
            "with --run"
        )
    setup = TrainingSetup.of(Settings.make(network=arguments.network, **_changes(arguments)))
    assignment = preset_of(arguments, setup.network)
    assignment = assignment or PrecisionAssignment.load(arguments.assignment)
    assignment = as_asked(assignment, arguments)
    return replay(setup, assignment, arguments.step, arguments.layers), ""


def _run_step(arguments: Namespace) -> tuple:
    """A step of the training of a run, and what was compared with its results, as text."""
    from fxsim.experiment.replay import StoredRun, replay, replay_of_run
    from fxsim.experiment.stages import assignment_of
    from fxsim.experiment.training import TrainingSetup

    folder = Path(RUN_FOLDER if arguments.run is None else arguments.run)
    own = run_settings(folder, ", or give --network and --assignment")
    settings = dataclasses.replace(own, **_changes(arguments))
    setup = TrainingSetup.of(settings, folder)
    identity = dataclasses.replace(setup, settings=own).identity
    assignment = preset_of(arguments, setup.network)
    if assignment is None:
        own_formats = assignment_of(folder, identity, arguments.assignment)
        assignment = setup.with_sums(own_formats)
    assignment = as_asked(assignment, arguments)
    run = StoredRun.find(folder, identity, assignment)
    if run is None:
        return replay(setup, assignment, arguments.step, arguments.layers), ""
    changed = [
        name for name in _changes(arguments) if getattr(settings, name) != getattr(own, name)
    ]
    golden, compared = replay_of_run(
        run, setup, assignment, arguments.step, arguments.layers, changed
    )
    design = f" of {run.design}" if run.design else ""
    return golden, f"{', '.join(compared)} as in the run{design}; "


def run_settings(folder: Path, others: str = ""):
    """The settings of what is in the folder of a run; others: how else it can be done."""
    from fxsim.experiment.stages import settings_in
    from fxsim.train.designs import perturbed_name

    settings = settings_in(folder, perturbed_name(0))
    if settings is None:
        raise InputError(
            f"{folder} holds no experiment; run `fxsim run --out {folder}` first{others}"
        )
    return settings


def _check(arguments: Namespace) -> int:
    from fxsim.golden.check import check

    report = check(arguments.vectors, arguments.dump, arguments.tensor)
    print(report.text())
    return 0 if report.passed else 1
