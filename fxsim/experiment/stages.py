"""The method, stage after stage; each stage reads what the one before wrote into the same folder.

    train_float   float run        -> float.npz, gradients.npz, experiment.json
    analyze       what it measured -> statistics.npz
    assign        the criteria     -> assignment.json
    train_fixed   C_o and relatives
    train         these, and the designs that they are compared with

All of them one after another: study.py.

Every training adds its epochs to curves.csv as they end and its design to results.json when it
ends.  While it lasts, checkpoint-DESIGN.npz holds what it needs to go on.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fxsim import __version__
from fxsim.analysis import assign as assignment_rules
from fxsim.analysis.complexity import Complexity
from fxsim.analysis.measure import measure
from fxsim.analysis.mismatch import mismatch
from fxsim.analysis.output_error import asked_output_error, measured_output_error
from fxsim.analysis.statistics import GradientStatistics, Statistics
from fxsim.datasets import Dataset
from fxsim.errors import InputError, shown
from fxsim.experiment import results
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stage_file import read_stage_arrays, write_stage_arrays
from fxsim.experiment.training import TrainingSetup
from fxsim.fields import check_table
from fxsim.files import make_folder
from fxsim.interrupts import before_end
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network, to_dict
from fxsim.train import checkpoint, designs
from fxsim.train.checkpoint import Cadence, Checkpoint
from fxsim.train.learners import FixedLearner
from fxsim.train.loop import Epoch, Position, train
from fxsim.train.measured import measured

SETTINGS_FILE = "experiment.json"
PARAMETERS = "float.npz"
GRADIENTS = "gradients.npz"
ARRAY_KINDS = {PARAMETERS: "fxsim float run", GRADIENTS: "fxsim gradient statistics"}
ARRAYS_VERSION = 1
PLOTS = ("curves", "bits", "ranges", "sensitivity")
DERIVED = (
    "statistics.npz",
    "assignment.json",
    results.FILE,
    "curves.csv",
    "report.md",
    *(f"{name}.{suffix}" for name in PLOTS for suffix in ("png", "svg")),
)
"""What later stages make of a float run; a new float run makes it void."""


class Observer:
    """Follows an experiment; this one looks on in silence."""

    def note(self, text: str) -> None:
        """A stage begins."""

    def begin(self, design: str, settings: Settings) -> None:
        """A training begins."""

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        """Step `step` (from 1) of the `steps` of epoch `epoch` (from 0) is done.

        Loss: the epoch's mean so far.
        """

    def epoch(self, epoch: Epoch) -> None:
        """An epoch is done, with its evaluation."""

    def end(self, outcome: Outcome) -> None:
        """A training has ended and its result is written."""


@dataclass(frozen=True)
class Training:
    """One training: its name in the results, which of DESIGNS it is, and for FX and SQ the formats
    of the tensors.

    measured: whether the criteria are measured on it, too (train/measured.py), for a training in
    fixed point.
    """

    name: str
    design: str
    assignment: PrecisionAssignment | None = None
    measured: bool = False


FLOAT_RUN = Training("FL", "FL")


class Experiment:
    """Settings with their network and data, and the folder that the stages share.

    command: the command line, to be recorded in results.json.  resume: leave out what is finished
    in the folder, and go on from a checkpoint where there is one.  cadence: when checkpoints are
    written.  curves: whether trainings write curves.csv; two processes must not write one file.
    """

    def __init__(
        self,
        settings: Settings,
        folder: str | Path,
        observer: Observer | None = None,
        command: str = "",
        resume: bool = False,
        cadence: Cadence | None = None,
        curves: bool = True,
    ):
        self.settings = settings
        self.observer = observer or Observer()
        self.command = command
        self.resume = resume
        self.cadence = cadence or Cadence()
        self.curves = curves
        self.setup = TrainingSetup.of(settings)
        self.folder = make_folder(folder)

    @property
    def network(self) -> Network:
        """The network that is trained."""
        return self.setup.network

    @property
    def dataset(self) -> Dataset:
        """The images; the training images are those that are trained on."""
        return self.setup.dataset

    @classmethod
    def reopen(
        cls, folder: str | Path, observer: Observer | None = None, command: str = ""
    ) -> Experiment:
        """The experiment whose float run was written into `folder`.

        Raises:
            InputError: there is none, or the results in the folder are of other settings or images.
        """
        path = Path(folder) / SETTINGS_FILE
        if not path.exists():
            raise InputError(
                f"{folder} holds no float run (no {SETTINGS_FILE}); "
                f"run `fxsim train --out {folder}` first"
            )
        experiment = cls(Settings.load(path), folder, observer, command)
        if experiment.path(results.FILE).exists():
            experiment.open_results()
        return experiment

    def path(self, name: str) -> Path:
        """The path of a file of the run."""
        return self.folder / name

    def train_float(self) -> Outcome:
        """The FL run.

        It makes an earlier run in the folder void; experiment.json is written last, so that a
        folder with one holds a whole float run.
        """
        if done := self.done(FLOAT_RUN):
            return done
        if self.path(results.FILE).exists():
            results.read_results(self.folder)  # nobody else's file is overwritten
        gradients = GradientStatistics(self.network)
        learner = self.setup.float_learner("FL", gradients)
        outcome = self._train(FLOAT_RUN, learner)
        for path in (
            *map(self.path, (SETTINGS_FILE, *DERIVED)),
            *checkpoint.of_others(self.folder, "FL"),
        ):
            path.unlink(missing_ok=True)
        self._write_arrays(PARAMETERS, _flat(learner.network.parameters))
        self._write_arrays(GRADIENTS, {"state": gradients.state})
        self.settings.save(self.path(SETTINGS_FILE))
        return self.finish(outcome, self.open_results())

    def float_parameters(self) -> Parameters:
        """The parameters that the float run ended with, from float.npz."""
        arrays = self._read_arrays(PARAMETERS)
        for name, array in arrays.items():
            if array.dtype.kind != "f":
                raise InputError(
                    f"{self.path(PARAMETERS)}: {shown(name)} holds {array.dtype}, no real numbers; "
                    f"run `fxsim train` again, in another folder"
                )
        return nested(arrays)

    def _write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        kind = ARRAY_KINDS[name]
        write_stage_arrays(self.path(name), kind, ARRAYS_VERSION, self.settings.to_dict(), arrays)

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        kind = ARRAY_KINDS[name]
        return read_stage_arrays(self.path(name), kind, ARRAYS_VERSION, self.settings.to_dict())

    def analyze(self) -> Statistics:
        """Noise gains, singular values and ranges of the trained float network.

        Writes statistics.npz.
        """
        self.observer.note("measuring noise gains and singular values")
        images = self.dataset.train_images[: self.settings.gain_samples]
        statistics = self.measure(self.float_parameters(), images)
        statistics.save(self.path("statistics.npz"))
        return statistics

    def measure(self, parameters: dict, images: np.ndarray) -> Statistics:
        """The Statistics of the network with trained `parameters`, noise gains over `images`
        (pixels).
        """
        batch = self.dataset.train_images[: self.settings.batch]
        return measure(
            FloatNetwork(self.network, parameters, np.float64),
            self._gradients(),
            images / self.dataset.pixel_max,
            batch / self.dataset.pixel_max,
            self.settings.schedule().smallest_rate,
        )

    def _gradients(self) -> GradientStatistics:
        gradients = GradientStatistics(self.network)
        path = self.path(GRADIENTS)
        state = self._read_arrays(GRADIENTS).get("state")
        wanted = gradients.state
        if state is None or (state.shape, state.dtype) != (wanted.shape, wanted.dtype):
            raise InputError(
                f"{path} does not fit network {self.network.name!r}; "
                f"run `fxsim train --out {self.folder}` again"
            )
        gradients.state = state
        return gradients

    def assign(self) -> PrecisionAssignment:
        """C_o from statistics.npz; writes assignment.json."""
        statistics = Statistics.load(self.path("statistics.npz"), self.network)
        assignment = assignment_rules.assign(
            self.network,
            statistics,
            self.settings.target,
            output_grad_bits=self.settings.output_grad_bits or None,
        )
        assignment.save(self.path("assignment.json"))
        return assignment

    def mismatch(self, assignment: PrecisionAssignment) -> dict:
        """The bound on p_m, and the shares of training and test images that the trained float
        network and its parameters in fixed point decide differently; plain data.

        The training images are those that the bound's noise gains were taken over; there are as
        many test images.
        """
        network = FloatNetwork(self.network, self.float_parameters(), np.float64)
        bound = assignment_rules.assignment_mismatch_bound(
            self.network, Statistics.load(self.path("statistics.npz"), self.network), assignment
        )
        sample = slice(self.settings.gain_samples)
        measured = {
            name: {
                "images": len(images),
                "share": mismatch(network, assignment, images, self.dataset.pixel_max),
            }
            for name, images in (
                ("training", self.dataset.train_images[sample]),
                ("test", self.dataset.test_images[sample]),
            )
        }
        return {"target": self.settings.target, "bound": float(bound), "measured": measured}

    def output_error(self, assignment: PrecisionAssignment) -> dict:
        """What `mismatch` is for a network that decides nothing: the mean squared error of its
        outputs against float; plain data.

        target: the share of `loss` that was asked for.  loss: of the float network, for an output
        (analysis/output_error.py).  bound_asked: their product.  bound: what noise gains expect.
        measured: what was found on training and test images.
        """
        network = FloatNetwork(self.network, self.float_parameters(), np.float64)
        statistics = Statistics.load(self.path("statistics.npz"), self.network)
        bound = assignment_rules.assignment_mismatch_bound(self.network, statistics, assignment)
        sample = slice(self.settings.gain_samples)
        pixel_max = self.dataset.pixel_max
        measured = {
            name: {
                "images": len(images),
                "error": measured_output_error(network, assignment, images, pixel_max),
            }
            for name, images in (
                ("training", self.dataset.train_images[sample]),
                ("test", self.dataset.test_images[sample]),
            )
        }
        return {
            "target": self.settings.target,
            "loss": statistics.output_loss,
            "bound_asked": asked_output_error(statistics, self.settings.target),
            "bound": float(bound),
            "measured": measured,
        }

    def train_fixed(self, assignment: PrecisionAssignment, design: str = "FX C_o") -> Outcome:
        """A run in fixed point from the same initial parameters, on the images in the same order."""
        return self.train(Training(design, "FX", assignment, measured=True))

    def train(self, training: Training) -> Outcome:
        """A run of any design but FL, from the same initial parameters, on the images in the same
        order.
        """
        if done := self.done(training):
            return done
        earlier = self.open_results()
        return self.finish(self.outcome(training), earlier)

    def outcome(self, training: Training) -> Outcome:
        """What `train` does, but for the results, which `finish` writes."""
        if training.assignment is None:
            return self._train(training, self.setup.float_learner(training.design))
        learner = self.setup.fixed_learner(training.assignment, training.design)
        start = learner.network.fingerprint()
        outcome = self._train(training, learner)
        counts = {
            f"{layer}.{tensor}": dataclasses.asdict(value)
            for (layer, tensor), value in learner.counts.items()
        }
        overflows = {
            f"{layer}.{kind}": dataclasses.asdict(met)
            for (layer, kind), met in learner.overflows.items()
        }
        return dataclasses.replace(
            outcome,
            assignment=training.assignment,
            counts=counts,
            stopped=learner.stopped,
            overflows=overflows,
            sums=results.exact_sums(learner.network, self.settings.batch),
            start_fingerprint=start,
            fingerprint=learner.network.fingerprint(),
            measured=self._measured(training, learner),
        )

    def _measured(self, training: Training, learner: FixedLearner) -> dict:
        if not training.measured or training.assignment is None:
            return {}
        return measured(
            self.setup.fixed_learner(training.assignment, training.design),
            learner,
            self.dataset,
            self.settings.schedule(),
            self.settings.batch,
        )

    def open_results(self) -> results.Results:
        """What the folder holds of this experiment's results, to add to."""
        return results.Results(
            self.folder, self.settings.to_dict(), self.setup.describe_images(), self.command
        )

    def done(self, training: Training) -> Outcome | None:
        """The outcome of a design that is not to be trained again."""
        if not self.resume or not self.path(results.FILE).exists():
            return None
        row = results.finished(
            self.folder, self.settings.to_dict(), training.name, training.assignment
        )
        if row is None:
            return None
        self.open_results()  # refuses results on other images
        checkpoint.remove(self.folder, training.name)
        outcome = Outcome.from_dict(row, self._costs(training))
        self._write_curve(
            training.name, outcome.epochs
        )  # in place of those of a later run that did not end
        self.observer.begin(training.name, self.settings)
        self.observer.end(outcome)
        return outcome

    def _costs(self, training: Training) -> Complexity:
        return designs.costs(training.design, self.network, training.assignment)

    def _train(self, training: Training, learner) -> Outcome:
        self.observer.begin(training.name, self.settings)
        saved = Checkpoint(self.folder, training.name, self._identity(training), self.cadence)
        position = self._start(saved, learner)

        def keep(position: Position) -> None:
            if position.step == 0:
                self._write_curve(training.name, position.epochs)
                self.observer.epoch(position.epochs[-1])
            saved.keep(learner, position)

        with before_end(f"the checkpoint of {training.name}"):
            try:
                train(learner, self.setup.plan, position, keep, self.observer.step)
            except KeyboardInterrupt:
                saved.write(learner, position)
                raise
        return Outcome(training.name, position.epochs, self._costs(training), position.seconds)

    def _start(self, saved: Checkpoint, learner) -> Position:
        """Where a training begins; its checkpoint is there from then on."""
        if self.resume and saved.path.exists():
            position = saved.load(learner)
            self._write_curve(
                saved.design, position.epochs
            )  # without the rows of epochs that are to be trained again
            return position
        if aside := saved.set_aside():
            self.observer.note(
                f"{saved.design} begins anew; what --resume would have gone on with is now {aside}"
            )
        position = Position()
        saved.write(learner, position)
        return position

    def _write_curve(self, design: str, epochs: list[Epoch]) -> None:
        if not self.curves:
            return
        results.write_curves(self.folder, {design: list(map(results.epoch_row, epochs))})

    def _identity(self, training: Training) -> dict:
        """What tells a checkpoint of this training from all others."""
        formats = training.assignment.formats_to_dict() if training.assignment else None
        return {
            "fxsim": __version__,
            "design": training.name,
            "settings": self.settings.to_dict(),
            "network": to_dict(self.network),
            "dataset": self.setup.images_sha256,
            "assignment": formats,
        }

    def finish(self, outcome: Outcome, earlier: results.Results) -> Outcome:
        """Add an outcome to the results; its checkpoint has served."""
        earlier.add(outcome)
        checkpoint.remove(self.folder, outcome.design)
        self.observer.end(outcome)
        return outcome

    def assigned(self) -> PrecisionAssignment:
        """C_o, from the folder where it is not to be made again."""
        path = self.path("assignment.json")
        if self.resume and path.exists():
            return PrecisionAssignment.load(path)
        self.analyze()
        return self.assign()


def settings_in(folder: str | Path, design: str = "FL") -> Settings | None:
    """The settings of what is in `folder`, finished or not; None where nothing is.

    Those of a float run under way come before those of an earlier one, and these before those of
    `design`.
    """
    own = checkpoint.path_of(folder, design)
    written = Path(folder) / SETTINGS_FILE
    if own.exists() and (design == "FL" or not written.exists()):
        return checkpoint_settings(own)
    if written.exists():
        return Settings.load(written)
    if (Path(folder) / results.FILE).exists():
        return results.stored_settings(folder)
    return None


def checkpoint_settings(path: Path) -> Settings:
    """The settings of the training whose checkpoint this is."""
    text, _ = checkpoint.read(path)
    try:
        return Settings.from_dict(check_table("identity", text["identity"]).get("settings"))
    except InputError as error:
        raise InputError(f"{path}: {error}; delete the checkpoint to train anew") from None


def perturbed_name(bits: int, only: str | None = None) -> str:
    """'FX C_-1', or 'FX C_-1 weight_grads' where only one class of tensors is perturbed.

    'FX C_o' for 0 bits.
    """
    return f"FX C_{bits:+d}{f' {only}' if only else ''}" if bits else "FX C_o"


def _flat(parameters: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
        f"{layer}.{name}": array for layer, row in parameters.items() for name, array in row.items()
    }


def nested(arrays: dict[str, np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
    """{'layer.name': array} as layer -> name -> array."""
    nested: dict[str, dict[str, np.ndarray]] = {}
    for key, array in arrays.items():
        layer, _, name = key.rpartition(".")
        nested.setdefault(layer, {})[name] = array
    return nested
