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
import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fxsim import __version__
from fxsim.analysis import assign as assignment_rules
from fxsim.analysis.complexity import Complexity
from fxsim.analysis.feedforward import MismatchBound
from fxsim.analysis.measure import Batch, measure
from fxsim.analysis.mismatch import mismatch
from fxsim.analysis.noise_gains import measure_decisions
from fxsim.analysis.output_error import asked_output_error, measured_output_error
from fxsim.analysis.statistics import GradientStatistics, Statistics
from fxsim.communicator import ALONE, Communicator
from fxsim.datasets import Dataset
from fxsim.errors import InputError, present, shown
from fxsim.experiment import results
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stage_file import read_stage_arrays, write_stage_arrays
from fxsim.experiment.training import IMPORTED, TrainingSetup, flat, nested
from fxsim.fields import check_table
from fxsim.files import make_folder, read_bytes, write_bytes
from fxsim.identity import Identity
from fxsim.interrupts import before_end
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.init import Parameters
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.train import checkpoint, designs
from fxsim.train.checkpoint import Cadence, Checkpoint
from fxsim.train.leading import LeadingLearner
from fxsim.train.learners import FixedLearner
from fxsim.train.loop import Epoch, Position, train
from fxsim.train.measured import first_batches, measured

SETTINGS_FILE = "experiment.json"
PARAMETERS = "float.npz"
GRADIENTS = "gradients.npz"
STATISTICS = "statistics.npz"
ASSIGNMENT = "assignment.json"
ARRAYS = {
    PARAMETERS: ("fxsim float run", "train"),
    GRADIENTS: ("fxsim gradient statistics", "train"),
    STATISTICS: ("fxsim statistics", "analyze"),
}
"""Files of arrays: their kind, and the command that writes them."""
ARRAYS_VERSION = 3
SWEEP = "sweep"
"""Name of the files of sweep.py, without their suffixes."""
PLOTS = ("curves", "bits", "ranges", "sensitivity", SWEEP)
OF_A_RUN = (
    PARAMETERS,
    GRADIENTS,
    IMPORTED,
    STATISTICS,
    ASSIGNMENT,
    results.FILE,
    "curves.csv",
    "report.md",
    "report.html",
    f"{SWEEP}.json",
    f"{SWEEP}.csv",
    *(f"{name}.{suffix}" for name in PLOTS for suffix in ("png", "svg")),
    SETTINGS_FILE,
)
"""All files of an experiment but its checkpoints; a new float run sets them aside, in this order."""
MEASURED_STEPS = 8
"""Training batches of the float run on which criterion GF is measured."""
IMPORTED_STEPS = 64
"""Training batches on which the gradients of an imported network are measured, at most."""
EARLIER = "earlier"
"""What is set aside is in the folders earlier-1, earlier-2 ..."""


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
    dataset: the images, where the settings say dataset='given'; what is in the folder is of these
    images alone.

    communicator: the ranks that take the trainings in fixed point together, ALONE until it is set;
    those beside this one `follow` (train/leading.py).
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
        dataset: Dataset | None = None,
    ):
        self.settings = settings
        self.observer = observer or Observer()
        self.command = command
        self.resume = resume
        self.cadence = cadence or Cadence()
        self.curves = curves
        self.given = dataset
        self.communicator: Communicator = ALONE
        self.setup = TrainingSetup.of(settings, dataset, folder)
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
        cls,
        folder: str | Path,
        observer: Observer | None = None,
        command: str = "",
        resume: bool = False,
        dataset: Dataset | None = None,
    ) -> Experiment:
        """The experiment whose float run was written into `folder`.

        dataset: the images, where they were handed over.

        Raises:
            InputError: there is none, or the results in the folder are of other settings or images.
        """
        path = Path(folder) / SETTINGS_FILE
        if not path.exists():
            raise InputError(
                f"{folder} holds no float run (no {SETTINGS_FILE}); "
                f"run `fxsim train --out {folder}` first"
            )
        settings = Settings.load(path)
        experiment = cls(settings, folder, observer, command, resume, dataset=dataset)
        if experiment.path(results.FILE).exists():
            experiment.open_results()
        return experiment

    def path(self, name: str) -> Path:
        """The path of a file of the run."""
        return self.folder / name

    def train_float(self) -> Outcome:
        """The FL run.

        What the folder holds of an earlier experiment is set aside when it begins.  experiment.json
        is written last, so that a folder with one holds a whole float run.
        """
        if done := self.done(FLOAT_RUN):
            return done
        if self.path(results.FILE).exists():
            results.read_results(self.folder)  # nobody else's file is moved
        gradients = GradientStatistics(self.network)
        learner = self.setup.float_learner("FL", gradients)
        outcome = self._train(FLOAT_RUN, learner)
        return self._finish_float(outcome, learner.network.parameters, gradients)

    def _finish_float(
        self, outcome: Outcome, parameters: Parameters, gradients: GradientStatistics
    ) -> Outcome:
        self._write_arrays(PARAMETERS, flat(parameters))
        self._write_arrays(GRADIENTS, {"state": gradients.state})
        self.settings.save(self.path(SETTINGS_FILE))
        return self.finish(outcome, self.open_results())

    def take_imported(self) -> Outcome:
        """The float run of a network that was imported: nothing is trained.

        Losses and errors are those of the parameters as they are; the gradients are measured over
        the first IMPORTED_STEPS batches with them.
        """
        self.observer.begin(FLOAT_RUN.design, self.settings)
        gradients = GradientStatistics(self.network)
        learner = self.setup.float_learner("FL", gradients)
        begun = time.perf_counter()
        for step in itertools.islice(self.setup.plan.steps(), IMPORTED_STEPS):
            batch = learner.images(step.pixels), learner.targets(step.pixels, step.labels)
            copy = FloatNetwork(
                self.network, self.setup.initial_parameters(), seed=learner.network.seed
            )
            copy.loss_and_grads(*batch, step=step.number, probe=gradients.observe)
        data = self.dataset
        train_loss, _ = learner.evaluate(data.train_images, data.train_wanted)
        test_loss, test_error = learner.evaluate(data.test_images, data.test_wanted)
        seconds = time.perf_counter() - begun
        speed = len(data.train_images) / seconds
        epoch = Epoch(0, 0.0, train_loss, test_loss, test_error, speed)
        outcome = Outcome(FLOAT_RUN.design, [epoch], self._costs(FLOAT_RUN), seconds)
        return self._finish_float(outcome, self.setup.initial_parameters(), gradients)

    def float_parameters(self) -> Parameters:
        """The parameters that the float run ended with, from float.npz."""
        return float_parameters_of(self.folder, self.setup.identity)

    def _write_arrays(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        kind, _ = ARRAYS[name]
        write_stage_arrays(self.path(name), kind, ARRAYS_VERSION, self.setup.identity, arrays)

    def _read_arrays(self, name: str) -> dict[str, np.ndarray]:
        return _read_arrays(self.folder, name, self.setup.identity)

    def analyze(self) -> Statistics:
        """Noise gains, singular values and ranges of the trained float network.

        Writes statistics.npz.
        """
        self.observer.note("measuring noise gains and singular values")
        statistics = self.measure(self.float_parameters(), self._samples())
        self._write_arrays(STATISTICS, statistics.arrays())
        return statistics

    def statistics(self) -> Statistics:
        """What `analyze` wrote."""
        path = self.path(STATISTICS)
        return Statistics.from_arrays(self._read_arrays(STATISTICS), str(path), self.network)

    def measure(self, parameters: dict, samples: dict[str, np.ndarray]) -> Statistics:
        """The Statistics of the network with trained `parameters`.

        samples: pixels by split, as `_samples` gives them: noise gains are taken over those that
        are held out, over those of the training set where there are none.
        """
        pixel_max = self.dataset.pixel_max
        return measure(
            FloatNetwork(self.network, parameters, np.float64),
            self._gradients(),
            samples["training"] / pixel_max,
            list(first_batches(self.dataset, self.network, self.settings.batch, MEASURED_STEPS)),
            self.settings.schedule().smallest_rate,
            held_out=self._unseen(samples),
            start=self.setup.initial_parameters(),
        )

    def _unseen(self, samples: dict[str, np.ndarray]) -> Batch | None:
        """Images in [0, 1] and targets of those that are held out; where there are none, None, or
        those of the training set where it has targets.
        """
        pixels = samples["training"]
        targets = self.dataset.train_targets
        if "held-out" in samples:
            pixels = samples["held-out"]
            targets = self.setup.held_out_targets
        elif targets is None:
            return None
        images = pixels / self.dataset.pixel_max
        if targets is None:
            return images, images
        return images, targets[: len(images)].reshape(len(images), -1)

    def _float_network(self) -> FloatNetwork:
        """The trained float network."""
        return FloatNetwork(self.network, self.float_parameters(), np.float64)

    def _samples(self) -> dict[str, np.ndarray]:
        """The images to measure on, at most gain_samples of each split."""
        splits = {
            "training": self.dataset.train_images,
            "held-out": self.setup.held_out,
            "test": self.dataset.test_images,
        }
        most = self.settings.gain_samples
        return {name: images[:most] for name, images in splits.items() if len(images)}

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
        average, largest, smallest = state
        in_order = (smallest >= 0) & (smallest <= average) & (average <= largest)
        if not np.all(np.isnan(state).all(axis=0) | (in_order & np.isfinite(largest))):
            raise InputError(
                f"{path}: state holds what is no average, largest and smallest variance; "
                f"run `fxsim train --out {self.folder}` again"
            )
        gradients.state = state
        return gradients

    def assign(self) -> PrecisionAssignment:
        """C_o from statistics.npz; writes assignment.json."""
        assignment = self.assignment_for(self.settings.target)
        assignment.save(self.path(ASSIGNMENT), self.setup.identity)
        return assignment

    def assignment_for(self, target: float) -> PrecisionAssignment:
        """C_o from statistics.npz for this target, whatever that of the settings is."""
        rules = assignment_rules.Rules(
            target,
            self.settings.bound,
            self.settings.minimize,
            output_grad_bits=self.settings.output_grad_bits or None,
            gradient_rounding=self.settings.gradient_rounding,
        )
        return assignment_rules.assign(self.network, self.statistics(), rules)

    def own_assignment(self) -> PrecisionAssignment:
        """The assignment.json of the folder, as `assign` wrote it or as it was edited since."""
        return assignment_of(self.folder, self.setup.identity)

    def mismatch(self, assignment: PrecisionAssignment) -> dict:
        """How often the trained float network and its parameters in fixed point decide differently,
        and both bounds on that; plain data.

        On images of each split; each bound is that of the same images.  C_o keeps the bound on
        those that are held out.
        """
        network = self._float_network()
        bits = assignment_rules.feedforward_bits(self.network, assignment)
        measured = {}
        for name, images in self._samples().items():
            decisions = measure_decisions(network, images / self.dataset.pixel_max)
            measured[name] = {
                "images": len(images),
                "share": mismatch(network, assignment, images, self.dataset.pixel_max),
                **decisions.bounds(bits),
            }
        return {
            "target": self.settings.target,
            "bound": self.settings.bound,
            "measured": measured,
        }

    def output_error(self, assignment: PrecisionAssignment) -> dict:
        """What `mismatch` is for a network that decides nothing: the mean squared error of its
        outputs against float; plain data.

        target: the share of `loss` that was asked for.  loss: of the float network, for an output
        (analysis/output_error.py).  bound_asked: their product.  bound: what noise gains expect.
        measured: what was found on images of each split.
        """
        network = self._float_network()
        statistics = self.statistics()
        bound = MismatchBound.of(self.settings.bound, self.network, statistics)
        pixel_max = self.dataset.pixel_max
        measured = {
            name: {
                "images": len(images),
                "error": measured_output_error(network, assignment, images, pixel_max),
            }
            for name, images in self._samples().items()
        }
        return {
            "target": self.settings.target,
            "loss": statistics.output_loss,
            "bound_asked": asked_output_error(statistics, self.settings.target),
            "bound": bound.at(assignment_rules.feedforward_bits(self.network, assignment)),
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
        learner = self._fixed_learner(training)
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

    def _fixed_learner(self, training: Training) -> FixedLearner:
        learner = self.setup.fixed_learner(present(training.assignment), training.design)
        if self.communicator.size == 1:
            return learner
        optimizer = self.settings.optimizer()
        return LeadingLearner(learner, training.design, optimizer, self.communicator)

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
        return results.Results(self.folder, self.setup.identity, self.command)

    def done(self, training: Training) -> Outcome | None:
        """The outcome of a design that is not to be trained again."""
        if not self.resume or not self.path(results.FILE).exists():
            return None
        row = self.open_results().row(training.name)
        if row is None or results.formats_of(row) != results.formats(training.assignment):
            return None
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
        saved = self._checkpoint(training)
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
            position = saved.load(learner, self.setup.plan)
            self._write_curve(
                saved.design, position.epochs
            )  # without the rows of epochs that are to be trained again
            return position
        self._set_aside(saved)
        position = Position()
        saved.write(learner, position)
        return position

    def prepare(self, training: Training) -> None:
        """Let a training begin anew, unless the experiment resumes; for those done elsewhere."""
        if not self.resume:
            self._set_aside(self._checkpoint(training))

    def _checkpoint(self, training: Training) -> Checkpoint:
        return Checkpoint(self.folder, training.name, self._identity(training), self.cadence)

    def _set_aside(self, begun: Checkpoint) -> None:
        """Keep what a training that begins anew would overwrite, in a folder of its own."""
        paths = [begun.path]
        if begun.design == FLOAT_RUN.design:
            paths = [*checkpoint.all_in(self.folder), *map(self.path, OF_A_RUN)]
        if aside := set_aside(self.folder, paths):
            self.observer.note(f"{begun.design} begins anew; what was there is now in {aside}")

    def _write_curve(self, design: str, epochs: list[Epoch]) -> None:
        if not self.curves:
            return
        results.write_curves(self.folder, {design: list(map(results.epoch_row, epochs))})

    def _identity(self, training: Training) -> dict:
        """What tells a checkpoint of this training from all others."""
        return {
            "fxsim": __version__,
            "design": training.name,
            **self.setup.identity.to_dict(),
            "assignment": results.formats(training.assignment),
        }

    def finish(self, outcome: Outcome, earlier: results.Results) -> Outcome:
        """Add an outcome to the results; its checkpoint has served."""
        row = earlier.row(outcome.design)
        if row and results.formats_of(row) != results.formats(outcome.assignment):
            aside = new_folder(self.folder)
            write_bytes(aside / results.FILE, read_bytes(self.path(results.FILE)))
            self.observer.note(f"{outcome.design} had other formats before; see {aside}")
        earlier.add(outcome)
        checkpoint.remove(self.folder, outcome.design)
        self.observer.end(outcome)
        return outcome

    def assigned(self) -> PrecisionAssignment:
        """C_o, from the folder where it is not to be made again."""
        if self.resume and self.path(ASSIGNMENT).exists():
            return self.own_assignment()
        self.analyze()
        return self.assign()


def _read_arrays(folder: str | Path, name: str, identity: Identity) -> dict[str, np.ndarray]:
    kind, command = ARRAYS[name]
    path = Path(folder) / name
    again = f"make it anew: fxsim {command} --out {folder}"
    return read_stage_arrays(path, kind, ARRAYS_VERSION, identity, again)


def float_parameters_of(folder: str | Path, identity: Identity) -> Parameters:
    """The parameters that the float run in `folder` ended with, from float.npz.

    identity: of its experiment.
    """
    arrays = _read_arrays(folder, PARAMETERS, identity)
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            raise InputError(
                f"{Path(folder) / PARAMETERS}: {shown(name)} holds {array.dtype}, no real numbers; "
                f"make it anew: fxsim train --out {folder}"
            )
    return nested(arrays)


def assignment_of(
    folder: str | Path, identity: Identity, file: str | Path | None = None
) -> PrecisionAssignment:
    """The assignment in `file`; None for that of `folder`, which must be of its experiment.

    Args:
        folder: of the experiment.
        identity: of the experiment.
        file: another file, of whatever experiment.
    """
    if file is not None and not is_own_assignment(folder, file):
        return PrecisionAssignment.load(file)
    way_out = f"make it anew with fxsim assign --out {folder}, or name another with --assignment"
    return PrecisionAssignment.load(Path(folder) / ASSIGNMENT, identity, way_out)


def is_own_assignment(folder: str | Path, file: str | Path | None) -> bool:
    """Whether `file` is the assignment.json of `folder`; None stands for it."""
    return file is None or Path(file).resolve() == (Path(folder) / ASSIGNMENT).resolve()


def set_aside(folder: Path, paths: Iterable[Path]) -> Path | None:
    """Move those of `paths` that are there into a new folder below `folder`.

    Returns the new folder; None where there was nothing to move.
    """
    there = [path for path in paths if path.exists()]
    if not there:
        return None
    aside = new_folder(folder)
    for path in there:
        path.replace(aside / path.name)
    return aside


def new_folder(folder: Path) -> Path:
    """A new folder below `folder` for what is kept of earlier experiments."""
    numbers = itertools.count(1)
    return make_folder(
        next(place for n in numbers if not (place := folder / f"{EARLIER}-{n}").exists())
    )


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
