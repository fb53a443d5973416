"""The integer executor: inference and SGD training steps in true fixed point.

Every tensor is an array of codes; no float takes part.  A training step is, layer by layer:

    forward    Z = conv(A, W) + b, exact; clipped ReLU and one quantization to A of the next layer; pooling; dropout
    loss       logits quantized to 16 bits, softmax cross-entropy in integers, (p - onehot) / N to G^A
    backward   dropout, pooling and straight-through mask (0 < Z < 2, exact Z, both ends excluded) applied to G^A;
               G^W and the bias gradient: exact sums over the batch, one quantization each;
               G^A below: exact sum over all branches that read the tensor, one quantization
    update     W and its accumulator, see kernels/update.py; momentum and weight decay, see nn/optimizer.py

Source: Sakr and Shanbhag (ICLR 2019), section 2 and appendix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fxsim.accumulator import KINDS
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.kernels.elementwise import softmax as softmax_kernel
from fxsim.kernels.reductions import channel_sums
from fxsim.nn.fixed.accumulated import AccumulatedProducts
from fxsim.nn.fixed.batch_norm import BatchNorm, Running
from fxsim.nn.fixed.channelwise import ChannelSum, addition
from fxsim.nn.fixed.checks import MAX_LOGIT_RANGE_EXP as MAX_LOGIT_RANGE_EXP
from fxsim.nn.fixed.checks import check_images, check_labels, check_optimizer, check_supported
from fxsim.nn.fixed.layer import Record, before_relu, drop, gradient_format, pooled, relu_format
from fxsim.nn.fixed.parameters import Parameter
from fxsim.nn.fixed.products import Products
from fxsim.nn.fixed.step import Probe, Run, StepResult
from fxsim.nn.optimizer import PLAIN_SGD, Optimizer, Velocity, velocity_tensor
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Layer, Network
from fxsim.nn.state import Arrays, arrays_of, restore

FURTHER = ("bias", "gamma", "beta")
"""Parameters beside the weights."""


class FixedNetwork:
    """A network with integer parameters under a PrecisionAssignment.

    parameters: layer -> name ('weight', 'bias') -> real array, quantized here to the formats of W
    and b; the accumulators start at 0.  kernel: 'auto', or the path of kernels/gemm.py to force.
    seed: key of the random words, where a rounding is stochastic.  optimizer: momentum and weight
    decay. Raises InputError where the assignment is for another network or its widths allow no
    exact path."""

    def __init__(
        self,
        network: Network,
        assignment: PrecisionAssignment,
        parameters: Mapping[str, Mapping[str, np.ndarray]],
        kernel: str = "auto",
        seed: int = 0,
        optimizer: Optimizer = PLAIN_SGD,
    ):
        assignment.check_network(network)
        check_supported(network, assignment)
        check_optimizer(assignment, optimizer)
        self.network = network
        self.assignment = assignment.completed(network)
        self.seed = seed
        self._readers = {
            name: [layer.name for layer, source in network.edges() if source == name]
            for name in network.names
        }
        self.norms = {layer.name: self._norm(layer) for layer in network.layers if layer.batch_norm}
        self.running = {
            name: Running.quantized(parameters[name], norm.formats)
            for name, norm in self.norms.items()
        }
        self.products = {layer.name: self._products(layer, kernel) for layer in network.layers}
        self._additions = {
            layer.name: self._addition(layer)
            for layer in network.layers
            if layer.add and not layer.batch_norm
        }
        self.parameters = {
            layer.name: self._quantized(layer.name, parameters[layer.name])
            for layer in network.layers
        }
        if optimizer:
            self._add_velocities(optimizer)

    def _norm(self, layer: Layer) -> BatchNorm:
        formats = self.assignment.layers[layer.name]
        branch = self._output(layer.add)[2] if layer.add else None
        try:
            return BatchNorm(layer.name, formats, gradient_format(layer, formats), branch)
        except ValueError as error:
            raise InputError(f"layer {layer.name!r}, batch norm: {error}") from None

    def _products(self, layer: Layer, kernel: str) -> Products:
        formats = self.assignment.layers[layer.name]
        norm = self.norms.get(layer.name)
        grads = norm.gradient_format if norm else gradient_format(layer, formats)
        arguments = layer, self.network.shape(layer.name), formats, grads, kernel
        accumulators = self.assignment.accumulators_of(layer.name)
        try:
            return (
                AccumulatedProducts(*arguments, accumulators)
                if accumulators
                else Products(*arguments)
            )
        except ValueError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from None

    def _addition(self, layer: Layer) -> ChannelSum:
        """The sum of Z and the residual branch, where there is no batch norm between."""
        products = self.products[layer.name]
        try:
            return addition(products.sum_format, self._output(layer.add)[2], products.shape.pre[-1])
        except ValueError as error:
            raise InputError(f"layer {layer.name!r}, residual addition: {error}") from None

    def _quantized(self, name: str, real: Mapping[str, np.ndarray]) -> dict[str, Parameter]:
        formats = self.assignment.layers[name].given()
        parameters = {
            "weight": Parameter.quantized(
                real["weight"], formats["weights"], formats["accumulators"]
            )
        }
        for kind in ("gamma", "beta") if name in self.norms else ("bias",):
            parameters[kind] = Parameter.quantized(
                real[kind], formats[kind], formats[f"{kind}_accumulators"]
            )
        return parameters

    def _add_velocities(self, optimizer: Optimizer) -> None:
        for name, parameters in self.parameters.items():
            formats = self.assignment.layers[name].given()
            for kind, parameter in parameters.items():
                try:
                    parameter.velocity = Velocity.zeros(
                        parameter.codes.shape,
                        optimizer,
                        kind,
                        parameter.format,
                        formats[f"{kind}_grads"],
                    )
                except InputError as error:
                    raise InputError(f"layer {name!r}, {error}") from None

    @property
    def input_format(self) -> Format:
        """Format of the image codes that the methods take."""
        return self.assignment.layers[self.network.names[0]].activations

    def fingerprint(self) -> str:
        """SHA-256 of all codes that training changes, as little-endian int64, layer after layer."""
        digest = hashlib.sha256()
        for name, parameters in self.parameters.items():
            for codes in arrays_of(
                {**parameters, "running": self.running.get(name)}, name
            ).values():
                digest.update(np.ascontiguousarray(codes, "<i8").tobytes())
        return digest.hexdigest()

    def state(self) -> Arrays:
        """All that training changes: arrays of codes by name, lent."""
        return arrays_of(self.parameters, "parameters") | arrays_of(self.running, "running")

    def load_state(self, arrays: Arrays) -> None:
        """Take over what `state` gave; InputError where it does not fit this network."""
        restore(self.state(), arrays)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Class scores (N, M) in the logits format, of image codes (N, H, W, C) in input_format."""
        run = Run(StepResult(len(images)), self.assignment, self.seed, training=False)
        return self._forward(check_images(images, self.network, self.input_format), run, {})

    def evaluate(self, images: np.ndarray, labels: np.ndarray, batch: int = 256) -> StepResult:
        """Loss and errors over image codes (N, H, W, C), without training."""
        total = StepResult(len(images))
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            losses, wrong = self._losses(
                self.logits(images[part]), check_labels(labels[part], self.network)
            )
            total.loss_sum += int(losses.sum())
            total.wrong += wrong
            total.count_overflows(self.products, ("forward",))
        return total

    def train_step(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        learning_rate: LearningRate,
        step: int = 0,
        probe: Probe | None = None,
    ) -> StepResult:
        """One SGD step in place on image codes (N, H, W, C) in input_format and labels (N,).

        step: number of the step, part of the key of random words.
        """
        images = check_images(images, self.network, self.input_format)
        labels = check_labels(labels, self.network)
        run = Run(StepResult(len(images)), self.assignment, self.seed, step, probe)
        records = {}
        logits = self._forward(images, run, records)
        losses, run.result.wrong = self._losses(logits, labels)
        run.result.loss_sum = int(losses.sum())
        grads = self._backward(self._loss_gradient(logits, labels, run), records, run)
        self._update(grads, learning_rate, run)
        run.result.count_overflows(self.products, KINDS)
        return run.result

    def _forward(self, images: np.ndarray, run: Run, records: dict[str, Record]) -> np.ndarray:
        outputs = {None: images}
        for layer, source in self.network.edges():
            outputs[layer.name], records[layer.name] = self._forward_layer(
                layer, outputs, outputs[source], run
            )
        return outputs[self.network.names[-1]].reshape(len(images), -1)

    def _forward_layer(
        self, layer: Layer, outputs: dict[str | None, np.ndarray], source: np.ndarray, run: Run
    ) -> tuple[np.ndarray, Record]:
        weight = self._weight(layer.name, run)
        record = Record(source, weight, self.products[layer.name].shape.pre)
        self._see_operands(layer, source, weight, run)
        branch = outputs[layer.add] if layer.add else None
        codes = self._activate(layer, branch, record, run)
        if layer.pool and record.winner is None:
            codes, record.mask, record.winner = pooled(
                codes, record.mask, layer.pool, self.products[layer.name].shape.output
            )
        _, tensor, format = self._output(layer.name)
        codes = codes.astype(format.storage, copy=False)
        if layer.dropout and run.training:
            record.kept = drop(layer, codes, format, run)
        if tensor != "activations":  # those are seen where they are read
            run.see(tensor, layer.name, codes, format)
        return codes, record

    def _see_operands(self, layer: Layer, source: np.ndarray, weight: np.ndarray, run: Run) -> None:
        if not run.probe:
            return
        products = self.products[layer.name]
        parameters = self.parameters[layer.name]
        run.see("activations", layer.name, source, products.formats.activations)
        run.see("weights", layer.name, weight, products.formats.weights)
        for kind in FURTHER:
            if kind in parameters:
                run.see(kind, layer.name, parameters[kind].codes, parameters[kind].format)
        run.see(
            "preactivations",
            layer.name,
            products.forward_exact(source, weight, self._bias(layer.name)),
            products.sum_format,
        )

    def _bias(self, name: str) -> np.ndarray | None:
        parameters = self.parameters[name]
        return parameters["bias"].codes if "bias" in parameters else None

    def _activate(
        self, layer: Layer, branch: np.ndarray | None, record: Record, run: Run
    ) -> np.ndarray:
        """Codes (N, H, W, O) of what leaves the ReLU; the record gets the mask and x-hat.

        Or, with a winner in the record, of what leaves max pooling.
        """
        owner, tensor, format = self._output(layer.name)
        format = relu_format(layer, format)
        if not layer.batch_norm and not layer.add:
            codes, record.mask = self._product(layer.name, record, owner, tensor, format, run)
            return codes
        codes, sums = self._relu_input(layer, record, run)
        if run.probe:
            exact_format = self.norms[layer.name].output_format if layer.batch_norm else sums.format
            run.see("relu_inputs", layer.name, sums.exact(codes, branch), exact_format)
        elif layer.relu and layer.pool and layer.pool.kind == "max":
            both = run.quantize_and_pool(
                owner, tensor, sums, codes, branch, format, layer.pool.size
            )
            if both:
                codes, record.winner = both
                return codes
        codes, record.mask = run.quantize_relu(
            owner, tensor, sums, codes, branch, format, layer.relu
        )
        return codes

    def _relu_input(self, layer: Layer, record: Record, run: Run) -> tuple[np.ndarray, ChannelSum]:
        """What the ReLU reads, as a sum of codes and the residual branch."""
        name = layer.name
        if not layer.batch_norm:
            return self.products[name].forward_exact(
                record.source, record.weight, self._bias(name)
            ), self._additions[name]
        norm = self.norms[name]
        parameters = self.parameters[name]
        moments = np.empty((2, record.shape[-1]), np.int64) if run.training else None
        codes, _ = self._product(name, record, name, "preactivations", norm.input, run, moments)
        record.normalized = norm.forward(codes, moments, self.running[name], run)
        return record.normalized.codes, norm.affine(
            parameters["gamma"].codes, parameters["beta"].codes
        )

    def _product(
        self,
        name: str,
        record: Record,
        owner: str,
        tensor: str,
        format: Format,
        run: Run,
        moments: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """(codes, ReLU mask if the ReLU follows at once) of Z quantized to a tensor of layer
        `owner`; fills moments.
        """
        products = self.products[name]
        requantizer = run.requantizer(products.sum_format.step_exp, tensor, format)
        codes, mask, tally = products.forward(
            record.source,
            record.weight,
            self._bias(name),
            requantizer,
            run.stream(owner, tensor),
            moments,
        )
        run.count(owner, tensor, codes.size, tally)
        return codes, mask

    def _weight(self, name: str, run: Run) -> np.ndarray:
        """Codes of W_l as the products of this step read them."""
        return self.parameters[name]["weight"].codes

    def _output(self, name: str) -> tuple[str, str, Format]:
        """Whose tensor the output of a layer is, its name and its format."""
        if name == self.network.names[-1]:
            return name, "logits", self.assignment.logits
        if not self._readers[name]:
            return name, "branch", self.assignment.layers[name].branch
        owner = self._readers[name][0]
        return owner, "activations", self.assignment.layers[owner].activations

    def _losses(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        losses = np.empty(len(logits), np.int64)
        shift = softmax_kernel.softmax_scale_shift(self.assignment.logits.step_exp)
        wrong = softmax_kernel.softmax_cross_entropy(
            logits, labels, shift, softmax_kernel.EXP2_TABLE, losses
        )
        return losses, int(wrong)

    def _loss_gradient(self, logits: np.ndarray, labels: np.ndarray, run: Run) -> np.ndarray:
        name = self.network.names[-1]
        format = self.assignment.layers[name].activation_grads
        left, divisor = softmax_kernel.gradient_division(format.step_exp, len(logits))
        requantizer = run.requantizer(
            format.step_exp - softmax_kernel.GUARD_BITS, "activation_grads", format
        )
        stream = run.stream(name, "activation_grads")
        shift = softmax_kernel.softmax_scale_shift(self.assignment.logits.step_exp)
        bases = requantizer.bases(stream, logits.shape, requantizer.shift).reshape(len(logits), -1)
        out = np.empty(logits.shape, format.storage)
        tally = np.zeros(3, np.int64)
        softmax_kernel.softmax_gradient(
            logits,
            labels,
            shift,
            softmax_kernel.EXP2_TABLE,
            left,
            divisor,
            bases,
            *requantizer.terms(requantizer.shift),
            *requantizer.bounds()[:4],
            out,
            tally,
        )
        run.count(name, "activation_grads", out.size, tally)
        return out.reshape(len(logits), 1, 1, -1)

    def _backward(
        self, scores_grad: np.ndarray, records: dict[str, Record], run: Run
    ) -> dict[str, dict]:
        """Codes of the gradients of all parameters, layer -> name -> array."""
        output_grads = {self.network.names[-1]: scores_grad}
        branches = {}
        grads = {}
        for layer, source in reversed(list(self.network.edges())):
            name = layer.name
            products = self.products[layer.name]
            if name in branches:
                output_grads[name] = self._join(name, branches.pop(name), run)
            record = records.pop(name)
            arriving = output_grads.pop(name)
            run.see("activation_grads", name, arriving, products.formats.activation_grads)
            inner = before_relu(arriving, layer, record, products.formats, run.in_place)
            if layer.add:
                step_exp = gradient_format(layer, products.formats).step_exp
                branches.setdefault(layer.add, []).append((inner, step_exp))
            inner, own = self._before_norm(name, inner, record, run)
            run.see("preactivation_grads", name, inner, products.gradient_format)
            grads[name] = self._parameter_grads(name, record.source, inner, run) | own
            if source is None:
                continue
            if self._joined(source):
                exact = products.input_grad_exact(inner, record.weight, record.source.shape)
                branches.setdefault(source, []).append((exact, products.input_grad_step_exp))
            else:
                requantizer, stream = self._activation_grads_requantizer(
                    source, products.input_grad_step_exp, run
                )
                codes, tally = products.input_grad(
                    inner, record.weight, record.source.shape, requantizer, stream
                )
                run.count(source, "activation_grads", codes.size, tally)
                output_grads[source] = codes
        return grads

    def _joined(self, name: str) -> bool:
        """Whether the gradient of a layer's output comes from several places."""
        return len(self._readers[name]) > 1 or any(
            layer.add == name for layer in self.network.layers
        )

    def _before_norm(
        self, name: str, grads: np.ndarray, record: Record, run: Run
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Codes of the gradient at the pre-activations, and of those of gamma and beta where
        there is batch norm.
        """
        if name not in self.norms:
            return grads, {}
        run.see("relu_input_grads", name, grads, self.norms[name].grads)
        in_place = (
            run.in_place and not self.network.layer(name).add
        )  # a residual branch reads the gradients, too
        return self.norms[name].backward(
            grads, record.normalized, self.parameters[name]["gamma"], run, in_place
        )

    def _activation_grads_requantizer(self, name: str, step_exp: int, run: Run):
        format = self.assignment.layers[name].activation_grads
        return run.requantizer(step_exp, "activation_grads", format), run.stream(
            name, "activation_grads"
        )

    def _join(self, name: str, branches: list[tuple[np.ndarray, int]], run: Run) -> np.ndarray:
        """G^A of a tensor that several layers read or add.

        Steps aligned, exact sum, one quantization.
        """
        step_exp = min(exp for _, exp in branches)
        total = sum(exact.astype(np.int64) << (exp - step_exp) for exact, exp in branches)
        return run.quantize_exact(
            name, "activation_grads", total, step_exp, self.assignment.layers[name].activation_grads
        )

    def _parameter_grads(
        self, name: str, source: np.ndarray, inner: np.ndarray, run: Run
    ) -> dict[str, np.ndarray]:
        """Codes of G^W, and of the bias gradient where there is a bias."""
        products = self.products[name]
        formats = products.formats
        step_exp = products.gradient_format.step_exp
        requantizer = run.requantizer(
            products.weight_grad_step_exp, "weight_grads", formats.weight_grads
        )
        weight_grads, tally = products.weight_grad(
            source, inner, requantizer, run.stream(name, "weight_grads")
        )
        run.count(name, "weight_grads", weight_grads.size, tally)
        run.see("weight_grads", name, weight_grads, formats.weight_grads)
        if not products.layer.bias:
            return {"weight": weight_grads}
        bias_grads = run.quantize_exact(
            name, "bias_grads", channel_sums(inner), step_exp, formats.bias_grads
        )
        run.see("bias_grads", name, bias_grads, formats.bias_grads)
        return {"weight": weight_grads, "bias": bias_grads}

    def _update(
        self, grads: dict[str, dict[str, np.ndarray]], learning_rate: LearningRate, run: Run
    ) -> None:
        for name, parameters in self.parameters.items():
            formats = self.assignment.layers[name].given()
            for kind, parameter in parameters.items():
                tensor = "accumulators" if kind == "weight" else f"{kind}_accumulators"
                direction, step_exp = self._direction(
                    name, kind, grads[name][kind], formats[f"{kind}_grads"], run
                )
                tally = parameter.update(
                    direction,
                    step_exp,
                    learning_rate,
                    self.assignment.rounding_of(tensor),
                    run.stream(name, tensor),
                )
                if kind == "weight":
                    run.count(name, "weights", parameter.codes.size, (0, tally.weights_clipped, 0))
                    run.result.stopped[name] = tally.stopped
                run.count(
                    name,
                    tensor,
                    parameter.codes.size,
                    (0, tally.accumulators_clipped, tally.flushed),
                )
                run.see(
                    "updated_weights" if kind == "weight" else f"updated_{kind}",
                    name,
                    parameter.codes,
                    parameter.format,
                )
                run.see(tensor, name, parameter.accumulators, parameter.accumulator_format)

    def _direction(
        self, name: str, kind: str, grads: np.ndarray, format: Format, run: Run
    ) -> tuple[np.ndarray, int]:
        """Codes and step_exp of what the update goes against.

        The velocity where there is one, else the gradient.
        """
        parameter = self.parameters[name][kind]
        velocity = parameter.velocity
        if velocity is None:
            return grads, format.step_exp
        tensor = velocity_tensor(kind)
        tally = velocity.advance(
            grads,
            parameter.codes,
            self.assignment.rounding_of(tensor),
            self.assignment.overflow_of(tensor),
            run.stream(name, tensor),
        )
        run.count(name, tensor, grads.size, tally)
        run.see(tensor, name, velocity.codes, velocity.format)
        return velocity.codes, velocity.format.step_exp
