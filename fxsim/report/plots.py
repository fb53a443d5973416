"""Plots from the plain data of results.json; the only module that needs matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from fxsim.errors import InputError
from fxsim.files import write_atomically
from fxsim.nn.layer_precision import SYMBOLS, TENSORS
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report.text import chosen_design, compared

SUFFIXES = ("png", "svg")

COLOURS = ("black", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Colours that the colour-blind can tell apart (Okabe and Ito)."""
MARKERS = "oosD^vX"
DASHES = ("-", "--", ":")

METADATA = {"png": {}, "svg": {"Date": None}}


def write_plots(
    folder: Path, designs: Sequence[dict], sensitivity: Sequence[dict] = ()
) -> list[str]:
    """Draw the designs of results.json into `folder`, each plot as PNG and SVG; returns the names
    of the files.

    curves: of all designs.  bits, ranges: of chosen_design; ranges where it was measured
    (train/measured.py). sensitivity: of the rows of study.sensitivity, if there are any.
    Raises InputError where matplotlib is not installed.
    """
    figures = {"curves": curves_figure(designs)}
    chosen = chosen_design(designs)
    if chosen:
        assignment = PrecisionAssignment.from_dict(chosen["assignment"])
        figures["bits"] = bits_figure(assignment)
        if chosen["measured"]:
            figures["ranges"] = ranges_figure(assignment, chosen["measured"]["histograms"])
    if sensitivity:
        figures["sensitivity"] = sensitivity_figure(sensitivity)
    return [
        write_figure(folder / f"{name}.{suffix}", figure)
        for name, figure in figures.items()
        for suffix in SUFFIXES
    ]


def write_figure(path: Path, figure) -> str:
    """Write a matplotlib Figure in the format that the suffix of `path` names, the same bytes
    each time; returns the name.
    """
    import matplotlib

    image = io.BytesIO()
    suffix = path.suffix[1:]
    with matplotlib.rc_context({"svg.hashsalt": "fxsim"}):  # else element names in SVG are random
        figure.savefig(image, format=suffix, dpi=150, metadata=METADATA[suffix])
    write_atomically(path, lambda file: file.write(image.getvalue()))
    return path.name


def _figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise InputError("they need matplotlib; python -m pip install matplotlib") from None
    return Figure(figsize=(width, height), layout="constrained")


def curves_figure(designs: Sequence[dict]):
    """A matplotlib Figure: training loss and test error (or test loss, where nothing is decided)
    of each design along the epochs.

    Designs with one class of tensors perturbed are left out: they are what sensitivity_figure is
    for.
    """
    designs = compared(designs)
    figure = _figure(10.5, 3.8)
    axes = figure.subplots(1, 2)
    for index, row in enumerate(designs):
        epochs = [epoch["epoch"] for epoch in row["epochs"]]
        style = _style(index, label(row["design"]))
        axes[0].plot(epochs, [epoch["train_loss"] for epoch in row["epochs"]], **style)
        axes[1].plot(epochs, list(map(_tested, row["epochs"])), **style)
    axes[0].set_yscale("log", subs=[])
    axes[0].yaxis.get_major_locator().set_params(subs=(1, 1.5, 2, 3, 5, 7))
    axes[0].yaxis.set_major_formatter("{x:g}")
    axes[0].set(ylabel="training loss")
    axes[0].set_title(designs[0]["costs"]["network"], loc="left", fontsize=10)
    axes[1].set(ylabel=_tested_label(designs), ylim=(0, None))
    for axis in axes:
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        _tidy(axis)
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _tested(row: dict) -> float:
    """The error on the test set in percent, or the loss there where nothing is decided."""
    return row["test_loss"] if row["test_error"] is None else 100 * row["test_error"]


def _tested_label(rows: Sequence[dict]) -> str:
    return "test loss" if rows[0]["test_error"] is None else "test error (%)"


def label(design: str) -> str:
    """The name of a design with its C_ as mathematics."""
    return re.sub(r"C_(\S+)", r"$C_{\1}$", design)


def _style(index: int, label: str) -> dict:
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": DASHES[index // len(COLOURS) % len(DASHES)],
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 4,
        "linewidth": 1.5,
        "label": label,
    }


def bits_figure(assignment: PrecisionAssignment):
    """A matplotlib Figure: the bits of every layer's five tensors as grouped bars."""
    layers = list(assignment.layers)
    figure = _figure(max(6.0, 1.5 + 1.3 * len(layers)), 3.6)
    axis = figure.subplots()
    width = 0.8 / len(TENSORS)
    for index, tensor in enumerate(TENSORS):
        formats = [layer.given().get(tensor) for layer in assignment.layers.values()]
        bits = [format.bits if format else 0 for format in formats]
        places = [at + (index - (len(TENSORS) - 1) / 2) * width for at in range(len(layers))]
        bars = axis.bar(
            places,
            bits,
            width * 0.92,
            color=COLOURS[1 + index],
            label=f"{symbol(tensor)} {_words(tensor)}",
        )
        axis.bar_label(bars, fontsize=7, padding=1)
    axis.set(
        ylabel="bits", xlabel=f"layers of {assignment.network}", xlim=(-0.6, len(layers) - 0.4)
    )
    axis.set_xticks(range(len(layers)), layers, rotation=0 if len(layers) <= 12 else 45)
    axis.tick_params(axis="x", length=0)
    axis.grid(visible=False, axis="x")
    _tidy(axis)
    figure.legend(loc="outside upper center", ncols=len(TENSORS), frameon=False, fontsize=8)
    return figure


def symbol(tensor: str) -> str:
    """A tensor's symbol in the method, for matplotlib."""
    return f"${SYMBOLS[tensor].replace('acc', '{acc}')}$"


def _words(tensor: str) -> str:
    return tensor.replace("_", " ")


def sensitivity_figure(rows: Sequence[dict]):
    """A matplotlib Figure: training loss and test error (or test loss, where nothing is decided)
    against the bits added to each class of tensors.

    rows: those of study.sensitivity; all classes share the row of 0 bits.
    """
    figure = _figure(9, 3.6)
    axes = figure.subplots(1, 2)
    classes = dict.fromkeys(row["class"] for row in rows if row["bits"])
    for index, name in enumerate(classes, start=1):
        chosen = sorted(
            (row for row in rows if row["class"] == name or not row["bits"]),
            key=lambda row: row["bits"],
        )
        style = _style(index, _words(name))
        axes[0].plot(
            [row["bits"] for row in chosen], [row["train_loss"] for row in chosen], **style
        )
        axes[1].plot([row["bits"] for row in chosen], list(map(_tested, chosen)), **style)
    axes[0].set(ylabel="training loss")
    axes[1].set(ylabel=_tested_label(rows))
    for axis in axes:
        axis.set_xlabel("bits added to $C_o$")
        axis.set_xticks(sorted({row["bits"] for row in rows}))
        _tidy(axis)
    axes[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def ranges_figure(
    assignment: PrecisionAssignment, histograms: Mapping[str, Mapping[str, Mapping[str, dict]]]
):
    """A matplotlib Figure: for each layer (row) and tensor (column) the shares of magnitudes by
    powers of two, at the start (line) and the end (bars) of training, and a box from the format's
    step to its range.

    histograms: moment -> layer -> tensor -> {'zeros', 'least', 'counts'} (analysis/fixed_run.py).
    """
    layers = list(assignment.layers)
    figure = _figure(11, 0.6 + 1.15 * len(layers))
    grid = figure.subplots(len(layers), len(TENSORS), squeeze=False)
    for row, name in enumerate(layers):
        for axis, tensor in zip(grid[row], TENSORS):
            _draw_format(axis, getattr(assignment.layers[name], tensor))
            _draw_histogram(
                axis, histograms["start"][name][tensor], histograms["end"][name][tensor]
            )
        grid[row][0].set_ylabel(name)
    for axis, tensor in zip(grid[0], TENSORS):
        axis.set_title(f"{symbol(tensor)} {_words(tensor)}", fontsize=9)
    for axis in grid[-1]:
        axis.set_xlabel("$\\log_2$ |value|", fontsize=8)
    figure.legend(
        *grid[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=8,
    )
    return figure


def sweep_figure(data: dict):
    """A matplotlib Figure of what sweep.json holds: test error (or test loss) and training loss
    against each of the four costs, as shares of float's; a line where float is.
    """
    figure = _figure(12.5, 5.6)
    axes = figure.subplots(2, len(SWEPT_COSTS), sharey="row", sharex="col")
    reference = data["float"]
    for row, (name, measure) in enumerate(
        ((_tested_label([reference]), _tested), ("training loss", lambda row: row["train_loss"]))
    ):
        for column, (cost, symbol) in enumerate(SWEPT_COSTS.items()):
            axis = axes[row][column]
            for index, (of_target, what) in enumerate(((True, "targets"), (False, "bits"))):
                _draw_points(axis, data, cost, measure, of_target, _style(index + 1, what))
            axis.axhline(measure(reference), color="black", linewidth=1, label="float")
            _tidy(axis)
            if row:
                axis.set_xlabel(f"{symbol}, share of float's")
        axes[row][0].set_ylabel(name)
    axes[0][-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


SWEPT_COSTS = {
    "weight_storage": "$C_W$",
    "activation_storage": "$C_A$",
    "training_macs": "$C_M$",
    "communication": "$C_C$",
}


def _draw_points(axis, data: dict, cost: str, measure, of_target: bool, style: dict) -> None:
    """The points of targets, or those with bits added, C_o among either, in order of their cost."""
    rows = [
        row
        for row in data["rows"]
        if (row["target"] is not None) == of_target or row["design"] == "FX C_o"
    ]
    places = sorted(
        ((row[cost] / data["float"][cost], measure(row), row) for row in rows),
        key=lambda place: place[:2],
    )
    axis.plot([place for place, _, _ in places], [value for _, value, _ in places], **style)
    for place, value, row in places:
        text = f"{row['target']:.2g}" if of_target else f"{row['bits']:+d}"
        if of_target or row["bits"]:
            axis.annotate(text, (place, value), xytext=(3, 3), textcoords="offset points", size=7)


def _draw_format(axis, format) -> None:
    if format is not None:  # an accumulator may be left out
        axis.axvspan(
            format.step_exp,
            format.range_exp,
            color=COLOURS[5],
            alpha=0.35,
            linewidth=0,
            label="step to range",
        )
    axis.set_yticks([])
    axis.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    axis.tick_params(axis="x", labelsize=7)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _draw_histogram(axis, start: dict, end: dict) -> None:
    places, shares = _shares(end)
    axis.bar(
        places, shares, 1.0, align="edge", color=COLOURS[1], alpha=0.8, label="end of training"
    )
    places, shares = _shares(start)
    axis.stairs(
        shares,
        [*places, places[-1] + 1] if places else [0],
        color=COLOURS[0],
        linewidth=1,
        label="start of training",
    )


def _shares(histogram: dict) -> tuple[list[int], list[float]]:
    """Exponents and the shares, of all elements, of the magnitudes from there to twice as much."""
    counts = histogram["counts"]
    total = histogram["zeros"] + sum(counts)
    return [histogram["least"] + index for index in range(len(counts))], [
        count / total for count in counts
    ]


def _tidy(axis) -> None:
    axis.grid(color="0.9", linewidth=0.8, axis="y")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
