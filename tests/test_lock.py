"""One command at a time writes into a folder; a lock that nobody holds stops nobody."""

import json
import os
import platform
import signal
import subprocess
import sys

import pytest
from support.cli_cases import ENVIRONMENT

from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.lock import FILE, hold_folder

HOLDER = """
import sys
from fxsim.lock import hold_folder
with hold_folder(sys.argv[1], "fxsim run --seed 5"):
    print("held", flush=True)
    sys.stdin.read()
"""

TAKER = """
import sys
from pathlib import Path
from fxsim.errors import InputError
from fxsim.lock import hold_folder
folder = Path(sys.argv[1])
done = 0
while done < 50:
    try:
        with hold_folder(folder, "fxsim run"):
            count = int((folder / "count").read_text())
            (folder / "count").write_text(str(count + 1))
            done += 1
    except InputError:
        pass
"""


def python(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code, folder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of a folder."""
    process = python(HOLDER, tmp_path)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("command", ["run", "sweep", "train", "analyze", "assign"])
def test_a_second_command_is_told_who_holds_the_folder(command, holder, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert cli.main([command, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} is in use by 'fxsim run --seed 5' (process {holder.pid} on " in line
    assert line.endswith("; wait for its end, or choose another folder")
    assert sorted(tmp_path.iterdir()) == before


def test_a_lock_of_a_process_that_was_killed_is_taken_over(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert json.loads((tmp_path / FILE).read_text())["pid"] == holder.pid
    with hold_folder(tmp_path, "fxsim analyze"):
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_id_that_another_process_has_now_does_not_count(tmp_path):
    holder = {"command": "fxsim run", "pid": 1, "host": platform.node(), "start": "long ago"}
    (tmp_path / FILE).write_text(json.dumps(holder))
    with hold_folder(tmp_path, "fxsim analyze"):
        pass


def test_a_lock_of_another_host_is_for_people_to_delete(tmp_path):
    holder = {"command": "fxsim run", "pid": 1, "host": "elsewhere", "start": "long ago"}
    (tmp_path / FILE).write_text(json.dumps(holder))
    for _ in range(2):
        with (
            pytest.raises(InputError, match=f"1 on elsewhere.*delete {tmp_path / FILE}"),
            hold_folder(tmp_path, "fxsim analyze"),
        ):
            pass
    (tmp_path / FILE).unlink()
    with hold_folder(tmp_path, "fxsim analyze"):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"pid": {}}', "[" * 5000])
def test_a_lock_file_of_anything_is_taken_over(text, tmp_path):
    (tmp_path / FILE).write_text(text)
    with hold_folder(tmp_path, "fxsim analyze"):
        pass


def test_a_folder_that_stays_empty_is_not_left_behind(tmp_path):
    with (
        pytest.raises(InputError, match="holds no float run"),
        hold_folder(tmp_path / "new", "fxsim analyze"),
    ):
        raise InputError("new holds no float run")
    assert not (tmp_path / "new").exists()
    with hold_folder(tmp_path / "new", "fxsim run"):
        (tmp_path / "new/results.json").touch()
    assert (tmp_path / "new/results.json").exists()


def test_many_takers_hold_it_one_after_another(tmp_path):
    """Each release removes the file, so that takers meet files that are no longer there."""
    (tmp_path / "count").write_text("0")
    takers = [python(TAKER, tmp_path) for _ in range(4)]
    for taker in takers:
        taker.communicate()
        assert taker.returncode == 0
    assert (tmp_path / "count").read_text() == "200"
    assert [path.name for path in tmp_path.iterdir()] == ["count"]
