"""Assignments are checked where they enter: types, modes, keys, what contradicts, what nobody reads."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from support.modes_cases import NETWORK, assignment, precision
from support.mutations import WRONG, refusal, spoilt

from fxsim import (
    Accumulator,
    DroppedBits,
    Format,
    InputError,
    LayerPrecision,
    Lfsr,
    Philox,
    PrecisionAssignment,
    Reason,
)
from fxsim.nn.layer_precision import BatchNormPrecision
from fxsim.nn.optimizer import Optimizer

FORMATS = {
    "weights": Format(8, 0),
    "activations": Format(8, 0, False),
    "activation_grads": Format(8, 0),
    "weight_grads": Format(8, 0),
    "accumulators": Format(8, -8),
}


REGISTERS = Lfsr(8, (8, 6, 5, 4), 4, (1, 9), lanes=2)


def full():
    """An assignment with all that a file may hold."""
    reason = Reason("FQN", {"sigma": 0.25, "steps": 3}, 1.5)
    return dataclasses.replace(
        assignment(),
        rounding={"activations": "floor", "weight_grads": "stochastic"},
        words={"weight_grads": REGISTERS, "stem.weight_grads": Philox(8)},
        overflow={"logits": "wrap"},
        reasons={("stem", "weights"): reason, ("wide", "gamma"): reason},
        accumulator={"forward": Accumulator(20), "sum.weight_grad": Accumulator(24, "wrap")},
    )


def data():
    return json.loads(json.dumps(full().to_dict()))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"weights": (8, 0)}, r"weights must be a fxsim.Format, got \(8, 0\)"),
        ({"weights": None}, "weights must be a fxsim.Format, got None"),
        ({"bias": "Q0.7"}, "bias must be a fxsim.Format, got 'Q0.7'"),
        ({"branch": 16}, "branch must be a fxsim.Format, got 16"),
        ({"batch_norm": True}, "batch_norm must be a fxsim.BatchNormPrecision, got True"),
        ({"batch_norm": {}}, "batch_norm must be a fxsim.BatchNormPrecision, got {}"),
    ],
)
def test_a_layer_takes_formats_only(change, message):
    with pytest.raises(TypeError, match=message):
        LayerPrecision(**{**FORMATS, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"network": 3}, "network must be a text, got 3"),
        ({"layers": [FORMATS]}, "layers must be a mapping"),
        ({"layers": {"c": FORMATS}}, r"layers\['c'\] must be a fxsim.LayerPrecision"),
        ({"layers": {3: LayerPrecision(**FORMATS)}}, "layers: key must be a text, got 3"),
        ({"logits": 16}, "logits must be a fxsim.Format, got 16"),
        ({"rounding": "floor"}, "rounding must be a mapping, got 'floor'"),
        ({"rounding": {"weights": None}}, r"rounding\['weights'\] must be a text, got None"),
        ({"overflow": [("logits", "wrap")]}, "overflow must be a mapping"),
        ({"reasons": {"c": Reason("x", {}, 1.0)}}, "reasons: key must be a tuple, got 'c'"),
        ({"reasons": {("c", "weights"): "why"}}, "must be a fxsim.Reason, got 'why'"),
        ({"accumulator": {"forward": 24}}, "must be a fxsim.Accumulator, got 24"),
    ],
)
def test_an_assignment_of_other_types_is_a_type_error(change, message):
    good = {"network": "n", "layers": {"c": LayerPrecision(**FORMATS)}}
    with pytest.raises(TypeError, match=message):
        PrecisionAssignment(**{**good, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"rounding": {"weight": "floor"}}, "tensor 'weight' is unknown; did you mean 'weights'"),
        ({"rounding": {"logits": "flor"}}, "rounding of logits 'flor' is unknown; did you mean"),
        ({"rounding": {"weights": "flor"}}, "rounding of weights 'flor' is unknown"),
        ({"overflow": {"mean": "wrap"}}, "overflow of mean must be saturate, .* got 'wrap'"),
        ({"reasons": {("d", "weights"): Reason("x", {}, 1.0)}}, "reasons: layer 'd' is unknown"),
        ({"reasons": {("c", "gamma"): Reason("x", {}, 1.0)}}, "of layer 'c' 'gamma' is unknown"),
        ({"reasons": {("c",): Reason("x", {}, 1.0)}}, "reasons: key must have 2 elements"),
    ],
)
def test_an_assignment_of_unknown_names_is_an_input_error(change, message):
    good = {"network": "n", "layers": {"c": LayerPrecision(**FORMATS)}}
    with pytest.raises(InputError, match=message):
        PrecisionAssignment(**{**good, **change})


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((3, {}, 1.0), TypeError, "reason criterion must be a text, got 3"),
        (("x", {"sigma": "1"}, 1.0), TypeError, r"statistic\['sigma'\] must be a number"),
        (("x", {"sigma": float("nan")}, 1.0), InputError, r"\['sigma'\] must be a finite number"),
        (("x", {}, float("inf")), InputError, "reason margin must be a finite number, got inf"),
    ],
)
def test_a_reason_has_text_and_finite_numbers(arguments, error, message):
    with pytest.raises(error, match=message):
        Reason(*arguments)


@pytest.mark.parametrize(
    "values, error, message",
    [
        ({"momentum": "0.9"}, TypeError, "momentum must be a number, got '0.9'"),
        ({"momentum": True}, TypeError, "momentum must be a number, got True"),
        ({"momentum": float("nan")}, InputError, "momentum must be a finite number, got nan"),
        ({"momentum": 0.99995}, InputError, "momentum must be 0 to 0.9999, got 0.99995"),
        ({"weight_decay": -1e-9}, InputError, "weight_decay must be from 0 to below 1"),
        ({"momentum": 0.9, "velocity_bits": 24.0}, TypeError, "velocity_bits must be an integer"),
        ({"momentum": 0.9, "velocity_bits": 33}, InputError, "velocity_bits must be 2 to 32"),
    ],
)
def test_an_optimizer_of_wrong_values(values, error, message):
    with pytest.raises(error, match=message):
        Optimizer(**values)


def edit(path, **values):
    def change(data):
        for key in path:
            data = data[key]
        data.update(values)

    return change


WEIGHTS = ("layers", "stem", "weights")
EDITS = [
    (edit(WEIGHTS, step_exp=-3), "layer 'stem', weights: step_exp -3 contradicts .* give -4"),
    (edit(WEIGHTS, step_exp=True), "step_exp True contradicts"),
    (edit(WEIGHTS, q="Q2.5 (ti)"), r"q 'Q2.5 \(ti\)' contradicts .* give 'Q0.4 \(ti\)'"),
    (edit(WEIGHTS, q=4), "weights, q: format must be a text, got 4"),
    (edit(WEIGHTS, ap_fixed="ap_fixed<8,1>"), "ap_fixed 'ap_fixed<8,1>' contradicts"),
    (edit(WEIGHTS, wl_fl="(8, 7)"), r"wl_fl '\(8, 7\)' contradicts .* give '\(5, 4\)'"),
    (edit(WEIGHTS, bits=8), "step_exp -4 contradicts .* give -7"),
    (edit(WEIGHTS, bits="5"), "layer 'stem', weights: bits must be an integer, got '5'"),
    (edit(WEIGHTS, bits=99), "layer 'stem', weights: bits must be 1 to 64"),
    (edit(WEIGHTS, signed=1), "signed must be True or False, got 1"),
    (edit(WEIGHTS, rounding="floor"), "weights: key 'rounding' is unknown"),
    (edit(WEIGHTS, bit=4), "weights: key 'bit' is unknown; did you mean 'bits'"),
    (lambda data: data["layers"]["stem"]["weights"].pop("bits"), "weights needs 'bits'"),
    (lambda data: data["layers"]["stem"].pop("preactivations"), "'stem' needs 'preactivations'"),
    (lambda data: data["layers"]["stem"].pop("weights"), "layer 'stem' needs 'weights'"),
    (lambda data: data["layers"]["wide"].pop("gamma"), "layer 'wide' needs 'gamma'"),
    (edit(("layers", "stem"), weights=5), "'stem', weights must be a table .*, got 5"),
    (edit(("layers", "stem"), weight={}), "key 'weight' is unknown; did you mean 'weights'"),
    (edit((*WEIGHTS, "reason"), why="x"), "weights, reason: key 'why' is unknown"),
    (edit((*WEIGHTS, "reason"), margin=None), "reason: margin must be a number, got None"),
    (edit((), layers=[]), r"layers must be a table .*, got \[\]"),
    (edit((), logits="Q4.11"), "logits must be a table .*, got 'Q4.11'"),
    (edit((), roundings={"activations": "floor"}), "key 'roundings' is unknown; did you mean"),
    (edit((), accumulators={}), "key 'accumulators' is unknown; did you mean 'accumulator'"),
    (edit((), rounding=["floor"]), r"rounding must be a mapping, got \['floor'\]"),
    (edit((), rounding={"weights": "floor"}), "rounding of weights must be nearest_away"),
    (edit((), accumulator={"forward": 24}), "accumulator 'forward' must be a table .*, got 24"),
    (edit((), accumulator={"forward": {"bit": 24}}), "accumulator 'forward': .*key 'bit' is unk"),
    (edit((), version=99), "has version 99, and this fxsim reads version 1; make it anew"),
    (edit((), version=True), "has version True"),
    (lambda data: data.pop("version"), "has version None"),
    (lambda data: data.pop("logits"), "needs 'logits'"),
    (
        edit((), kind="other"),
        "the precision assignment is no file of kind 'fxsim precision assignment'",
    ),
]


@pytest.mark.parametrize("change, message", EDITS)
def test_no_edit_of_a_file_goes_unread(change, message):
    edited = data()
    change(edited)
    with pytest.raises(InputError, match=message):
        PrecisionAssignment.from_dict(edited)


def test_a_whole_edit_has_its_effect():
    edited = data()
    edited["layers"]["stem"]["weight_grads"] = {"bits": 9, "range_exp": -1, "signed": True}
    edited["logits"] = {"bits": 8, "range_exp": 2, "signed": True, "q": "Q3.5 (arm)"}
    read = PrecisionAssignment.from_dict(edited)
    assert read.layers["stem"].weight_grads == Format(9, -1)
    assert read.logits == Format(8, 2)


def test_what_is_written_is_read_back(tmp_path):
    made = full()
    assert PrecisionAssignment.from_dict(data()) == made
    made.save(tmp_path / "assignment.json")
    assert PrecisionAssignment.load(tmp_path / "assignment.json") == made


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('"version": 1', '"version": 1, "version": 1', "key 'version' stands twice"),
        ('"bits": 5', '"bits": 5, "bits": 6', "key 'bits' stands twice"),
        ('"margin": 1.5', '"margin": NaN', "NaN is no number"),
        ('"margin": 1.5', '"margin": -Infinity', "-Infinity is no number"),
        ('"margin": 1.5', '"margin": 1e999', "'1e999' is no finite number"),
        ('"version": 1', '"version": ' + "[" * 100000, "nested too deep"),
    ],
)
def test_a_file_that_json_alone_would_take(tmp_path, old, new, message):
    path = tmp_path / "assignment.json"
    text = json.dumps(data())
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=f"assignment.json.*{message}"):
        PrecisionAssignment.load(path)


def test_formats_that_no_layer_reads_are_refused():
    layers = {name: precision(name) for name in NETWORK.names}
    norm = dataclasses.replace(layers["stem"], batch_norm=BatchNormPrecision())
    branch = dataclasses.replace(layers["stem"], branch=Format(8, 1))
    for changed, message in (
        (norm, "layer 'stem' has no batch norm; leave batch_norm .* out"),
        (branch, "layer 'stem': branch is the format of an output that only residual additions"),
    ):
        made = PrecisionAssignment(NETWORK.name, {**layers, "stem": changed})
        with pytest.raises(InputError, match=message):
            made.check_network(NETWORK)


def test_an_assignment_of_another_network_is_refused_in_one_short_line():
    made = assignment()
    made.check_network(NETWORK)
    long = {f"layer{index}": LayerPrecision(**FORMATS) for index in range(100)}
    for other in (
        dataclasses.replace(made, network="x" * 500),
        PrecisionAssignment(NETWORK.name, long),
    ):
        assert isinstance(refusal(other.check_network, NETWORK), InputError)


def test_later_edits_of_the_callers_dicts_change_nothing():
    layers = {name: precision(name) for name in NETWORK.names}
    rounding = {"activations": "floor"}
    statistic = {"sigma": 1.0}
    reasons = {("stem", "weights"): Reason("x", statistic, 1.0)}
    accumulator = {"forward": Accumulator(20)}
    made = PrecisionAssignment(
        NETWORK.name, layers, rounding=rounding, reasons=reasons, accumulator=accumulator
    )
    before = made.to_dict()
    for own in (layers, rounding, reasons, accumulator, statistic):
        own.clear()
    assert made.to_dict() == before
    assert made.rounding_of("activations") == "floor"


def test_an_assignment_cannot_be_changed():
    made = full()
    for mapping in (made.layers, made.rounding, made.reasons["stem", "weights"].statistic):
        for change in (
            lambda mapping=mapping: mapping.update({"a": 1}),
            lambda mapping=mapping: mapping.clear(),
            lambda mapping=mapping: mapping.__setitem__("a", 1),
            lambda mapping=mapping: mapping.pop(next(iter(mapping))),
        ):
            with pytest.raises(TypeError, match="part of a frozen object"):
                change()


def test_an_assignment_has_a_hash_and_copies():
    made = full()
    for same in (copy.copy(made), copy.deepcopy(made), PrecisionAssignment.from_dict(data())):
        assert same == made
        assert hash(same) == hash(made)
    other = dataclasses.replace(made, overflow={})
    assert {made: 1, other: 2} == {copy.deepcopy(other): 2, full(): 1}
    assert json.dumps(dataclasses.asdict(made.layers["stem"]))


def test_bits_of_a_perturbation_are_an_integer():
    with pytest.raises(TypeError, match="bits must be an integer, got 1.0"):
        assignment().perturbed(1.0)
    for bits in (65, -(10**5000)):
        with pytest.raises(InputError, match="bits must be -32 to 32, got"):
            assignment().perturbed(bits)
    assert assignment().perturbed(np.int64(1)) == assignment().perturbed(1)


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize(
    "cls", [LayerPrecision, BatchNormPrecision, PrecisionAssignment, Optimizer, Reason]
)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(cls, value):
    good = {
        LayerPrecision: FORMATS,
        BatchNormPrecision: {},
        PrecisionAssignment: {"network": "n", "layers": {"c": LayerPrecision(**FORMATS)}},
        Optimizer: {"momentum": 0.5},
        Reason: {"criterion": "x", "statistic": {}, "margin": 1.0},
    }[cls]
    for field in dataclasses.fields(cls):
        refusal(cls, **{**good, field.name: value})


@pytest.mark.parametrize("bits", [-(10**400), "x\n" * 500, None, 2.5])
def test_a_message_of_another_class_is_cut_to_one_line(bits):
    edited = data()
    edited["accumulator"]["forward"]["bits"] = bits
    error = refusal(PrecisionAssignment.from_dict, edited)
    assert str(error).startswith("accumulator 'forward': ")


@given(spoilt(data()))
@settings(max_examples=1000, deadline=None)
def test_a_spoilt_file_is_read_or_refused_in_one_line(spoilt_data):
    error = refusal(PrecisionAssignment.from_dict, spoilt_data)
    assert error is None or isinstance(error, InputError)


@pytest.mark.parametrize(
    "words, match",
    [
        ({"weight_grad": Philox(8)}, "did you mean 'weight_grads'"),
        ({"stm.weight_grads": Philox(8)}, "did you mean 'stem'"),
        ({"activations": Philox(8)}, "rounding 'floor' of activations uses no random words"),
        ({"logits": DroppedBits()}, "dropped bits go with rounding 'stochastic'"),
    ],
)
def test_words_that_nothing_takes_are_refused(words, match):
    rounding = {"activations": "floor", "weight_grads": "stochastic", "logits": "stochastic_equal"}
    with pytest.raises(InputError, match=match):
        dataclasses.replace(assignment(), rounding=rounding, words=words)


def test_words_of_a_layer_without_the_tensor_are_refused_with_the_network():
    made = dataclasses.replace(
        assignment(), rounding={"logits": "stochastic"}, words={"stem.logits": Philox(8)}
    )
    with pytest.raises(InputError, match="layer 'stem' quantizes no logits"):
        made.check_network(NETWORK)


def test_texts_make_tensors_stochastic():
    made = assignment().with_stochastic(
        ["accumulators=lfsr of 8, taps 8 6 5 4, 4 bits, 2 lanes, seeds 1 9", "logits=dropped bits"]
    )
    assert made.words == {"accumulators": REGISTERS, "logits": DroppedBits()}
    assert made.rounding == {"accumulators": "stochastic", "logits": "stochastic"}
    assert PrecisionAssignment.from_dict(made.to_dict()) == made
    with pytest.raises(InputError, match="did you mean 'logits'"):
        assignment().with_stochastic(["logit=dropped bits"])
