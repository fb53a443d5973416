"""Exact products: the convolution, its two gradients, and dense layers as their special case.

A Product is worked out once for a pair of formats and a geometry: the instruction path, the proof
that its sums are exact, the format of the sums.  Called with codes it gives an Exact.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxsim.accumulator import Accumulator, Overflows
from fxsim.errors import InputError, invariant, present
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.epilogue import RAW, Epilogue
from fxsim.kernels.products import amx_conv, conv, winograd, winograd_weight_grad
from fxsim.kernels.products.packing import (
    blocks_of,
    pack_forward_weights,
    pack_input_grad_weights,
    rotated,
)
from fxsim.kernels.products.paths import Operand, Plan
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
from fxsim.ops.exact import MAX_SUM_BITS, Exact, magnitude, relu_bound
from fxsim.ops.paths import (
    AMX_PATHS,
    BYTES,
    TILE_PATH,
    WINOGRAD_PATHS,
    available_paths,
    choose,
    forward_paths,
    operand,
)
from fxsim.quantizer import Quantizer

EXACTLY = Accumulator(MAX_SUM_BITS)
"""Stands for no accumulator where one is asked for its place of the bias."""


@dataclass(frozen=True)
class Geometry:
    """The shapes of a convolution, for any number of images.

    A dense layer is the convolution of one position: height, width and both kernel sizes are 1.
    """

    height: int
    width: int
    channels: int
    outputs: int
    kernel_height: int = 1
    kernel_width: int = 1
    stride: int = 1
    padding: int = 0

    @property
    def input(self) -> tuple[int, int, int]:
        return self.height, self.width, self.channels

    @property
    def output(self) -> tuple[int, int, int]:
        rows = (self.height + 2 * self.padding - self.kernel_height) // self.stride + 1
        columns = (self.width + 2 * self.padding - self.kernel_width) // self.stride + 1
        return rows, columns, self.outputs

    @property
    def weight(self) -> tuple[int, int, int, int]:
        return self.kernel_height, self.kernel_width, self.channels, self.outputs

    @property
    def taps(self) -> int:
        return self.kernel_height * self.kernel_width

    @property
    def products(self) -> int:
        """Multiplications of one image."""
        return math.prod(self.output) * self.taps * self.channels


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
        self.geometry = geometry
        self.path = path
        self.product_exp = left.step_exp + right.step_exp
        self.accumulator = accumulator.resolved(self.product_exp) if accumulator else None
        self.step_exp = self.product_exp + (self.accumulator.drop if self.accumulator else 0)

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
        geometry = self.geometry
        fits = (
            self.path == "auto"
            and path in WINOGRAD_PATHS
            and winograd.applies(geometry.weight, geometry.stride)
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

    def exact_sums(self) -> np.ndarray:
        out = memory.empty(self.shape, np.int64)
        self.run(out)
        return out

    def lowered(self) -> Lowered:
        """The same product as a matrix product with its terms in order."""
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
            sums, met = accumulated_sums(self.lowered(), model, bias)
        self.overflows = Overflows(sums.size, met)
        return sums.reshape(self.shape)


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
        terms = geometry.taps * geometry.channels
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
        padding = self.geometry.padding
        if _by_winograd(self, self.plan, self._saving, (x, weight), padding, out, options):
            return
        stride = self.geometry.stride
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
            conv.conv_forward(x, packed, stride, out, padding=padding, **options)

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

    def lowered(self) -> Lowered:
        geometry = self.product.geometry
        return lower_forward(self._x, self._weight, geometry.stride, geometry.padding)

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
            found = found._replace(floor=0, relu_bound=relu_bound(step_exp, quantizer.format))
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
        if not self.ample or self.product.plan.split or not math.prod(self.shape):
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
        terms = geometry.taps * geometry.outputs
        self.plan, self._saving = _choose(
            self.left, self.right, terms, geometry.channels, geometry.input, self
        )
        self.format = self._accumulator_format(self.plan.accumulator_bits)

    def __call__(self, grad: np.ndarray, weight: np.ndarray) -> InputGradSum:
        return InputGradSum(self, grad, weight)

    def run(self, grad: np.ndarray, weight: np.ndarray, out: np.ndarray, **options: Any) -> None:
        geometry = self.geometry
        padding = 2 - geometry.padding
        if _by_winograd(
            self, self.plan, self._saving, (grad, weight), padding, out, options, rotate=True
        ):
            return
        if self.plan.path in AMX_PATHS:
            amx_conv.convolve(
                amx_conv.dilated(grad, geometry.stride),
                rotated(weight),
                1,
                len(weight) - 1 - geometry.padding,
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
            conv.conv_input_grad(grad, packed, geometry.stride, geometry.padding, out, **options)

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

    def lowered(self) -> Lowered:
        geometry = self.product.geometry
        return lower_input_grad(
            self._grad, self._weight, self.shape, geometry.stride, geometry.padding
        )

    @property
    def operands(self) -> dict[str, np.ndarray]:
        return {"grad": self._grad, "weight": self._weight}

    def sums(self) -> np.ndarray:
        return self.exact_sums() if self.ample else self.held()

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        found = quantizer.at(self.format.step_exp).epilogue
        fits = self.ample and not self.product.plan.split and math.prod(self.shape) > 0
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
        return choose(self.left, self.right, terms, available_paths(), self.path)

    def format_of(self, images: int) -> Format:
        """The format of the sums over a batch."""
        return self._accumulator_format(self.plan_of(images).accumulator_bits)

    def __call__(self, x: np.ndarray, grad: np.ndarray) -> WeightGradSum:
        return WeightGradSum(self, x, grad)

    @property
    def winograd(self) -> bool:
        """Whether Winograd's algorithm computes it."""
        products = self._winograd_products(self.plan_of(1).path)
        size = self.geometry.output[:2]
        return winograd_weight_grad.pays(size, products) and winograd_weight_grad.holds(
            self.left, self.right
        )

    def run(self, x: np.ndarray, grad: np.ndarray, out: np.ndarray, **options: Any) -> None:
        plan = self.plan_of(len(x))
        geometry = self.geometry
        if self.winograd:
            out[:] = winograd_weight_grad.winograd_weight_grad(
                x,
                grad,
                geometry.padding,
                spill_terms=plan.spill_terms,
                path=TILE_PATH[plan.path],
            )
            return

        def correlate(x: np.ndarray, grad: np.ndarray, out: np.ndarray, **options: Any) -> None:
            conv.conv_weight_grad(x, grad, geometry.stride, geometry.padding, out, **options)

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

    def lowered(self) -> Lowered:
        geometry = self.product.geometry
        return lower_weight_grad(
            self._x,
            self._grad,
            geometry.kernel_height,
            geometry.stride,
            geometry.padding,
        )

    @property
    def operands(self) -> dict[str, np.ndarray]:
        return {"x": self._x, "grad": self._grad}

    def sums(self) -> np.ndarray:
        return self.exact_sums() if self.ample else self.held()

    def rounded(self, quantizer: Quantizer, relu: bool) -> tuple[np.ndarray, np.ndarray | None]:
        found = quantizer.at(self.format.step_exp).epilogue
        product = self.product
        fits = self.ample and not product.winograd and not product.plan_of(len(self._x)).split
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
    geometry = product.geometry
    rows = shape[0] * shape[1]
    direct = geometry.products / columns * blocks_of(columns, COLUMNS) * COLUMNS
    saving = direct / (rows * amx_conv.cost(a, b, terms, geometry.kernel_height, columns))
    others = tuple(path for path in forward_paths() if path not in AMX_PATHS)
    other = choose(a, b, terms, others, product.path)
    other_saving: float = 2 if other.path == BYTES else 1
    if other.split:
        other_saving = 1 / (len(a.parts) * len(b.parts))
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
