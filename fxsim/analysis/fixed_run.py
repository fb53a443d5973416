"""What the criteria promise, measured on a training in fixed point.

    GC   clipping rate of gradients, over all of training
    AS   share of updates that are lost below the accumulator's step, over all of training
    RQB  relative quantization bias of weight gradients, on recorded steps
    BQN  noise reflected from activation gradients onto weight gradients, as a share of these gradients' own

The fifth, EFQN, is about decisions: fxsim/analysis/mismatch.py.  Source of the criteria: Sakr and
Shanbhag (ICLR 2019), section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from fxsim.analysis import criteria
from fxsim.analysis.jacobian import square_jacobian
from fxsim.factors import LearningRate
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.spec import Network
from fxsim.ops.batch_norm import running_format
from fxsim.tensor import Counts, Tensor

GRADIENTS = ("weight_grads", "activation_grads")
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
        """Not above the bound by more than two standard errors."""
        return self.value - 2 * self.error <= self.bound


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


def quantization_bias(
    network: FixedNetwork, batches: Iterable[Batch], rate: LearningRate
) -> Iterator[Finding]:
    """Relative quantization bias of G^W over one step from here on each of the `batches` (codes,
    targets).

    From the exact sums that were quantized.  The network is left as it was.
    """
    exact: dict[str, list[np.ndarray]] = {name: [] for name in trained_weights(network.network)}
    for images, targets in batches:
        for name, gradient in exact_weight_grads(network, images, targets, rate).items():
            exact[name].append(gradient.ravel())
    for name, gradients in exact.items():
        magnitudes = np.abs(np.concatenate(gradients))
        step = network.assignment.layers[name].weight_grads.step
        near = magnitudes[(magnitudes > step / 2) & (magnitudes < 1.5 * step)]
        error = float(near.std() / near.mean() / np.sqrt(near.size)) if near.size else 0.0
        yield Finding(
            "RQB",
            name,
            "weight_grads",
            criteria.relative_quantization_bias(magnitudes, step),
            criteria.LARGEST_QUANTIZATION_BIAS,
            error,
        )


def exact_weight_grads(
    network: FixedNetwork, images: np.ndarray, targets: np.ndarray, rate: LearningRate
) -> dict[str, np.ndarray]:
    """Real values of every trained layer's G^W before its quantization, in one step that is then
    taken back.
    """
    kept: dict[tuple[str, str], Tensor] = {}

    def keep(tensor: str, layer: str, value: Tensor) -> None:
        if tensor in ("activations", "preactivation_grads"):
            kept[tensor, layer] = value

    before = network.state()
    network.train_step(images, targets, rate, step=0, probe=keep)
    network.load_state(before)
    exact = {}
    for name in trained_weights(network.network):
        layer = network.layers[name]
        product = layer.weight_grad
        source = kept["activations", name].operand.reshape(-1, *product.geometry.input)
        gradient = kept["preactivation_grads", name].operand.reshape(-1, *product.geometry.output)
        exact[name] = product(source, gradient).tensor().real.reshape(layer.shape.weight)
    return exact


def trained_weights(network: Network) -> list[str]:
    """The layers whose weights are trained."""
    return [layer.name for layer in network.layers if "weight" in layer.trained]


def reflected_noise(network: FixedNetwork, images: np.ndarray) -> Iterator[Finding]:
    """The noise variance that the quantization of G^A adds to G^W, over that of G^W's own
    quantization, D^2/12.

    The root mean square over the elements of G^W, on a batch of images `(N, H, W, C)` in [0, 1],
    through the square-Jacobian of the float network with the same parameters
    (fxsim/analysis/jacobian.py).
    """
    view = FloatNetwork(network.network, real_parameters(network), np.float64)
    tape = view.forward_tape(images)
    for name in trained_weights(network.network):
        formats = network.assignment.layers[name]
        gains = square_jacobian(view, tape, name).noise_gains() / (
            1.0 - network.network.layer(name).dropout
        )
        share = (formats.activation_grads.step / formats.weight_grads.step) ** 2 * np.sqrt(
            np.mean(gains**2)
        )
        yield Finding("BQN", name, "activation_grads", float(share), 1.0)


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
