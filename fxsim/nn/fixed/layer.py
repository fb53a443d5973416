"""From what leaves the ReLU to the output of a layer, and back: pooling, then dropout, on codes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxsim.factors import MANTISSA_BITS
from fxsim.formats import Format
from fxsim.kernels import memory
from fxsim.kernels.elementwise import dropout as dropout_kernel
from fxsim.kernels.elementwise import pool as pool_kernel
from fxsim.kernels.elementwise.relu_mask import gate
from fxsim.nn import dropout
from fxsim.nn.fixed.batch_norm import Normalized
from fxsim.nn.fixed.step import Run
from fxsim.nn.precision import LayerPrecision
from fxsim.nn.spec import RELU_RANGE_EXP, Layer, Pool, Shape


@dataclass
class Record:
    """What the backward pass needs of a layer's forward pass.

    source, weight: A_l and W_l as the products read them.  shape: (H, W, O) of what the ReLU reads.
    mask: ReLU mask. winner: of max pooling.  kept: what dropout kept.  normalized: of batch norm.
    """

    source: np.ndarray
    weight: np.ndarray
    shape: Shape
    mask: np.ndarray | None = None
    winner: np.ndarray | None = None
    kept: np.ndarray | None = None
    normalized: Normalized | None = None


def gradient_format(layer: Layer, formats: LayerPrecision) -> Format:
    """G^A at what the ReLU reads.

    G^A's format, scaled by dropout, with a finer step where average pooling divides.
    """
    format = _dropped_format(layer, formats.activation_grads)
    if layer.pool and layer.pool.kind == "average":
        finer = pool_kernel.average_pool_gradient_bits(layer.pool.size)
        grown = 2**finer != layer.pool.size**2  # 2**finer / size**2 lies in [1, 2)
        return Format(format.bits + grown, format.range_exp - finer + grown)
    return format


def _dropped_format(layer: Layer, format: Format) -> Format:
    """G^A before dropout.

    A range that holds it scaled, a step coarser by the scale's power of two.
    """
    down, up = dropout.scale_bits(layer)
    return Format(format.bits + up - down, format.range_exp + up)


def _before_dropout(
    grads: np.ndarray, layer: Layer, kept: np.ndarray, format: Format
) -> np.ndarray:
    """Gradient codes in _dropped_format(layer, format), which holds them all."""
    dropped = _dropped_format(layer, format)
    out = memory.empty(grads.shape, dropped.storage)
    dropout_kernel.scale_kept(
        grads,
        kept,
        dropout.scale(layer).mantissa,
        MANTISSA_BITS - 1,
        (dropped.min_code, dropped.max_code),
        out,
    )
    return out


def relu_format(layer: Layer, format: Format) -> Format:
    """Of what leaves the ReLU on its way to an output of that format, which may have room for
    dropout's scale.
    """
    room = format.range_exp - RELU_RANGE_EXP
    if not (layer.relu and layer.dropout and room > 0):
        return format
    return Format(format.bits - room, RELU_RANGE_EXP, format.signed)


def pooled(codes: np.ndarray, mask: np.ndarray | None, pool: Pool, shape: Shape):
    """(pooled codes, mask, winner) of pre-pooling codes.

    Max pooling folds the mask into the winner.
    """
    out = memory.empty((len(codes), *shape), codes.dtype)
    if pool.kind == "average":
        pool_kernel.average_pool(codes, pool.size, out)
        return out, mask, None
    winner = memory.empty(out.shape, np.uint8)
    pool_kernel.max_pool(
        codes, pool.size, out, winner, np.ones(codes.shape, np.uint8) if mask is None else mask
    )
    return out, None, winner


def drop(layer: Layer, codes: np.ndarray, format: Format, run: Run) -> np.ndarray:
    """Dropout of codes at the format's step, in place; returns which elements stay."""
    kept = dropout.kept(layer, codes.shape, run.step, run.seed)
    scale = dropout.scale(layer)
    clipped = dropout_kernel.scale_kept(
        codes, kept, scale.mantissa, -scale.exponent, (format.min_code, format.max_code), codes
    )
    run.count(layer.name, "dropout", codes.size, (*clipped, 0))
    return kept


def before_relu(
    grads: np.ndarray, layer: Layer, record: Record, formats: LayerPrecision, in_place: bool
) -> np.ndarray:
    """Gradient codes at what the ReLU reads (N, H, W, O), in gradient_format(layer, formats), from
    those of the output.

    in_place: whether the memory of `grads` may be used for them.
    """
    if record.kept is not None:
        grads = _before_dropout(grads, layer, record.kept, formats.activation_grads)
    dtype = gradient_format(layer, formats).storage
    if layer.pool is None and (record.mask is None or in_place and grads.dtype == dtype):
        inner = grads
    else:
        inner = memory.empty((len(grads), *record.shape), dtype)
    if layer.pool and layer.pool.kind == "max":
        pool_kernel.max_pool_backward(grads, record.winner, layer.pool.size, inner)
        return inner
    if layer.pool:
        finer = pool_kernel.average_pool_gradient_bits(layer.pool.size)
        pool_kernel.average_pool_backward(grads, layer.pool.size, finer, inner)
        grads = inner
    if record.mask is None:
        return grads
    gate(grads, record.mask, inner)
    return inner
