"""From settings to a training: its images, its network, its learners and the order of its batches.

Every command takes them from here, so that `fxsim run`, `analyze` and `vectors export` see the same
training.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from fxsim.analysis.feedforward import check_bound
from fxsim.analysis.statistics import GradientStatistics
from fxsim.datasets import Dataset, load
from fxsim.errors import InputError, present
from fxsim.experiment.settings import GIVEN, Settings
from fxsim.fields import instance
from fxsim.files import read_arrays, write_arrays
from fxsim.identity import Identity
from fxsim.nn.init import Parameters, checked_parameters, initial_parameters
from fxsim.nn.precision import ASSIGNED, PrecisionAssignment
from fxsim.nn.spec import Network, to_dict
from fxsim.train import checkpoint, designs
from fxsim.train.learners import FixedLearner, FloatLearner, check_dataset
from fxsim.train.loop import TrainingPlan

IMPORTED = "imported.npz"
"""The file of the parameters that `fxsim import` brought."""


def write_imported(folder: str | Path, parameters: Parameters) -> None:
    """Write the parameters that every training in `folder` starts from."""
    write_arrays(Path(folder) / IMPORTED, flat(parameters))


def digest_of(parameters: Parameters) -> str:
    """Settings.start for these parameters."""
    return checkpoint.digest(flat(parameters)).hex()


def read_imported(folder: str | Path | None, network: Network, start: str) -> Parameters:
    """What `write_imported` wrote; InputError where it is not what the settings say."""
    if folder is None:
        raise InputError("start is for the folder that fxsim import made; leave it out")
    path = Path(folder) / IMPORTED
    parameters = checked_parameters(network, nested(read_arrays(path)))
    if digest_of(parameters) != start:
        raise InputError(
            f"{path} holds other parameters than were imported; import the model again, into "
            f"another folder"
        )
    return parameters


def flat(parameters: Parameters) -> dict[str, np.ndarray]:
    """Layer -> name -> array as {'layer.name': array}."""
    return {
        f"{layer}.{name}": array for layer, row in parameters.items() for name, array in row.items()
    }


def nested(arrays: dict[str, np.ndarray]) -> Parameters:
    """{'layer.name': array} as layer -> name -> array."""
    nested: Parameters = {}
    for key, array in arrays.items():
        layer, _, name = key.rpartition(".")
        nested.setdefault(layer, {})[name] = array
    return nested


def dataset_of(settings: Settings, given: Dataset | None = None) -> Dataset:
    """The data set that the settings name, or the one that is given where they say so.

    Raises:
        InputError: it cannot be read, or settings and `given` contradict each other.
    """
    if given is not None and instance("dataset", given, Dataset) and settings.dataset != GIVEN:
        raise InputError(
            f"dataset is given, and the settings name {settings.dataset!r}: make them with "
            f"dataset={GIVEN!r}, as in Settings.make(dataset={GIVEN!r}, ...)"
        )
    if settings.dataset != GIVEN:
        return load(settings.dataset, settings.data)
    if given is None:
        raise InputError(
            f"dataset {GIVEN!r} is one that Python hands over, and nothing finds it again: open the "
            f"experiment with Experiment(..., dataset=...), or write it with Dataset.save and train "
            f"with --dataset npz --data FILE"
        )
    return given


def training_images(
    settings: Settings, given: Dataset | None = None
) -> tuple[Dataset, np.ndarray, np.ndarray | None]:
    """The images of the settings; given: see `dataset_of`.

    Returns:
        The data set, with those training images alone that are trained on; the pixels of the images
        that are held out, the last of the training set; their targets, None where the data set has
        none.

    Raises:
        InputError: the data set cannot be read, or has fewer training images than
            `settings.images` and `settings.held_out` say.
    """
    dataset = dataset_of(settings, given)
    size = len(dataset.train_labels)
    held_out = settings.held_out
    if held_out is None:
        held_out = min(size // HELD_OUT_SHARE, settings.gain_samples)
    if held_out >= size:
        raise InputError(
            f"held_out must be 0 to {size - 1}, fewer than the training images of "
            f"{dataset.name!r}, got {held_out}"
        )
    most = size - held_out
    wanted = settings.images or most
    if wanted > most and not settings.quick:  # `quick` takes so many at most
        raise InputError(
            f"images must be 1 to {most}, the number of training images of {dataset.name!r} less "
            f"{held_out} that are held out, got {wanted}; leave it out to take all"
        )
    wanted = min(wanted, most)
    images = dataset.train_images
    targets = dataset.train_targets
    kept = dataclasses.replace(
        dataset,
        train_images=images[:wanted],
        train_labels=dataset.train_labels[:wanted],
        train_targets=None if targets is None else targets[:wanted],
    )
    return kept, images[most:], None if targets is None else targets[most:]


HELD_OUT_SHARE = 10
"""One image in so many of the training set is held out, where the settings do not say how many."""


@dataclass(frozen=True, eq=False)
class TrainingSetup:
    """All that the settings say about a training, whatever its design.

    Made by `TrainingSetup.of(settings)`, or `TrainingSetup.of(settings, dataset)`.

    Args:
        settings: the settings.
        network: the network that they name or hold.
        dataset: the images that they name; the training images are those that are trained on.
        held_out: pixels of images `(N, H, W, C)` of the training set that are not, to measure on
            what training has not seen; they may be none.
        held_out_targets: their targets, None where the data set has none.
        imported: the parameters that every training starts from; None for those of the seed.
    """

    settings: Settings
    network: Network
    dataset: Dataset
    held_out: np.ndarray
    held_out_targets: np.ndarray | None = None
    imported: Parameters | None = None

    @classmethod
    def of(
        cls,
        settings: Settings,
        given: Dataset | None = None,
        folder: str | Path | None = None,
        imported: Parameters | None = None,
    ) -> TrainingSetup:
        """The training of these settings.

        Args:
            settings: the settings.
            given: see `dataset_of`.
            folder: of the experiment, where imported parameters are; None where there are none.
            imported: these parameters, where they are not written yet.

        Raises:
            InputError: the data set cannot be read, or does not fit the network or the batch; or
                the bound is none for this network.

        Example:
            >>> setup = TrainingSetup.of(Settings.make(quick=True))
            >>> setup.plan.steps_per_epoch, setup.step_count
            (16, 48)
        """
        network = settings.build_network()
        check_bound(settings.bound, network)
        dataset, held_out, held_out_targets = training_images(settings, given)
        check_dataset(dataset, network)
        if settings.start is not None and imported is None:
            imported = read_imported(folder, network, settings.start)
        setup = cls(settings, network, dataset, held_out, held_out_targets, imported)
        _ = setup.plan  # refuses a batch that is larger than the training set
        return setup

    @staticmethod
    def images_of(settings: Settings) -> tuple[int, int, int]:
        """(H, W, C) of the images of the settings."""
        return load(settings.dataset, settings.data).image_shape

    @cached_property
    def plan(self) -> TrainingPlan:
        """The order of the images and the learning rates."""
        settings = self.settings
        return TrainingPlan(
            self.dataset,
            settings.schedule(),
            settings.batch,
            settings.seed,
            settings.augmentation(),
        )

    def with_sums(self, assignment: PrecisionAssignment) -> PrecisionAssignment:
        """The assignment with the accumulators that the settings ask for.

        Raises:
            InputError: the assignment proposes none.
        """
        if self.settings.accumulators != ASSIGNED:
            return assignment
        return assignment.with_accumulators([ASSIGNED])

    @property
    def step_count(self) -> int:
        """Steps of the whole training."""
        return self.plan.steps_per_epoch * self.settings.epochs

    @cached_property
    def images_sha256(self) -> str:
        """SHA-256 of the pixels, labels and targets to train and to test on, and of the pixels and
        targets that are held out, as hexadecimal digits.
        """
        arrays = {
            field.name: value
            for field in dataclasses.fields(self.dataset)
            if isinstance(value := getattr(self.dataset, field.name), np.ndarray)
        }
        arrays["held_out"] = self.held_out
        if self.held_out_targets is not None:
            arrays["held_out_targets"] = self.held_out_targets
        return checkpoint.digest(arrays).hex()

    def describe_images(self) -> dict:
        """Plain data for results.json: how many images, and the SHA-256 of them all."""
        return {
            "training": len(self.dataset.train_labels),
            "held_out": len(self.held_out),
            "test": len(self.dataset.test_labels),
            "sha256": self.images_sha256,
        }

    @cached_property
    def identity(self) -> Identity:
        """What every file of the experiment holds, to be told from those of others."""
        return Identity(self.settings.to_dict(), to_dict(self.network), self.describe_images())

    def initial_parameters(self) -> Parameters:
        """The parameters that every design starts from."""
        if self.settings.start is not None:
            return present(self.imported)
        return initial_parameters(self.network, self.settings.seed)

    def float_learner(
        self, design: str = "FL", gradients: GradientStatistics | None = None
    ) -> FloatLearner:
        """A learner at the start of the training of FL, BN or TG; see designs.float_learner."""
        return designs.float_learner(
            design,
            self.network,
            self.initial_parameters(),
            self.dataset.pixel_max,
            self.settings.seed,
            self.settings.optimizer(),
            gradients,
        )

    def fixed_learner(
        self,
        assignment: PrecisionAssignment,
        design: str = "FX",
        parameters: Parameters | None = None,
    ) -> FixedLearner:
        """A learner at the start of the training of FX or SQ; see designs.fixed_learner.

        parameters: that it starts from; None for those that every design starts from.
        """
        return designs.fixed_learner(
            design,
            self.network,
            self.initial_parameters() if parameters is None else parameters,
            self.dataset.pixel_max,
            self.settings.seed,
            assignment,
            self.settings.optimizer(),
        )
