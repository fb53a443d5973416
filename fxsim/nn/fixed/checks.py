"""What the integer executor takes: networks, formats, modes."""

from __future__ import annotations

from fxsim.errors import InputError, present, shown
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import VELOCITIES, PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.ops.exact import MAX_PLACES

MAX_DROPOUT = 0.9999
"""Up to here dropout's scale is below 2**15: a mantissa of 16 bits shifted to the right."""


def check_supported(network: Network, assignment: PrecisionAssignment) -> None:
    """InputError for what the integer executor does not run."""
    read = {
        network.names[-1],
        *(layer.add for layer in network.layers),
        *(source for _, source in network.edges()),
    }
    for layer in network.layers:
        if layer.name not in read:
            raise InputError(f"no layer reads or adds the output of {layer.name!r}; leave it out")
        if layer.dropout > MAX_DROPOUT:
            raise InputError(
                f"layer {layer.name!r}: dropout may be up to {MAX_DROPOUT}, got {layer.dropout}"
            )
        windows = network.shape(layer.name).pool
        if layer.pool and layer.pool.kind == "max" and present(windows).taps > MAX_PLACES:
            raise InputError(
                f"layer {layer.name!r}: max pooling takes windows of up to {MAX_PLACES} places, "
                f"got {shown(layer.pool.size)}"
            )
    last = assignment.layers[network.names[-1]].activation_grads
    if last.step_exp < -44:
        raise InputError(
            f"activation_grads of the last layer may have a step down to 2^-44, got {last}"
        )


def check_optimizer(assignment: PrecisionAssignment, optimizer: Optimizer) -> None:
    """InputError for modes of velocities that the optimizer does not have."""
    for what, modes in (("rounding", assignment.rounding), ("overflow", assignment.overflow)):
        for tensor in VELOCITIES:
            if tensor in modes and not optimizer:
                raise InputError(
                    f"{what} of {tensor}: there are no velocities without momentum or "
                    f"weight_decay; pass optimizer=Optimizer(...), or leave it out"
                )
