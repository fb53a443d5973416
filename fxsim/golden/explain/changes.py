"""What a tensor's computation may do differently, one change at a time."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fxsim.accumulator import (
    ADDEND_ROUNDINGS,
    AXES,
    BIASES,
    MAX_BITS,
    MAX_DROP,
    MIN_BITS,
    WHEN,
    WHEN_OF_TILES,
    Accumulator,
)
from fxsim.activation import LEAST_SLOPE_EXP, NONE, Activation
from fxsim.errors import InputError, present
from fxsim.formats import OVERFLOWS, ROUNDINGS, STOCHASTIC, Format
from fxsim.golden.explain.dots import CHANNEL_LAST, Dot
from fxsim.golden.explain.semantics import MASKS, WEIGHT_VIEWS, Index, Misread, Semantics
from fxsim.lfsr import Lfsr, LfsrWords
from fxsim.nn.spec import Pool
from fxsim.ops.paths import Operand

FARTHEST_SHIFT = 2
MOST_GUARD_BITS = 32
TILES = (2, 4, 8, 16, 32)
LANES = TILES
RUNS = tuple(2**power for power in range(1, 17))
MOST_LANES = 256
"""Of registers, of which each is advanced too early."""


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
    mode = present(default.rounding)
    if mode in STOCHASTIC:
        return
    for bits in range(1, MOST_GUARD_BITS + 1):
        if mode != "floor":
            yield change(
                default,
                f"all but {_bits(bits)} below the step cut off before rounding {mode}",
                guard_bits=bits,
                guard_rounding="floor",
            )
        if mode.startswith("nearest"):
            yield change(
                default,
                f"rounded twice, {mode}: first to {_bits(bits)} below the step",
                guard_bits=bits,
                guard_rounding=mode,
            )


def range_changes(
    default: Semantics, format: Format, overflow: str, field: str = "narrower"
) -> Iterator[Alternative]:
    """Ranges of fewer bits at the same step; `field` is the one of Semantics that says so."""
    for bits in range(1, format.bits):
        yield change(default, f"range {_bits(bits)} narrower, {overflow}", **{field: bits})


def rounding_changes(default: Semantics) -> Iterator[Alternative]:
    """Other roundings; stochastic ones only where there are random words."""
    for mode in ROUNDINGS:
        known = (
            mode not in STOCHASTIC or default.rounding in STOCHASTIC
        )  # random words are only where they are used
        if known and mode != default.rounding:
            yield change(default, f"rounding {mode} instead of {default.rounding}", rounding=mode)


def summing_changes(
    default: Semantics, dot: Dot, bits: int, product_bits: int
) -> Iterator[Alternative]:
    """Products truncated; the accumulator narrower, overflowing otherwise, or fed in another order.

    bits: of the accumulator of exact sums, at the step of the result.  product_bits: of a product.
    """
    if default.summing.model:
        yield from _model_changes(default, default.summing.model, dot)
        return
    for drop in range(1, product_bits):
        bits_left = MAX_BITS - max(drop + dot.scale, 0)
        if bits_left >= MIN_BITS:
            model = Accumulator(bits_left, when="end", drop=drop)
            text = f"products truncated by {_bits(drop)} before they are added"
            yield _sum_change(default, text, model=model)
    for held in range(bits - 1, MIN_BITS - 1, -1):
        text = f"accumulator {_bits(bits - held)} narrower ({held} instead of {bits}), "
        for how, (overflow, when) in _OVERFLOWS.items():
            model = Accumulator(held, overflow, when)
            yield _sum_change(default, text + how, model=model, fine=True)
        yield from _order_changes(default, dot, Accumulator(held), text + _EACH)


_EACH = "it saturates after every addition"
_OVERFLOWS = {
    "it wraps": ("wrap", "end"),
    _EACH: ("saturate", "each addition"),
    "it saturates once, at the end": ("saturate", "end"),
}


def _order_changes(
    default: Semantics, dot: Dot, model: Accumulator, text: str
) -> Iterator[Alternative]:
    """Orders of additions beside the stated one, for an accumulator that saturates after each."""
    for order in dot.orders:
        if order != "stated":
            ordered = f"{text}; terms added in the order: {order}"
            yield _sum_change(default, ordered, model=model, order=order, fine=True)
    others: dict[str, dict[str, Any]] = {"terms added in an adder tree": {"order": "tree"}}
    if dot.bias is not None:
        others["terms added in the order: bias first"] = {"bias": "first"}
    for tile in TILES:
        if tile < dot.terms:
            others[f"terms added in tiles of {tile}"] = {"order": "tiles", "tile": tile}
    for lanes in LANES:
        if lanes < dot.terms:
            others[f"terms added in {lanes} lanes"] = {"lanes": lanes}
    for how, fields in others.items():
        changed = dataclasses.replace(model, **fields)
        yield _sum_change(default, f"{text}; {how}", model=changed, fine=True)


def _model_changes(default: Semantics, model: Accumulator, dot: Dot) -> Iterator[Alternative]:
    """One field of a stated accumulator, or the order of its terms."""
    for fields in _model_fields(model, dot):
        changed = dataclasses.replace(model, **fields)
        if changed != model and _can_start(changed, dot):
            text = f"accumulator of {changed} instead of {model}"
            yield _sum_change(default, text, model=changed)
    for order in dot.orders:
        if order not in ("stated", CHANNEL_LAST):
            yield _sum_change(default, f"terms added in the order: {order}", order=order)


def _model_fields(model: Accumulator, dot: Dot) -> Iterator[dict]:
    for mode in OVERFLOWS:
        yield {"overflow": mode}
    for when in WHEN:
        if model.order != "tiles" or when in WHEN_OF_TILES:
            yield {"when": when}
    yield {"order": "sequential", "tile": 0}
    if model.bias == "after":
        yield {"order": "tree", "tile": 0}
    for tile in TILES:
        if tile < dot.terms and not model.bounds_terms:
            yield {"order": "tiles", "tile": tile}
    widest = MAX_BITS - max(model.drop + dot.scale, 0)
    for bits in (*range(MIN_BITS, model.bits), max(widest, MIN_BITS)):
        yield {"bits": bits}
    for mode in ADDEND_ROUNDINGS:
        if model.drop or "jam" in (mode, model.rounding):
            yield {"rounding": mode}
    for drop in range(model.drop + 1, min(model.drop + FARTHEST_SHIFT, MAX_DROP) + 1):
        yield {"drop": drop}
    for lanes in (1, *LANES):
        if lanes <= dot.terms:
            yield {"lanes": lanes}
    if dot.bias is not None and model.order != "tree":
        for place in BIASES:
            yield {"bias": place}
    if CHANNEL_LAST in dot.orders:
        for axes in AXES:
            yield {"axes": axes}


def _can_start(model: Accumulator, dot: Dot) -> bool:
    """Whether an accumulator that starts from the bias, if it does, has the bias's step."""
    return model.bias == "after" or dot.bias is None or model.drop + dot.scale == 0


def misread_changes(
    default: Semantics, formats: Mapping[str, Format | Operand]
) -> Iterator[Alternative]:
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


def weight_changes(default: Semantics, taps: int) -> Iterator[Alternative]:
    """Weights of a kernel of so many taps read in another arrangement."""
    spatial = ("kernel flipped in rows and columns", "kernel rows and columns swapped")
    one_tap = taps == 1
    for view in WEIGHT_VIEWS:
        if view != default.weights and not (one_tap and view in spatial):
            yield change(default, view, weights=view)


def mask_changes(default: Semantics) -> Iterator[Alternative]:
    """Other bounds of the ReLU's mask."""
    for mask in MASKS:
        if mask != default.mask:
            yield change(default, f"ReLU mask {mask} instead of {default.mask}", mask=mask)


def activation_changes(default: Semantics, own: Activation) -> Iterator[Alternative]:
    """Other functions in place of the layer's own, and other indices of its table."""
    if own.kind == "none":
        return
    yield change(default, f"activation {own.kind} left out", activation=NONE)
    if own.kind == "relu" and own.ceiling is not None:
        text = f"ceiling {own.ceiling:g} of the ReLU left out"
        yield change(default, text, activation=Activation("relu"))
    if own.kind == "leaky_relu":
        yield from _slope_changes(default, own)
    if own.kind == "table":
        yield from index_changes(default)
    if own.kind == "table" and own.function is not None:
        other: Any = "linear" if own.interpolation == "none" else "none"
        text = f"table: interpolation {other} instead of {own.interpolation}"
        changed = dataclasses.replace(own, interpolation=other)
        yield change(default, text, activation=changed)


def _slope_changes(default: Semantics, own: Activation) -> Iterator[Alternative]:
    slope_exp = present(own.slope_exp)
    for other in range(slope_exp - FARTHEST_SHIFT, slope_exp + FARTHEST_SHIFT + 1):
        if other != slope_exp and LEAST_SLOPE_EXP <= other <= -1:
            text = f"leaky ReLU: slope 2^{other} instead of 2^{slope_exp}"
            yield change(default, text, activation=Activation("leaky_relu", slope_exp=other))
    text = "ReLU instead of leaky ReLU"
    yield change(default, text, activation=Activation("relu"))


def index_changes(default: Semantics) -> Iterator[Alternative]:
    """Other indices of a table."""
    for offset in (1, -1):
        which = "high" if offset > 0 else "low"
        yield change(default, f"table index one too {which}", index=Index(offset=offset))
    for bits in range(1, FARTHEST_SHIFT + 1):
        text = f"table index: {_bits(bits)} too"
        yield change(default, f"{text} many dropped", index=Index(shift=bits))
        yield change(default, f"{text} few dropped", index=Index(shift=-bits))
    text = "table index rounded to nearest instead of floor"
    yield change(default, text, index=Index(nearest=True))


def words_changes(
    default: Semantics, words: LfsrWords | None, states: tuple[int, ...]
) -> Iterator[Alternative]:
    """Other registers, clocked at other times, or another step's words.

    states: of the lanes before the step's first word, which a device may have been given.
    """
    if words is None:
        return
    own = words.lfsr
    for text, registers in _registers(own, _fields(own)):
        yield change(default, f"LFSR: {text}", words=registers.at(words.step))
    loaded = dataclasses.replace(own, seed=states, start=0, period=0)
    for text, registers in _registers(loaded, _map_fields(own)):
        if states != own.states_after(0):
            yield change(default, f"LFSR, from the step's states: {text}", words=registers.at(0))
    for step in (words.step - 1, words.step + 1):
        if 0 <= step < 2**32 and own.period != 0:
            which = "before" if step < words.step else "after"
            yield change(default, f"LFSR: words of the step {which}", words=own.at(step))


def _registers(
    own: Lfsr, changes: Iterator[tuple[str, dict[str, Any]]]
) -> Iterator[tuple[str, Lfsr]]:
    """(what differs, registers) for each change that gives registers."""
    for text, fields in changes:
        with contextlib.suppress(InputError):
            changed = dataclasses.replace(own, **fields)
            if changed != own:
                yield text, changed


def _map_fields(own: Lfsr) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other clocks: taps, form, direction."""
    for tap in range(1, own.width):
        if tap in own.taps:
            rest = tuple(each for each in own.taps if each != tap)
            yield f"tap {tap} missing", {"taps": rest}
            for other in range(1, own.width):
                if other not in own.taps:
                    yield f"tap {other} instead of {tap}", {"taps": (*rest, other)}
        else:
            yield f"tap {tap} too many", {"taps": (*own.taps, tap)}
    for form in ("fibonacci", "galois"):
        yield f"form {form} instead of {own.form}", {"form": form}
    for shift in ("left", "right"):
        yield f"shift {shift} instead of {own.shift}", {"shift": shift}


def _fields(own: Lfsr) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every change."""
    yield from _map_fields(own)
    for clocks in sorted({1, own.clocks}):
        number = "1 clock" if clocks == 1 else f"{clocks} clocks"
        yield f"clocked {number} too late", {"start": own.start - clocks}
        yield f"clocked {number} too early", {"start": own.start + clocks}
    yield "the start left out", {"start": 0}
    yield "started anew at every step", {"period": 0}
    yield "not started anew at every step", {"period": None}
    for clocks in (1, own.bits, own.clocks - 1, own.clocks + 1):
        yield f"{clocks} instead of {own.clocks} clocks per word", {"clocks": clocks}
    yield from _lane_fields(own)
    for bits in (own.bits - 1, own.bits + 1):
        yield f"words of {bits} instead of {own.bits} bits", {"bits": bits}
    for low_bit in (own.low_bit - 1, own.low_bit + 1, 0, own.width - own.bits):
        text = f"words from bit {low_bit} instead of {own.low_bit} on"
        yield text, {"low_bit": low_bit}


def _lane_fields(own: Lfsr) -> Iterator[tuple[str, dict[str, Any]]]:
    """Other lanes for the elements, other seeds for the lanes."""
    for run in (1, *RUNS):
        yield f"runs of {run} instead of {own.run} elements in a lane", {"run": run}
    seeds = own.states_after(0)
    later = own.states_after(own.clocks)
    if own.lanes == 1:
        return
    yield "the seed of lane 0 in every lane", {"seed": (seeds[0],) * own.lanes}
    yield "lanes in the opposite order", {"seed": seeds[::-1]}
    for lane in range(min(own.lanes, MOST_LANES)):
        moved = (*seeds[:lane], later[lane], *seeds[lane + 1 :])
        yield f"lane {lane} advanced a word too early", {"seed": moved}


def averaging_changes(default: Semantics, pool: Pool) -> Iterator[Alternative]:
    """Other roundings of average pooling."""
    for mode in ADDEND_ROUNDINGS:
        if mode != pool.rounding:
            yield change(
                default,
                f"average pooling: rounding {mode} instead of {pool.rounding}",
                averaging=mode,
            )


def change(base: Semantics, text: str, **changes) -> Alternative:
    """`base` with `changes`, which `text` tells."""
    return Alternative(text, dataclasses.replace(base, **changes))


def _sum_change(base: Semantics, text: str, **changes) -> Alternative:
    return change(base, text, summing=dataclasses.replace(base.summing, **changes))


def _bits(count: int) -> str:
    return "1 bit" if count == 1 else f"{count} bits"
