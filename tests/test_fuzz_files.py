"""Every kind of file that fxsim reads, spoilt at random: it is read or refused, in one line.

A few hundred files by default, tens of thousands with `-m slow`; a failure names kind and seed.
"""

import contextlib
import dataclasses
import gzip
import io
import json
import pickle
import random
import shutil
import signal
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support import spoilt_files
from support.datasets_cases import idx_bytes, random_images, write_cifar, write_svhn
from support.golden_steps import golden_step

from fxsim import Format, InputError, Tensor
from fxsim.analysis.statistics import Statistics
from fxsim.datasets import digits, read_idx
from fxsim.datasets.cifar import read_cifar
from fxsim.datasets.mat import read_svhn
from fxsim.experiment import results, study, training
from fxsim.experiment.settings import Settings, read_toml
from fxsim.experiment.stages import Experiment
from fxsim.golden.check import check
from fxsim.golden.export import Vectors, write_vectors
from fxsim.golden.manifest import Manifest
from fxsim.identity import sealed
from fxsim.nn.floating.network import FloatNetwork
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import markdown, text
from fxsim.report.page import Run, report_html
from fxsim.train.checkpoint import Cadence, Checkpoint
from fxsim.train.loop import Epoch, Position

SECONDS = 30
"""A reader that takes longer hangs; each takes milliseconds."""

LAYERS = {
    "name": "small",
    "input_shape": [8, 8, 1],
    "layer": [
        {"type": "conv", "name": "c", "filters": 2, "stride": 2, "dropout": 0.25},
        {"type": "dense", "name": "d", "units": 10, "relu": False},
    ],
}
SETTINGS = Settings.make(layers=LAYERS, epochs=1, batch=32, designs=["FL", "FX"], perturb=[1])
TOML = json.loads(json.dumps(dataclasses.asdict(SETTINGS))) | {"drops": []}  # lists for tuples
TENSOR = "c2.activation_grads"


def few_images(patch):
    data = digits()
    few = {
        f"{split}_{what}": getattr(data, f"{split}_{what}")[:64]
        for split in ("train", "test")
        for what in ("images", "labels")
    }
    patch.setattr(training, "load", lambda name, folder: dataclasses.replace(data, **few))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with a good file of every kind, by its path in READERS."""
    folder = tmp_path_factory.mktemp("good")
    images, labels = random_images(3, (4, 4), 10)
    (folder / "images-idx3-ubyte").write_bytes(idx_bytes(images))
    (folder / "images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(images)))
    write_cifar(folder / "data_batch_1.bin", 2)
    write_svhn(folder / "test_32x32.mat", 2)
    codes = Tensor(np.arange(-30, 30).reshape(6, 10), Format(8, 0))
    codes.to_mem(folder / "codes.mem")
    codes.to_npy(folder / "codes.npy")
    (folder / "experiment.toml").write_text(
        spoilt_files.toml_text({k: v for k, v in TOML.items() if v is not None})
    )
    with pytest.MonkeyPatch.context() as patch:
        few_images(patch)
        experiment = Experiment(SETTINGS, folder)
        study.run(experiment)
        learner = experiment.setup.float_learner("FL")
        Checkpoint(folder, "FL", {"seed": 0}, Cadence()).write(
            learner, Position([Epoch(0, 0.1, 0.5, 0.4, 0.1, 32.0)], 1, 0.7, 3.0, 1.0)
        )
    write_vectors(golden_step(), folder / "vectors", ("mem", "npy"))
    (folder / "dump").mkdir()
    shutil.copy(folder / "vectors" / f"{TENSOR}.mem", folder / "dump")
    return folder


def network():
    return SETTINGS.build_network()


@cache
def identity():
    with pytest.MonkeyPatch.context() as patch:
        few_images(patch)
        return training.TrainingSetup.of(SETTINGS).identity


def arrays_of(value):
    """What a reader returned, as values that can be compared."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: arrays_of(each) for key, each in value.items()}
    return [arrays_of(each) for each in value] if isinstance(value, (list, tuple)) else value


def read_settings(path):
    settings = Settings.load(path)
    return settings, settings.build_network()


def read_experiment_toml(path):
    settings = Settings.make(**read_toml(path))
    return settings, settings.build_network()


def read_results(path):
    """... and what the commands print of it."""
    data = results.read_results(path.parent)
    designs = data["designs"]
    for row in designs:
        results.Outcome.from_dict(row, None)
        text.sums_table(row)
    if designs:
        text.designs_table(designs)
        text.remarks(designs)
        found = study.sensitivity(Settings.from_dict(data["identity"]["settings"]), designs)
        markdown.report_markdown(data, found, ["curves.png"])
        report_html([Run("run", data, found)])
    return data


def read_curves(path):
    return results._read_curves(path)


def experiment_in(folder):
    """An experiment that has read nothing yet."""
    experiment = object.__new__(Experiment)
    experiment.settings = SETTINGS
    experiment.folder = folder
    experiment.setup = SimpleNamespace(network=network(), identity=identity())
    return experiment


def read_float_run(path):
    parameters = experiment_in(path.parent).float_parameters()
    FloatNetwork(network(), parameters, np.float64)
    return parameters


def read_gradients(path):
    return experiment_in(path.parent)._gradients().sigmas()


def read_statistics(path):
    statistics = Statistics.load(path, network())
    return [getattr(statistics, field.name) for field in dataclasses.fields(statistics)]


def read_checkpoint(path):
    from fxsim.nn.init import initial_parameters
    from fxsim.nn.optimizer import Optimizer
    from fxsim.train.designs import float_learner

    parameters = initial_parameters(network(), 0)
    learner = float_learner("FL", network(), parameters, 16, 0, Optimizer(0.0, 0.0), None)
    position = Checkpoint(path.parent, "FL", {"seed": 0}, Cadence()).load(learner)
    return {**learner.state(), "position": position}


def read_manifest(path):
    manifest = Manifest.load(path.parent)
    return manifest, Vectors(path.parent).codes(TENSOR)


def read_vectors(path):
    return Vectors(path.parent).codes(TENSOR)


def read_dump(path):
    return check(path.parent.parent / "vectors", path, [TENSOR]).passed


def spoilt_json(data, random):
    spoilt = spoilt_files.spoilt_data(json.loads(data), random)
    return spoilt_files.json_text(spoilt).encode("utf-8", "replace")


def spoilt_sealed(data, random):
    """As if its digest were of what it holds now."""
    spoilt = spoilt_files.spoilt_data(json.loads(data), random)
    if isinstance(spoilt, dict) and random.random() < 0.8:
        with contextlib.suppress(RecursionError):  # it is nested too deep for a digest
            spoilt = sealed(spoilt)
    return spoilt_files.json_text(spoilt).encode("utf-8", "replace")


def spoilt_toml(data, random):
    table = {key: value for key, value in TOML.items() if value is not None}
    spoilt = spoilt_files.spoilt_data(json.loads(json.dumps(table)), random)
    return spoilt_files.toml_text(spoilt).encode("utf-8", "replace")


def spoilt_npz(data, random):
    return spoilt_files.spoilt_arrays(arrays_in(data), random)


def spoilt_checkpoint(data, random):
    return spoilt_files.spoilt_checkpoint(arrays_in(data), random)


def arrays_in(data):
    with np.load(io.BytesIO(data)) as archive:
        return dict(archive)


def spoilt_npy(data, random):
    return spoilt_files.spoilt_npy(np.load(io.BytesIO(data)), random)


READERS = {
    "images-idx3-ubyte": (lambda path: read_idx(path, 3), None, False),
    "images-idx3-ubyte.gz": (
        lambda path: read_idx(path, 3),
        spoilt_files.spoilt_inside_gzip,
        True,
    ),
    "data_batch_1.bin": (lambda path: read_cifar(path, {"label": 10}), None, False),
    "test_32x32.mat": (read_svhn, spoilt_files.spoilt_inside_mat, True),
    "codes.mem": (lambda path: Tensor.from_mem(path, Format(8, 0), (6, 10)).codes, None, False),
    "codes.npy": (lambda path: Tensor.from_npy(path, Format(8, 0)).codes, spoilt_npy, False),
    "experiment.toml": (read_experiment_toml, spoilt_toml, False),
    "experiment.json": (read_settings, spoilt_json, False),
    "assignment.json": (PrecisionAssignment.load, spoilt_json, False),
    "results.json": (read_results, spoilt_sealed, False),
    "curves.csv": (read_curves, None, False),
    "float.npz": (read_float_run, spoilt_npz, True),
    "gradients.npz": (read_gradients, spoilt_npz, True),
    "statistics.npz": (read_statistics, spoilt_npz, True),
    "checkpoint-FL.npz": (read_checkpoint, spoilt_checkpoint, True),
    "vectors/manifest.json": (read_manifest, spoilt_sealed, False),
    f"vectors/{TENSOR}.npy": (read_vectors, spoilt_npy, True),
    f"dump/{TENSOR}.mem": (read_dump, None, False),
}
"""File -> how it is read, how its contents are changed (None: its bytes alone), and whether a
checksum tells every change of its bytes."""


@contextlib.contextmanager
def no_hang():
    def ring(number, frame):
        raise AssertionError(f"the reader hangs for more than {SECONDS} s")

    handler = signal.signal(signal.SIGALRM, ring)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)


def outcome(read, path):
    """What the reader gives, as bytes; None where it refuses the file in one line."""
    try:
        with no_hang():
            value = read(path)
    except InputError as error:
        message = str(error)
        assert message.isprintable(), message
        assert 0 < len(message) <= 300, message
        assert message.count(str(path)) <= 1, message
        return None
    return pickle.dumps(arrays_of(value))


def fuzz(folder, name, seeds):
    read, spoil, checked = READERS[name]
    path = folder / name
    data = path.read_bytes()
    whole = outcome(read, path)
    assert whole is not None, name
    for seed in seeds:
        generator = random.Random(f"{name} {seed}")
        of_bytes = spoil is None or seed % 2
        spoilt = (spoilt_files.spoilt_bytes if of_bytes else spoil)(data, generator)
        path.write_bytes(spoilt)
        try:
            found = outcome(read, path)
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}: {error!r}") from error
        if checked and of_bytes:
            assert found in (None, whole), f"{name}, seed {seed}: read as something else"
    path.write_bytes(data)


@pytest.fixture
def folder(good, tmp_path):
    return Path(shutil.copytree(good, tmp_path / "spoilt"))


@pytest.mark.parametrize("name", READERS)
def test_a_spoilt_file_is_read_or_refused(folder, name):
    fuzz(folder, name, range(20))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_spoilt_files_are_read_or_refused(folder, name):
    fuzz(folder, name, range(20, 1400))
