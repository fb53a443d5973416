"""What the integer executor takes: networks, formats, pictures, labels."""

from __future__ import annotations

from fxsim.errors import InputError
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import VELOCITIES, PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.ops.dropout import MAX_RATE
from fxsim.ops.exact import MAX_POOL_SIZE
from fxsim.ops.loss import check_logits

POOL_SIZES = {"max": MAX_POOL_SIZE, "average": 2**14}
"""Greatest windows.  An average's: a gradient of 34 bits and the square of the size are divided in
62 bits."""


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
        if layer.pool and layer.pool.size > POOL_SIZES[layer.pool.kind]:
            most = POOL_SIZES[layer.pool.kind]
            raise InputError(
                f"layer {layer.name!r}: {layer.pool.kind} pooling takes windows up to "
                f"{most}x{most}, got {layer.pool.size}"
            )
    check_logits(assignment.logits)


def check_optimizer(assignment: PrecisionAssignment, optimizer: Optimizer) -> None:
    """InputError for modes of velocities that the optimizer does not have."""
    for what, modes in (("rounding", assignment.rounding), ("overflow", assignment.overflow)):
        for tensor in VELOCITIES:
            if tensor in modes and not optimizer:
                raise InputError(
                    f"{what} of {tensor}: there are no velocities without momentum or "
                    f"weight_decay; pass optimizer=Optimizer(...), or leave it out"
                )
