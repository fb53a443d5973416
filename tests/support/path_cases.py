"""Random products for every instruction path, and their results in NumPy's int64.

The reference rounds by case distinction on floor and remainder, not by the formula of the kernels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.epilogue import NO_FLOOR, RAW, Epilogue
from fxsim.kernels.products import amx_conv, conv, winograd, winograd_weight_grad
from fxsim.kernels.products.amx import processor_has_tiles
from fxsim.kernels.products.packing import (
    pack_forward_weights,
    pack_input_grad_weights,
    rotated,
)
from fxsim.kernels.products.paths import INT32_MAX, Operand
from fxsim.kernels.products.tile import processor_has
from fxsim.kernels.rounding import ROUNDINGS, STOCHASTIC, rounding_terms
from support.conv_paths_cases import forward_reference, input_grad_reference, weight_grad_reference

MODES = tuple(mode for mode in ROUNDINGS if mode not in STOCHASTIC)
PATTERNS = ("random", "random", "high", "low", "alternate", "ends")


class Case(NamedTuple):
    """One product of codes with one requantization.

    `left` and `right` hold the codes; `like` is the shape of the result.
    """

    kind: str
    left: np.ndarray
    right: np.ndarray
    left_operand: Operand
    right_operand: Operand
    like: tuple[int, ...]
    stride: int
    padding: int
    rounding: str
    epilogue: Epilogue
    bias: np.ndarray | None
    dtype: type


class Result(NamedTuple):
    """What a product gives: codes, mask, counts, moments."""

    codes: np.ndarray
    mask: np.ndarray | None
    counts: np.ndarray | None
    moments: np.ndarray | None


def rounded(values: np.ndarray, shift: int, mode: str) -> np.ndarray:
    """values / 2**shift, rounded to integers."""
    below = values >> shift
    rest = values - (below << shift)
    half = (1 << shift) >> 1
    inexact = rest != 0
    tie = inexact & (rest == half)
    odd = (below & 1) == 1
    if mode == "jam":
        return np.where(odd, below, below + 1)
    if mode in ("floor", "ceil", "zero", "away"):
        up = {
            "floor": np.zeros_like(inexact),
            "ceil": inexact,
            "zero": inexact & (values < 0),
            "away": inexact & (values > 0),
        }[mode]
        return below + up
    tie_up = {
        "nearest_up": True,
        "nearest_down": False,
        "nearest_away": values > 0,
        "nearest_zero": values < 0,
        "nearest_even": odd,
        "nearest_odd": ~odd,
    }[mode]
    return below + ((inexact & (rest > half)) | (tie & tie_up))


def finished(sums: np.ndarray, case: Case) -> Result:
    """The result of a case from its exact sums."""
    epilogue = case.epilogue
    value = sums << epilogue.acc_shift
    if case.bias is not None:
        value = value + case.bias
    mask = ((value > 0) & (value < epilogue.relu_bound)).astype(np.uint8)
    if epilogue.floor == 0:
        value = np.maximum(value, 0)
    code = rounded(value, epilogue.shift, case.rounding)
    below = int((code < epilogue.low).sum())
    above = int((code > epilogue.high).sum())
    flushed = int(((code == 0) & (value != 0)).sum())
    codes = np.clip(code, epilogue.low, epilogue.high)
    flat = codes.reshape(-1, codes.shape[-1])
    return Result(
        codes,
        mask,
        np.array([below, above, flushed]),
        np.stack([flat.sum(axis=0), (flat * flat).sum(axis=0)]),
    )


def exact(case: Case) -> np.ndarray:
    """The sums of a case, int64."""
    if case.kind == "forward":
        return forward_reference(case.left, case.right, case.stride, case.padding)
    if case.kind == "input gradient":
        return input_grad_reference(case.like, case.right, case.left, case.stride, case.padding)
    return weight_grad_reference(case.left, case.right, case.like[0], case.stride, case.padding)


def random_codes(rng, operand: Operand, shape, pattern: str) -> np.ndarray:
    low = -operand.magnitude if operand.signed else 0
    high = operand.magnitude - operand.signed
    dtype = np.int32 if operand.bits + (not operand.signed) > 16 else np.int16
    if pattern == "random":
        codes = rng.integers(low, high, shape, endpoint=True)
        return np.where(rng.random(shape) < 0.2, rng.choice([low, high, 0], shape), codes).astype(
            dtype
        )
    codes = {
        "high": np.full(shape, high),
        "low": np.full(shape, low),
        "alternate": np.resize([high, low], shape),
        "ends": rng.choice([low, high], shape),
    }[pattern]
    return codes.astype(dtype)


def random_operand(rng, most: int = 16) -> Operand:
    signed = bool(rng.integers(2))
    return Operand(int(rng.integers(2, most + 1 - (not signed and most == 16))), signed)


def random_case(rng, dtypes=(np.int16, np.int64)) -> Case:
    """A case of any kind; half of them have shapes and widths that Winograd's algorithm takes."""
    kind = str(rng.choice(["forward", "forward", "input gradient", "weight gradient"]))
    for_winograd = rng.random() < 0.5
    images = int(rng.integers(1, 5))
    kernel = 3 if for_winograd else int(rng.choice([1, 2, 3, 5]))
    stride = 1 if for_winograd else int(rng.integers(1, 4))
    padding = int(rng.integers(0, 3))
    height, width = (int(size) for size in rng.integers(max(1, kernel - 2 * padding), 11, 2))
    if for_winograd:
        channels, outputs = (32 * int(size) for size in rng.integers(1, 4, 2))
        widths = (random_operand(rng, 9), random_operand(rng, 9))
    else:
        channels, outputs = int(rng.integers(1, 40)), int(rng.integers(1, 140))
        widths = (random_operand(rng), random_operand(rng))
    if rng.random() < 0.3:
        widths = Operand(int(rng.integers(2, 9)), False), Operand(int(rng.integers(2, 9)))
    x_shape = (images, height, width, channels)
    w_shape = (kernel, kernel, channels, outputs)
    sizes = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
    g_shape = (images, *sizes, outputs)
    left_shape, right_shape, like = {
        "forward": (x_shape, w_shape, g_shape),
        "input gradient": (g_shape, w_shape, x_shape),
        "weight gradient": (x_shape, g_shape, w_shape),
    }[kind]
    left = random_codes(rng, widths[0], left_shape, str(rng.choice(PATTERNS)))
    right = random_codes(rng, widths[1], right_shape, str(rng.choice(PATTERNS)))
    case = Case(kind, left, right, *widths, like, stride, padding, "floor", RAW, None, np.int64)
    raw = 0.5 if kind == "weight gradient" else 0.1
    return case if rng.random() < raw else random_epilogue(rng, case, dtypes)


def random_epilogue(rng, case: Case, dtypes) -> Case:
    """The case with a bias and a requantization near what its sums need."""
    sums = exact(case)
    most = int(abs(sums).max(initial=0))
    bound = most
    acc_shift = int(rng.integers(0, 9)) if rng.random() < 0.3 else 0
    bias = None
    if case.kind == "forward" and rng.random() < 0.7:
        scale = max(1, int(most * 2.0 ** rng.integers(-4, 2))) << acc_shift
        if rng.random() < 0.2:
            scale = max(1, INT32_MAX - int(rng.integers(0, 3)) - (most << acc_shift))
        bias = rng.integers(-scale, scale, case.like[-1], endpoint=True)
        bias = np.where(rng.random(bias.shape) < 0.3, rng.choice([-scale, scale]), bias)
        bound = most + (scale >> acc_shift)
    bits = int(rng.integers(2, 16))
    signed = bool(rng.integers(2)) or bits == 15
    high = 2 ** (bits - signed) - 1
    low = 0 if not signed else -high - int(rng.integers(2))
    shift = int(np.clip((bound << acc_shift).bit_length() - bits + rng.integers(-3, 4), 0, 62))
    shift = int(rng.choice([shift, shift, shift, 0, rng.integers(0, 40)]))
    rounding = str(rng.choice(MODES))
    base, neg, odd, jam = rounding_terms(rounding, shift)
    relu = case.kind == "forward" and bool(rng.integers(2))
    epilogue = Epilogue(
        acc_shift=acc_shift,
        relu_bound=int(rng.integers(1, 1 << int(rng.integers(1, 62)), endpoint=True)),
        floor=0 if relu else NO_FLOOR,
        shift=shift,
        base=base,
        neg=neg,
        odd=odd,
        jam=jam,
        low=low,
        high=high,
    )
    dtype = dtypes[int(rng.integers(len(dtypes)))]
    return case._replace(rounding=rounding, epilogue=epilogue, bias=bias, dtype=dtype)


def _spill_terms(case: Case) -> int:
    return INT32_MAX // (case.left_operand.magnitude * case.right_operand.magnitude)


def direct(path: str):
    """The direct product in register tiles of a path."""

    def run(case: Case, buffers: dict) -> bool:
        whole = case.left_operand.fits(16, True) and case.right_operand.fits(16, True)
        if path != "plain" and not (whole and _spill_terms(case) >= 2):
            return False
        options = {"spill_terms": _spill_terms(case), "path": path, "epilogue": case.epilogue}
        out = buffers.pop("out")
        if case.kind == "weight gradient":
            counts = {"counts": buffers["counts"]}
            conv.conv_weight_grad(
                case.left, case.right, case.stride, case.padding, out, **counts, **options
            )
        elif case.kind == "forward":
            packed = pack_forward_weights(case.right)
            conv.conv_forward(
                case.left, packed, case.stride, out, padding=case.padding, **buffers, **options
            )
        else:
            packed = pack_input_grad_weights(case.right)
            conv.conv_input_grad(
                case.left, packed, case.stride, case.padding, out, **buffers, **options
            )
        return True

    return run


def in_bytes(case: Case, buffers: dict) -> bool:
    """`vpdpbusd`."""
    if (
        case.kind != "forward"
        or not case.left_operand.fits(8, False)
        or not case.right_operand.fits(8, True)
    ):
        return False
    conv.conv_forward(
        case.left.astype(np.uint8),
        pack_forward_weights(case.right.astype(np.int8)),
        case.stride,
        buffers.pop("out"),
        padding=case.padding,
        spill_terms=_spill_terms(case),
        path="vnni",
        epilogue=case.epilogue,
        **buffers,
    )
    return True


def by_winograd(algorithm: winograd.Algorithm, path: str):
    def run(case: Case, buffers: dict) -> bool:
        if case.kind == "weight gradient":
            return False
        weight = case.right
        padding = case.padding
        if case.kind == "input gradient":
            weight = rotated(weight)
            padding = 2 - padding
        if not winograd.applies(weight.shape, case.stride) or not algorithm.holds(
            case.left_operand, winograd.Weights(weight), case.epilogue, case.bias
        ):
            return False
        winograd.conv_winograd(
            case.left,
            weight,
            padding,
            buffers.pop("out"),
            algorithm=algorithm,
            path=path,
            epilogue=case.epilogue,
            **buffers,
        )
        return True

    return run


def gradient_by_winograd(path: str):
    def run(case: Case, buffers: dict) -> bool:
        if (
            case.kind != "weight gradient"
            or case.epilogue != RAW
            or not winograd.applies(case.like, case.stride)
            or not winograd_weight_grad.holds(case.left_operand, case.right_operand)
        ):
            return False
        buffers["out"][:] = winograd_weight_grad.winograd_weight_grad(
            case.left, case.right, case.padding, spill_terms=_spill_terms(case), path=path
        )
        return True

    return run


def by_amx(case: Case, buffers: dict) -> bool:
    if case.kind == "weight gradient":
        return False
    source = case.left
    weight = case.right
    stride = case.stride
    padding = case.padding
    if case.kind == "input gradient":
        source = amx_conv.dilated(source, stride)
        padding = len(weight) - 1 - padding
        weight = rotated(weight)
        stride = 1
    amx_conv.convolve(
        source,
        weight,
        stride,
        padding,
        buffers.pop("out"),
        left=case.left_operand,
        right=case.right_operand,
        epilogue=case.epilogue,
        **buffers,
    )
    return True


def runners() -> dict:
    """Name of a path -> what runs a case on it and says whether the path takes the case."""
    tiles = [path for path in ("avx2", "vnni") if processor_has(path)]
    found = {"plain": direct("plain")} | {path: direct(path) for path in tiles}
    if processor_has("vnni"):
        found["vnni bytes"] = in_bytes
    for path in tiles:
        found[f"winograd 2 {path}"] = by_winograd(winograd.SMALL, path)
        found[f"winograd 4 {path}"] = by_winograd(winograd.LARGE, path)
        found[f"winograd gradient {path}"] = gradient_by_winograd(path)
    if processor_has_tiles():
        found["amx"] = by_amx
    return found


def run_case(case: Case, run) -> Result | None:
    """What a path gives, or None where it does not take the case."""
    raw = case.epilogue == RAW
    counts = np.zeros(3, np.int64)
    buffers = {"out": np.full(case.like, -7, case.dtype), "counts": counts}
    out = buffers["out"]
    mask = None
    moments = None
    if case.kind == "forward":
        moments = np.full((2, case.like[-1]), -1, np.int64)
        buffers |= {"bias": case.bias, "moments": moments}
        if not raw:
            mask = np.full(case.like, 9, np.uint8)
            buffers["mask"] = mask
    if not run(case, buffers):
        return None
    return Result(out, mask, None if "gradient" in case.kind and raw else counts, moments)


def difference(got: Result, wanted: Result) -> str | None:
    """The first field that differs, with both values."""
    for name in Result._fields:
        one = getattr(got, name)
        other = getattr(wanted, name)
        if one is None:
            continue
        different = np.argwhere(one != other)
        if len(different):
            place = tuple(int(k) for k in different[0])
            return f"{name}{place} is {one[place]}, not {other[place]}; {len(different)} differ"
    return None


def said(case: Case) -> str:
    """A case in one line, without its codes."""
    bias = None if case.bias is None else int(abs(case.bias).max())
    return (
        f"{case.kind} {case.left.shape} by {case.right.shape} to {case.like} {case.dtype.__name__}, "
        f"stride {case.stride}, padding {case.padding}, {case.left_operand}, {case.right_operand}, "
        f"{case.rounding}, {case.epilogue}, bias up to {bias}"
    )
