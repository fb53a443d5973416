"""The weight update with internal accumulator.

The running weight is one exact number, W at its step D_W and below it the accumulator at D_W *
2**-below (`below` is the accumulator's width):

    u    = round(gamma * G^W)                   at the accumulator's step, gamma = mantissa * 2**exponent
    t    = W * 2**below + acc - u               exact
    W'   = floor(t / 2**below + 1/2)            so that t - W' lies in [-D_W/2, D_W/2); then saturated
    acc' = t - W' * 2**below                    saturated to the accumulator's format

With momentum or weight decay the velocity is in G^W's place (nn/optimizer.py); its exact sum is
made here."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fxsim.kernels.jit import jit
from fxsim.kernels.rounding import Rounding, round_shift
from fxsim.kernels.threads import GRAIN, parallel_for

BLOCK = 8192
WEIGHT_CLIPPED = 0
ACCUMULATOR_CLIPPED = 1
UPDATE_FLUSHED = 2
UPDATE_STOPPED = 3
"""Columns of the counts: saturated weights, saturated accumulators, non-zero gradients whose update
is 0, and non-zero updates that left the weight's code as it was."""


class Scale(NamedTuple):
    """The factor mantissa * 2**left on a gradient, before the rounding drops its bits."""

    mantissa: int
    left: int


class Held(NamedTuple):
    """The codes of a parameter and of its accumulator: `below` bits, and the ends of both ranges."""

    below: int
    weight_low: int
    weight_high: int
    low: int
    high: int


def update(
    weights, accumulators, grads, bases, scale: Scale, rounding: Rounding, held: Held
) -> np.ndarray:
    """One SGD step in place on 1-D arrays; returns the counts (4,).

    u = round(grads * scale): where the rounding drops bits, scale.left is 0.  bases: int64 bases of
    a stochastic mode, or empty.
    """
    counts = np.empty((-(-weights.size // BLOCK), 4), np.int64)
    parallel_for(
        _update_blocks,
        len(counts),
        4,
        weights,
        accumulators,
        grads,
        bases,
        scale,
        rounding,
        held,
        counts,
    )
    return counts.sum(axis=0)


@jit
def _update_blocks(start, stop, weights, accumulators, grads, bases, scale, rounding, held, counts):
    for block in range(start, stop):
        part = slice(block * BLOCK, (block + 1) * BLOCK)
        _update_block(
            weights[part],
            accumulators[part],
            grads[part],
            bases[part],
            scale,
            rounding,
            held,
            counts[block],
        )


@jit
def _update_block(weights, accumulators, grads, bases, scale, rounding, held, counts):
    half = np.int64(1) << held.below >> 1
    weight_clipped = accumulator_clipped = flushed = stopped = 0
    for i in range(weights.size):
        scaled = np.int64(grads[i]) * scale.mantissa << scale.left
        step = round_shift(scaled, bases[i] if bases.size else rounding.base, rounding)
        total = (np.int64(weights[i]) << held.below) + accumulators[i] - step
        rounded = (total + half) >> held.below
        weight = min(max(rounded, held.weight_low), held.weight_high)
        rest = total - (weight << held.below)
        kept = min(max(rest, held.low), held.high)
        weight_clipped += weight != rounded
        accumulator_clipped += kept != rest
        flushed += (grads[i] != 0) & (step == 0)
        stopped += (step != 0) & (weight == weights[i])
        weights[i] = weight
        accumulators[i] = kept
    counts[WEIGHT_CLIPPED] = weight_clipped
    counts[ACCUMULATOR_CLIPPED] = accumulator_clipped
    counts[UPDATE_FLUSHED] = flushed
    counts[UPDATE_STOPPED] = stopped


def velocity_sums(velocities, grads, weights, multipliers: tuple[int, int, int], out) -> None:
    """out (int64) = velocities, grads and weights, each times its multiplier, added; all of one
    size, C-contiguous.

    The caller bounds the sum of the magnitudes below 2**62.
    """
    parallel_for(
        _velocity_sums,
        out.size,
        GRAIN,
        velocities.reshape(-1),
        grads.reshape(-1),
        weights.reshape(-1),
        *multipliers,
        out.reshape(-1),
    )


@jit
def _velocity_sums(start, stop, velocities, grads, weights, of_velocity, of_grad, of_weight, out):
    for i in range(start, stop):
        out[i] = velocities[i] * of_velocity + grads[i] * of_grad + weights[i] * of_weight
