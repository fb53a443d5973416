"""Networks are checked where they enter: types, names, numbers, keys, the last layer."""

import copy
import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from support.modes_cases import NETWORK
from support.mutations import WRONG, refusal, spoilt

from fxsim import Activation, Conv, Dense, InputError, Network, Pool
from fxsim.formats import Format
from fxsim.nn import networks
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import from_dict, to_dict

SCORES = Dense(name="scores", units=3, relu=False)


def network(*layers, shape=(6, 6, 2)):
    return Network("n", shape, (*layers, SCORES))


def table(**layer):
    row = {"type": "conv", "name": "c", "filters": 4, **layer}
    last = {"type": "dense", "name": "f", "units": 10, "relu": False}
    return {"input_shape": [8, 8, 1], "layer": [row, last]}


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Conv(name="c", filters=True), "layer 'c': filters must be an integer, got True"),
        (lambda: Conv(name="c", filters=4.0), "filters must be an integer, got 4.0"),
        (
            lambda: Conv(name="c", filters=4, kernel="3"),
            "kernel must be an integer or .integer, integer., got '3'",
        ),
        (lambda: Conv(name="c", filters=4, relu="relu6"), "relu must be True or False"),
        (lambda: Conv(name="c", filters=4, relu=1), "relu must be True or False, got 1"),
        (lambda: Conv(name="c", filters=4, activation=6), "activation must be a fxsim.Activation"),
        (lambda: Activation("relu", ceiling="6"), "activation ceiling must be a number, got '6'"),
        (lambda: Conv(name="c", filters=4, batch_norm="false"), "batch_norm must be True or"),
        (lambda: Conv(name="c", filters=4, dropout="0.5"), "dropout must be a number"),
        (lambda: Conv(name="c", filters=4, dropout=True), "dropout must be a number, got True"),
        (lambda: Conv(name="c", filters=4, pool="max"), "pool must be a fxsim.Pool, got 'max'"),
        (lambda: Conv(name="c", filters=4, input=3), "input must be a text, got 3"),
        (lambda: Conv(name=7, filters=4), "name must be a text, got 7"),
        (lambda: Dense(name="d", units=None), "units must be an integer, got None"),
        (
            lambda: Pool("max", 2.0),
            "pool size must be an integer or .integer, integer. or 'global', got 2.0",
        ),
        (lambda: Network(3, (1, 1, 1), (SCORES,)), "name must be a text, got 3"),
        (lambda: Network("n", 5, (SCORES,)), "input_shape must be a tuple, got 5"),
        (lambda: Network("n", "abc", (SCORES,)), "input_shape must be a tuple, got 'abc'"),
        (lambda: Network("n", (1, 1, 1.0), (SCORES,)), "must be an integer, got 1.0"),
        (lambda: Network("n", (1, 1, 1), SCORES), "layers must be a tuple"),
        (lambda: Network("n", (1, 1, 1), ("scores",)), "must be a fxsim.Conv or fxsim.Dense, got"),
    ],
)
def test_another_type_is_a_type_error(build, message):
    with pytest.raises(TypeError, match=message):
        build()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: Conv(name="c", filters=0), "filters must be an integer of at least 1, .* got 0"),
        (lambda: Conv(name="c", filters=2**40), "up to 2147483647, got 1099511627776"),
        (
            lambda: network(Dense(name="d", units=2**28)),
            r"layer 'd' has weights of shape \(72, 268435456\), more than 268,435,456 elements",
        ),
        (
            lambda: network(Conv(name="c", filters=2**24)),
            r"layer 'c' has weights of shape \(3, 3, 2, 16777216\)",
        ),
        (lambda: network(shape=(2**20,) * 3), "layer 'scores' has input of shape"),
        (lambda: Conv(name="c", filters=1, padding=-1), "padding must be an integer of at least 0"),
        (lambda: Conv(name="c", filters=4, dropout=float("nan")), "dropout must be a finite"),
        (lambda: Conv(name="c", filters=4, dropout=1), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: Conv(name="c 1", filters=4), "layer name 'c 1' must be letters"),
        (lambda: Conv(name="é", filters=4), "must be letters"),
        (lambda: Conv(name="c\n", filters=4), "must be letters"),
        (lambda: Conv(name="", filters=4), "must be letters"),
        (lambda: Conv(name="c", filters=4, input=""), "layer input '' must be letters"),
        (lambda: Conv(name="c", filters=4, add=""), "layer add '' must be letters"),
        (
            lambda: Conv(name="c", filters=4, activation="relu6"),
            "layer 'c': activation 'relu6' is unknown; did you mean 'relu'",
        ),
        (
            lambda: Conv(name="c", filters=4, relu=True, activation="relu"),
            "layer 'c': relu and activation say the same; leave relu out",
        ),
        (lambda: Activation("lrelu"), "activation kind 'lrelu' is unknown; did you mean"),
        (lambda: Activation("relu", ceiling=0), "ceiling must be above 0, got 0"),
        (lambda: Activation("relu", ceiling=float("inf")), "ceiling must be a finite number"),
        (lambda: Activation("relu", slope_exp=-3), "'relu' has no slope_exp, got -3; leave it out"),
        (lambda: Activation("none", ceiling=6), "'none' has no ceiling, got 6.0; leave it out"),
        (lambda: Activation("leaky_relu"), "slope_exp must be -16 to -1, got None"),
        (lambda: Activation("leaky_relu", slope_exp=0), "slope_exp must be -16 to -1, got 0"),
        (lambda: Activation("table"), "needs either function, sigmoid or tanh or exp, or values"),
        (lambda: Activation("table", function="sigmoyd"), "did you mean 'sigmoid'"),
        (lambda: Activation("table", function="exp", index_bits=17), "index_bits must be 1 to 16"),
        (lambda: Activation("table", function="exp", range_exp=9), "range_exp must be -8 to 8"),
        (
            lambda: Activation("table", values=[1.0] * 255, slopes=[1.0] * 256),
            "values must be 256 by index_bits and interpolation, got 255",
        ),
        (
            lambda: Activation("table", values=[1.0] * 4, slopes=[1.0] * 5, index_bits=2),
            "slopes must be 4 by index_bits and interpolation, got 5",
        ),
        (
            lambda: Activation("table", values=[1.0] * 4, index_bits=2),
            "slopes must stand beside values, and only there, got None",
        ),
        (
            lambda: Activation("table", values=[1.0] * 4, index_bits=2, derivative="output"),
            "cannot be 'output'; give slopes",
        ),
        (lambda: Pool("mean", 2), "pool kind 'mean' is unknown; .*choose from max, average"),
        (lambda: Pool(2, "max"), "pool kind 2 is unknown; choose from max, average"),
        (lambda: network(shape=(6, 6, 1, 1)), "input_shape must have 3 elements, got"),
        (lambda: network(shape=(6, 0, 2)), "W of input_shape .* at least 1, .* got 0"),
        (lambda: Network("n", (1, 1, 1), ()), "layers must be at least one"),
    ],
)
def test_a_value_outside_its_range_is_an_input_error(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.parametrize("value", [value for value in WRONG if not isinstance(value, dict)])
@pytest.mark.parametrize(
    "cls, good",
    [
        (Conv, {"name": "c", "filters": 4}),
        (Pool, {"kind": "max", "size": 2}),
        (Network, {"name": "n", "input_shape": (6, 6, 2), "layers": (SCORES,)}),
    ],
)
def test_any_value_of_any_field_is_taken_or_refused_in_one_line(cls, good, value):
    for field in dataclasses.fields(cls):
        refusal(cls, **{**good, field.name: value})


def test_numpy_numbers_become_those_of_python():
    layer = Conv(name="c", filters=np.int64(4), relu=np.True_, dropout=np.float32(0.5))
    assert (type(layer.filters), type(layer.dropout)) == (int, float)
    assert layer == Conv(name="c", filters=4, dropout=0.5)
    made = Network("n", [np.int8(6), 6, np.uint16(2)], [layer, SCORES])
    assert made == network(layer)
    assert all(type(size) is int for size in made.input_shape)
    assert type(made.layers) is tuple


@pytest.mark.parametrize(
    "last, positions",
    [
        (Conv(name="c", filters=8, kernel=3, padding=1, relu=False), "6 x 6"),
        (Conv(name="c", filters=8, kernel=6, padding=1, stride=2, relu=False), "2 x 2"),
        (Conv(name="c", filters=8, kernel=(5), relu=False), "2 x 2"),
    ],
)
def test_a_last_layer_of_more_than_one_position_is_refused(last, positions):
    with pytest.raises(
        InputError, match=f"'c' must give one position of class scores, got {positions}"
    ):
        Network("n", (6, 6, 3), (last,))


def test_a_last_convolution_that_covers_its_input_gives_scores():
    last = Conv(name="c", filters=8, kernel=6, relu=False)
    made = Network("n", (6, 6, 3), (last,))
    assert made.classes == 8
    assert made.shape("c").output == (1, 1, 8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"relu": "relu6"}, "layer 'c': relu must be True or False, got 'relu6'"),
        ({"relu": 6}, "relu must be True or False, got 6"),
        ({"relu": "false"}, "relu must be True or False, got 'false'"),
        ({"batch_norm": "false"}, "batch_norm must be True or False or a BatchNorm, got 'false'"),
        ({"batch_norm": 0}, "batch_norm must be True or False or a BatchNorm, got 0"),
        ({"input": ""}, "layer input '' must be letters"),
        ({"pool": "max"}, "layer 'c', pool must be a table of keys and values, got 'max'"),
        ({"pool": {"kind": "max"}}, "layer 'c', pool needs 'size'"),
        ({"pool": {"kind": "max", "size": 2, "strid": 2}}, "key 'strid' is unknown; did you"),
        ({"pool": {"kind": "max", "size": True}}, "pool: size must be an integer or .*, got True"),
        ({"kernels": 3}, "layer 'c': key 'kernels' is unknown; did you mean 'kernel'"),
        ({"units": 3}, "layer 'c': key 'units' is unknown"),
        ({"type": "linear"}, "layer 'c': type 'linear' is unknown; choose from conv, dense"),
        ({"type": None}, "layer 'c': type None is unknown; choose from conv, dense"),
        ({"dropout": float("nan")}, "dropout must be a finite number, got nan"),
        ({"filters": 4.0}, "filters must be an integer, got 4.0"),
    ],
)
def test_a_wrong_row_of_a_file_is_an_input_error(change, message):
    with pytest.raises(InputError, match=message):
        from_dict(table(**change))


@pytest.mark.parametrize(
    "data, message",
    [
        ([], r"network must be a table of keys and values, got \[\]"),
        ({}, "network needs 'input_shape', 'layer'"),
        ({**table(), "classes": 10}, "network: key 'classes' is unknown"),
        ({**table(), "input_shape": "883"}, "input_shape must be a tuple, got '883'"),
        ({**table(), "input_shape": 8}, "input_shape must be a tuple, got 8"),
        ({**table(), "layer": {}}, "layer must be a list of tables, got {}"),
        ({**table(), "layer": ["conv"]}, "layer 0 must be a table of keys and values, got 'conv'"),
        ({**table(), "layer": [{"name": "c"}]}, "layer 'c' needs 'type'"),
        ({**table(), "layer": [{"type": "conv", "name": "c"}]}, "layer 'c' needs 'filters'"),
        ({**table(), "layer": []}, "layers must be at least one"),
        ({**table(), "name": 3}, "name must be a text, got 3"),
        ({**table(), 3: 3}, "network: keys must be texts, got 3"),
    ],
)
def test_a_wrong_table_of_a_file_is_an_input_error(data, message):
    with pytest.raises(InputError, match=message):
        from_dict(data)


@pytest.mark.parametrize("name", networks.BUILDERS)
def test_what_is_written_is_read_back(name):
    made = networks.build(name)
    assert from_dict(to_dict(made)) == made
    assert from_dict(to_dict(NETWORK)) == NETWORK


def test_a_table_is_not_changed_by_reading():
    data = table(pool={"kind": "max", "size": 2})
    before = copy.deepcopy(data)
    from_dict(data)
    assert data == before


def test_later_edits_of_the_callers_lists_change_nothing():
    shape = [6, 6, 2]
    layers = [Conv(name="c", filters=4), SCORES]
    made = Network("n", shape, layers)
    shape[0] = 9
    layers.pop()
    assert made.input_shape == (6, 6, 2)
    assert made.names == ("c", "scores")


def test_definitions_have_hashes_and_copies():
    for value in (NETWORK, NETWORK.layers[0], Pool("max", 2)):
        assert {value: 1}[copy.deepcopy(value)] == 1
        assert copy.copy(value) == value
        assert hash(copy.copy(value)) == hash(value)
    assert copy.copy(NETWORK).shape("scores") == NETWORK.shape("scores")


@given(spoilt(to_dict(NETWORK)))
@settings(max_examples=500)
def test_a_spoilt_table_is_read_or_refused_in_one_line(data):
    error = refusal(from_dict, data)
    assert error is None or isinstance(error, InputError)


ACTIVATIONS = {
    "none": Activation("none"),
    "relu": Activation("relu"),
    "clipped_relu": Activation("clipped_relu"),
    "ceiling": Activation("relu", ceiling=6),
    "leaky": Activation("leaky_relu", slope_exp=-3),
    "function": Activation("table", function="sigmoid", interpolation="linear"),
    "values": Activation("table", values=[0, 1, 2, 4], slopes=[1, 1, 1, 2], index_bits=2),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_survive_plain_data_and_copies(name):
    layer = Conv(name="c", filters=2, activation=ACTIVATIONS[name])
    made = network(layer)
    again = from_dict(json.loads(json.dumps(to_dict(made))))
    assert again == made and hash(again) == hash(made)
    assert dataclasses.replace(layer, filters=3).activation == layer.activation


def test_relu_still_says_which_activation():
    made = [from_dict(table(relu=relu)).layers[0].activation.kind for relu in (True, False)]
    assert made == ["clipped_relu", "none"]
    assert Conv(name="c", filters=2) == Conv(name="c", filters=2, relu=True)
    off = Conv(name="c", filters=2, relu=False)
    assert dataclasses.replace(off, activation="relu") == Conv(
        name="c", filters=2, activation="relu"
    )


def test_a_table_comes_from_a_file(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"values": [0, 1, 2, 4], "slopes": [1, 1, 1, 2]}))
    own = {"kind": "table", "function": str(path), "index_bits": 2}
    assert from_dict(table(activation=own)).layers[0].activation == ACTIVATIONS["values"]
    own["index_bits"] = 3
    with pytest.raises(InputError, match="values must be 8 by index_bits .*, got 4; change"):
        from_dict(table(activation=own))
    path.write_text(json.dumps({"value": [0]}))
    with pytest.raises(InputError, match="'value' is unknown; did you mean 'values'"):
        from_dict(table(activation=own))


@pytest.mark.parametrize(
    "activation, output, message",
    [
        (
            Activation("relu", ceiling=6),
            Format(8, 2, False),
            r"'c': ceiling 6.0 is outside .* 2\^2",
        ),
        (
            Activation("relu", ceiling=0.001),
            Format(8, 2, False),
            "'c': ceiling 0.001 must be above",
        ),
        (
            Activation("leaky_relu", slope_exp=-3),
            Format(8, 2, False),
            "'c': activation 'leaky_relu' gives values below 0, .* signed activations",
        ),
        (Activation("leaky_relu", slope_exp=-16), Format(8, 2), "needs 36 bits, at most 32"),
    ],
)
def test_an_activation_that_its_output_cannot_hold_is_refused(activation, output, message):
    made = network(Conv(name="c", filters=2, activation=activation))
    weights = Format(8, 0)
    layers = {
        name: LayerPrecision(
            weights, format, Format(20, 0), Format(8, 0), accumulator_format(weights, -12)
        )
        for name, format in (("c", Format(8, 0, False)), ("scores", output))
    }
    with pytest.raises(InputError, match=message) as caught:
        FixedNetwork(made, PrecisionAssignment("n", layers), initial_parameters(made, 0))
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) <= 300
