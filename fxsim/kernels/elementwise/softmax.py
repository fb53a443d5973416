"""Softmax and sigmoid cross-entropy and their gradients in integers, one stated operation after the
other.

For logit codes z with step 2**step_exp, per sample:

    d_k  = max z - z_k                              exact, at least 0
    v_k  = d_k * log2(e)                            LOG2_E has 29 fraction bits; floor(. + 1/2) to 24 of them
    e_k  = 2**-v_k, b fraction bits                 table over the first n fraction bits, linear between
                                                    entries by the others or not, then a rounded shift by
                                                    the integer part; 0 where that passes b + 1
    s    = sum e_k                                  exact
    p_k  = e_k / s, 16 bits                         one division, nearest, ties up; saturated to 1 - 2**-16
    g_k  = (p_k - [k is the label]) / N             one quantization of the exact quotient, made elsewhere
    loss = ln 2 * (log2 s - b + v_label)            24 fraction bits; log2 bit by bit (repeated squaring)

The sigmoid of one code z is p_0 of the softmax of the pair (z, 0).
"""

from __future__ import annotations

from functools import lru_cache
from math import isqrt
from typing import NamedTuple

import numpy as np

from fxsim.kernels.jit import jit

FRACTION_BITS = 24
LOG_BITS = 30
"""Bits of the mantissa from which log2 is taken."""
PROBABILITY_BITS = 16
LOSS_STEP_EXP = -FRACTION_BITS
LOG2_E_BITS = 29
LOG2_E = 774541002  # round(log2(e) * 2**29)
LN_2_BITS = 24
LN_2 = 11629080  # round(ln(2) * 2**24)


class Powers(NamedTuple):
    """How 2**-v is made.

    table (int64): 2**(-j / 2**n) for j = 0 .. 2**n, with entry_bits fraction bits.  rest_bits:
    fraction bits of v behind the first n.  linear: whether they interpolate.
    """

    table: np.ndarray
    rest_bits: int
    entry_bits: int
    linear: bool


@lru_cache(maxsize=64)
def powers(index_bits: int, entry_bits: int, linear: bool) -> Powers:
    """The Powers of a table of 2**index_bits + 1 entries, by exact integer square roots."""
    precision = 200
    root = 1 << precision - 1  # 1/2; so many square roots of it give the ratio of two entries
    for _ in range(index_bits):
        root = isqrt(root << precision)
    entries = []
    power = 1 << precision
    for _ in range(2**index_bits + 1):
        entries.append((power + (1 << precision - entry_bits - 1)) >> precision - entry_bits)
        power = power * root >> precision
    return Powers(np.array(entries, np.int64), FRACTION_BITS - index_bits, entry_bits, linear)


@jit
def exp2_negative(value, powers):
    """2**-value with powers.entry_bits fraction bits; value >= 0 has FRACTION_BITS."""
    whole = value >> FRACTION_BITS
    if whole > powers.entry_bits + 1:
        return np.int64(0)
    rest_bits = powers.rest_bits
    index = (value & (2**FRACTION_BITS - 1)) >> rest_bits
    mantissa = powers.table[index]
    if powers.linear:
        rest = value & ((np.int64(1) << rest_bits) - 1)
        drop = (mantissa - powers.table[index + 1]) * rest
        mantissa -= (drop + (np.int64(1) << (rest_bits - 1))) >> rest_bits
    return (mantissa + ((np.int64(1) << whole) >> 1)) >> whole


@jit
def log2_fixed(value):
    """log2 of an integer value >= 1 with FRACTION_BITS fraction bits, each bit by squaring
    (truncated).
    """
    whole = 0
    while value >> (whole + 1):
        whole += 1
    x = value << (LOG_BITS - whole) if whole <= LOG_BITS else value >> (whole - LOG_BITS)
    result = np.int64(whole)
    for _ in range(FRACTION_BITS):
        x = x * x >> LOG_BITS
        bit = x >> (LOG_BITS + 1)
        x >>= bit
        result = 2 * result + bit
    return result


@jit
def softmax_row(logits, scale_shift, powers, exponents, probabilities):
    """Fill exponents (v_k) and probabilities (p_k) of one sample; return the sum s."""
    peak = np.int64(logits[0])
    for k in range(1, logits.size):
        peak = max(peak, np.int64(logits[k]))
    total = np.int64(0)
    for k in range(logits.size):
        product = (peak - logits[k]) * LOG2_E
        exponents[k] = (product + ((np.int64(1) << scale_shift) >> 1)) >> scale_shift
        probabilities[k] = exp2_negative(exponents[k], powers)
        total += probabilities[k]
    for k in range(logits.size):
        share = ((probabilities[k] << PROBABILITY_BITS) + (total >> 1)) // total
        probabilities[k] = min(share, 2**PROBABILITY_BITS - 1)
    return total


def softmax_scale_shift(step_exp: int) -> int:
    """Bits to drop from (code difference) * LOG2_E to have FRACTION_BITS; must be 0 to 62."""
    return LOG2_E_BITS - FRACTION_BITS - step_exp


@jit
def softmax_cross_entropy(logits, labels, scale_shift, powers, losses):
    """Per-sample losses (int64, step 2**LOSS_STEP_EXP) of logits (N, M); returns how many rows err.

    A row errs where its first greatest logit is not at its label.
    """
    exponents = np.empty(logits.shape[1], np.int64)
    probabilities = np.empty(logits.shape[1], np.int64)
    wrong = 0
    for n in range(logits.shape[0]):
        total = softmax_row(logits[n], scale_shift, powers, exponents, probabilities)
        bits = log2_fixed(total) - (powers.entry_bits << FRACTION_BITS) + exponents[labels[n]]
        losses[n] = (bits * LN_2 + (1 << (LN_2_BITS - 1))) >> LN_2_BITS
        first = 0
        for k in range(logits.shape[1]):
            if logits[n, k] > logits[n, first]:
                first = k
        wrong += first != labels[n]
    return wrong


@jit
def softmax_error(logits, labels, scale_shift, powers, out):
    """out (N, M) int64 = p - onehot, with PROBABILITY_BITS fraction bits."""
    exponents = np.empty(logits.shape[1], np.int64)
    for n in range(logits.shape[0]):
        softmax_row(logits[n], scale_shift, powers, exponents, out[n])
        out[n, labels[n]] -= 1 << PROBABILITY_BITS


@jit
def sigmoid_cross_entropy(outputs, targets, scale_shift, powers, losses):
    """losses (N,) int64, step 2**LOSS_STEP_EXP: of each row the sum over its elements.

    outputs, targets: (N, M) int64 codes of one step, 2**-24 to 1; targets stand for 0 to 1.
    """
    fraction = scale_shift - (LOG2_E_BITS - FRACTION_BITS)
    one = np.int64(1) << fraction
    pair = np.zeros(2, np.int64)
    exponents = np.empty(2, np.int64)
    probabilities = np.empty(2, np.int64)
    for n in range(outputs.shape[0]):
        losses[n] = 0
        for k in range(outputs.shape[1]):
            pair[0] = outputs[n, k]
            total = softmax_row(pair, scale_shift, powers, exponents, probabilities)
            target = targets[n, k]
            weighted = exponents[0] * target + exponents[1] * (one - target)  # one of them is 0
            bits = log2_fixed(total) - (powers.entry_bits << FRACTION_BITS)
            bits += (weighted + (one >> 1)) >> fraction
            losses[n] += (bits * LN_2 + (1 << (LN_2_BITS - 1))) >> LN_2_BITS


@jit
def sigmoids(outputs, scale_shift, powers, out):
    """out (N, M) int64: the sigmoid of each code, with PROBABILITY_BITS fraction bits."""
    pair = np.zeros(2, np.int64)
    exponents = np.empty(2, np.int64)
    probabilities = np.empty(2, np.int64)
    for n in range(outputs.shape[0]):
        for k in range(outputs.shape[1]):
            pair[0] = outputs[n, k]
            softmax_row(pair, scale_shift, powers, exponents, probabilities)
            out[n, k] = probabilities[0]
