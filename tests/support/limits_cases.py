"""Random networks of one to three layers whose formats lie at the limits, against the twin."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from functools import cache
from typing import NamedTuple

import numpy as np
from oracle import graph as oracle
from oracle import rounding as rounding_oracle
from oracle.step import map_nested

from fxsim.accumulator import WHEN, WHEN_OF_TILES, Accumulator
from fxsim.errors import InputError
from fxsim.factors import LearningRate
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.layer_precision import MODES, BatchNormPrecision, LayerPrecision
from fxsim.nn.optimizer import Optimizer
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Conv, Dense, Network, Pool
from fxsim.nn.tensors import quantized_tensors
from support.bits import assert_same_codes
from support.fixed_step_cases import pool_of

WIDTHS = (1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 25, 31, 32)
FAR = 60
MANY_TERMS = (10**4, 10**5, 10**6)


class Case(NamedTuple):
    """One network with its formats, and how it is trained."""

    network: Network
    assignment: PrecisionAssignment
    optimizer: Optimizer
    rate: LearningRate
    batch: int
    seed: int


class Draw:
    """Random choices for one case."""

    def __init__(self, seed: int):
        self.random = np.random.default_rng(seed)
        self.far = self.chance(0.5)

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high, endpoint=True))

    def one(self, values):
        return values[self.whole(0, len(values) - 1)]

    def bits(self) -> int:
        return self.one(WIDTHS) if self.chance(0.7) else self.whole(1, 32)

    def range_exp(self) -> int:
        if self.far and self.chance(0.5):
            return self.one((-FAR, FAR)) if self.chance(0.2) else self.whole(-FAR, FAR)
        return self.whole(-4, 4)

    def format(self, signed: bool = True) -> Format:
        return Format(self.bits(), self.range_exp(), signed)

    def with_step(self, step_exp: int) -> Format:
        """A signed format of about this step, so that an exact sum has a chance."""
        bits = self.bits()
        spread = 30 if self.chance(0.2) else 8
        step_exp += self.whole(-spread, spread)
        range_exp = min(max(step_exp + bits - 1, -FAR), FAR)
        return Format(bits, range_exp)

    def accumulator(self, parameter: Format) -> Format:
        bits = min(self.bits(), 62 - parameter.bits)
        return Format(bits, parameter.step_exp - 1)

    def layer(self, name: str, dense: bool, last: bool, **options):
        if last:
            return Dense(name=name, units=self.whole(2, 4), relu=False)
        options |= {
            "name": name,
            "batch_norm": self.chance(0.3),
            "relu": self.chance(0.6),
            "dropout": self.one((0.0, 0.25, 0.5, 0.9, 0.9999)) if self.chance(0.2) else 0.0,
        }
        if dense:
            return Dense(units=self.whole(1, 4), **options)
        kernel = self.whole(1, 3), self.whole(1, 3)
        return Conv(
            filters=self.whole(1, 3),
            kernel=kernel,
            stride=(self.whole(1, 2), self.whole(1, 2)),
            padding=tuple(self.whole(0, size - 1) for size in kernel for _ in range(2)),
            pool=Pool(self.one(("max", "average")), self.whole(1, 3)) if self.chance(0.5) else None,
            **options,
        )

    def network(self) -> Network:
        if self.chance(0.02):
            terms = self.one(MANY_TERMS[: 1 + self.chance(0.3) + self.chance(0.05)])
            return Network("n", (1, 1, terms), (self.layer("a", True, True),))
        shape = (self.whole(3, 6), self.whole(3, 6), self.whole(1, 3))
        kind = self.one(("one", "two", "two", "two", "joined", "branch"))
        if kind == "one":
            return Network("n", shape, (self.layer("a", True, True),))
        if kind == "two":
            first = self.layer("a", self.chance(0.3), False)
            return Network("n", shape, (first, self.layer("b", True, True)))
        units = self.whole(1, 4)
        flat = (1, 1, self.whole(1, 40))

        def dense(name: str, **options):
            return dataclasses.replace(self.layer(name, True, False), units=units, **options)

        last = self.layer("z", True, True)
        if kind == "joined":
            return Network("n", flat, (dense("a"), dense("b", add="a"), last))
        branch = dense("a"), dense("b"), dense("c", input="a", add="b")
        return Network("n", flat, (*branch, last))

    def norm(self) -> BatchNormPrecision:
        gamma = self.format()
        normalized = self.format()
        beta = self.with_step(gamma.step_exp + normalized.step_exp)
        return BatchNormPrecision(
            mean=self.format(),
            variance=self.format(self.chance(0.3)),
            normalized=normalized,
            gamma=gamma,
            gamma_grads=self.format(),
            gamma_accumulators=self.accumulator(gamma),
            beta=beta,
            beta_grads=self.format(),
            beta_accumulators=self.accumulator(beta),
            preactivation_grads=self.format() if self.chance(0.5) else None,
        )

    def precision(self, layer, is_branch: bool, activations: Format) -> LayerPrecision:
        weights = self.format()
        bias = self.with_step(weights.step_exp + activations.step_exp)
        return LayerPrecision(
            weights=weights,
            activations=activations,
            activation_grads=self.format(),
            weight_grads=self.format(),
            accumulators=self.accumulator(weights),
            bias=bias,
            bias_grads=self.format(),
            bias_accumulators=self.accumulator(bias),
            preactivations=self.format(),
            branch=self.with_step(bias.step_exp) if is_branch else None,
            batch_norm=self.norm() if layer.batch_norm else None,
        )

    def modes(self, network: Network, layers: dict[str, LayerPrecision]):
        tensors = sorted(quantized_tensors(network, layers))
        rounding = {
            tensor: self.one(MODES[tensor].roundings) for tensor in tensors if self.chance(0.2)
        }
        overflow = {
            tensor: self.one(
                ("saturate",) if tensor.endswith("accumulators") else MODES[tensor].overflows
            )
            for tensor in tensors
            if self.chance(0.2)
        }
        return rounding, overflow

    def held(self) -> dict[str, Accumulator]:
        if self.chance(0.8):
            return {}
        order = self.one(("sequential", "tree", "tiles"))
        return {
            kind: Accumulator(
                self.whole(2, 62),
                overflow=self.one(OVERFLOWS),
                when=self.one(WHEN_OF_TILES if order == "tiles" else WHEN),
                order=order,
                tile=self.whole(2, 5) if order == "tiles" else 0,
                rounding=self.one([mode for mode in ROUNDINGS if "stochastic" not in mode]),
                drop=self.one((0, 0, 1, 5, 40, 62)),
                lanes=self.one((1, 1, 2, 3)),
            )
            for kind in ("forward", "input_grad", "weight_grad")
            if self.chance(0.5)
        }

    def assignment(self, network: Network) -> PrecisionAssignment:
        read = {source for _, source in network.edges()}
        shared = {source: self.format(self.chance(0.2)) for source in read}
        layers = {
            layer.name: self.precision(
                layer, layer.name != network.names[-1] and layer.name not in read, shared[source]
            )
            for layer, source in network.edges()
        }
        step_exp = self.whole(-50, 5)
        bits = min(max(self.bits(), 1), 14 - step_exp)
        logits = Format(bits, step_exp + bits - 1)
        modes = self.modes(network, layers)
        return PrecisionAssignment(network.name, layers, logits, *modes, accumulator=self.held())

    def optimizer(self) -> Optimizer:
        if self.chance(0.7):
            return Optimizer()
        decay = self.one((0.0, 1e-4, 0.5, 1e-9))
        return Optimizer(self.one((0.0, 0.5, 0.9, 0.9999)), decay, self.one((2, 8, 24, 32)))

    def rate(self) -> LearningRate:
        near = self.chance(0.5)
        exponent = self.random.uniform(-8, 2) if near else self.random.uniform(-150, 150)
        return LearningRate.of(2.0**exponent)


def random_case(seed: int) -> Case:
    """The case of that number; a network that cannot be is drawn again."""
    draw = Draw(seed)
    while True:
        try:
            network = draw.network()
            assignment = draw.assignment(network)
        except InputError:
            continue
        large = network.shape(network.names[0]).dot_length > 1000
        batch = 1 if large else draw.whole(1, 4)
        return Case(network, assignment, draw.optimizer(), draw.rate(), batch, seed)


def real_parameters(network: Network, formats, random) -> dict:
    """Reals of every magnitude that the formats have, some beyond them."""

    def reals(shape, format: Format) -> np.ndarray:
        codes = random.uniform(-1.3, 1.3, shape) * format.range
        ends = random.choice([format.min, format.max, 0.0], shape)
        return np.where(random.random(shape) < 0.3, ends, codes)

    made = {}
    for layer in network.layers:
        shape = network.shape(layer.name).weight
        own = formats[layer.name]
        made[layer.name] = {"weight": reals(shape, own.weights)}
        if not layer.batch_norm:
            made[layer.name]["bias"] = reals(shape[-1:], own.bias)
            continue
        norm = own.batch_norm
        made[layer.name] |= {
            "gamma": reals(shape[-1:], norm.gamma),
            "beta": reals(shape[-1:], norm.beta),
            "running_mean": reals(shape[-1:], norm.mean),
            "running_var": abs(reals(shape[-1:], norm.variance)),
        }
    return made


def tuple_of(format: Format) -> tuple[int, int, bool]:
    return format.bits, format.range_exp, format.signed


def describe(case: Case) -> list[dict]:
    """The twin's plain form of the network."""
    return [
        {
            "name": layer.name,
            "kind": type(layer).__name__.lower(),
            "activation": dataclasses.asdict(layer.activation),
            "dropout": layer.dropout,
            "pool": pool_of(layer, case.network.shape(layer.name).pool),
            "source": source,
            "add": layer.add,
            "batch_norm": layer.norm and dataclasses.asdict(layer.norm),
            "stride": getattr(layer, "stride", None),
            "padding": case.network.shape(layer.name).window.padding,
            "accumulators": {
                kind: dataclasses.asdict(model)
                for kind, model in case.assignment.accumulators_of(layer.name).items()
            },
        }
        for layer, source in case.network.edges()
    ]


def start(fixed: FixedNetwork, real: dict) -> tuple[dict, dict]:
    """(formats, state) of the twin."""
    formats = {}
    state = {}
    for name, row in fixed.assignment.layers.items():
        own = {tensor: tuple_of(format) for tensor, format in row.given().items()}
        formats[name] = own
        normed = fixed.layers[name].norm is not None
        if normed:
            own["preactivation_grads"] = tuple_of(fixed.layers[name].pre_format)
        kinds = {"weight": "weights", **({"gamma": "gamma", "beta": "beta"} if normed else {})}
        kinds |= {} if normed else {"bias": "bias"}
        state[name] = {
            kind: _quantized(real[name][kind], own[tensor]) for kind, tensor in kinds.items()
        }
        state[name] |= {f"{kind}_acc": map_nested(lambda _: 0, state[name][kind]) for kind in kinds}
        if normed:
            for statistic, kind in (("mean", "running_mean"), ("variance", "running_var")):
                codes = _quantized(real[name][kind], own[statistic])
                state[name][f"running_{statistic}"] = [code * 2**16 for code in codes]
    return formats, state


def _quantized(values: np.ndarray, fmt) -> list:
    return map_nested(
        lambda value: rounding_oracle.quantize(Fraction(value), fmt)[0], values.tolist()
    )


def _clear_twins() -> None:
    """The twin remembers what it rounded; other cases never ask for it again."""
    for value in vars(rounding_oracle).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


class Outcome(NamedTuple):
    """What became of a case: paths that built the network, why others did not, and whether the
    step took the batch.
    """

    built: tuple[str, ...]
    refusals: tuple[str, ...]
    stepped: bool


def run_case(case: Case, paths: tuple[str, ...]) -> Outcome:
    """Train one step on every path and infer; each equals the twin, or is refused when built.

    A batch whose sums are too wide is refused before the step computes anything.
    """
    random = np.random.default_rng(case.seed)
    real = real_parameters(case.network, case.assignment.layers, random)
    input_format = case.assignment.layers[case.network.names[0]].activations
    shape = (case.batch, *case.network.input_shape)
    low, high = input_format.min_code, input_format.max_code
    images = random.integers(low, high, shape, endpoint=True)
    images = np.where(random.random(shape) < 0.3, random.choice([low, 0, high], shape), images)
    labels = random.integers(0, case.network.classes, case.batch)
    number = int(random.integers(0, 2**32))
    wanted = cache(lambda: _twin(case, started, images, labels, number))
    built = []
    refusals = []
    started: tuple[dict, dict] | None = None
    stepped = False
    for path in paths:
        try:
            fixed = FixedNetwork(
                case.network, case.assignment, real, path, case.seed, case.optimizer
            )
        except InputError as error:
            text = str(error)
            assert "layer " in text or "logits" in text, text
            assert len(text) <= 300 and "\n" not in text, text
            refusals.append(text)
            continue
        started = started or start(fixed, real)
        built.append(path)
        stepped |= _check(case, fixed, images, labels, number, wanted)
    _clear_twins()
    return Outcome(tuple(built), tuple(refusals), stepped)


def _twin(case, started, images, labels, number):
    formats, state = started
    modes = {("rounding", tensor): mode for tensor, mode in case.assignment.rounding.items()}
    modes |= {("overflow", tensor): mode for tensor, mode in case.assignment.overflow.items()}
    twin = describe(case), formats, tuple_of(case.assignment.logits), state
    optimizer = dataclasses.asdict(case.optimizer) if case.optimizer else None
    given = images.tolist(), labels.tolist()
    step = oracle.train_step(*twin, *given, case.rate.exact, modes, case.seed, number, optimizer)
    return step, oracle.evaluate(*twin, *given, modes, case.seed)


def _check(case, fixed, images, labels, number, wanted) -> bool:
    """Whether the step was taken; it equals the twin's then."""
    seen = {}

    def probe(tensor, layer, value):
        seen[tensor, layer] = value.codes.copy()

    before = fixed.state()
    try:
        result = fixed.train_step(images, labels, case.rate, number, probe)
    except InputError as error:
        assert "layer " in str(error), str(error)
        assert not seen, f"refused in the middle of a step: {error}"
        after = fixed.state()
        assert all(np.array_equal(before[name], after[name]) for name in before)
        return False
    (run, loss_sum, wrong), evaluated = wanted()
    assert set(seen) == set(run.tensors)
    for (tensor, layer), codes in run.tensors.items():
        assert_same_codes(seen[tensor, layer], codes, what=f"{layer}, {tensor}")
    assert (result.loss_sum, result.wrong, result.stopped) == (loss_sum, wrong, run.stopped)
    counted = {key: (c.below, c.above, c.flushed) for key, c in result.counts.items()}
    assert counted == run.counts
    assert {key: met.overflows for key, met in result.overflows.items()} == run.overflows
    for batch in (1, case.batch):
        rest = fixed.evaluate(images, labels, batch)
        assert (rest.loss_sum, rest.wrong) == evaluated, f"evaluate, batch {batch}"
    return True
