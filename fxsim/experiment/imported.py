"""An experiment that begins with a network of another tool in the place of a float run."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxsim.errors import InputError, shown
from fxsim.experiment.results import Outcome
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import OF_A_RUN, Experiment, Observer, set_aside
from fxsim.experiment.training import TrainingSetup, digest_of, write_imported
from fxsim.files import make_folder
from fxsim.interchange.comparison import differences
from fxsim.interchange.model_file import onnx_package
from fxsim.interchange.onnx_import import Read, Wanted, read_onnx
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.spec import to_dict
from fxsim.train import checkpoint

DEFAULTS: dict[str, Any] = {"learning_rate": 0.01, "epochs": 3}
"""Of fine-tuning, where nothing else is given."""


@dataclass(frozen=True)
class ImportedRun:
    """What `import_model` has done.

    differences: of each layer's output to ONNX Runtime's, as a share; empty where the package
    onnxruntime is not there.
    """

    experiment: Experiment
    outcome: Outcome
    differences: dict[str, float]


def import_model(
    path: str | Path,
    folder: str | Path,
    given: dict[str, Any],
    wanted: Wanted,
    observer: Observer | None = None,
    command: str = "",
) -> ImportedRun:
    """Write the float stage of an experiment whose network, and all parameters, are a model's.

    Args:
        path: an ONNX file.
        folder: of the experiment; what is there of an earlier one is set aside.
        given: fields of Settings, but network, width, layers and start.
        wanted: what is said of the model.
        observer: follows what is done.
        command: the command line.

    Raises:
        InputError: the model, the settings or the data set are wrong, or do not fit; nothing is
            written then.
    """
    dataset = Settings.make(**given)
    read = _read(path, wanted, dataset)
    network, parameters = read.imported
    settings = Settings.make(
        **DEFAULTS | given, layers=to_dict(network), start=digest_of(parameters)
    )
    setup = TrainingSetup.of(settings, imported=parameters)
    images = setup.dataset.test_images / setup.dataset.pixel_max
    found = _compared(read, images)
    place = make_folder(folder)
    old = [*checkpoint.all_in(place), *(place / name for name in OF_A_RUN)]
    if aside := set_aside(place, old):
        (observer or Observer()).note(f"what was there is now in {aside}")
    write_imported(place, parameters)
    experiment = Experiment(settings, place, observer, command)
    return ImportedRun(experiment, experiment.take_imported(), found)


def _read(path: str | Path, wanted: Wanted, settings: Settings) -> Read:
    """The model; one that reads vectors takes the shape of the images where their order is plain."""
    read = read_onnx(path, wanted)
    if len(read.graph.shape) > 2 or wanted.image_shape is not None:
        return read
    height, width, channels = TrainingSetup.images_of(settings)
    features = read.graph.shape[1]
    if height * width * channels != features or (height, width) == (1, 1):
        return read
    if channels != 1:
        raise InputError(
            f"{path} reads vectors of {features} features, and images are {height} x {width} x "
            f"{channels}: their order is not known; export the model with a Flatten of images"
        )
    return read_onnx(path, replace(wanted, image_shape=(height, width, channels)))


def _compared(read: Read, images: Any) -> dict[str, float]:
    try:
        onnx_package("onnxruntime")
    except InputError:
        return {}
    return differences(read, FloatNetwork(*read.imported), images)


def pixel_range(text: str) -> tuple[float, float]:
    """--pixels LOW,HIGH: what the model reads for the pixels 0 and pixel_max.

    Example:
        >>> pixel_range("-1,1")
        (-1.0, 1.0)
    """
    try:
        low, high = (float(each) for each in text.split(","))
        fine = math.isfinite(low) and math.isfinite(high) and low < high
    except ValueError:
        fine = False
    if not fine:
        raise InputError(
            f"--pixels must be two rising numbers as 0,1 or -1,1 or 0,255, got {shown(text)}"
        )
    return low, high
