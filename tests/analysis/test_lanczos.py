"""The largest eigenvalue of blocks, against all eigenvalues of the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest

from fxsim.analysis import lanczos
from fxsim.analysis.lanczos import STEPS, largest_eigenvalue


def found(blocks: np.ndarray, tolerance: float = 1e-12) -> float:
    """Of blocks `(O, K, K)`."""
    return largest_eigenvalue(
        lambda vectors: np.einsum("oij,jo->io", blocks, vectors), blocks.shape[1::-1], tolerance
    )


def squared(factor: np.ndarray) -> np.ndarray:
    """X^T X of each X `(rows, K)`: symmetric, no eigenvalue and no element below 0."""
    return factor.transpose(0, 2, 1) @ factor


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


CASES = {
    "one element": np.array([[[2.5]]]),
    "fewer than the steps": squared(draw(3, 6, 5)),
    "more than the steps": squared(draw(4, 90, 60)),
    "equal blocks": np.repeat(squared(draw(1, 30, 40)), 6, axis=0),
    "rank 1": squared(draw(2, 1, 50)),
    "rank 3, with dead columns": squared(draw(3, 3, 30) * (draw(1, 1, 30, seed=1) > 0.5)),
    "one block of zeros": squared(draw(2, 9, 30) * np.array([0.0, 1.0])[:, None, None]),
    "a multiple of the identity": np.stack([3.0 * np.eye(35)] * 2),
    "degenerate within a block": np.kron(np.eye(5), squared(draw(1, 8, 6))[0])[None],
    "sparse": squared(draw(2, 80, 70) * (draw(2, 80, 70, seed=2) > 0.97)),
    "on one element, far from the start": np.diag(np.r_[np.ones(299), 1.001])[None],
    "close to each other": np.diag(np.linspace(0.9, 1.0, 400))[None],
}


@pytest.mark.parametrize("case", CASES)
def test_it_is_the_largest_of_all_eigenvalues(case):
    blocks = CASES[case]
    wanted = np.linalg.eigvalsh(blocks).max()
    assert found(blocks) == pytest.approx(wanted, rel=1e-11)
    assert found(blocks, 1e-4) == pytest.approx(wanted, rel=1e-4)


def test_equal_blocks_take_no_more_products_than_one():
    block = squared(draw(1, 90, 60))
    counts = []
    for blocks in (block, np.repeat(block, 7, axis=0)):
        count = 0

        def multiply(vectors, blocks=blocks):
            nonlocal count
            count += 1
            return np.einsum("oij,jo->io", blocks, vectors)

        largest_eigenvalue(multiply, blocks.shape[1::-1], 1e-10)
        counts.append(count)
    assert counts[0] == counts[1]
    assert counts[0] % STEPS == 0


def test_what_does_not_converge_is_an_error(monkeypatch):
    monkeypatch.setattr(lanczos, "_MOST_RESTARTS", 1)
    with pytest.raises(ArithmeticError, match="no eigenvalue after 20 products"):
        found(CASES["close to each other"])
