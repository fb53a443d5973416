"""The formats of one layer's tensors.

The paper's symbols map to names here, once:

W_l        weights            signed, in [-1, 1)
A_l        activations        the layer's *input*; unsigned after a ReLU
G^A_{l+1}  activation_grads   gradient with respect to the layer's *output*
G^W_l      weight_grads
W^acc_l    accumulators       what is left of the running weight below W's step
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from fxsim.errors import InputError, choice, listed
from fxsim.fields import (
    check_fields,
    mapping,
)
from fxsim.formats import MAX_TENSOR_BITS, OVERFLOWS, ROUNDINGS, Format
from fxsim.ops.update import check_accumulator

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

OPTIONAL = ("branch", "relu_input_grads", "updates", "bias_updates")
"""Tensors whose format may be left out."""

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

VELOCITIES = ("velocities", "bias_velocities", "gamma_velocities", "beta_velocities")
"""Made where there is momentum or weight decay.

Their formats follow from the gradients' (nn/optimizer.py).
"""

FORMATS = (*TENSORS, *AUXILIARY, *OPTIONAL, *BATCH_NORM)


OF_IMAGES = frozenset(
    (
        "activations",
        "activation_grads",
        "branch",
        "dropout",
        "logits",
        "normalized",
        "preactivation_grads",
        "preactivations",
        "relu_input_grads",
    )
)
"""What a training step makes for each image; it makes all else once for the whole batch."""


@dataclass(frozen=True)
class Modes:
    """The roundings and the overflows that the maker of a tensor honours."""

    roundings: tuple[str, ...]
    overflows: tuple[str, ...]


_PARAMETERS = ("weights", "bias", "gamma", "beta")

ACCUMULATORS = ("accumulators", "bias_accumulators", "gamma_accumulators", "beta_accumulators")

_DIVISIONS = ("mean", "variance")

MODES = dict.fromkeys(
    (*FORMATS, "logits", *VELOCITIES), Modes(ROUNDINGS, OVERFLOWS)
) | dict.fromkeys((*_PARAMETERS, *_DIVISIONS), Modes(("nearest_away",), ("saturate",)))
"""Tensor -> what PrecisionAssignment takes for it; fxsim/numerics.md, "Tensors", says the same.

The rounding of a parameter is that of its real values at the start; UPDATE_ROUNDING follows.  The
overflow of accumulators is that of a parameter that has none.
"""

UPDATE_ROUNDING = "nearest_up"
"""How an update brings the running parameter, W with its accumulator, back to W's step."""


@dataclass(frozen=True)
class BatchNormPrecision:
    """The formats of batch norm's own tensors; the pre-activations that it normalizes have
    LayerPrecision's.

    gamma_accumulators, beta_accumulators: None for none.
    normalized: x-hat.  preactivation_grads: the gradient at the pre-activations, which the products
    of the backward pass read; None for the format that it arrives in, that of activation_grads.
    """

    mean: Format = Format(16, 3)
    variance: Format = Format(16, 3, signed=False)
    normalized: Format = Format(16, 3)
    gamma: Format = Format(16, 1)
    gamma_grads: Format = Format(16, 0)
    gamma_accumulators: Format | None = Format(32, -15)
    beta: Format = Format(16, 1)
    beta_grads: Format = Format(16, 0)
    beta_accumulators: Format | None = Format(32, -15)
    preactivation_grads: Format | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        _check_formats(self, BATCH_NORM, ("variance",))
        _check_accumulator("gamma", self.gamma, self.gamma_accumulators)
        _check_accumulator("beta", self.beta, self.beta_accumulators)


@dataclass(frozen=True)
class LayerPrecision:
    """The formats of one layer: the method's five, those of bias and pre-activations, those of
    batch norm.

    accumulators, bias_accumulators: None for none: the parameter is its own accumulator, and each
    update is rounded once, to the parameter's step, by the rounding and the overflow of that name.
    updates, bias_updates: rate times gradient, rounded before a parameter without an accumulator
    takes it; None for the exact product.
    preactivations: what batch norm normalizes.  branch: the layer's output where no layer reads it
    but residual additions do; None for 16 bits over [-2, 2) after the clipped ReLU, over the least
    power of two that holds another ceiling, and over [-8, 8) without one.  relu_input_grads: the
    gradient before a leaky ReLU or a table; None for the exact one of a leaky ReLU, and for the
    format in which a table's arrives.  batch_norm: None for BatchNormPrecision's defaults, where
    the layer has batch norm.  A layer with batch norm has no bias, and only such a layer has
    pre-activations in a format of their own.

    Raises:
        TypeError: a field is no Format (batch_norm: no BatchNormPrecision).
        InputError: a format of too many bits or of the wrong sign, an accumulator that does not
            begin where its parameter ends.
    """

    weights: Format
    activations: Format
    activation_grads: Format
    weight_grads: Format
    accumulators: Format | None
    bias: Format = Format(16, 0)
    bias_grads: Format = Format(16, 0)
    bias_accumulators: Format | None = Format(32, -16)
    preactivations: Format = Format(16, 3)
    branch: Format | None = None
    relu_input_grads: Format | None = None
    updates: Format | None = None
    bias_updates: Format | None = None
    batch_norm: BatchNormPrecision | None = None

    def __post_init__(self) -> None:
        check_fields(self, "")
        given = [name for name in OPTIONAL if getattr(self, name) is not None]
        _check_formats(self, (*TENSORS, *AUXILIARY, *given), ("activations",))
        _check_accumulator("weights", self.weights, self.accumulators)
        _check_accumulator("bias", self.bias, self.bias_accumulators)
        for kind in ("weight", "bias"):
            update = update_tensor(kind)
            held = accumulator_tensor(kind)
            if getattr(self, update) and getattr(self, held):
                raise InputError(
                    f"{update} is the format of rate times gradient where there are no {held}, got "
                    f"both; leave one of them out"
                )

    def given(self) -> dict[str, Format]:
        """Tensor -> format, of all that have one here."""
        formats: dict[str, Format | None]
        formats = {name: getattr(self, name) for name in (*TENSORS, *AUXILIARY, *OPTIONAL)}
        formats |= (
            {name: getattr(self.batch_norm, name) for name in BATCH_NORM} if self.batch_norm else {}
        )
        return {name: format for name, format in formats.items() if format is not None}

    def without_accumulators(self) -> LayerPrecision:
        """The same, every parameter its own accumulator."""
        norm = self.batch_norm
        if norm is not None:
            norm = dataclasses.replace(norm, gamma_accumulators=None, beta_accumulators=None)
        return dataclasses.replace(self, accumulators=None, bias_accumulators=None, batch_norm=norm)

    @classmethod
    def of(cls, formats: Mapping[str, Format | None]) -> LayerPrecision:
        """The precision whose formats are `given`; what is missing has its default.

        None stands for an accumulator that is not there.
        """
        for name in mapping("formats", formats):
            choice("formats: tensor", name, FORMATS)
        missing = [name for name in TENSORS if name not in formats]
        if missing:
            raise InputError(f"formats lack {listed(missing)}; give all of {listed(TENSORS)}")
        norm: dict[str, Any] = {
            name: format for name, format in formats.items() if name in BATCH_NORM
        }
        others: dict[str, Any] = {
            name: format for name, format in formats.items() if name not in BATCH_NORM
        }
        return cls(**others, batch_norm=BatchNormPrecision(**norm) if norm else None)


def _check_formats(precision: object, names: Iterable[str], unsigned: tuple[str, ...]) -> None:
    for name in names:
        format = getattr(precision, name)
        if format is None:
            continue
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


def accumulator_tensor(kind: str) -> str:
    """The name of the accumulators of 'weight', 'bias', 'gamma' or 'beta'."""
    return "accumulators" if kind == "weight" else f"{kind}_accumulators"


def update_tensor(kind: str) -> str:
    """The name of rate times gradient of 'weight', 'bias', 'gamma' or 'beta'."""
    return "updates" if kind == "weight" else f"{kind}_updates"


def _check_accumulator(name: str, parameter: Format, accumulator: Format | None) -> None:
    if accumulator is not None:
        check_accumulator(name, parameter, accumulator)


def product_step_exp(layer: LayerPrecision, kind: str) -> int:
    """Of the products of a kind, but for what poolings and dropout make finer."""
    norm = layer.batch_norm
    grads = (norm and norm.preactivation_grads) or layer.relu_input_grads or layer.activation_grads
    factors = {
        "forward": (layer.activations, layer.weights),
        "input_grad": (grads, layer.weights),
        "weight_grad": (layer.activations, grads),
    }[kind]
    return sum(format.step_exp for format in factors)


def perturb_layer(
    name: str, layer: LayerPrecision, bits: int, tensors: tuple[str, ...]
) -> LayerPrecision:
    """The formats of a layer with `bits` more in these tensors; see PrecisionAssignment.perturbed."""
    changed = {
        tensor: _perturbed(name, tensor, getattr(layer, tensor), bits)
        for tensor in tensors
        if tensor != "accumulators"
    }
    held = layer.accumulators
    if held is not None and "accumulators" in tensors:
        spared = max(bits, 1 - held.bits)
        changed["accumulators"] = _perturbed(name, "accumulators", held, spared)
    if held is not None and "weights" in changed:
        weights = changed["weights"]
        if "accumulators" in changed:
            changed["accumulators"] = Format(changed["accumulators"].bits, weights.step_exp - 1)
        else:
            changed["accumulators"] = accumulator_format(weights, held.step_exp)
    norm = layer.batch_norm
    if "activation_grads" in changed and norm and norm.preactivation_grads:
        grads = _perturbed(name, "preactivation_grads", norm.preactivation_grads, bits)
        norm = dataclasses.replace(norm, preactivation_grads=grads)
    formats: dict[str, Any] = dict(changed)
    return dataclasses.replace(layer, **formats, batch_norm=norm)


def _perturbed(layer: str, tensor: str, format: Format, bits: int) -> Format:
    if not 1 <= format.bits + bits <= MAX_TENSOR_BITS:
        raise InputError(
            f"layer {layer!r}: {tensor} has {format.bits} bits and cannot take {bits:+d}; "
            f"stay within 1 to {MAX_TENSOR_BITS}"
        )
    return dataclasses.replace(format, bits=format.bits + bits)
