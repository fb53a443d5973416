"""What a tensor's computation may do differently, one change at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fxsim.accumulator import ADDEND_ROUNDINGS, AXES, BIASES, MAX_BITS, MIN_BITS, WHEN
from fxsim.accumulator import Accumulator as Model
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.golden.explain.dots import KERNEL_FIRST, Dot
from fxsim.golden.explain.semantics import AVERAGINGS, MASKS, WEIGHT_VIEWS, Misread, Semantics
from fxsim.golden.manifest import Accumulator
from fxsim.nn.spec import Dense, Layer

FARTHEST_SHIFT = 2
MOST_GUARD_BITS = 32
TILES = (2, 4, 8, 16, 32)
LANES = (1, *TILES)


@dataclass(frozen=True)
class Alternative:
    """One change of semantics, told in words."""

    text: str
    semantics: Semantics


def quantization_changes(default: Semantics, format: Format) -> Iterator[Alternative]:
    """Other roundings, two of them, other overflows, a narrower range, a shift that is off."""
    yield from rounding_changes(default)
    yield from guard_changes(default)
    if default.overflow is not None:
        for mode in OVERFLOWS:
            if mode != default.overflow:
                yield change(
                    default, f"overflow {mode} instead of {default.overflow}", overflow=mode
                )
        yield from range_changes(default, format, f"overflow {default.overflow}")
    for bits in range(1, FARTHEST_SHIFT + 1):
        yield change(
            default,
            f"{_bits(bits)} too many dropped (values {2**bits} times too small)",
            shift=bits,
        )
        yield change(
            default,
            f"{_bits(bits)} too few dropped (values {2**bits} times too large)",
            shift=-bits,
        )


def guard_changes(default: Semantics) -> Iterator[Alternative]:
    """A rounding, or a cut, some bits below the step, before the rounding to it."""
    if default.rounding in STOCHASTIC:
        return
    for bits in range(1, MOST_GUARD_BITS + 1):
        if default.rounding != "floor":
            yield change(
                default,
                f"all but {_bits(bits)} below the step cut off before rounding {default.rounding}",
                guard_bits=bits,
                guard_rounding="floor",
            )
        if default.rounding.startswith("nearest"):
            yield change(
                default,
                f"rounded twice, {default.rounding}: first to {_bits(bits)} below the step",
                guard_bits=bits,
                guard_rounding=default.rounding,
            )


def range_changes(
    default: Semantics, format: Format, overflow: str, field: str = "narrower"
) -> Iterator[Alternative]:
    for bits in range(1, format.bits):
        yield change(default, f"range {_bits(bits)} narrower, {overflow}", **{field: bits})


def rounding_changes(default: Semantics) -> Iterator[Alternative]:
    for mode in ROUNDINGS:
        known = (
            mode not in STOCHASTIC or default.rounding in STOCHASTIC
        )  # random words are only where they are used
        if known and mode != default.rounding:
            yield change(default, f"rounding {mode} instead of {default.rounding}", rounding=mode)


def summing_changes(
    default: Semantics, accumulator: Accumulator, dot: Dot, product_bits: int
) -> Iterator[Alternative]:
    """Products truncated.

    The accumulator narrower, overflowing otherwise, or fed in another order.
    """
    if accumulator.model:
        yield from _model_changes(default, accumulator.model, dot)
        return
    for drop in range(1, product_bits):
        yield _sum_change(
            default, f"products truncated by {_bits(drop)} before they are added", drop=drop
        )
    if accumulator.overflow == "exact":
        yield from _narrower_changes(default, accumulator.bits, tuple(_OVERFLOW_TEXTS), dot)
        return
    for overflow, text in {"exact": "wide enough to be exact", **_OVERFLOW_TEXTS}.items():
        if overflow != accumulator.overflow:
            yield _sum_change(
                default, f"accumulator of {_bits(accumulator.bits)}: {text}", overflow=overflow
            )
    yield from _narrower_changes(
        default, accumulator.bits, (accumulator.overflow,), dot, orders=False
    )
    if accumulator.overflow == "saturate":
        yield from _order_changes(default, dot)


def _model_changes(default: Semantics, model: Model, dot: Dot) -> Iterator[Alternative]:
    """One field of an accumulator that the manifest spells out, or the order of its terms."""
    tiles = [{"order": "tiles", "tile": tile} for tile in TILES if tile < dot.products]
    plain = [{"order": "sequential", "tile": 0}]
    if model.bias == "after":
        plain.append({"order": "tree", "tile": 0})
    changes = [
        *({"overflow": mode} for mode in OVERFLOWS),
        *({"when": when} for when in WHEN),
        *plain,
        *tiles,
        *({"bits": bits} for bits in range(MIN_BITS, model.bits)),
        *(
            {"rounding": mode}
            for mode in ADDEND_ROUNDINGS
            if model.drop or "jam" in (mode, model.rounding)
        ),
        *({"drop": model.drop + bits} for bits in range(1, FARTHEST_SHIFT + 1)),
        {"bits": MAX_BITS - max(model.drop + dot.scale, 0)},
        *({"lanes": lanes} for lanes in LANES if lanes <= dot.products),
        *({"bias": place} for place in BIASES if dot.has_bias and model.order != "tree"),
        *({"axes": axes} for axes in AXES if KERNEL_FIRST in dot.orders),
    ]
    for changed in dict.fromkeys(dataclasses.replace(model, **change) for change in changes):
        if changed != model and _can_start(changed, dot):
            yield _sum_change(
                default, f"accumulator of {changed} instead of {model}", model=changed
            )
    for order, places in dot.orders.items():
        bias_last = not dot.has_bias or places[-1] == dot.products
        if order not in (default.summing.order, KERNEL_FIRST) and bias_last:
            yield _sum_change(default, f"terms added in the order: {order}", order=order)


def _can_start(model: Model, dot: Dot) -> bool:
    """Whether an accumulator that starts from the bias, if it does, has the bias's step."""
    return model.bias == "after" or not dot.has_bias or model.drop + dot.scale == 0


_OVERFLOW_TEXTS = {
    "wrap": "it wraps",
    "saturate": "it saturates after every addition",
    "saturate_end": "it saturates once, at the end",
}


def _narrower_changes(
    default: Semantics, bits: int, overflows: tuple[str, ...], dot: Dot, orders: bool = True
):
    for fewer in range(1, bits):
        for overflow in overflows:
            text = (
                f"accumulator {_bits(fewer)} narrower ({bits - fewer} instead of {bits}), "
                f"{_OVERFLOW_TEXTS[overflow]}"
            )
            changed = _sum_change(default, text, bits=bits - fewer, overflow=overflow)
            yield changed
            if overflow == "saturate" and orders:
                yield from _order_changes(changed.semantics, dot, text + "; ")


def _order_changes(base: Semantics, dot: Dot, text: str = "") -> Iterator[Alternative]:
    """Other orders of additions, where the accumulator saturates after each."""
    for order in dot.orders:
        if order != base.summing.order:
            yield _sum_change(base, f"{text}terms added in the order: {order}", order=order, tile=1)
    yield _sum_change(base, f"{text}terms added in an adder tree", tile=0)
    for tile in TILES:
        if tile < dot.right.shape[0]:
            yield _sum_change(base, f"{text}terms added in tiles of {tile}", tile=tile)


def misread_changes(default: Semantics, formats: Mapping[str, Format]) -> Iterator[Alternative]:
    """Operands (tensor -> format) with the wrong extension of their sign, or without their
    first or last bits.
    """
    for tensor, format in formats.items():
        wrong, right = ("zero", "sign") if format.signed else ("sign", "zero")
        yield change(
            default,
            f"{tensor} {wrong}-extended instead of {right}-extended",
            misread=Misread(tensor, format.bits, not format.signed),
        )
        for bits in range(1, min(FARTHEST_SHIFT + 1, format.bits)):
            kept = f"({format.bits - bits} instead of {format.bits})"
            yield change(
                default,
                f"{tensor} read without the first {_bits(bits)} {kept}",
                misread=Misread(tensor, format.bits - bits, format.signed),
            )
            yield change(
                default,
                f"{tensor} read without the last {_bits(bits)} {kept}",
                misread=Misread(tensor, format.bits, format.signed, bits),
            )


def stale_changes(
    default: Semantics, tensors: Iterable[str], bias: bool = True
) -> Iterator[Alternative]:
    """Parameters of another step, as far as they are among the layer's `tensors`."""
    tensors = set(tensors)
    for prefix, text in (
        ("updated", "after the update instead of before"),
        ("earlier", "of the step before"),
    ):
        weights = {"weights_from": f"{prefix}_weights"}
        biases = {"bias_from": f"{prefix}_bias"}
        if weights["weights_from"] in tensors:
            yield change(default, f"weights {text}", **weights)
        if bias and biases["bias_from"] in tensors:
            yield change(default, f"bias {text}", **biases)
            if weights["weights_from"] in tensors:
                yield change(default, f"weights and bias {text}", **weights, **biases)


def weight_changes(default: Semantics, layer: Layer) -> Iterator[Alternative]:
    """Weights read in another arrangement."""
    spatial = ("kernel flipped in rows and columns", "kernel rows and columns swapped")
    for view in WEIGHT_VIEWS:
        one_tap = isinstance(layer, Dense) or layer.kernel == 1
        if view != default.weights and not (one_tap and view in spatial):
            yield change(default, view, weights=view)


def mask_changes(default: Semantics) -> Iterator[Alternative]:
    for mask in MASKS:
        if mask != default.mask:
            yield change(default, f"ReLU mask {mask} instead of {default.mask}", mask=mask)


def averaging_changes(default: Semantics) -> Iterator[Alternative]:
    for mode in AVERAGINGS:
        if mode != default.averaging:
            yield change(
                default,
                f"average pooling: rounding {mode} instead of {default.averaging}",
                averaging=mode,
            )


def change(base: Semantics, text: str, **changes) -> Alternative:
    """`base` with `changes`, which `text` tells."""
    return Alternative(text, dataclasses.replace(base, **changes))


def _sum_change(base: Semantics, text: str, **changes) -> Alternative:
    return change(base, text, summing=dataclasses.replace(base.summing, **changes))


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"
