"""What the integer executor takes: networks, formats, modes."""

from __future__ import annotations

from fxsim.errors import InputError, present, shown
from fxsim.nn.layer_precision import VELOCITIES
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.ops.dropout import MAX_RATE
from fxsim.ops.exact import MAX_PLACES

PLACES = {"max": MAX_PLACES, "average": 2**28}
"""Of the greatest windows.  An average's: a gradient of 34 bits and the number of places are
divided in 62 bits.
"""


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
        if layer.dropout > MAX_RATE:
            raise InputError(
                f"layer {layer.name!r}: dropout may be up to {MAX_RATE}, got {layer.dropout}"
            )
        windows = network.shape(layer.name).pool
        if layer.pool and present(windows).taps > PLACES[layer.pool.kind]:
            raise InputError(
                f"layer {layer.name!r}: {layer.pool.kind} pooling takes windows of up to "
                f"{PLACES[layer.pool.kind]} places, got {shown(layer.pool.size)}"
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
