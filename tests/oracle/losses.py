"""Losses that compare each element with a target: mse, half_mse, sigmoid_cross_entropy.

Outputs and targets are codes of one step 2**step_exp; a row holds those of one image.
"""

from fractions import Fraction

from oracle import softmax
from oracle.rounding import quantize, round_exact


def unit(kind, step_exp, elements):
    """What one step of `loss` stands for."""
    square = Fraction(2) ** (2 * step_exp)
    return {"mse": square / elements, "half_mse": square / 2}.get(kind, Fraction(1, 2**24))


def sigmoid(z, step_exp, recipe=softmax.DEFAULT):
    """1 / (1 + e^-z), 16 fraction bits: the share of z in the softmax of (z, 0)."""
    return softmax.probabilities([z, 0], step_exp, recipe)[0][0]


def binary_cross_entropy(z, target, step_exp, recipe=softmax.DEFAULT):
    """-t log p - (1 - t) log (1 - p), 24 fraction bits."""
    _, total = softmax.probabilities([z, 0], step_exp, recipe)
    v_one, v_zero = softmax.exponents([z, 0], step_exp)
    t = target * Fraction(2) ** step_exp
    weighted = round_exact(v_one * t + v_zero * (1 - t), "nearest_up")
    bits = softmax.log2_fixed(total) - recipe[1] * 2**24 + weighted
    return round_exact(Fraction(bits * softmax.constants()[1], 2**24), "nearest_up")


def loss(kind, outputs, targets, step_exp, recipe=softmax.DEFAULT):
    """The loss of one image in steps of `unit`."""
    if kind == "sigmoid_cross_entropy":
        return sum(binary_cross_entropy(*each, step_exp, recipe) for each in zip(outputs, targets))
    return sum((z - t) ** 2 for z, t in zip(outputs, targets))


def exact_gradient(kind, outputs, targets, step_exp, samples, recipe=softmax.DEFAULT):
    """The gradient of the mean loss at one image's outputs, as Fractions."""
    size = Fraction(2) ** step_exp
    if kind == "sigmoid_cross_entropy":
        return [
            (Fraction(sigmoid(z, step_exp, recipe), 2**16) - t * size) / samples
            for z, t in zip(outputs, targets)
        ]
    scale = Fraction(2, len(outputs)) if kind == "mse" else 1
    return [scale * (z - t) * size / samples for z, t in zip(outputs, targets)]


def gradient(
    kind, outputs, targets, step_exp, samples, fmt, modes, words=None, recipe=softmax.DEFAULT
):
    """[(code, below, above, flushed)] of `exact_gradient`; modes: rounding and overflow."""
    exact = exact_gradient(kind, outputs, targets, step_exp, samples, recipe)
    return [
        softmax.quantized_quotient(value, fmt, *modes, word)
        for value, word in zip(exact, words or [None] * len(exact))
    ]


def onehot(label, classes, fmt):
    """The target codes of a label: 1, saturated, at its place, and 0 elsewhere."""
    one = quantize(Fraction(1), fmt)[0]
    return [one if place == label else 0 for place in range(classes)]
