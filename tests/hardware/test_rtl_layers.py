"""RTL layer units on the vectors of a real training step give every code of it.

Planted bugs do not.
"""

import sys

import pytest
from rtl import simulate
from rtl.harness import ICARUS, VERILATOR, read_codes
from rtl.layers import StepUnits
from support.bits import assert_same_codes

from fxsim import (
    Conv,
    Counts,
    Dense,
    FixedNetwork,
    Format,
    LayerPrecision,
    LearningRate,
    Network,
    Pool,
    PrecisionAssignment,
    Tensor,
    ops,
)
from fxsim.cli import parser as cli
from fxsim.datasets import digits
from fxsim.datasets.pixels import pixel_codes
from fxsim.golden import check as golden
from fxsim.golden.capture import capture
from fxsim.golden.export import Vectors, decode, write_vectors
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import accumulator_format

NETWORK = Network(
    "rtl",
    (8, 8, 1),
    (
        Conv(name="conv1", filters=4, padding=1),
        Conv(name="conv2", filters=5, stride=2, padding=1),
        Conv(name="conv3", filters=6, kernel=2, pool=Pool("max", 2)),
        Dense(name="fc", units=10, relu=False),
    ),
)
STEPS = 3
BATCH = 3


def precision(weights, activations, activation_grads, weight_grads, weight_grads_range_exp):
    w = Format(weights, 0)
    b = Format(12, 0)
    return LayerPrecision(
        weights=w,
        activations=Format(activations, 1, False),
        activation_grads=Format(activation_grads, -3),
        weight_grads=Format(weight_grads, weight_grads_range_exp),
        bias=b,
        bias_grads=Format(11, 0),
        accumulators=accumulator_format(w, w.step_exp - 7),
        bias_accumulators=accumulator_format(b, b.step_exp - 2),
    )


def assignment():
    layers = (
        precision(7, 5, 9, 10, -2),
        precision(6, 4, 10, 13, 0),
        precision(8, 5, 8, 9, -2),
        precision(9, 4, 8, 10, -2),
    )
    return PrecisionAssignment(NETWORK.name, dict(zip(NETWORK.names, layers)), Format(9, 2))


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """The step after STEPS steps of training on digits, exported."""
    network = FixedNetwork(NETWORK, assignment(), initial_parameters(NETWORK, 1))
    data = digits()
    images = pixel_codes(data.pixel_max, network.input_format)[data.train_images]
    rate = LearningRate.of(0.3125)
    for step in range(STEPS):
        part = slice(BATCH * step, BATCH * (step + 1))
        network.train_step(images[part], data.train_labels[part], rate, step)
    part = slice(BATCH * STEPS, BATCH * (STEPS + 1))
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(
        capture(network, images[part], data.train_labels[part], rate, STEPS), folder, ["mem"]
    )
    return Vectors(folder)


def check(vectors, dumps, names):
    """Every code of the tensors dumped equals the vectors'."""
    assert names
    for name in names:
        got = decode(
            "mem", (dumps / f"{name}.mem").read_bytes(), vectors.manifest.entry(name), name
        )
        assert_same_codes(got, vectors.codes(name), what=name)
        assert got.any(), name


UNITS = [
    (unit, name)
    for name in NETWORK.names
    for unit in ("forward", "input_grad", "weight_grad", "update")
    if (unit, name) != ("input_grad", "conv1")
]


@pytest.mark.parametrize("unit", ["forward", "input_grad", "weight_grad"])
def test_a_unit_in_verilator_gives_the_codes_of_a_training_step(tmp_path, vectors, unit):
    check(vectors, tmp_path, getattr(StepUnits(vectors, tmp_path, VERILATOR), unit)("conv2"))


@pytest.mark.slow
@pytest.mark.parametrize("unit, name", UNITS)
def test_every_unit_in_verilator(tmp_path, vectors, unit, name):
    check(vectors, tmp_path, getattr(StepUnits(vectors, tmp_path, VERILATOR), unit)(name))


def test_the_whole_step_simulated_from_the_command_line_passes_the_check(
    tmp_path, vectors, capsys, monkeypatch
):
    monkeypatch.setattr(
        "sys.argv", ["simulate", str(vectors.folder), str(tmp_path), "--simulator", "icarus"]
    )
    simulate.main()
    command = capsys.readouterr().out.removeprefix("next: fxsim ").split()
    assert len(command[5:]) == 33
    check(vectors, tmp_path, command[5:])
    assert cli.main(command) == 0
    assert "equal" in capsys.readouterr().out
    monkeypatch.setattr(
        "sys.argv", [*sys.argv, "--layers", "conv2", "--units", "forward", "--bug", "4"]
    )
    simulate.main()
    assert cli.main(command) == 1
    assert "products truncated by 1 bit before they are added" in capsys.readouterr().out


FLAGS = {
    "forward": ("conv3", "activations"),
    "input_grad": ("conv1", "activation_grads"),
    "weight_grad": ("conv3", "weight_grads"),
}


@pytest.mark.parametrize("unit", FLAGS)
def test_a_unit_flags_what_the_step_counts(tmp_path, vectors, unit):
    """Below the range, above it, flushed to zero."""
    getattr(StepUnits(vectors, tmp_path, ICARUS), unit)(
        "conv3" if unit == "weight_grad" else "conv2"
    )
    entry = vectors.manifest.entry(".".join(FLAGS[unit]))
    flags = read_codes(next(tmp_path.glob("icarus_*/flags")), 3, False, entry.shape)
    assert entry.counts == Counts(flags.size, *(int((flags >> bit & 1).sum()) for bit in range(3)))
    assert flags.any()


def found(vectors, folder, unit, layer="conv2", **overrides):
    """(tensor, explanations) of the first difference that a unit with these parameters makes.

    None without one.
    """
    names = getattr(StepUnits(vectors, folder, ICARUS), unit)(layer, **overrides)
    report = golden.check(vectors.folder, folder, names)
    return None if report.passed else (report.mismatches[0].entry.name, report.explanation.changes)


@pytest.mark.parametrize(
    "unit, bug, tensor, cause",
    [
        ("input_grad", 1, "conv1.activation_grads", "rounding nearest_up instead of nearest_away"),
        ("weight_grad", 1, "conv2.weight_grads", "rounding nearest_up instead of nearest_away"),
        ("update", 1, "conv2.accumulators", "update: rounding nearest_up instead of nearest_away"),
        ("forward", 2, "conv3.activations", "overflow wrap instead of saturate"),
        ("weight_grad", 2, "conv3.weight_grads", "overflow wrap instead of saturate"),
        ("forward", 4, "conv2.preactivations", "products truncated by 1 bit before they are added"),
        (
            "input_grad",
            4,
            "conv1.activation_grads",
            "products truncated by 1 bit before they are added",
        ),
        (
            "weight_grad",
            4,
            "conv2.weight_grads",
            "products truncated by 1 bit before they are added",
        ),
        ("update", 4, "conv2.accumulators", "update: rounding floor instead of nearest_away"),
    ],
)
def test_a_planted_bug_is_found_and_explained(tmp_path, vectors, unit, bug, tensor, cause):
    layer = "conv3" if tensor == "conv3.weight_grads" else "conv2"
    name, causes = found(vectors, tmp_path, unit, layer, BUG=bug)
    assert (name, causes[0]) == (tensor, cause)
    assert len(causes) <= 2


def test_a_narrow_accumulator_of_the_update_is_found(tmp_path, vectors):
    tensor, causes = found(vectors, tmp_path, "update", BUG=3)
    assert tensor == "conv2.accumulators"
    assert "accumulators: range 1 bit narrower, overflow saturate" in causes


def test_unsigned_activations_taken_for_signed_are_found_and_explained(tmp_path, vectors):
    assert found(vectors, tmp_path, "forward", A_SIGNED=1) == (
        "conv2.preactivations",
        ("activations sign-extended instead of zero-extended",),
    )


def tight_bits(vectors, tensor):
    """(declared, needed) signed bits of the sums of conv2 that `tensor` is made from."""
    codes = {name: vectors.codes(f"conv2.{name}") for name in INPUTS}
    layer = NETWORK.layer("conv2")
    if tensor == "conv2.preactivations":
        sums = vectors.codes(tensor)
    else:
        operands = {
            name: Tensor(value, vectors.manifest.entry(f"{layer.name}.{name}").format)
            for name, value in codes.items()
        }
        x, grad, weight = (
            operands[name] for name in ("activations", "preactivation_grads", "weights")
        )
        geometry = {"stride": layer.stride, "padding": layer.padding}
        exact = (
            ops.conv2d_weight_grad(x, grad, weight.shape, **geometry)
            if "conv2" in tensor
            else ops.conv2d_input_grad(grad, weight, x.shape, **geometry)
        )
        sums = exact.tensor().codes
    needed = max(int(sums.max()).bit_length(), (-1 - int(sums.min())).bit_length()) + 1
    return vectors.manifest.entry(tensor).accumulator.bits, needed


INPUTS = ("activations", "weights", "preactivation_grads")
SUMS = {
    "forward": "conv2.preactivations",
    "input_grad": "conv1.activation_grads",
    "weight_grad": "conv2.weight_grads",
}


@pytest.mark.parametrize("unit", SUMS)
def test_an_accumulator_one_bit_too_narrow_is_found_and_explained(tmp_path, vectors, unit):
    declared, needed = tight_bits(vectors, SUMS[unit])
    assert found(vectors, tmp_path, unit, ACC_BITS=needed + 1) is None
    tensor, causes = found(vectors, tmp_path, unit, ACC_BITS=needed, BUG=3)
    narrower = f"({needed - 1} instead of {declared}), it saturates after every addition"
    assert tensor == SUMS[unit]
    assert any(cause.startswith("accumulator ") and cause.endswith(narrower) for cause in causes)


def test_another_order_of_saturating_additions_is_found_and_explained(tmp_path, vectors):
    _, needed = tight_bits(vectors, "conv2.preactivations")
    tensor, causes = found(vectors, tmp_path, "forward", ACC_BITS=needed - 2, BUG=5)
    assert tensor == "conv2.preactivations"
    assert len(causes) == 1
    assert causes[0].endswith(
        "it saturates after every addition; terms added in the order: kernel row, kernel column, "
        "channel"
    )
