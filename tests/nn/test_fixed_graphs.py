"""Training steps and inference with batch norm, residual additions and shared outputs equal the
twin, tensor for tensor.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.graph_cases import NARROW, SATURATING, WIDE, assignment, check_steps

from fxsim.activation import Activation
from fxsim.formats import Format
from fxsim.kernels.threads import thread_count, use_threads
from fxsim.nn.layer_precision import BatchNormPrecision, accumulator_format
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.spec import BatchNorm, Conv, Dense, Network, Pool
from fxsim.ops.paths import available_paths

NETWORKS = {
    "residual": Network(
        "residual",
        (6, 6, 2),
        (
            Conv(name="stem", filters=3, padding=1, batch_norm=True),
            Conv(name="b1", filters=3, padding=1, batch_norm=True, dropout=0.25),
            Conv(name="b2", filters=3, padding=1, batch_norm=True, add="stem"),
            Conv(name="shortcut", filters=4, padding=1, stride=2, batch_norm=True, relu=False),
            Conv(name="b3", filters=4, padding=1, stride=2, batch_norm=True, input="b2"),
            Conv(
                name="b4",
                filters=4,
                padding=1,
                batch_norm=True,
                add="shortcut",
                pool=Pool("average", 3),
            ),
            Dense(name="fc", units=3, relu=False),
        ),
    ),
    "no batch norm": Network(
        "no-batch-norm",
        (5, 4, 1),
        (
            Conv(name="c1", filters=2, padding=1, pool=Pool("max", 2)),
            Conv(name="skip", filters=2, kernel=1, relu=False),
            Conv(name="clipped", filters=2, kernel=1, input="c1"),
            Conv(name="c2", filters=2, padding=1, input="c1", add="skip"),
            Conv(name="c3", filters=2, padding=1, add="clipped", pool=Pool("max", 2)),
            Dense(name="d", units=3, relu=False),
        ),
    ),
    "convnet": Network(
        "convnet",
        (5, 6, 2),
        (
            Conv(name="c1", filters=3, batch_norm=True, pool=Pool("max", 2)),
            Dense(name="d1", units=5, batch_norm=True),
            Dense(name="d2", units=4, batch_norm=True, relu=False, dropout=0.5),
            Dense(name="d3", units=3, relu=False),
        ),
    ),
    "batch norms of their own": Network(
        "norms",
        (5, 5, 2),
        (
            Conv(
                name="frozen",
                filters=3,
                padding=1,
                batch_norm=BatchNorm(epsilon=0.013, frozen=True),
            ),
            Conv(
                name="quick",
                filters=3,
                padding=1,
                batch_norm=BatchNorm(running_rate=0.3),
                add="frozen",
            ),
            Dense(name="one", units=4, batch_norm=BatchNorm(1.0, 1.0)),
            Dense(name="still", units=4, batch_norm=BatchNorm(2.0**-6, frozen=True)),
            Dense(name="scores", units=3, relu=False),
        ),
    ),
    "leaky, ceilings and tanh": Network(
        "leaky",
        (8, 8, 1),
        (
            Conv(
                name="c1",
                filters=3,
                padding=1,
                activation=Activation("relu", ceiling=1.3),
                pool=Pool("max", 2),
            ),
            Conv(
                name="c2",
                filters=2,
                padding=1,
                batch_norm=True,
                activation=Activation("leaky_relu", slope_exp=-2),
                pool=Pool("average", 2),
            ),
            Conv(
                name="c3",
                filters=3,
                kernel=1,
                activation=Activation(
                    "table", function="tanh", index_bits=5, interpolation="linear"
                ),
                dropout=0.25,
            ),
            Dense(
                name="d1", units=4, activation=Activation("leaky_relu", slope_exp=-1), dropout=0.5
            ),
            Dense(name="scores", units=3, relu=False),
        ),
    ),
    "tables": Network(
        "tables",
        (4, 4, 2),
        (
            Conv(
                name="stem",
                filters=3,
                padding=1,
                activation=Activation("leaky_relu", slope_exp=-3),
                pool=Pool("max", 2),
            ),
            Conv(name="a", filters=3, padding=1, activation="relu"),
            Conv(
                name="b",
                filters=3,
                kernel=1,
                activation=Activation("table", function="sigmoid", index_bits=4, range_exp=2),
                add="stem",
            ),
            Conv(
                name="c",
                filters=2,
                kernel=1,
                activation=Activation(
                    "table", function="exp", index_bits=3, range_exp=0, derivative="table"
                ),
                pool=Pool("max", 2),
            ),
            Dense(
                name="d",
                units=4,
                batch_norm=True,
                activation=Activation(
                    "table",
                    index_bits=2,
                    range_exp=1,
                    interpolation="linear",
                    values=(-1.0, -0.3, 0.1, 0.7, 1.9),
                    slopes=(0.7, 0.4, 0.6, -1.2),
                ),
            ),
            Dense(name="scores", units=3, relu=False),
        ),
    ),
}
PRECISIONS = {
    "defaults": {},
    "narrow": {"norm": NARROW},
    "wide": {"norm": WIDE, "weights": 14, "activations": 11, "activation_grads": 16},
    "saturating": {"norm": SATURATING, "branch": Format(4, 0), "preactivations": Format(6, -1)},
    "pre-activations finer than products": {
        "weights": 3,
        "activations": 2,
        "preactivations": Format(16, 2),
    },
    "branch finer than all": {"norm": NARROW, "branch": Format(24, 1), "activations": 16},
    "other roundings": {
        "norm": NARROW,
        "rounding": {
            "preactivations": "floor",
            "normalized": "nearest_even",
            "gamma_grads": "ceil",
            "beta_grads": "zero",
            "branch": "away",
            "preactivation_grads": "nearest_odd",
            "gamma_accumulators": "floor",
            "beta_accumulators": "jam",
        },
    },
    "other overflows": {
        "norm": SATURATING,
        "preactivations": Format(6, -1),
        "overflow": {
            "preactivations": "wrap",
            "normalized": "saturate_symmetric",
            "gamma_grads": "saturate_zero",
            "preactivation_grads": "wrap",
            "branch": "wrap",
        },
    },
    "gradients before functions": {
        "relu_input_grads": Format(7, -1),
        "rounding": {"relu_input_grads": "floor"},
        "overflow": {"relu_input_grads": "wrap"},
    },
    "stochastic": {
        "relu_input_grads": Format(6, 0),
        "rounding": dict.fromkeys(
            (
                "preactivations",
                "normalized",
                "preactivation_grads",
                "branch",
                "activations",
                "gamma_grads",
                "gamma_accumulators",
                "activation_grads",
                "relu_input_grads",
            ),
            "stochastic",
        ),
    },
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PRECISIONS)
def test_two_steps_and_inference(network, name):
    check_steps(NETWORKS[network], assignment(NETWORKS[network], **PRECISIONS[name]))


def test_everything_that_can_saturate_does():
    _, counts = check_steps(
        NETWORKS["residual"], assignment(NETWORKS["residual"], **PRECISIONS["saturating"])
    )
    for tensor in (
        "preactivations",
        "mean",
        "variance",
        "normalized",
        "branch",
        "preactivation_grads",
    ):
        assert any(count.clipped for (_, made), count in counts.items() if made == tensor), tensor


@pytest.mark.parametrize("kernel", available_paths())
@pytest.mark.parametrize("threads", [1, 2])
def test_every_path_with_one_and_two_threads(kernel, threads):
    before = thread_count()
    try:
        use_threads(threads)
        check_steps(
            NETWORKS["residual"], assignment(NETWORKS["residual"], norm=NARROW), 1, kernel=kernel
        )
    finally:
        use_threads(before)


def test_momentum_and_weight_decay():
    network = NETWORKS["residual"]
    check_steps(
        network, assignment(network), 3, optimizer=Optimizer(momentum=0.9, weight_decay=0.01)
    )


@given(
    st.sampled_from(sorted(NETWORKS)),
    st.lists(st.integers(2, 12), min_size=9, max_size=9),
    st.integers(1, 4),
    st.floats(2.0**-8, 2.0),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=25)
def test_random_assignments(network, bits, batch, rate, seed):
    norm = BatchNormPrecision(
        mean=Format(bits[0], 1),
        variance=Format(bits[1], 0, False),
        normalized=Format(bits[2], 2),
        gamma=Format(bits[3], 1),
        gamma_accumulators=accumulator_format(Format(bits[3], 1), -14),
        preactivation_grads=Format(bits[4], 1),
    )
    widths = {
        "weights": bits[5],
        "activations": bits[6],
        "activation_grads": bits[7],
        "preactivations": Format(bits[8], 2),
    }
    check_steps(
        NETWORKS[network], assignment(NETWORKS[network], norm=norm, **widths), 1, batch, rate, seed
    )
