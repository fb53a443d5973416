"""Golden vectors of activation functions, and planted faults that the explanation finds."""

import numpy as np
import pytest

from fxsim import Activation, Conv, Dense, Format, LearningRate, Network, Quantizer, Tensor, ops
from fxsim.golden.capture import capture
from fxsim.golden.explain.search import explain
from fxsim.golden.export import Vectors, write_vectors
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Pool
from fxsim.presets import uniform

TABLE = Activation("table", function="tanh", index_bits=5, range_exp=1, derivative="table")
NETWORK = Network(
    "functions",
    (6, 6, 1),
    (
        Conv(name="six", filters=4, padding=1, activation=Activation("relu", ceiling=0.7)),
        Conv(name="leaky", filters=4, activation=Activation("leaky_relu", slope_exp=-3)),
        Conv(name="tanh", filters=3, kernel=2, activation=TABLE, pool=Pool("average", 3)),
        Dense(name="sigmoid", units=6, activation=Activation("table", function="sigmoid")),
        Dense(name="scores", units=3, relu=False),
    ),
)
INPUTS = {
    "six": Format(8, 0, False),
    "leaky": Format(8, 0, False),
    "tanh": Format(9, 2),
    "sigmoid": Format(9, 1),
    "scores": Format(9, 0, False),
}


def precision(layer):
    weights = Format(8, 0)
    return LayerPrecision(
        weights,
        INPUTS[layer],
        Format(10, -2),
        Format(12, 0),
        accumulator_format(weights, -16),
    )


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("functions")
    layers = {name: precision(name) for name in NETWORK.names}
    assigned = PrecisionAssignment(NETWORK.name, layers)
    parameters = {
        name: {kind: 2 * values for kind, values in own.items()}
        for name, own in initial_parameters(NETWORK, 3).items()
    }
    fixed = FixedNetwork(NETWORK, assigned, parameters)
    random = np.random.default_rng(3)
    images = random.integers(0, 256, (4, 6, 6, 1))
    golden = capture(fixed, images, random.integers(0, 3, 4), LearningRate.of(0.5), 0)
    write_vectors(golden, folder, ["npy"])
    return Vectors(folder)


def tensor(vectors, name):
    return Tensor(vectors.codes(name), vectors.manifest.entry(name).format)


def changes(vectors, name, dumped):
    golden = vectors.codes(name)
    assert not np.array_equal(golden, dumped), "nothing was planted"
    return set(explain(vectors, vectors.manifest.entry(name), dumped).changes)


def test_the_manifest_holds_functions_and_tables(vectors):
    assert vectors.manifest.network == NETWORK
    index = tensor(vectors, "tanh.table_indices")
    assert index.equals(ops.table_index(tensor(vectors, "tanh.preactivations"), 5, 1))
    table = tensor(vectors, "tanh.table_values")
    assert table.equals(ops.function_table("tanh", 5, 1, Format(9, 1)))
    assert set(np.unique(vectors.codes("leaky.leaky_relu_mask"))) >= {1, 2}
    assert "sigmoid.table_slopes" not in vectors and "tanh.table_slopes" in vectors


@pytest.mark.parametrize("name", NETWORK.names)
def test_every_tensor_of_a_layer_follows_from_the_others(vectors, name):
    """Recipes give the golden codes, or they would try no change."""
    for tensor_name in ("preactivation_grads", "activation_grads", "weight_grads"):
        entry = vectors.manifest.entry(f"{name}.{tensor_name}")
        wrong = vectors.codes(entry.name).copy()
        wrong.reshape(-1)[0] ^= 1
        found = explain(vectors, entry, wrong)
        assert found.note == "", entry.name


def test_a_table_index_that_is_one_too_high(vectors):
    table = vectors.codes("sigmoid.table_values")
    index = vectors.codes("sigmoid.table_indices").astype(np.int64)
    assert np.array_equal(vectors.codes("scores.activations"), table[index + 128])
    planted = table[np.minimum(index + 1, 127) + 128]
    expected = {"table index one too high"}
    assert changes(vectors, "scores.activations", planted) == expected
    assert changes(vectors, "sigmoid.table_indices", index + 1) == expected


def test_an_index_of_a_table_of_derivatives_that_is_one_too_low(vectors):
    index = vectors.codes("tanh.table_indices").astype(np.int64)
    entry = vectors.manifest.entry("tanh.table_slopes")
    slopes = vectors.codes("tanh.table_slopes").astype(np.int64)
    arriving = tensor(vectors, "tanh.activation_grads")
    format = vectors.manifest.entry("tanh.preactivation_grads").format
    spread = ops.avg_pool2d_grad(arriving, 3, index.shape).to(format).codes.astype(np.int64)

    def grads(places):
        products = Tensor(spread * slopes[places + 16], Format(60, 59))
        unit = Format(60, format.step_exp + entry.format.step_exp + 59)
        return ops.add(Tensor(products.codes, unit), Tensor(products.codes * 0, unit)).to(format)

    assert np.array_equal(grads(index).codes, vectors.codes("tanh.preactivation_grads"))
    planted = grads(np.maximum(index - 1, -16)).codes
    assert changes(vectors, "tanh.preactivation_grads", planted) == {"table index one too low"}


def test_another_rounding_of_the_gradient_before_a_function(tmp_path):
    network = Network(
        "rounded",
        (1, 1, 6),
        (
            Dense(name="leaky", units=8, activation=Activation("leaky_relu", slope_exp=-3)),
            Dense(name="tanh", units=5, activation=TABLE),
            Dense(name="scores", units=3, relu=False),
        ),
    )
    assigned = uniform("Q4.6", rounding="floor", every_operation=True).assignment(network)
    fixed = FixedNetwork(network, assigned, initial_parameters(network, 1))
    random = np.random.default_rng(1)
    images = random.integers(-99, 99, (8, 1, 1, 6))
    golden = capture(fixed, images, random.integers(0, 3, 8), LearningRate.of(0.5), 0)
    write_vectors(golden, tmp_path, ["npy"])
    own = Vectors(tmp_path)
    grads = tensor(own, "leaky.activation_grads")
    mask = Tensor(own.codes("leaky.leaky_relu_mask"), ops.SLOPES)
    exact = ops.leaky_relu_grad(grads, mask.reshape(*grads.shape), -3)
    entry = own.manifest.entry("leaky.preactivation_grads")
    assert (entry.rounding, entry.overflow) == ("floor", "saturate")
    planted = exact.to(Quantizer(entry.format, "zero")).codes
    assert "rounding zero instead of floor" in changes(own, entry.name, planted)
    codes = own.codes("tanh.preactivation_grads").copy()
    codes.reshape(-1)[0] ^= 1
    found = explain(own, own.manifest.entry("tanh.preactivation_grads"), codes)
    assert found.note == "" and found.tried > 30


def test_another_slope_and_a_ceiling_left_out(vectors):
    z = tensor(vectors, "leaky.preactivations")
    planted, mask = ops.leaky_relu(z, Format(9, 2), -2)
    assert changes(vectors, "tanh.activations", planted.codes) == {
        "leaky ReLU: slope 2^-2 instead of 2^-3"
    }
    grads = tensor(vectors, "leaky.activation_grads")
    wrong = ops.leaky_relu_grad(grads, mask, -2).tensor().codes.astype(np.int64) * 2
    assert changes(vectors, "leaky.preactivation_grads", wrong) == {
        "leaky ReLU: slope 2^-2 instead of 2^-3"
    }
    planted, _ = ops.relu(tensor(vectors, "six.preactivations"), Format(8, 0, False))
    assert "ceiling 0.7 of the ReLU left out" in changes(
        vectors, "leaky.activations", planted.codes
    )
