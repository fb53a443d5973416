"""PrecisionAssignment: a format for every tensor of every layer; the hand-over from analysis to
training.

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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fxsim.accumulator import KINDS, Accumulator, check_keys, parse_accumulators
from fxsim.errors import InputError, choice
from fxsim.files import read_json, write_text
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, Format
from fxsim.nn.spec import RELU_RANGE_EXP, Network

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

BATCH_NORM = (
    "mean",
    "variance",
    "normalized",
    "gamma",
    "gamma_grads",
    "gamma_accumulators",
    "beta",
    "beta_grads",
    "beta_accumulators",
    "preactivation_grads",
)
"""Tensors of a layer with batch norm."""

DIVISIONS = ("mean", "variance")
"""Always rounded to nearest, ties away from zero, and saturated."""

VELOCITIES = ("velocities", "bias_velocities", "gamma_velocities", "beta_velocities")
"""Made where there is momentum or weight decay.

Their formats follow from the gradients' (nn/optimizer.py).
"""

PERTURBATION_CLASSES = {
    "feedforward": ("weights", "activations"),
    "weight_grads": ("weight_grads",),
    "activation_grads": ("activation_grads",),
    "accumulators": ("accumulators",),
}

_FORMATS = (*TENSORS, *AUXILIARY, "branch", *BATCH_NORM)
_QUANTIZED = (*(name for name in _FORMATS if name not in DIVISIONS), "logits", *VELOCITIES)

_BRANCH = {True: Format(16, RELU_RANGE_EXP), False: Format(16, 3)}
"""LayerPrecision.branch by default, with and without a ReLU."""

UPDATE_BITS = 62
"""W and its accumulator are added as one exact integer; their widths together stay within this."""


@dataclass(frozen=True)
class Reason:
    """Why a tensor has its format: the criterion, the statistic that it read, what it asked for.

    statistic: name -> value, all that the criterion used.  margin: by what factor the format is
    finer (a step) or wider (a range) than asked, at least 1; 1 to 2 comes from rounding to powers
    of two."""

    criterion: str
    statistic: Mapping[str, float]
    margin: float


@dataclass(frozen=True)
class BatchNormPrecision:
    """The formats of batch norm's own tensors; the pre-activations that it normalizes have
    LayerPrecision's.

    normalized: x-hat.  preactivation_grads: the gradient at the pre-activations, which the products
    of the backward pass read; None for the format that it arrives in, that of activation_grads.
    """

    mean: Format = Format(16, 3)
    variance: Format = Format(16, 3, signed=False)
    normalized: Format = Format(16, 3)
    gamma: Format = Format(16, 1)
    gamma_grads: Format = Format(16, 0)
    gamma_accumulators: Format = Format(32, -15)
    beta: Format = Format(16, 1)
    beta_grads: Format = Format(16, 0)
    beta_accumulators: Format = Format(32, -15)
    preactivation_grads: Format | None = None

    def __post_init__(self):
        _check_formats(
            self, [name for name in BATCH_NORM if getattr(self, name) is not None], ("variance",)
        )
        _check_accumulator("gamma", self.gamma, self.gamma_accumulators)
        _check_accumulator("beta", self.beta, self.beta_accumulators)


@dataclass(frozen=True)
class LayerPrecision:
    """The formats of one layer: the method's five, those of bias and pre-activations, those of
    batch norm.

    preactivations: what batch norm normalizes.  branch: the layer's output where no layer reads it
    but residual additions do; None for 16 bits over [-2, 2) after a ReLU, whose clipping that is,
    and over [-8, 8) without one.  batch_norm: None for BatchNormPrecision's defaults, where the
    layer has batch norm.
    """

    weights: Format
    activations: Format
    activation_grads: Format
    weight_grads: Format
    accumulators: Format
    bias: Format = Format(16, 0)
    bias_grads: Format = Format(16, 0)
    bias_accumulators: Format = Format(32, -16)
    preactivations: Format = Format(16, 3)
    branch: Format | None = None
    batch_norm: BatchNormPrecision | None = None

    def __post_init__(self):
        _check_formats(
            self, (*TENSORS, *AUXILIARY, *(["branch"] if self.branch else [])), ("activations",)
        )
        _check_accumulator("weights", self.weights, self.accumulators)
        _check_accumulator("bias", self.bias, self.bias_accumulators)

    def given(self) -> dict[str, Format]:
        """Tensor -> format, of all that have one here."""
        formats = {name: getattr(self, name) for name in (*TENSORS, *AUXILIARY, "branch")}
        formats |= (
            {name: getattr(self.batch_norm, name) for name in BATCH_NORM} if self.batch_norm else {}
        )
        return {name: format for name, format in formats.items() if format is not None}

    @classmethod
    def of(cls, formats: Mapping[str, Format]) -> LayerPrecision:
        """The precision whose formats are `given`; what is missing has its default."""
        norm = {name: format for name, format in formats.items() if name in BATCH_NORM}
        others = {name: format for name, format in formats.items() if name not in BATCH_NORM}
        return cls(**others, batch_norm=BatchNormPrecision(**norm) if norm else None)


def _check_formats(precision, names, unsigned) -> None:
    for name in names:
        format = getattr(precision, name)
        if not 1 <= format.bits <= MAX_TENSOR_BITS:
            raise InputError(f"{name} bits must be 1 to {MAX_TENSOR_BITS}, got {format.bits}")
        if name not in unsigned and not format.signed:
            raise InputError(
                f"{name} must be signed, got {format}; only {' and '.join(unsigned)} may be "
                f"unsigned"
            )


def accumulator_format(weights: Format, step_exp: int) -> Format:
    """W^acc for weights of format `weights`.

    Range D_W / 2, the given step (method, criterion AS).
    """
    return Format(max(1, weights.step_exp - step_exp), weights.step_exp - 1)


def _check_accumulator(name: str, parameter: Format, accumulator: Format) -> None:
    if not accumulator.signed or accumulator.range_exp != parameter.step_exp - 1:
        raise InputError(
            f"the accumulator of {name} must be signed with range_exp {parameter.step_exp - 1} "
            f"(half "
            f"the step of {parameter}), got {accumulator}; use "
            f"fxsim.nn.precision.accumulator_format"
        )
    if parameter.bits + accumulator.bits > UPDATE_BITS:
        raise InputError(
            f"{name} and its accumulator have {parameter.bits} + {accumulator.bits} bits; "
            f"together at most {UPDATE_BITS}"
        )


@dataclass(frozen=True)
class PrecisionAssignment:
    """Formats for all tensors of the network named `network`.

    layers: layer name -> LayerPrecision, in the network's order.  logits: format of the class
    scores. rounding, overflow: tensor name -> mode where it differs from nearest_away and saturate.
    accumulator: kind of product (one of fxsim.accumulator.KINDS), or 'layer.kind', which goes
    before it -> Accumulator of these sums; products without one are summed exactly.
    reasons: (layer, tensor) -> Reason.
    """

    network: str
    layers: Mapping[str, LayerPrecision]
    logits: Format = Format(16, 4)
    rounding: Mapping[str, str] = field(default_factory=dict)
    overflow: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[tuple[str, str], Reason] = field(default_factory=dict)
    accumulator: Mapping[str, Accumulator] = field(default_factory=dict)

    def __post_init__(self):
        if not 1 <= self.logits.bits <= MAX_TENSOR_BITS:
            raise InputError(f"logits bits must be 1 to {MAX_TENSOR_BITS}, got {self.logits.bits}")
        for what, modes, allowed in (
            ("rounding", self.rounding, ROUNDINGS),
            ("overflow", self.overflow, OVERFLOWS),
        ):
            for tensor, mode in modes.items():
                choice(f"{what}: tensor", tensor, _QUANTIZED)
                choice(f"{what} of {tensor}", mode, allowed)
        check_keys(self.accumulator, self.layers)

    def rounding_of(self, tensor: str) -> str:
        return self.rounding.get(tensor, "nearest_away")

    def overflow_of(self, tensor: str) -> str:
        return self.overflow.get(tensor, "saturate")

    def accumulators_of(self, layer: str) -> dict[str, Accumulator]:
        """Kind of product -> Accumulator, for the products of this layer that have one."""
        found = {
            kind: self.accumulator.get(f"{layer}.{kind}", self.accumulator.get(kind))
            for kind in KINDS
        }
        return {kind: model for kind, model in found.items() if model}

    def with_accumulators(self, texts: Iterable[str]) -> PrecisionAssignment:
        """The same with accumulators as in fxsim.accumulator.parse_accumulators, beside or in
        place of its own.
        """
        return dataclasses.replace(
            self, accumulator={**self.accumulator, **parse_accumulators(texts)}
        )

    def check_network(self, network: Network) -> None:
        """InputError unless this assignment is for `network` (its name and layers)."""
        if self.network != network.name or tuple(self.layers) != network.names:
            raise InputError(
                f"assignment is for network {self.network!r} with layers {', '.join(self.layers)}, "
                f"not for "
                f"{network.name!r} with {', '.join(network.names)}; make one with `fxsim assign`"
            )
        for source in {source for _, source in network.edges()}:
            _check_shared_input(self, network, source)

    def completed(self, network: Network) -> PrecisionAssignment:
        """With the defaults written out for batch norm, and for outputs that only residual
        additions read.
        """
        read = {source for _, source in network.edges()}
        added = {layer.add for layer in network.layers}
        layers = {}
        for layer in network.layers:
            own = self.layers[layer.name]
            norm = own.batch_norm or (BatchNormPrecision() if layer.batch_norm else None)
            branch = own.branch or (_BRANCH[layer.relu] if layer.name in added - read else None)
            layers[layer.name] = dataclasses.replace(own, batch_norm=norm, branch=branch)
        return dataclasses.replace(self, layers=layers)

    def perturbed(self, bits: int, only: str | None = None) -> PrecisionAssignment:
        """C_o with `bits` more (or fewer, if negative) in every tensor, or in one class of tensors.

        only: a key of PERTURBATION_CLASSES.  Ranges stay, steps move; W^acc's range stays half of
        W's step, and where only weights are perturbed it keeps its step, so that its bits follow.
        W^acc keeps at least 1 bit, for C_o gives it no more in many a layer; InputError where no
        other tensor can change either."""
        if only is not None:
            choice("only", only, PERTURBATION_CLASSES)
        tensors = TENSORS if only is None else PERTURBATION_CLASSES[only]
        layers = {
            name: _perturb_layer(name, layer, bits, tensors) for name, layer in self.layers.items()
        }
        if bits and layers == self.layers:
            raise InputError(
                f"accumulators have 1 bit in every layer and cannot take {bits:+d}; perturb "
                f"another class"
            )
        return dataclasses.replace(self, layers=layers, reasons={})

    def to_dict(self) -> dict:
        """Plain data for JSON; `from_dict` reads it back."""
        rows = {}
        for name, layer in self.layers.items():
            rows[name] = {tensor: _format_dict(format) for tensor, format in layer.given().items()}
            for tensor in rows[name]:
                if (name, tensor) in self.reasons:
                    rows[name][tensor]["reason"] = dataclasses.asdict(self.reasons[name, tensor])
        models = {key: model.to_dict() for key, model in self.accumulator.items()}
        return {
            "kind": "fxsim precision assignment",
            "version": 1,
            "network": self.network,
            "layers": rows,
            "logits": _format_dict(self.logits),
            "rounding": dict(self.rounding),
            "overflow": dict(self.overflow),
            **({"accumulator": models} if models else {}),
        }

    @classmethod
    def from_dict(cls, data: dict) -> PrecisionAssignment:
        """The assignment that `to_dict` gave; InputError tells what is missing or wrong."""
        if not isinstance(data, dict) or data.get("kind") != "fxsim precision assignment":
            raise InputError(
                "this is no precision assignment (no kind 'fxsim precision assignment')"
            )
        try:
            layers = {name: _read_layer(name, row) for name, row in data["layers"].items()}
            reasons = {
                (name, tensor): Reason(**cell["reason"])
                for name, row in data["layers"].items()
                for tensor, cell in row.items()
                if "reason" in cell
            }
            return cls(
                data["network"],
                layers,
                _read_format("", "logits", data["logits"]),
                data.get("rounding", {}),
                data.get("overflow", {}),
                reasons,
                {
                    key: Accumulator.from_dict(row)
                    for key, row in data.get("accumulator", {}).items()
                },
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the precision assignment is damaged: {error!r}; make it anew with `fxsim assign`"
            ) from None

    def save(self, path: str | Path) -> None:
        write_text(path, json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> PrecisionAssignment:
        try:
            return cls.from_dict(read_json(path))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _check_shared_input(assignment, network, source) -> None:
    formats = {
        assignment.layers[layer.name].activations
        for layer, reads in network.edges()
        if reads == source
    }
    if len(formats) > 1:
        raise InputError(
            f"layers that read {source!r} must share one activations format, got "
            f"{', '.join(map(str, formats))}"
        )


def _perturb_layer(name, layer: LayerPrecision, bits: int, tensors) -> LayerPrecision:
    changed = {
        tensor: _perturbed(name, tensor, getattr(layer, tensor), bits)
        for tensor in tensors
        if tensor != "accumulators"
    }
    if "accumulators" in tensors:
        spared = max(bits, 1 - layer.accumulators.bits)
        changed["accumulators"] = _perturbed(name, "accumulators", layer.accumulators, spared)
    if "weights" in changed:
        weights = changed["weights"]
        if "accumulators" in changed:
            changed["accumulators"] = Format(changed["accumulators"].bits, weights.step_exp - 1)
        else:
            changed["accumulators"] = accumulator_format(weights, layer.accumulators.step_exp)
    norm = layer.batch_norm
    if "activation_grads" in changed and norm and norm.preactivation_grads:
        grads = _perturbed(name, "preactivation_grads", norm.preactivation_grads, bits)
        changed["batch_norm"] = dataclasses.replace(norm, preactivation_grads=grads)
    return dataclasses.replace(layer, **changed)


def _perturbed(layer: str, tensor: str, format: Format, bits: int) -> Format:
    if not 1 <= format.bits + bits <= MAX_TENSOR_BITS:
        raise InputError(
            f"layer {layer!r}: {tensor} has {format.bits} bits and cannot take {bits:+d}; "
            f"stay within 1 to {MAX_TENSOR_BITS}"
        )
    return dataclasses.replace(format, bits=format.bits + bits)


def _format_dict(format: Format) -> dict:
    return {**dataclasses.asdict(format), "step_exp": format.step_exp, "q": format.q("ti")}


def _read_layer(name: str, row: dict) -> LayerPrecision:
    for tensor in row:
        choice(f"layer {name!r}: tensor", tensor, _FORMATS)
    return LayerPrecision.of(
        {tensor: _read_format(name, tensor, cell) for tensor, cell in row.items()}
    )


def _read_format(layer: str, tensor: str, cell: dict) -> Format:
    try:
        return Format(cell["bits"], cell["range_exp"], cell["signed"])
    except (InputError, TypeError) as error:
        raise InputError(f"layer {layer!r}, {tensor}: {error}") from None
