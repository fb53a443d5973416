"""Tables and plots, on results made up for them."""

import dataclasses
import io
import itertools
import os
import sys

import pytest
from support.report_cases import (
    ASSIGNMENT,
    DESIGNS,
    FORMATS,
    SENSITIVITY,
    design,
    histograms,
    measured,
    results_of,
)

from fxsim.analysis.assign import ROUNDED_GRADIENTS
from fxsim.analysis.complexity import design_complexity
from fxsim.errors import InputError
from fxsim.experiment.progress import Progress
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.formats import Format
from fxsim.nn.layer_precision import SYMBOLS
from fxsim.nn.networks import build
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import markdown, plots
from fxsim.report import text as report
from fxsim.report.tables import markdown_table, text_table
from fxsim.train.loop import Epoch
from fxsim.words import DroppedBits, Philox


def test_a_table_is_aligned():
    rows = [("a", "1,000"), ("longer", "2")]
    assert text_table(("name", "n"), rows).splitlines() == [
        "name        n",
        "------  -----",
        "a       1,000",
        "longer      2",
    ]
    assert text_table(None, rows, "rl").splitlines() == ["     a  1,000", "longer  2"]
    assert text_table(None, []) == ""


def test_a_markdown_table_has_the_alignments_in_its_rule_and_escapes_bars():
    assert markdown_table(("name", "n"), [("a|b", "1")], "lr").splitlines() == [
        "| name | n |",
        "| --- | ---: |",
        "| a\\|b | 1 |",
    ]
    assert markdown_table(["name"], []).splitlines() == ["| name |", "| --- |"]


@pytest.mark.parametrize("table", [text_table, markdown_table])
def test_a_table_is_not_laid_out_with_cells_or_letters_missing(table):
    with pytest.raises(InputError, match="line 2 of the table has 1 cells, line 0 has 2"):
        table(("name", "n"), [("a", "1"), ("b",)])
    for align in ("l", "lx", "lrr"):
        with pytest.raises(InputError, match="align must be one letter"):
            table(("name", "n"), [("a", "1")], align)


def test_the_assignment_table_has_a_row_for_each_tensor_and_its_reason():
    lines = report.assignment_table(ASSIGNMENT).splitlines()
    assert len(lines) == 2 + 5 * 4
    assert lines[2].split() == ["conv1", "W", "[-1,", "1)", "2^-6", "7", "given"]
    assert lines[8].split() == ["A", "[0,", "2)", "2^-4", "5", "given"]
    assert lines[10].split() == ["G^W", "[-2^-2,", "2^-2)", "2^-11", "10", "GC,", "RQB", "1.25x"]


def test_the_designs_table_gives_costs_as_shares_of_the_float_one():
    lines = report.designs_table(DESIGNS).splitlines()
    assert lines[0].split("  ")[0] == "design"
    assert lines[2].split()[:3] == ["FL", "3.33%", "0.3333"]
    assert lines[2].count("(1.00)") == 4
    weights = sum(
        build("mnist-convnet").shape(name).weights for name in build("mnist-convnet").names
    )
    assert f"{weights * (1 + 32 + 32) / 1e6:.3g} ({65 / 96:.2f})" in lines[3]


def test_without_a_float_run_there_are_no_shares():
    assert "(" not in report.designs_table(DESIGNS[1:]).splitlines()[2]


@pytest.mark.parametrize(
    ("value", "unit"), [(999, ""), (1000, "k"), (1_000_000, "M"), (94.4e9, "G"), (0, "")]
)
def test_units_are_powers_of_a_thousand(value, unit):
    assert report._unit(value)[1] == unit


def test_remarks_name_what_clips_or_flushes_too_often():
    counts = {
        "conv1.weight_grads": {"elements": 100, "below": 3, "above": 3, "flushed": 50},
        "conv2.activations": {"elements": 100, "below": 0, "above": 5, "flushed": 51},
        "fc1.weights": {"elements": 100, "below": 0, "above": 0, "flushed": 0},
    }
    assert report.remarks([DESIGNS[0], design("FX C_o", counts=counts)]) == [
        "conv1.weight_grads: clipped 6.0% in FX C_o",
        "conv2.activations: flushed 51.0% in FX C_o",
    ]


def test_the_sums_table_leaves_out_what_a_layer_has_not():
    plan = {"terms": 9, "bits": 14, "path": "plain"}
    sums = {"conv1": {"forward": plan, "weight_grad": {**plan, "bits": 26}}}
    assert report.sums_table({"sums": sums}).splitlines()[-1].split() == [
        "conv1",
        "plain",
        "14",
        "26",
        "-",
    ]


def test_the_curves_show_every_design_on_labelled_axes():
    loss, error = plots.curves_figure(DESIGNS).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3]] * 3
    assert [line.get_label() for line in error.lines] == ["FL", "BN", "FX $C_{-1}$"]
    assert len({(line.get_color(), line.get_marker()) for line in error.lines}) == 3
    assert (loss.get_ylabel(), error.get_ylabel(), error.get_xlabel()) == (
        "training loss",
        "test error (%)",
        "epoch",
    )
    assert error.lines[0].get_ydata()[0] == pytest.approx(10)


def test_the_curves_leave_out_perturbations_of_one_class():
    figure = plots.curves_figure([*DESIGNS, design("FX C_-1 weight_grads")])
    assert len(figure.axes[0].lines) == 3


def test_the_sensitivity_has_a_line_for_each_class_through_c_o():
    loss, error = plots.sensitivity_figure(SENSITIVITY).axes
    assert [line.get_label() for line in loss.lines] == ["all", "accumulators"]
    assert [list(line.get_xdata()) for line in loss.lines] == [[-1, 0, 1]] * 2
    assert [list(line.get_ydata()) for line in loss.lines] == [[0.5, 0.3, 0.2], [0.4, 0.3, 0.25]]
    assert list(error.lines[1].get_ydata()) == pytest.approx([4, 3, 2.5])


def test_the_ranges_show_a_box_from_step_to_range_over_shares_of_all_elements():
    axes = plots.ranges_figure(ASSIGNMENT, histograms(ASSIGNMENT.layers)).axes
    assert len(axes) == 5 * 4
    box, *bars, outline = axes[3].patches  # weight gradients of the first layer
    ends = box.get_path().get_extents(box.get_patch_transform()).intervalx
    assert tuple(ends) == (FORMATS.weight_grads.step_exp, FORMATS.weight_grads.range_exp)
    assert [(bar.get_x(), bar.get_height()) for bar in bars] == [(-6, 1 / 6), (-5, 0), (-4, 1 / 2)]
    assert list(outline.get_data().values) == [1 / 6, 0, 1 / 2]


def test_a_tensor_of_zeros_has_no_histogram_to_draw():
    data = histograms(ASSIGNMENT.layers)
    data["end"]["conv1"] = data["end"]["conv1"] | {
        "weights": {"zeros": 4, "least": 0, "counts": []}
    }
    assert plots.ranges_figure(ASSIGNMENT, data).axes


def report_of(designs, sensitivity=(), plot_files=(), **more):
    return markdown.report_markdown(results_of(designs, **more), sensitivity, plot_files)


def test_the_report_has_the_tables_and_shows_the_plots():
    mismatch = {
        "target": 0.01,
        "bound": "tight",
        "measured": {"test": {"images": 360, "share": 0.0125, "tight": 0.034, "paper": 12.3}},
    }
    rows = [*DESIGNS, design("FX C_o", assignment=ASSIGNMENT.to_dict(), measured=measured())]
    lines = report_of(
        rows, SENSITIVITY, ["curves.png", "curves.svg", "ranges.png"], mismatch=mismatch
    ).splitlines()
    assert lines[0] == "# mnist-convnet on mnist"
    assert [
        line.split(" | ")[0] for line in lines if line.startswith(("| FL", "| BN", "| FX"))
    ] == ["| FL", "| BN", "| FX C_-1", "| FX C_o"]
    assert "| accumulators | -1 | 0.4000 | 4.00% |" in lines
    assert [line for line in lines if line.startswith("| GC |")] == [
        "| GC | gradients that clip | training | 6.00% | conv2 G^A | 5% | fails in 1 of 2 |"
    ]
    assert [line.split(" | ")[3:] for line in lines if line.startswith("| RQB |")] == [
        ["3.00% ± 6.00%", "conv1 G^W", "1%", "holds |"]
    ]
    assert [line.split(" | ")[3:] for line in lines if line.startswith("| GF |")] == [
        ["0.40%", "conv1 G^Z", "1%", "holds |"]
    ]
    assert "| test | 360 | 0.013 | 0.034 | 12 | holds |" in lines
    assert any("The tight bound is to be at most 0.01 on the images" in line for line in lines)
    assert [line for line in lines if line.startswith("![")] == [
        "![Convergence](curves.png)",
        "![Ranges and steps over the values' magnitudes](ranges.png)",
    ]
    assert "| conv1 | W | [-1, 1) | 2^-6 | 7 | given |  |" in lines


def test_the_report_says_what_the_rounding_of_weight_gradients_does_to_their_bias():
    def text(passed, **rounding):
        found = measured()
        for row in found["criteria"]:
            row["passed"] = row["passed"] and (passed or row["criterion"] != "RQB")
        assignment = dataclasses.replace(ASSIGNMENT, rounding=rounding).to_dict()
        return report_of([design("FX C_o", assignment=assignment, measured=found)])

    assert "RQB fails because" in text(False)
    assert "RQB fails because" not in text(True)
    assert "have no bias and lose nothing on the mean" in text(True, weight_grads="stochastic")
    assert "RQB fails because" not in text(False, weight_grads="stochastic")


def test_only_words_of_32_bits_are_called_without_bias():
    def of(words, rounding="stochastic"):
        return dataclasses.replace(
            ASSIGNMENT, rounding=dict.fromkeys(ROUNDED_GRADIENTS[:2], rounding), words=words
        )

    def said(assignment):
        chosen = design("FX C_o", assignment=assignment.to_dict(), measured=measured())
        return report_of([chosen])

    assert report.assignment_table(of({})).endswith(
        "rounded stochastically, without bias: G^A, G^W"
    )
    few = of({"weight_grads": Philox(8), "conv1.activation_grads": DroppedBits()})
    assert report.assignment_table(few).splitlines()[-2:] == [
        "rounded stochastically, by dropped bits and philox of 32 bits: G^A",
        "rounded stochastically, by philox of 8 bits: G^W",
    ]
    assert report.assignment_table(of({}, "stochastic_equal")).endswith(
        "up or down alike: G^A, G^W"
    )
    assert "have no bias" not in said(few)
    assert "G^W by philox of 8 bits; G^A by dropped bits and philox of 32 bits" in said(few)


def test_every_table_of_the_report_is_whole():
    chosen = design("FX C_o", assignment=ASSIGNMENT.to_dict(), measured=measured())
    lines = report_of([*DESIGNS, chosen], SENSITIVITY).splitlines()
    for above, line in zip(lines, lines[1:]):
        if above.startswith("|") and line.startswith("|"):
            assert above.count("|") == line.count("|"), line


def test_a_report_on_float_designs_leaves_out_what_there_is_not():
    text = report_of(DESIGNS[:2])
    assert [line for line in text.splitlines() if line.startswith("##")] == ["## Designs"]


def test_the_bars_show_the_bits_of_every_tensor():
    (axis,) = plots.bits_figure(ASSIGNMENT).axes
    heights = [bar.get_height() for bars in axis.containers for bar in bars]
    assert heights == [bits for bits in (7, 5, 11, 10, 12) for _ in range(4)]
    assert len(axis.containers) == len(SYMBOLS)
    assert [label.get_text() for label in axis.get_xticklabels()] == list(ASSIGNMENT.layers)


def test_plots_are_png_and_svg_files(tmp_path):
    names = ["curves.png", "curves.svg", "bits.png", "bits.svg"]
    assert plots.write_plots(tmp_path, DESIGNS) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    assert (tmp_path / "bits.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert b"<svg" in (tmp_path / "bits.svg").read_bytes()
    assert plots.write_plots(tmp_path, DESIGNS[:2]) == names[:2]


def test_what_was_measured_is_drawn_first_and_the_bytes_are_the_same_each_time(tmp_path):
    other = dataclasses.replace(FORMATS, weights=Format(9, 0), accumulators=Format(12, -9))
    other = PrecisionAssignment("mnist-convnet", dict.fromkeys(ASSIGNMENT.layers, other))
    rows = [
        design("SQ", assignment=other.to_dict()),
        design("FX C_o", assignment=ASSIGNMENT.to_dict(), measured=measured()),
    ]
    written = plots.write_plots(tmp_path, rows, SENSITIVITY)
    assert [name for name in written if name.endswith(".png")] == [
        "curves.png",
        "bits.png",
        "ranges.png",
        "sensitivity.png",
    ]
    before = {name: (tmp_path / name).read_bytes() for name in written}
    plots.write_plots(tmp_path, rows[::-1], SENSITIVITY)
    assert {name: (tmp_path / name).read_bytes() for name in written[2:]} == {
        name: before[name] for name in written[2:]
    }


def test_c_o_is_shown_before_another_design_that_was_measured_without_accumulators(tmp_path):
    other = design(
        "FX C_o; in place",
        assignment=ASSIGNMENT.without_accumulators().to_dict(),
        measured=measured(),
    )
    own = design("FX C_o", assignment=ASSIGNMENT.to_dict(), measured=measured())
    for rows in ([other, own], [own, other]):
        assert report.chosen_design(rows) == own
        assert "## Criteria, measured on FX C_o\n" in report_of(rows)
    assert "ranges.png" in plots.write_plots(tmp_path, [other])
    axes = plots.ranges_figure(
        ASSIGNMENT.without_accumulators(), histograms(ASSIGNMENT.layers)
    ).axes
    assert [len(axis.patches) for axis in axes[3:5]] == [5, 4]  # no box for what is not there


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        plots.write_plots(tmp_path, DESIGNS)
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def follow(stream):
    """A training of 2 epochs of 3 steps of 32 images."""
    progress = Progress(stream, designs=2)
    progress.begin("FL", Settings.make(epochs=2))
    for epoch in range(2):
        for step in range(1, 4):
            progress.step(epoch, step, 3, 0.5)
        epochs = [Epoch(epoch, 0.1, 0.5, 0.4, 0.1, 3200.0)]
        progress.epoch(epochs[0])
    progress.end(Outcome("FL", epochs, design_complexity(build("digits-convnet"), "FL"), 6.0))
    return stream.getvalue()


LAST = "FL (1/2)  test error 10.00%, training loss 0.5000, 6.0 s\n"


@pytest.fixture
def clock(monkeypatch):
    """Every look at the clock takes a second."""
    seconds = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))


def test_progress_is_one_line_an_epoch_where_nobody_looks_on(clock):
    assert follow(io.StringIO()).splitlines(keepends=True) == [
        "FL (1/2)  epoch 1/2  loss 0.5000  test error 10.00%  3,200 images/s  9 s left\n",
        "FL (1/2)  epoch 2/2  loss 0.5000  test error 10.00%  3,200 images/s  6 s left\n",
        LAST,
    ]


def test_progress_rewrites_one_line_on_a_terminal(clock):
    text = follow(Terminal())
    assert text.count("\n") == 1
    drawn = [line.removesuffix("\x1b[K") for line in text.split("\r")[1:]]
    assert drawn == [  # two looks at the clock in each step
        "FL (1/2)   17%  epoch 1/2  loss 0.5000",
        "FL (1/2)   33%  20 s left  epoch 1/2  loss 0.5000",
        "FL (1/2)   50%  18 s left  epoch 1/2  loss 0.5000",
        "FL (1/2)   67%  16 s left  epoch 2/2  loss 0.5000  test error 10.00%",
        "FL (1/2)   83%  14 s left  epoch 2/2  loss 0.5000  test error 10.00%",
        "FL (1/2)  100%  12 s left  epoch 2/2  loss 0.5000  test error 10.00%",
        f"\x1b[K{LAST}",
    ]


def test_the_line_fits_the_terminal(monkeypatch):
    monkeypatch.setattr("fxsim.experiment.progress.REFRESH_SECONDS", 0)
    size = os.terminal_size((30, 24))
    monkeypatch.setattr("os.get_terminal_size", lambda file: size)
    monkeypatch.setattr(Terminal, "fileno", lambda self: 2, raising=False)
    drawn = [line.removesuffix("\x1b[K") for line in follow(Terminal()).split("\r")[1:-1]]
    assert len(drawn) == 6
    assert drawn[0] == "FL (1/2)   17%  epoch 1/2"
    assert max(map(len, drawn)) <= 29
    assert all(line.endswith((" left", "1/2", "2/2")) for line in drawn)


def test_a_line_between_two_steps_leaves_no_unfinished_line(clock):
    stream = Terminal()
    progress = Progress(stream)
    progress.begin("FL", Settings.make(epochs=1))
    with progress.watching():
        progress.step(0, 1, 3, 0.5)
        progress.note("something happens")
        progress.step(0, 2, 3, 0.5)
    assert stream.getvalue() == (
        "\rFL   33%  epoch 1/1  loss 0.5000\x1b[K\r\x1b[Ksomething happens\n"
        "\rFL   67%  2 s left  epoch 1/1  loss 0.5000\x1b[K\r\x1b[K"
    )


def test_the_time_left_of_a_resumed_training_counts_from_its_first_step(clock):
    stream = io.StringIO()
    progress = Progress(stream)
    progress.begin("FL", Settings.make(epochs=4))
    for step in (1, 2, 3):
        progress.step(2, step, 3, 0.5)
    progress.epoch(Epoch(2, 0.1, 0.5, 0.4, 0.1, 3200.0))
    assert stream.getvalue().endswith("images/s  3 s left\n")


def test_the_first_compilation_is_announced_and_no_other():
    from numba.core import event

    stream = io.StringIO()
    with Progress(stream).watching():
        for _ in range(2):
            event.start_event("numba:compile")
            event.end_event("numba:compile")
    event.start_event("numba:compile")
    assert stream.getvalue().count("compiling kernels") == 1
