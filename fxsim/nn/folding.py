"""Folding batch norm into weights and bias: the network without it, and its parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fxsim.errors import InputError, shown
from fxsim.factors import Factor
from fxsim.fields import instance
from fxsim.formats import Format
from fxsim.nn.init import Parameters, checked_parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Layer, Network
from fxsim.nn.tensors import quantized_tensors, tensors_of


class Folded(NamedTuple):
    """A network without batch norm, and its real parameters."""

    network: Network
    parameters: Parameters


def without_batch_norm(network: Network) -> Network:
    """The same network, where a bias takes the place of each batch norm."""

    def plain(layer: Any) -> Any:
        return dataclasses.replace(layer, batch_norm=False, bias=None) if layer.norm else layer

    return dataclasses.replace(network, layers=tuple(map(plain, network.layers)))


def fold(network: Network, parameters: Mapping[str, Mapping[str, Any]]) -> Folded:
    """Batch norm of inference folded into weights and bias, in float64.

    With s = gamma / sqrt(running variance + epsilon), weight s and beta - running mean s are the
    new weight and bias of each channel.  FixedNetwork.folded does it in fixed point.

    Args:
        network: The network, with batch norm in some layers.
        parameters: Layer -> name -> real array, as for FloatNetwork.

    Returns:
        (network, parameters) without batch norm.

    Raises:
        TypeError, InputError: As FloatNetwork, for parameters that do not fit.

    Example:
        >>> from fxsim import Dense, FloatNetwork, Network
        >>> from fxsim.nn.init import initial_parameters
        >>> layers = (Dense(name="a", units=2, batch_norm=True, activation="none"),
        ...           Dense(name="scores", units=2, activation="none"))
        >>> network = Network("n", (1, 1, 3), layers)
        >>> folded = fold(network, initial_parameters(network, 0))
        >>> sorted(folded.parameters["a"]), FloatNetwork(*folded).network.layer("a").has_bias
        (['bias', 'weight'], True)
    """
    real = checked_parameters(instance("network", network, Network), parameters)
    made = {layer.name: _fold_layer(layer, real[layer.name]) for layer in network.layers}
    return Folded(without_batch_norm(network), made)


def _fold_layer(layer: Layer, own: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if layer.norm is None:
        return own
    variance = own["running_var"] + Factor.nearest(layer.norm.epsilon).real
    scale = own["gamma"] / np.sqrt(variance)
    return {"weight": own["weight"] * scale, "bias": own["beta"] - own["running_mean"] * scale}


def folded_assignment(assignment: PrecisionAssignment, network: Network) -> PrecisionAssignment:
    """The assignment without what batch norm alone has.

    network: The one without batch norm.
    """
    layers = {
        name: dataclasses.replace(own, batch_norm=None) for name, own in assignment.layers.items()
    }
    tensors = quantized_tensors(network, layers)

    def left(given: Mapping[str, Any]) -> dict[str, Any]:
        """What is given for a tensor, or for 'layer.tensor', that is still quantized."""
        found = {}
        for key, value in given.items():
            name, dot, tensor = key.rpartition(".")
            if tensor in (tensors_of(network, name, layers[name]) if dot else tensors):
                found[key] = value
        return found

    return dataclasses.replace(
        assignment,
        layers=layers,
        rounding=left(assignment.rounding),
        overflow=left(assignment.overflow),
        words=left(assignment.words),
        reasons={},
    )


def check_representable(layer: str, tensor: str, codes: np.ndarray, format: Format) -> None:
    """InputError unless rounded codes (..., O) of a folded parameter lie in its format."""
    outside = (codes < format.min_code) | (codes > format.max_code)
    if not outside.any():
        return
    place = tuple(int(axis[0]) for axis in np.nonzero(outside))
    code = int(codes[place])
    largest = max(abs(int(each)) for each in codes.reshape(-1).tolist())
    range_exp = format.step_exp + largest.bit_length()
    raise InputError(
        f"layer {layer!r}, channel {place[-1]}: the folded {tensor} {shown(code * format.step)} is "
        f"outside {format}; give {tensor} a range of 2^{range_exp}, or scale gamma and the layers "
        f"around it"
    )
