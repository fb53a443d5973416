"""A mismatch is explained by the change of semantics that made it, and by none that does not give every code."""
import tempfile
from fractions import Fraction

import numpy as np
import pytest
from golden_steps import NETWORKS, golden_step
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import pooling, products
from oracle import rounding as oracle

from fxsim import testing
from fxsim.golden.capture import capture
from fxsim.golden.explain import _Comparison, explain
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import RANDOM_WORDS, Accumulator
from fxsim.golden.parts import Source
from fxsim.golden.recipes import recipe_for
from fxsim.kernels import softmax
from fxsim.nn.codes import LearningRate
from fxsim.nn.fixed import FixedNetwork
from fxsim.nn.init import initial_parameters

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
    values = [Fraction(int(total)) * Fraction(2) ** step_exp for total in np.asarray(sums).reshape(-1)]
    return oracle.quantize_all(values, fmt, rounding or entry.rounding, overflow or entry.overflow)[0]


def conv_terms(vectors, layer, stride=1, padding=1):
    """Terms of every pre-activation in the stated order, the bias last, in steps of Z; a function of the weights."""
    def codes(tensor):
        return vectors.codes(f"{layer}.{tensor}").astype(int)

    step_exps = {tensor: vectors.manifest.entry(f"{layer}.{tensor}").format.step_exp
                 for tensor in ("activations", "weights", "bias", "preactivations")}
    up = step_exps["activations"] + step_exps["weights"] - step_exps["preactivations"]
    bias_up = step_exps["bias"] - step_exps["preactivations"]
    x, w = codes("activations").tolist(), codes("weights").tolist()
    return {place: [[term << up for term in products.ordered_terms(x, w, *place, stride, padding)],
                    int(codes("bias")[place[3]]) << bias_up]
            for place in np.ndindex(*vectors.manifest.entry(f"{layer}.preactivations").shape)}


def weight_grad_sums(vectors, layer, stride=1, padding=1):
    x = vectors.codes(f"{layer}.activations").astype(int).tolist()
    g = vectors.codes(f"{layer}.preactivation_grads").astype(int).tolist()
    shape = vectors.manifest.entry(f"{layer}.weight_grads").shape
    step_exp = sum(vectors.manifest.entry(f"{layer}.{tensor}").format.step_exp
                   for tensor in ("activations", "preactivation_grads"))
    return products.conv_weight_grad(x, g, shape, stride, padding), step_exp


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("modes", [
    {}, {"rounding": dict.fromkeys(("activations", "activation_grads", "weight_grads", "logits", "accumulators",
                                    "bias_grads", "bias_accumulators"), "stochastic")},
    {"rounding": {"activations": "jam", "weight_grads": "floor", "activation_grads": "nearest_even"},
     "overflow": {"activations": "wrap", "weight_grads": "saturate_zero", "activation_grads": "saturate_symmetric"}},
], ids=["default", "stochastic", "mixed"])
def test_every_tensor_follows_from_the_others_by_the_manifest(vectors, name, modes):
    made = vectors(name, **modes)
    source, computed = Source(made), set()
    for entry in made.manifest.tensors:
        recipe, golden = recipe_for(source, entry), made.codes(entry.name)
        if recipe:
            computed.add(entry.tensor)
            assert _Comparison(recipe, golden, golden).holds(recipe.default), entry.name
    given = {"weights", "bias", "labels", "accumulators_before", "bias_accumulators_before"}
    tensors = {entry.tensor for entry in made.manifest.tensors if not entry.tensor.endswith(RANDOM_WORDS)}
    assert computed == tensors - given


@given(testing.networks_with_assignments(), st.data())
@settings(max_examples=30)
def test_every_tensor_of_any_network_follows_from_the_others(drawn, data):
    network, assignment = drawn
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 1))
    golden = capture(fixed, *data.draw(testing.batches(network, assignment)), LearningRate.of(0.7), 0)
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(golden, folder, ("npy",))
        source = Source(Vectors(folder))
        for entry in golden.manifest.tensors:
            recipe, codes = recipe_for(source, entry), golden.codes[entry.name]
            assert not recipe or _Comparison(recipe, codes, codes).holds(recipe.default), entry.name


@pytest.mark.parametrize("mode", NEAREST + OTHERS)
def test_another_rounding_of_weight_gradients(vectors, mode):
    made = vectors()
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding=mode)
    assert changes(made, "c1.weight_grads", planted) == {f"rounding {mode} instead of nearest_away"}


def test_floor_and_truncation_are_the_same_where_nothing_is_negative(vectors):
    made = vectors()
    entry = made.manifest.entry("c1.preactivations")
    codes = quantize_sums(made, "c2.activations", np.maximum(made.codes("c1.preactivations"), 0), entry.format.step_exp,
                          rounding="floor")
    pooled = pooling.max_pool(np.reshape(codes, entry.shape).tolist(), 2)[0]
    assert changes(made, "c2.activations", pooled) == {f"rounding {mode} instead of nearest_away"
                                                       for mode in ("floor", "zero")}


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
    assert changes(made, "c1.weight_grads", planted) == {"1 bit too many dropped (values 2 times too small)"}


def planted_preactivations(vectors, total_of):
    return [total_of(terms, bias) for terms, bias in conv_terms(vectors, "c1").values()]


def test_the_twin_gives_the_preactivations(vectors):
    made = vectors()
    planted = planted_preactivations(made, lambda terms, bias: sum(terms) + bias)
    assert np.array_equal(made.codes("c1.preactivations").reshape(-1), planted)


@pytest.mark.parametrize("fewer", [5, 6, 7])
def test_a_narrower_accumulator_that_wraps(vectors, fewer):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    planted = planted_preactivations(made, lambda terms, bias: oracle.wrap(sum(terms) + bias, bits - fewer, True))
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator {fewer} bits narrower ({bits - fewer} instead of {bits}), it wraps"}


def test_a_narrower_accumulator_that_saturates_at_the_end(vectors):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    limit = 2 ** (bits - 7)
    planted = planted_preactivations(made, lambda terms, bias: min(max(sum(terms) + bias, -limit), limit - 1))
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator 6 bits narrower ({bits - 6} instead of {bits}), it saturates once, at the end"}


ORDERS = {
    "": lambda terms, bias, shape: [*terms, bias],
    "; terms added in the order: bias first": lambda terms, bias, shape: [bias, *terms],
    "; terms added in the order: descending": lambda terms, bias, shape: [*terms[::-1], bias],
    "; terms added in the order: kernel row, kernel column, channel":
        lambda terms, bias, shape: [*np.reshape(terms, shape).transpose(1, 2, 0).reshape(-1).tolist(), bias],
    "; terms added in tiles of 4":
        lambda terms, bias, shape: [sum([*terms, bias][at:at + 4]) for at in range(0, len(terms) + 1, 4)],
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_narrower_accumulator_that_saturates_after_every_addition(vectors, order):
    made = vectors()
    bits = made.manifest.entry("c1.preactivations").accumulator.bits
    planted = planted_preactivations(
        made, lambda terms, bias: oracle_saturating(ORDERS[order](terms, bias, (2, 3, 3)), bits - 7))
    assert changes(made, "c1.preactivations", planted) == {
        f"accumulator 7 bits narrower ({bits - 7} instead of {bits}), it saturates after every addition{order}"}


def oracle_saturating(terms, bits):
    return products.accumulate(terms, bits, "saturate")[0]


def tree(terms, bits):
    limit = 2 ** (bits - 1)
    terms = [min(max(term, -limit), limit - 1) for term in terms]
    while len(terms) > 1:
        pairs = [terms[i:i + 2] for i in range(0, len(terms), 2)]
        terms = [min(max(sum(pair), -limit), limit - 1) for pair in pairs]
    return terms[0]


def test_an_adder_tree_instead_of_a_sequential_accumulator(tmp_path):
    """Vectors whose own accumulator saturates: another order is then a change of its own."""
    golden = golden_step()
    exact = Vectors(tmp_path / "exact")
    write_vectors(golden, exact.folder, ("npy",))
    entry = exact.manifest.entry("c1.preactivations")
    bits = entry.accumulator.bits - 7
    accumulator = Accumulator(bits, entry.accumulator.terms, entry.accumulator.order, "saturate")
    object.__setattr__(golden.manifest.entry("c1.preactivations"), "accumulator", accumulator)
    sums = planted_preactivations(exact, lambda terms, bias: oracle_saturating([*terms, bias], bits))
    golden.codes["c1.preactivations"] = np.reshape(sums, entry.shape)
    saturating = Vectors(tmp_path / "saturating")
    write_vectors(golden, saturating.folder, ("npy",))
    planted = planted_preactivations(exact, lambda terms, bias: tree([*terms, bias], bits))
    assert changes(saturating, "c1.preactivations", planted) == {"terms added in an adder tree"}
    planted = planted_preactivations(exact, lambda terms, bias: sum(terms) + bias)
    assert changes(saturating, "c1.preactivations", planted) == {f"accumulator of {bits} bits: wide enough to be exact"}


@pytest.mark.parametrize("drop", [1, 3])
def test_truncated_products(vectors, drop):
    made = vectors()
    entry = made.manifest.entry("c1.preactivations")
    up = sum(made.manifest.entry(f"c1.{tensor}").format.step_exp for tensor in ("activations", "weights")) \
        - entry.format.step_exp
    planted = planted_preactivations(
        made, lambda terms, bias: sum(term >> drop + up << drop + up for term in terms) + bias)
    what = "1 bit" if drop == 1 else f"{drop} bits"
    assert changes(made, "c1.preactivations", planted) == {f"products truncated by {what} before they are added"}


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


WEIGHTS = {
    "kernel flipped in rows and columns": lambda w: w[::-1, ::-1],
    "kernel rows and columns swapped": lambda w: w.transpose(1, 0, 2, 3),
    "weights transposed (input and output channels swapped)":
        lambda w: w.reshape(*w.shape[:2], w.shape[3], w.shape[2]).transpose(0, 1, 3, 2),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_read_the_wrong_way_forward(vectors, change):
    made = vectors()
    x, w = made.codes("c1.activations").astype(int), made.codes("c1.weights").astype(int)
    right, wrong = (np.array(products.conv_forward(x.tolist(), each.tolist(), 1, 1))
                    for each in (w, WEIGHTS[change](w)))
    z = made.codes("c1.preactivations")
    a, b, sums = (made.manifest.entry(f"c1.{tensor}").format.step_exp
                  for tensor in ("activations", "weights", "preactivations"))
    assert changes(made, "c1.preactivations", z + (wrong - right) * 2 ** (a + b - sums)) == {change}


@pytest.mark.parametrize("change", [*WEIGHTS, "weights after the update instead of before"])
def test_weights_read_the_wrong_way_backward(vectors, change):
    made = vectors()
    if change in WEIGHTS:
        w = WEIGHTS[change](made.codes("c2.weights").astype(int))
    else:
        w = made.codes("c2.updated_weights").astype(int)
    g = made.codes("c2.preactivation_grads").astype(int)
    sums = products.conv_input_grad(g.tolist(), w.tolist(), made.manifest.entry("c2.activations").shape, 1, 0)
    step_exp = sum(made.manifest.entry(f"c2.{tensor}").format.step_exp for tensor in ("preactivation_grads", "weights"))
    planted = quantize_sums(made, "c1.activation_grads", sums, step_exp)
    assert changes(made, "c1.activation_grads", planted) == {change}


MASKS = {"0 <= Z < 2": lambda z: 0 <= z < 2, "0 < Z <= 2": lambda z: 0 < z <= 2,
         "0 < Z, no upper end": lambda z: z > 0, "none, every gradient passes": lambda z: True}


@pytest.fixture
def boundary(tmp_path):
    """Vectors of one layer whose pre-activations lie on both ends of the ReLU's range."""
    golden = golden_step()
    entry = golden.manifest.entry("c2.preactivations")
    two = 2 ** (1 - entry.format.step_exp)
    z = golden.codes["c2.preactivations"].reshape(-1).copy()
    z[::5], z[1::5], z[2::5] = 0, two, two + 1
    z = z.reshape(entry.shape)
    mask = (z > 0) & (z < two)
    golden.codes.update({"c2.preactivations": z, "c2.relu_mask": mask.astype(np.uint8)})
    shape = golden.manifest.entry("c2.preactivation_grads").shape
    golden.codes["c2.preactivation_grads"] = golden.codes["c2.activation_grads"].reshape(shape) * mask
    write_vectors(golden, tmp_path, ("npy",))
    return Vectors(tmp_path)


@pytest.mark.parametrize("mask", MASKS)
def test_another_mask(boundary, mask):
    step = Fraction(2) ** boundary.manifest.entry("c2.preactivations").format.step_exp
    z = boundary.codes("c2.preactivations")
    opened = np.array([MASKS[mask](int(code) * step) for code in z.reshape(-1)]).reshape(z.shape)
    grads = boundary.codes("c2.activation_grads").reshape(z.shape) * opened
    expected = {f"ReLU mask {mask} instead of 0 < Z < 2"}
    assert changes(boundary, "c2.preactivation_grads", grads) == expected


def test_the_last_of_several_maxima(vectors):
    made = vectors(activations=3)
    entry = made.manifest.entry("c1.preactivations")
    z, grads = made.codes(entry.name), made.codes("c1.activation_grads").tolist()
    codes = np.reshape(quantize_sums(made, "c2.activations", np.maximum(z, 0), entry.format.step_exp), entry.shape)
    first = np.array(pooling.max_pool(codes.tolist(), 2)[1])
    last = 3 - np.array(pooling.max_pool(codes[:, ::-1, ::-1].tolist(), 2)[1])[:, ::-1, ::-1]
    mask = (z > 0) & (z < 2 ** (1 - entry.format.step_exp))
    passed, planted = (np.array(pooling.max_pool_backward(grads, winner.tolist(), 2, entry.shape)) * mask
                       for winner in (first, last))
    assert np.array_equal(passed, made.codes("c1.preactivation_grads"))
    assert changes(made, "c1.preactivation_grads", planted) == {
        "max pooling: a window's last maximum wins instead of its first"}


def test_average_pooling_that_truncates(vectors):
    made = vectors("average pool", batch=12)
    entry = made.manifest.entry("c1.preactivations")
    codes = quantize_sums(made, "d1.activations", np.maximum(made.codes(entry.name), 0), entry.format.step_exp)
    codes = np.reshape(codes, entry.shape)
    rows, columns = made.manifest.entry("d1.activations").shape[1:3]
    windows = codes[:, :3 * rows, :3 * columns].reshape(len(codes), rows, 3, columns, 3, -1)
    assert changes(made, "d1.activations", windows.sum(axis=(2, 4)) // 9) == {
        f"average pooling: rounding {mode} instead of nearest_away" for mode in ("floor", "zero")}


def test_a_loss_gradient_not_divided_by_the_batch(vectors):
    made = vectors()
    logits, labels = made.codes("d.logits").astype(np.int64).reshape(3, -1), made.codes("d.labels").astype(np.int64)
    step_exp = made.manifest.entry("d.logits").format.step_exp
    planted = []
    for row, label in zip(logits, labels):
        shares = np.empty(row.size, np.int64)
        softmax.softmax_row(row, softmax.softmax_scale_shift(step_exp), softmax.EXP2_TABLE,
                            np.empty(row.size, np.int64), shares)
        exact = [Fraction(int(p), 2**16) - (k == label) for k, p in enumerate(shares)]
        planted += oracle.quantize_all(exact, tuple_of(made.manifest.entry("d.activation_grads")))[0]
    assert changes(made, "d.activation_grads", planted) == {"not divided by the batch size"}


@pytest.mark.parametrize("order", ["N,C,H,W", "C,H,W,N", "N,W,H,C"])
def test_elements_in_another_order(vectors, order):
    made = vectors()
    golden = made.codes("c2.activations")
    planted = golden.transpose(["NHWC".index(axis) for axis in order.split(",")])
    assert changes(made, "c2.activations", planted.reshape(golden.shape)) == {
        f"elements in the order {order} instead of N,H,W,C"}


def update(made, rounding="nearest_away", parameter_rounding="nearest_up", held=1, sign=1, narrower=0):
    """(weights, accumulators) after the step, by the definition on fractions."""
    rate = made.manifest.learning_rate
    gamma = rate.mantissa * Fraction(2) ** rate.exponent
    fine, coarse, unit = (Fraction(2) ** made.manifest.entry(f"c2.{tensor}").format.step_exp
                          for tensor in ("accumulators", "weights", "weight_grads"))
    fmt = tuple_of(made.manifest.entry("c2.weights"))
    flat = [made.codes(f"c2.{tensor}").reshape(-1).tolist() for tensor in ("weights", "accumulators_before",
                                                                           "weight_grads")]
    weights, accumulators = [], []
    for w, acc, g in zip(*flat):
        t = w * coarse + held * acc * fine - sign * oracle.round_exact(gamma * g * unit / fine, rounding) * fine
        code = oracle.bound(oracle.round_exact(t / coarse, parameter_rounding), fmt, "saturate")[0]
        rest = int((t - code * coarse) / fine)
        weights.append(code)
        bits = made.manifest.entry("c2.accumulators").format.bits - narrower
        accumulators.append(oracle.bound(rest, (bits, 0, True), "saturate")[0])
    return weights, accumulators


@pytest.mark.parametrize("planted, expected", [
    ({"rounding": "floor"}, "update: rounding floor instead of nearest_away"),
    ({"rounding": "zero"}, "update: rounding zero instead of nearest_away"),
    ({"held": 0}, "accumulators before the step ignored (0)"),
    ({"sign": -1}, "update added instead of subtracted"),
    ({"parameter_rounding": "floor"}, "weights: rounding floor instead of nearest_up"),
    ({"narrower": 1}, "accumulators: range 1 bit narrower, overflow saturate"),
])
def test_another_update(vectors, planted, expected):
    made = vectors()
    assert np.array_equal(made.codes("c2.accumulators").reshape(-1), update(made)[1])
    assert changes(made, "c2.accumulators", update(made, **planted)[1]) == {expected}


def test_rounding_to_nearest_where_random_words_are_asked_for(vectors):
    made = vectors(rounding={"weight_grads": "stochastic"})
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="nearest_away")
    assert changes(made, "c1.weight_grads", planted) == {"rounding nearest_away instead of stochastic"}


def test_nothing_is_claimed_that_misses_one_code(vectors):
    made = vectors()
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="floor")
    for at in (0, len(planted) // 2, len(planted) - 1):
        spoilt = list(planted)
        spoilt[at] += 1 if spoilt[at] < 0 else -1
        assert changes(made, "c1.weight_grads", spoilt) == set()


def test_two_changes_at_once_are_not_one(vectors):
    made = vectors(weight_grads=(9, -4))
    planted = quantize_sums(made, "c1.weight_grads", *weight_grad_sums(made, "c1"), rounding="floor", overflow="wrap")
    assert changes(made, "c1.weight_grads", planted) == set()


def test_what_was_not_exported_is_named(tmp_path):
    golden = golden_step(layers=["c2"])
    write_vectors(golden, tmp_path, ("npy",))
    made = Vectors(tmp_path)
    entry = made.manifest.entry("c2.activations")
    found = explain(made, entry, made.codes(entry.name) ^ 1)
    assert found.changes == ()
    assert "c1.preactivations" in found.note
