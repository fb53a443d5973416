"""The arguments of each command.

Nothing heavy is imported, so that --help is quick.
"""

from __future__ import annotations

import argparse

from fxsim.cli.export import EXPORT_EPILOG, add_export_options
from fxsim.cli.options import (
    ACCUMULATOR_EPILOG,
    RUN_FOLDER,
    STOCHASTIC_EPILOG,
    add_accumulator,
    add_formats,
    add_in_place,
    add_jobs,
    add_json,
    add_out,
    add_resume,
    add_settings,
    add_stochastic,
    add_training,
    add_workers,
    integer,
    integers,
    names,
    number,
    numbers,
)
from fxsim.cli.vectors import add_vectors_commands

RUN_EPILOG = """\
examples:
  fxsim run                                       the embedded digits, under a minute
  fxsim run --quick                               a few seconds, to see that everything works
  fxsim run --dataset mnist --data ~/data/mnist   IDX files, plain or .gz
  fxsim run experiment.toml --seed 1              settings from a file; options override it
  fxsim run --resume --out mine                   go on where a run was interrupted or killed
  fxsim run --designs FL,FX,BN,SQ,TG --perturb -2,-1,+1 --per-class --jobs 2      the comparison of the paper

experiment.toml may hold any of the settings below (learning_rate with an underscore), and also
  drops = [9]              epochs (from 0) at whose start the learning rate is divided by 10
  target = 0.01            bound on the mismatch of float and fixed-point decisions; with targets = "tensors", on the
                           squared error of the outputs, as a share of the float run's loss
  accumulators = "exact"   or "assigned", what --accumulator says
  gain_samples = 512       images of each split on which noise gains and mismatch are measured, at most
and a network of your own:
  [layers]
  name = "mine"
  input_shape = [8, 8, 1]
  loss = "mse"             # or half_mse, sigmoid_cross_entropy; default: softmax_cross_entropy
  exponential = {index_bits = 8, entry_bits = 30, interpolation = "linear"}    # of a cross-entropy; the default
  targets = "labels"       # the default; "tensors": the targets of the data set, or else the images themselves
  layer = [
    {type = "conv", name = "conv1", filters = 8, kernel = 3, padding = 1, pool = {kind = "max", size = 2}},
    {type = "dense", name = "fc1", units = 16, activation = {kind = "leaky_relu", slope_exp = -3}},
    {type = "dense", name = "norm", units = 16, batch_norm = {epsilon = 0.001, running_rate = 0.1}},  # or true
    {type = "dense", name = "fc2", units = 10, activation = "none"},
  ]

written to the folder of --out:
  assignment.json          a format, and the reason for it, for every tensor
  statistics.npz           what the float run was measured to be
  results.json             per design: errors, losses, costs, counts, fingerprint of all weights
  curves.csv               per design and epoch
  report.html              all of it on one page, with plots: open it in a browser
  curves.png, bits.png     where matplotlib is installed"""


def add_commands(commands) -> None:
    """Add every command to the subparsers of `fxsim`."""
    for add in (
        _add_run,
        _add_sweep,
        _add_report,
        _add_train,
        _add_import,
        _add_analyze,
        _add_assign,
        _add_cost,
        _add_data,
        add_vectors_commands,
        _add_export,
        _add_profiles,
        _add_guide,
        _add_info,
    ):
        add(commands)


class _Once(argparse.Action):
    """An option of a command that takes one value, where others take several."""

    def __call__(self, parser, namespace, values, option_string=None):
        if getattr(namespace, self.dest) is not None:
            parser.error(f"{option_string} is given 2 times; give it once")
        setattr(namespace, self.dest, values)


def _add_run(commands) -> None:
    parser = _command(
        commands,
        "run",
        "the whole method: float run, statistics, precisions, fixed-point runs, tables and plots",
        RUN_EPILOG,
    )
    add_settings(parser)
    add_resume(parser)
    parser.add_argument(
        "--designs",
        type=names,
        metavar="LIST",
        help="FL float, FX fixed point, BN binarized, SQ stochastic weights, TG ternary gradients "
        "(default: FL,FX)",
    )
    parser.add_argument(
        "--perturb",
        type=integers,
        metavar="LIST",
        help="train C_o with so many bits more or fewer, too (default: -1,+1; or none)",
    )
    parser.add_argument(
        "--accumulator",
        dest="accumulators",
        action=_Once,
        metavar="exact|assigned",
        help="assigned: hold sums of products in fixed point in the accumulators that the criteria "
        "give (default: exact)",
    )
    parser.add_argument(
        "--per-class",
        action="store_true",
        default=None,
        help="perturb each class of tensors by itself, too",
    )
    add_jobs(parser)
    add_workers(parser)


def _add_sweep(commands) -> None:
    parser = _command(
        commands,
        "sweep",
        "what precision costs: C_o over targets and bits, error and loss against each cost",
        """\
examples:
  fxsim train --out mine && fxsim sweep --out mine
  fxsim sweep --out mine --targets 0.01,0.1 --perturb none --jobs 2

All trainings start from the float run in the folder; what is finished there is not trained again, so that a sweep that
was interrupted goes on.  Written to the folder: sweep.json, sweep.csv, and where matplotlib is installed sweep.png.""",
    )
    add_out(parser)
    parser.add_argument(
        "--targets",
        type=numbers,
        metavar="LIST",
        help="bounds on the mismatch of decisions, or on the share of the float loss (default: "
        "0.001,0.003,0.01,0.03,0.1; the experiment's own is always there)",
    )
    parser.add_argument(
        "--perturb",
        type=integers,
        metavar="LIST",
        help="bits added to C_o in all tensors (default: -2,-1,+1; or none)",
    )
    add_jobs(parser)
    add_workers(parser)


def _add_report(commands) -> None:
    parser = _command(
        commands,
        "report",
        "plots and report.html of a run, written again; or one page that compares several runs",
        """\
examples:
  fxsim report                                    of fxsim-run, into that folder: report.html, report.md, plots
  fxsim report mine                               of another folder
  fxsim report mine other                         both on one page: comparison.html
  fxsim report mine other --out both.html

report.html is one file without links to others: open it in a browser, print it, send it.""",
    )
    parser.add_argument(
        "folders",
        nargs="*",
        default=[RUN_FOLDER],
        metavar="FOLDER",
        help=f"folders of runs (default: {RUN_FOLDER})",
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        help="the page alone, there (default: report.html in the folder; of several, "
        "comparison.html)",
    )


def _add_train(commands) -> None:
    parser = _command(
        commands,
        "train",
        "the float run alone; with --assignment, --perturb, --accumulator, --in-place, --stochastic "
        "or --formats, a fixed-point run",
        """\
examples:
  fxsim train --out mine                               the float run: float.npz, gradients.npz, experiment.json
  fxsim analyze --out mine                             what it was: statistics.npz
  fxsim assign --out mine                              a precision for every tensor: assignment.json
  fxsim train --out mine --assignment mine/assignment.json        training in fixed point
  fxsim train --out mine --perturb -1                             with one bit less in every tensor
  fxsim train --out mine --perturb -2 --only weight_grads         with two bits less in G^W alone
  fxsim train --out mine --accumulator 'forward=16 bits, tree'    with C_o, in narrow accumulators
  fxsim train --out mine --stochastic 'accumulators=philox, 8 bits'    updates rounded with 8 random bits
  fxsim train --out mine --formats 'Q8.8, floor, wrap, every operation'    without a float run before it

A fixed-point run takes the settings of the float run in the folder, if there is one.

"""
        + ACCUMULATOR_EPILOG
        + "\n\n"
        + STOCHASTIC_EPILOG,
    )
    add_settings(parser)
    add_resume(parser)
    parser.add_argument(
        "--assignment", metavar="FILE", help="train in fixed point with the formats in this file"
    )
    parser.add_argument(
        "--perturb",
        dest="bits",
        type=integer,
        metavar="BITS",
        help="so many bits more (or fewer) than the assignment has (default file: that of --out)",
    )
    parser.add_argument(
        "--only",
        metavar="CLASS",
        help="perturb only feedforward, weight_grads, activation_grads or accumulators",
    )
    add_formats(parser)
    add_accumulator(parser)
    add_in_place(parser)
    add_stochastic(parser)
    add_workers(parser)


def _add_import(commands) -> None:
    parser = _command(
        commands,
        "import",
        "a trained network from an ONNX file, in the place of the float run",
        """\
examples:
  fxsim import model.onnx --pixels 0,1 --out mine                       on the embedded digits
  fxsim import model.onnx --pixels -1,1 --dataset npz --data mine.npz --out mine
  fxsim analyze --out mine && fxsim assign --out mine
  fxsim train --out mine --assignment mine/assignment.json              fine-tunes in fixed point
  fxsim vectors export --run mine

--pixels says what the model was trained on: 0,1 where 0 to 255 were divided by 255 (as torchvision's ToTensor does),
-1,1 or 0,255.  fxsim's images are 0 to 1; another range is folded into the first layer.

Read are models of torch.onnx.export, tf2onnx and their like: Conv, Gemm, MatMul, BatchNormalization, Relu, Clip,
LeakyRelu, Sigmoid, Tanh, Add, poolings, Pad, Dropout, and what only moves elements.  Where the model does not end with
Softmax, LogSoftmax or Sigmoid, the loss is assumed: mse with as many outputs as inputs, else softmax_cross_entropy.

--epochs and --learning-rate are those of fine-tuning, 3 and 0.01 by default.

Needs the extra: python -m pip install 'fxsim[onnx]'.  With it, each layer is compared with ONNX Runtime.""",
    )
    parser.add_argument("model", metavar="MODEL.onnx", help="the model")
    parser.add_argument(
        "--pixels",
        required=True,
        metavar="LOW,HIGH",
        help="what the model reads for the darkest and the brightest pixel",
    )
    parser.add_argument(
        "--layout",
        metavar="NCHW|NHWC",
        help="of the model's input (default: NHWC where it turns images at once, else NCHW)",
    )
    parser.add_argument(
        "--loss",
        metavar="NAME",
        help="softmax_cross_entropy, mse, half_mse or sigmoid_cross_entropy (default: the model's)",
    )
    parser.add_argument(
        "--targets", metavar="KIND", help="labels or tensors (default: as the loss is)"
    )
    add_training(parser)


def _add_analyze(commands) -> None:
    parser = _command(
        commands,
        "analyze",
        "noise gains, gradient statistics and singular values of a float run",
        """\
example:
  fxsim train --out mine && fxsim analyze --out mine""",
    )
    add_out(parser)


def _add_assign(commands) -> None:
    parser = _command(
        commands,
        "assign",
        "a precision for every tensor, from the statistics of a float run",
        """\
example:
  fxsim analyze --out mine && fxsim assign --out mine

criteria, in the table's words:
  EFQN   weights and activations add equally to the mismatch of decisions; --bound and --minimize choose their bits
  GC     gradients hardly clip
  RQB    the first level of weight gradients is hardly biased
  BQN    the noise of G^A, and of batch norm's gradient G^Z, reflected onto G^W stays below G^W's own
  GF     what G^A and G^Z lose below half a step is at most 1 % of their absolute sum, where they round to nearest;
         stochastic rounding loses nothing on the mean
  AS     the smallest update still moves the accumulator
  OC     no input overflows the accumulator of a sum of products, while the weights' sums are those of the float run
  OP     at most one sum in a million is expected to leave the accumulator on its way
  given  by --output-grad-bits

What is chosen with --bound, --minimize, --output-grad-bits and --gradient-rounding is chosen when the float run begins
(fxsim train, fxsim run).""",
    )
    add_out(parser)


def _add_cost(commands) -> None:
    parser = _command(
        commands,
        "cost",
        "what a network costs to train: storage, multiply-accumulates, communication",
        """\
examples:
  fxsim cost cifar10-convnet                            float
  fxsim cost cifar10-convnet --design BN --json         binarized
  fxsim cost digits-convnet --assignment fxsim-run/assignment.json
  fxsim cost digits-convnet --assignment fxsim-run/assignment.json --design SQ
  fxsim cost digits-convnet --formats Q8.8
  fxsim cost experiment.toml                            the network of an experiment
  fxsim cost digits-convnet --formats Q4.12 --batch 64 --workers 4 --step-seconds 0.5 --bandwidth 1e9
                                                        what 4 ranks exchange, and how fast they are

  C_W  storage of weights, their gradients and accumulators    C_A  storage of activations and their gradients
  C_M  multiply-accumulates of a training step                  C_C  communication of weight gradients
C_A and C_M are for one image; b are bits, FA one-bit full adders.""",
    )
    parser.add_argument("network", help="a built-in network, or a TOML file (see fxsim run --help)")
    parser.add_argument(
        "--design",
        metavar="FL|FX|BN|SQ|TG",
        help="float, fixed point, binarized, stochastic weights, TernGrad (default: FL; FX with "
        "--assignment or --formats)",
    )
    parser.add_argument("--assignment", metavar="FILE", help="the formats of FX or SQ")
    add_formats(parser)
    parser.add_argument(
        "--width", type=number, metavar="X", help="multiplier of the filters (default: 1)"
    )
    parser.add_argument(
        "--batch",
        type=integer,
        metavar="N",
        help="images of a step: tell what each rank exchanges in it",
    )
    parser.add_argument(
        "--workers", type=integer, metavar="N", help="ranks: predict the time of a step"
    )
    parser.add_argument(
        "--step-seconds", type=number, metavar="X", help="what one rank takes for such a step"
    )
    parser.add_argument(
        "--bandwidth",
        type=number,
        metavar="X",
        help="bytes in a second that a rank sends while it receives as many",
    )
    parser.add_argument(
        "--latency", type=number, metavar="X", help="seconds of a message (default: 0)"
    )
    add_json(parser)


def _add_data(commands) -> None:
    parser = _command(
        commands,
        "data",
        "what data sets are in a folder, and whether they are whole",
        """\
examples:
  fxsim data ~/data/mnist                     files, images, shape, pixels, classes, split
  fxsim data ~/data --dataset cifar10         that data set alone
  fxsim data ~/data/svhn --json
  fxsim data mine.npz                         images of your own
  fxsim data images                           a folder of PNG files

looked for, by name:
  mnist     train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, plain or .gz; one pair under any
            prefix is split, its last fifth to test
  cifar10   data_batch_1.bin to data_batch_5.bin, test_batch.bin (the binary version), or cifar-10-batches-bin
  cifar100  train.bin, test.bin (the binary version), or cifar-100-binary
  svhn      train_32x32.mat, test_32x32.mat (cropped digits, format 2)

An .npz of your own, as numpy.savez writes it, holds train_images (N, H, W, C) and train_labels (N,), test_images and
test_labels (or the last fifth is for tests), and where they are needed:
  pixel_max    the integer that stands for 1.0; needed for integers other than uint8, 65535 at most
  pixel_range  [low, high] for floats: they become (p - low) / (high - low)
  classes      their number, where the largest label and one is another
  train_targets, test_targets    floats (N, ...), for a network with targets = "tensors"; labels may be left out then

A folder of PNG files (--dataset folder; it needs Pillow, the extra png) holds train/CLASS/*.png and test/CLASS/*.png,
all of one size and one kind: grey of 8 or 16 bits, or RGB of 8 bits.  Classes are numbered in the order of their names
as texts: '10' before '2'.

Every file is read whole: sizes, headers, labels, checksums where there are some.  Exit code 2 where no data set is
there, or a file of one is missing or malformed.""",
    )
    parser.add_argument(
        "folder", metavar="DIR", help="where the files are, or a file .npz of your own"
    )
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="mnist, cifar10, cifar100, svhn, npz or folder (default: all that are there)",
    )
    add_json(parser)


def _add_profiles(commands) -> None:
    _command(
        commands,
        "profiles",
        "rounding and overflow modes by the names that other tools give them",
        """\
Prints a Markdown table from the names of ap_fixed, MATLAB fimath, VHDL, APyTypes, QONNX, gemmlowp, TFLite and Verilog
to fxsim's modes, with what each does on ties and negative values.""",
    )


def _add_export(commands) -> None:
    parser = _command(
        commands,
        "export",
        "a network of an experiment as ONNX or QONNX, with every code of fxsim's inference",
        EXPORT_EPILOG,
    )
    add_export_options(parser)


def _add_guide(commands) -> None:
    parser = _command(
        commands,
        "guide",
        "how to do what, page by page",
        """\
examples:
  fxsim guide                                 lists the pages
  fxsim guide check-a-unit                    prints one, in Markdown

The pages are files in the folder guide of the package.""",
    )
    parser.add_argument("page", metavar="PAGE", nargs="?", help="a page (default: list them)")


def _add_info(commands) -> None:
    parser = _command(
        commands,
        "info",
        "processor, kernel paths, threads, versions, kernel cache",
        """\
The path chosen is the fastest that the processor has; all give the same bits. NUMBA_NUM_THREADS sets fewer
threads, NUMBA_CACHE_DIR another folder for compiled kernels.""",
    )
    add_json(parser)


def _command(commands, name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
    return commands.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog
    )
