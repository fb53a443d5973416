"""The method, stage after stage; each stage reads what the one before wrote into the same folder.

    train_float   float run        -> float.npz, gradients.npz, experiment.json
    analyze       what it measured -> statistics.npz
    assign        the criteria     -> assignment.json
    train_fixed   C_o and relatives
    run           all of them

Every training adds its design to results.json and curves.csv when it ends.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from pathlib import Path

import numpy as np

from fxsim import results
from fxsim.analysis import assign as assignment_rules
from fxsim.analysis.complexity import Complexity, assignment_complexity, design_complexity
from fxsim.analysis.measure import measure
from fxsim.analysis.statistics import GradientStatistics, Statistics
from fxsim.datasets import Dataset, load
from fxsim.errors import InputError
from fxsim.files import make_folder, read_arrays, read_json, write_arrays, write_text
from fxsim.nn.fixed import FixedNetwork
from fxsim.nn.floating import FloatNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.spec import Network
from fxsim.precision import PrecisionAssignment
from fxsim.results import Outcome
from fxsim.settings import QUICK_PICTURES, Settings
from fxsim.train.learners import FixedLearner, FloatLearner, check_dataset
from fxsim.train.loop import train

SETTINGS_FILE = "experiment.json"
DERIVED = ("statistics.npz", "assignment.json", results.FILE, "curves.csv", "curves.png", "bits.png")
"""What later stages make of a float run; a new float run makes it void."""


class Observer:
    """Follows an experiment; this one looks on in silence."""

    def note(self, text: str) -> None:
        """A stage begins."""

    def begin(self, design: str, settings: Settings) -> None:
        """A training begins."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Step `step` (from 1) of the `steps` of epoch `epoch` (from 0) is done; loss: the epoch's mean so far."""

    def end(self, outcome: Outcome) -> None:
        """A training has ended and its result is written."""


class Experiment:
    """Settings with their network and data, and the folder that the stages share.

    command: the command line, to be recorded in results.json.
    """

    def __init__(self, settings: Settings, folder: str | Path, observer: Observer | None = None, command: str = ""):
        self.settings, self.observer, self.command = settings, observer or Observer(), command
        self.network: Network = settings.build_network()
        self.dataset: Dataset = load(settings.dataset, settings.data)
        check_dataset(self.dataset, self.network)
        if settings.quick:
            self.dataset = dataclasses.replace(self.dataset, train_images=self.dataset.train_images[:QUICK_PICTURES],
                                               train_labels=self.dataset.train_labels[:QUICK_PICTURES])
        self.folder = make_folder(folder)

    @classmethod
    def reopen(cls, folder: str | Path, observer: Observer | None = None, command: str = "") -> Experiment:
        """The experiment whose float run was written into `folder`."""
        path = Path(folder) / SETTINGS_FILE
        if not path.exists():
            raise InputError(f"{folder} holds no float run (no {SETTINGS_FILE}); "
                             f"run `fxsim train --out {folder}` first")
        data = read_json(path)
        if not isinstance(data, dict):
            raise InputError(f"{path} does not hold settings; run `fxsim train --out {folder}` again")
        return cls(Settings.make(**data), folder, observer, command)

    def path(self, name: str) -> Path:
        return self.folder / name

    def train_float(self) -> Outcome:
        """The FL run.

        It makes an earlier run in the folder void; experiment.json is written last, so that a folder with
        one holds a whole float run.
        """
        if self.path(results.FILE).exists():
            results.read_results(self.folder)  # nobody else's file is overwritten
        gradients = GradientStatistics(self.network)
        network = FloatNetwork(self.network, initial_parameters(self.network, self.settings.seed))
        learner = FloatLearner(network, self.dataset.pixel_max, self.settings.seed, gradients.probe)
        outcome = self._train("FL", learner, design_complexity(self.network, "FL"))
        for name in (SETTINGS_FILE, *DERIVED):
            with contextlib.suppress(FileNotFoundError):
                self.path(name).unlink()
        write_arrays(self.path("float.npz"), _flat(network.parameters))
        write_arrays(self.path("gradients.npz"), {"state": gradients.state})
        write_text(self.path(SETTINGS_FILE), json.dumps(self.settings.to_dict(), indent=1) + "\n")
        return self._finished(outcome, self._results())

    def analyze(self) -> Statistics:
        """Noise gains, singular values and ranges of the trained float network; writes statistics.npz."""
        self.observer.note("measuring noise gains and singular values")
        parameters = nested(read_arrays(self.path("float.npz")))
        statistics = self.measure(parameters, self.dataset.train_images[:self.settings.gain_samples])
        statistics.save(self.path("statistics.npz"))
        return statistics

    def measure(self, parameters: dict, pictures: np.ndarray) -> Statistics:
        """The Statistics of the network with trained `parameters`, noise gains over `pictures` (pixels)."""
        batch = self.dataset.train_images[:self.settings.batch]
        return measure(FloatNetwork(self.network, parameters, np.float64), self._gradients(),
                       pictures / self.dataset.pixel_max, batch / self.dataset.pixel_max,
                       self.settings.schedule().smallest_rate)

    def _gradients(self) -> GradientStatistics:
        gradients, path = GradientStatistics(self.network), self.path("gradients.npz")
        state = read_arrays(path).get("state")
        if state is None or state.shape != gradients.state.shape:
            raise InputError(f"{path} does not fit network {self.network.name!r}; "
                             f"run `fxsim train --out {self.folder}` again")
        gradients.state = state
        return gradients

    def assign(self) -> PrecisionAssignment:
        """C_o from statistics.npz; writes assignment.json."""
        statistics = Statistics.load(self.path("statistics.npz"), self.network)
        assignment = assignment_rules.assign(self.network, statistics, self.settings.target)
        assignment.save(self.path("assignment.json"))
        return assignment

    def train_fixed(self, assignment: PrecisionAssignment, design: str = "FX C_o") -> Outcome:
        """A run in true fixed point from the same initial parameters and order of pictures."""
        earlier = self._results()
        network = FixedNetwork(self.network, assignment, initial_parameters(self.network, self.settings.seed),
                               seed=self.settings.seed)
        learner = FixedLearner(network, self.dataset.pixel_max)
        outcome = self._train(design, learner, assignment_complexity(self.network, assignment))
        counts = {f"{layer}.{tensor}": dataclasses.asdict(value) for (layer, tensor), value in learner.counts.items()}
        return self._finished(dataclasses.replace(
            outcome, assignment=assignment, counts=counts, stopped=learner.stopped,
            sums=results.exact_sums(network, self.settings.batch), fingerprint=network.fingerprint()), earlier)

    def _results(self) -> results.Results:
        return results.Results(self.folder, self.settings.to_dict(), self.command)

    def _train(self, design: str, learner, costs: Complexity) -> Outcome:
        self.observer.begin(design, self.settings)
        start = time.perf_counter()
        epochs = train(learner, self.dataset, self.settings.schedule(), self.settings.batch, self.settings.seed,
                       self.observer.step, self.settings.augmentation())
        return Outcome(design, epochs, costs, time.perf_counter() - start)

    def _finished(self, outcome: Outcome, earlier: results.Results) -> Outcome:
        earlier.add(outcome)
        self.observer.end(outcome)
        return outcome

    def run(self) -> list[Outcome]:
        """Everything: FL, statistics, C_o, then fixed-point training with C_o and its perturbations.

        A perturbation that leaves a tensor without bits, or gives it too many, is left out with a note.
        """
        outcomes = [self.train_float()]
        self.analyze()
        assignment = self.assign()
        outcomes.append(self.train_fixed(assignment))
        for bits in self.settings.perturb:
            try:
                perturbed = assignment.perturbed(bits)
            except InputError as error:
                self.observer.note(f"{perturbed_name(bits)} is left out: {error}")
            else:
                outcomes.append(self.train_fixed(perturbed, perturbed_name(bits)))
        return outcomes


def perturbed_name(bits: int, only: str | None = None) -> str:
    """'FX C_-1', or 'FX C_-1 weight_grads' where only one class of tensors is perturbed; 'FX C_o' for 0 bits."""
    return f"FX C_{bits:+d}{f' {only}' if only else ''}" if bits else "FX C_o"


def _flat(parameters: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{layer}.{name}": array for layer, row in parameters.items() for name, array in row.items()}


def nested(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    nested: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, _, name = key.rpartition(".")
        nested.setdefault(layer, {})[name] = array
    return nested
