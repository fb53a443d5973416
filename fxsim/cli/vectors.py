"""`fxsim vectors`: its arguments, and what its two commands do.

Nothing heavy is imported before a command runs, so that --help is quick.
"""

from __future__ import annotations

import dataclasses
import textwrap
from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fxsim.cli.options import (
    ACCUMULATOR_EPILOG,
    RUN_FOLDER,
    STOCHASTIC_EPILOG,
    add_accumulator,
    add_formats,
    add_in_place,
    add_stochastic,
    as_asked,
    integer,
)
from fxsim.errors import InputError, choice, present
from fxsim.golden.explain.tried import NOT_TRIED, TRIED

if TYPE_CHECKING:
    from fxsim.experiment.replay import StoredRun
    from fxsim.experiment.settings import Settings
    from fxsim.experiment.training import TrainingSetup
    from fxsim.golden.capture import GoldenStep
    from fxsim.identity import Identity
    from fxsim.nn.precision import PrecisionAssignment
    from fxsim.nn.spec import Network

VECTORS_FOLDER = "fxsim-vectors"
IMAGES = 16
"""Images of an inference, by default."""
OF_STEP = ("--step", "--batch")
OF_INFERENCE = ("--images", "--weights", "--folded")
WEIGHTS = ("float", "fixed")


def add_vectors_commands(commands) -> None:
    """Add `vectors export` and `vectors check` to the subparsers of `fxsim`.

    `run_vectors` runs what was chosen.
    """
    parser = commands.add_parser(
        "vectors",
        help="golden vectors of a training step or of inference for RTL: write them, compare a "
        "device's dump with them",
        description="Golden vectors of a training step or of inference, and the comparison with "
        "what a device wrote.",
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    _add_export(actions)
    _add_check(actions)


def run_vectors(arguments: Namespace) -> int:
    """Run `vectors export` or `vectors check`; returns the exit code, 1 for a mismatch."""
    return {"export": _export, "check": _check}[arguments.action](arguments)


EXPORT_EPILOG = (
    """\
examples:
  fxsim run && fxsim vectors export --step 3
  fxsim vectors export --run mine --step 100 --layers conv2 --batch 4 --out conv2-vectors
  fxsim vectors export --network digits-convnet --assignment mine/assignment.json --seed 1
  fxsim vectors export --run mine --inference --images 4              the float run's weights, rounded
  fxsim vectors export --run mine --inference --weights fixed         those that FX ends with, trained anew
  fxsim vectors export --run mine --inference --folded                batch norm folded into weights and bias

written to the folder of --out, the same bytes every time:
  LAYER.TENSOR.mem    two's complement hexadecimal for $readmemh, one code to a line, row-major
  LAYER.TENSOR.npy    NumPy array of codes
  LAYER.TENSOR.h      C array of codes, with its dimensions
  fxsim_vectors.vhd   --files mem vhdl: a VHDL-2008 package of formats, modes and shapes, which reads and writes .mem
  fxsim_vectors.sv    --files mem sv: the same as a SystemVerilog package of parameters
  manifest.json       formats, shapes, order, rounding, overflow, accumulator, seed, versions, SHA-256 of each file

"""
    + ACCUMULATOR_EPILOG
    + "\n\n"
    + STOCHASTIC_EPILOG
)


def _add_export(actions) -> None:
    parser: ArgumentParser = actions.add_parser(
        "export",
        help="write every tensor of one fixed-point training step, or of inference",
        description="Train in fixed point up to a step, and write every tensor of that step. With "
        "--inference, infer the first test images with trained weights, and write every tensor of "
        "that.",
        epilog=EXPORT_EPILOG,
    )
    _add_training_of(parser)
    _add_inference(parser)
    parser.add_argument(
        "--layers",
        nargs="+",
        metavar="LAYER",
        help="these layers, with their inputs and outputs (default: all)",
    )
    parser.add_argument(
        "--files", nargs="+", metavar="KIND", help="mem, hex, npy, c, vhdl, sv (default: mem npy c)"
    )
    parser.add_argument(
        "--out",
        default=VECTORS_FOLDER,
        metavar="FOLDER",
        help=f"new folder, or one with an earlier export (default: {VECTORS_FOLDER})",
    )


def _add_training_of(parser: ArgumentParser) -> None:
    """Whose training, in which formats, and which step of it."""
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


def _add_inference(parser: ArgumentParser) -> None:
    """Inference in the place of a step: of which images, with which weights."""
    parser.add_argument(
        "--inference", action="store_true", help="vectors of inference, not of a training step"
    )
    parser.add_argument(
        "--images",
        type=integer,
        default=IMAGES,
        metavar="N",
        help=f"infer the first N test images (default: {IMAGES})",
    )
    parser.add_argument(
        "--weights",
        default=WEIGHTS[0],
        metavar="float|fixed",
        help="infer with the float run's weights, rounded to their formats, or with those that the "
        "training in fixed point ends with, trained anew (default: float)",
    )
    parser.add_argument(
        "--folded",
        action="store_true",
        help="fold batch norm into weights and bias before the inference",
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
  fxsim vectors check fxsim-vectors dump                               every result
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
    _refuse_without_effect(arguments)
    asked = _Asked.of_run(arguments) if arguments.network is None else _Asked.of_network(arguments)
    golden, compared = (_inference if arguments.inference else _step)(arguments, asked)
    manifest = write_vectors(golden, arguments.out, arguments.files or DEFAULT_KINDS)
    codes = sum(array.size for array in golden.codes.values())
    print(
        f"{manifest.subject} of {manifest.network.name}: {codes} codes of "
        f"{len(manifest.tensors)} tensors written to {arguments.out}; {compared}next: fxsim "
        f"vectors check {arguments.out} DUMP"
    )
    return 0


def _refuse_without_effect(arguments: Namespace) -> None:
    """InputError for an option that has no effect beside the others."""
    choice("--weights", arguments.weights, WEIGHTS)
    unused = OF_STEP if arguments.inference else OF_INFERENCE
    where = "beside --inference" if arguments.inference else "without --inference"
    for option in unused:
        if option in arguments.given:
            raise InputError(f"{option} has no effect {where}; leave it out")
    if arguments.inference and arguments.weights == "float":
        for option in ("--network", "--seed", "--in-place"):
            if option in arguments.given:
                raise InputError(
                    f"{option} has no effect on inference with the weights of a float run; leave "
                    f"it out, or train anew with --weights fixed"
                )


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


@dataclass(frozen=True)
class _Asked:
    """A training and its formats; what the folder of its run has of it, where there is one.

    own: the settings in the folder.  identity: of the run, with the images of `setup`.
    """

    setup: TrainingSetup
    assignment: PrecisionAssignment
    folder: Path | None = None
    own: Settings | None = None
    identity: Identity | None = None

    @classmethod
    def of_network(cls, arguments: Namespace) -> _Asked:
        """A network in its default settings; nothing is there to compare it with."""
        from fxsim.experiment.settings import Settings
        from fxsim.experiment.training import TrainingSetup
        from fxsim.nn.precision import PrecisionAssignment

        if arguments.run is not None:
            raise InputError(
                f"--run {arguments.run} has no effect beside --network {arguments.network}; leave "
                f"one of them out"
            )
        if arguments.assignment is None and arguments.formats is None:
            raise InputError(
                "--network needs --assignment FILE or --formats; or leave it out and name an "
                "experiment with --run"
            )
        settings = Settings.make(network=arguments.network, **_changes(arguments))
        setup = TrainingSetup.of(settings)
        assignment = preset_of(arguments, setup.network)
        assignment = assignment or PrecisionAssignment.load(arguments.assignment)
        return cls(setup, as_asked(assignment, arguments))

    @classmethod
    def of_run(cls, arguments: Namespace) -> _Asked:
        """The training of a run."""
        from fxsim.experiment.stages import assignment_of
        from fxsim.experiment.training import TrainingSetup

        folder = Path(RUN_FOLDER if arguments.run is None else arguments.run)
        own = run_settings(folder, ", or give --network and --assignment")
        setup = TrainingSetup.of(dataclasses.replace(own, **_changes(arguments)), folder=folder)
        identity = dataclasses.replace(setup, settings=own).identity
        assignment = preset_of(arguments, setup.network)
        if assignment is None:
            own_formats = assignment_of(folder, identity, arguments.assignment)
            assignment = setup.with_sums(own_formats)
        return cls(setup, as_asked(assignment, arguments), folder, own, identity)

    def stored(self) -> StoredRun | None:
        """What the folder holds of the training's results."""
        from fxsim.experiment.replay import StoredRun

        if self.folder is None:
            return None
        return StoredRun.find(self.folder, present(self.identity), self.assignment)

    def changed(self, arguments: Namespace) -> list[str]:
        """The settings that the command line makes other than the run's."""
        return [
            name
            for name in _changes(arguments)
            if getattr(self.setup.settings, name) != getattr(self.own, name)
        ]


def _step(arguments: Namespace, asked: _Asked) -> tuple[GoldenStep, str]:
    """A training step, and what of it was compared with the results of the run, as text."""
    from fxsim.experiment.replay import replay, replay_of_run

    run = asked.stored()
    training = asked.setup, asked.assignment, arguments.step, arguments.layers
    if run is None:
        return replay(*training), ""
    return _told(run, *replay_of_run(run, *training, asked.changed(arguments)))


def _inference(arguments: Namespace, asked: _Asked) -> tuple[GoldenStep, str]:
    """The inference of test images, and what was compared with the run."""
    from fxsim.experiment.inference import (
        check_inference,
        inference,
        quantized_network,
        trained_network,
    )
    from fxsim.experiment.stages import PARAMETERS, float_parameters_of

    chosen = arguments.images, arguments.layers, arguments.folded
    check_inference(asked.setup, *chosen)
    compared = []
    run = asked.stored()
    if run is not None:
        compared.append("images")
    if arguments.weights == "fixed":
        network = trained_network(asked.setup, asked.assignment)
        if run is not None and run.end is not None and not asked.changed(arguments):
            run.check_end(network.fingerprint())
            compared.append("final weights")
    else:
        folder = present(asked.folder)
        if not (folder / PARAMETERS).exists():
            raise InputError(
                f"{folder} holds no float run (no {PARAMETERS}); run `fxsim train --out {folder}` "
                f"first, or train in fixed point with --weights fixed"
            )
        parameters = float_parameters_of(folder, present(asked.identity))
        network = quantized_network(asked.setup, asked.assignment, parameters)
    return _told(run, inference(asked.setup, network, *chosen), compared)


def _told(run: StoredRun | None, golden: GoldenStep, compared: list[str]) -> tuple[GoldenStep, str]:
    if run is None:
        return golden, ""
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
