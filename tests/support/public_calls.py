"""One right call of every public function, constructor and method, with small arguments."""

import dataclasses
import fractions
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import fxsim
from fxsim import (
    Accumulator,
    Activation,
    Conv,
    Counts,
    Dataset,
    Dense,
    FixedNetwork,
    FloatNetwork,
    Format,
    LayerPrecision,
    LearningRate,
    Lfsr,
    Network,
    Philox,
    Pool,
    PrecisionAssignment,
    Quantizer,
    Reason,
    Settings,
    Statistics,
    Stream,
    Tensor,
    WordMemory,
    interchange,
    ops,
    quantize,
    requantize,
    testing,
)
from fxsim.analysis.statistics import FIELDS
from fxsim.communicator import ALONE
from fxsim.nn.init import initial_parameters
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import Proposal
from fxsim.nn.spec import to_dict

RANDOM = np.random.default_rng(0)
GRADS = Format(16, 0)
PRECISION = LayerPrecision(
    weights=Format(8, 0),
    activations=Format(8, 0, False),
    activation_grads=GRADS,
    weight_grads=GRADS,
    accumulators=Format(16, -8),
)
CONV = {"name": "c", "filters": 3, "padding": 1, "batch_norm": True, "pool": Pool("max", 2)}
DENSE = {"name": "f", "units": 3, "relu": False}
NETWORK = Network("n", (5, 5, 2), (Conv(**CONV), Dense(**DENSE)))
PLAIN = Network("n", (5, 5, 2), (Dense(**DENSE),))
ASSIGNMENT = PrecisionAssignment("n", {"c": PRECISION, "f": PRECISION})
IMAGES = RANDOM.integers(0, 256, (4, 5, 5, 2))
LABELS = RANDOM.integers(0, 3, 4)
PIXELS = IMAGES.astype(np.uint8)
CLASSES = LABELS.astype(np.uint8)
REAL = initial_parameters(NETWORK, 0)
RATE = LearningRate.of(0.1)
OPTIMIZER = Optimizer(0.5, 0.01)

X = Tensor(RANDOM.integers(-8, 8, (2, 4, 4, 3)), Format(4, 0))
W = Tensor(RANDOM.integers(-8, 8, (3, 3, 3, 2)), Format(4, 1))
G = Tensor(RANDOM.integers(-8, 8, (2, 4, 4, 2)), Format(4, -2))
BIAS = Tensor([3, -5], Format(6, 1))
A = Tensor(RANDOM.integers(-8, 8, (3, 4)), Format(4, 0))
B = Tensor(RANDOM.integers(-8, 8, (4, 2)), Format(4, 0))
VECTOR = Tensor([1, -2, 3, -4], Format(4, 0))
GAMMA = Tensor([13, -7, 5], Format(6, 1))
VALUE = Tensor([3, -2, 1], Format(4, 0))
REST = Tensor([3, -2, 1], Format(8, -4))
LOGITS = Tensor([[1, 2, 3], [3, 2, 1], [0, 0, 1], [-1, 5, 2]], Format(4, 3))
TARGET = Format(8, 2)
OTHERS = Tensor([[0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 0]], Format(4, 3))
TABLE = ops.function_table("tanh", 4, 2, TARGET, "linear")
SLOPES = Tensor(RANDOM.integers(0, 3, X.shape), ops.SLOPES)
RUNNING = ops.running_statistics([0.0, 0.1, -0.2], [1.0, 0.5, 2.0])
WINNER = Tensor(RANDOM.integers(0, 4, (2, 2, 2, 3)), ops.WINNER)
POOLED = Tensor(RANDOM.integers(-8, 8, (2, 2, 2, 3)), Format(4, 0))
MASK = Tensor(RANDOM.integers(0, 2, X.shape), ops.MASK)
WORDS = RANDOM.integers(0, 2**32, X.shape)
MAC = Accumulator(24, overflow="wrap", order="tiles", tile=4, drop=1)
PLAIN_MAC = Accumulator(24)
REGISTERS = Lfsr(8, (8, 6, 5, 4), 4, (1, 9), lanes=2, clocks=3)
SUM = X + X
QUOTIENT = ops.avg_pool2d(X, 2)
MODES = (Format(16, 3), Format(16, 3, False))
STATISTICS = dict.fromkeys(FIELDS, np.ones(2)) | {
    "network": "n",
    "layers": ("c", "f"),
    "logits_max": 3.0,
    "gamma_min": 0.1,
    "batch_size": 4,
    "output_loss": 0.0,
}
SETTINGS = Settings()


def stochastic(words):
    """A stochastic Quantizer whose random words are these."""
    return Quantizer(Format(2, 0), "stochastic", words=words)


def exported(export):
    """An export into a folder that goes; nothing where onnx is not installed."""

    def call(network, **given):
        if importlib.util.find_spec("onnx") is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            export(network, Path(folder) / "n.onnx", **given)

    return call


def reshaped(sizes):
    return X.reshape(*sizes)


def transposed(axes):
    return X.transpose(*axes)


def exact_reshaped(sizes):
    return SUM.reshape(*sizes)


def rounded_with(words):
    return SUM.to(stochastic(words))


def at_words(values, words):
    return quantize(values, stochastic(words))


def only_trained(name):
    """A network of which this alone is trained."""
    return PLAIN.training_only(name)


def stochastic_texts(text):
    return ASSIGNMENT.with_stochastic([text])


def called_words(words):
    """The words of a function of the caller's."""
    return requantize(X, stochastic(lambda at: words))


@dataclass
class Call:
    """A function and right arguments for it.

    watched: an object whose `fingerprint` or state must be as before where the call is refused.
    kept: names of arguments that the fuzzer leaves alone.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    watched: Any = None
    kept: tuple[str, ...] = ()
    positional: tuple[str, ...] = field(default=())

    def __call__(self, **changed):
        """Call it, and compute what it returns where that is an exact result."""
        arguments = self.arguments | changed
        places = [arguments.pop(name) for name in self.positional]
        return computed(self.function(*places, **arguments))


def computed(result):
    """`result`, rounded where it waits for that."""
    if isinstance(result, (ops.Exact, ops.Quotient)):
        return result.to(TARGET)
    if isinstance(result, tuple):
        return tuple(map(computed, result))
    return result


FIXED = FixedNetwork(NETWORK, ASSIGNMENT, REAL)
PLAIN_FIXED = FixedNetwork(
    PLAIN, PrecisionAssignment("n", {"f": PRECISION}), initial_parameters(PLAIN, 0)
)
FLOATING = FloatNetwork(NETWORK, REAL, np.float64)


def state_of(network):
    """All that training changes in a network, as bytes."""
    return {name: array.tobytes() for name, array in network.state().items()}


def calls():
    """name -> Call, of everything that is public."""
    product = {"accumulator": MAC}
    conv = {"stride": 1, "padding": (1, 1), "dilation": 1, "groups": 1, **product}
    norm = {"statistics": MODES, "normalized": Format(16, 3), "epsilon": 2.0**-10}
    update = {"rounding": "stochastic", "overflow": "saturate", "words": WORDS.reshape(-1)[:3]}
    quantized = {"rounding": "floor", "overflow": "wrap", "counts": True}
    saved = ops.batch_norm(X, GAMMA, GAMMA).saved
    made = Call
    return {
        "Format": made(Format, {"bits": 8, "range_exp": 0, "signed": True}),
        "Format.parse": made(Format.parse, {"text": "Q1.6", "convention": "arm"}),
        "Format.q": made(TARGET.q, {"convention": "ti"}),
        "Format.from_dict": made(Format.from_dict, {"table": TARGET.to_dict(), "where": "format"}),
        "Accumulator": made(
            Accumulator,
            {
                "bits": 24,
                "overflow": "saturate",
                "when": "each addition",
                "order": "tiles",
                "tile": 4,
                "rounding": "floor",
                "drop": 2,
                "bias": "after",
                "lanes": 2,
                "axes": "channel_first",
            },
        ),
        "Accumulator, step_exp": made(Accumulator, {"bits": 24, "step_exp": -3}),
        "Accumulator.of": made(Accumulator.of, {"format": Format(24, 0), "overflow": "wrap"}),
        "Accumulator.parse": made(Accumulator.parse, {"text": "24 bits, wrap, floor 2"}),
        "Accumulator.from_dict": made(Accumulator.from_dict, {"row": MAC.to_dict()}),
        "Accumulator.range": made(MAC.range, {"extra_bits": 1}),
        "presets.uniform": made(
            fxsim.presets.uniform,
            {
                "format": "Q8.8",
                "rounding": "floor",
                "overflow": "wrap",
                "every_operation": True,
            },
        ),
        "presets.Uniform.parse": made(
            fxsim.presets.Uniform.parse, {"text": "Q8.8, floor, wrap, every operation"}
        ),
        "presets.Uniform.assignment": made(
            fxsim.presets.uniform("Q8.8").assignment, {"network": NETWORK}
        ),
        "Accumulator.resolved": made(
            Accumulator(24, step_exp=-3).resolved, {"product_step_exp": -8}
        ),
        "Accumulator.check_used": made(
            MAC.check_used, {"operation": "linear", "has_bias": True, "has_channels": False}
        ),
        "Counts": made(Counts, {"elements": 3, "below": 1, "above": 0, "flushed": 1}),
        "Counts.__add__": made(
            Counts(1, 0, 0, 1).__add__, {"other": Counts(1, 1, 0, 0)}, positional=("other",)
        ),
        "Quantizer": made(
            Quantizer,
            {
                "format": Format(8, 0),
                "rounding": "stochastic",
                "overflow": "wrap",
                "words": Stream(0, 0, "x"),
                "counted": print,
            },
        ),
        "Quantizer.of": made(Quantizer.of, {"value": Format(8, 0)}),
        "Stream": made(Stream, {"seed": 1, "step": 2, "name": "x", "bits": 8}),
        "Lfsr": made(Lfsr, {**dataclasses.asdict(REGISTERS), "period": 3}),
        "Lfsr.words": made(REGISTERS.words, {"shape": (2, 3), "start": 1, "step": 2}),
        "Lfsr.states": made(REGISTERS.states, {"step": 2, "elements": 5}),
        "Lfsr.at": made(REGISTERS.at, {"step": 2}),
        "Philox": made(Philox, {"bits": 8}),
        "WordMemory": made(WordMemory, {"memory": (1, 2, 3), "bits": 8}),
        "WordMemory.words": made(
            WordMemory((1, 2)).words, {"shape": (2, 3), "start": 1, "step": 2}
        ),
        "WordMemory.at": made(WordMemory((1, 2)).at, {"step": 2}),
        "Stream.words": made(Stream(0, 0, "x").words, {"shape": (2, 3), "start": 1}),
        "Stream.permutation": made(Stream(0, 0, "x").permutation, {"size": 5}),
        "Tensor": made(Tensor, {"codes": X.codes, "format": X.format}),
        "Tensor, 64 bits": made(
            Tensor, {"codes": X.codes, "format": Format(64, 0)}, kept=("format",)
        ),
        "Tensor.equals": made(X.equals, {"other": X}),
        "Tensor.reshape": made(reshaped, {"sizes": (2, -1)}),
        "Tensor.reshape, one": made(X.reshape, {"shape": (2, -1)}, positional=("shape",)),
        "Tensor.transpose": made(transposed, {"axes": (3, 2, 1, 0)}),
        "Tensor.__add__": made(X.__add__, {"other": X}),
        "Tensor.__matmul__": made(A.__matmul__, {"other": B}),
        "quantize": made(quantize, dict(values=X.real, quantizer=Format(4, 0), **quantized)),
        "quantize, integers": made(
            quantize,
            dict(values=X.codes, quantizer=Format(20, 70), **quantized),
            kept=("quantizer",),
        ),
        "quantize, words": made(at_words, {"values": X.real, "words": WORDS}),
        "requantize": made(requantize, dict(tensor=X, quantizer=TARGET, **quantized)),
        "requantize, words": made(
            requantize,
            {"tensor": X, "quantizer": TARGET, "rounding": "stochastic", "words": WORDS},
        ),
        "requantize, words of a function": made(called_words, {"words": WORDS}),
        "LearningRate": made(LearningRate, {"mantissa": 2**15, "exponent": -16}),
        "LearningRate.of": made(LearningRate.of, {"value": 0.1}),
        "LearningRate.nearest": made(LearningRate.nearest, {"value": fractions.Fraction(1, 3)}),
        "Pool": made(Pool, {"kind": "max", "size": 2}),
        "Conv": made(
            Conv,
            CONV
            | {"kernel": 3, "stride": 1, "relu": True, "dropout": 0.5, "input": "a", "add": "b"},
        ),
        "Conv, geometry": made(
            Conv,
            {
                "name": "c",
                "filters": 4,
                "kernel": (3, 2),
                "stride": (1, 2),
                "dilation": (1, 2),
                "padding": (0, 1, 1, 0),
                "groups": 2,
                "bias": False,
                "activation": Activation("leaky_relu", slope_exp=-3),
            },
        ),
        "Activation": made(Activation, {"kind": "leaky_relu", "slope_exp": -3}),
        "Activation, ceiling": made(Activation, {"kind": "relu", "ceiling": 6}),
        "Activation, table": made(
            Activation,
            {
                "kind": "table",
                "function": "tanh",
                "index_bits": 8,
                "range_exp": 2,
                "interpolation": "linear",
            },
        ),
        "Dense": made(Dense, DENSE | {"batch_norm": False, "dropout": 0.0, "pool": None}),
        "Network": made(
            Network,
            {"name": "n", "input_shape": (5, 5, 2), "layers": (Conv(**CONV), Dense(**DENSE))},
        ),
        "Network.shape": made(NETWORK.shape, {"name": "c"}),
        "Network.training_only": made(only_trained, {"name": "f.bias"}),
        "Network.layer": made(NETWORK.layer, {"name": "c"}),
        "Network.source": made(NETWORK.source, {"name": "f"}),
        "spec.from_dict": made(fxsim.nn.spec.from_dict, {"table": to_dict(NETWORK)}),
        "initial_parameters": made(initial_parameters, {"network": NETWORK, "seed": 0}),
        "Optimizer": made(Optimizer, {"momentum": 0.9, "weight_decay": 0.1, "velocity_bits": 24}),
        "LayerPrecision": made(
            LayerPrecision, {name: getattr(PRECISION, name) for name in vars(PRECISION)}
        ),
        "LayerPrecision.of": made(LayerPrecision.of, {"formats": PRECISION.given()}),
        "Reason": made(Reason, {"criterion": "FP", "statistic": {"sigma": 1.0}, "margin": 1.5}),
        "PrecisionAssignment": made(
            PrecisionAssignment,
            {
                "network": "n",
                "layers": {"c": PRECISION, "f": PRECISION},
                "logits": Format(16, 4),
                "rounding": {"weight_grads": "stochastic"},
                "overflow": {"activations": "wrap"},
                "reasons": {("c", "weights"): Reason("x", {"a": 1.0}, 1.0)},
                "accumulator": {"forward": MAC, "c.weight_grad": MAC},
                "proposed": {"c.forward": Proposal(MAC, Reason("x", {"a": 1.0}, 1.0))},
            },
        ),
        "PrecisionAssignment.rounding_of": made(ASSIGNMENT.rounding_of, {"tensor": "weights"}),
        "PrecisionAssignment.overflow_of": made(ASSIGNMENT.overflow_of, {"tensor": "weights"}),
        "PrecisionAssignment.accumulators_of": made(ASSIGNMENT.accumulators_of, {"layer": "c"}),
        "PrecisionAssignment.with_stochastic": made(
            stochastic_texts, {"text": "accumulators=lfsr of 8, taps 8 6 5 4, 4 bits"}
        ),
        "PrecisionAssignment.with_accumulators": made(
            ASSIGNMENT.with_accumulators, {"texts": ["forward=24 bits"]}
        ),
        "PrecisionAssignment.check_network": made(ASSIGNMENT.check_network, {"network": NETWORK}),
        "PrecisionAssignment.completed": made(ASSIGNMENT.completed, {"network": NETWORK}),
        "PrecisionAssignment.perturbed": made(
            ASSIGNMENT.perturbed, {"bits": 1, "only": "feedforward"}
        ),
        "PrecisionAssignment.from_dict": made(
            PrecisionAssignment.from_dict, {"data": ASSIGNMENT.to_dict()}
        ),
        "Statistics": made(Statistics, STATISTICS),
        "Statistics.check_network": made(
            Statistics(**STATISTICS).check_network, {"network": NETWORK}
        ),
        "Settings": made(Settings, vars(SETTINGS) | {"epochs": 2, "momentum": 0.5}),
        "Settings.make": made(Settings.make, {"dataset": "mnist", "quick": True, "epochs": 5}),
        "Settings.from_dict": made(Settings.from_dict, {"data": SETTINGS.to_dict()}),
        "Settings.check_given": made(
            SETTINGS.check_given, {"given": {"epochs": 12}, "place": "here"}
        ),
        "Dataset": made(
            Dataset,
            {
                "name": "d",
                "train_images": PIXELS,
                "train_labels": CLASSES,
                "test_images": PIXELS,
                "test_labels": CLASSES,
                "classes": 3,
                "pixel_max": 255,
                "train_targets": PIXELS / 3,
                "test_targets": PIXELS / 5,
            },
        ),
        "design_complexity": made(fxsim.design_complexity, {"network": NETWORK, "design": "BN"}),
        "assignment_complexity": made(
            fxsim.assignment_complexity,
            {"network": NETWORK, "assignment": ASSIGNMENT, "design": "SQ"},
        ),
        "FixedNetwork": made(
            FixedNetwork,
            {
                "network": NETWORK,
                "assignment": ASSIGNMENT,
                "parameters": REAL,
                "kernel": "auto",
                "seed": 0,
                "optimizer": OPTIMIZER,
            },
        ),
        "FixedNetwork.logits": made(FIXED.logits, {"images": IMAGES}),
        "FixedNetwork.infer": made(FIXED.infer, {"images": IMAGES, "first": 3, "probe": None}),
        "FixedNetwork.evaluate": made(
            FIXED.evaluate,
            {"images": IMAGES, "targets": LABELS, "batch": 3, "communicator": ALONE},
        ),
        "FixedNetwork.train_step": made(
            FIXED.train_step,
            {
                "images": IMAGES,
                "targets": LABELS,
                "learning_rate": 0.1,
                "step": 3,
                "probe": None,
                "communicator": ALONE,
            },
            watched=FIXED,
        ),
        "FixedNetwork.load_state": made(FIXED.load_state, {"arrays": FIXED.state()}, watched=FIXED),
        "FloatNetwork": made(
            FloatNetwork,
            {
                "network": NETWORK,
                "parameters": REAL,
                "dtype": np.float64,
                "optimizer": OPTIMIZER,
                "seed": 0,
            },
        ),
        "FloatNetwork.logits": made(FLOATING.logits, {"images": IMAGES / 255}),
        "FloatNetwork.forward_tape": made(
            FLOATING.forward_tape,
            {"images": IMAGES / 255, "training": True, "step": 0, "probe": None},
        ),
        "FloatNetwork.evaluate": made(
            FLOATING.evaluate, {"images": IMAGES / 255, "targets": LABELS, "batch": 3}
        ),
        "FloatNetwork.loss_and_grads": made(
            FLOATING.loss_and_grads,
            {"images": IMAGES / 255, "targets": LABELS, "step": 0, "probe": None},
        ),
        "FloatNetwork.train_step": made(
            FLOATING.train_step,
            {
                "images": IMAGES / 255,
                "targets": LABELS,
                "learning_rate": 0.1,
                "step": 3,
                "probe": None,
            },
            watched=FLOATING,
        ),
        "FloatNetwork.load_state": made(
            FLOATING.load_state,
            {"arrays": {name: array.copy() for name, array in FLOATING.state().items()}},
            watched=FLOATING,
        ),
        "FloatNetwork.weight": made(FLOATING.weight, {"name": "c"}),
        "ops.add": made(ops.add, {"x": X, "y": X}),
        "ops.subtract": made(ops.subtract, {"x": X, "y": SUM}),
        "ops.multiply": made(ops.multiply, {"x": X, "y": X}),
        "ops.negative": made(ops.negative, {"x": X}),
        "ops.sum": made(ops.sum, {"x": X, "axis": (0, 1)}),
        "ops.dot": made(ops.dot, dict(a=VECTOR, b=VECTOR, bias=BIAS[:1], **product)),
        "ops.matmul": made(ops.matmul, dict(a=A, b=B, **product)),
        "ops.linear": made(ops.linear, dict(x=A, weight=B, bias=BIAS, **product)),
        "ops.conv2d": made(ops.conv2d, dict(x=X, weight=W, bias=BIAS, **conv)),
        "ops.conv2d, no accumulator": made(
            ops.conv2d, {"x": X, "weight": W, "bias": BIAS, "stride": 1, "padding": 1}
        ),
        "ops.conv2d_input_grad": made(
            ops.conv2d_input_grad, dict(grad=G, weight=W, input_shape=X.shape, **conv)
        ),
        "ops.conv2d_weight_grad": made(
            ops.conv2d_weight_grad, dict(x=X, grad=G, weight_shape=W.shape, **conv)
        ),
        "Exact.by": made((A @ B).by, {"path": "plain"}),
        "ops.max_pool2d": made(
            ops.max_pool2d, {"x": X, "size": 2, "stride": (1, 2), "padding": (0, 1)}
        ),
        "ops.max_pool2d_grad": made(
            ops.max_pool2d_grad,
            {"grad": POOLED, "winner": WINNER, "size": 2, "input_shape": X.shape},
        ),
        "ops.avg_pool2d": made(ops.avg_pool2d, {"x": X, "size": 2}),
        "ops.avg_pool2d_grad": made(
            ops.avg_pool2d_grad, {"grad": POOLED, "size": 2, "input_shape": X.shape}
        ),
        "ops.relu": made(ops.relu, {"x": X, "quantizer": TARGET}),
        "ops.relu_grad": made(ops.relu_grad, {"grad": X, "mask": MASK}),
        "ops.leaky_relu": made(ops.leaky_relu, {"x": X, "quantizer": TARGET, "slope_exp": -3}),
        "ops.leaky_relu_grad": made(
            ops.leaky_relu_grad, {"grad": X, "mask": SLOPES, "slope_exp": -3}
        ),
        "ops.table_index": made(ops.table_index, {"x": X, "index_bits": 4, "range_exp": 2}),
        "ops.lookup": made(
            ops.lookup, {"x": X, "table": TABLE, "range_exp": 2, "interpolation": "linear"}
        ),
        "ops.output_derivative": made(
            ops.output_derivative, {"y": Tensor([0, 4], Format(4, 0, False)), "function": "tanh"}
        ),
        "ops.function_table": made(
            ops.function_table,
            {
                "function": "exp",
                "index_bits": 4,
                "range_exp": 2,
                "format": TARGET,
                "interpolation": "linear",
            },
        ),
        **{
            f"ops.{name}": made(getattr(ops, name), {"outputs": LOGITS, "targets": OTHERS})
            for loss in ("mse", "half_mse", "sigmoid_cross_entropy")
            for name in (loss, f"{loss}_grad")
        },
        "ops.dropout": made(ops.dropout, {"x": X, "rate": 0.5, "words": WORDS}),
        "ops.dropout_grad": made(ops.dropout_grad, {"grad": X, "kept": MASK, "rate": 0.5}),
        "ops.softmax_cross_entropy": made(
            ops.softmax_cross_entropy,
            {"logits": LOGITS, "labels": LABELS, "exponential": fxsim.Exponential(4)},
        ),
        "ops.softmax_cross_entropy_grad": made(
            ops.softmax_cross_entropy_grad, {"logits": LOGITS, "labels": LABELS}
        ),
        "ops.running_statistics": made(
            ops.running_statistics,
            {"mean": np.array([0.5, 1.5]), "variance": [1.0, 1.0], "statistics": MODES},
        ),
        "ops.batch_norm": made(
            ops.batch_norm,
            dict(x=X, gamma=GAMMA, beta=GAMMA, running=RUNNING, rate=2.0**-4, **norm),
        ),
        "ops.batch_norm_frozen": made(
            ops.batch_norm_frozen, dict(x=X, gamma=GAMMA, beta=GAMMA, running=RUNNING, **norm)
        ),
        "Exponential": made(
            fxsim.Exponential, {"index_bits": 8, "entry_bits": 16, "interpolation": "none"}
        ),
        "BatchNorm": made(fxsim.BatchNorm, {"epsilon": 2.0**-10, "frozen": True}),
        "ops.batch_norm_inference": made(
            ops.batch_norm_inference, dict(x=X, gamma=GAMMA, beta=GAMMA, running=RUNNING, **norm)
        ),
        "ops.batch_norm_grad": made(
            ops.batch_norm_grad,
            {"grad": X, "saved": saved, "gamma": TARGET, "beta": TARGET, "x": TARGET},
        ),
        "ops.sgd_update": made(
            ops.sgd_update,
            dict(parameter=ops.Parameter(VALUE, REST), grad=VALUE, rate=0.5, **update),
        ),
        "ops.Parameter": made(ops.Parameter, {"value": VALUE, "accumulator": REST}),
        "ops.UpdateTally": made(
            ops.UpdateTally,
            {"weights_clipped": 0, "accumulators_clipped": 1, "flushed": 0, "stopped": 1},
        ),
        "ops.plan": made(
            ops.plan, {"x": Format(8, 0), "weight": Format(8, 0), "terms": 100, "path": "auto"}
        ),
        "testing.explain": made(
            testing.explain, {"got": SUM.to(TARGET).codes, "exact": SUM, "quantizer": TARGET}
        ),
        "interchange.to_onnx": made(exported(interchange.to_onnx), {"network": FIXED}),
        "interchange.to_qonnx": made(
            exported(interchange.to_qonnx), {"network": PLAIN_FIXED, "batch": 2}
        ),
        "Exact.to": made(SUM.to, {"quantizer": TARGET}),
        "Exact.to, words": made(rounded_with, {"words": WORDS}),
        "Exact.relu": made(SUM.relu, {"quantizer": TARGET, "ceiling": 1.5}),
        "Exact.relu_max_pool": made(
            SUM.relu_max_pool,
            {"quantizer": TARGET, "size": 2, "ceiling": 1.5, "stride": 1, "padding": (0, 1, 1, 0)},
        ),
        "Exact.reshape": made(exact_reshaped, {"sizes": (2, -1)}),
        "Exact.__add__": made(SUM.__add__, {"other": X}),
        "Exact.__mul__": made(SUM.__mul__, {"other": X}),
        "Quotient.to": made(QUOTIENT.to, {"quantizer": TARGET}),
    }
