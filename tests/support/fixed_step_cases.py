"""What tests share: a whole training step in fixed point equals the twin, tensor for tensor."""

import dataclasses
from fractions import Fraction

import numpy as np
from oracle import losses
from oracle import rounding as rounding_oracle
from oracle import step as oracle

from fxsim.accumulator import parse_accumulators
from fxsim.exponential import Exponential
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.lfsr import Lfsr
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.layer_precision import (
    AUXILIARY,
    TENSORS,
    LayerPrecision,
    accumulator_format,
    update_tensor,
)
from fxsim.nn.optimizer import PLAIN_SGD
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.words import DroppedBits, Philox, WordMemory
from support.bits import assert_same_codes

NETWORKS = {
    "max pool": Network(
        "max-pool",
        (5, 5, 2),
        (
            Conv(name="c1", filters=3, padding=1, pool=Pool("max", 2)),
            Conv(name="c2", filters=4, kernel=2),
            Dense(name="d", units=3, relu=False),
        ),
    ),
    "average pool": Network(
        "average-pool",
        (7, 6, 1),
        (
            Conv(name="c1", filters=3, stride=2, padding=2, pool=Pool("average", 3)),
            Dense(name="d1", units=5),
            Dense(name="d2", units=4, relu=False),
        ),
    ),
    "every geometry": Network(
        "every-geometry",
        (6, 7, 2),
        (
            Conv(
                name="c1",
                filters=4,
                kernel=(3, 2),
                stride=(1, 2),
                padding="same",
                groups=2,
                pool=Pool("max", (3, 2), (2, 1), (1, 0, 1, 1)),
            ),
            Conv(
                name="c2",
                filters=4,
                kernel=(2, 3),
                dilation=(1, 2),
                padding=(0, 1, 2, 3),
                groups=4,
                bias=False,
                pool=Pool("average", (2, 3), 1, rounding="floor"),
            ),
            Dense(name="d", units=3, relu=False),
        ),
    ),
    "halves and no relu": Network(
        "halves",
        (4, 6, 1),
        (
            Conv(name="c1", filters=2, kernel=1, pool=Pool("average", 2)),
            Conv(name="c2", filters=3, kernel=2, relu=False, pool=Pool("max", 1)),
            Dense(name="d", units=3, relu=False),
        ),
    ),
}


LOGITS = Format(12, 3)


def precision(weights=8, activations=6, activation_grads=8, weight_grads=10, below=8, bias=12):
    w = Format(weights, 0)
    b = Format(bias, 0)
    return LayerPrecision(
        weights=w,
        activations=Format(activations, 1, False),
        activation_grads=Format(activation_grads, -1),
        weight_grads=Format(weight_grads, 0),
        accumulators=accumulator_format(w, w.step_exp - below),
        bias=b,
        bias_grads=Format(min(weight_grads + 1, 32), 1),
        bias_accumulators=accumulator_format(b, b.step_exp - 5),
    )


def assignment(
    network,
    widths,
    logits=LOGITS,
    rounding=None,
    overflow=None,
    accumulator=(),
    words=None,
    held=True,
    updates=None,
):
    """`updates`: format of rate times gradient, without accumulators.

    `widths`: keyword arguments of `precision`, one dict for all layers or one for each."""
    widths = widths if isinstance(widths, list) else [widths] * len(network.layers)
    layers = {name: precision(**row) for name, row in zip(network.names, widths)}
    if not held:
        layers = {
            layer.name: alone(layers[layer.name], layer.trained, updates)
            for layer in network.layers
        }
    return PrecisionAssignment(
        network.name,
        layers,
        logits,
        rounding or {},
        overflow or {},
        accumulator=parse_accumulators(accumulator),
        words=words or {},
    )


def alone(row, trained, updates=None):
    """The formats of a layer without accumulators."""
    given = {update_tensor(kind): updates for kind in trained}
    return dataclasses.replace(row.without_accumulators(), **given)


def tuple_of(format):
    return format.bits, format.range_exp, format.signed


def pool_of(layer, window):
    """The twin's plain form of a pooling: kind, window, rounding."""
    if layer.pool is None:
        return None
    return layer.pool.kind, (window.size, window.stride, window.padding), layer.pool.rounding


def describe(network, assigned):
    """The twin's plain form of a network with its accumulators."""
    return [
        {
            "name": layer.name,
            "kind": type(layer).__name__.lower(),
            "activation": dataclasses.asdict(layer.activation),
            "pool": pool_of(layer, network.shape(layer.name).pool),
            "dropout": layer.dropout,
            "stride": getattr(layer, "stride", None),
            "padding": network.shape(layer.name).window.padding,
            "dilation": getattr(layer, "dilation", 1),
            "groups": getattr(layer, "groups", 1),
            "train": layer.train,
            "accumulators": {
                kind: dataclasses.asdict(model)
                for kind, model in assigned.accumulators_of(layer.name).items()
            },
        }
        for layer in network.layers
    ]


def start(network, assigned, seed):
    """(real parameters, the twin's formats, the twin's state)."""
    random = np.random.default_rng(seed)
    real = {}
    for name in network.names:
        shape = network.shape(name)
        weight = random.normal(0, 1.5 / shape.dot_length**0.5, shape.weight)
        weight.reshape(-1)[:2] = 1.1, -1.1
        real[name] = {"weight": weight}
        if network.layer(name).has_bias:
            real[name]["bias"] = random.uniform(-0.3, 0.3, shape.weight[-1])
    formats = {
        name: {
            tensor: getattr(row, tensor) and tuple_of(getattr(row, tensor))
            for tensor in (*TENSORS, *AUXILIARY, "updates", "bias_updates")
        }
        for name, row in assigned.layers.items()
    }
    state = {}
    for name in network.names:
        own = {"weight": formats[name]["weights"], "bias": formats[name]["bias"]}
        own = {kind: fmt for kind, fmt in own.items() if kind in real[name]}
        state[name] = {
            kind: oracle.map_nested(
                lambda value, fmt=fmt: rounding_oracle.quantize(Fraction(value), fmt)[0],
                real[name][kind].tolist(),
            )
            for kind, fmt in own.items()
        }
        for kind in own:
            state[name][f"{kind}_acc"] = oracle.map_nested(lambda _: 0, state[name][kind])
    return real, formats, state


def random_targets(random, network, logits, batch):
    """Labels, or codes (batch, outputs) in the format of the logits."""
    if network.decides:
        return random.integers(0, network.classes, batch)
    low, high = logits.min_code, logits.max_code
    if network.loss == "sigmoid_cross_entropy":
        low, high = 0, 1 << -logits.step_exp
    return random.integers(low, high + 1, (batch, network.outputs))


def check_steps(
    network, assigned, steps=2, batch=4, rate=0.4, seed=0, kernel="auto", optimizer=PLAIN_SGD
):
    """Every tensor, count, loss and error of the first steps.

    Returns the tensors that were 0 throughout.
    """
    real, formats, state = start(network, assigned, seed)
    fixed = FixedNetwork(network, assigned, real, kernel, seed, optimizer)
    options = {} if network.loss == "softmax_cross_entropy" else {"kind": network.loss}
    if network.exponential != Exponential():
        own = network.exponential
        options["recipe"] = own.index_bits, own.entry_bits, own.interpolation
    if optimizer:
        options["optimizer"] = dataclasses.asdict(optimizer)
    modes = {("rounding", tensor): mode for tensor, mode in assigned.rounding.items()}
    modes |= {("overflow", tensor): mode for tensor, mode in assigned.overflow.items()}
    modes |= {("words", key): source.to_dict() for key, source in assigned.words.items()}
    for tensor in ("accumulators", "bias_accumulators"):
        if isinstance(assigned.words.get(tensor), DroppedBits):
            modes["rounding", tensor] = "dropped_bits"
    learning_rate = LearningRate.of(rate)
    gamma = learning_rate.mantissa * Fraction(2) ** learning_rate.exponent
    random = np.random.default_rng(seed + 1)
    dead = None
    for number in range(steps):
        images = random.integers(0, fixed.input_format.max_code + 1, (batch, *network.input_shape))
        targets = random_targets(random, network, assigned.logits, batch)
        seen = {}

        def probe(tensor, layer, value, seen=seen):
            seen[tensor, layer] = value.codes.copy()

        result = fixed.train_step(images, targets, learning_rate, number, probe)
        run, loss_sum, wrong = oracle.train_step(
            describe(network, assigned),
            formats,
            tuple_of(assigned.logits),
            state,
            images.tolist(),
            targets.tolist(),
            gamma,
            modes,
            seed,
            number,
            **options,
        )
        assert set(seen) == set(run.tensors)
        for (tensor, layer), wanted in run.tensors.items():
            assert_same_codes(seen[tensor, layer], wanted, what=f"step {number}, {layer}, {tensor}")
        assert (result.loss_sum, result.wrong) == (loss_sum, wrong)
        loss_unit = losses.unit(network.loss, assigned.logits.step_exp, network.outputs)
        assert result.loss == float(loss_sum * loss_unit / batch)
        assert {
            key: (c.below, c.above, c.flushed) for key, c in result.counts.items()
        } == run.counts
        assert result.stopped == run.stopped
        assert {key: met.overflows for key, met in result.overflows.items()} == run.overflows
        zero = {key for key, codes in seen.items() if not codes.any()}
        dead = zero if dead is None else dead & zero
    return dead


WIDE = {
    "weights": 17,
    "activations": 18,
    "activation_grads": 21,
    "weight_grads": 24,
    "below": 20,
    "bias": 20,
}


ASSIGNMENTS = {
    "even widths": {"widths": {}},
    "odd widths": {
        "widths": {
            "weights": 5,
            "activations": 3,
            "activation_grads": 7,
            "weight_grads": 9,
            "below": 11,
            "bias": 7,
        }
    },
    "one bit where it can be": {
        "widths": {
            "weights": 2,
            "activations": 1,
            "activation_grads": 3,
            "weight_grads": 2,
            "below": 1,
            "bias": 3,
        }
    },
    "wide": {"widths": WIDE, "logits": Format(20, 4)},
    "another width in every layer": {
        "widths": [
            {"weights": 9, "activations": 8},
            {"weights": 6, "activations": 4, "activation_grads": 12, "bias": 6},
            {"weights": 11, "activations": 9, "weight_grads": 15, "below": 3},
        ]
    },
    "other roundings": {
        "widths": {},
        "rounding": {
            "activations": "zero",
            "activation_grads": "nearest_even",
            "weight_grads": "floor",
            "accumulators": "jam",
            "bias_grads": "away",
            "bias_accumulators": "nearest_odd",
            "logits": "ceil",
        },
    },
    "jam": {
        "widths": {},
        "rounding": dict.fromkeys(
            ("activations", "activation_grads", "weight_grads", "logits"), "jam"
        ),
    },
    "other overflows": {
        "widths": {"weight_grads": 4, "activation_grads": 4},
        "logits": Format(6, 0),
        "overflow": {
            "activations": "wrap",
            "activation_grads": "saturate_symmetric",
            "weight_grads": "saturate_zero",
            "logits": "wrap",
        },
    },
    "stochastic": {
        "widths": {},
        "rounding": {
            "activations": "stochastic",
            "activation_grads": "stochastic",
            "weight_grads": "stochastic",
            "accumulators": "stochastic",
            "bias_grads": "stochastic_equal",
            "logits": "stochastic",
        },
    },
    "without accumulators": {"widths": {}, "held": False},
    "without accumulators, stochastic": {
        "widths": {"weights": 12, "bias": 9},
        "held": False,
        "rounding": {"accumulators": "stochastic", "bias_accumulators": "floor"},
        "words": {"accumulators": Lfsr(16, (16, 15, 13, 4), 8, (7, 0xACE1), lanes=2, clocks=8)},
    },
    "words of registers, of few bits and of the dropped bits": {
        "widths": {},
        "rounding": dict.fromkeys(
            ("activations", "weight_grads", "accumulators", "bias_accumulators"), "stochastic"
        )
        | {"activation_grads": "stochastic_equal"},
        "words": {
            "activations": Lfsr(8, (8, 6, 5, 4), 5, (7, 99, 3), lanes=3, run=2, clocks=3),
            "activation_grads": Lfsr(16, (16, 15, 13, 4), 1, 0xACE1, "galois", period=5, start=2),
            "weight_grads": Lfsr(9, (9, 5), 4, (1, 2, 3, 4), lanes=4, low_bit=3, shift="right"),
            "c1.weight_grads": Philox(3),
            "accumulators": Philox(6),
            "c1.accumulators": WordMemory((5, 0, 7, 2, 6), 3),
            "bias_accumulators": DroppedBits(),
        },
    },
}
