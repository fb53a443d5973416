"""How exact sums become codes.

In a kernel's epilogue where the Requantizer allows it, else afterwards, to the same bits.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fxsim.kernels.epilogue import Epilogue
from fxsim.kernels.products.paths import INT64_MAX
from fxsim.nn.spec import RELU_RANGE_EXP
from fxsim.requantizer import Requantizer
from fxsim.rng import Stream


def fused(requantizer: Requantizer) -> bool:
    """Whether a kernel's epilogue can do it: no random words, no left shift, plain saturation."""
    return requantizer.fusable and requantizer.overflow in ("saturate", "saturate_symmetric")


@lru_cache(maxsize=4096)
def epilogue(requantizer: Requantizer) -> Epilogue:
    low, high, *_ = requantizer.bounds()
    base, neg, odd, jam = requantizer.terms(requantizer.shift)
    return Epilogue(
        shift=requantizer.shift, base=base, neg=neg, odd=odd, jam=jam, low=low, high=high
    )


def relu_bound(step_exp: int) -> int:
    """The ReLU's upper end in steps of 2**step_exp.

    1 where the step is coarser, since no multiple of it is inside; the greatest int64 where the
    step is so fine that every sum is.
    """
    return min(1 << max(RELU_RANGE_EXP - step_exp, 0), INT64_MAX)


def quantize_sums(
    sums: np.ndarray, requantizer: Requantizer, stream: Stream | None, relu: bool
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """(codes, ReLU mask uint8 or None, counts) of int64 sums in steps of 2**requantizer.step_exp;
    changes sums.

    With a ReLU, sums below 0 become 0 before they are rounded, and the mask is 1 where 0 < sum < 2.
    """
    mask = None
    if relu:
        mask = ((sums > 0) & (sums < relu_bound(requantizer.step_exp))).astype(np.uint8)
        np.maximum(sums, 0, out=sums)
    codes = np.empty(sums.shape, requantizer.format.storage)
    return codes, mask, requantizer.apply(sums, codes, stream)
