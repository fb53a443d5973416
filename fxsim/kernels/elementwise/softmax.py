"""Softmax and sigmoid cross-entropy and their gradients in integers, one stated operation after the
other.

For logit codes z with step 2**step_exp, per sample:

    d_k  = max z - z_k                              exact, at least 0
    v_k  = d_k * log2(e)                            LOG2_E has 29 fraction bits; floor(. + 1/2) to 24 of them
    e_k  = 2**-v_k, 30 fraction bits                table over the first 8 fraction bits, linear between
                                                    entries by the next 16, then a rounded shift by the
                                                    integer part; 0 where that passes 31
    s    = sum e_k                                  exact
    p_k  = e_k / s, 16 bits                         one division, nearest, ties up; saturated to 1 - 2**-16
    g_k  = (p_k - [k is the label]) / N             one quantization of the exact quotient, made elsewhere
    loss = ln 2 * (log2 s - 30 + v_label)           24 fraction bits; log2 bit by bit (repeated squaring)

The sigmoid of one code z is p_0 of the softmax of the pair (z, 0).
"""

from __future__ import annotations

from math import isqrt

import numpy as np

from fxsim.kernels.jit import jit

TABLE_BITS = 8
REST_BITS = 16
FRACTION_BITS = TABLE_BITS + REST_BITS
EXP_BITS = 30
PROBABILITY_BITS = 16
LOSS_STEP_EXP = -FRACTION_BITS
LOG2_E_BITS = 29
LOG2_E = 774541002  # round(log2(e) * 2**29)
LN_2_BITS = 24
LN_2 = 11629080  # round(ln(2) * 2**24)


def _exp2_table() -> np.ndarray:
    """round(2**30 * 2**(-j / 256)) for j = 0 .. 256 (int64), by exact integer square roots."""
    precision = 200
    root = 1 << precision - 1  # 1/2; eight square roots of it give 2**(-1/256)
    for _ in range(TABLE_BITS):
        root = isqrt(root << precision)
    entries = []
    power = 1 << precision
    for _ in range(2**TABLE_BITS + 1):
        entries.append((power + (1 << precision - EXP_BITS - 1)) >> precision - EXP_BITS)
        power = power * root >> precision
    return np.array(entries, np.int64)


EXP2_TABLE = _exp2_table()


@jit
def exp2_negative(value, table):
    """2**-value with EXP_BITS fraction bits; value >= 0 has FRACTION_BITS."""
    whole = value >> FRACTION_BITS
    if whole > EXP_BITS + 1:
        return np.int64(0)
    index = (value >> REST_BITS) & (2**TABLE_BITS - 1)
    rest = value & (2**REST_BITS - 1)
    entry = table[index]
    mantissa = entry - (((entry - table[index + 1]) * rest + (1 << (REST_BITS - 1))) >> REST_BITS)
    return (mantissa + ((np.int64(1) << whole) >> 1)) >> whole


@jit
def log2_fixed(value):
    """log2 of an integer value >= 1 with FRACTION_BITS fraction bits, each bit by squaring
    (truncated).
    """
    whole = 0
    while value >> (whole + 1):
        whole += 1
    x = value << (EXP_BITS - whole) if whole <= EXP_BITS else value >> (whole - EXP_BITS)
    result = np.int64(whole)
    for _ in range(FRACTION_BITS):
        x = x * x >> EXP_BITS
        bit = x >> (EXP_BITS + 1)
        x >>= bit
        result = 2 * result + bit
    return result


@jit
def softmax_row(logits, scale_shift, table, exponents, probabilities):
    """Fill exponents (v_k) and probabilities (p_k) of one sample; return the sum s."""
    peak = np.int64(logits[0])
    for k in range(1, logits.size):
        peak = max(peak, np.int64(logits[k]))
    total = np.int64(0)
    for k in range(logits.size):
        product = (peak - logits[k]) * LOG2_E
        exponents[k] = (product + ((np.int64(1) << scale_shift) >> 1)) >> scale_shift
        probabilities[k] = exp2_negative(exponents[k], table)
        total += probabilities[k]
    for k in range(logits.size):
        share = ((probabilities[k] << PROBABILITY_BITS) + (total >> 1)) // total
        probabilities[k] = min(share, 2**PROBABILITY_BITS - 1)
    return total


def softmax_scale_shift(step_exp: int) -> int:
    """Bits to drop from (code difference) * LOG2_E to have FRACTION_BITS; must be 0 to 62."""
    return LOG2_E_BITS - FRACTION_BITS - step_exp


@jit
def softmax_cross_entropy(logits, labels, scale_shift, table, losses):
    """Per-sample losses (int64, step 2**LOSS_STEP_EXP) of logits (N, M); returns how many rows err.

    A row errs where its first greatest logit is not at its label.
    """
    exponents = np.empty(logits.shape[1], np.int64)
    probabilities = np.empty(logits.shape[1], np.int64)
    wrong = 0
    for n in range(logits.shape[0]):
        total = softmax_row(logits[n], scale_shift, table, exponents, probabilities)
        bits = log2_fixed(total) - (EXP_BITS << FRACTION_BITS) + exponents[labels[n]]
        losses[n] = (bits * LN_2 + (1 << (LN_2_BITS - 1))) >> LN_2_BITS
        first = 0
        for k in range(logits.shape[1]):
            if logits[n, k] > logits[n, first]:
                first = k
        wrong += first != labels[n]
    return wrong


@jit
def softmax_error(logits, labels, scale_shift, table, out):
    """out (N, M) int64 = p - onehot, with PROBABILITY_BITS fraction bits."""
    exponents = np.empty(logits.shape[1], np.int64)
    for n in range(logits.shape[0]):
        softmax_row(logits[n], scale_shift, table, exponents, out[n])
        out[n, labels[n]] -= 1 << PROBABILITY_BITS


@jit
def sigmoid_cross_entropy(outputs, targets, scale_shift, table, losses):
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
            total = softmax_row(pair, scale_shift, table, exponents, probabilities)
            target = targets[n, k]
            weighted = exponents[0] * target + exponents[1] * (one - target)  # one of them is 0
            bits = log2_fixed(total) - (EXP_BITS << FRACTION_BITS)
            bits += (weighted + (one >> 1)) >> fraction
            losses[n] += (bits * LN_2 + (1 << (LN_2_BITS - 1))) >> LN_2_BITS


@jit
def sigmoids(outputs, scale_shift, table, out):
    """out (N, M) int64: the sigmoid of each code, with PROBABILITY_BITS fraction bits."""
    pair = np.zeros(2, np.int64)
    exponents = np.empty(2, np.int64)
    probabilities = np.empty(2, np.int64)
    for n in range(outputs.shape[0]):
        for k in range(outputs.shape[1]):
            pair[0] = outputs[n, k]
            softmax_row(pair, scale_shift, table, exponents, probabilities)
            out[n, k] = probabilities[0]
