"""What the criteria promise, measured on a training in fixed point.

    GC   clipping rate of gradients, over all of training
    AS   share of updates that are lost below the accumulator's step, over all of training
    RQB  relative quantization bias of weight gradients, on recorded steps
    BQN  noise reflected from activation gradients onto weight gradients, as a share of these gradients' own
    GF   what activation gradients lose below half a step, as a share of all that they sum to
    OC   overflows of an accumulator of sums, of which there should be none
    OP   the same, as a share of all sums

BQN and GF are also about batch norm's gradient at the pre-activations.  EFQN is about decisions:
fxsim/analysis/mismatch.py.  Source of the criteria: Sakr and Shanbhag (ICLR 2019), section 3; GF:
fxsim/analysis/criteria.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fxsim.accumulator import Overflows
from fxsim.analysis import criteria
from fxsim.analysis.jacobian import preactivation_square_jacobian, square_jacobian
from fxsim.errors import present
from fxsim.factors import LearningRate
from fxsim.formats import STOCHASTIC, Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.ops.batch_norm import running_format
from fxsim.tensor import Counts, Tensor, quantize
from fxsim.words import words_of

GRADIENTS = ("weight_grads", "activation_grads")
REFLECTING = ("activation_grads", "preactivation_grads")
"""Gradients that the noise of G^W comes from, beside its own; the second where there is batch norm."""
BIAS_BOUNDS = {
    "RQB": criteria.LARGEST_QUANTIZATION_BIAS,
    "GF": criteria.LARGEST_FLUSHED_SHARE,
}
SPREAD = 3
"""Standard errors that a value may be above its bound.

There are dozens of values in a report; with two, one or another would fail by chance alone.
"""
Batch = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Finding:
    """One criterion on one tensor.

    Its value, the bound on it, the value's standard error (0 where it is exact).
    """

    criterion: str
    layer: str
    tensor: str
    value: float
    bound: float
    error: float = 0.0

    @property
    def passed(self) -> bool:
        """Not above the bound by more than SPREAD standard errors."""
        return self.value - SPREAD * self.error <= self.bound


def gradient_clipping(counts: Mapping[tuple[str, str], Counts]) -> Iterator[Finding]:
    """Shares of clipped elements of G^W and G^A, from counts by (layer, tensor)."""
    for (layer, tensor), count in counts.items():
        if tensor in GRADIENTS:
            yield Finding(
                "GC", layer, tensor, count.clipped / count.elements, criteria.LARGEST_CLIPPING_RATE
            )


def accumulator_stopping(counts: Mapping[tuple[str, str], Counts]) -> Iterator[Finding]:
    """Shares of weights' updates that were not 0 and became 0 at the accumulator's step."""
    for (layer, tensor), count in counts.items():
        if tensor == "accumulators":
            yield Finding("AS", layer, tensor, count.flushed / count.elements, 0.0)


def accumulator_overflows(
    assignment: PrecisionAssignment, overflows: Mapping[str, Overflows]
) -> Iterator[Finding]:
    """Overflows per sum of the accumulators that the assignment proposes and has, against the
    probability that OP promises, and 0 for OC.

    overflows: by 'layer.kind'.  A sum may overflow several times, so that the share of sums that do
    is at most this.  The standard error is that of the number expected, of one at least.
    """
    for key, met in overflows.items():
        layer, _, kind = key.rpartition(".")
        proposal = assignment.proposed.get(key)
        if proposal is None or assignment.accumulators_of(layer)[kind] != proposal.accumulator:
            continue
        bound = proposal.reason.statistic.get("overflow_bound", 0.0)
        error = math.sqrt(max(bound * met.sums, 1.0)) / met.sums if bound else 0.0
        value = met.overflows / met.sums
        yield Finding(proposal.reason.criterion, layer, kind, value, bound, error)


def quantization_bias(
    network: FixedNetwork, batches: Iterable[Batch], rate: LearningRate
) -> Iterator[Finding]:
    """Relative quantization bias of G^W over one step from here on each of the `batches` (codes,
    targets): how far the mean of what the exact sums in (D/2, 3D/2) become is from their own mean.

    Rounded to nearest they become D, and this is the figure of criteria.py; stochastic rounding by
    words of 32 bits has no bias, and what is found is the spread of its draws.  The network is left
    as it was.
    """
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for number, (images, targets) in enumerate(batches):
        for name, pair in weight_grads(network, images, targets, rate, number).items():
            found.setdefault(name, []).append(pair)
    for name, pairs in found.items():
        exact, rounded = (np.concatenate([part.ravel() for part in parts]) for parts in zip(*pairs))
        step = network.assignment.layers[name].weight_grads.step
        near = (np.abs(exact) > step / 2) & (np.abs(exact) < 1.5 * step)
        yield _bias("RQB", (name, "weight_grads"), exact[near], rounded[near], None)


def _bias(
    criterion: str,
    where: tuple[str, str],
    exact: np.ndarray,
    rounded: np.ndarray,
    total: float | None,
) -> Finding:
    """What rounding takes from, or adds to, the sum of these magnitudes, as a share of it or of
    `total`.

    where: layer and tensor.  The standard error is that of a sum of as many changes whose means are
    0.
    """
    changes = np.abs(exact) - np.sign(exact) * rounded
    whole = float(np.abs(exact).sum()) if total is None else total
    if not whole:
        return Finding(criterion, *where, 0.0, BIAS_BOUNDS[criterion])
    value = abs(float(changes.sum())) / whole
    error = float(np.sqrt((changes**2).sum())) / whole
    return Finding(criterion, *where, value, BIAS_BOUNDS[criterion], error)


def weight_grads(
    network: FixedNetwork, images: np.ndarray, targets: np.ndarray, rate: LearningRate, step: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Real values of every trained layer's G^W before and after its quantization, in one step that is then
    taken back.
    """
    kept: dict[tuple[str, str], Tensor] = {}

    def keep(tensor: str, layer: str, value: Tensor) -> None:
        if tensor in ("activations", "preactivation_grads", "weight_grads"):
            kept[tensor, layer] = value

    before = network.state()
    network.train_step(images, targets, rate, step, probe=keep)
    network.load_state(before)
    found = {}
    for name in trained_weights(network.network):
        layer = network.layers[name]
        product = present(layer.weight_grad)
        source = kept["activations", name].operand.reshape(-1, *product.geometry.input)
        gradient = kept["preactivation_grads", name].operand.reshape(-1, *product.geometry.output)
        exact = product(source, gradient).tensor().real.reshape(layer.shape.weight)
        found[name] = exact, kept["weight_grads", name].real.reshape(layer.shape.weight)
    return found


def gradient_flushing(network: FixedNetwork, batches: Iterable[Batch]) -> Iterator[Finding]:
    """What G^A and batch norm's gradient lose below half a step, over steps on the `batches` of
    images in [0, 1] and targets, by their formats, roundings and random words.

    The values are those of a float network with the same parameters.  Where they round
    stochastically by words of 32 bits nothing is lost on the mean, and what is found is the spread
    of the draws.
    """
    view = FloatNetwork(network.network, real_parameters(network), np.float64)
    small: dict[tuple[str, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    totals: dict[tuple[str, str], float] = {}

    def see(step: int, tensor: str, layer: str, array: np.ndarray) -> None:
        if tensor in REFLECTING:
            key = layer, tensor
            magnitudes = np.abs(array)
            totals[key] = totals.get(key, 0.0) + float(magnitudes.sum())
            rounded = _rounded(network, layer, tensor, array, step)
            flushable = magnitudes < rounded.format.step / 2
            small.setdefault(key, []).append((array[flushable], rounded.real[flushable]))

    for step, (images, targets) in enumerate(batches):
        view.loss_and_grads(images, targets, step=step, probe=partial(see, step))
    for layer in network.network.names:
        for tensor in REFLECTING:
            if (layer, tensor) in small:
                exact, rounded = map(np.concatenate, zip(*small[layer, tensor]))
                yield _bias("GF", (layer, tensor), exact, rounded, totals[layer, tensor])


def _rounded(
    network: FixedNetwork, layer: str, tensor: str, array: np.ndarray, step: int
) -> Tensor:
    """The array as a training step of the network rounds that tensor of a layer."""
    assignment = network.assignment
    rounding = assignment.rounding_of(tensor)
    words = None
    if rounding in STOCHASTIC:
        source = assignment.words_of(layer, tensor)
        words = words_of(source, network.seed, step, f"{layer}.{tensor}")
    return quantize(array, _format_of(network, layer, tensor), rounding=rounding, words=words)


def _format_of(network: FixedNetwork, layer: str, tensor: str) -> Format:
    if tensor == "preactivation_grads":
        return network.layers[layer].pre_format
    return network.assignment.layers[layer].activation_grads


def trained_weights(network: Network) -> list[str]:
    """The layers whose weights are trained."""
    return [layer.name for layer in network.layers if "weight" in layer.trained]


def reflected_noise(network: FixedNetwork, images: np.ndarray) -> Iterator[Finding]:
    """The noise variance that the quantization of G^A, and of batch norm's gradient, adds to G^W,
    over that of G^W's own quantization: D^2/12 to nearest, D^2/6 where it is stochastic.

    The root mean square over the elements of G^W, on a batch of images `(N, H, W, C)` in [0, 1],
    through the square-Jacobian of the float network with the same parameters
    (fxsim/analysis/jacobian.py).
    """
    view = FloatNetwork(network.network, real_parameters(network), np.float64)
    tape = view.forward_tape(images)
    for name in trained_weights(network.network):
        layer = network.network.layer(name)
        own = _noise(network, "weight_grads", network.assignment.layers[name].weight_grads)
        gains = {
            "activation_grads": square_jacobian(view, tape, name).noise_gains()
            / (1.0 - layer.dropout)
        }
        if layer.batch_norm:
            gains["preactivation_grads"] = preactivation_square_jacobian(tape, name).noise_gains()
        for tensor, gain in gains.items():
            noise = _noise(network, tensor, _format_of(network, name, tensor))
            share = noise / own * np.sqrt(np.mean(gain**2))
            yield Finding("BQN", name, tensor, float(share), 1.0)


def _noise(network: FixedNetwork, tensor: str, format: Format) -> float:
    """The variance of a quantization's error, a mean over a step."""
    stochastic = network.assignment.rounding_of(tensor) in STOCHASTIC
    return format.step**2 / (6 if stochastic else 12)


def real_parameters(network: FixedNetwork) -> Parameters:
    """The parameters as inference reads them, in real numbers."""
    real = {}
    for name, parameters in network.parameters.items():
        real[name] = {
            kind: parameter.codes * parameter.format.step for kind, parameter in parameters.items()
        }
        norm = network.layers[name].norm
        if norm is not None:
            formats = norm.formats
            running = network.running[name]
            real[name] |= {
                "running_mean": running.mean * running_format(formats.mean).step,
                "running_var": running.variance * running_format(formats.variance).step,
            }
    return real


def histograms(
    network: FixedNetwork, images: np.ndarray, targets: np.ndarray, rate: float
) -> dict[str, dict[str, dict]]:
    """For each layer and each of the method's five tensors its magnitudes, counted by powers of
    two.

    The weights are the running ones, W with its accumulator if it has one.  Of activations and
    gradients the values are those of one step of a float network with the same parameters, not
    quantized, and with all of its layers trained; for the accumulators the updates, rate * G^W.
    Plain data: 'zeros', and 'counts' of the magnitudes in [2**e, 2**(e+1)) from e = 'least'.
    """
    layers = tuple(dataclasses.replace(layer, train="all") for layer in network.network.layers)
    whole = dataclasses.replace(network.network, layers=layers)
    view = FloatNetwork(whole, real_parameters(network), np.float64)
    rows: dict[str, dict[str, dict]] = {}

    def see(tensor: str, layer: str, array: np.ndarray) -> None:
        if tensor in ("activations", *GRADIENTS):
            rows.setdefault(layer, {})[tensor] = _by_powers_of_two(array)
        if tensor == "weight_grads":
            rows[layer]["accumulators"] = _by_powers_of_two(rate * array)

    for name, parameters in network.parameters.items():
        rows[name] = {
            "weights": _by_powers_of_two(
                parameters["weight"].running * parameters["weight"].update_format.step
            )
        }
    view.loss_and_grads(images, targets, step=0, probe=see)
    return rows


def _by_powers_of_two(array: np.ndarray) -> dict:
    values = array[array != 0]
    if not values.size:
        return {"zeros": array.size, "least": 0, "counts": []}
    exponents = np.frexp(values)[1] - 1
    least = int(exponents.min())
    return {
        "zeros": array.size - values.size,
        "least": least,
        "counts": np.bincount(exponents - least).tolist(),
    }
