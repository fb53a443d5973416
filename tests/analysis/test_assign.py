"""Assignments meet the criteria when these are written out anew.

Statistics, their files, and their observer.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fxsim.activation import Activation
from fxsim.analysis import criteria
from fxsim.analysis.assign import Rules, assign, feedforward_bits
from fxsim.analysis.decisions import Decisions
from fxsim.analysis.measure import flushable_magnitudes, measure
from fxsim.analysis.statistics import (
    FIELDS,
    FLUSHABLE,
    OF_PARAMETERS,
    PER_LAYER,
    GradientStatistics,
    Statistics,
)
from fxsim.errors import InputError, present
from fxsim.files import read_arrays, write_arrays
from fxsim.formats import Format
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import TENSORS
from fxsim.nn.precision import PrecisionAssignment, Reason
from fxsim.nn.spec import Conv, Dense, Network, Pool

NETWORK = Network(
    "assigned",
    (8, 8, 1),
    (
        Conv(name="conv1", filters=4, padding=1, pool=Pool("max", 2)),
        Conv(name="skip", filters=4, relu=False, input="conv1", padding=1),
        Conv(name="conv2", filters=4, batch_norm=True, input="conv1", padding=1, add="skip"),
        Dense(name="fc", units=3, relu=False),
    ),
)
LAYERS = len(NETWORK.names)
GAMMA_MIN = 0.01
_LATER = ("activations_max", *OF_PARAMETERS)


def statistics(seed: int = 0, spread: float = 4.0, **changes) -> Statistics:
    """Random statistics over a few powers of two around plausible magnitudes."""
    rng = np.random.default_rng(seed)

    def around(magnitude):
        return magnitude * 2.0 ** rng.uniform(-spread, spread, LAYERS)

    fields = {name: around(1.0) for name in PER_LAYER if name not in _LATER}
    fields |= dict.fromkeys(OF_PARAMETERS, np.ones(LAYERS))
    for tensor, magnitude in (
        ("weight_grads", 2.0**-8),
        ("activation_grads", 2.0**-12),
        ("bias_grads", 2.0**-8),
    ):
        fields[f"{tensor}_sigma_min"] = around(magnitude)
        fields[f"{tensor}_sigma_max"] = fields[f"{tensor}_sigma_min"] * 2.0 ** rng.uniform(
            0, 4, LAYERS
        )
    fields["activations_gain"][2] = fields["activations_gain"][1]
    fields["weight_grads_count"] = np.array([NETWORK.shape(name).weights for name in NETWORK.names])
    fields["activation_grads_count"] = np.array(
        [32 * math.prod(NETWORK.shape(name).output) for name in NETWORK.names]
    )
    fields["activations_max"] = around(1.0)
    fields |= {"network": NETWORK.name, "layers": NETWORK.names}
    fields |= {"logits_max": 5.0, "gamma_min": GAMMA_MIN, "batch_size": 32}
    fields["decisions"] = decisions(rng, spread)
    return Statistics(**fields | changes)


def decisions(rng, spread: float = 2.0) -> Decisions:
    """Of 40 images and three classes: gains over a few powers of two, margins down to 0."""
    gains = 2.0 ** rng.uniform(-spread, spread, 7)
    return Decisions(
        rng.uniform(0, 4, (40, 2)), gains[:, None, None] * rng.uniform(0.1, 1, (7, 40, 2))
    )


seeds = st.integers(0, 2**32)


@given(seeds)
def test_weight_and_activation_steps_keep_the_mismatch_bound_and_twice_the_steps_do_not(seed):
    given_ = statistics(seed)
    found = assign(NETWORK, given_, Rules(0.01, "paper"))
    # A_l of conv1 is the input, that of skip and conv2 one tensor, read twice.
    gains = [*given_.weights_gain, *given_.activations_gain[[0, 1, 3]]]
    layers = list(found.layers.values())
    steps = [layer.weights.step for layer in layers] + [
        layers[row].activations.step for row in (0, 1, 3)
    ]
    bound = sum(gain * step**2 for gain, step in zip(gains, steps))
    assert bound <= 0.01 < 4 * bound or min(layer.weights.bits for layer in layers) == 1
    assert criteria.mismatch_bound(gains, feedforward_bits(NETWORK, found)) == pytest.approx(bound)
    terms = [gain * step**2 for gain, step in zip(gains, steps)]
    assert max(terms) / min(terms) <= 4 * (1 + 1e-9)


@given(seeds)
def test_feedforward_formats(seed):
    found = assign(NETWORK, statistics(seed)).layers
    for layer in found.values():
        assert layer.weights.range_exp == 0 and layer.weights.signed
    assert found["conv1"].activations.range_exp == 0 and not found["conv1"].activations.signed
    assert found["skip"].activations == found["conv2"].activations
    assert found["fc"].activations.range_exp == 1 and not found["fc"].activations.signed


def test_imported_parameters_that_are_larger_get_their_range():
    plain = assign(NETWORK, statistics())
    larger = {"weights_max": [2.0, 2.1, 0.3, 1.0], "bias_max": [1.0, 5.0, 0.0, 0.9]}
    larger |= {"gamma_max": [0, 0, 2.0, 0], "beta_max": [0, 0, 2.5, 0]}
    found = assign(NETWORK, statistics(**{name: np.array(own) for name, own in larger.items()}))
    for name, extra in (("conv1", 1), ("skip", 2), ("conv2", 0), ("fc", 0)):
        own = found.layers[name].weights
        before = plain.layers[name].weights
        assert own == Format(before.bits + extra, extra) and own.step == before.step
        assert found.layers[name].accumulators == plain.layers[name].accumulators
    assert found.layers["skip"].bias == Format(16, 3)
    assert found.layers["skip"].bias_accumulators == Format(32, -13)
    assert found.layers["conv1"].bias == plain.layers["conv1"].bias == Format(16, 0)
    norm = found.layers["conv2"].batch_norm
    assert (norm.gamma, norm.beta) == (Format(16, 1), Format(16, 2))
    assert norm.beta_accumulators == Format(32, -14)
    assert found.reasons["skip", "bias"].statistic == {"abs_max": 5.0}
    with pytest.raises(
        InputError, match="'skip': weights would need .* the largest weight, 1e\\+09"
    ):
        assign(NETWORK, statistics(weights_max=np.array([1.0, 1e9, 1.0, 1.0])))


@given(seeds, st.sampled_from([4, 8]), st.booleans())
def test_gradient_formats_meet_gc_rqb_bqn_and_as_and_a_coarser_power_of_two_does_not(
    seed, clip_factor, fourth_root
):
    given_ = statistics(seed)
    found = assign(NETWORK, given_, Rules(clip_factors=(clip_factor, 2), fourth_root=fourth_root))
    for row, layer in enumerate(found.layers.values()):
        weight_grads = layer.weight_grads
        activation_grads = layer.activation_grads
        accumulators = layer.accumulators
        sigma = given_.weight_grads_sigma_max[row]
        assert weight_grads.range >= 2 * sigma > weight_grads.range / 2
        assert weight_grads.step < given_.weight_grads_sigma_min[row] / 4 <= 2 * weight_grads.step
        sigma = given_.activation_grads_sigma_max[row]
        assert activation_grads.range >= clip_factor * sigma > activation_grads.range / 2
        ratio = (
            given_.weight_grads_count[row] / given_.activation_grads_count[row]
            if fourth_root
            else 1.0
        )
        bound = weight_grads.step / math.sqrt(given_.lambda_max[row]) * ratio**0.25
        assert activation_grads.step < bound
        assert 2 * activation_grads.step >= bound or activation_grads.bits == 1
        assert accumulators.step <= GAMMA_MIN * weight_grads.step
        assert 2 * accumulators.step > GAMMA_MIN * weight_grads.step or accumulators.bits == 1
        assert accumulators.range == layer.weights.step / 2


@given(seeds)
def test_every_tensor_has_a_reason_whose_margin_is_at_least_one(seed):
    found = assign(NETWORK, statistics(seed, spread=1.0))
    for name in NETWORK.names:
        assert [found.reasons[name, tensor].criterion.split(",")[0] for tensor in TENSORS] == [
            "EFQN",
            "EFQN",
            "GC",
            "GC",
            "AS",
        ]
    assert found.reasons["conv2", "activations"].criterion == "EFQN, shared by 2"
    assert all(reason.margin >= 1.0 - 1e-12 for reason in found.reasons.values())
    for (name, tensor), reason in found.reasons.items():
        accumulators = found.layers[name].accumulators
        # One bit is the least, even where none is asked for.
        assert reason.margin <= 2.0 + 1e-12 or (tensor, accumulators.bits) == ("accumulators", 1)


def test_auxiliary_formats_cover_their_statistics():
    given_ = statistics(
        preactivations_max=[0.9, 1.1, 3.9, 4.1],
        logits_max=4.0,
        bias_grads_sigma_max=[0.25, 0.26, 0.0, 1e-4],
    )
    found = assign(NETWORK, given_)
    assert [layer.preactivations for layer in found.layers.values()] == [
        Format(16, e) for e in (1, 2, 3, 4)
    ]
    assert found.logits == Format(16, 3)
    assert [layer.bias_grads for layer in found.layers.values()] == [
        Format(16, e) for e in (0, 1, 0, -11)
    ]
    assert {layer.bias for layer in found.layers.values()} == {Format(16, 0)}


def test_a_shared_tensor_takes_the_finest_step_that_a_reader_asks_for():
    gains = np.array([1.0, 1.0, 64.0, 1.0])
    given_ = statistics(weights_gain=np.ones(LAYERS), activations_gain=gains)
    found = assign(NETWORK, given_, Rules(bound="paper", min_bits=4)).layers
    assert found["skip"].activations == found["conv2"].activations == Format(7, 1, signed=False)


def test_min_bits_in_place_of_a_target():
    given_ = statistics()
    for min_bits in (2, 5, 8):
        found = assign(NETWORK, given_, Rules(min_bits=min_bits))
        steps = [layer.weights.bits for layer in found.layers.values()]
        steps += [1 - layer.activations.step_exp for layer in found.layers.values()]
        assert min(steps) == min_bits
        assert found.reasons["fc", "weights"].statistic["min_bits"] == min_bits


def test_input_bits_replace_what_efqn_asks_of_the_input():
    found = assign(NETWORK, statistics(), Rules(input_bits=8))
    assert found.layers["conv1"].activations == Format(8, 0, signed=False)
    assert found.reasons["conv1", "activations"].criterion == "given"
    with pytest.raises(InputError, match="input_bits must be 1 to 32, got 40"):
        assign(NETWORK, statistics(), Rules(input_bits=40))


def test_output_grad_bits_replace_what_bqn_asks_of_the_gradient_at_the_logits():
    asked = assign(NETWORK, statistics())
    found = assign(NETWORK, statistics(), Rules(output_grad_bits=16))
    last = list(asked.layers)[-1]
    assert found.layers[last].activation_grads == dataclasses.replace(
        asked.layers[last].activation_grads, bits=16
    )
    assert found.reasons[last, "activation_grads"] == Reason(
        "given", {"output_grad_bits": 16.0}, 1.0
    )
    others = [
        (name, tensor)
        for name, tensor in asked.reasons
        if (name, tensor) != (last, "activation_grads")
    ]
    assert all(asked.reasons[key] == found.reasons[key] for key in others)
    for bits in (1, 40):
        with pytest.raises(InputError, match=f"output_grad_bits must be 2 to 32, got {bits}"):
            assign(NETWORK, statistics(), Rules(output_grad_bits=bits))


@given(seeds)
def test_the_gradient_at_the_pre_activations_meets_gc_and_bqn_by_itself(seed):
    given_ = statistics(seed)
    found = assign(NETWORK, given_)
    layer = found.layers["conv2"]
    grads = layer.batch_norm.preactivation_grads
    sigma = given_.preactivation_grads_sigma_max[2]
    assert grads.range >= 4 * sigma > grads.range / 2
    ratio = NETWORK.shape("conv2").weights / (32 * 8 * 8 / 4 * 4)  # pooled once, four filters
    bound = layer.weight_grads.step / math.sqrt(given_.preactivation_lambda_max[2]) * ratio**0.25
    assert grads.step < bound
    assert 2 * grads.step >= bound or grads.bits == 1
    reason = found.reasons["conv2", "preactivation_grads"]
    assert (reason.criterion, reason.statistic["sigma_max"]) == ("GC, BQN", sigma)


@given(seeds)
def test_what_rounds_to_nearest_flushes_at_most_one_percent_too(seed):
    given_ = statistics(seed)
    unbiased = assign(NETWORK, given_)
    nearest = assign(NETWORK, given_, Rules(gradient_rounding="nearest"))
    gradients = ("weight_grads", "activation_grads", "preactivation_grads")
    assert unbiased.rounding == dict.fromkeys(gradients, "stochastic")
    assert nearest.rounding == {}
    for row, name in enumerate(NETWORK.names):
        loose, strict = (made.layers[name].given() for made in (unbiased, nearest))
        for tensor in gradients[1:]:
            if tensor not in loose:
                continue
            flushable = getattr(given_, f"{tensor}_flushable")[row]
            asked = min(loose[tensor].step, 2.0 ** math.floor(math.log2(2 * flushable)))
            assert strict[tensor] == dataclasses.replace(
                loose[tensor], bits=max(1, loose[tensor].range_exp - int(math.log2(asked)) + 1)
            )
            reason = nearest.reasons[name, tensor]
            assert reason.criterion == "GC, BQN, GF"
            assert reason.statistic["flushable"] == flushable
            assert reason.margin >= 1.0 - 1e-12
            del loose[tensor], strict[tensor]
        assert loose == strict


def test_rounding_to_nearest_needs_to_know_what_may_be_flushed():
    without = statistics(preactivation_grads_flushable=np.zeros(LAYERS))
    assign(NETWORK, without)
    with pytest.raises(
        InputError, match="'conv2': gradient_rounding 'nearest' needs preactivation"
    ):
        assign(NETWORK, without, Rules(gradient_rounding="nearest"))
    with pytest.raises(InputError, match="gradient_rounding 'up' is unknown"):
        Rules(gradient_rounding="up")


def test_what_may_be_flushed_is_the_least_of_the_batches_and_the_network_stays():
    rng = np.random.default_rng(3)
    network = FloatNetwork(NETWORK, initial_parameters(NETWORK, 1), np.float64)
    before = {name: array.copy() for name, array in network.state().items()}
    batches = [(rng.random((8, 8, 8, 1)), rng.integers(0, 3, 8)) for _ in range(3)]
    found = flushable_magnitudes(network, batches)
    kept = {name: [] for name in FLUSHABLE}
    for step, (images, targets) in enumerate(batches):
        FloatNetwork(NETWORK, network.parameters, np.float64).loss_and_grads(
            images,
            targets,
            step=step,
            probe=lambda tensor, layer, array: (
                kept[f"{tensor}_flushable"].append((layer, criteria.flushable_magnitude(array)))
                if f"{tensor}_flushable" in kept
                else None
            ),
        )
    for name, rows in kept.items():
        least = [min((m for at, m in rows if at == layer), default=0.0) for layer in NETWORK.names]
        assert found[name].tolist() == least
    assert found["preactivation_grads_flushable"].tolist()[:2] == [0.0, 0.0]
    assert all(np.array_equal(before[name], array) for name, array in network.state().items())


def test_an_assignment_survives_its_json_file(tmp_path):
    found = assign(NETWORK, statistics())
    found.save(tmp_path / "assignment.json")
    assert PrecisionAssignment.load(tmp_path / "assignment.json") == found


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"weight_grads_sigma_min": np.array([1e-3, 1e-13, 1e-3, 1e-3])},
            "'skip': weight_grads .*sigma_min 1e-13",
        ),
        (
            {"lambda_max": np.array([1.0, 1.0, 1e21, 1.0])},
            r"'conv2': activation_grads would need .*lambda_max 1e\+21",
        ),
        ({"gamma_min": 1e-9}, "'conv1': accumulators would need .*gamma_min 1e-09"),
        (
            {"weights_gain": np.array([1.0, 1.0, 1.0, 1e18])},
            r"'fc': weights would need .*noise gain 1e\+18",
        ),
        (
            {"activations_gain": np.array([1.0, 1e18, 1e18, 1.0])},
            r"'skip': activations would need .*noise gain 1e\+18",
        ),
    ],
)
def test_too_many_bits_name_layer_tensor_and_the_statistic_that_forces_them(changes, message):
    with pytest.raises(InputError, match=message):
        assign(NETWORK, statistics(**changes), Rules(bound="paper"))


def test_weights_and_accumulator_together_stay_within_one_update_word():
    def with_last_weight_grad_step(step_exp):
        sigma = np.array([1.0, 1.0, 1.0, 4.04 * 2.0**step_exp])
        return statistics(
            gamma_min=2.0**-10,
            lambda_max=np.ones(LAYERS),
            weights_gain=np.array([1.0, 1.0, 1.0, 4.0**23]),
            activations_gain=np.ones(LAYERS),
            weight_grads_sigma_min=sigma,
            weight_grads_sigma_max=sigma,
            activation_grads_sigma_max=sigma,
        )

    # 9 + 23 bits of weights end at 2**-31, their accumulator at 2**-10 times the gradient's step.
    rules = Rules(bound="paper", min_bits=9)
    fits = assign(NETWORK, with_last_weight_grad_step(-51), rules).layers["fc"]
    assert (fits.weights.bits, fits.accumulators.bits) == (32, 30)
    with pytest.raises(
        InputError, match="'fc': accumulators would need 31 bits, at most 30: .*gamma_min"
    ):
        assign(NETWORK, with_last_weight_grad_step(-52), rules)


ACTIVATIONS = {
    "none": (Activation("none"), 3.1, Format(10, 3)),
    "relu": (Activation("relu"), 3.1, Format(9, 3, signed=False)),
    "relu, small": (Activation("relu"), 0.2, Format(5, -1, signed=False)),
    "a ceiling": (Activation("relu", ceiling=6), 3.1, Format(9, 3, signed=False)),
    "a power of two": (Activation("relu", ceiling=4), 9.0, Format(8, 2, signed=False)),
    "clipped": (Activation("clipped_relu"), 9.0, Format(7, 1, signed=False)),
}


@pytest.mark.parametrize("case", ACTIVATIONS)
def test_the_range_of_activations_follows_from_the_function_and_the_float_run(case):
    """Always the step 2**-6 of 7 bits over [0, 2)."""
    activation, largest, wanted = ACTIVATIONS[case]
    layers = (Dense(name="a", units=3, activation=activation), Dense(name="b", units=2, relu=False))
    two = {name: getattr(statistics(), name)[:2] for name in PER_LAYER}
    two |= {"activations_max": np.array([largest, 1.0])}
    two |= dict.fromkeys(("weights_gain", "activations_gain"), np.ones(2))
    given_ = statistics(network="two", layers=("a", "b"), **two)
    rules = Rules(bound="paper", min_bits=7)
    assigned = assign(Network("two", (4, 4, 1), layers), given_, rules)
    assert assigned.layers["b"].activations == wanted
    reason = assigned.reasons["b", "activations"]
    assert reason.statistic.get("activations_max", largest) == largest


@pytest.mark.parametrize("minimize", [None, "macs"])
def test_statistics_without_magnitudes_of_activations_are_refused_where_a_range_needs_them(
    minimize,
):
    layers = (Dense(name="a", units=3, activation="relu"), Dense(name="b", units=2, relu=False))
    two = {name: getattr(statistics(), name)[:2] for name in PER_LAYER}
    two |= {"activations_max": np.zeros(2)}
    given_ = statistics(network="two", layers=("a", "b"), **two)
    rules = Rules(bound="paper", minimize=minimize)
    with pytest.raises(InputError, match="'a': the range .* activations_max, .* `fxsim analyze`"):
        assign(Network("two", (4, 4, 1), layers), given_, rules)


def equal(one: Statistics, other: Statistics) -> bool:
    return all(
        np.array_equal(getattr(one, field), getattr(other, field)) for field in FIELDS
    ) and all(
        np.array_equal(getattr(one.decisions, name), getattr(other.decisions, name))
        for name in ("distances", "squares")
    )


def test_statistics_survive_their_file(tmp_path):
    given_ = statistics()
    given_.save(tmp_path / "statistics.npz")
    assert equal(Statistics.load(tmp_path / "statistics.npz", NETWORK), given_)


@pytest.mark.parametrize(
    "entry, value",
    [
        ("lambda_max", math.nan),
        ("weights_gain", math.inf),
        ("weight_grads_sigma_min", 0.0),
        ("activations_gain", -1.0),
        ("bias_grads_sigma_max", -1.0),
    ],
)
def test_bad_numbers_in_a_file_are_named_by_file_entry_and_layer(tmp_path, entry, value):
    path = tmp_path / "bad.npz"
    statistics().save(path)
    arrays = read_arrays(path)
    arrays[entry][1] = value
    write_arrays(path, arrays)
    with pytest.raises(
        InputError, match=f"bad.npz: {entry} of layer 'skip' must be finite and above 0"
    ):
        Statistics.load(path)


def test_a_missing_bias_gradient_is_found_where_the_layer_has_a_bias():
    statistics(bias_grads_sigma_max=[1.0, 1.0, 0.0, 1.0]).check_network(NETWORK)
    with pytest.raises(InputError, match="bias_grads_sigma_max of layer 'fc'"):
        statistics(bias_grads_sigma_max=[1.0, 1.0, 0.0, 0.0]).check_network(NETWORK)


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "statistics.npz"
    statistics().save(path)
    arrays = read_arrays(path)
    for change, message in (
        ({"gamma_min": np.array(math.nan)}, "gamma_min must be finite"),
        ({"lambda_max": np.ones(2)}, r"lambda_max must be numbers of shape \(4,\)"),
        ({"weights_gain": np.array(["a"] * 4)}, "weights_gain must be numbers"),
    ):
        write_arrays(path, arrays | change)
        with pytest.raises(InputError, match=f"statistics.npz: {message}"):
            Statistics.load(path)
    del arrays["lambda_max"]
    write_arrays(path, arrays)
    with pytest.raises(InputError, match="statistics.npz: lambda_max is missing"):
        Statistics.load(path)


def test_statistics_of_another_network_are_refused(tmp_path):
    statistics().save(tmp_path / "s.npz")
    other = dataclasses.replace(NETWORK, name="other")
    with pytest.raises(InputError, match="s.npz: statistics are of network 'assigned'"):
        Statistics.load(tmp_path / "s.npz", other)
    with pytest.raises(InputError, match="not of 'other'"):
        assign(other, statistics())


def test_the_observer_keeps_the_extremes_of_a_moving_average_of_the_variance():
    observer = GradientStatistics(NETWORK)
    rng = np.random.default_rng(4)
    average = None
    averages = []
    for scale in (1.0, 5.0, 5.0, 0.1, 0.1, 2.0):
        array = scale * rng.standard_normal((3, 3, 4, 4))
        average = np.var(array) if average is None else 0.9 * average + 0.1 * np.var(array)
        averages.append(average)
        observer.observe("weight_grads", "conv2", array)
        observer.observe("gamma_grads", "conv2", array)
    found = observer.sigmas()
    assert found["weight_grads_sigma_max"][2] == pytest.approx(math.sqrt(max(averages)))
    assert found["weight_grads_sigma_min"][2] == pytest.approx(math.sqrt(min(averages)))
    assert math.isnan(found["weight_grads_sigma_max"][1])
    assert found["bias_grads_sigma_max"][2] == 0.0 and math.isnan(found["bias_grads_sigma_max"][1])


def test_the_observer_samples_every_nth_step_and_goes_on_from_its_state():
    observer = GradientStatistics(NETWORK, every=3)
    assert [observer.probe(step) is None for step in range(4)] == [False, True, True, False]
    observer.observe("bias_grads", "fc", np.arange(3.0))
    restored = GradientStatistics(NETWORK, every=3)
    restored.state = observer.state.copy()
    for each in (observer, restored):
        each.observe("bias_grads", "fc", np.arange(0.0, 9.0, 3.0))
    assert np.array_equal(observer.state, restored.state, equal_nan=True)
    with pytest.raises(InputError, match="every must be at least 1"):
        GradientStatistics(NETWORK, every=0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_observer_stops_a_run_that_diverges(value):
    with pytest.raises(InputError, match="'fc': weight_grads are not finite"):
        GradientStatistics(NETWORK).observe("weight_grads", "fc", np.array([1.0, value, -value]))


def test_from_float_training_to_an_assignment():
    rng = np.random.default_rng(6)
    images = rng.random((48, 8, 8, 1))
    labels = rng.integers(0, 3, 48)
    network = FloatNetwork(NETWORK, initial_parameters(NETWORK, 1), seed=1)
    observer = GradientStatistics(NETWORK)
    for step in range(3):
        network.train_step(images[:16], labels[:16], 0.05, step=step, probe=observer.probe(step))
    batches = [(images[:16], labels[:16]), (images[16:32], labels[16:32])]
    found = measure(network, observer, images, batches, gamma_min=0.05)
    assert (found.activation_grads_flushable > 0).all()
    assert found.batch_size == 16
    assert found.activation_grads_count.tolist() == [16 * n for n in (64, 64, 64, 3)]
    tapes = [
        network.forward_tape(images),
        FloatNetwork(NETWORK, network.parameters).forward_tape(images[:16], True, step=0),
    ]
    assert found.logits_max == pytest.approx(max(np.abs(tape.logits).max() for tape in tapes))
    operations = [tape.layers["skip"].preactivation for tape in tapes]  # no branch, no batch norm
    assert found.preactivations_max[1] == pytest.approx(
        max(np.abs(operation).max() for operation in operations)
    )
    variances = [tape.layers["conv2"].operation.var(axis=(0, 1, 2)).max() for tape in tapes]
    assert found.variances_max.tolist() == [0, 0, pytest.approx(max(variances)), 0]
    assignment = assign(NETWORK, found)
    assignment.check_network(NETWORK)
    bits = feedforward_bits(NETWORK, assignment)
    assert present(found.decisions).bounds(bits)["tight"] <= 0.01


@pytest.mark.parametrize("rate, room", [(0.5, 1), (0.2, 1), (0.8, 3), (0.75, 2)])
def test_activations_have_room_for_the_scale_of_dropout(rate, room):
    first, *others = NETWORK.layers
    dropped = Network(
        NETWORK.name, NETWORK.input_shape, (dataclasses.replace(first, dropout=rate), *others)
    )
    plain, scaled = (assign(network, statistics()).layers for network in (NETWORK, dropped))
    for name in ("conv1", "fc"):
        assert scaled[name].activations == plain[name].activations
    for name in ("skip", "conv2"):
        assert scaled[name].activations == Format(
            plain[name].activations.bits + room, 1 + room, signed=False
        )
