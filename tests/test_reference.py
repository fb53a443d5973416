"""The API reference is built without a warning, and has every public name."""

import subprocess
import sys

import pytest

import fxsim

pytest.importorskip("pdoc", reason="pdoc is not installed")
from support import reference  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the pages are; pytest makes errors of pdoc's warnings."""
    made = tmp_path_factory.mktemp("reference")
    reference.build(made)
    return made


def test_every_public_name_is_described(folder):
    assert reference.missing(folder) == []
    assert 'id="Format.step"' in reference.page(folder, "fxsim")
    assert 'id="conv2d"' in reference.page(folder, "fxsim.ops")


def test_a_name_that_is_not_described_is_found(folder, monkeypatch):
    monkeypatch.setattr(fxsim, "__all__", [*fxsim.__all__, "Forgotten"])
    assert reference.missing(folder) == ["fxsim.Forgotten"]


def test_arguments_and_examples_are_laid_out(folder):
    text = reference.page(folder, "fxsim")
    assert "Arguments:" in text
    assert "Example:" in text


def test_help_and_the_command_say_where_to_begin():
    help_text = subprocess.run(
        [sys.executable, "-c", "import fxsim; help(fxsim)"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "Begin with a format, a tensor and an operation" in help_text
    assert "class Format" in help_text
    usage = subprocess.run(
        [sys.executable, "-m", "fxsim", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert "start with:\n  fxsim run" in usage
