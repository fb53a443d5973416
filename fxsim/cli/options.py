"""Command-line options that several commands share.

Nothing heavy is imported, so that --help is quick.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from typing import TYPE_CHECKING

from fxsim.errors import shown

if TYPE_CHECKING:
    from fxsim.nn.precision import PrecisionAssignment

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
