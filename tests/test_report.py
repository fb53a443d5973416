"""Tables and plots, on results made up for them."""
import io
import os
import signal
import sys
import time

import pytest

from fxsim import report
from fxsim.analysis.complexity import design_complexity
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.nn.networks import build
from fxsim.precision import SYMBOLS, LayerPrecision, PrecisionAssignment, Reason
from fxsim.progress import Progress
from fxsim.results import Outcome
from fxsim.settings import Settings
from fxsim.train.loop import Epoch

FORMATS = LayerPrecision(weights=Format(7, 0), activations=Format(5, 1, signed=False), activation_grads=Format(11, -6),
                         weight_grads=Format(10, -2), accumulators=Format(12, -7))
ASSIGNMENT = PrecisionAssignment("mnist-convnet", dict.fromkeys(build("mnist-convnet").names, FORMATS), reasons={
    ("conv2", "weight_grads"): Reason("GC, RQB", {"sigma_max": 0.1}, 1.25)})


def design(name, costs=None, **changes):
    epochs = [Epoch(epoch, 0.1, 1 / (epoch + 1), 1 / (epoch + 1), 0.1 / (epoch + 1), 1000.0) for epoch in range(3)]
    costs = costs or design_complexity(build("mnist-convnet"), "FL")
    return {**Outcome(name, epochs, costs, 1.0).to_dict(), **changes}


DESIGNS = [design("FL"), design("BN", design_complexity(build("mnist-convnet"), "BN")),
           design("FX C_-1 weight_grads", assignment=ASSIGNMENT.to_dict())]


def test_a_table_is_aligned():
    assert report.table(("name", "n"), [("a", "1,000"), ("longer", "2")]).splitlines() == [
        "name        n", "------  -----", "a       1,000", "longer      2"]


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
    weights = sum(build("mnist-convnet").shape(name).weights for name in build("mnist-convnet").names)
    assert f"{weights * (1 + 32 + 32) / 1e6:.3g} ({65 / 96:.2f})" in lines[3]


def test_without_a_float_run_there_are_no_shares():
    assert "(" not in report.designs_table(DESIGNS[1:]).splitlines()[2]


@pytest.mark.parametrize(("value", "unit"), [(999, ""), (1000, "k"), (1_000_000, "M"), (94.4e9, "G"), (0, "")])
def test_units_are_powers_of_a_thousand(value, unit):
    assert report._unit(value)[1] == unit


def test_remarks_name_what_clips_or_flushes_too_often():
    counts = {"conv1.weight_grads": {"elements": 100, "below": 3, "above": 3, "flushed": 50},
              "conv2.activations": {"elements": 100, "below": 0, "above": 5, "flushed": 51},
              "fc1.weights": {"elements": 100, "below": 0, "above": 0, "flushed": 0}}
    assert report.remarks([DESIGNS[0], design("FX C_o", counts=counts)]) == [
        "conv1.weight_grads: clipped 6.0% in FX C_o", "conv2.activations: flushed 51.0% in FX C_o"]


def test_the_sums_table_leaves_out_what_a_layer_has_not():
    plan = {"terms": 9, "bits": 14, "path": "plain"}
    sums = {"conv1": {"forward": plan, "weight_grad": {**plan, "bits": 26}}}
    assert report.sums_table({"sums": sums}).splitlines()[-1].split() == ["conv1", "plain", "14", "26", "-"]


def test_the_curves_show_every_design_on_labelled_axes():
    loss, error = report.curves_figure(DESIGNS).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3]] * 3
    assert [line.get_label() for line in error.lines] == ["FL", "BN", "FX $C_{-1}$ weight_grads"]
    assert len({(line.get_color(), line.get_marker()) for line in error.lines}) == 3
    assert (loss.get_ylabel(), error.get_ylabel(), error.get_xlabel()) == (
        "training loss (nats)", "test error (%)", "epoch")
    assert error.lines[0].get_ydata()[0] == pytest.approx(10)


def test_the_bars_show_the_bits_of_every_tensor():
    axis, = report.bits_figure(ASSIGNMENT).axes
    heights = [bar.get_height() for bars in axis.containers for bar in bars]
    assert heights == [bits for bits in (7, 5, 11, 10, 12) for _ in range(4)]
    assert len(axis.containers) == len(SYMBOLS)
    assert [label.get_text() for label in axis.get_xticklabels()] == list(ASSIGNMENT.layers)


def test_plots_are_png_files(tmp_path):
    assert report.write_plots(tmp_path, DESIGNS) == ["curves.png", "bits.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bits.png", "curves.png"]
    assert (tmp_path / "bits.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert report.write_plots(tmp_path, DESIGNS[:2]) == ["curves.png"]


def test_without_matplotlib_one_line_says_what_to_install(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        report.write_plots(tmp_path, DESIGNS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def hearing():
    """Interrupts arrive, also where a background shell has its children ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def follow(stream, monkeypatch):
    """A training of 2 epochs of 3 steps of 32 pictures, 1 s each."""
    progress, clock = Progress(stream, designs=2), iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    progress.begin("FL", Settings.make(epochs=2))
    for epoch in range(2):
        for step in range(1, 4):
            progress.step(epoch, step, 3, 0.5)
    epochs = [Epoch(1, 0.1, 0.5, 0.4, 0.1, 32.0)]
    progress.end(Outcome("FL", epochs, design_complexity(build("digits-convnet"), "FL"), 6.0))
    return stream.getvalue()


def test_progress_is_one_line_an_epoch_where_nobody_looks_on(monkeypatch):
    assert follow(io.StringIO(), monkeypatch).splitlines() == [
        "FL (1/2)  epoch 1/2  loss 0.5000  32 images/s  0:03 left",
        "FL (1/2)  epoch 2/2  loss 0.5000  32 images/s  0:00 left",
        "FL (1/2)  test error 10.00%, training loss 0.5000, 6.0 s"]


def test_progress_rewrites_one_line_on_a_terminal(monkeypatch):
    text = follow(Terminal(), monkeypatch)
    assert text.count("\n") == 1
    assert text.count("\r") == 7
    assert text.endswith("\rFL (1/2)  test error 10.00%, training loss 0.5000, 6.0 s\x1b[K\n")


def test_an_interrupt_waits_for_the_end_of_a_compilation(hearing):
    from numba.core import event

    handler, reached = signal.getsignal(signal.SIGINT), []
    with pytest.raises(KeyboardInterrupt), Progress(io.StringIO()).watching():
        event.start_event("numba:compile")
        event.start_event("numba:compile")
        os.kill(os.getpid(), signal.SIGINT)
        reached.append("the compilation goes on")
        event.end_event("numba:compile")
        reached.append("the outer one too")
        event.end_event("numba:compile")
        reached.append("its end")
    assert reached == ["the compilation goes on", "the outer one too"]
    assert signal.getsignal(signal.SIGINT) is handler


def test_an_interrupt_between_compilations_comes_at_once(hearing):
    with pytest.raises(KeyboardInterrupt), Progress(io.StringIO()).watching():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


def test_the_first_compilation_is_announced_and_no_other():
    from numba.core import event

    stream = io.StringIO()
    with Progress(stream).watching():
        for _ in range(2):
            event.start_event("numba:compile")
            event.end_event("numba:compile")
    event.start_event("numba:compile")
    assert stream.getvalue().count("compiling kernels") == 1
