"""What moves the decisions of a network away from float's: margins, and gradients of margins.

Two bounds on the mismatch p_m, the share of images that a fixed-point network decides otherwise
than float, follow from them: criteria.mismatch_bound from their mean, which is Sakr, Kim and
Shanbhag's (ICML 2017), and criteria.tight_mismatch_bound from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from fxsim.analysis import criteria
from fxsim.errors import InputError
from fxsim.nn.spec import Network


@dataclass(frozen=True, eq=False)
class Decisions:
    """How far the decisions of N images are from each other class, and what moves them.

    The M - 1 classes other than the decision stand in the order of their scores, the nearest first.

    Args:
        distances: Z_y - Z_i, `(N, M - 1)`, for scores Z and the float decision y.
        squares: |d(Z_i - Z_y)/dT|^2, `(tensors, N, M - 1)`; the tensors are all weights in the
            order of the layers, then each activation tensor once, by its first reader.
        operations: |d(Z_i - Z_y)/dU|^2 for the weighted operation U of each layer, `(layers, N,
            M - 1)`; None where it was not measured.  The mismatch bounds leave it out, as U is exact
            but for product bits that are dropped.

    All are kept in float32: one network's take 0.3 MB for 512 images of 10 classes.

    Raises:
        InputError: shapes that do not fit each other, or a value that is not finite and at least 0.
    """

    distances: np.ndarray
    squares: np.ndarray
    operations: np.ndarray | None = None

    def __post_init__(self) -> None:
        names = ("distances", "squares", "operations")
        for name in names if self.operations is not None else names[:2]:
            given = np.asarray(getattr(self, name))
            if given.dtype.kind != "f":
                raise InputError(f"{name} of decisions must be reals, got {given.dtype}")
            values = given.astype(np.float32)
            if not (np.isfinite(values) & (values >= 0)).all():
                raise InputError(f"{name} of decisions must be finite and at least 0")
            object.__setattr__(self, name, values)
        distances = self.distances.shape
        if len(distances) != 2 or not all(distances) or self.squares.shape[1:] != distances:
            raise InputError(
                f"distances of decisions must be (N, M - 1) and squares (tensors, N, M - 1), got "
                f"{distances} and {self.squares.shape}"
            )
        if self.operations is not None and self.operations.shape[1:] != distances:
            raise InputError(
                f"operations of decisions must be (layers, N, M - 1), got {self.operations.shape} "
                f"with distances {distances}"
            )

    def check_network(self, network: Network) -> None:
        """InputError unless these are decisions of `network`."""
        shape = len(network.layers) + len(activation_tensors(network)), network.classes - 1
        found = len(self.squares), self.distances.shape[1]
        if found != shape:
            raise InputError(
                f"decisions are of {found[0]} tensors and {found[1] + 1} classes, network "
                f"{network.name!r} has {shape[0]} and {shape[1] + 1}; make the statistics anew with "
                "`fxsim analyze`"
            )
        if self.operations is not None and len(self.operations) != len(network.layers):
            raise InputError(
                f"operations of decisions are of {len(self.operations)} layers, network "
                f"{network.name!r} has {len(network.layers)}; make the statistics anew with `fxsim "
                f"analyze`"
            )

    def bounds(self, bits: ArrayLike) -> dict[str, float]:
        """Both bounds on p_m, 'tight' and 'paper', for these bits of all tensors."""
        return {
            "tight": criteria.tight_mismatch_bound(self.distances, self.squares, bits),
            "paper": criteria.mismatch_bound(self.mean_gains(), bits),
        }

    def image_gains(self) -> np.ndarray:
        """Each image's own gain `(tensors, N)`: sum_i |d(Z_i - Z_y)/dT|^2 / (24 (Z_i - Z_y)^2)."""
        distances = self.distances.astype(np.float64)
        weights = np.zeros_like(distances)
        np.divide(1 / 24, distances**2, out=weights, where=distances > 0)
        return np.einsum("tnm,nm->tn", self.squares, weights)

    def mean_gains(self) -> np.ndarray:
        """The gains E_T `(tensors,)` of the paper.

        A tie Z_i = Z_y is left out, here as in both bounds: no precision settles it.
        """
        return self.image_gains().mean(axis=1)

    def typical_gains(self) -> np.ndarray:
        """Geometric means `(tensors,)` over images of their own gains.

        The mean of a gain need not exist, for margins may be as small as they like; the mean of its
        logarithm does.  Images that a tensor has no influence on, where all ways from it are cut by
        ReLUs, are left out.
        """
        gains = self.image_gains()
        whole = (gains > 0).all(axis=0)
        if not whole.any():
            return gains.mean(axis=1)
        return np.exp(np.log(gains[:, whole]).mean(axis=1))


def activation_tensors(network: Network) -> list[str | None]:
    """The layers whose outputs are read, each once, by its first reader; None for the images."""
    return list(dict.fromkeys(source for _, source in network.edges()))
