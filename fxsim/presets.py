"""Presets: assignments that follow from a few words, without the method's analysis."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from fxsim.accumulator import ADDEND_ROUNDINGS, KINDS, Accumulator
from fxsim.errors import InputError, choice, shown
from fxsim.fields import check_fields, instance, string
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.nn.layer_precision import (
    AUXILIARY,
    BATCH_NORM,
    MODES,
    TENSORS,
    LayerPrecision,
    update_tensor,
)
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Layer, Network
from fxsim.nn.tensors import is_branch, quantized_tensors
from fxsim.ops.update import UPDATE_BITS

NEAREST = "nearest_away"
SATURATE = "saturate"
EVERY_OPERATION = "every operation"
NO_ACCUMULATORS = dict.fromkeys(("accumulators", "bias_accumulators"))
_EXAMPLE = "write it like 'Q8.8, floor, wrap, every operation'; only the format is needed"


@dataclass(frozen=True)
class Uniform:
    """One format for every tensor of a network; see `uniform`."""

    format: Format
    rounding: str = NEAREST
    overflow: str = SATURATE
    every_operation: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "uniform")
        choice("rounding", self.rounding, ROUNDINGS)
        choice("overflow", self.overflow, OVERFLOWS)
        if not self.format.signed:
            raise InputError(f"format must be signed, got {self.format}; gradients have a sign")
        if self.every_operation and self.rounding not in ADDEND_ROUNDINGS:
            raise InputError(
                f"rounding {self.rounding!r} has no random words for every operation; leave "
                f"every_operation out, or choose another rounding"
            )

    @classmethod
    def parse(cls, text: str) -> Uniform:
        """The preset of 'FORMAT[, ROUNDING][, OVERFLOW][, every operation]', as `str` wrote it.

        Example:
            >>> Uniform.parse("Q8.8, floor, wrap, every operation").rounding
            'floor'
        """
        format, *words = map(str.strip, _parts(string("formats", text)))
        for word in words:
            if word not in (*ROUNDINGS, *OVERFLOWS, EVERY_OPERATION):
                raise InputError(f"formats {shown(text)}: {shown(word)} is unknown; {_EXAMPLE}")
        roundings = [word for word in words if word in ROUNDINGS]
        overflows = [word for word in words if word in OVERFLOWS]
        every = [word for word in words if word == EVERY_OPERATION]
        for said in (roundings, overflows, every):
            if len(said) > 1:
                raise InputError(
                    f"formats {shown(text)}: {shown(said[1])} says twice what another part says"
                )
        return cls(
            Format.parse(format, "arm"),
            rounding=roundings[0] if roundings else NEAREST,
            overflow=overflows[0] if overflows else SATURATE,
            every_operation=bool(every),
        )

    def __str__(self) -> str:
        parts = [self.format.q("arm").removesuffix(" (arm)"), self.rounding, self.overflow]
        return ", ".join([*parts, EVERY_OPERATION] if self.every_operation else parts)

    def assignment(self, network: Network) -> PrecisionAssignment:
        """The assignment for a network.

        Raises:
            InputError: The network has an operation that does not take these modes; a format that
                a tensor cannot have.
        """
        instance("network", network, Network)
        self._check(network)
        layers = {layer.name: self._precision(network, layer) for layer in network.layers}
        tensors = quantized_tensors(network, layers)
        held = {tensor for tensor in tensors if tensor.endswith("accumulators")}
        if self.every_operation:
            rounded = tensors - held  # a parameter minus its update is exact
            overflowing = tensors
        else:
            rounded = tensors
            overflowing = tensors - held
        rounding = {
            tensor: self.rounding
            for tensor in sorted(rounded)
            if self.rounding != NEAREST and self.rounding in MODES[tensor].roundings
        }
        overflow = {
            tensor: self.overflow
            for tensor in sorted(overflowing)
            if self.overflow != SATURATE and self.overflow in MODES[tensor].overflows
        }
        return PrecisionAssignment(
            network.name,
            layers,
            self.format,
            rounding,
            overflow,
            accumulator=self._accumulators(),
        )

    def _precision(self, network: Network, layer: Layer) -> LayerPrecision:
        bits = min(self.format.bits, UPDATE_BITS - self.format.bits)
        below = Format(bits, self.format.step_exp - 1)
        names = [*TENSORS, *AUXILIARY]
        if layer.batch_norm:
            names += BATCH_NORM
        if is_branch(network, layer.name):
            names.append("branch")
        if layer.activation.kind in ("leaky_relu", "table") and layer.name in network.reached:
            names.append("relu_input_grads")
        formats = {name: below if name.endswith("accumulators") else self.format for name in names}
        if not self.every_operation:
            return LayerPrecision.of(formats)
        updates = {update_tensor(kind): self.format for kind in layer.trained}
        return LayerPrecision.of(formats | NO_ACCUMULATORS | updates)

    def _accumulators(self) -> dict[str, Accumulator]:
        if not self.every_operation:
            return {}
        model = Accumulator.of(
            self.format,
            overflow=self.overflow,
            when="each operation",
            rounding=self.rounding,
        )
        return dict.fromkeys(KINDS, model)

    def _check(self, network: Network) -> None:
        """InputError where an operation of the network does not honour what is asked."""
        for layer in network.layers:
            if layer.batch_norm and (self.rounding, self.overflow) != (NEAREST, SATURATE):
                raise InputError(
                    f"layer {layer.name!r} has batch norm, whose mean and variance are rounded to "
                    f"nearest and saturate; leave rounding and overflow out, or batch norm"
                )
        if not self.every_operation:
            return
        readers = Counter(source for _, source in network.edges())
        for layer in network.layers:
            pool = network.shape(layer.name).pool
            for found, what in (
                (layer.batch_norm, "batch norm"),
                (layer.add, "a residual addition"),
                (layer.pool and layer.pool.kind == "average", "average pooling"),
                (pool and pool.stride != pool.size, "pooling whose windows may overlap"),
                (readers[layer.name] > 1, "several readers, whose gradients add up"),
            ):
                if found:
                    raise InputError(
                        f"every_operation: layer {layer.name!r} has {what}, a sum that is rounded "
                        f"once; leave every_operation out, or take a network without"
                    )


def _parts(text: str) -> list[str]:
    """Parts between commas outside of brackets: ap_fixed<16,8> is one."""
    parts = [""]
    depth = 0
    for letter in text:
        depth += (letter in "(<") - (letter in ")>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def uniform(
    format: Format | str,
    *,
    rounding: str = NEAREST,
    overflow: str = SATURATE,
    every_operation: bool = False,
) -> Uniform:
    """A preset: every tensor of a network in one signed format, as most open RTL has it.

    An accumulator of a parameter has as many bits, below the parameter's step, but no more than 62
    together with the parameter: 30 for Q16.16.  With every_operation a parameter has none.  The
    loss, and what the optimizer keeps, stay as fxsim/numerics.md says.

    Args:
        format: The format.  A Q text counts the sign bit (ARM's way): 'Q8.8' has 16 bits.
        rounding, overflow: Of every tensor that is made in a step.  Parameters are rounded to the
            nearest at the start; with an accumulator they saturate in the update.
        every_operation: Whether every product and every sum of a layer's three products is rounded
            to the format and overflows by itself, one term after the other, the bias last; not
            only the tensor that they make.  In the update, learning rate times gradient is rounded
            to the format and overflows, and so does the parameter minus it.  (A learning rate of
            2**-k is a shift; any code of a format of up to 16 bits is exact, too.)  The bias
            gradient is summed exactly, which is the same for one image in a dense layer, and where
            the overflow is wrap.

    Returns:
        The preset; its `assignment(network)` gives the PrecisionAssignment.

    Raises:
        InputError: A format or a mode that is unknown, or an unsigned format.

    Example:
        >>> import fxsim
        >>> preset = fxsim.presets.uniform("Q8.8", rounding="floor", overflow="wrap",
        ...                                every_operation=True)
        >>> layers = (fxsim.Dense(name="scores", units=2, relu=False),)
        >>> assignment = preset.assignment(fxsim.Network("n", (1, 1, 3), layers))
        >>> print(assignment.layers["scores"].weights, "|", assignment.accumulator["forward"])
        s16 r=2^7 step=2^-8 | 16 bits, wrap each operation, sequential, floor to 2^-8
    """
    if isinstance(format, str):
        format = Format.parse(format, "arm")
    return Uniform(format, rounding, overflow, every_operation)
