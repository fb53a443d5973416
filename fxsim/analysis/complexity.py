"""The four complexity metrics of training: storage of weights and activations, MACs, communication.

Source: Sakr and Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation Algorithm",
ICLR 2019, section 4; the published costs of FL, BN and TG are met within 2 %, those of the ConvNets
and C_A of the ResNets.  What the paper leaves open is counted as follows:

- every A_l and G^A_{l+1} as its layer computes it, *before* pooling, for one sample; the network's
  input as it is, and once each tensor that several layers read (it is counted at its first reader).
  The output of a layer that is only added to another's counts in neither: it is no A_l, and its
  gradient is that of the sum, which is stored as the other's (the authors quantize G^A at ReLU
  outputs only);
- only multiplications in C_M, one full adder per bit of one operand and bit of the other, the first
  layer's activation gradient included as in the paper's formula;
- neither biases nor batch-norm parameters, as in the paper.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

from fxsim.errors import InputError, choice
from fxsim.fields import check_derived, check_keys, instance, read_fields
from fxsim.nn.layer_precision import TENSORS
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.nn.tensors import is_branch

FLOAT_STORAGE_BITS = 32
FLOAT_MULTIPLIER_BITS = 23
STOCHASTIC_ACCUMULATOR_BITS = 32

DESIGNS: dict[str, dict[str, int]] = {
    "FL": {},
    "BN": {"weights": 1, "activations": 1},
    "TG": {"weight_grads": 2},
}
"""Bits of the tensors that are not float, for the designs whose cost follows from the
architecture.
"""

ASSIGNED_DESIGNS = ("FX", "SQ")


@dataclass(frozen=True)
class Cost:
    """weight_storage C_W, activation_storage C_A and communication C_C in bits; training_macs C_M
    in full adders.

    C_A and C_M are for one input sample.
    """

    weight_storage: int
    activation_storage: int
    training_macs: int
    communication: int


@dataclass(frozen=True)
class Complexity:
    """The cost of each layer of `network` under `design`, and in total."""

    network: str
    design: str
    layers: Mapping[str, Cost]

    @property
    def total(self) -> Cost:
        """The sum over the layers."""
        rows = [dataclasses.astuple(cost) for cost in self.layers.values()]
        return Cost(*map(sum, zip(*rows)))

    def to_dict(self) -> dict:
        """Plain data for JSON: network, design, layers (name -> metric -> value) and total."""
        return {
            "network": self.network,
            "design": self.design,
            "layers": {name: dataclasses.asdict(cost) for name, cost in self.layers.items()},
            "total": dataclasses.asdict(self.total),
        }

    @classmethod
    def from_dict(cls, row: object, where: str = "costs") -> Complexity:
        """The costs that `to_dict` gave; InputError tells what is wrong."""
        table = dict(check_keys(where, row, ("network", "design", "layers", "total"), ("total",)))
        total = table.pop("total")
        made = read_fields(cls, table, where)
        if not made.layers:
            raise InputError(f"{where}: layers must be at least one")
        check_derived(where, "total", total, dataclasses.asdict(made.total))
        return made


def design_complexity(network: Network, design: str) -> Complexity:
    """The costs of FL (float), BN (binarized) or TG (TernGrad), from the architecture alone."""
    if isinstance(design, str) and design in ASSIGNED_DESIGNS:
        raise InputError(
            f"design {design!r} needs a precision assignment; give one to assignment_complexity"
        )
    instance("network", network, Network)
    bits = DESIGNS[choice("design", design, (*DESIGNS, *ASSIGNED_DESIGNS))]
    return bits_complexity(network, design, dict.fromkeys(network.names, bits))


def assignment_complexity(
    network: Network, assignment: PrecisionAssignment, design: str = "FX"
) -> Complexity:
    """The costs of FX, or of SQ, which is FX with accumulators of 32 bits, under `assignment`."""
    instance("assignment", assignment, PrecisionAssignment).check_network(network)
    choice("design", design, ASSIGNED_DESIGNS)
    bits = {}
    for name, layer in assignment.layers.items():
        formats = layer.given()
        bits[name] = {each: formats[each].bits if each in formats else 0 for each in TENSORS}
    if design == "SQ":
        bits = {
            name: {**row, "accumulators": STOCHASTIC_ACCUMULATOR_BITS} for name, row in bits.items()
        }
    return bits_complexity(network, design, bits)


def activation_counts(network: Network) -> dict[str, int]:
    """Elements of each layer's A_l to store for one sample, as this module counts them.

    0 for a repeated reader.
    """
    counts = {}
    stored = set()
    for layer, source in network.edges():
        shape = network.input_shape if source is None else network.shape(source).pre
        counts[layer.name] = 0 if source in stored else math.prod(shape)
        stored.add(source)
    return counts


def bits_complexity(
    network: Network, design: str, bits: Mapping[str, Mapping[str, int]]
) -> Complexity:
    """The costs with these bits of each layer's tensors; those that are left out are float."""
    counts = activation_counts(network)
    layers = {name: _layer_cost(network, name, counts[name], bits[name]) for name in network.names}
    return Complexity(network.name, design, layers)


def _layer_cost(network: Network, name: str, activations: int, bits: Mapping[str, int]) -> Cost:
    shape = network.shape(name)
    gradients = 0 if is_branch(network, name) else math.prod(shape.pre)
    stored = {tensor: bits.get(tensor, FLOAT_STORAGE_BITS) for tensor in TENSORS}
    w, a, g = (
        bits.get(tensor, FLOAT_MULTIPLIER_BITS)
        for tensor in ("weights", "activations", "activation_grads")
    )
    layer = network.layer(name)
    source = network.source(name)
    trained = "weight" in layer.trained
    reached = name in network.reached
    back = reached and (source is None or source in network.reached)
    updated = stored["weight_grads"] + stored["accumulators"] if trained else 0
    return Cost(
        weight_storage=shape.weights * (stored["weights"] + updated),
        activation_storage=activations * stored["activations"]
        + (gradients * stored["activation_grads"] if reached else 0),
        training_macs=shape.macs * (w * a + back * w * g + trained * a * g),
        communication=shape.weights * stored["weight_grads"] if trained else 0,
    )
