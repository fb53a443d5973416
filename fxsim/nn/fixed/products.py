"""The exact products of one layer: which kernel path each takes, and with which proof."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from fxsim.accumulator import Accumulator, Overflows
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.epilogue import NO_FLOOR, RAW
from fxsim.kernels.products import (
    amx_conv as byte_products,
)
from fxsim.kernels.products import conv as kernel
from fxsim.kernels.products import (
    winograd,
)
from fxsim.kernels.products import (
    winograd_weight_grad as winograd_grad,
)
from fxsim.kernels.products.amx import processor_has_tiles
from fxsim.kernels.products.packing import (
    blocks_of,
    pack_forward_weights,
    pack_input_grad_weights,
    rotated,
)
from fxsim.kernels.products.paths import PATHS, Operand, Plan, plan
from fxsim.kernels.products.tile import COLUMNS, processor_has
from fxsim.kernels.reductions import moments as channel_moments
from fxsim.nn.fixed.epilogues import epilogue, fused, quantize_sums, relu_bound
from fxsim.nn.precision import LayerPrecision
from fxsim.nn.spec import Conv, Dense, Layer, LayerShape
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream

MAX_SUM_BITS = 62
AMX_PATHS = ("int8_amx", "int16_amx")
_TILE_PATH = {path: "vnni" if path in AMX_PATHS else path.split("_")[-1] for path in PATHS}
"""The register tiles of a path.

A processor with AMX has those of Winograd's algorithm from VNNI.
"""
BYTES = "int8_vnni"
"""The path of unsigned by signed bytes.  Only forward products take it: gradients are signed."""
WINOGRAD_PATHS = (*AMX_PATHS, "int8_vnni", "int16_vnni", "int16_avx2")
"""Where the widths allow them; the algorithm itself takes codes of int16."""


def available_paths() -> tuple[str, ...]:
    """The kernel paths of this processor that every product of a training step can take,
    fastest first.
    """
    return tuple(path for path in forward_paths() if path not in (BYTES, *AMX_PATHS))


def forward_paths() -> tuple[str, ...]:
    """The kernel paths of this processor, fastest first."""
    return tuple(
        path
        for path in PATHS
        if (processor_has_tiles() if path in AMX_PATHS else processor_has(_TILE_PATH[path]))
    )


class Products:
    """Forward product, input gradient and weight gradient of one layer, on arrays of codes.

    Sums are exact; each method quantizes them once, in the kernel where the Requantizer allows,
    else afterwards, to the same bits.  gradient_format: of the gradient at the pre-activations (N,
    OH, OW, O). sum_format: of the pre-activations Z = conv(A, W) + b at full width, without b where
    the layer has batch norm. relu: whether the ReLU follows Z at once, with neither batch norm nor
    a residual branch between. accumulators: kind of product -> Accumulator of its sums
    (nn/accumulated.py); none here. overflows: kind of product -> Overflows of its last sums, where
    they have an accumulator. Raises ValueError where the widths allow no exact path.
    """

    accumulators: Mapping[str, Accumulator] = MappingProxyType({})

    def __init__(
        self,
        layer: Layer,
        shape: LayerShape,
        formats: LayerPrecision,
        gradient_format: Format,
        kernel_name: str = "auto",
    ):
        if kernel_name in (BYTES, *AMX_PATHS):
            raise ValueError(
                f"kernel {kernel_name!r} makes no weight gradients; use kernel='auto' or one of "
                f"{', '.join(available_paths())}"
            )
        self.layer = layer
        self.shape = shape
        self.formats = formats
        self.gradient_format = gradient_format
        self._kernel_name = kernel_name
        self.relu = layer.relu and not layer.batch_norm and not layer.add
        self.overflows: dict[str, Overflows] = {}
        activations, weights, grads = (
            Operand(format.bits, format.signed)
            for format in (formats.activations, formats.weights, gradient_format)
        )
        self._activations = activations
        self._weights = weights
        self._grads = grads
        inputs, outputs = shape.weight[-2:]
        taps = 1 if isinstance(layer, Dense) else layer.kernel**2
        self.forward_plan, self._forward_saving = self._choose(
            activations, weights, shape.dot_length, outputs, shape.pre
        )
        self.input_grad_plan, self._input_grad_saving = self._choose(
            grads, weights, taps * outputs, inputs, shape.input
        )
        self.weight_grad_plan(1)
        self.input_grad_step_exp = gradient_format.step_exp + formats.weights.step_exp
        self.weight_grad_step_exp = gradient_format.step_exp + formats.activations.step_exp
        self.sum_format, self._sum_shift, self._bias_shift = self._align_bias()

    def _plan(self, a: Operand, b: Operand, terms: int, available: tuple[str, ...]) -> Plan:
        return plan(a, b, terms, available, self._kernel_name)

    def _choose(
        self, a: Operand, b: Operand, terms: int, columns: int, shape: tuple[int, ...]
    ) -> tuple[Plan, float]:
        """The plan of a forward product or an input gradient of `shape`, and how much faster it is
        than int16 products.

        A processor with AMX has other paths, too, which are faster where operands in bytes cost
        more than they save."""
        rows = shape[0] * shape[1] if isinstance(self.layer, Conv) else 1
        runs = self.layer.kernel if isinstance(self.layer, Conv) else 1
        direct = self.shape.macs / columns * blocks_of(columns, COLUMNS) * COLUMNS
        saving = direct / (rows * byte_products.cost(a, b, terms, runs, columns))
        others = tuple(path for path in forward_paths() if path not in AMX_PATHS)
        other = self._plan(a, b, terms, others)
        other_saving = (
            1 / (len(a.parts) * len(b.parts)) if other.split else 2 if other.path == BYTES else 1
        )
        chosen = self._plan(a, b, terms, forward_paths())
        return (
            (chosen, saving)
            if chosen.path in AMX_PATHS and saving > other_saving
            else (other, other_saving)
        )

    def _align_bias(self) -> tuple[Format, int, int]:
        """Format of Z, and the left shifts that bring the products and the bias to its step.

        With batch norm there is no bias, and Z is brought to the step of the pre-activations where
        that is finer."""
        name, other = (
            ("bias", self.formats.bias)
            if self.layer.bias
            else ("preactivations", self.formats.preactivations)
        )
        product_exp = self.formats.activations.step_exp + self.formats.weights.step_exp
        step_exp = min(product_exp, other.step_exp)
        sum_shift = product_exp - step_exp
        bias_shift = other.step_exp - step_exp
        bits = self.forward_plan.accumulator_bits + sum_shift
        if self.layer.bias:
            bits = 1 + max(bits, other.bits + bias_shift)
        if bits > MAX_SUM_BITS:
            raise ValueError(
                f"sums at the pre-activations need {bits} bits, at most {MAX_SUM_BITS} are exact "
                f"here; bring "
                f"the {name} step 2^{other.step_exp} and the product step 2^{product_exp} together"
            )
        return Format(bits, step_exp + bits - 1), sum_shift, bias_shift

    def weight_grad_plan(self, samples: int) -> Plan:
        """The plan of the weight gradient, whose terms are all positions of all samples."""
        rows, columns, _ = self.shape.pre
        return self._plan(
            self._activations, self._grads, samples * rows * columns, available_paths()
        )

    def _as_conv(
        self, source: np.ndarray, weight: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, int, int]:
        """(source, weight, stride, padding), a Dense layer told as a 1x1 convolution of one
        position.
        """
        if isinstance(self.layer, Dense):
            return source.reshape(len(source), 1, 1, -1), weight.reshape(1, 1, *weight.shape), 1, 0
        return source, weight, self.layer.stride, self.layer.padding

    def _winograd_products(self, path: str, saving: float = 1) -> float:
        """Products of int16 codes, for one channel, that cost what the direct ones do; 0 where
        Winograd has no place.

        A forced path is the direct one.
        """
        rows, columns, _ = self.shape.pre
        fits = (
            self._kernel_name == "auto"
            and path in WINOGRAD_PATHS
            and isinstance(self.layer, Conv)
            and winograd.applies(self.shape.weight, self.layer.stride)
        )
        return self.layer.kernel**2 * rows * columns / saving if fits else 0

    def _convolve_by_winograd(
        self,
        chosen: Plan,
        saving: float,
        codes: Operand,
        source,
        weight,
        padding,
        out,
        *,
        rotate=False,
        epilogue=RAW,
        bias=None,
        **options,
    ) -> bool:
        """Convolve, in the input gradient with `rotate`d weights, by Winograd's algorithm if
        that pays; whether it did.
        """
        products = self._winograd_products(chosen.path, saving)
        if not winograd.paying(out.shape[1:3], products):
            return False
        if rotate:
            weight = rotated(weight)
            padding = 2 - padding
        algorithm = winograd.choose(out.shape[1:3], products, codes, weight, epilogue, bias)
        if algorithm is None:
            return False
        winograd.conv_winograd(
            source,
            weight,
            padding,
            out,
            algorithm=algorithm,
            path=_TILE_PATH[chosen.path],
            epilogue=epilogue,
            bias=bias,
            **options,
        )
        return True

    def _forward(self, source, weight, out, **options) -> None:
        source, weight, stride, padding = self._as_conv(source, weight)
        if self._convolve_by_winograd(
            self.forward_plan,
            self._forward_saving,
            self._activations,
            source,
            weight,
            padding,
            out,
            **options,
        ):
            return
        if self.forward_plan.path in AMX_PATHS:
            byte_products.convolve(
                source,
                weight,
                stride,
                padding,
                out,
                left=self._activations,
                right=self._weights,
                **options,
            )
            return
        if self.forward_plan.path == BYTES:
            source = source.astype(np.uint8)
            weight = weight.astype(np.int8)

        def convolve(source, weight, out, **options):
            kernel.conv_forward(
                source, pack_forward_weights(weight), stride, out, padding=padding, **options
            )

        self._multiply(
            convolve,
            self.forward_plan,
            (source, self._activations),
            (weight, self._weights),
            out,
            options,
        )

    @staticmethod
    def _multiply(run, chosen: Plan, left, right, out, options) -> None:
        """run(left codes, right codes, out, ...) by the chosen path, on a split one for each pair
        of parts.

        left, right: codes with their Operand.
        """
        options |= {"spill_terms": chosen.spill_terms, "path": _TILE_PATH[chosen.path]}
        if not chosen.split:
            run(left[0], right[0], out, **options)
            return
        out[:] = 0
        part = memory.empty(out.shape, np.int64)
        for (a, a_shift), (b, b_shift) in itertools.product(
            *(operand.split(codes) for codes, operand in (left, right))
        ):
            run(a, b, part, **options)
            part <<= a_shift + b_shift
            out += part

    def forward(
        self,
        source: np.ndarray,
        weight: np.ndarray,
        bias: np.ndarray | None,
        requantizer: Requantizer,
        stream: Stream | None = None,
        moments: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        """(codes (N, OH, OW, O), ReLU mask uint8 or None, counts) of Z brought to
        requantizer.format.

        source: (N, H, W, C) codes of A_l.  bias: None where the layer has batch norm.  Where the
        ReLU follows at once, Z below 0 becomes 0 before it is rounded, and the mask is 1 where 0 <
        Z < 2. moments: (2, O) int64, becomes the sums of each output channel's codes and of their
        squares, which it must hold."""
        if not fused(requantizer) or self.forward_plan.split:
            return self.forward_apart(source, weight, bias, requantizer, stream, moments)
        out = memory.empty((len(source), *self.shape.pre), requantizer.format.storage)
        mask = memory.empty(out.shape, np.uint8) if self.relu else None
        counts = np.zeros(3, np.int64)
        whole = epilogue(requantizer)._replace(
            acc_shift=self._sum_shift,
            relu_bound=relu_bound(requantizer.step_exp),
            floor=0 if self.relu else NO_FLOOR,
        )
        self._forward(
            source,
            weight,
            out,
            epilogue=whole,
            bias=self._aligned_bias(bias),
            mask=kernel.NO_MASK if mask is None else mask,
            counts=counts,
            moments=moments,
        )
        return out, mask, counts

    def forward_apart(self, source, weight, bias, requantizer, stream, moments):
        """`forward` by way of the exact sums."""
        codes, *others = quantize_sums(
            self.forward_exact(source, weight, bias), requantizer, stream, self.relu
        )
        if moments is not None:
            moments[:] = channel_moments(codes, codes)
        return codes, *others

    def forward_exact(
        self, source: np.ndarray, weight: np.ndarray, bias: np.ndarray | None
    ) -> np.ndarray:
        """Z in sum_format, int64 (N, OH, OW, O)."""
        out = memory.empty((len(source), *self.shape.pre), np.int64)
        self._forward(source, weight, out)
        out <<= self._sum_shift
        return out if bias is None else out + self._aligned_bias(bias)

    def _aligned_bias(self, bias: np.ndarray | None) -> np.ndarray | None:
        return None if bias is None else bias.astype(np.int64) << self._bias_shift

    def _input_grad(self, grad, weight, out, **options) -> None:
        source, weight, stride, padding = self._as_conv(out, weight)
        if self._convolve_by_winograd(
            self.input_grad_plan,
            self._input_grad_saving,
            self._grads,
            grad,
            weight,
            padding,
            source,
            rotate=True,
            **options,
        ):
            return

        if self.input_grad_plan.path in AMX_PATHS:
            byte_products.convolve(
                byte_products.dilated(grad, stride),
                rotated(weight),
                1,
                len(weight) - 1 - padding,
                source,
                left=self._grads,
                right=self._weights,
                **options,
            )
            return

        def correlate(grad, weight, out, **options):
            kernel.conv_input_grad(
                grad, pack_input_grad_weights(weight), stride, padding, out, **options
            )

        self._multiply(
            correlate,
            self.input_grad_plan,
            (grad, self._grads),
            (weight, self._weights),
            source,
            options,
        )

    @staticmethod
    def _epilogue_is_exact(chosen: Plan) -> bool:
        """Whether kernels have the whole sums, and int64 holds what rounding adds to them."""
        return not chosen.split and chosen.accumulator_bits <= MAX_SUM_BITS

    def input_grad(
        self,
        grad: np.ndarray,
        weight: np.ndarray,
        shape: tuple[int, ...],
        requantizer: Requantizer,
        stream: Stream | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codes, counts) of the gradient at the layer's input of `shape` (N, H, W, C)."""
        out = memory.empty(shape, requantizer.format.storage)
        if fused(requantizer) and self._epilogue_is_exact(self.input_grad_plan):
            counts = np.zeros(3, np.int64)
            self._input_grad(grad, weight, out, epilogue=epilogue(requantizer), counts=counts)
            return out, counts
        return out, requantizer.apply(self.input_grad_exact(grad, weight, shape), out, stream)

    def input_grad_exact(
        self, grad: np.ndarray, weight: np.ndarray, shape: tuple[int, ...]
    ) -> np.ndarray:
        """The exact sums, int64, with step 2**input_grad_step_exp."""
        out = memory.empty(shape, np.int64)
        self._input_grad(grad, weight, out)
        return out

    @property
    def _winograd_weight_grad(self) -> bool:
        return winograd_grad.pays(
            self.shape.pre[:2], self._winograd_products(self.weight_grad_plan(1).path)
        ) and winograd_grad.holds(self._activations, self._grads)

    def _weight_grad(self, source, grad, out, **options) -> None:
        source, out, stride, padding = self._as_conv(source, out)
        chosen = self.weight_grad_plan(len(source))
        if self._winograd_weight_grad:
            out[:] = winograd_grad.winograd_weight_grad(
                source, grad, padding, spill_terms=chosen.spill_terms, path=_TILE_PATH[chosen.path]
            )
            return

        def correlate(source, grad, out, **options):
            kernel.conv_weight_grad(source, grad, stride, padding, out, **options)

        self._multiply(
            correlate, chosen, (source, self._activations), (grad, self._grads), out, options
        )

    def weight_grad(
        self,
        source: np.ndarray,
        grad: np.ndarray,
        requantizer: Requantizer,
        stream: Stream | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """(codes, counts) of the weight gradient, summed over batch and positions."""
        out = memory.empty(self.shape.weight, requantizer.format.storage)
        if (
            fused(requantizer)
            and not self._winograd_weight_grad
            and self._epilogue_is_exact(self.weight_grad_plan(len(source)))
        ):
            counts = np.zeros(3, np.int64)
            self._weight_grad(source, grad, out, epilogue=epilogue(requantizer), counts=counts)
            return out, counts
        return out, requantizer.apply(self.weight_grad_exact(source, grad), out, stream)

    def weight_grad_exact(self, source: np.ndarray, grad: np.ndarray) -> np.ndarray:
        """The exact sums, int64, with the step of A times that of the gradient."""
        out = memory.empty(self.shape.weight, np.int64)
        self._weight_grad(source, grad, out)
        return out
