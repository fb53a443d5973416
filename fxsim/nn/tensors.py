"""Which tensors a training step of a network quantizes, and which formats it has no use for."""

from __future__ import annotations

from collections.abc import Mapping

from fxsim.accumulator import KINDS
from fxsim.activation import Activation
from fxsim.errors import InputError, listed, shown
from fxsim.formats import Format
from fxsim.nn.layer_precision import BATCH_NORM, MODES, VELOCITIES, LayerPrecision
from fxsim.nn.spec import Layer, Network

_OF_AFFINE = ("gamma_grads", "gamma_accumulators", "beta_grads", "beta_accumulators")

BRANCH_BITS = 16

BRANCH_RANGE_EXP = 3
"""LayerPrecision.branch by default, where the activation has no ceiling."""


def quantized_tensors(
    network: Network, layers: Mapping[str, LayerPrecision] | None = None
) -> set[str]:
    """The tensors of MODES that a training step of `network` in these formats quantizes."""
    formats = layers or {}
    return {
        tensor for name in network.names for tensor in tensors_of(network, name, formats.get(name))
    }


def tensors_of(network: Network, name: str, formats: LayerPrecision | None = None) -> set[str]:
    """The tensors of MODES that a training step quantizes as those of a layer.

    An output is a tensor of the first layer that reads it.  Velocities are left out: they depend on
    the optimizer.  `relu_input_grads` of a leaky ReLU is quantized where it has a format.
    """
    layer = network.layer(name)
    kind = layer.activation.kind
    has_format = formats is not None and formats.relu_input_grads is not None
    rounds_grads = kind == "table" or (kind == "leaky_relu" and has_format)
    source = network.source(name)
    first = next(each.name for each, reads in network.edges() if reads == source)
    present = {
        "activation_grads": name in network.reached,
        "weight_grads": "weight" in layer.trained,
        "accumulators": "weight" in layer.trained,
        "bias": layer.has_bias,
        "bias_grads": "bias" in layer.trained,
        "bias_accumulators": "bias" in layer.trained,
        "activations": source is not None and first == name,
        "branch": is_branch(network, name),
        "relu_input_grads": rounds_grads and name in network.reached,
        "updates": formats is not None and formats.updates is not None,
        "bias_updates": formats is not None and formats.bias_updates is not None,
        "logits": name == network.names[-1],
        **dict.fromkeys(("preactivations", *BATCH_NORM), layer.batch_norm),
        **dict.fromkeys(_OF_AFFINE, "gamma" in layer.trained),
        "preactivation_grads": layer.batch_norm and name in network.reached,
    }
    return {tensor for tensor in MODES if tensor not in VELOCITIES and present.get(tensor, True)}


def products_of(network: Network, name: str) -> tuple[str, ...]:
    """The kinds of product (fxsim.accumulator.KINDS) that a training step computes for a layer."""
    computed = {
        "forward": True,
        "input_grad": network.source(name) in network.reached,
        "weight_grad": "weight" in network.layer(name).trained,
    }
    return tuple(kind for kind in KINDS if computed[kind])


def default_branch(activation: Activation) -> Format:
    """LayerPrecision.branch by default."""
    ceiling_exp = activation.least_range_exp
    return Format(BRANCH_BITS, BRANCH_RANGE_EXP if ceiling_exp is None else ceiling_exp)


def is_branch(network: Network, name: str) -> bool:
    """Whether residual additions read the output of a layer, and no layer does."""
    return any(layer.add == name for layer in network.layers) and all(
        source != name for _, source in network.edges()
    )


def check_present(layer: Layer, precision: LayerPrecision, branch: bool) -> None:
    """InputError for formats of tensors that the layer has not."""
    if precision.batch_norm and not layer.batch_norm:
        raise InputError(
            f"layer {shown(layer.name)} has no batch norm; leave batch_norm (mean, variance, "
            f"gamma, ...) out of its precision"
        )
    if precision.relu_input_grads and layer.activation.kind not in ("leaky_relu", "table"):
        raise InputError(
            f"layer {shown(layer.name)}: relu_input_grads is the format of the gradient before a "
            f"leaky ReLU or a table, got activation {layer.activation.kind!r}; leave it out"
        )
    if precision.branch and not branch:
        raise InputError(
            f"layer {shown(layer.name)}: branch is the format of an output that only residual "
            f"additions read; the layers that read this one give its format as activations; "
            f"leave branch out"
        )


def check_trained(network: Network, layer: Layer, precision: LayerPrecision) -> None:
    """InputError for formats of what training does not compute, but for those that must be there."""
    for tensor, computed in (
        ("updates", "weight" in layer.trained),
        ("bias_updates", "bias" in layer.trained),
        ("relu_input_grads", layer.name in network.reached),
    ):
        if getattr(precision, tensor) and not computed:
            raise InputError(
                f"layer {shown(layer.name)}: training computes no {tensor} here (train "
                f"{layer.train!r}); leave its format out"
            )


def check_shared_input(
    layers: Mapping[str, LayerPrecision], network: Network, source: str | None
) -> None:
    """InputError unless all layers that read this output have one format for it."""
    formats = {
        layers[layer.name].activations for layer, reads in network.edges() if reads == source
    }
    if len(formats) > 1:
        raise InputError(
            f"layers that read {shown(source)} must share one activations format, got "
            f"{listed(formats)}"
        )
