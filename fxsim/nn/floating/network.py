"""The float executor: runs and trains a network in float32 or float64, with probes on every tensor.

It is the baseline (FL) of every experiment, and what noise gains, gradient statistics and
square-Jacobians are measured on.  The straight-through clipped ReLU and the clipping of weights are
those of C. Sakr and N. Shanbhag, "Per-Tensor Fixed-Point Quantization of the Back-Propagation
Algorithm" (ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np

from fxsim.arrays import real_array
from fxsim.errors import InputError, choice, present, shown
from fxsim.factors import LearningRate
from fxsim.fields import function, instance, number
from fxsim.nn.floating import products as products
from fxsim.nn.floating.activation import (
    ActivationGradients,
    LayerTape,
    activate,
    activate_backward,
    dropout_factor,
)
from fxsim.nn.floating.columns import columns
from fxsim.nn.floating.losses import checked_targets, loss_of, wrong_decisions
from fxsim.nn.geometry import geometry_of
from fxsim.nn.init import WEIGHT_MAX, Parameters, checked_parameters
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer
from fxsim.nn.spec import AFFINE_RANGE_EXP, Layer, Network
from fxsim.nn.state import Arrays, arrays_of, restore
from fxsim.ops.checks import whole
from fxsim.ops.products import Geometry
from fxsim.rng import Stream

Probe = Callable[[str, str, np.ndarray], None]
"""Called with (tensor, layer name, array); the array is only lent, and cannot be written."""

AFFINE_MAX = 2.0**AFFINE_RANGE_EXP * WEIGHT_MAX
_RANGES = {"weight": (-1.0, WEIGHT_MAX), "bias": (-1.0, WEIGHT_MAX)} | dict.fromkeys(
    ("gamma", "beta"), (-(2.0**AFFINE_RANGE_EXP), AFFINE_MAX)
)


@dataclass
class Tape:
    """A recorded forward pass.

    The logits `(N, classes)`, or without classes all outputs `(N, outputs)`, and what each layer
    keeps, by name.
    """

    logits: np.ndarray
    layers: dict[str, LayerTape] = field(repr=False)

    def columns(self, name: str) -> np.ndarray:
        """The im2col matrix `(N, P, K)` of A_l, for the weights of `Geometry.full`."""
        images, geometry = self._operand(name)
        return columns(images, geometry.full.window)

    def columns_by_group(self, name: str) -> Iterator[tuple[np.ndarray, slice]]:
        """For each group of the layer the im2col matrix `(N, P, K)` of A_l, and its outputs.

        Per-sample weight gradients are columns^T @ operation gradient.
        """
        images, geometry = self._operand(name)
        for inputs, outputs in geometry.group_slices:
            yield columns(images[..., inputs], geometry.window), outputs

    def _operand(self, name: str) -> tuple[np.ndarray, Geometry]:
        own = self.layers[name]
        geometry = geometry_of(own.layer, own.shape)
        return own.input.reshape(-1, *geometry.input), geometry


@dataclass(frozen=True)
class StepResult:
    """What a step or an evaluation found.

    samples: images.  loss: their mean loss, in nats for a cross-entropy.  wrong: images whose first
    greatest logit is not at the label; None where the network decides nothing.
    """

    samples: int
    loss: float
    wrong: int | None

    @property
    def error(self) -> float | None:
        """Share of images that are classified wrong; None where the network decides nothing."""
        return None if self.wrong is None else self.wrong / self.samples


@dataclass
class LayerGradients:
    """Gradients around one layer, as the backward pass meets them.

    output: `(N, H, W, O)` with respect to A_{l+1} (after pooling and dropout), summed over its
    readers. operation: `(N, P, O)` with respect to the weighted operation.  input: `(N, H, W, C)`,
    this layer's share of the gradient with respect to A_l; None where A_l is the images and nobody
    asked. parameters: of bias, or of gamma and beta, summed over the batch.
    """

    name: str
    output: np.ndarray
    operation: np.ndarray
    input: np.ndarray | None
    parameters: dict[str, np.ndarray]


class FloatNetwork:
    """A network with float parameters of its own (copies of what is given).

    parameters: as initial_parameters gives them.  dtype: float32 or float64.  optimizer: momentum
    and weight decay.  seed: key of dropout's random words.  Raises InputError where parameters do
    not fit the network.
    """

    activation_range: tuple[float, float] | None = None
    """Where activation functions pass their gradients; they clip to the same range.  None for that
    of each layer's own."""

    def __init__(
        self,
        network: Network,
        parameters: Parameters,
        dtype=np.float32,
        optimizer: Optimizer = PLAIN_SGD,
        seed: int = 0,
    ):
        self.network = instance("network", network, Network)
        self.seed = Stream(seed, 0, "").seed
        self.dtype = _checked_dtype(dtype)
        instance("optimizer", optimizer, Optimizer)
        self.parameters: Parameters = {
            layer: {name: np.array(array, self.dtype) for name, array in own.items()}
            for layer, own in checked_parameters(network, parameters).items()
        }
        self.optimizer = optimizer
        self.velocities: Parameters = {
            layer: {name: np.zeros_like(own[name]) for name in network.layer(layer).trained}
            for layer, own in self.parameters.items()
            if optimizer
        }

    def __copy__(self) -> NoReturn:
        raise TypeError("a shallow copy would train the same parameters; use copy.deepcopy")

    def state(self) -> Arrays:
        """All that training changes: arrays by name, lent."""
        return arrays_of(self.parameters, "parameters") | arrays_of(self.velocities, "velocities")

    def load_state(self, arrays: Arrays) -> None:
        """Take over what `state` gave; InputError where it does not fit this network."""
        restore(self.state(), arrays)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Logits `(N, classes)` of images `(N, H, W, C)` in [0, 1], in inference mode.

        Without classes all outputs of an image, row-major.
        """
        return self.forward_tape(images).logits

    def forward_tape(
        self,
        images: np.ndarray,
        training: bool = False,
        *,
        step: int | None = None,
        probe: Probe | None = None,
    ) -> Tape:
        """A forward pass that backward can start from.

        training: batch norm takes the batch's statistics and moves the running ones, and dropout
        draws from Stream(seed, step, ...); otherwise the running statistics and no dropout.  step:
        number of the training step, which dropout needs.  probe: called with 'activations' (A_l),
        'preactivations' and 'logits'.
        """
        images = self._checked_images(images)
        see = _shower(probe)
        tapes: dict[str, LayerTape] = {}
        for layer, source in self.network.edges():
            shape = self.network.shape(layer.name)
            activations = images if source is None else tapes[source].output
            see("activations", layer.name, activations)
            operation = products.product(activations, self.weight(layer.name), layer, shape)
            tape = LayerTape(
                layer,
                shape,
                training,
                activations,
                operation.reshape(len(images), *shape.pre),
                tapes[layer.add].output if layer.add else None,
                range=self.activation_range,
            )
            if training and layer.dropout:
                tape.keep = self._dropout_factor(layer, (len(images), *shape.output), step)
            self._activate(tape)
            see("preactivations", layer.name, tape.preactivation)
            tapes[layer.name] = tape
        logits = tapes[self.network.layers[-1].name].output.reshape(len(images), -1)
        see("logits", self.network.layers[-1].name, logits)
        return Tape(logits, tapes)

    def _dropout_factor(self, layer: Layer, shape: tuple[int, ...], step: int | None) -> np.ndarray:
        if step is None:
            raise InputError(
                f"layer {layer.name!r} has dropout, whose random words depend on the training "
                "step; pass its number as step"
            )
        return dropout_factor(layer, shape, step, self.seed, self.dtype)

    def weight(self, name: str) -> np.ndarray:
        """W_l as the products of the forward and the backward pass read it."""
        return self.parameters[choice("layer", name, self.parameters)]["weight"]

    def _activate(self, tape: LayerTape) -> None:
        """Fills the tape's output."""
        activate(tape, self.parameters[tape.layer.name])

    def walk_back(
        self,
        tape: Tape,
        logits_grads: np.ndarray,
        images: bool = False,
        reached: frozenset[str] | None = None,
    ) -> Iterator[LayerGradients]:
        """The gradients around each layer, from the last to the first, one layer at a time.

        logits_grads: `(N, classes)`, the gradient of any scalar with respect to the logits.
        images: also the input gradients of layers that read the images.  reached: the layers at
        whose output the gradient is wanted, None for all; nothing is computed of the others.
        """
        wanted = frozenset(self.network.names) if reached is None else reached
        last = self.network.layers[-1].name
        waiting: dict[str, np.ndarray] = {
            last: np.asarray(logits_grads, self.dtype).reshape(tape.layers[last].output.shape)
        }
        for layer, source in reversed(list(self.network.edges())):
            if layer.name not in wanted:
                continue
            entry = tape.layers[layer.name]
            output = waiting.pop(layer.name, None)
            if output is None:  # nobody reads this layer
                output = np.zeros_like(entry.output)
            local = self.activation_gradients(tape, layer.name, output)
            below = None
            if source in wanted or (images and source is None):
                below = products.input_gradient(
                    local.operation, self.weight(layer.name), layer, entry.shape
                )
            yield LayerGradients(layer.name, output, local.operation, below, local.parameters)
            for reader_of, share in ((source, below), (layer.add, local.branch)):
                if reader_of in wanted:
                    own = present(share)
                    waiting[reader_of] = waiting[reader_of] + own if reader_of in waiting else own

    def activation_gradients(
        self, tape: Tape, name: str, output_gradient: np.ndarray
    ) -> ActivationGradients:
        """The map from the gradient of a layer's output to that of its weighted operation: dropout,
        pooling, ReLU mask and batch norm.  It is linear, and with a tape of training=False no
        sample meets another.
        """
        return activate_backward(tape.layers[name], self.parameters[name], output_gradient)

    def weight_gradient(self, tape: Tape, name: str, operation_gradient: np.ndarray) -> np.ndarray:
        """G^W_l, summed over the batch, from the gradient `(N, P, O)` of the layer's weighted
        operation.
        """
        entry = tape.layers[name]
        return products.weight_gradient(entry.input, operation_gradient, entry.layer, entry.shape)

    def backward(
        self, tape: Tape, logits_grads: np.ndarray, probe: Probe | None = None
    ) -> Parameters:
        """Gradients of all trained parameters for the gradient `(N, classes)` of any scalar by the
        logits.

        probe: called with 'activation_grads' (G^A_{l+1}), 'weight_grads', 'bias_grads',
        'gamma_grads', 'beta_grads', and where there is batch norm 'preactivation_grads', the
        gradient at what it normalizes.
        """
        gradients: Parameters = {}
        see = _shower(probe)
        for local in self.walk_back(tape, logits_grads, reached=self.network.reached):
            trained = self.network.layer(local.name).trained
            own = {name: gradient for name, gradient in local.parameters.items() if name in trained}
            if "weight" in trained:
                own = {"weight": self.weight_gradient(tape, local.name, local.operation)} | own
            see("activation_grads", local.name, local.output)
            if self.network.layer(local.name).batch_norm:
                see("preactivation_grads", local.name, local.operation)
            for name, gradient in own.items():
                see(f"{name}_grads", local.name, gradient)
            gradients[local.name] = own
        return gradients

    def loss_and_grads(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        *,
        step: int | None = None,
        probe: Probe | None = None,
    ) -> tuple[float, Parameters]:
        """The mean loss over the batch in training mode, and its gradients."""
        result, grads = self._result_and_grads(images, targets, step, probe)
        return result.loss, grads

    def _result_and_grads(
        self, images: np.ndarray, targets: np.ndarray, step: int | None, probe: Probe | None
    ) -> tuple[StepResult, Parameters]:
        images = self._checked_images(images)
        wanted = checked_targets(self.network, targets, len(images))
        tape = self.forward_tape(images, True, step=step, probe=probe)
        loss, logits_grads = loss_of(self.network, tape.logits, wanted)
        wrong = wrong_decisions(self.network, tape.logits, wanted)
        return StepResult(len(wanted), loss, wrong), self.backward(tape, logits_grads, probe)

    def update(self, gradients: Parameters, learning_rate: float) -> None:
        """Stochastic gradient descent: parameter -= learning_rate * velocity, then clipped.

        The velocity is the gradient, unless there is momentum or weight decay (nn/optimizer.py).
        Weights and biases stay in [-1, 1), gamma and beta in [-2, 2).
        """
        for layer, own in gradients.items():
            for name, gradient in own.items():
                parameter = self.parameters[layer][name]
                parameter -= self.dtype.type(learning_rate) * self._velocity(layer, name, gradient)
                np.clip(parameter, *_RANGES[name], out=parameter)

    def _velocity(self, layer: str, name: str, gradient: np.ndarray) -> np.ndarray:
        if not self.optimizer:
            return gradient
        velocity = self.velocities[layer][name]
        velocity *= self.dtype.type(self.optimizer.mu)
        velocity += gradient
        velocity += self.dtype.type(self.optimizer.decay(name)) * self.parameters[layer][name]
        return velocity

    def train_step(
        self,
        images: np.ndarray,
        targets: np.ndarray,
        learning_rate: LearningRate | float,
        step: int,
        probe: Probe | None = None,
    ) -> StepResult:
        """One step on a batch; the result is that of the parameters before the update.

        targets: (N,) class numbers; where the network's targets are tensors, reals of the outputs'
        shape (see fxsim.nn.targets).  step: number of the step, part of the key of dropout's random
        words.  Probes as in
        forward_tape and backward.
        """
        rate = _checked_rate(learning_rate)
        step = Stream(self.seed, step, "").step
        result, grads = self._result_and_grads(images, targets, step, probe)
        self.update(grads, rate)
        return result

    def evaluate(self, images: np.ndarray, targets: np.ndarray, batch: int = 256) -> StepResult:
        """Mean loss and wrong decisions in inference mode; targets as for `train_step`."""
        images = self._checked_images(images)
        wanted = checked_targets(self.network, targets, len(images))
        batch = whole("batch", batch, 1)
        loss = 0.0
        wrong = 0 if self.network.decides else None
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            logits = self.logits(images[part])
            loss += loss_of(self.network, logits, wanted[part])[0] * len(logits)
            if wrong is not None:
                wrong += present(wrong_decisions(self.network, logits, wanted[part]))
        return StepResult(len(wanted), loss / len(wanted), wrong)

    def _checked_images(self, images: Any) -> np.ndarray:
        array = real_array("images", images)
        if array.dtype.kind != "f":
            raise TypeError(
                f"images must be reals in [0, 1], got dtype {array.dtype}; divide the pixels by "
                "their maximum"
            )
        height, width, channels = self.network.input_shape
        if array.ndim != 4 or array.shape[1:] != self.network.input_shape or not len(array):
            nchw = array.shape[1:] == (channels, height, width)
            hint = "; these are (N, C, H, W), pass images.transpose(0, 2, 3, 1)" if nchw else ""
            raise InputError(
                f"images must have shape (N, {height}, {width}, {channels}), got {array.shape}{hint}"
            )
        return np.ascontiguousarray(array, self.dtype)


def _shower(probe: Probe | None) -> Probe:
    """Shows arrays to the probe, if there is one, so that it cannot write into them."""
    function("probe", probe)
    if probe is None:
        return lambda tensor, layer, array: None

    def see(tensor: str, layer: str, array: np.ndarray) -> None:
        view = array.view()
        view.setflags(write=False)
        probe(tensor, layer, view)

    return see


def _checked_dtype(dtype: Any) -> np.dtype:
    for known in (np.float32, np.float64):
        if dtype is known or (isinstance(dtype, (str, np.dtype)) and dtype == np.dtype(known)):
            return np.dtype(known)
    raise InputError(f"dtype must be float32 or float64, got {shown(dtype)}")


def _checked_rate(rate: Any) -> float:
    if isinstance(rate, LearningRate):
        return rate.real
    real = number("learning rate", rate)
    if real < 0:
        raise InputError(f"learning rate must be at least 0, got {shown(rate)}")
    return real
