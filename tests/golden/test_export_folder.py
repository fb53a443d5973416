"""An export is there whole or not at all, and can be repeated whatever ended the one before."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli_cases import ENVIRONMENT
from support.golden_steps import golden_step

from fxsim.errors import InputError
from fxsim.golden import export
from fxsim.golden.export import write_vectors
from fxsim.golden.manifest import Manifest
from fxsim.identity import sealed
from fxsim.lock import hold

KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from support.golden_steps import golden_step
from fxsim import files
left = int(sys.argv[3])
replace = os.replace
def counted(*names):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*names)
os.replace = counted
from fxsim.golden.export import write_vectors
write_vectors(golden_step(), sys.argv[2], ("npy",))
"""
TESTS = Path(__file__).parents[1]


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "vectors"
    write_vectors(golden_step(), folder, ("npy",))
    return files_of(folder)


def killed_export(folder, files):
    """An export that is killed when so many files are there."""
    run = subprocess.run([sys.executable, "-c", KILLED, TESTS, folder, str(files)], env=ENVIRONMENT)
    assert run.returncode == -signal.SIGKILL


@pytest.mark.parametrize("earlier", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_export_that_was_killed_can_be_repeated(earlier, whole, tmp_path):
    folder = tmp_path / "vectors"
    if earlier:
        write_vectors(golden_step(layers=["d"]), folder, ("mem",))
    before = files_of(folder) if earlier else None
    killed_export(folder, len(whole) - 1)
    assert (files_of(folder) if folder.exists() else None) == before
    write_vectors(golden_step(), folder, ("npy",))
    assert files_of(folder) == whole
    assert list(tmp_path.iterdir()) == [folder]


class Full(OSError):
    """What a full disk raises."""

    def __init__(self):
        super().__init__(28, "No space left on device")


@pytest.mark.parametrize("error", [Full, KeyboardInterrupt])
@pytest.mark.parametrize("renames", [0, 1])
def test_an_earlier_export_stays_until_the_new_one_is_whole(
    error, renames, whole, tmp_path, monkeypatch
):
    """renames: of folders that work before one fails."""
    folder = tmp_path / "vectors"
    write_vectors(golden_step(layers=["d"]), folder, ("mem",))
    before = files_of(folder)
    done = []
    rename = Path.rename

    def failing(path, target):
        done.append(path)
        if len(done) == renames + 1:
            raise error()
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(InputError if error is Full else error):
            write_vectors(golden_step(), folder, ("npy",))
    assert files_of(folder) == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_earlier_export_that_was_moved_away_by_a_killed_process_comes_back(whole, tmp_path):
    folder = tmp_path / "vectors"
    write_vectors(golden_step(), folder, ("npy",))
    folder.rename(tmp_path / ".vectors.fxsim-earlier")
    with pytest.raises(ZeroDivisionError), export._replaced(folder):
        raise ZeroDivisionError
    assert files_of(folder) == whole


def test_a_second_export_is_told_who_is_at_it(tmp_path):
    folder = tmp_path / "vectors"
    told = f"'fxsim vectors export' .process {os.getpid()} on"
    with (
        hold(tmp_path / ".vectors.fxsim-lock", folder, "fxsim vectors export"),
        pytest.raises(InputError, match=told),
    ):
        write_vectors(golden_step(), folder, ("npy",))
    write_vectors(golden_step(), tmp_path / "vectors", ("npy",))


def test_what_no_export_wrote_is_left_alone(whole, tmp_path):
    folder = tmp_path / "vectors"
    write_vectors(golden_step(), folder, ("npy",))
    (folder / "thesis.txt").write_text("all I have")
    with pytest.raises(InputError, match="holds 'thesis.txt', which no export wrote; name a new"):
        write_vectors(golden_step(), folder, ("npy",))
    assert files_of(folder) == {**whole, "thesis.txt": b"all I have"}


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="holds the current folder or is a mount point"):
        write_vectors(golden_step(), ".", ("npy",))


def test_a_link_stays_a_link(whole, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "vectors").symlink_to(tmp_path / "there")
    write_vectors(golden_step(), tmp_path / "vectors", ("npy",))
    assert (tmp_path / "vectors").is_symlink()
    assert files_of(tmp_path / "there") == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data["tensors"].pop(),
        lambda data: data.update(step=7),
        lambda data: data.update(learning_rate={"mantissa": 1 << 15, "exponent": 1}),
        lambda data: data["tensors"][0].update(axes=data["tensors"][0]["axes"].swapcase()),
        lambda data: data.update(sha256="0" * 64),
    ],
)
def test_a_manifest_that_was_changed_within_its_rules_is_told_by_its_digest(change):
    data = golden_step().manifest.to_dict()
    change(data)
    with pytest.raises(InputError, match="SHA-256 differs.; export the vectors again"):
        Manifest.from_dict(data)


def test_the_digest_is_that_of_the_canonical_json(tmp_path):
    manifest = write_vectors(golden_step(), tmp_path / "vectors", ("npy",))
    data = json.loads((tmp_path / "vectors/manifest.json").read_text())
    assert sealed(data) == data == manifest.to_dict()
    assert Manifest.from_dict(dict(reversed(data.items()))) == manifest
