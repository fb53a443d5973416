"""Costs against the paper's table for the CIFAR-10 ConvNet, and by hand on a small network."""

from __future__ import annotations

import dataclasses

import pytest

from fxsim.analysis.complexity import (
    Cost,
    activation_counts,
    assignment_complexity,
    design_complexity,
)
from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.nn.layer_precision import LayerPrecision
from fxsim.nn.networks import cifar10_convnet, cifar10_resnet, cifar100_resnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool

# Sakr and Shanbhag (ICLR 2019), table 1, CIFAR-10 ConvNet: C_W and C_A in 1e6 b, C_M in 1e9 FA, C_C
# in 1e6 b.
PUBLISHED = {"FL": (148, 9.3, 94.4, 49), "BN": (100, 4.7, 2.8, 49), "TG": (102, 9.3, 94.4, 3.1)}
UNITS = (1e6, 1e6, 1e9, 1e6)

SMALL = Network(
    "small",
    (6, 6, 2),
    (
        Conv(name="conv", filters=3, pool=Pool("max", 2)),
        Dense(name="fc", units=4, relu=False),
    ),
)


@pytest.mark.parametrize("design", PUBLISHED)
def test_table_1_cifar10_convnet_row(design):
    total = dataclasses.astuple(design_complexity(cifar10_convnet(), design).total)
    for got, unit, published in zip(total, UNITS, PUBLISHED[design]):
        assert got / unit == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize("network", [cifar10_resnet(), cifar100_resnet()])
@pytest.mark.parametrize("design, published", [("FL", 96), ("BN", 50), ("TG", 96)])
def test_table_1_resnet_activation_storage(network, design, published):
    found = design_complexity(network, design).total.activation_storage
    assert found / 1e6 == pytest.approx(published, rel=0.02)


def test_a_shortcut_that_is_only_added_is_stored_with_the_sum():
    plain, added = (
        Network(
            "added",
            (4, 4, 1),
            (
                Conv(name="first", filters=2, padding=1),
                *shortcut,
                Conv(name="conv", filters=2, padding=1, input="first", add=add),
                Dense(name="fc", units=3, relu=False),
            ),
        )
        for shortcut, add in (
            ((), None),
            ((Conv(name="skip", filters=2, padding=1, relu=False, input="first"),), "skip"),
        )
    )
    one, other = (design_complexity(network, "FL").total for network in (plain, added))
    assert one.activation_storage == other.activation_storage == 32 * (16 + 64 + 64 + 3)
    assert other.training_macs > one.training_macs


def test_float_costs_of_a_small_network_by_hand():
    found = design_complexity(SMALL, "FL")
    # conv: 54 weights, input 72, output 48 before pooling, 48 * 18 MACs; fc: 12 * 4 weights and
    # MACs, input
    # counted as the 48 that the convolution computed, 4 scores.
    assert found.layers["conv"] == Cost(54 * 96, (72 + 48) * 32, 48 * 18 * 3 * 529, 54 * 32)
    assert found.layers["fc"] == Cost(48 * 96, (48 + 4) * 32, 48 * 3 * 529, 48 * 32)


def assignment(network: Network) -> PrecisionAssignment:
    layer = LayerPrecision(
        weights=Format(9, 0),
        activations=Format(6, 1, signed=False),
        activation_grads=Format(10, -4),
        weight_grads=Format(8, -5),
        accumulators=Format(17, -9),
    )
    return PrecisionAssignment(network.name, dict.fromkeys(network.names, layer))


def test_assigned_costs_count_every_tensors_bits():
    fixed = assignment_complexity(SMALL, assignment(SMALL))
    assert fixed.layers["fc"] == Cost(
        48 * (9 + 8 + 17), 48 * 6 + 4 * 10, 48 * (9 * 6 + 9 * 10 + 6 * 10), 48 * 8
    )


def test_sq_is_fx_with_accumulators_of_32_bits():
    fixed, stochastic = (
        assignment_complexity(SMALL, assignment(SMALL), design).total for design in ("FX", "SQ")
    )
    weights = 54 + 48
    assert stochastic == dataclasses.replace(
        fixed, weight_storage=fixed.weight_storage + weights * (32 - 17)
    )


def test_a_32_bit_integer_multiplies_at_its_full_width_unlike_a_float():
    wide = dataclasses.replace(
        assignment(SMALL).layers["fc"], activations=Format(32, 1, signed=False)
    )
    cost = assignment_complexity(
        SMALL, PrecisionAssignment("small", dict.fromkeys(SMALL.names, wide))
    ).layers["fc"]
    assert cost.training_macs == 48 * (9 * 32 + 9 * 10 + 32 * 10)


def test_a_tensor_that_several_layers_read_is_stored_once():
    counts = activation_counts(cifar10_resnet())
    assert counts["s2b1_shortcut"] == 32 * 32 * 128  # the first reader of the last block of stage 1
    assert counts["s2b1_conv1"] == 0
    assert counts["fc"] == 8 * 8 * 512  # before the average pool


def test_total_and_dict_agree():
    found = design_complexity(cifar10_convnet(), "BN")
    table = found.to_dict()
    assert table["total"]["training_macs"] == sum(
        row["training_macs"] for row in table["layers"].values()
    )
    assert table["design"] == "BN" and list(table["layers"]) == list(cifar10_convnet().names)


def test_refusals_tell_the_way_out():
    with pytest.raises(InputError, match="assignment_complexity"):
        design_complexity(SMALL, "FX")
    with pytest.raises(InputError, match="did you mean 'FL'"):
        design_complexity(SMALL, "FLO")
    with pytest.raises(InputError, match="choose from FX, SQ"):
        assignment_complexity(SMALL, assignment(SMALL), "BN")
    with pytest.raises(InputError, match="assignment is for network"):
        assignment_complexity(cifar10_convnet(), assignment(SMALL))
