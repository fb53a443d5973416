"""Exact products: the convolution, its two gradients, and dense layers as their special case.

A Product is worked out once for a pair of formats and a geometry: the instruction path, the proof
that its sums are exact, the format of the sums.  Called with codes it gives an Exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from fxsim.accumulator import Accumulator, Overflows
from fxsim.errors import InputError, invariant, present
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.products import amx_conv, conv, grouped, winograd, winograd_weight_grad
from fxsim.kernels.products.packing import (
    blocks_of,
    pack_forward_weights,
    pack_input_grad_weights,
    rotated,
)
from fxsim.kernels.products.paths import Operand, Plan, in_lanes
from fxsim.kernels.products.tile import COLUMNS
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.ops.accumulation import (
    Bias,
    Lowered,
    accumulated_sums,
    bias_shifts,
    check_widths,
    finished_sums,
    lower_forward,
    lower_input_grad,
    lower_weight_grad,
    never_overflows,
)
from fxsim.ops.exact import MAX_SUM_BITS, Exact, Sums, magnitude, relu_bound
from fxsim.ops.paths import (
    AMX_PATHS,
    BYTES,
    TILE_PATH,
    WINOGRAD_PATHS,
    available_paths,
    check_path,
    choose,
    forward_paths,
    operand,
)
from fxsim.quantizer import Quantizer
from fxsim.windows import Window

FEWEST_GROUPS = 4
"""Groups of a convolution, from which on a lane of a register for each output costs less than the
weights of 0 of a whole one.
"""
EXACTLY = Accumulator(MAX_SUM_BITS)
"""Stands for no accumulator where one is asked for its place of the bias."""


@dataclass(frozen=True)
class Geometry:
    """The shapes of a convolution, for any number of images.

    A dense layer is the convolution of one position: height, width and window are 1.
    groups: the channels and the outputs fall into so many groups; outputs of a group read the
    channels of that group alone.
    """

    height: int
    width: int
    channels: int
    outputs: int
    window: Window = Window((1, 1))
    groups: int = 1

    @property
    def input(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @cached_property
    def output(self) -> tuple[int, int, int]:
        return *self.window.positions((self.height, self.width)), self.outputs

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return *self.window.size, self.channels // self.groups, self.outputs

    @property
    def taps(self) -> int:
        return self.window.taps

    @cached_property
    def full(self) -> Geometry:
        """The same sums without groups or dilation: taps and channels between have weight 0."""
        window = Window(self.window.span, self.window.stride, self.window.padding)
        return Geometry(self.height, self.width, self.channels, self.outputs, window)

    @property
    def is_full(self) -> bool:
        """Whether there are neither groups nor dilation."""
        return self.groups == 1 and self.window.dilation == (1, 1)

    @cached_property
    def lanes(self) -> grouped.Shape | None:
        """What the kernels of convolutions in groups take; None where the groups are few."""
        if self.groups < FEWEST_GROUPS:
            return None
        window = self.window
        return grouped.Shape(
            (self.height, self.width),
            self.channels,
            self.outputs,
            window.size,
            window.stride,
            window.dilation,
            window.padding,
            self.output[:2],
            self.groups,
        )

    @property
    def is_square(self) -> bool:
        """Whether rows and columns are alike, and the padding on all sides."""
        window = self.window
        alike = all(one == other for one, other in (window.size, window.stride, window.dilation))
        return alike and len(set(window.padding)) == 1

    @property
    def products(self) -> int:
        """Multiplications of one image."""
        return math.prod(self.output) * self.taps * self.channels // self.groups

    def filled(self, weight: np.ndarray) -> np.ndarray:
        """The weights of `full`: those (KH, KW, C / groups, O) among zeros."""
        if self.is_full:
            return weight
        full = np.zeros(self.full.weight, weight.dtype)
        for own, _, outputs in self._blocks(full):
            own[:] = weight[:, :, :, outputs]
        return full

    def gathered(self, full: np.ndarray) -> np.ndarray:
        """The weights (KH, KW, C / groups, O) among those of `full`."""
        if self.is_full:
            return full
        blocks = [own for own, _, _ in self._blocks(full)]
        return np.concatenate(blocks, axis=3)

    def _blocks(self, full: np.ndarray) -> Iterator[tuple[np.ndarray, slice, slice]]:
        """For each group its weights in `full`, as a view, its channels and its outputs."""
        down, across = self.window.dilation
        for inputs, outputs in self.group_slices:
            yield full[::down, ::across, inputs, outputs], inputs, outputs

    @property
    def group_slices(self) -> list[tuple[slice, slice]]:
        """For each group its channels and its outputs."""
        channels = self.channels // self.groups
        outputs = self.outputs // self.groups
        return [
            (slice(g * channels, (g + 1) * channels), slice(g * outputs, (g + 1) * outputs))
            for g in range(self.groups)
        ]


class Product:
    """Exact products of one kind, for operands of two formats.

    Attributes:
        geometry: the shapes.
        plan: instruction path, proof, terms of a sum and the accumulator that they need.
        accumulator: how the sums are held; None for exactly.  Its step is given as bits to drop.
        product_exp: a product of two codes has the step 2**product_exp.
        step_exp: the sums have the step 2**step_exp.
        format: of the sums, a bias included.
    """

    kind: str

    def __init__(
        self,
        left: Format,
        right: Format,
        geometry: Geometry,
        path: str = "auto",
        accumulator: Accumulator | None = None,
    ):
        self.left = operand(left)
        self.right = operand(right)
        self.formats = left, right
        self.geometry = geometry
        self.path = path
        _check_square(path, geometry)
        self.product_exp = left.step_exp + right.step_exp
        self.accumulator = accumulator.resolved(self.product_exp) if accumulator else None
        self.step_exp = self.product_exp + (self.accumulator.drop if self.accumulator else 0)

    def is_apart(self, plan: Plan) -> bool:
        """Whether the kernels add products of parts of the operands."""
        return plan.split and self.geometry.lanes is None

    def _plan(self, terms: int, available: tuple[str, ...]) -> Plan:
        """The plan of sums of so many terms."""
        found = choose(self.left, self.right, terms, available, self.path)
        return found if self.geometry.lanes is None else in_lanes(found, self.left, self.right)

    def by(self, path: str) -> Product:
        """The same product by another instruction path."""
        return type(self)(*self.formats, self.geometry, path, self.accumulator)

    def over(self, geometry: Geometry) -> Product:
        """The same product over other shapes."""
        return type(self)(*self.formats, geometry, self.path, self.accumulator)

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Shapes of the two operands, for one image."""
        raise NotImplementedError

    def __call__(self, *codes: Any, **named: Any) -> ProductSum:
        """The sums of codes of storage types."""
        raise NotImplementedError

    def check_shapes(self, left: tuple[int, ...], right: tuple[int, ...]) -> None:
        """A kernel reads past the end of arrays of any other shape."""
        invariant((left, right) == self.operands, f"shapes {left}, {right} == {self.operands}")

    def _accumulator_format(self, bits: int) -> Format:
        """The format of sums without a bias, which need `bits` where they are exact."""
        if self.accumulator:
            bits = self.accumulator.bits
        if bits > MAX_SUM_BITS:
            raise InputError(
                f"the sums need {bits} bits, at most {MAX_SUM_BITS} are exact here; lower the "
                "widths or the number of terms"
            )
        return Format(bits, self.step_exp + bits - 1)

    def _by_parts(
        self,
        run: Callable[..., None],
        plan: Plan,
        operands: Any,
        out: np.ndarray,
        options: dict[str, Any],
    ) -> None:
        """run(left codes, right codes, out, ...) by the plan's path.

        On a split path it runs for each pair of parts, and the sums are added.
        """
        left, right = operands
        options |= {"spill_terms": plan.spill_terms, "path": TILE_PATH[plan.path]}
        if not plan.split:
            run(left, right, out, **options)
            return
        out[:] = 0
        part = memory.empty(out.shape, np.int64)
        pairs = itertools.product(self.left.split(left), self.right.split(right))
        for (a, a_shift), (b, b_shift) in pairs:
            run(a, b, part, **options)
            part <<= a_shift + b_shift
            out += part

    def _winograd_products(self, path: str, saving: float = 1) -> float:
        """Products of int16 codes, for one channel, that cost what the direct ones do.

        It is 0 where Winograd's algorithm has no place.  A forced path is the direct one.
        """
        geometry = self.geometry.full
        fits = (
            self.path == "auto"
            and path in WINOGRAD_PATHS
            and geometry.is_square
            and winograd.applies(geometry.weight, geometry.window.stride[0])
        )
        rows, columns, _ = geometry.output
        return geometry.taps * rows * columns / saving if fits else 0

    def check_held(self, plan: Plan) -> None:
        """InputError unless every sum can be held in the accumulator, whatever the codes."""
        model = self.accumulator
        if model is None:
            return
        product = self.left.magnitude * self.right.magnitude
        check_widths(product, plan.terms, model, self._largest_bias())

    def _largest_bias(self) -> Bias:
        """A bias of the greatest magnitude; it holds no codes where there is none."""
        return Bias()

    def ample(self, left: np.ndarray, right: np.ndarray, bias: Bias | None = None) -> bool:
        """Whether the exact sums are what the accumulator comes to, in every order.

        right: its last axis is that of the outputs; the other axes are the terms of each.
        """
        model = self.accumulator
        return model is None or never_overflows(left, right, model, bias)


class ProductSum(Exact):
    """The sums of a Product and its operands."""

    def __init__(self, product: Product, shape: tuple[int, ...], format: Format, ample: bool):
        self.product = product
        self.shape = shape
        self.format = format
        self.ample = ample
        if product.accumulator and ample:
            self.overflows = Overflows(math.prod(shape), 0)

    def run(self, out: np.ndarray, **options: Any) -> None:
        """Write the exact sums, or what the epilogue among the options makes of them."""
        raise NotImplementedError

    def by(self, path: str) -> Exact:
        check_path("path", path)
        return self.product.by(path)(**self.operands)

    def exact_sums(self) -> np.ndarray:
        out = memory.empty(self.shape, np.int64)
        self.run(out)
        return out

    def lowered(self) -> list[Lowered]:
        """The same product as matrix products with their terms in order, one for each group."""
        raise NotImplementedError

    @property
    def operands(self) -> dict[str, np.ndarray]:
        """The codes of the operands by their names, a bias only where there is one."""
        raise NotImplementedError

    @property
    def operand_formats(self) -> dict[str, Operand | Format]:
        """Name -> what has the bits and the sign of an operand."""
        return dict(zip(self.operands, (self.product.left, self.product.right)))

    @property
    def bias(self) -> Bias:
        """The bias; it holds no codes where there is none."""
        return Bias()

    def with_operands(self, codes: Mapping[str, np.ndarray]) -> ProductSum:
        """The same product of other codes, by the names of the operands that change."""
        return self.product(**(self.operands | dict(codes)))

    def held(self, bias: Bias | None = None) -> np.ndarray:
        """The sums in the accumulator."""
        model = present(self.product.accumulator)
        if model.at_end and model.adds_products_whole:
            sums, met = finished_sums(self.exact_sums(), model, bias)
        else:
            sums, met = self._held_by_groups(model, bias or Bias())
        self.overflows = Overflows(sums.size, met)
        return sums.reshape(self.shape)

    def _held_by_groups(self, model: Accumulator, bias: Bias) -> tuple[np.ndarray, int]:
        """(sums, overflows) of all groups side by side."""
        parts = []
        met = 0
        groups = self.lowered()
        for group, lowered in enumerate(groups):
            sums, overflows = accumulated_sums(lowered, model, bias.of_group(group, len(groups)))
            parts.append(sums)
            met += overflows
        return np.concatenate(parts, axis=1), met


def _check_square(path: str, geometry: Geometry) -> None:
    """InputError where a forced path does not take the geometry."""
    if path in AMX_PATHS and not geometry.is_square:
        raise InputError(
            f"path {path!r} takes kernels, strides and paddings that are alike in rows and "
            f"columns, got {geometry.window}; use 'auto'"
        )


class Forward(Product):
    """conv(x, weight) + bias: x (N, H, W, C), weight (KH, KW, C, O), out (N, OH, OW, O)."""

    kind = "forward"

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.geometry.input, self.geometry.weight

    def __init__(
        self,
        x: Format,
        weight: Format,
        geometry: Geometry,
        path: str = "auto",
        accumulator: Accumulator | None = None,
        bias: Format | None = None,
    ):
        super().__init__(x, weight, geometry, path, accumulator)
        terms = geometry.taps * geometry.channels // geometry.groups
        self.plan, self._saving = _choose(
            self.left, self.right, terms, geometry.outputs, geometry.output, self
        )
        self.bias = bias
        self._sum_shift = 0
        self._bias_shift = 0
        if bias is not None:
            shifts = bias_shifts(self.accumulator or EXACTLY, self.step_exp, bias.step_exp)
            self._sum_shift, self._bias_shift = shifts
        self.format = self._sum_format(self.step_exp - self._sum_shift)

    def by(self, path: str) -> Forward:
        return Forward(*self.formats, self.geometry, path, self.accumulator, self.bias)

    def over(self, geometry: Geometry) -> Forward:
        return Forward(*self.formats, geometry, self.path, self.accumulator, self.bias)

    def bias_of(self, codes: np.ndarray | None) -> Bias:
        """The bias and how it comes to the step of the sums."""
        return Bias(codes, self._sum_shift, self._bias_shift)

    def _largest_bias(self) -> Bias:
        return self.bias_of(None if self.bias is None else np.array([magnitude(self.bias)], object))

    def _sum_format(self, step_exp: int) -> Format:
        """The format of the sums with the bias, at the finer of their steps.

        With an accumulator its width is the accumulator's at that step.
        """
        exact_bits = self.plan.accumulator_bits + self._sum_shift
        if self.bias:
            bias_bits = self.bias.bits + (0 if self.bias.signed else 1)
            exact_bits = 1 + max(exact_bits, bias_bits + self._bias_shift)
        bits = exact_bits
        if self.accumulator:
            bits = self.accumulator.bits + self._sum_shift
        if max(bits, exact_bits) > MAX_SUM_BITS:
            steps = f"the bias step 2^{self.bias.step_exp} and " if self.bias else ""
            raise InputError(
                f"the sums need {max(bits, exact_bits)} bits, at most {MAX_SUM_BITS} are exact "
                f"here; lower the widths, or bring {steps}the step of the sums 2^{self.step_exp} "
                "together"
            )
        return Format(bits, step_exp + bits - 1)

    def __call__(
        self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None
    ) -> ForwardSum:
        """The sums of codes of storage types."""
        return ForwardSum(self, x, weight, bias)

    def run(self, x: np.ndarray, weight: np.ndarray, out: np.ndarray, **options: Any) -> None:
        lanes = self.geometry.lanes
        if lanes is not None:
            options |= {"spill_terms": self.plan.spill_terms, "path": TILE_PATH[self.plan.path]}
            grouped.grouped_forward(x, weight, lanes, out, **options)
            return
        weight = self.geometry.filled(weight)
        window = self.geometry.window
        padding = window.padding[0]
        if _by_winograd(self, self.plan, self._saving, (x, weight), padding, out, options):
            return
        stride = window.stride[0]
        if self.plan.path in AMX_PATHS:
            amx_conv.convolve(
                x, weight, stride, padding, out, left=self.left, right=self.right, **options
            )
            return
        if self.plan.path == BYTES:
            x = x.astype(np.uint8)
            weight = weight.astype(np.int8)

        def convolve(x: np.ndarray, weight: np.ndarray, out: np.ndarray, **options: Any) -> None:
            packed = pack_forward_weights(weight)
            conv.conv_forward(x, packed, window.stride, out, padding=window.padding, **options)

        self._by_parts(convolve, self.plan, (x, weight), out, options)


class ForwardSum(ProductSum):
    """The sums of a Forward product."""

    product: Forward

    def __init__(
        self, product: Forward, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ):
        product.check_shapes(x.shape[1:], weight.shape)
        ample = product.ample(x, weight, product.bias_of(bias))
        super().__init__(product, (len(x), *product.geometry.output), product.format, ample)
        self._x = x
        self._weight = weight
        self._bias = bias

    def run(self, out: np.ndarray, **options: Any) -> None:
        self.product.run(self._x, self._weight, out, **options)

    def lowered(self) -> list[Lowered]:
        geometry = self.product.geometry
        return [
            lower_forward(self._x[..., inputs], self._weight[..., outputs], geometry.window)
            for inputs, outputs in geometry.group_slices
        ]

    def sums(self) -> np.ndarray:
        if self.ample:
            return self._with_bias(self.exact_sums())
        return self.held(self.product.bias_of(self._bias))

    @property
    def operands(self) -> dict[str, np.ndarray]:
        codes = {"x": self._x, "weight": self._weight}
        return codes if self._bias is None else codes | {"bias": self._bias}

    @property
    def operand_formats(self) -> dict[str, Operand | Format]:
        formats = super().operand_formats
        return formats if self._bias is None else formats | {"bias": present(self.product.bias)}

    @property
    def bias(self) -> Bias:
        return self.product.bias_of(self._bias)

    def _with_bias(self, sums: np.ndarray) -> np.ndarray:
        sums <<= self.product._sum_shift
        if self._bias is not None:
            sums += self._bias.astype(np.int64) << self.product._bias_shift
        return sums

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        return self.rounded_with_moments(quantizer, relu, None)

    def rounded_with_moments(
        self, quantizer: Quantizer, relu: bool, moments: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`rounded`; moments (2, O) int64 become the sums of each channel's codes and squares."""
        extra, found = self._epilogue(quantizer)
        if found is None:
            codes, mask = super().rounded(quantizer, relu)
            if moments is not None:
                moments[:] = channel_moments(codes, codes)
            return codes, mask
        product = self.product
        if relu:
            step_exp = self.format.step_exp - extra
            found = found._replace(floor=0, relu_bound=relu_bound(step_exp, quantizer))
        bias = None
        if self._bias is not None:
            bias = self._bias.astype(np.int64) << (product._bias_shift + extra)
        out = memory.empty(self.shape, quantizer.format.storage)
        mask = memory.empty(self.shape, np.uint8) if relu else None
        tally = np.zeros(3, np.int64)
        self.run(
            out,
            epilogue=found._replace(acc_shift=product._sum_shift + extra),
            bias=bias,
            mask=conv.NO_MASK if mask is None else mask,
            counts=tally,
            moments=moments,
        )
        quantizer.tell(out.size, tally)
        return out, mask

    def _epilogue(self, quantizer: Quantizer) -> tuple[int, Epilogue | None]:
        """(bits by which the sums are shifted left first, the kernel's epilogue or None).

        Sums whose step is coarser than the quantizer's are shifted left where 62 bits hold them.
        """
        extra = max(self.format.step_exp - quantizer.format.step_exp, 0)
        if not self.ample or self.product.is_apart(self.product.plan) or not math.prod(self.shape):
            return 0, None
        if self.format.bits + extra > MAX_SUM_BITS:
            return 0, None
        return extra, quantizer.at(self.format.step_exp - extra).epilogue


class InputGrad(Product):
    """The gradient at the input of a convolution.

    grad (N, OH, OW, O), weight (KH, KW, C, O), out (N, H, W, C).
    """

    kind = "input_grad"

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.geometry.output, self.geometry.weight

    def __init__(
        self,
        grad: Format,
        weight: Format,
        geometry: Geometry,
        path: str = "auto",
        accumulator: Accumulator | None = None,
    ):
        super().__init__(grad, weight, geometry, path, accumulator)
        terms = geometry.taps * geometry.outputs // geometry.groups
        self.plan, self._saving = _choose(
            self.left, self.right, terms, geometry.channels, geometry.input, self
        )
        self.format = self._accumulator_format(self.plan.accumulator_bits)

    def __call__(self, grad: np.ndarray, weight: np.ndarray) -> InputGradSum:
        return InputGradSum(self, grad, weight)

    def run(self, grad: np.ndarray, weight: np.ndarray, out: np.ndarray, **options: Any) -> None:
        lanes = self.geometry.lanes
        if lanes is not None:
            options |= {"spill_terms": self.plan.spill_terms, "path": TILE_PATH[self.plan.path]}
            grouped.grouped_input_grad(grad, weight, lanes, out, **options)
            return
        weight = self.geometry.filled(weight)
        window = self.geometry.window
        padding = 2 - window.padding[0]
        if _by_winograd(
            self, self.plan, self._saving, (grad, weight), padding, out, options, rotate=True
        ):
            return
        if self.plan.path in AMX_PATHS:
            amx_conv.convolve(
                amx_conv.dilated(grad, window.stride[0]),
                rotated(weight),
                1,
                len(weight) - 1 - window.padding[0],
                out,
                left=self.left,
                right=self.right,
                **options,
            )
            return

        def correlate(
            grad: np.ndarray, weight: np.ndarray, out: np.ndarray, **options: Any
        ) -> None:
            packed = pack_input_grad_weights(weight)
            conv.conv_input_grad(grad, packed, window.stride, window.before, out, **options)

        self._by_parts(correlate, self.plan, (grad, weight), out, options)


class InputGradSum(ProductSum):
    """The sums of an InputGrad product."""

    product: InputGrad

    def __init__(self, product: InputGrad, grad: np.ndarray, weight: np.ndarray):
        product.check_shapes(grad.shape[1:], weight.shape)
        ample = product.ample(grad, np.swapaxes(weight, -1, -2))
        super().__init__(product, (len(grad), *product.geometry.input), product.format, ample)
        self._grad = grad
        self._weight = weight

    def run(self, out: np.ndarray, **options: Any) -> None:
        self.product.run(self._grad, self._weight, out, **options)

    def lowered(self) -> list[Lowered]:
        geometry = self.product.geometry
        shape = self.shape[:3]
        return [
            lower_input_grad(
                self._grad[..., outputs], self._weight[..., outputs], shape, geometry.window
            )
            for _, outputs in geometry.group_slices
        ]

    @property
    def operands(self) -> dict[str, np.ndarray]:
        return {"grad": self._grad, "weight": self._weight}

    def sums(self) -> np.ndarray:
        return self.exact_sums() if self.ample else self.held()

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        found = quantizer.at(self.format.step_exp).epilogue
        fits = (
            self.ample
            and not self.product.is_apart(self.product.plan)
            and math.prod(self.shape) > 0
        )
        if relu or found is None or not fits:
            return super().rounded(quantizer, relu)
        return _fused(self, quantizer, found), None


class WeightGrad(Product):
    """The gradient of the weights of a convolution, summed over images and positions.

    x (N, H, W, C), grad (N, OH, OW, O), out (KH, KW, C, O).
    """

    kind = "weight_grad"

    @property
    def operands(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        return self.geometry.input, self.geometry.output

    def __init__(
        self,
        x: Format,
        grad: Format,
        geometry: Geometry,
        path: str = "auto",
        accumulator: Accumulator | None = None,
    ):
        super().__init__(x, grad, geometry, path, accumulator)
        self.plan_of(1)

    def plan_of(self, images: int) -> Plan:
        """The plan for a batch: its terms are all positions of all images."""
        rows, columns, _ = self.geometry.output
        terms = images * rows * columns
        return self._plan(terms, available_paths())

    def format_of(self, images: int) -> Format:
        """The format of the sums over a batch."""
        return self._accumulator_format(self.plan_of(images).accumulator_bits)

    def __call__(self, x: np.ndarray, grad: np.ndarray) -> WeightGradSum:
        return WeightGradSum(self, x, grad)

    def largest(self, images: int) -> int:
        """No exact sum over so many images, or over some of them, is larger in magnitude."""
        return 1 << (self.plan_of(images).accumulator_bits - 1)

    @property
    def adds_in_order(self) -> bool:
        """Whether the sums depend on the order of the images, or round each of their products."""
        model = self.accumulator
        return model is not None and not (model.at_end and model.adds_products_whole)

    def of_sums(self, sums: np.ndarray, images: int) -> Sums:
        """The result of exact sums over so many images; for sums that have no order."""
        if self.accumulator is None:
            return Sums(sums, self.format_of(images))
        held, met = finished_sums(sums, self.accumulator)
        return Sums(held, self.format_of(images), Overflows(held.size, met))

    @property
    def winograd(self) -> bool:
        """Whether Winograd's algorithm computes it."""
        products = self._winograd_products(self.plan_of(1).path)
        size = self.geometry.output[:2]
        return winograd_weight_grad.pays(size, products) and winograd_weight_grad.holds(
            self.left, self.right
        )

    def run(self, x: np.ndarray, grad: np.ndarray, out: np.ndarray, **options: Any) -> None:
        geometry = self.geometry
        if geometry.lanes is not None:
            plan = self.plan_of(len(x))
            out[:] = grouped.grouped_weight_grad(
                x,
                grad,
                geometry.lanes,
                spill_terms=plan.spill_terms,
                path=TILE_PATH[plan.path],
            )
            return
        if not geometry.is_full:
            full = memory.empty(geometry.full.weight, out.dtype)
            self._run_full(x, grad, full, **options)
            out[:] = geometry.gathered(full)
            return
        self._run_full(x, grad, out, **options)

    def _run_full(self, x: np.ndarray, grad: np.ndarray, out: np.ndarray, **options: Any) -> None:
        """As `run`, for the weights of `Geometry.full`."""
        plan = self.plan_of(len(x))
        window = self.geometry.window
        if self.winograd:
            out[:] = winograd_weight_grad.winograd_weight_grad(
                x,
                grad,
                window.padding[0],
                spill_terms=plan.spill_terms,
                path=TILE_PATH[plan.path],
            )
            return

        def correlate(x: np.ndarray, grad: np.ndarray, out: np.ndarray, **options: Any) -> None:
            conv.conv_weight_grad(x, grad, window.stride, window.padding, out, **options)

        self._by_parts(correlate, plan, (x, grad), out, options)


class WeightGradSum(ProductSum):
    """The sums of a WeightGrad product."""

    product: WeightGrad

    def __init__(self, product: WeightGrad, x: np.ndarray, grad: np.ndarray):
        product.check_shapes(x.shape[1:], grad.shape[1:])
        invariant(len(x) == len(grad), "one gradient for each image")
        ample = product.ample(x, grad)
        format = product.format_of(len(x))
        super().__init__(product, product.geometry.weight, format, ample)
        self._x = x
        self._grad = grad

    def run(self, out: np.ndarray, **options: Any) -> None:
        self.product.run(self._x, self._grad, out, **options)

    def lowered(self) -> list[Lowered]:
        geometry = self.product.geometry
        return [
            lower_weight_grad(self._x[..., inputs], self._grad[..., outputs], geometry.window)
            for inputs, outputs in geometry.group_slices
        ]

    @property
    def operands(self) -> dict[str, np.ndarray]:
        return {"x": self._x, "grad": self._grad}

    def sums(self) -> np.ndarray:
        return self.exact_sums() if self.ample else self.held()

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        found = quantizer.at(self.format.step_exp).epilogue
        product = self.product
        by_sums = product.winograd or not product.geometry.is_full
        fits = self.ample and not by_sums and not product.plan_of(len(self._x)).split
        if relu or found is None or not fits:
            return super().rounded(quantizer, relu)
        return _fused(self, quantizer, found), None


def _fused(exact: ProductSum, quantizer: Quantizer, epilogue: Epilogue) -> np.ndarray:
    """Codes that the product's own kernel rounds."""
    out = memory.empty(exact.shape, quantizer.format.storage)
    tally = np.zeros(3, np.int64)
    exact.run(out, epilogue=epilogue, counts=tally)
    quantizer.tell(out.size, tally)
    return out


def _choose(
    a: Operand, b: Operand, terms: int, columns: int, shape: tuple[int, ...], product: Product
) -> tuple[Plan, float]:
    """The plan of a forward product or an input gradient of `shape`, and its saving.

    The saving is how much faster it is than int16 products.  A processor with AMX has other paths,
    too, which are faster where operands in bytes cost more than they save.
    """
    if product.geometry.lanes is not None:
        return product._plan(terms, forward_paths()), 1
    geometry = product.geometry.full
    rows = shape[0] * shape[1]
    direct = geometry.products / columns * blocks_of(columns, COLUMNS) * COLUMNS
    saving = direct / (rows * amx_conv.cost(a, b, terms, geometry.window.size[0], columns))
    others = tuple(path for path in forward_paths() if path not in AMX_PATHS)
    other = choose(a, b, terms, others, product.path)
    other_saving: float = 2 if other.path == BYTES else 1
    if other.split:
        other_saving = 1 / (len(a.parts) * len(b.parts))
    if not geometry.is_square:
        return other, other_saving
    chosen = choose(a, b, terms, forward_paths(), product.path)
    if chosen.path in AMX_PATHS and saving > other_saving:
        return chosen, saving
    return other, other_saving


def _by_winograd(
    product: Product,
    plan: Plan,
    saving: float,
    operands: tuple[np.ndarray, np.ndarray],
    padding: int,
    out: np.ndarray,
    options: dict[str, Any],
    rotate: bool = False,
) -> bool:
    """Convolve by Winograd's algorithm if that pays, an input gradient with rotated weights.

    Returns whether it did.
    """
    products = product._winograd_products(plan.path, saving)
    if not winograd.paying(out.shape[1:3], products):
        return False
    source, weight = operands
    if rotate:
        weight = rotated(weight)
    epilogue = options.get("epilogue", RAW)
    algorithm = winograd.choose(
        out.shape[1:3], products, product.left, weight, epilogue, options.get("bias")
    )
    if algorithm is None:
        return False
    winograd.conv_winograd(
        source,
        weight,
        padding,
        out,
        algorithm=algorithm,
        path=TILE_PATH[plan.path],
        **options,
    )
    return True
