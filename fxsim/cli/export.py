"""`fxsim export`: its arguments, and what it does.

Nothing heavy is imported before the command runs, so that --help is quick.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from fxsim.cli.options import add_formats, integer
from fxsim.cli.vectors import preset_of, run_settings
from fxsim.errors import InputError, shown

if TYPE_CHECKING:
    from fxsim.nn.fixed.network import FixedNetwork

EXPORT_EPILOG = """\
examples:
  fxsim run --out mine && fxsim export mine --onnx mine.onnx     runs in ONNX Runtime
  fxsim export mine --qonnx mine.onnx --folded --batch 8         runs in qonnx; batch norm is part of the weights
  fxsim export mine --onnx mine.onnx --formats Q8.8              in these formats
  fxsim export mine --onnx mine.onnx --retrain                   the weights that fixed-point training ends with

the weights are those of the float run, rounded to the formats; with --retrain those that training in fixed point ends
with, which is done again and compared with results.json
  --onnx    integer operators; input `images` (N, H, W, C) and output `logits` (N, outputs) are codes
  --qonnx   float32 with Quant nodes, scales 2^n; `images` (N, C, H, W) and `logits` are codes times their step
Both give every code that fxsim gives, or are refused by the layer that they cannot express.  The files' metadata_props
hold the formats of all tensors.  `fxsim guide export` says more."""


def add_export_options(parser) -> None:
    """Give the parser of `fxsim export` its arguments."""
    parser.add_argument("run", metavar="FOLDER", help="experiment with a float run")
    parser.add_argument("--onnx", metavar="FILE", help="write integer operators of standard ONNX")
    parser.add_argument("--qonnx", metavar="FILE", help="write QONNX")
    parser.add_argument(
        "--assignment", metavar="FILE", help="formats (default: the experiment's assignment.json)"
    )
    add_formats(parser)
    parser.add_argument(
        "--folded",
        action="store_true",
        help="with batch norm folded into weights and biases, in their formats",
    )
    parser.add_argument(
        "--retrain",
        action="store_true",
        help="take the weights that training in fixed point ends with; it is done again",
    )
    parser.add_argument(
        "--batch", type=integer, metavar="N", help="images of a run of the QONNX file (default: 1)"
    )


def run_export(arguments: Namespace) -> None:
    """Run `fxsim export`."""
    from fxsim.interchange import to_onnx, to_qonnx

    if arguments.onnx is None and arguments.qonnx is None:
        raise InputError("fxsim export writes a file: give --onnx FILE or --qonnx FILE")
    both = arguments.onnx is not None and arguments.qonnx is not None
    if both and Path(arguments.onnx).resolve() == Path(arguments.qonnx).resolve():
        raise InputError(f"--onnx and --qonnx both name {shown(arguments.onnx)}; give two files")
    if arguments.batch is not None and arguments.qonnx is None:
        raise InputError("--batch has no effect on --onnx, which takes any number; leave it out")
    network = _network(arguments)
    if arguments.folded:
        if not any(layer.norm for layer in network.network.layers):
            raise InputError(
                f"--folded has no effect on network {network.network.name!r}, which has no batch "
                f"norm; leave it out"
            )
        network = network.folded()
    if arguments.onnx is not None:
        to_onnx(network, arguments.onnx)
        print(f"{network.network.name} in integers written to {arguments.onnx}")
    if arguments.qonnx is not None:
        to_qonnx(network, arguments.qonnx, 1 if arguments.batch is None else arguments.batch)
        print(f"{network.network.name} in QONNX written to {arguments.qonnx}")


def _network(arguments: Namespace) -> FixedNetwork:
    """The network of an experiment with its weights in the formats that are asked for."""
    from fxsim.experiment.replay import StoredRun, retrained
    from fxsim.experiment.stages import Experiment, assignment_of
    from fxsim.experiment.training import TrainingSetup
    from fxsim.nn.fixed.network import FixedNetwork

    folder = Path(arguments.run)
    experiment = None if arguments.retrain else Experiment.reopen(folder)
    setup = (
        experiment.setup if experiment else TrainingSetup.of(run_settings(folder), folder=folder)
    )
    assignment = preset_of(arguments, setup.network)
    if assignment is None:
        own = assignment_of(folder, setup.identity, arguments.assignment)
        assignment = setup.with_sums(own)
    if experiment is None:
        return retrained(setup, assignment, StoredRun.find(folder, setup.identity, assignment))
    seed = setup.settings.seed
    return FixedNetwork(setup.network, assignment, experiment.float_parameters(), seed=seed)
