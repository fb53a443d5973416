"""The integer executor: inference and SGD training steps in true fixed point.

Every tensor is an array of codes; no float takes part.  A training step is, layer by layer:

    forward    Z = conv(A, W) + b, exact; clipped ReLU and one quantization to A of the next layer; pooling
    loss       logits quantized to 16 bits, softmax cross-entropy in integers, (p - onehot) / N to G^A
    backward   pooling and straight-through mask (0 < Z < 2, exact Z, both ends excluded) applied to G^A;
               G^W and the bias gradient: exact sums over the batch, one quantization each;
               G^A below: exact sum over all branches that read the tensor, one quantization
    update     W and its accumulator, see kernels/update.py

Source: Sakr and Shanbhag (ICLR 2019), section 2 and appendix.
"""
from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from fxsim.errors import InputError
from fxsim.formats import Format
from fxsim.kernels import pool as pool_kernel
from fxsim.kernels import softmax as softmax_kernel
from fxsim.kernels.gate import channel_sums, gate
from fxsim.nn.codes import LearningRate, storage, tensor_stream
from fxsim.nn.parameters import Parameter
from fxsim.nn.products import Products
from fxsim.nn.spec import Layer, Network, Pool, Shape
from fxsim.precision import PrecisionAssignment
from fxsim.requantizer import Requantizer
from fxsim.tensor import Counts, Tensor

Probe = Callable[[str, str, Tensor], None]
"""probe(tensor, layer, value): called with every tensor of a step, in data-flow order."""

MAX_LOGIT_RANGE_EXP = 13
"""Up to here the loss in steps of 2**-24 fits an int64 (kernels/softmax.py)."""


@dataclass
class StepResult:
    """What one step did: losses, errors, quantization counts.

    loss_sum: sum of per-sample losses in steps of 2**-24.  wrong: rows whose first greatest logit is not at
    the label.  counts: (layer, tensor) -> Counts of the quantization that made the tensor.
    stopped: layer -> non-zero updates that did not move a weight's code.
    """

    samples: int
    loss_sum: int = 0
    wrong: int = 0
    counts: dict[tuple[str, str], Counts] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean loss per sample (nats)."""
        return self.loss_sum / self.samples * 2.0**softmax_kernel.LOSS_STEP_EXP

    @property
    def error(self) -> float:
        """Share of samples that are classified wrong."""
        return self.wrong / self.samples


@dataclass
class _Record:
    """What the backward pass needs of a layer's forward pass: A_l, ReLU mask, winners of max pooling."""

    source: np.ndarray
    mask: np.ndarray | None
    winner: np.ndarray | None


@dataclass
class _Run:
    """One step under way."""

    result: StepResult
    step: int
    probe: Probe | None

    def see(self, tensor: str, layer: str, codes: np.ndarray, format: Format) -> None:
        if self.probe:
            self.probe(tensor, layer, Tensor(codes, format))

    def count(self, layer: str, tensor: str, elements: int, tally: np.ndarray) -> None:
        self.result.counts[layer, tensor] = Counts(elements, *(int(n) for n in tally))


class FixedNetwork:
    """A network with integer parameters under a PrecisionAssignment.

    parameters: layer -> name ('weight', 'bias') -> real array, quantized here to the formats of W and b; the
    accumulators start at 0.  kernel: 'auto', or the path of kernels/gemm.py to force.  seed: key of the random
    words, where a rounding is stochastic.
    Raises InputError where the assignment is for another network or its widths allow no exact path.
    """

    def __init__(self, network: Network, assignment: PrecisionAssignment,
                 parameters: Mapping[str, Mapping[str, np.ndarray]], kernel: str = "auto", seed: int = 0):
        assignment.check_network(network)
        _check_supported(network, assignment)
        self.network, self.assignment, self.seed = network, assignment, seed
        self.products = {layer.name: self._products(layer, kernel) for layer in network.layers}
        self.parameters = {layer.name: self._quantized(layer.name, parameters[layer.name]) for layer in network.layers}
        self._readers = {name: [layer.name for layer, source in network.edges() if source == name]
                         for name in network.names}

    def _products(self, layer: Layer, kernel: str) -> Products:
        formats = self.assignment.layers[layer.name]
        try:
            return Products(layer, self.network.shape(layer.name), formats, _gradient_format(layer, formats), kernel)
        except ValueError as error:
            raise InputError(f"layer {layer.name!r}: {error}") from None

    def _quantized(self, name: str, real: Mapping[str, np.ndarray]) -> dict[str, Parameter]:
        formats = self.assignment.layers[name]
        return {
            "weight": Parameter.quantized(real["weight"], formats.weights, formats.accumulators),
            "bias": Parameter.quantized(real["bias"], formats.bias, formats.bias_accumulators),
        }

    @property
    def input_format(self) -> Format:
        """Format of the image codes that the methods take."""
        return self.assignment.layers[self.network.names[0]].activations

    def fingerprint(self) -> str:
        """SHA-256 of all parameter and accumulator codes, as little-endian int64, layer after layer."""
        digest = hashlib.sha256()
        for parameters in self.parameters.values():
            for parameter in parameters.values():
                for codes in (parameter.codes, parameter.accumulators):
                    digest.update(np.ascontiguousarray(codes, "<i8").tobytes())
        return digest.hexdigest()

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Class scores (N, M) in the logits format, of image codes (N, H, W, C) in input_format."""
        run = _Run(StepResult(len(images)), 0, None)
        return self._forward(self._check_images(images), run, {})

    def evaluate(self, images: np.ndarray, labels: np.ndarray, batch: int = 256) -> StepResult:
        """Loss and errors over image codes (N, H, W, C), without training."""
        total = StepResult(len(images))
        for start in range(0, len(images), batch):
            part = slice(start, start + batch)
            losses, wrong = self._losses(self.logits(images[part]), self._check_labels(labels[part]))
            total.loss_sum += int(losses.sum())
            total.wrong += wrong
        return total

    def train_step(self, images: np.ndarray, labels: np.ndarray, learning_rate: LearningRate, step: int = 0,
                   probe: Probe | None = None) -> StepResult:
        """One SGD step in place on image codes (N, H, W, C) in input_format and labels (N,).

        step: number of the step, part of the key of random words.
        """
        images, labels = self._check_images(images), self._check_labels(labels)
        run, records = _Run(StepResult(len(images)), step, probe), {}
        logits = self._forward(images, run, records)
        losses, run.result.wrong = self._losses(logits, labels)
        run.result.loss_sum = int(losses.sum())
        grads = self._backward(self._loss_gradient(logits, labels, run), records, run)
        self._update(grads, learning_rate, run)
        return run.result

    def _forward(self, images: np.ndarray, run: _Run, records: dict[str, _Record]) -> np.ndarray:
        outputs = {None: images}
        for layer, source in self.network.edges():
            outputs[layer.name], records[layer.name] = self._forward_layer(layer, outputs[source], run)
        return outputs[self.network.names[-1]].reshape(len(images), -1)

    def _forward_layer(self, layer: Layer, source: np.ndarray, run: _Run) -> tuple[np.ndarray, _Record]:
        products, parameters = self.products[layer.name], self.parameters[layer.name]
        weight, bias = parameters["weight"].codes, parameters["bias"].codes
        if run.probe:
            run.see("activations", layer.name, source, products.formats.activations)
            run.see("weights", layer.name, weight, products.formats.weights)
            run.see("bias", layer.name, bias, products.formats.bias)
            run.see("preactivations", layer.name, products.forward_exact(source, weight, bias), products.sum_format)
        owner, tensor, format = self._output(layer.name)
        requantizer = self._requantizer(products.sum_format.step_exp, tensor, format)
        stream = tensor_stream(self.seed, run.step, owner, tensor)
        codes, mask, tally = products.forward(source, weight, bias, requantizer, stream)
        run.count(owner, tensor, codes.size, tally)
        winner = None
        if layer.pool:
            codes, mask, winner = _pool(codes, mask, layer.pool, products.shape.output)
        if tensor == "logits":
            run.see("logits", layer.name, codes, format)
        return codes, _Record(source, mask, winner)

    def _output(self, name: str) -> tuple[str, str, Format]:
        """Whose tensor the output of a layer is, its name and its format."""
        if not self._readers[name]:
            return name, "logits", self.assignment.logits
        owner = self._readers[name][0]
        return owner, "activations", self.assignment.layers[owner].activations

    def _requantizer(self, step_exp: int, tensor: str, format: Format) -> Requantizer:
        return Requantizer(step_exp, format, self.assignment.rounding_of(tensor), self.assignment.overflow_of(tensor))

    def _losses(self, logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        losses = np.empty(len(logits), np.int64)
        shift = softmax_kernel.softmax_scale_shift(self.assignment.logits.step_exp)
        wrong = softmax_kernel.softmax_cross_entropy(logits, labels, shift, softmax_kernel.EXP2_TABLE, losses)
        return losses, int(wrong)

    def _loss_gradient(self, logits: np.ndarray, labels: np.ndarray, run: _Run) -> np.ndarray:
        name = self.network.names[-1]
        format = self.assignment.layers[name].activation_grads
        left, divisor = softmax_kernel.gradient_division(format.step_exp, len(logits))
        requantizer = self._requantizer(format.step_exp - softmax_kernel.GUARD_BITS, "activation_grads", format)
        stream = tensor_stream(self.seed, run.step, name, "activation_grads")
        shift = softmax_kernel.softmax_scale_shift(self.assignment.logits.step_exp)
        bases = requantizer.bases(stream, logits.shape, requantizer.shift).reshape(len(logits), -1)
        out, tally = np.empty(logits.shape, storage(format)), np.zeros(3, np.int64)
        softmax_kernel.softmax_gradient(logits, labels, shift, softmax_kernel.EXP2_TABLE, left, divisor, bases,
                                        *requantizer.terms(requantizer.shift), *requantizer.bounds()[:4], out, tally)
        run.count(name, "activation_grads", out.size, tally)
        return out.reshape(len(logits), 1, 1, -1)

    def _backward(self, scores_grad: np.ndarray, records: dict[str, _Record], run: _Run) -> dict[str, dict]:
        """Codes of G^W and of the bias gradient, layer -> name -> array."""
        output_grads, branches, grads = {self.network.names[-1]: scores_grad}, {}, {}
        for layer, source in reversed(list(self.network.edges())):
            name, products = layer.name, self.products[layer.name]
            if name in branches:
                output_grads[name] = self._join(name, branches.pop(name), run)
            record, arriving = records.pop(name), output_grads.pop(name)
            run.see("activation_grads", name, arriving, products.formats.activation_grads)
            inner = _before_pool_and_relu(arriving, layer, record, products)
            run.see("preactivation_grads", name, inner, products.gradient_format)
            grads[name] = self._parameter_grads(name, record.source, inner, run)
            if source is None:
                continue
            weight = self.parameters[name]["weight"].codes
            if len(self._readers[source]) > 1:
                exact = products.input_grad_exact(inner, weight, record.source.shape)
                branches.setdefault(source, []).append((exact, products.input_grad_step_exp))
            else:
                requantizer, stream = self._activation_grads_requantizer(source, products.input_grad_step_exp, run)
                codes, tally = products.input_grad(inner, weight, record.source.shape, requantizer, stream)
                run.count(source, "activation_grads", codes.size, tally)
                output_grads[source] = codes
        return grads

    def _activation_grads_requantizer(self, name: str, step_exp: int, run: _Run):
        format = self.assignment.layers[name].activation_grads
        return (self._requantizer(step_exp, "activation_grads", format),
                tensor_stream(self.seed, run.step, name, "activation_grads"))

    def _join(self, name: str, branches: list[tuple[np.ndarray, int]], run: _Run) -> np.ndarray:
        """G^A of a tensor that several layers read: steps aligned, exact sum, one quantization."""
        step_exp = min(exp for _, exp in branches)
        total = sum(exact.astype(np.int64) << (exp - step_exp) for exact, exp in branches)
        requantizer, stream = self._activation_grads_requantizer(name, step_exp, run)
        codes = np.empty(total.shape, storage(requantizer.format))
        run.count(name, "activation_grads", codes.size, requantizer.apply(total, codes, stream))
        return codes

    def _parameter_grads(self, name: str, source: np.ndarray, inner: np.ndarray, run: _Run) -> dict[str, np.ndarray]:
        products = self.products[name]
        formats, step_exp = products.formats, products.gradient_format.step_exp
        weight_step_exp = step_exp + formats.activations.step_exp
        requantizer = self._requantizer(weight_step_exp, "weight_grads", formats.weight_grads)
        stream = tensor_stream(self.seed, run.step, name, "weight_grads")
        weight_grads, tally = products.weight_grad(source, inner, requantizer, stream)
        run.count(name, "weight_grads", weight_grads.size, tally)
        sums = channel_sums(inner)
        bias_grads = np.empty(sums.shape, storage(formats.bias_grads))
        requantizer = self._requantizer(step_exp, "bias_grads", formats.bias_grads)
        stream = tensor_stream(self.seed, run.step, name, "bias_grads")
        run.count(name, "bias_grads", sums.size, requantizer.apply(sums, bias_grads, stream))
        run.see("weight_grads", name, weight_grads, formats.weight_grads)
        run.see("bias_grads", name, bias_grads, formats.bias_grads)
        return {"weight": weight_grads, "bias": bias_grads}

    def _update(self, grads: dict[str, dict[str, np.ndarray]], learning_rate: LearningRate, run: _Run) -> None:
        for name, parameters in self.parameters.items():
            formats = self.assignment.layers[name]
            for kind, format in (("weight", formats.weight_grads), ("bias", formats.bias_grads)):
                parameter = parameters[kind]
                tensor = "accumulators" if kind == "weight" else "bias_accumulators"
                stream = tensor_stream(self.seed, run.step, name, tensor)
                tally = parameter.update(grads[name][kind], format.step_exp, learning_rate,
                                         self.assignment.rounding_of(tensor), stream)
                if kind == "weight":
                    run.count(name, "weights", parameter.codes.size, (0, tally.weights_clipped, 0))
                    run.result.stopped[name] = tally.stopped
                run.count(name, tensor, parameter.codes.size, (0, tally.accumulators_clipped, tally.flushed))
            if run.probe:
                run.see("updated_weights", name, parameters["weight"].codes, formats.weights)
                run.see("accumulators", name, parameters["weight"].accumulators, formats.accumulators)
                run.see("updated_bias", name, parameters["bias"].codes, formats.bias)
                run.see("bias_accumulators", name, parameters["bias"].accumulators, formats.bias_accumulators)

    def _check_images(self, images: np.ndarray) -> np.ndarray:
        format, shape = self.input_format, self.network.input_shape
        if not isinstance(images, np.ndarray) or images.dtype.kind not in "iu":
            raise TypeError("images must be an integer array of codes; use fxsim.nn.codes.pixel_codes or fxsim.quantize")
        if images.shape[1:] != shape or len(images) == 0:
            raise InputError(f"images must have shape (N, {', '.join(map(str, shape))}), got {images.shape}")
        if images.min() < format.min_code or images.max() > format.max_code:
            raise InputError(f"images must be codes in [{format.min_code}, {format.max_code}], got "
                             f"[{images.min()}, {images.max()}]")
        return images.astype(storage(format), copy=False)

    def _check_labels(self, labels: np.ndarray) -> np.ndarray:
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu":
            raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
        if labels.size and not (labels.min() >= 0 and labels.max() < self.network.classes):
            raise InputError(f"labels must be in [0, {self.network.classes - 1}], got [{labels.min()}, {labels.max()}]")
        return labels.astype(np.int64)


def _gradient_format(layer: Layer, formats) -> Format:
    """G^A at the pre-activations: G^A's format, with a finer step where average pooling divides."""
    format = formats.activation_grads
    if layer.pool and layer.pool.kind == "average":
        finer = pool_kernel.average_pool_gradient_bits(layer.pool.size)
        grown = 2**finer != layer.pool.size**2  # 2**finer / size**2 lies in [1, 2)
        return Format(format.bits + grown, format.range_exp - finer + grown)
    return format


def _pool(codes: np.ndarray, mask: np.ndarray | None, pool: Pool, shape: Shape):
    """(pooled codes, mask, winner) of pre-pooling codes; max pooling folds the mask into the winner."""
    out = np.empty((len(codes), *shape), codes.dtype)
    if pool.kind == "average":
        pool_kernel.average_pool(codes, pool.size, out)
        return out, mask, None
    winner = np.empty(out.shape, np.uint8)
    pool_kernel.max_pool(codes, pool.size, out, winner, np.ones(codes.shape, np.uint8) if mask is None else mask)
    return out, None, winner


def _before_pool_and_relu(grads: np.ndarray, layer: Layer, record: _Record, products: Products) -> np.ndarray:
    """Gradient codes at the pre-activations (N, H, W, O), in products.gradient_format."""
    inner = np.empty((len(grads), *products.shape.pre), storage(products.gradient_format))
    if layer.pool and layer.pool.kind == "max":
        pool_kernel.max_pool_backward(grads, record.winner, layer.pool.size, inner)
        return inner
    if layer.pool:
        finer = pool_kernel.average_pool_gradient_bits(layer.pool.size)
        pool_kernel.average_pool_backward(grads, layer.pool.size, finer, inner)
        grads = inner
    if record.mask is None:
        return grads
    gate(grads, record.mask, inner)
    return inner


def _check_supported(network: Network, assignment: PrecisionAssignment) -> None:
    for layer in network.layers:
        for feature in ("batch_norm", "add", "dropout"):
            if getattr(layer, feature):
                raise InputError(f"layer {layer.name!r} has {feature}, which the integer executor does not run; "
                                 "leave it out, or use the float executor")
        if layer.pool and layer.pool.kind == "max" and layer.pool.size > 15:
            raise InputError(f"layer {layer.name!r}: max pooling takes windows up to 15x15, got {layer.pool.size}")
    logits = assignment.logits
    if not logits.signed or logits.range_exp > MAX_LOGIT_RANGE_EXP or not -50 <= logits.step_exp <= 5:
        raise InputError(f"logits must be signed, with a range up to 2^{MAX_LOGIT_RANGE_EXP} and a step of 2^-50 to 2^5, "
                         f"got {logits}")
    last = assignment.layers[network.names[-1]].activation_grads
    if last.step_exp < -44:
        raise InputError(f"activation_grads of the last layer may have a step down to 2^-44, got {last}")
