"""The largest eigenvalue of a large matrix by Lanczos' method, the same bits in every process.

Source: C. Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem" (1950), with
full reorthogonalization and restarts from the best vector so far.  Nothing is random: where
Lanczos' vectors are exhausted, so is the space that can hold the wanted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

STEPS = 20
"""Vectors that are kept, and products from one restart to the next."""
_MOST_RESTARTS = 500
_EXHAUSTED = 1e-13
"""What is left of a vector by orthogonalization is rounding, below this share of its norm."""


def largest_eigenvalue(
    multiply: Callable[[np.ndarray], np.ndarray], shape: tuple[int, int], tolerance: float
) -> float:
    """The largest eigenvalue of a symmetric matrix of O blocks `(K, K)`, with no eigenvalue and
    no element below 0.

    Every block has Lanczos vectors of its own, so that equal blocks do not delay each other.  The
    start is all ones.  It is not orthogonal to the wanted vector v, whose elements are not negative
    (Perron and Frobenius) and sum to at least 1 = |v|: v's share of it is at least 1 / sqrt(K).
    With that share in a Ritz vector the eigenvalue of v is above the Ritz value by at most sqrt(K)
    times the residual.

    Args:
        multiply: maps float64 `(K, O)` to float64 `(K, O)`: each column times its own block.
        shape: (K, O).
        tolerance: relative error at which the iteration ends, at least 1e-12.

    Example:
        >>> blocks = np.array([[[2.0, 1.0], [1.0, 2.0]], [[1.0, 0.0], [0.0, 3.0]]])
        >>> float(largest_eigenvalue(lambda x: np.einsum("oij,jo->io", blocks, x), (2, 2), 1e-12))
        3.0
    """
    vectors = np.ones(shape)
    for _ in range(_MOST_RESTARTS):
        values, vectors, residuals = _cycle(multiply, vectors)
        largest = values.max()
        if (values + math.sqrt(shape[0]) * residuals).max() <= (1 + tolerance) * largest:
            return float(largest)
    raise ArithmeticError(f"no eigenvalue after {_MOST_RESTARTS * STEPS} products")


def _cycle(
    multiply: Callable[[np.ndarray], np.ndarray], start: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """STEPS of Lanczos' method on each column.

    Returns the largest Ritz value `(O,)`, its vector `(K, O)`, and the norm of its residual `(O,)`.
    """
    basis = np.zeros((STEPS, *start.shape))
    projected = np.zeros((start.shape[1], STEPS, STEPS))
    rest = start
    norm = _norms(rest)
    for step in range(STEPS):
        np.divide(rest, norm, out=basis[step], where=norm > 0)  # else 0: the space is exhausted
        rest = multiply(basis[step])
        kept = _EXHAUSTED * _norms(rest)
        known = basis[: step + 1]
        projected[:, step, step] = np.einsum("ko,ko->o", basis[step], rest)
        for _ in range(2):
            rest = rest - np.einsum("sko,so->ko", known, np.einsum("sko,ko->so", known, rest))
        norm = _norms(rest)
        norm[norm <= kept] = 0.0
        if step + 1 < STEPS:
            projected[:, step, step + 1] = projected[:, step + 1, step] = norm
    values, vectors = np.linalg.eigh(projected)  # too small for BLAS to divide among threads
    best = vectors[:, :, -1]
    return values[:, -1], np.einsum("sko,os->ko", basis, best), norm * np.abs(best[:, -1])


def _norms(columns: np.ndarray) -> np.ndarray:
    """The norm of each column of `(K, O)`; einsum, since BLAS' sums depend on its threads."""
    return np.sqrt(np.einsum("ko,ko->o", columns, columns))
