"""The method, stage after stage; each stage reads what the one before wrote into the same folder.

    train_float   float run        -> experiment.json, float.npz, gradients.npz
    analyze       what it measured -> statistics.npz
    assign        the criteria     -> assignment.json
    train_fixed   C_o and relatives
    run           all of them      -> results.json, curves.csv, plots
"""
from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from fxsim.analysis import assign as assignment_rules
from fxsim.analysis.complexity import Complexity, assignment_complexity, design_complexity
from fxsim.analysis.jacobian import largest_singular_values
from fxsim.analysis.noise_gains import noise_gains
from fxsim.analysis.statistics import GradientStatistics, Statistics
from fxsim.datasets import Dataset, load
from fxsim.errors import InputError
from fxsim.files import make_folder, read_arrays, read_json, write_arrays, write_text
from fxsim.nn.fixed import FixedNetwork
from fxsim.nn.floating import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Network
from fxsim.precision import PrecisionAssignment
from fxsim.settings import QUICK_PICTURES, Settings
from fxsim.train.learners import FixedLearner, FloatLearner, check_dataset
from fxsim.train.loop import Epoch, train

Report = Callable[[str, int, int, int, float], None]
"""report(design, epoch, step, steps, mean loss so far)"""


@dataclass(frozen=True)
class Outcome:
    """What one design came to.

    design: 'FL', 'FX C_o', 'FX C_-1' ...  counts: tensor 'layer.tensor' -> elements, below, above, flushed, over all
    of training.  fingerprint: SHA-256 of all parameter codes; None for float designs.
    """

    design: str
    epochs: list[Epoch]
    costs: Complexity
    seconds: float
    assignment: PrecisionAssignment | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    fingerprint: str | None = None

    def to_dict(self) -> dict:
        """Plain data for results.json."""
        last = self.epochs[-1]
        return {"design": self.design, "test_error": last.test_error, "test_loss": last.test_loss,
                "train_loss": last.train_loss, "costs": self.costs.to_dict(), "seconds": round(self.seconds, 3),
                "fingerprint": self.fingerprint, "epochs": [dataclasses.asdict(epoch) for epoch in self.epochs],
                "counts": self.counts, "stopped": self.stopped,
                "assignment": self.assignment.to_dict() if self.assignment else None}


class Experiment:
    """Settings with their network and data, and the folder that the stages share."""

    def __init__(self, settings: Settings, folder: str | Path, report: Report | None = None):
        self.settings, self.folder, self.report = settings, make_folder(folder), report
        self.network: Network = settings.build_network()
        self.dataset: Dataset = load(settings.dataset, settings.data)
        check_dataset(self.dataset, self.network)
        if settings.quick:
            self.dataset = dataclasses.replace(self.dataset, train_images=self.dataset.train_images[:QUICK_PICTURES],
                                               train_labels=self.dataset.train_labels[:QUICK_PICTURES])

    @classmethod
    def reopen(cls, folder: str | Path, report: Report | None = None) -> Experiment:
        """The experiment whose float run was written into `folder`."""
        path = Path(folder) / "experiment.json"
        if not path.exists():
            raise InputError(f"{folder} holds no experiment.json; run `fxsim train --out {folder}` first")
        return cls(Settings.make(**read_json(path)), folder, report)

    def path(self, name: str) -> Path:
        return self.folder / name

    def train_float(self) -> Outcome:
        """The FL run; writes experiment.json, float.npz (parameters) and gradients.npz (their statistics)."""
        statistics = GradientStatistics(self.network)
        network = FloatNetwork(self.network, initial_parameters(self.network, self.settings.seed))
        learner = FloatLearner(network, self.dataset.pixel_max, self.settings.seed, statistics.probe)
        outcome = self._train("FL", learner, design_complexity(self.network, "FL"))
        write_text(self.path("experiment.json"), json.dumps(self.settings.to_dict(), indent=1) + "\n")
        write_arrays(self.path("float.npz"), _flat(network.parameters))
        write_arrays(self.path("gradients.npz"), {"layers": np.array(self.network.names), **statistics.sigmas()})
        return outcome

    def analyze(self) -> Statistics:
        """Noise gains, singular values and ranges of the trained float network; writes statistics.npz."""
        parameters = _nested(read_arrays(self.path("float.npz")))
        sigmas = read_arrays(self.path("gradients.npz"))
        sigmas.pop("layers", None)
        statistics = measure(self.network, parameters, sigmas, self.dataset, self.settings)
        statistics.save(self.path("statistics.npz"))
        return statistics

    def assign(self) -> PrecisionAssignment:
        """C_o from statistics.npz; writes assignment.json."""
        statistics = Statistics.load(self.path("statistics.npz"), self.network)
        assignment = assignment_rules.assign(self.network, statistics, self.settings.target)
        assignment.save(self.path("assignment.json"))
        return assignment

    def train_fixed(self, assignment: PrecisionAssignment, design: str = "FX C_o") -> Outcome:
        """A run in true fixed point from the same initial parameters and order of pictures."""
        network = FixedNetwork(self.network, assignment, initial_parameters(self.network, self.settings.seed),
                               seed=self.settings.seed)
        learner = FixedLearner(network, self.dataset.pixel_max)
        outcome = self._train(design, learner, assignment_complexity(self.network, assignment))
        counts = {f"{layer}.{tensor}": dataclasses.asdict(value) for (layer, tensor), value in learner.counts.items()}
        return dataclasses.replace(outcome, assignment=assignment, counts=counts, stopped=learner.stopped,
                                   fingerprint=network.fingerprint())

    def _train(self, design: str, learner, costs: Complexity) -> Outcome:
        report = self.report and (lambda *progress: self.report(design, *progress))
        start = time.perf_counter()
        epochs = train(learner, self.dataset, self.settings.schedule(), self.settings.batch, self.settings.seed, report)
        return Outcome(design, epochs, costs, time.perf_counter() - start)

    def run(self) -> list[Outcome]:
        """Everything: FL, statistics, C_o, then fixed-point training with C_o and its perturbations."""
        outcomes = [self.train_float()]
        self.analyze()
        assignment = self.assign()
        outcomes.append(self.train_fixed(assignment))
        for bits in self.settings.perturb:
            outcomes.append(self.train_fixed(assignment.perturbed(bits), f"FX C_{bits:+d}"))
        return outcomes


def measure(network: Network, parameters: dict, sigmas: dict[str, np.ndarray], dataset: Dataset,
            settings: Settings) -> Statistics:
    """The Statistics of a trained float network; sigmas as GradientStatistics gives them."""
    exact = FloatNetwork(network, parameters, np.float64)
    images = dataset.train_images[:settings.gain_samples] / dataset.pixel_max
    weights_gain, activations_gain = noise_gains(exact, images)
    shapes = [network.shape(name) for name in network.names]
    peaks: dict[tuple[str, str], float] = {}

    def keep_peak(tensor, layer, array):
        peaks[tensor, layer] = float(np.abs(array).max())

    exact.forward_tape(images, probe=keep_peak)
    return Statistics(
        network=network.name, layers=network.names, **sigmas,
        weights_gain=weights_gain, activations_gain=activations_gain,
        lambda_max=largest_singular_values(exact, dataset.train_images[:settings.batch] / dataset.pixel_max),
        weight_grads_count=np.array([shape.weights for shape in shapes]),
        activation_grads_count=np.array([settings.batch * int(np.prod(shape.output)) for shape in shapes]),
        preactivations_max=np.array([peaks["preactivations", name] for name in network.names]),
        logits_max=peaks["scores", network.names[-1]],
        gamma_min=settings.schedule().smallest_rate, batch_size=settings.batch)


def _flat(parameters: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{layer}.{name}": array for layer, row in parameters.items() for name, array in row.items()}


def _nested(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    nested: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, _, name = key.rpartition(".")
        nested.setdefault(layer, {})[name] = array
    return nested
