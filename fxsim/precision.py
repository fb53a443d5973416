"""PrecisionAssignment: a format for every tensor of every layer; the hand-over from analysis to training.

The paper's symbols map to names here, once:

    W_l        weights            signed, in [-1, 1)
    A_l        activations        the layer's *input*; unsigned
    G^A_{l+1}  activation_grads   gradient with respect to the layer's *output*
    G^W_l      weight_grads
    W^acc_l    accumulators       what is left of the running weight below W's step
"""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fxsim.errors import InputError, choice
from fxsim.files import read_json, write_text
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, Format
from fxsim.nn.spec import Network

SYMBOLS = {
    "weights": "W",
    "activations": "A",
    "activation_grads": "G^A",
    "weight_grads": "G^W",
    "accumulators": "W^acc",
}
TENSORS = tuple(SYMBOLS)

AUXILIARY = ("bias", "bias_grads", "bias_accumulators", "preactivations")
"""Tensors of a layer outside the method's five."""

PERTURBATION_CLASSES = {
    "feedforward": ("weights", "activations"),
    "weight_grads": ("weight_grads",),
    "activation_grads": ("activation_grads",),
    "accumulators": ("accumulators",),
}

UPDATE_BITS = 62
"""W and its accumulator are added as one exact integer; their widths together stay within this."""


@dataclass(frozen=True)
class Reason:
    """Why a tensor has its format: the criterion, the statistic that it read, what it asked for.

    statistic: name -> value, all that the criterion used.  margin: by what factor the format is finer
    (a step) or wider (a range) than asked, at least 1; 1 to 2 comes from rounding to powers of two.
    """

    criterion: str
    statistic: Mapping[str, float]
    margin: float


@dataclass(frozen=True)
class LayerPrecision:
    """The formats of one layer: the method's five, and those of bias and pre-activations."""

    weights: Format
    activations: Format
    activation_grads: Format
    weight_grads: Format
    accumulators: Format
    bias: Format = Format(16, 0)
    bias_grads: Format = Format(16, 0)
    bias_accumulators: Format = Format(32, -16)
    preactivations: Format = Format(16, 3)

    def __post_init__(self):
        for name in (*TENSORS, *AUXILIARY):
            bits = getattr(self, name).bits
            if not 1 <= bits <= MAX_TENSOR_BITS:
                raise InputError(f"{name} bits must be 1 to {MAX_TENSOR_BITS}, got {bits}")
            if name != "activations" and not getattr(self, name).signed:
                raise InputError(f"{name} must be signed, got {getattr(self, name)}; only activations may be unsigned")
        _check_accumulator("weights", self.weights, self.accumulators)
        _check_accumulator("bias", self.bias, self.bias_accumulators)


def accumulator_format(weights: Format, step_exp: int) -> Format:
    """W^acc for weights of format `weights`: range D_W / 2, the given step (method, criterion AS)."""
    return Format(max(1, weights.step_exp - step_exp), weights.step_exp - 1)


def _check_accumulator(name: str, parameter: Format, accumulator: Format) -> None:
    if not accumulator.signed or accumulator.range_exp != parameter.step_exp - 1:
        raise InputError(f"the accumulator of {name} must be signed with range_exp {parameter.step_exp - 1} (half "
                         f"the step of {parameter}), got {accumulator}; use fxsim.precision.accumulator_format")
    if parameter.bits + accumulator.bits > UPDATE_BITS:
        raise InputError(f"{name} and its accumulator have {parameter.bits} + {accumulator.bits} bits; "
                         f"together at most {UPDATE_BITS}")


@dataclass(frozen=True)
class PrecisionAssignment:
    """Formats for all tensors of the network named `network`.

    layers: layer name -> LayerPrecision, in the network's order.  logits: format of the class scores.
    rounding, overflow: tensor name -> mode where it differs from nearest_away and saturate.
    reasons: (layer, tensor) -> Reason.
    """

    network: str
    layers: Mapping[str, LayerPrecision]
    logits: Format = Format(16, 4)
    rounding: Mapping[str, str] = field(default_factory=dict)
    overflow: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[tuple[str, str], Reason] = field(default_factory=dict)

    def __post_init__(self):
        if not 1 <= self.logits.bits <= MAX_TENSOR_BITS:
            raise InputError(f"logits bits must be 1 to {MAX_TENSOR_BITS}, got {self.logits.bits}")
        for what, modes, allowed in (("rounding", self.rounding, ROUNDINGS), ("overflow", self.overflow, OVERFLOWS)):
            for tensor, mode in modes.items():
                choice(f"{what}: tensor", tensor, (*TENSORS, *AUXILIARY, "logits"))
                choice(f"{what} of {tensor}", mode, allowed)

    def rounding_of(self, tensor: str) -> str:
        return self.rounding.get(tensor, "nearest_away")

    def overflow_of(self, tensor: str) -> str:
        return self.overflow.get(tensor, "saturate")

    def check_network(self, network: Network) -> None:
        """InputError unless this assignment is for `network` (its name and layers)."""
        if self.network != network.name or tuple(self.layers) != network.names:
            raise InputError(f"assignment is for network {self.network!r} with layers {', '.join(self.layers)}, not for "
                             f"{network.name!r} with {', '.join(network.names)}; make one with `fxsim assign`")
        for source in {source for _, source in network.edges()}:
            _check_shared_input(self, network, source)

    def perturbed(self, bits: int, only: str | None = None) -> PrecisionAssignment:
        """C_o with `bits` more (or fewer, if negative) in every tensor, or in one class of tensors.

        only: a key of PERTURBATION_CLASSES.  Ranges stay, steps move; W^acc's range stays half of W's
        step, and where only weights are perturbed it keeps its step, so that its bits follow.
        """
        if only is not None:
            choice("only", only, PERTURBATION_CLASSES)
        tensors = TENSORS if only is None else PERTURBATION_CLASSES[only]
        layers = {name: _perturb_layer(name, layer, bits, tensors) for name, layer in self.layers.items()}
        return dataclasses.replace(self, layers=layers, reasons={})

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        rows = {}
        for name, layer in self.layers.items():
            rows[name] = {tensor: _format_dict(getattr(layer, tensor)) for tensor in (*TENSORS, *AUXILIARY)}
            for tensor in rows[name]:
                if (name, tensor) in self.reasons:
                    rows[name][tensor]["reason"] = dataclasses.asdict(self.reasons[name, tensor])
        return {"kind": "fxsim precision assignment", "version": 1, "network": self.network, "layers": rows,
                "logits": _format_dict(self.logits), "rounding": dict(self.rounding), "overflow": dict(self.overflow)}

    @classmethod
    def from_dict(cls, data: dict) -> PrecisionAssignment:
        """The assignment that `to_dict` gave; InputError tells what is missing or wrong."""
        if not isinstance(data, dict) or data.get("kind") != "fxsim precision assignment":
            raise InputError("this is no precision assignment (no kind 'fxsim precision assignment')")
        try:
            layers = {name: _read_layer(name, row) for name, row in data["layers"].items()}
            reasons = {(name, tensor): Reason(**cell["reason"])
                       for name, row in data["layers"].items() for tensor, cell in row.items() if "reason" in cell}
            return cls(data["network"], layers, _read_format("", "logits", data["logits"]),
                       data.get("rounding", {}), data.get("overflow", {}), reasons)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"the precision assignment is damaged: {error!r}; make it anew with `fxsim assign`") from None

    def save(self, path: str | Path) -> None:
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> PrecisionAssignment:
        try:
            return cls.from_dict(read_json(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _check_shared_input(assignment, network, source) -> None:
    formats = {assignment.layers[layer.name].activations for layer, reads in network.edges() if reads == source}
    if len(formats) > 1:
        raise InputError(f"layers that read {source!r} must share one activations format, got "
                         f"{', '.join(map(str, formats))}")


def _perturb_layer(name, layer: LayerPrecision, bits: int, tensors) -> LayerPrecision:
    changed = {}
    for tensor in tensors:
        old = getattr(layer, tensor)
        if not 1 <= old.bits + bits <= MAX_TENSOR_BITS:
            raise InputError(f"layer {name!r}: {tensor} has {old.bits} bits and cannot take {bits:+d}; "
                             f"stay within 1 to {MAX_TENSOR_BITS}")
        changed[tensor] = dataclasses.replace(old, bits=old.bits + bits)
    if "weights" in changed:
        weights = changed["weights"]
        if "accumulators" in changed:
            changed["accumulators"] = Format(changed["accumulators"].bits, weights.step_exp - 1)
        else:
            changed["accumulators"] = accumulator_format(weights, layer.accumulators.step_exp)
    return dataclasses.replace(layer, **changed)


def _format_dict(format: Format) -> dict:
    return {**dataclasses.asdict(format), "step_exp": format.step_exp, "q": format.q("ti")}


def _read_layer(name: str, row: dict) -> LayerPrecision:
    for tensor in row:
        choice(f"layer {name!r}: tensor", tensor, (*TENSORS, *AUXILIARY))
    return LayerPrecision(**{tensor: _read_format(name, tensor, cell) for tensor, cell in row.items()})


def _read_format(layer: str, tensor: str, cell: dict) -> Format:
    try:
        return Format(cell["bits"], cell["range_exp"], cell["signed"])
    except (InputError, TypeError) as error:
        raise InputError(f"layer {layer!r}, {tensor}: {error}") from None
