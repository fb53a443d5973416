"""The integer executor: inference and SGD training steps in true fixed point.

Every tensor is an array of codes; no float takes part.  A training step is, layer by layer:

    forward    Z = conv(A, W) + b, exact; activation and one quantization to A of the next layer;
               pooling; dropout
    loss       logits quantized, the loss in integers, its gradient as one exact quotient to G^A
    backward   dropout, pooling and straight-through mask (0 < Z < the ReLU's ceiling, exact Z, both
               ends excluded) applied to G^A;
               G^W and the bias gradient: exact sums over the batch, one quantization each;
               G^A below: exact sum over all branches that read the tensor, one quantization
    update     W and its accumulator, see ops/update.py; momentum and weight decay, see
               nn/optimizer.py

Source: Sakr and Shanbhag (ICLR 2019), section 2 and appendix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import numpy as np

from fxsim.communicator import ALONE, Communicator, share_of, together
from fxsim.errors import InputError, present, shown
from fxsim.factors import LearningRate
from fxsim.fields import FrozenDict, function, instance
from fxsim.formats import Format
from fxsim.nn.fixed.checks import check_optimizer, check_supported
from fxsim.nn.fixed.inputs import (
    checked_first,
    checked_images,
    checked_rate,
    checked_state,
    checked_step,
)
from fxsim.nn.fixed.layer import FURTHER, FixedLayer, LayerGrads, LayerTape, Output
from fxsim.nn.fixed.loss import FixedLoss
from fxsim.nn.fixed.parameters import TrainedParameter
from fxsim.nn.fixed.step import Inference, Probe, Step, StepResult, lent
from fxsim.nn.folding import check_representable, folded_assignment, without_batch_norm
from fxsim.nn.init import checked_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_tensor, update_tensor
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer, Velocity, velocity_tensor
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Layer, Network
from fxsim.nn.state import Arrays
from fxsim.ops.arithmetic import add
from fxsim.ops.batch_norm import Running, running_format
from fxsim.ops.exact import Exact
from fxsim.ops.integers import divided
from fxsim.ops.paths import check_path
from fxsim.ops.summation import addition
from fxsim.ops.update import scaled
from fxsim.rng import Stream
from fxsim.tensor import Tensor

__all__ = ["FURTHER", "FixedNetwork", "Inference", "Probe", "StepResult"]

LayerParameters = dict[str, TrainedParameter]


WHOLE = LearningRate.of(1.0)
"""Of an update that has been multiplied by the learning rate."""


class FixedNetwork:
    """A network with integer parameters under a PrecisionAssignment.

    Args:
        network: what is computed.
        assignment: a format for every tensor.
        parameters: layer -> name ('weight', 'bias', ...) -> real array, quantized here to the
            formats of W and b; the accumulators start at 0.
        kernel: 'auto', or the instruction path to force (see fxsim.ops.plan).
        seed: key of the random words, where a rounding is stochastic.
        optimizer: momentum and weight decay.

    Raises:
        TypeError: for parameters that are no real arrays.
        InputError: where the assignment is for another network, a parameter is missing or has
            another shape, or widths allow no exact path.
    """

    def __init__(
        self,
        network: Network,
        assignment: PrecisionAssignment,
        parameters: Mapping[str, Mapping[str, np.ndarray]],
        kernel: str = "auto",
        seed: int = 0,
        optimizer: Optimizer = PLAIN_SGD,
    ):
        instance("assignment", assignment, PrecisionAssignment).check_network(network)
        instance("optimizer", optimizer, Optimizer)
        check_path("kernel", kernel)
        check_supported(network, assignment)
        check_optimizer(assignment, optimizer)
        real = checked_parameters(network, parameters)
        self.network = network
        self.assignment = assignment.completed(network)
        self._loss = FixedLoss(network, self.assignment.logits)
        self.seed = Stream(seed, 0, "").seed
        self._readers = {
            name: [layer.name for layer, source in network.edges() if source == name]
            for name in network.names
        }
        self.layers = {
            layer.name: FixedLayer(
                network,
                layer.name,
                self.assignment,
                self._output(layer.name),
                self._output(layer.add).format if layer.add else None,
                kernel,
            )
            for layer in network.layers
        }
        self._check_joins()
        self._parameters = {name: self._quantized(name, real[name]) for name in network.names}
        self._running = {
            name: Running.quantized(real[name], layer.norm.formats)
            for name, layer in self.layers.items()
            if layer.norm is not None
        }
        if optimizer:
            self._add_velocities(optimizer)

    def _output(self, name: str) -> Output:
        """Whose tensor the output of a layer is, its name and its format."""
        layers = self.assignment.layers
        if name == self.network.names[-1]:
            return Output(name, "logits", self.assignment.logits)
        if not self._readers[name]:
            return Output(name, "branch", present(layers[name].branch))
        owner = self._readers[name][0]
        return Output(owner, "activations", layers[owner].activations)

    def _check_joins(self) -> None:
        """InputError where the gradients of several readers cannot be added exactly."""
        for name in self.network.names:
            if name not in self.network.reached or not self._joined(name):
                continue
            total: Format | None = None
            for each in self._arriving_formats(name):
                try:
                    total = each if total is None else addition(total, each, 1).format
                except InputError as error:
                    raise InputError(f"layer {name!r}, gradients of its readers: {error}") from None

    def _arriving_formats(self, name: str) -> Iterator[Format]:
        """Formats of the gradients that add up at the output of a layer, as `_backward` adds them."""
        for layer, source in reversed(list(self.network.edges())):
            if layer.add == name:
                yield self.layers[layer.name].inner_format
            if source == name:
                yield present(self.layers[layer.name].input_grad).format

    def _quantized(self, name: str, real: Mapping[str, np.ndarray]) -> LayerParameters:
        formats = self.assignment.layers[name].given()
        layer = self.network.layer(name)
        parameters = {}
        for kind in ("weight", *layer.further_parameters):
            format = formats["weights" if kind == "weight" else kind]
            held = formats.get(accumulator_tensor(kind)) if kind in layer.trained else None
            parameters[kind] = TrainedParameter.quantized(real[kind], format, held)
        return parameters

    def _add_velocities(self, optimizer: Optimizer) -> None:
        for name, parameters in self._parameters.items():
            formats = self.assignment.layers[name].given()
            for kind in self.network.layer(name).trained:
                parameter = parameters[kind]
                grads = formats[f"{kind}_grads"]
                shape = parameter.codes.shape
                try:
                    parameter.velocity = Velocity.zeros(
                        shape, optimizer, kind, parameter.format, grads
                    )
                except InputError as error:
                    raise InputError(f"layer {name!r}, {error}") from None

    @property
    def input_format(self) -> Format:
        """Format of the image codes that the methods take."""
        return self.assignment.layers[self.network.names[0]].activations

    @property
    def parameters(self) -> Mapping[str, Mapping[str, TrainedParameter]]:
        """Layer -> kind -> parameter; neither the mappings nor the arrays can be written."""
        return FrozenDict({name: FrozenDict(own) for name, own in self._parameters.items()})

    @property
    def running(self) -> Mapping[str, Running]:
        """Layer -> running statistics of batch norm, copied."""
        return {
            name: Running(own.mean.copy(), own.variance.copy())
            for name, own in self._running.items()
        }

    def __copy__(self) -> NoReturn:
        raise TypeError("a shallow copy would train with the same parameters; use copy.deepcopy")

    def fingerprint(self) -> str:
        """SHA-256 of all codes that training changes, as little-endian int64, layer after layer."""
        digest = hashlib.sha256()
        for name in self.network.names:
            for _, codes, _ in self._arrays_of(name):
                digest.update(np.ascontiguousarray(codes, "<i8").tobytes())
        return digest.hexdigest()

    def _arrays_of(self, name: str) -> Iterator[tuple[str, np.ndarray, Format]]:
        """(name, array, format) of all that training changes in a layer."""
        for kind, parameter in self._parameters[name].items():
            for part, array, format in parameter.arrays():
                yield f"parameters.{name}.{kind}.{part}", array, format
        if name in self._running:
            norm = present(self.layers[name].norm)
            running = self._running[name]
            mean = running_format(norm.formats.mean)
            yield f"running.{name}.mean", running.mean, mean
            variance = running_format(norm.formats.variance)
            yield f"running.{name}.variance", running.variance, variance

    def _state(self) -> dict[str, tuple[np.ndarray, Format]]:
        return {
            name: (array, format)
            for layer in self.network.names
            for name, array, format in self._arrays_of(layer)
        }

    def folded(self, assignment: PrecisionAssignment | None = None) -> FixedNetwork:
        """The network of inference with batch norm folded into weights and bias.

        Each channel's weight and bias become weight s and beta - mean s, s being gamma times the
        inverse root of the running variance, exact, and rounded once to their new formats, to the
        nearest, ties away from zero.  Accumulators below the parameters start at 0.

        Args:
            assignment: Formats of the network without batch norm; None for this one's, without
                those of batch norm.

        Raises:
            InputError: A folded value outside its format (the message names layer, channel, value
                and the range it needs), or an assignment that does not fit.

        Example:
            >>> from fxsim import Dense, FixedNetwork, Network, presets
            >>> from fxsim.nn.init import initial_parameters
            >>> layers = (Dense(name="a", units=2, batch_norm=True),
            ...           Dense(name="scores", units=2, activation="none"))
            >>> network = Network("n", (1, 1, 3), layers)
            >>> formats = presets.uniform("Q4.12").assignment(network)
            >>> fixed = FixedNetwork(network, formats, initial_parameters(network, 0))
            >>> fixed.folded().network.layer("a").has_bias
            True
        """
        network = without_batch_norm(self.network)
        given = assignment or folded_assignment(self.assignment, network)
        instance("assignment", given, PrecisionAssignment).check_network(network)
        real = {name: self._folded_layer(name, given.layers[name]) for name in network.names}
        return FixedNetwork(network, given, real, seed=self.seed)

    def _folded_layer(self, name: str, formats: LayerPrecision) -> dict[str, np.ndarray]:
        """Real parameters, in whole steps of their formats where batch norm is folded."""
        own = self._parameters[name]
        norm = self.layers[name].norm
        if norm is None:
            return {kind: parameter.tensor.real for kind, parameter in own.items()}
        gamma, beta = (own[kind].codes.astype(np.int64) for kind in ("gamma", "beta"))
        exact = norm.folded(own["weight"].tensor, gamma, beta, self._running[name])
        made = {}
        for kind, tensor, (numbers, step_exp) in zip(
            ("weight", "bias"), ("weights", "bias"), exact
        ):
            format: Format = getattr(formats, tensor)
            codes = divided(numbers, 1, step_exp - format.step_exp)
            check_representable(name, tensor, codes, format)
            made[kind] = codes.astype(np.int64) * format.step
        return made

    def state(self) -> Arrays:
        """All that training changes: copies of the arrays of codes, by name."""
        return {name: array.copy() for name, (array, _) in self._state().items()}

    def load_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave.

        Raises:
            InputError: where it does not fit this network, or holds codes outside their formats.
                Nothing is taken over then.
        """
        self._set_state(checked_state(self._state(), arrays))

    def _set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, (array, _) in self._state().items():
            array[...] = arrays[name]

    @property
    def target_format(self) -> Format:
        """Format of the codes of targets that are tensors: that of the logits."""
        return self.assignment.logits

    def logits(self, images: Any, first: int = 0) -> np.ndarray:
        """Logits (N, classes) in the logits format, without training.

        Without classes all outputs of an image, row-major.

        Args:
            images: codes (N, H, W, C) in input_format.
            first: place of the first image in its data set, 0 to 2**32 - 1.  Stochastic roundings
                draw the words of an image by its place.
        """
        return self.infer(images, first).logits.codes

    def infer(self, images: Any, first: int = 0, probe: Probe | None = None) -> Inference:
        """Logits, and the counts of every quantization on the way, without training.

        Args:
            images, first: as for `logits`.
            probe: called with every tensor, in data-flow order; each is a copy, its own to keep.
        """
        codes = checked_images(images, self.network, self.input_format)
        function("probe", probe)
        result = StepResult(len(codes))
        logits = self._logits(codes, result, checked_first(first), probe)
        return Inference(logits, result.counts, result.overflows)

    def _logits(
        self, images: Tensor, result: StepResult, first: int, probe: Probe | None = None
    ) -> Tensor:
        share = share_of(len(images), ALONE)
        step = Step(
            result, self.assignment, self.seed, share, probe=probe, training=False, first=first
        )
        return self._forward(images, step, {})

    def evaluate(
        self,
        images: Any,
        targets: Any,
        batch: int = 256,
        first: int = 0,
        communicator: Communicator = ALONE,
    ) -> StepResult:
        """Loss and errors over image codes (N, H, W, C), without training.

        The result does not depend on `batch`, the images at a time.  targets, communicator: as for
        `train_step`.  first: as for `logits`.
        """
        codes = checked_images(images, self.network, self.input_format)
        place = checked_first(first)
        wanted = self._loss.checked(targets, len(codes))
        if isinstance(batch, bool) or not isinstance(batch, (int, np.integer)) or batch < 1:
            raise InputError(f"batch must be an integer of at least 1, got {shown(batch)}")
        share = share_of(len(codes), instance("communicator", communicator, Communicator))
        total = StepResult(len(codes))
        with together(communicator):
            self._evaluate(codes[share.part], wanted[share.part], batch, place + share.first, total)
            Step(total, self.assignment, self.seed, share).gather()
        return total

    def _evaluate(
        self, codes: Tensor, targets: np.ndarray, batch: int, place: int, total: StepResult
    ) -> None:
        """Add what was met over images, the first of which is at `place`."""
        for start in range(0, len(codes), batch):
            part = slice(start, start + batch)
            result = StepResult(len(targets[part]))
            logits = self._logits(codes[part], result, place + start)
            self._loss.add(logits, targets[part], total)
            for key, overflows in result.overflows.items():
                before = total.overflows.get(key)
                total.overflows[key] = overflows if before is None else before + overflows

    def train_step(
        self,
        images: Any,
        targets: Any,
        learning_rate: LearningRate | float,
        step: int,
        probe: Probe | None = None,
        communicator: Communicator = ALONE,
    ) -> StepResult:
        """One SGD step in place: all of it, or, where anything is raised, nothing.

        Args:
            images: codes (N, H, W, C) in input_format.
            targets: (N,) class numbers; where the network's targets are tensors, codes in
                target_format of the outputs' shape (see fxsim.nn.targets).
            learning_rate: of this step; a float stands for the nearest with a 16-bit mantissa.
            step: number of the step; it is part of the key of the random words, so that every step
                needs another.
            probe: called with every tensor, in data-flow order; each is a copy, its own to keep.
            communicator: those that take the step together.  Each of them calls with the same
                arguments, computes its share of the images, and comes to the same parameters and
                the same result, those of one alone.

        Raises:
            InputError: for what does not fit, sums over the batch among them; where several take
                the step, for a probe, or an accumulator that adds up the batch in order.
        """
        codes = checked_images(images, self.network, self.input_format)
        wanted = self._loss.checked(targets, len(codes))
        rate = checked_rate(learning_rate)
        number = checked_step(step)
        function("probe", probe)
        for layer in self.layers.values():
            layer.check_batch(len(codes))
        share = share_of(len(codes), instance("communicator", communicator, Communicator))
        if communicator.size > 1:
            self._check_shares(probe)
        result = StepResult(len(codes))
        run = Step(result, self.assignment, self.seed, share, number, probe, first=share.first)
        before = self.state()
        try:
            with together(communicator):
                self._train(codes[share.part], wanted[share.part], rate, run)
        except BaseException:  # of a probe, a lack of memory, an interrupt: the step is undone
            self._set_state(before)
            raise
        return result

    def _check_shares(self, probe: Probe | None) -> None:
        """InputError for what needs the whole batch in one place."""
        if probe is not None:
            raise InputError("probe sees the tensors of a whole batch; take the step on one rank")
        for layer in self.layers.values():
            layer.check_shares()

    def _train(self, images: Tensor, targets: np.ndarray, rate: LearningRate, run: Step) -> None:
        tapes: dict[str, LayerTape] = {}
        logits = self._forward(images, run, tapes)
        self._loss.add(logits, targets, run.result)
        grads = self._backward(self._loss_grads(logits, targets, run), tapes, run)
        self._update(grads, rate, run)
        run.gather()

    def _forward(self, images: Tensor, step: Step, tapes: dict[str, LayerTape]) -> Tensor:
        """The logits (N, outputs); each layer's tape for the way back."""
        outputs: dict[str | None, Tensor] = {None: images}
        for layer, source in self.network.edges():
            name = layer.name
            tape = LayerTape(outputs[source], self._weight(name, step))
            branch = outputs[layer.add] if layer.add else None
            parameters = self._parameters[name]
            running = self._running.get(name)
            outputs[name] = self.layers[name].forward(tape, branch, parameters, running, step)
            tapes[name] = tape
        return outputs[self.network.names[-1]].reshape(len(images), -1)

    def _weight(self, name: str, step: Step) -> Tensor:
        """W_l as the products of this step read it."""
        return self._parameters[name]["weight"].tensor

    def _loss_grads(self, logits: Tensor, targets: np.ndarray, step: Step) -> Tensor:
        name = self.network.names[-1]
        format = self.assignment.layers[name].activation_grads
        quantizer = step.quantizer(name, "activation_grads", format)
        grads = self._loss.grad(logits, targets, step.result.samples).to(quantizer)
        return grads.reshape(len(logits), *self.layers[name].shape.output)

    def _backward(
        self, logits_grads: Tensor, tapes: dict[str, LayerTape], step: Step
    ) -> dict[str, dict[str, Tensor]]:
        """The gradients of all parameters that are trained, layer -> kind -> Tensor."""
        arriving: dict[str, list[Tensor | Exact]] = {self.network.names[-1]: [logits_grads]}
        grads = {}
        begun = {}
        for layer, source in reversed(list(self.network.edges())):
            name = layer.name
            tape = tapes.pop(name)
            if name not in self.network.reached:
                continue
            output = self._joined_grads(name, arriving.pop(name), step)
            made = self.layers[name].backward(tape, output, self._parameters[name], step)
            grads[name] = made.parameters
            begun[name] = made.begun
            if not step.is_part:
                grads[name] |= _ended(begun.pop(name))
            if layer.add in self.network.reached:
                arriving.setdefault(layer.add, []).append(made.inner)
            if source in self.network.reached:
                below = self._below(layer, source, tape, made, step)
                arriving.setdefault(source, []).append(below)
        for name, own in begun.items():  # exchanged while the layers below were computed
            grads[name] |= _ended(own)
        return grads

    def _joined(self, name: str) -> bool:
        """Whether the gradient of a layer's output comes from several places."""
        added = any(layer.add == name for layer in self.network.layers)
        return len(self._readers[name]) > 1 or added

    def _below(
        self, layer: Layer, source: str, tape: LayerTape, made: LayerGrads, step: Step
    ) -> Tensor | Exact:
        """The gradient at the input of a layer, exact where others are to be added to it."""
        exact = self.layers[layer.name].input_grads(tape, made.pre)
        if self._joined(source):
            sums = exact.tensor()
            step.count_overflows(layer.name, "input_grad", exact)
            return sums.reshape(*tape.input.shape)
        format = self.assignment.layers[source].activation_grads
        codes = exact.to(step.quantizer(source, "activation_grads", format))
        step.count_overflows(layer.name, "input_grad", exact)
        return codes.reshape(*tape.input.shape)

    def _joined_grads(self, name: str, parts: list[Tensor | Exact], step: Step) -> Tensor:
        """G^A of a layer's output: exact sum over all that read or add it, one quantization."""
        if not self._joined(name):
            (only,) = parts
            return only if isinstance(only, Tensor) else only.tensor()
        first, *others = parts
        total: Tensor | Exact = first
        for part in others:
            total = add(total, part)
        format = self.assignment.layers[name].activation_grads
        quantizer = step.quantizer(name, "activation_grads", format)
        if isinstance(total, Tensor):
            codes = quantizer.quantized(total.operand, total.format.step_exp)
            return lent(codes, format)
        return total.to(quantizer)

    def _update(self, grads: dict[str, dict[str, Tensor]], rate: LearningRate, step: Step) -> None:
        for name, parameters in self._parameters.items():
            for kind in self.network.layer(name).trained:
                self._update_parameter(name, kind, parameters[kind], grads[name][kind], rate, step)

    def _update_parameter(
        self,
        name: str,
        kind: str,
        parameter: TrainedParameter,
        grads: Tensor,
        rate: LearningRate,
        step: Step,
    ) -> None:
        tensor = accumulator_tensor(kind)
        direction = self._direction(name, kind, parameter, grads, step)
        quantizer = step.uncounted(name, tensor, parameter.update_format)
        format = self.assignment.layers[name].given().get(update_tensor(kind))
        try:
            if format is not None:
                direction = self._rounded_update(name, kind, direction, rate, format, step)
                rate = WHOLE
            tally = parameter.update(direction, rate, quantizer)
        except InputError as error:
            raise InputError(f"layer {name!r}, update of {kind}: {error}") from None
        held = parameter.accumulators is not None
        step.count_update(name, kind, tensor if held else None, grads.size, tally)
        updated = "updated_weights" if kind == "weight" else f"updated_{kind}"
        step.see(updated, name, parameter.tensor)
        if parameter.accumulators is not None and parameter.accumulator_format is not None:
            step.see(tensor, name, lent(parameter.accumulators, parameter.accumulator_format))

    def _rounded_update(
        self, name: str, kind: str, grads: Tensor, rate: LearningRate, format: Format, step: Step
    ) -> Tensor:
        """Rate times gradient, as a tensor of its own."""
        tensor = update_tensor(kind)
        codes = scaled(grads, rate).to(step.quantizer(name, tensor, format))
        step.see(tensor, name, codes)
        return codes

    def _direction(
        self, name: str, kind: str, parameter: TrainedParameter, grads: Tensor, step: Step
    ) -> Tensor:
        """What the update goes against: the velocity where there is one, else the gradient."""
        velocity = parameter.velocity
        if velocity is None:
            return grads
        tensor = velocity_tensor(kind)
        velocity.advance(grads, parameter.tensor, step.quantizer(name, tensor, velocity.format))
        moved = lent(velocity.codes, velocity.format)
        step.see(tensor, name, moved)
        return moved


def _ended(begun: Mapping[str, Callable[[], Tensor]]) -> dict[str, Tensor]:
    """Gradients whose sums were begun."""
    return {kind: ended() for kind, ended in begun.items()}
