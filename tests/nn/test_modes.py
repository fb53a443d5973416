"""Every rounding and overflow that an assignment takes for a tensor changes bits of a training
step; every other one is refused by name.
"""

import dataclasses
import hashlib
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from support.modes_cases import NETWORK, PARAMETERS, assignment

import fxsim
from fxsim import FixedNetwork, InputError, LearningRate, PrecisionAssignment
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.golden.capture import capture
from fxsim.nn.layer_precision import MODES, VELOCITIES, BatchNormPrecision, LayerPrecision
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.tensors import quantized_tensors

OPTIMIZER = Optimizer(0.5, 0.0, 4)
STEPS = 20
HELD = 2.0**-4
"""The learning rate with accumulators; other rates go without, those from 1 on with exact updates."""
DEFAULTS = {"rounding": "nearest_away", "overflow": "saturate"}
EVERY = {"rounding": ROUNDINGS, "overflow": OVERFLOWS}


def batch():
    random = np.random.default_rng(2)
    return random.integers(0, 16, (4, 6, 6, 2)), random.integers(0, 3, 4)


def steps(rounding, overflow, rate=HELD):
    """SHA-256 of all tensors of one training step after the other under these modes."""
    assigned = assignment(rate == HELD, rate < 1, rounding=rounding, overflow=overflow)
    fixed = FixedNetwork(NETWORK, assigned, PARAMETERS, optimizer=OPTIMIZER)
    for step in range(STEPS):
        digest = hashlib.sha256()
        fixed.train_step(
            *batch(),
            LearningRate.of(rate),
            step,
            lambda tensor, layer, value, digest=digest: digest.update(value.codes.tobytes()),
        )
        yield digest.hexdigest()


@cache
def base(away=None, rate=HELD):
    """The steps with default modes, but for the rounding of one tensor."""
    return tuple(steps({away: "away"} if away else {}, {}, rate))


def honoured(tensor, kind):
    return MODES[tensor].roundings if kind == "rounding" else MODES[tensor].overflows


ACCEPTED = [
    (tensor, kind, mode)
    for tensor in MODES
    for kind in EVERY
    for mode in honoured(tensor, kind)
    if mode != DEFAULTS[kind]
]
REFUSED = [
    (tensor, kind, mode)
    for tensor in MODES
    for kind in EVERY
    for mode in EVERY[kind]
    if mode not in honoured(tensor, kind)
]


def test_the_network_has_every_tensor_and_training_is_repeated():
    present = quantized_tensors(NETWORK, assignment(held=False).layers)
    assert present | set(VELOCITIES) == set(MODES)
    assert tuple(steps({}, {})) == base()


@pytest.mark.parametrize("tensor, kind, mode", ACCEPTED)
def test_an_accepted_mode_changes_codes(tensor, kind, mode):
    # a velocity leaves its range only where it is rounded away from zero, see Optimizer
    away = tensor if tensor in VELOCITIES and kind == "overflow" else None
    modes = {"rounding": {away: "away"} if away else {}, "overflow": {}}
    modes[kind] = {**modes[kind], tensor: mode}
    rate = rate_of(tensor, kind)
    changed = steps(**modes, rate=rate)
    assert any(own != default for own, default in zip(changed, base(away, rate)))


def rate_of(tensor, kind):
    """HELD where a mode has an effect with accumulators, else what moves the parameters enough."""
    if tensor.endswith("updates"):
        return 0.25 if kind == "rounding" else 0.75
    if tensor.endswith("accumulators") and kind == "overflow":
        return 64.0
    return HELD


@pytest.mark.parametrize("tensor", [tensor for tensor in MODES if tensor.endswith("accumulators")])
def test_accumulators_that_are_there_saturate(tensor):
    message = f"overflow of {tensor} must be saturate where .* layer '.*', got 'wrap'; leave it out"
    with pytest.raises(InputError, match=message):
        assignment(overflow={tensor: "wrap"})


@pytest.mark.parametrize("tensor, kind, mode", REFUSED)
def test_another_mode_is_refused_by_name(tensor, kind, mode):
    message = f"{kind} of {tensor} must be {DEFAULTS[kind]}, .* got '{mode}'; leave it out"
    with pytest.raises(InputError, match=message):
        assignment(**{kind: {tensor: mode}})


@pytest.mark.parametrize("tensor", MODES)
@pytest.mark.parametrize("kind", EVERY)
def test_defaults_may_be_said(tensor, kind):
    said = assignment(**{kind: {tensor: DEFAULTS[kind]}})
    assert (said.rounding_of(tensor), said.overflow_of(tensor)) == tuple(DEFAULTS.values())


def test_a_mode_of_a_tensor_that_the_network_has_not_is_refused():
    plain = fxsim.Network("plain", (2, 2, 1), (fxsim.Dense(name="d", units=2, relu=False),))
    row = assignment().layers["scores"]
    absent = set(MODES) - quantized_tensors(plain, {"d": row}) - set(VELOCITIES)
    assert {"activations", "branch", "normalized", "preactivations", "gamma"} <= absent
    assert "updates" in absent
    for tensor in absent:
        assigned = PrecisionAssignment("plain", {"d": row}, overflow={tensor: "saturate"})
        with pytest.raises(InputError, match=f"overflow of {tensor}: network 'plain' quantizes no"):
            assigned.check_network(plain)


@pytest.mark.parametrize("tensor", VELOCITIES)
def test_a_mode_of_velocities_needs_an_optimizer(tensor):
    assigned = assignment(rounding={tensor: "floor"})
    FixedNetwork(NETWORK, assigned, PARAMETERS, optimizer=OPTIMIZER)
    with pytest.raises(InputError, match=f"rounding of {tensor}: there are no velocities"):
        FixedNetwork(NETWORK, assigned, PARAMETERS)


SOURCES = {
    "quantized_preactivations": "preactivations",
    "updated_weights": "weights",
    "updated_bias": "bias",
    "updated_gamma": "gamma",
    "updated_beta": "beta",
    "updates": "accumulators",
    "bias_updates": "bias_accumulators",
    "gamma_updates": "gamma_accumulators",
    "beta_updates": "beta_accumulators",
}
OWN_UPDATES = {
    "updated_weights": "accumulators",
    "updated_bias": "bias_accumulators",
    "updated_gamma": "gamma_accumulators",
    "updated_beta": "beta_accumulators",
    "updates": "updates",
    "bias_updates": "bias_updates",
}
"""Without accumulators."""


@pytest.mark.parametrize("rounding, overflow", [("floor", "wrap"), ("jam", "saturate_symmetric")])
def test_the_manifest_agrees_with_the_table(rounding, overflow):
    seen = {"rounding": set(), "overflow": set()}
    for held in (True, False):
        check_manifest(held, rounding, overflow, seen)
    parameters = {"weights", "bias", "gamma", "beta"}
    assert seen["rounding"] == set(MODES) - parameters
    assert seen["overflow"] == set(MODES)


def check_manifest(held, rounding, overflow, seen):
    """The modes of the entries of a step; `seen` takes the tensors."""
    own = assignment(held)
    present = {*quantized_tensors(NETWORK, own.layers), *VELOCITIES}
    made = {tensor: MODES[tensor] for tensor in MODES if tensor in present}
    given = {
        "rounding": {tensor: rounding for tensor in made if rounding in made[tensor].roundings},
        "overflow": {
            tensor: overflow
            for tensor in made
            if overflow in made[tensor].overflows and not (held and tensor.endswith("accumulators"))
        },
    }
    assigned = dataclasses.replace(own, **given)
    fixed = FixedNetwork(NETWORK, assigned, PARAMETERS, optimizer=OPTIMIZER)
    manifest = capture(fixed, *batch(), LearningRate.of(0.5), 0).manifest
    for entry in manifest.tensors:
        tensor = SOURCES.get(entry.tensor, entry.tensor)
        if not held:
            tensor = OWN_UPDATES.get(entry.tensor, tensor)
        if tensor == "preactivation_grads" and entry.layer not in ("norm", "wide"):
            tensor = "relu_input_grads" if entry.layer == "leaky" else ""
        if tensor not in MODES or tensor == "relu_input_grads" and entry.layer != "leaky":
            continue
        for kind, default in DEFAULTS.items():
            mode = getattr(entry, kind)
            moved = held and entry.tensor.startswith("updated_") and kind == "rounding"
            if mode is None or moved:
                continue
            assert mode == given[kind].get(tensor, default), (entry.name, kind)
            seen[kind].add(tensor)


def contract_table():
    """tensor -> (format by default, roundings, overflows) of the table of tensors."""
    text = (Path(fxsim.__file__).parent / "numerics.md").read_text(encoding="utf-8")
    section = text[text.index("## Tensors") : text.index("## Quantization")]
    rows = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| [^|]+ \| ([^|]+) \| ([^|]+) \| ([^|]+) \|$", section, re.M
    )
    assert len({row[0] for row in rows}) == len(rows)
    return {tensor: (format, *modes) for tensor, format, *modes in rows}


def test_the_contract_has_the_same_modes():
    told = {
        tensor: (
            ROUNDINGS if roundings == "any" else (roundings,),
            OVERFLOWS if overflows == "any" else (overflows,),
        )
        for tensor, (_, roundings, overflows) in contract_table().items()
    }
    assert told == {tensor: (modes.roundings, modes.overflows) for tensor, modes in MODES.items()}


def test_the_contract_has_the_same_default_formats():
    found = {}
    for cls in (LayerPrecision, BatchNormPrecision, PrecisionAssignment):
        for field in dataclasses.fields(cls):
            if isinstance(field.default, Format):
                format = field.default
                sign = "s" if format.signed else "u"
                found[field.name] = f"{sign}{format.bits} 2^{format.range_exp}"
    told = {tensor: row[0] for tensor, row in contract_table().items()}
    assert {tensor: told[tensor] for tensor in found} == found
    given = {field.name for field in dataclasses.fields(LayerPrecision) if _has_none(field)}
    assert {tensor for tensor, text in told.items() if text.startswith("given")} == given


def _has_none(field):
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
