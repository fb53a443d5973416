"""A mismatch is explained by the change of semantics that made it, and by none that does not
give every code.
"""

import tempfile
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import accumulators, pooling, products
from oracle import rounding as oracle
from support.golden_steps import NETWORKS, golden_step, precision

from fxsim import testing
from fxsim.experiment.replay import replay
from fxsim.experiment.settings import Settings
from fxsim.experiment.training import TrainingSetup
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.arithmetic import bounded
from fxsim.golden.capture import capture
from fxsim.golden.explain.recipes import recipe_for
from fxsim.golden.explain.search import Comparison, explain
from fxsim.golden.explain.source import Source
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import RANDOM_WORDS
from fxsim.kernels.elementwise import softmax
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network

NEAREST = ("nearest_even", "nearest_odd", "nearest_zero", "nearest_up", "nearest_down")
OTHERS = ("floor", "ceil", "zero", "away", "jam")


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    """golden_step(...) as vectors, each made once."""
    made = {}

    def get(name="max pool", **options):
        key = repr((name, options))
        if key not in made:
            folder = tmp_path_factory.mktemp("vectors")
            write_vectors(golden_step(name, **options), folder, ("npy",))
            made[key] = Vectors(folder)
        return made[key]

    return get


def tuple_of(entry):
    return entry.format.bits, entry.format.range_exp, entry.format.signed


def changes(vectors, name, dumped):
    entry = vectors.manifest.entry(name)
    dumped = np.asarray(dumped).reshape(entry.shape)
    assert not np.array_equal(dumped, vectors.codes(name)), "nothing was planted"
    return set(explain(vectors, entry, dumped).changes)


def quantize_sums(vectors, name, sums, step_exp, rounding=None, overflow=None, narrower=0):
    """Codes of integer sums with step 2**step_exp, by the twin."""
    entry = vectors.manifest.entry(name)
    bits, range_exp, signed = tuple_of(entry)
    fmt = bits - narrower, range_exp - narrower, signed
    values = [
        Fraction(int(total)) * Fraction(2) ** step_exp for total in np.asarray(sums).reshape(-1)
    ]
    return oracle.quantize_all(values, fmt, rounding or entry.rounding, overflow or entry.overflow)[
        0
    ]


def conv_terms(vectors, layer, stride=1, padding=1, **planted):
    """Terms of every pre-activation in the stated order, the bias last, in steps of Z.

    Planted: other operands.
    """

    def codes(tensor):
        return planted.get(tensor, vectors.codes(f"{layer}.{tensor}")).astype(int)

    step_exps = {
        tensor: vectors.manifest.entry(f"{layer}.{tensor}").format.step_exp
        for tensor in ("activations", "weights", "bias", "preactivations")
    }
    up = step_exps["activations"] + step_exps["weights"] - step_exps["preactivations"]
    bias_up = step_exps["bias"] - step_exps["preactivations"]
    x = codes("activations").tolist()
    w = codes("weights").tolist()
    return {
        place: [
            [term << up for term in products.ordered_terms(x, w, *place, stride, padding)],
            int(codes("bias")[place[3]]) << bias_up,
        ]
        for place in np.ndindex(*vectors.manifest.entry(f"{layer}.preactivations").shape)
    }


def weight_grad_sums(vectors, layer, stride=1, padding=1):
    x = vectors.codes(f"{layer}.activations").astype(int).tolist()
    g = vectors.codes(f"{layer}.preactivation_grads").astype(int).tolist()
    shape = vectors.manifest.entry(f"{layer}.weight_grads").shape
    step_exp = sum(
        vectors.manifest.entry(f"{layer}.{tensor}").format.step_exp
        for tensor in ("activations", "preactivation_grads")
    )
    return products.conv_weight_grad(x, g, shape, stride, padding), step_exp


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize(
    "modes",
    [
        {},
        {
            "rounding": dict.fromkeys(
                (
                    "activations",
                    "activation_grads",
                    "weight_grads",
                    "logits",
                    "accumulators",
                    "bias_grads",
                    "bias_accumulators",
                ),
                "stochastic",
            )
        },
        {
            "rounding": {
                "activations": "jam",
                "weight_grads": "floor",
                "activation_grads": "nearest_even",
            },
            "overflow": {
                "activations": "wrap",
                "weight_grads": "saturate_zero",
                "activation_grads": "saturate_symmetric",
            },
        },
    ],
    ids=["default", "stochastic", "mixed"],
)
def test_every_tensor_follows_from_the_others_by_the_manifest(vectors, name, modes):
    made = vectors(name, **modes)
    source = Source(made)
    computed = set()
    for entry in made.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = made.codes(entry.name)
        if recipe:
            computed.add(entry.tensor)
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    given = {"weights", "bias", "labels", "accumulators_before", "bias_accumulators_before"}
    tensors = {
        entry.tensor for entry in made.manifest.tensors if not entry.tensor.endswith(RANDOM_WORDS)
    }
    assert computed == tensors - given


@given(testing.networks_with_assignments(), st.data())
@settings(max_examples=30)
def test_every_tensor_of_any_network_follows_from_the_others(drawn, data):
    network, assignment = drawn
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 1))
    golden = capture(
        fixed, *data.draw(testing.batches(network, assignment)), LearningRate.of(0.7), 0
    )
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(golden, folder, ("npy",))
        source = Source(Vectors(folder))
        for entry in golden.manifest.tensors:
            recipe = recipe_for(source, entry)
            codes = golden.codes[entry.name]
            assert not recipe or Comparison(recipe, codes, codes).holds(recipe.default), entry.name


@pytest.mark.parametrize("mode", NEAREST + OTHERS)
def test_another_rounding_of_weight_gradients(vectors, mode):
    made = vectors(weight_grads=(11, 0))
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding=mode)
    assert changes(made, "c1.weight_grads", planted) == {f"rounding {mode} instead of nearest_away"}


def test_floor_and_truncation_are_the_same_where_nothing_is_negative(vectors):
    made = vectors()
    entry = made.manifest.entry("c1.preactivations")
    codes = quantize_sums(
        made,
        "c2.activations",
        np.maximum(made.codes("c1.preactivations"), 0),
        entry.format.step_exp,
        rounding="floor",
    )
    pooled = pooling.max_pool(np.reshape(codes, entry.shape).tolist(), 2)[0]
    assert changes(made, "c2.activations", pooled) == {
        f"rounding {mode} instead of nearest_away" for mode in ("floor", "zero")
    }


@pytest.mark.parametrize("overflow", ["wrap", "saturate_zero", "saturate_symmetric"])
def test_another_overflow(vectors, overflow):
    made = vectors(weight_grads=(9, -4))
    sums = weight_grad_sums(made, "c1")
    planted = quantize_sums(made, "c1.weight_grads", *sums, overflow=overflow)
    assert changes(made, "c1.weight_grads", planted) == {f"overflow {overflow} instead of saturate"}


def test_a_range_one_bit_too_narrow(vectors):
    made = vectors(weight_grads=(9, -4))
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), narrower=1)
    assert changes(made, "c1.weight_grads", planted) == {"range 1 bit narrower, overflow saturate"}


def test_one_bit_too_many_dropped(vectors):
    made = vectors()
    sums, step_exp = weight_grad_sums(made, "c1")
    planted = quantize_sums(made, "c1.weight_grads", sums, step_exp - 1)
    assert changes(made, "c1.weight_grads", planted) == {
        "1 bit too many dropped (values 2 times too small)"
    }


def quantize_twice(vectors, name, sums, step_exp, guard_bits, guard_rounding):
    """Codes of sums that are first rounded to `guard_bits` below the step."""
    unit = Fraction(2) ** (vectors.manifest.entry(name).format.step_exp - guard_bits)
    exact = Fraction(2) ** step_exp
    first = [
        oracle.round_exact(int(total) * exact / unit, guard_rounding)
        for total in np.reshape(sums, -1)
    ]
    return quantize_sums(
        vectors, name, first, vectors.manifest.entry(name).format.step_exp - guard_bits
    )


@pytest.mark.parametrize(
    "guard_bits, guard_rounding, cause",
    [
        (1, "nearest_away", "rounded twice, nearest_away: first to 1 bit below the step"),
        (2, "nearest_away", "rounded twice, nearest_away: first to 2 bits below the step"),
        (1, "floor", "all but 1 bit below the step cut off before rounding nearest_away"),
    ],
)
def test_two_roundings_instead_of_one(vectors, guard_bits, guard_rounding, cause):
    made = vectors(weight_grads=(10, 0), batch=12)
    sums, step_exp = weight_grad_sums(made, "c1")
    planted = quantize_twice(made, "c1.weight_grads", sums, step_exp, guard_bits, guard_rounding)
    assert changes(made, "c1.weight_grads", planted) == {cause}


def planted_preactivations(vectors, total_of, **planted):
    return [total_of(terms, bias) for terms, bias in conv_terms(vectors, "c1", **planted).values()]


def test_the_twin_gives_the_preactivations(vectors):
    made = vectors()
    planted = planted_preactivations(made, lambda terms, bias: sum(terms) + bias)
    assert np.array_equal(made.codes("c1.preactivations").reshape(-1), planted)


@pytest.mark.parametrize("fewer", [5, 6, 7])
def test_a_narrower_accumulator_that_wraps(vectors, fewer):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    planted = planted_preactivations(
        made, lambda terms, bias: oracle.wrap(sum(terms) + bias, bits - fewer, True)
    )
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator {fewer} bits narrower ({bits - fewer} instead of {bits}), it wraps"
    }


def test_a_narrower_accumulator_that_saturates_at_the_end(vectors):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    limit = 2 ** (bits - 7)
    planted = planted_preactivations(
        made, lambda terms, bias: min(max(sum(terms) + bias, -limit), limit - 1)
    )
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator 6 bits narrower ({bits - 6} instead of {bits}), it saturates once, at the end"
    }


HELD = {"overflow": "saturate", "when": "each addition", "order": "sequential"}
HELD |= {"rounding": "floor", "drop": 0, "tile": 0}
ORDERS = {
    "": {},
    "; terms added in the order: bias first": {"bias": "first"},
    "; terms added in the order: descending": {"turn": lambda terms: terms[::-1]},
    "; terms added in the order: kernel row, kernel column, channel": {
        "turn": lambda terms: np.reshape(terms, (2, 3, 3)).transpose(1, 2, 0).reshape(-1).tolist()
    },
    "; terms added in an adder tree": {"order": "tree"},
    "; terms added in tiles of 4": {"order": "tiles", "tile": 4},
    "; terms added in 2 lanes": {"lanes": 2},
    "; terms added in 4 lanes": {"lanes": 4},
    "; terms added in 8 lanes": {"lanes": 8},
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_narrower_accumulator_that_saturates_after_every_addition(vectors, order):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    model = HELD | {"bits": bits - 7} | ORDERS[order]
    turn = model.pop("turn", list)
    planted = planted_preactivations(
        made, lambda terms, bias: accumulators.accumulate(turn(terms), model, bias)[0]
    )
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator 7 bits narrower ({bits - 7} instead of {bits}), it saturates after every "
        f"addition{order}"
    }


@pytest.mark.parametrize("drop", [1, 3])
def test_truncated_products(vectors, drop):
    made = vectors()
    entry = made.manifest.entry("c1.preactivations")
    up = (
        sum(
            made.manifest.entry(f"c1.{tensor}").format.step_exp
            for tensor in ("activations", "weights")
        )
        - entry.format.step_exp
    )
    planted = planted_preactivations(
        made, lambda terms, bias: sum(term >> drop + up << drop + up for term in terms) + bias
    )
    what = "1 bit" if drop == 1 else f"{drop} bits"
    assert changes(made, "c1.preactivations", planted) == {
        f"products truncated by {what} before they are added"
    }


def test_a_missing_bias(vectors):
    made = vectors()
    planted = planted_preactivations(made, lambda terms, bias: sum(terms))
    assert changes(made, "c1.preactivations", planted) == {"bias missing"}


def test_a_missing_bias_seen_only_in_the_activations(vectors):
    made = vectors()
    entry = made.manifest.entry("c1.preactivations")
    sums = np.reshape(planted_preactivations(made, lambda terms, bias: sum(terms)), entry.shape)
    codes = quantize_sums(made, "c2.activations", np.maximum(sums, 0), entry.format.step_exp)
    pooled = pooling.max_pool(np.reshape(codes, entry.shape).tolist(), 2)[0]
    assert changes(made, "c2.activations", pooled) == {"bias missing"}


MISREAD = {
    ("activations", "activations sign-extended instead of zero-extended"): lambda codes: (
        oracle.wrap(codes, 6, True)
    ),
    ("activations", "activations read without the last 1 bit (5 instead of 6)"): lambda codes: (
        codes & -2
    ),
    ("weights", "weights zero-extended instead of sign-extended"): lambda codes: codes % 2**7,
    ("weights", "weights read without the first 1 bit (6 instead of 7)"): lambda codes: oracle.wrap(
        codes, 6, True
    ),
    ("bias", "bias zero-extended instead of sign-extended"): lambda codes: codes % 2**9,
}


@pytest.mark.parametrize("tensor, change", MISREAD)
def test_an_operand_of_the_wrong_sign_or_width(vectors, tensor, change):
    made = vectors()
    read = np.vectorize(MISREAD[tensor, change])(made.codes(f"c1.{tensor}").astype(int))
    planted = planted_preactivations(made, lambda terms, bias: sum(terms) + bias, **{tensor: read})
    assert changes(made, "c1.preactivations", planted) == {change}


def test_gradients_of_the_wrong_sign(vectors):
    made = vectors()
    x, g = (
        made.codes(f"c1.{tensor}").astype(int) for tensor in ("activations", "preactivation_grads")
    )
    bits = made.manifest.entry("c1.preactivation_grads").format.bits
    _, step_exp = weight_grad_sums(made, "c1")
    sums = products.conv_weight_grad(x.tolist(), (g % 2**bits).tolist(), (3, 3, 2, 3), 1, 1)
    planted = quantize_sums(made, "c1.weight_grads", sums, step_exp)
    assert changes(made, "c1.weight_grads", planted) == {
        "preactivation_grads zero-extended instead of sign-extended"
    }


@pytest.mark.parametrize("stale", [("weights",), ("bias",), ("weights", "bias")])
def test_stale_parameters_forward(vectors, stale):
    made = vectors(earlier=True)
    planted = planted_preactivations(
        made,
        lambda terms, bias: sum(terms) + bias,
        **{tensor: made.codes(f"c1.earlier_{tensor}") for tensor in stale},
    )
    assert changes(made, "c1.preactivations", planted) == {
        f"{' and '.join(stale)} of the step before"
    }


def test_what_a_step_is_stale_against_is_the_step_before():
    settings = Settings.make(network="digits-convnet", width=0.25, quick=True)
    network = settings.build_network()
    assignment = PrecisionAssignment(network.name, {name: precision() for name in network.names})
    setup = TrainingSetup.of(settings)
    first, second = (replay(setup, assignment, step) for step in (0, 1))
    assert not [name for name in first.codes if ".earlier_" in name]
    for name in network.names:
        for tensor in ("weights", "bias"):
            assert np.array_equal(
                second.codes[f"{name}.earlier_{tensor}"], first.codes[f"{name}.{tensor}"]
            )
            assert np.array_equal(
                second.codes[f"{name}.{tensor}"], first.codes[f"{name}.updated_{tensor}"]
            )


WEIGHTS = {
    "kernel flipped in rows and columns": lambda w: w[::-1, ::-1],
    "kernel rows and columns swapped": lambda w: w.transpose(1, 0, 2, 3),
    "weights transposed (input and output channels swapped)": lambda w: w.reshape(
        *w.shape[:2], w.shape[3], w.shape[2]
    ).transpose(0, 1, 3, 2),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_read_the_wrong_way_forward(vectors, change):
    made = vectors()
    x = made.codes("c1.activations").astype(int)
    w = made.codes("c1.weights").astype(int)
    right, wrong = (
        np.array(products.conv_forward(x.tolist(), each.tolist(), 1, 1))
        for each in (w, WEIGHTS[change](w))
    )
    z = made.codes("c1.preactivations")
    a, b, sums = (
        made.manifest.entry(f"c1.{tensor}").format.step_exp
        for tensor in ("activations", "weights", "preactivations")
    )
    assert changes(made, "c1.preactivations", z + (wrong - right) * 2 ** (a + b - sums)) == {change}


OTHER_STEPS = {
    "weights after the update instead of before": "updated_weights",
    "weights of the step before": "earlier_weights",
}


@pytest.mark.parametrize("change", [*WEIGHTS, *OTHER_STEPS])
def test_weights_read_the_wrong_way_backward(vectors, change):
    made = vectors(earlier=True)
    w = made.codes(f"c2.{OTHER_STEPS.get(change, 'weights')}").astype(int)
    if change in WEIGHTS:
        w = WEIGHTS[change](w)
    g = made.codes("c2.preactivation_grads").astype(int)
    sums = products.conv_input_grad(
        g.tolist(), w.tolist(), made.manifest.entry("c2.activations").shape, 1, 0
    )
    step_exp = sum(
        made.manifest.entry(f"c2.{tensor}").format.step_exp
        for tensor in ("preactivation_grads", "weights")
    )
    planted = quantize_sums(made, "c1.activation_grads", sums, step_exp)
    assert changes(made, "c1.activation_grads", planted) == {change}


MASKS = {
    "0 <= Z < ceiling": lambda z: 0 <= z < 2,
    "0 < Z <= ceiling": lambda z: 0 < z <= 2,
    "0 < Z, no upper end": lambda z: z > 0,
    "none, every gradient passes": lambda z: True,
}


@pytest.fixture
def boundary(tmp_path):
    """Vectors of one layer whose pre-activations lie on both ends of the ReLU's range."""
    golden = golden_step()
    entry = golden.manifest.entry("c2.preactivations")
    two = 2 ** (1 - entry.format.step_exp)
    z = golden.codes["c2.preactivations"].reshape(-1).copy()
    z[::5] = 0
    z[1::5] = two
    z[2::5] = two + 1
    z = z.reshape(entry.shape)
    mask = (z > 0) & (z < two)
    golden.codes.update({"c2.preactivations": z, "c2.relu_mask": mask.astype(np.uint8)})
    shape = golden.manifest.entry("c2.preactivation_grads").shape
    golden.codes["c2.preactivation_grads"] = (
        golden.codes["c2.activation_grads"].reshape(shape) * mask
    )
    write_vectors(golden, tmp_path, ("npy",))
    return Vectors(tmp_path)


@pytest.mark.parametrize("mask", MASKS)
def test_another_mask(boundary, mask):
    step = Fraction(2) ** boundary.manifest.entry("c2.preactivations").format.step_exp
    z = boundary.codes("c2.preactivations")
    opened = np.array([MASKS[mask](int(code) * step) for code in z.reshape(-1)]).reshape(z.shape)
    grads = boundary.codes("c2.activation_grads").reshape(z.shape) * opened
    expected = {f"ReLU mask {mask} instead of 0 < Z < ceiling"}
    assert changes(boundary, "c2.preactivation_grads", grads) == expected


def test_the_last_of_several_maxima(vectors):
    made = vectors(activations=3)
    entry = made.manifest.entry("c1.preactivations")
    z = made.codes(entry.name)
    grads = made.codes("c1.activation_grads").tolist()
    codes = np.reshape(
        quantize_sums(made, "c2.activations", np.maximum(z, 0), entry.format.step_exp), entry.shape
    )
    first = np.array(pooling.max_pool(codes.tolist(), 2)[1])
    last = 3 - np.array(pooling.max_pool(codes[:, ::-1, ::-1].tolist(), 2)[1])[:, ::-1, ::-1]
    mask = (z > 0) & (z < 2 ** (1 - entry.format.step_exp))
    passed, planted = (
        np.array(pooling.max_pool_backward(grads, winner.tolist(), 2, entry.shape)) * mask
        for winner in (first, last)
    )
    assert np.array_equal(passed, made.codes("c1.preactivation_grads"))
    assert changes(made, "c1.preactivation_grads", planted) == {
        "max pooling: a window's last maximum wins instead of its first"
    }


def test_average_pooling_that_truncates(vectors):
    made = vectors("average pool", batch=12)
    entry = made.manifest.entry("c1.preactivations")
    codes = quantize_sums(
        made, "d1.activations", np.maximum(made.codes(entry.name), 0), entry.format.step_exp
    )
    codes = np.reshape(codes, entry.shape)
    rows, columns = made.manifest.entry("d1.activations").shape[1:3]
    windows = codes[:, : 3 * rows, : 3 * columns].reshape(len(codes), rows, 3, columns, 3, -1)
    assert changes(made, "d1.activations", windows.sum(axis=(2, 4)) // 9) == {
        f"average pooling: rounding {mode} instead of nearest_away" for mode in ("floor", "zero")
    }


def test_a_loss_gradient_not_divided_by_the_batch(vectors):
    made = vectors()
    logits = made.codes("d.logits").astype(np.int64).reshape(3, -1)
    labels = made.codes("d.labels").astype(np.int64)
    step_exp = made.manifest.entry("d.logits").format.step_exp
    planted = []
    for row, label in zip(logits, labels):
        shares = np.empty(row.size, np.int64)
        softmax.softmax_row(
            row,
            softmax.softmax_scale_shift(step_exp),
            softmax.powers(8, 30, True),
            np.empty(row.size, np.int64),
            shares,
        )
        exact = [Fraction(int(p), 2**16) - (k == label) for k, p in enumerate(shares)]
        planted += oracle.quantize_all(exact, tuple_of(made.manifest.entry("d.activation_grads")))[
            0
        ]
    assert changes(made, "d.activation_grads", planted) == {"not divided by the batch size"}


@pytest.mark.parametrize("order", ["N,C,H,W", "C,H,W,N", "N,W,H,C"])
def test_elements_in_another_order(vectors, order):
    made = vectors()
    golden = made.codes("c2.activations")
    planted = golden.transpose(["NHWC".index(axis) for axis in order.split(",")])
    assert changes(made, "c2.activations", planted.reshape(golden.shape)) == {
        f"elements in the order {order} instead of N,H,W,C"
    }


def test_elements_in_reversed_order(vectors):
    made = vectors()
    planted = made.codes("c2.activations").reshape(-1)[::-1]
    assert changes(made, "c2.activations", planted) == {
        "elements in reversed order, the last one first"
    }


def test_bytes_in_the_other_order(vectors):
    """As a device of the other endianness writes the low 16 bits of its codes."""
    made = vectors(weight_grads=(16, 0))
    swapped = made.codes("c1.weight_grads").astype("<i2").byteswap()
    assert changes(made, "c1.weight_grads", swapped) == {
        "the 2 bytes of a code in the other order (endianness)"
    }


@pytest.mark.parametrize("bits", [9, 16])
def test_bits_in_the_other_order(vectors, bits):
    made = vectors(weight_grads=(bits, 0))
    codes = made.codes("c1.weight_grads")
    texts = [f"{int(code) % 2**bits:0{bits}b}"[::-1] for code in codes.reshape(-1)]
    planted = [oracle.wrap(int(text, 2), bits, True) for text in texts]
    assert changes(made, "c1.weight_grads", planted) == {
        f"the {bits} bits of a code in the other order"
    }


@pytest.mark.parametrize("order", ["O,C,KH,KW", "C,O,KH,KW"])
def test_weights_with_the_channels_first(vectors, order):
    made = vectors()
    golden = made.codes("c1.weight_grads")
    planted = golden.transpose([["KH", "KW", "C", "O"].index(axis) for axis in order.split(",")])
    assert changes(made, "c1.weight_grads", planted.reshape(golden.shape)) == {
        f"elements in the order {order} instead of KH,KW,C,O"
    }


def update(
    made,
    rounding="nearest_away",
    parameter_rounding="nearest_up",
    held=1,
    sign=1,
    narrower=0,
    zero_extended="",
):
    """(weights, accumulators) after the step, by the definition on fractions."""
    rate = made.manifest.learning_rate
    gamma = rate.mantissa * Fraction(2) ** rate.exponent
    fine, coarse, unit = (
        Fraction(2) ** made.manifest.entry(f"c2.{tensor}").format.step_exp
        for tensor in ("accumulators", "weights", "weight_grads")
    )
    fmt = tuple_of(made.manifest.entry("c2.weights"))
    flat = {
        tensor: made.codes(f"c2.{tensor}").astype(int).reshape(-1)
        for tensor in ("weights", "accumulators_before", "weight_grads")
    }
    if zero_extended:
        flat[zero_extended] %= 2 ** made.manifest.entry(f"c2.{zero_extended}").format.bits
    weights = []
    accumulators = []
    for w, acc, g in zip(*(codes.tolist() for codes in flat.values())):
        t = (
            w * coarse
            + held * acc * fine
            - sign * oracle.round_exact(gamma * g * unit / fine, rounding) * fine
        )
        code = oracle.bound(oracle.round_exact(t / coarse, parameter_rounding), fmt, "saturate")[0]
        rest = int((t - code * coarse) / fine)
        weights.append(code)
        bits = made.manifest.entry("c2.accumulators").format.bits - narrower
        accumulators.append(oracle.bound(rest, (bits, 0, True), "saturate")[0])
    return weights, accumulators


@pytest.mark.parametrize(
    "planted, expected",
    [
        ({"rounding": "floor"}, "update: rounding floor instead of nearest_away"),
        ({"rounding": "zero"}, "update: rounding zero instead of nearest_away"),
        ({"held": 0}, "accumulators before the step ignored (0)"),
        ({"sign": -1}, "update added instead of subtracted"),
        ({"sign": 0}, "update left out"),
        ({"zero_extended": "weight_grads"}, "weight_grads zero-extended instead of sign-extended"),
        ({"parameter_rounding": "floor"}, "weights: rounding floor instead of nearest_up"),
        ({"narrower": 1}, "accumulators: range 1 bit narrower, overflow saturate"),
    ],
)
def test_another_update(vectors, planted, expected):
    made = vectors()
    assert np.array_equal(made.codes("c2.accumulators").reshape(-1), update(made)[1])
    assert changes(made, "c2.accumulators", update(made, **planted)[1]) == {expected}


@pytest.mark.parametrize(
    "planted, expected",
    [
        (
            {"zero_extended": "accumulators_before"},
            "accumulators_before zero-extended instead of sign-extended",
        ),
        ({"held": 0}, "accumulators before the step ignored (0)"),
        ({"sign": 0}, "update left out"),
        ({"parameter_rounding": "floor"}, "weights: rounding floor instead of nearest_up"),
    ],
)
def test_another_update_seen_in_the_weights(vectors, planted, expected):
    made = vectors()
    assert np.array_equal(made.codes("c2.updated_weights").reshape(-1), update(made)[0])
    assert expected in changes(made, "c2.updated_weights", update(made, **planted)[0])


def test_rounding_to_nearest_where_random_words_are_asked_for(vectors):
    made = vectors(rounding={"weight_grads": "stochastic"})
    planted = quantize_sums(
        made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="nearest_away"
    )
    assert changes(made, "c1.weight_grads", planted) == {
        "rounding nearest_away instead of stochastic"
    }


def test_nothing_is_claimed_that_misses_one_code(vectors):
    made = vectors()
    planted = quantize_sums(
        made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="floor"
    )
    for at in (0, len(planted) // 2, len(planted) - 1):
        spoilt = list(planted)
        spoilt[at] += 1 if spoilt[at] < 0 else -1
        assert changes(made, "c1.weight_grads", spoilt) == set()


def test_two_changes_at_once_are_not_one(vectors):
    made = vectors(weight_grads=(9, -4))
    planted = quantize_sums(
        made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="floor", overflow="wrap"
    )
    assert changes(made, "c1.weight_grads", planted) == set()


BRANCHED = Network(
    "branched",
    (6, 6, 2),
    (
        Conv(name="c1", filters=3, padding=1, batch_norm=True),
        Conv(name="c2", filters=3, padding=1, batch_norm=True, add="c1"),
        Conv(name="c3", filters=4, kernel=2, dropout=0.25),
        Dense(name="d1", units=5),
        Dense(name="d2", units=3, relu=False),
    ),
)


@pytest.fixture(scope="module")
def branched(tmp_path_factory):
    """A step with batch norm, a residual addition and dropout."""
    assignment = PrecisionAssignment(BRANCHED.name, {name: precision() for name in BRANCHED.names})
    fixed = FixedNetwork(BRANCHED, assignment, initial_parameters(BRANCHED, 2))
    random = np.random.default_rng(0)
    images = random.integers(0, fixed.input_format.max_code + 1, (3, 6, 6, 2))
    labels = random.integers(0, 3, 3)
    fixed.train_step(images, labels, LearningRate.of(0.3), 0)
    folder = tmp_path_factory.mktemp("branched")
    write_vectors(capture(fixed, images, labels, LearningRate.of(0.3), 1), folder, ("npy",))
    return Vectors(folder)


def test_all_but_constants_of_channels_is_covered(branched):
    """... with batch norm, residual additions and dropout, too."""
    source = Source(branched)
    computed = set()
    for entry in branched.manifest.tensors:
        recipe = recipe_for(source, entry)
        golden = branched.codes(entry.name)
        if recipe:
            computed.add(entry.name)
            assert Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    results = {entry for entry in branched.manifest.tensors if entry.role == "result"}
    left = {entry.tensor for entry in results if entry.name not in computed}
    assert left == CONSTANTS


CONSTANTS = {
    "running_mean",
    "running_variance",
    "normalization_scales",
    "normalization_slopes",
    "normalization_offsets",
}


@pytest.mark.parametrize("name", ["c1", "c2"])
def test_a_change_before_or_after_batch_norm_is_explained(branched, name):
    x, w, z = (
        branched.codes(f"{name}.{tensor}").astype(int)
        for tensor in ("activations", "weights", "preactivations")
    )
    up = (
        sum(
            branched.manifest.entry(f"{name}.{tensor}").format.step_exp
            for tensor in ("activations", "weights")
        )
        - branched.manifest.entry(f"{name}.preactivations").format.step_exp
    )
    planted = [
        sum(term >> 1 << 1 for term in products.ordered_terms(x.tolist(), w.tolist(), *place, 1, 1))
        << up
        for place in np.ndindex(*z.shape)
    ]
    assert changes(branched, f"{name}.preactivations", planted) == {
        "products truncated by 1 bit before they are added"
    }
    sums, step_exp = weight_grad_sums(branched, name)
    planted = quantize_sums(branched, f"{name}.weight_grads", sums, step_exp, rounding="floor")
    assert "rounding floor instead of nearest_away" in changes(
        branched, f"{name}.weight_grads", planted
    )


def test_what_was_not_exported_is_named(tmp_path):
    golden = golden_step(layers=["c2"])
    write_vectors(golden, tmp_path, ("npy",))
    made = Vectors(tmp_path)
    entry = made.manifest.entry("c2.activations")
    found = explain(made, entry, made.codes(entry.name) ^ 1)
    assert found.changes == ()
    assert "c1.preactivations" in found.note


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [1, 8, 31, 33, 34, 62])
def test_codes_of_any_width_wrap(bits, signed):
    format = Format(bits, 0, signed)
    codes = np.random.default_rng(bits).integers(-(2**63), 2**63, 200)
    wanted = [(code - format.min_code) % 2**bits + format.min_code for code in codes.tolist()]
    assert bounded(codes, format, "wrap").tolist() == wanted
