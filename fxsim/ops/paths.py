"""Which instruction path computes a product, and why its sums are exact."""

from __future__ import annotations

from fxsim.errors import InputError, choice, shown
from fxsim.fields import instance, integer
from fxsim.formats import Format
from fxsim.kernels.products import paths
from fxsim.kernels.products.amx import processor_has_tiles
from fxsim.kernels.products.paths import PATHS, Operand, Plan, accumulator_bits
from fxsim.kernels.products.tile import processor_has

__all__ = [
    "Operand",
    "Plan",
    "accumulator_bits",
    "available_paths",
    "choose",
    "forward_paths",
    "operand",
    "plan",
]

AMX_PATHS = ("int8_amx", "int16_amx")
BYTES = "int8_vnni"
"""The path of unsigned by signed bytes.  Only forward products take it: gradients are signed."""
WINOGRAD_PATHS = (*AMX_PATHS, BYTES, "int16_vnni", "int16_avx2")
"""Where the widths allow them; the algorithm itself takes codes of int16."""
TILE_PATH = {path: "vnni" if path in AMX_PATHS else path.split("_")[-1] for path in PATHS}
"""The register tiles of a path; a processor with AMX has those of Winograd's algorithm from VNNI."""

MAX_TERMS = 2**31 - 1


def check_path(argument: str, path: str) -> None:
    """InputError for what is neither 'auto' nor a path of any processor."""
    choice(argument, path, ("auto", *PATHS))


def forward_paths() -> tuple[str, ...]:
    """The instruction paths of this processor, fastest first."""
    return tuple(
        path
        for path in PATHS
        if (processor_has_tiles() if path in AMX_PATHS else processor_has(TILE_PATH[path]))
    )


def available_paths() -> tuple[str, ...]:
    """The paths of this processor that every product of a training step can take, fastest first."""
    return tuple(path for path in forward_paths() if path not in (BYTES, *AMX_PATHS))


def operand(format: Format) -> Operand:
    """What has the bits and the sign of a format."""
    return Operand(format.bits, format.signed)


def plan(x: Format, weight: Format, terms: int, path: str = "auto") -> Plan:
    """The path of a product of x- and weight-codes, its proof, and the accumulator that it needs.

    Args:
        x, weight: formats of the operands.
        terms: products in a sum.
        path: 'auto', or the path to force.

    Returns:
        A Plan: `path`, `proof` (the inequality that makes it exact), `terms`, `accumulator_bits`
        (the width that holds every partial sum), `spill_terms` (terms that int32 provably holds).

    Raises:
        InputError: where the widths rule the path out, or 64 bits do not hold the sum.

    Example:
        >>> from fxsim import Format, ops
        >>> ops.plan(Format(8, 0, False), Format(8, 0), 576).accumulator_bits
        26
    """
    for name, value in (("x", x), ("weight", weight)):
        instance(name, value, Format)
    terms = integer("terms", terms)
    if not 1 <= terms <= MAX_TERMS:
        raise InputError(f"terms must be 1 to 2**31 - 1, got {shown(terms)}")
    check_path("path", path)
    return choose(operand(x), operand(weight), terms, forward_paths(), path)


def choose(a: Operand, b: Operand, terms: int, available: tuple[str, ...], path: str) -> Plan:
    """`kernels.products.paths.plan`, with an InputError where there is none."""
    try:
        return paths.plan(a, b, terms, available, path)
    except ValueError as error:
        raise InputError(str(error)) from None
