"""What is measured on the float baseline.

The record that the assignment reads, and the observer that fills it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fxsim.analysis.decisions import Decisions
from fxsim.errors import InputError, shown
from fxsim.fields import instance, integer, string, strings
from fxsim.files import read_arrays, write_arrays
from fxsim.nn.spec import Network

SIGMA_RATE = 0.1
"""Rate of the moving average of a gradient's variance."""

_ROW = 4096
"""Elements whose squares are added in the array's own type."""

_ZEROS: Any = None
"""Stands for an entry of zeros."""


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the float run of the network `network`; arrays have one entry per layer of
    `layers`.

    *_sigma_max, *_sigma_min: largest and smallest standard deviation of a gradient along training,
    of weights, of the layer's output activations, of the bias (0 where a layer has none), and
    where there is batch norm (else 0) of gamma, of beta, and at the pre-activations;
    weights_gain, activations_gain: noise gains E_W and E_A of W_l and A_l
    (fxsim.analysis.noise_gains); lambda_max: largest singular value of the square-Jacobian of G^W_l
    with respect to G^A_{l+1}; weight_grads_count, activation_grads_count: elements of G^W_l and of
    G^A_{l+1}, the batch included; preactivations_max: largest magnitude at the weighted operation's
    output, a frozen running mean included; activations_max: largest magnitude of the layer's
    output, 0 where a file does not tell;
    variances_max: largest variance that batch norm divides by, a frozen one included, 0 without
    batch norm;
    preactivation_lambda_max: lambda_max with respect to the gradient at the pre-activations that
    batch norm reads, 0 without; activation_grads_flushable, preactivation_grads_flushable: the
    magnitude of criteria.flushable_magnitude at the end of the training, the least of several
    steps, 0 where there is none or a file does not tell;
    *_terms_sigma, weights_*_sum, weights_input_square, activations_square: what accumulators are
    derived from, see analysis/accumulators.py, 0 where a file does not tell;
    weights_max, bias_max, gamma_max, beta_max: the largest magnitude of a parameter, 0 where there
    is none or a file does not tell;
    logits_max: the same of the class scores; gamma_min: the smallest learning rate of the schedule;
    output_loss: what analysis/output_error.py says, 0 where the network decides; decisions: margins
    and gradients of single images, which only the tight bound on the mismatch needs.

    Raises InputError, naming entry and layer, for NaN, infinity, and what must be above 0 and is
    not. Source: Sakr and Shanbhag (ICLR 2019), section 3 and appendix.
    """

    network: str
    layers: tuple[str, ...]
    weight_grads_sigma_max: np.ndarray
    weight_grads_sigma_min: np.ndarray
    activation_grads_sigma_max: np.ndarray
    activation_grads_sigma_min: np.ndarray
    bias_grads_sigma_max: np.ndarray
    bias_grads_sigma_min: np.ndarray
    weights_gain: np.ndarray
    activations_gain: np.ndarray
    lambda_max: np.ndarray
    weight_grads_count: np.ndarray
    activation_grads_count: np.ndarray
    preactivations_max: np.ndarray
    logits_max: float
    gamma_min: float
    batch_size: int
    gamma_grads_sigma_max: np.ndarray = _ZEROS
    gamma_grads_sigma_min: np.ndarray = _ZEROS
    beta_grads_sigma_max: np.ndarray = _ZEROS
    beta_grads_sigma_min: np.ndarray = _ZEROS
    preactivation_grads_sigma_max: np.ndarray = _ZEROS
    preactivation_grads_sigma_min: np.ndarray = _ZEROS
    variances_max: np.ndarray = _ZEROS
    activations_max: np.ndarray = _ZEROS
    preactivation_lambda_max: np.ndarray = _ZEROS
    activation_grads_flushable: np.ndarray = _ZEROS
    preactivation_grads_flushable: np.ndarray = _ZEROS
    forward_terms_sigma: np.ndarray = _ZEROS
    input_grad_terms_sigma: np.ndarray = _ZEROS
    weight_grad_terms_sigma: np.ndarray = _ZEROS
    weights_positive_sum: np.ndarray = _ZEROS
    weights_negative_sum: np.ndarray = _ZEROS
    weights_output_sum: np.ndarray = _ZEROS
    weights_input_sum: np.ndarray = _ZEROS
    weights_input_square: np.ndarray = _ZEROS
    activations_square: np.ndarray = _ZEROS
    weights_max: np.ndarray = _ZEROS
    bias_max: np.ndarray = _ZEROS
    gamma_max: np.ndarray = _ZEROS
    beta_max: np.ndarray = _ZEROS
    output_loss: float = 0.0
    decisions: Decisions | None = None

    def __post_init__(self) -> None:
        string("network", self.network)
        object.__setattr__(self, "layers", tuple(strings("layers", self.layers)))
        for name in PER_LAYER:
            given = getattr(self, name)
            values = _numbers(
                name, np.zeros(len(self.layers)) if given is None else given, (len(self.layers),)
            )
            _check_positive(name, values, self.layers)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        for name in PER_NETWORK:
            value = _numbers(name, getattr(self, name), ())
            _check_positive(name, value.reshape(1), ("",))
            if name != "batch_size":
                object.__setattr__(self, name, value.item())
        loss = _numbers("output_loss", self.output_loss, ())
        _check_all_positive("output_loss", loss[loss != 0], ("",))
        object.__setattr__(self, "output_loss", loss.item())
        object.__setattr__(self, "batch_size", integer("batch_size", self.batch_size))
        if self.decisions is not None:
            instance("decisions", self.decisions, Decisions)

    def check_network(self, network: Network) -> None:
        """InputError unless these are statistics of `network`: its name, its layers, its biases."""
        instance("network", network, Network)
        if self.network != network.name or self.layers != network.names:
            raise InputError(
                f"statistics are of network {self.network!r} with layers {', '.join(self.layers)}, "
                f"not of "
                f"{network.name!r} with {', '.join(network.names)}; make them with `fxsim analyze`"
            )
        for names, concerned in (
            (OF_BIAS, lambda layer: layer.has_bias),
            (OF_BATCH_NORM, lambda layer: layer.batch_norm),
        ):
            rows = [row for row, layer in enumerate(network.layers) if concerned(layer)]
            for name in names:
                _check_all_positive(
                    name, getattr(self, name)[rows], [self.layers[row] for row in rows]
                )
        if not network.decides:
            _check_all_positive("output_loss", np.array([self.output_loss]), ("",))

    def arrays(self) -> dict[str, np.ndarray]:
        """Plain arrays, one for each field."""
        arrays = {field: np.asarray(getattr(self, field)) for field in FIELDS}
        if self.decisions is not None:
            own = {name: getattr(self.decisions, field) for name, field in DECISIONS.items()}
            arrays |= {name: array for name, array in own.items() if array is not None}
        return arrays

    def save(self, path: str | Path) -> None:
        """An .npz of `arrays`."""
        write_arrays(path, self.arrays())

    @classmethod
    def load(cls, path: str | Path, network: Network | None = None) -> Statistics:
        """What `save` wrote, for `network` if that is given.

        An InputError names the file and what is wrong.
        """
        return cls.from_arrays(read_arrays(path), str(path), network)

    @classmethod
    def from_arrays(
        cls, arrays: Mapping[str, np.ndarray], where: str, network: Network | None = None
    ) -> Statistics:
        """What `arrays` gave; an InputError begins with `where`."""
        try:
            optional = (*OPTIONAL, "output_loss")
            missing = [field for field in FIELDS if field not in (*arrays, *optional)]
            if missing:
                raise InputError(
                    f"{missing[0]} is missing; make the file anew with `fxsim analyze`"
                )
            layers = tuple(np.atleast_1d(arrays["layers"]))
            entries: dict[str, Any] = {field: arrays.get(field) for field in FIELDS}
            entries["output_loss"] = arrays.get("output_loss", 0.0)
            entries |= {field: entries[field].tolist() for field in ("network", *PER_NETWORK)}
            statistics = cls(**entries | {"layers": layers}, decisions=_read_decisions(arrays))
            if network is not None:
                statistics.check_network(network)
        except (InputError, TypeError) as error:
            raise InputError(f"{where}: {error}") from None
        return statistics


FIELDS = tuple(field.name for field in dataclasses.fields(Statistics) if field.name != "decisions")
DECISIONS = {
    "decision_distances": "distances",
    "decision_squares": "squares",
    "decision_operations": "operations",
}
"""Entry of the file -> field of Decisions."""
PER_LAYER = tuple(
    field.name for field in dataclasses.fields(Statistics) if field.type == "np.ndarray"
)
PER_NETWORK = ("logits_max", "gamma_min", "batch_size")
OF_BIAS = ("bias_grads_sigma_max", "bias_grads_sigma_min")
"""Entries that are 0 for a layer without bias."""
OF_BATCH_NORM = (
    *(
        f"{tensor}_sigma_{which}"
        for tensor in ("gamma_grads", "beta_grads", "preactivation_grads")
        for which in ("max", "min")
    ),
    "variances_max",
    "preactivation_lambda_max",
)
"""Entries that are 0 for a layer without batch norm."""
FLUSHABLE = ("activation_grads_flushable", "preactivation_grads_flushable")
"""Entries that only criterion GF needs."""
OF_SUMS = (
    "forward_terms_sigma",
    "input_grad_terms_sigma",
    "weight_grad_terms_sigma",
    "weights_positive_sum",
    "weights_negative_sum",
    "weights_output_sum",
    "weights_input_sum",
    "weights_input_square",
    "activations_square",
)
"""Entries that only accumulators need."""
OF_PARAMETERS = ("weights_max", "bias_max", "gamma_max", "beta_max")
OPTIONAL = (*OF_BATCH_NORM, *FLUSHABLE, *OF_SUMS, *OF_PARAMETERS, "activations_max")
"""Entries that a file may leave out."""


def _read_decisions(arrays: Mapping[str, np.ndarray]) -> Decisions | None:
    if not DECISIONS.keys() & arrays.keys():
        return None
    found = {field: arrays[name] for name, field in DECISIONS.items() if name in arrays}
    return Decisions(**{"distances": np.array(0), "squares": np.array(0)} | found)


def _numbers(name: str, values, shape: tuple[int, ...]) -> np.ndarray:
    try:
        values = np.asarray(values)
    except (ValueError, TypeError, RuntimeError):
        raise InputError(f"{name} must be numbers of shape {shape}, got {shown(values)}") from None
    if values.dtype.kind not in "iuf" or values.shape != shape:
        raise InputError(
            f"{name} must be numbers of shape {shape}, got {values.dtype} of shape {values.shape}; "
            "make the statistics anew with `fxsim analyze`"
        )
    return values.astype(np.float64)


def _check_positive(name: str, values: np.ndarray, layers) -> None:
    if name in OF_BIAS + OPTIONAL:
        values = np.where(values == 0, 1, values)
    _check_all_positive(name, values, layers)


def _check_all_positive(name: str, values: np.ndarray, layers) -> None:
    for value, layer in zip(values, layers):
        if not (math.isfinite(value) and value > 0):
            where = f" of layer {layer!r}" if layer else ""
            raise InputError(
                f"{name}{where} must be finite and above 0, got {value:g}; train the float network "
                f"again, "
                "longer or at a lower learning rate"
            )


class GradientStatistics:
    """Follows the standard deviations of all gradients of `network` along training.

    For each G^W_l, G^A_{l+1}, bias gradient and gradient of batch norm: a moving average (rate 0.1,
    started at the first value) over training steps of the tensor's variance, and the largest and
    smallest that it has been.  `every`: steps from one sample to the next.  `state` is all there
    is, a float64 array `(3, tensors, layers)` of average, largest and smallest; save it and assign
    it to go on after a break.
    Source: Sakr and Shanbhag (ICLR 2019), section 3.
    """

    TENSORS = (
        "weight_grads",
        "activation_grads",
        "bias_grads",
        "gamma_grads",
        "beta_grads",
        "preactivation_grads",
    )

    def __init__(self, network: Network, every: int = 1):
        if every < 1:
            raise InputError(f"every must be at least 1, got {every}")
        self.network = network
        self.every = every
        self.state = np.full((3, len(self.TENSORS), len(network.layers)), np.nan)

    def probe(self, step: int) -> Callable[[str, str, np.ndarray], None] | None:
        """The probe for training step `step`; None where the step is not sampled."""
        return self.observe if step % self.every == 0 else None

    def observe(self, tensor: str, layer: str, array: np.ndarray) -> None:
        """Takes in one tensor.

        Those without a place here are ignored.  InputError where it is not finite.
        """
        if tensor not in self.TENSORS:
            return
        variance = _variance(array)
        if not math.isfinite(variance):
            raise InputError(
                f"layer {layer!r}: {tensor} are not finite, the run diverges; lower the learning "
                f"rate"
            )
        row = self.TENSORS.index(tensor)
        column = self.network.names.index(layer)
        average, largest, smallest = self.state[:, row, column]
        if math.isnan(average):
            average = largest = smallest = variance
        average += SIGMA_RATE * (variance - average)
        self.state[:, row, column] = average, max(largest, average), min(smallest, average)

    def sigmas(self) -> dict[str, np.ndarray]:
        """`<tensor>_sigma_max` and `<tensor>_sigma_min`, one entry per layer, by the names of
        Statistics' fields.
        """
        check_all_trained(self.network)
        deviations = np.sqrt(self.state[1:])
        for row, layer in enumerate(self.network.layers):
            own = [f"{kind}_grads" for kind in layer.further_parameters]
            own += ["preactivation_grads"] if layer.batch_norm else []
            absent = [at for at, name in enumerate(self.TENSORS) if at >= 2 and name not in own]
            deviations[:, absent, row] = 0.0
        return {
            f"{tensor}_sigma_{which}": deviations[at, row].copy()
            for row, tensor in enumerate(self.TENSORS)
            for at, which in enumerate(("max", "min"))
        }


def check_all_trained(network: Network) -> None:
    """InputError where the gradients of a layer are unknown, because it is not trained."""
    for layer in network.layers:
        if layer.train != "all":
            raise InputError(
                f"layer {layer.name!r} has train={layer.train!r}, so that its gradients are "
                f"unknown and have no formats; assign the network with all layers trained, then "
                f"fxsim train this one with --assignment FILE, or with --formats"
            )


def _variance(array: np.ndarray) -> float:
    """The variance without a copy; gradients are so nearly centred that nothing cancels.

    Squares are added by einsum, since BLAS' sums depend on its threads; row by row, since long
    sums lose bits in float32.
    """
    flat = array.reshape(-1)
    whole = flat.size - flat.size % _ROW
    with np.errstate(invalid="ignore", over="ignore"):  # the caller looks at what comes out
        square = sum(
            np.einsum("rx,rx->r", rows, rows).sum(dtype=np.float64)
            for rows in (flat[:whole].reshape(-1, _ROW), flat[None, whole:])
        )
        variance = float(square) / flat.size - float(flat.mean(dtype=np.float64)) ** 2
    return 0.0 if variance < 0.0 else variance
