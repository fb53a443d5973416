"""Command-line options that several commands share.

Nothing heavy is imported, so that --help is quick.
"""

from __future__ import annotations

import re
from argparse import (
    SUPPRESS,
    Action,
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
)
from typing import TYPE_CHECKING

from fxsim.errors import cut, shown

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from fxsim.nn.precision import PrecisionAssignment

RUN_FOLDER = "fxsim-run"
"""The folder of an experiment, by default."""

ACCUMULATOR_EPILOG = """\
accumulators: --accumulator [[LAYER.]KIND=]MODEL, as often as needed; without one, sums are exact
  KIND    forward, input_grad or weight_grad; left out, all three
  MODEL   assigned          alone, without a KIND: those that fxsim assign has written to the assignment
          N bits            signed; the only part that must be there
          OVERFLOW          saturate, saturate_symmetric, saturate_zero or wrap; then 'each addition', 'each
                    operation' (also on every product) or 'at the end'
          ORDER             sequential, tree, or 'tiles of N' terms that are summed exactly first
          ROUNDING N        of every product, by N bits, before it is added: floor, nearest_even, jam ...
          ROUNDING to 2^E   the same, to a step
          bias first        the sum starts from the bias, whose step must be the accumulator's or coarser
          N lanes           accumulators side by side, of which term k takes number k mod N, added at the end
          channel last      a convolution's terms come by kernel row, kernel column, channel
  --accumulator assigned --accumulator 'fc1.forward=20 bits'      the assigned ones, but for one layer
  --accumulator '24 bits'                            saturates each addition, one term after the other, whole products
  --accumulator 'forward=16 bits, wrap, tree, floor 2' --accumulator 'conv1.forward=20 bits, tiles of 16'
  --accumulator 'forward=24 bits, bias first, 4 lanes, channel last'"""


STOCHASTIC_EPILOG = """\
stochastic roundings: --stochastic [LAYER.]TENSOR=WORDS, as often as needed
  TENSOR  accumulators (the update), weight_grads, activation_grads, activations, logits, bias_accumulators ...
  WORDS   philox, K bits    counter-based, without state; K random bits, 1 to 32
          dropped bits      the lower half of the dropped bits stands for a random number (NITI)
          lfsr of N         a register of N bits; 'taps A B ..' and 'K bits' must be there, too
          fibonacci | galois, left | right, seed S | seeds S T .., L lanes, runs of R elements in a lane,
          'from bit B' of the register, C clocks per word, start C, period C clocks from step to step
  --stochastic 'accumulators=lfsr of 16, taps 16 15 13 4, 8 bits, galois, 4 lanes'
  --stochastic 'weight_grads=philox, 8 bits' --stochastic 'conv1.weight_grads=dropped bits'"""


def add_stochastic(parser: ArgumentParser) -> None:
    """--stochastic, a list of texts for PrecisionAssignment.with_stochastic."""
    parser.add_argument(
        "--stochastic",
        action="append",
        default=[],
        metavar="WORDS",
        help="round a tensor stochastically, by these random words; see below",
    )


def add_in_place(parser: ArgumentParser) -> None:
    """--in-place, for PrecisionAssignment.without_accumulators."""
    parser.add_argument(
        "--in-place",
        action="store_true",
        help="no accumulators below the weights' step: every update is rounded once, to that step",
    )


def add_accumulator(parser: ArgumentParser) -> None:
    """--accumulator, a list of texts for PrecisionAssignment.with_accumulators."""
    parser.add_argument(
        "--accumulator",
        action="append",
        default=[],
        metavar="MODEL",
        help="accumulators of the sums of products, in place of exact ones; see below",
    )


def as_asked(assignment: PrecisionAssignment, arguments: Namespace) -> PrecisionAssignment:
    """The assignment with what --in-place, --accumulator and --stochastic say."""
    if arguments.in_place:
        assignment = assignment.without_accumulators()
    assignment = assignment.with_accumulators(arguments.accumulator)
    return assignment.with_stochastic(arguments.stochastic)


FORMATS_HELP = (
    "one format for every tensor, without an assignment: 'FORMAT[, ROUNDING][, OVERFLOW][, every "
    "operation]', as Q8.8 or 'Q8.8, floor, wrap, every operation'; the 8 of Q8.8 count the sign"
)


def add_formats(parser: ArgumentParser) -> None:
    """--formats, a text for fxsim.presets.Uniform.parse."""
    parser.add_argument("--formats", metavar="FORMAT", help=FORMATS_HELP)


class Renamed(Action):
    """An option that has another name now; its `const` is that name."""

    def __call__(self, parser, namespace, values, option_string=None):
        """Refuse it, naming the new one."""
        parser.error(
            f"{option_string} is called {self.const} now; use {self.const} {cut(str(values), 80)}"
        )


def add_settings(parser: ArgumentParser) -> None:
    """The settings of an experiment: a file, network, images and training."""
    parser.add_argument(
        "experiment", nargs="?", metavar="experiment.toml", help="settings; options override them"
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="built-in network (default: the data set's, digits-convnet)",
    )
    parser.add_argument(
        "--width", type=number, metavar="X", help="multiplier of its filters (default: 1)"
    )
    add_training(parser)


def add_training(parser: ArgumentParser) -> None:
    """The settings of images, training and precisions, and --out."""
    _add_images(parser.add_argument_group("images"))
    _add_schedule(parser.add_argument_group("training"))
    _add_precisions(parser.add_argument_group("precisions"))
    add_out(parser)


def _add_images(parser: _ArgumentGroup) -> None:
    """Which images are trained on, and how they are varied."""
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="digits, mnist, cifar10, cifar100, svhn, npz or folder (default: the network's)",
    )
    parser.add_argument(
        "--data", metavar="FOLDER", help="where the data set's files are; npz: the file"
    )
    parser.add_argument(
        "--images",
        type=integer,
        metavar="N",
        help="train on the first N images of the training set (default: all)",
    )
    parser.add_argument(
        "--held-out",
        type=integer,
        metavar="N",
        help="keep the last N images of the training set from training, to bound the mismatch of "
        "decisions, or the error of outputs, on (default: a tenth, at most 512; 0: none)",
    )
    parser.add_argument("--pictures", action=Renamed, const="--images", help=SUPPRESS)
    parser.add_argument(
        "--flip",
        action=BooleanOptionalAction,
        default=None,
        help="turn half of the training images left to right (default: the network's)",
    )
    parser.add_argument(
        "--crop",
        type=integer,
        metavar="N",
        help="cut training images at random out of N pixels of padding (default: the network's; "
        "0: no)",
    )


def _add_schedule(parser: _ArgumentGroup) -> None:
    """How long and how fast."""
    parser.add_argument("--epochs", type=integer, metavar="N")
    parser.add_argument("--batch", type=integer, metavar="N", help="images per step")
    parser.add_argument("--learning-rate", type=number, metavar="X")
    parser.add_argument(
        "--momentum",
        type=number,
        metavar="X",
        help="share of the velocity that a step keeps (default: 0)",
    )
    parser.add_argument(
        "--weight-decay",
        type=number,
        metavar="X",
        help="share of the weights that joins their gradients (default: 0)",
    )
    parser.add_argument(
        "--seed",
        type=integer,
        metavar="N",
        help="of initial weights, order and augmentation of images (default: 0)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        default=None,
        help="three epochs of 512 images, where --epochs and --images say nothing else",
    )


def _add_precisions(parser: _ArgumentGroup) -> None:
    """What the criteria are to meet."""
    parser.add_argument(
        "--bound",
        metavar="tight|paper",
        help="bound on the mismatch of decisions that sets the bits of weights and activations "
        "(default: tight; where targets are tensors, the error of the outputs takes its place)",
    )
    parser.add_argument(
        "--minimize",
        metavar="COST",
        help="macs, activations or weights: those bits within the bound that cost least of it "
        "(default: bits that add equally to the bound)",
    )
    parser.add_argument(
        "--output-grad-bits",
        type=integer,
        metavar="N",
        help="bits of the gradient at the logits (default: 0, what the criteria ask)",
    )
    parser.add_argument(
        "--gradient-rounding",
        metavar="MODE",
        help="stochastic or nearest: of the gradients of weights and activations; nearest takes "
        "more bits, so that at most 1%% of what they sum to is flushed (default: stochastic)",
    )


def add_resume(parser: ArgumentParser) -> None:
    """--resume, and when checkpoints are written."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with what is in the folder, to the same bits; begin where nothing is there",
    )
    parser.add_argument(
        "--checkpoint-minutes",
        type=number,
        default=2.0,
        metavar="X",
        help="write a checkpoint so often, and at the end of each epoch (default: 2)",
    )
    parser.add_argument(
        "--checkpoint-steps", type=integer, metavar="N", help="and after so many steps"
    )


def add_out(parser: ArgumentParser) -> None:
    """--out, the folder of an experiment."""
    parser.add_argument(
        "--out",
        default=RUN_FOLDER,
        metavar="FOLDER",
        help=f"folder of the experiment (default: {RUN_FOLDER})",
    )


def add_json(parser: ArgumentParser) -> None:
    """--json."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_jobs(parser: ArgumentParser) -> None:
    """--jobs, trainings side by side."""
    parser.add_argument(
        "--jobs",
        type=jobs,
        default=1,
        metavar="N|dask://HOST:PORT",
        help="trainings side by side once the float run is done; they share the cores (default: 1), "
        "or run on the workers of a Dask scheduler",
    )


def add_workers(parser: ArgumentParser) -> None:
    """--workers, ranks that take each training together."""
    parser.add_argument(
        "--workers",
        metavar="mpi",
        help="mpi: all processes that mpiexec has started take each training in fixed point "
        "together, to the same bits (see fxsim guide many-workers)",
    )


def integer(text: str) -> int:
    """The type of an option with an integer: ASCII digits, nothing else."""
    if not re.fullmatch(r"[+-]?\d{1,99}", text, re.ASCII):
        raise ArgumentTypeError(f"an integer is wanted, not {shown(text)}")
    return int(text)


def jobs(text: str) -> int | str:
    """The type of --jobs: an integer, or the address of a scheduler."""
    return text if text.startswith("dask://") else integer(text)


def number(text: str) -> float:
    """The type of an option with a number, as Python writes one; nan and inf, too."""
    try:
        return float(text if text.isascii() and text.strip() == text and "_" not in text else "")
    except ValueError:
        raise ArgumentTypeError(f"a number is wanted, not {shown(text)}") from None


def names(text: str) -> list[str]:
    """The type of an option with names, as FL,FX."""
    return [name for name in text.split(",") if name]


def numbers(text: str) -> list[float]:
    """The type of an option with numbers, as 0.1,0.01, or none."""
    return [] if text == "none" else [number(each) for each in text.split(",")]


def integers(text: str) -> list[int]:
    """The type of an option with integers, as -2,-1,+1, or none."""
    if text == "none":
        return []
    try:
        return [integer(each) for each in text.split(",")]
    except ArgumentTypeError:
        raise ArgumentTypeError(
            f"integers are wanted, as in -2,-1,+1, or none, not {shown(text)}"
        ) from None
