"""For which processor kernels are compiled, and when they are compiled anew."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fxsim


@pytest.mark.parametrize(
    "name, value",
    [
        ("NUMBA_CPU_NAME", "generic"),
        ("NUMBA_CPU_FEATURES", "+sse4.2,+avx2"),
        ("NUMBA_DISABLE_JIT", "1"),
    ],
)
def test_paths_are_those_of_the_processor_that_numba_compiles_for(name, value):
    program = "from fxsim.ops.paths import forward_paths; print(*forward_paths())"
    own = {key: known for key, known in os.environ.items() if not key.startswith("NUMBA_CPU")} | {
        name: value
    }
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=own,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert run.stdout.split() == (
        ["int16_avx2", "split_avx2", "plain"] if "avx2" in value else ["plain"]
    )


def beside_the_package():
    """The environment in which compiled kernels are kept in the package's own folders."""
    return {key: known for key, known in os.environ.items() if key != "NUMBA_CACHE_DIR"}


def copied_package(folder):
    shutil.copytree(
        Path(fxsim.__file__).parent, folder / "fxsim", ignore=shutil.ignore_patterns("__pycache__")
    )


def test_where_no_folder_can_be_written_every_process_compiles(tmp_path):
    """Files stand where the folders of caches would be, for to root no folder is read-only."""
    copied_package(tmp_path)
    for folder in list((tmp_path / "fxsim").rglob("*")):
        if folder.is_dir():
            (folder / "__pycache__").write_text("")
    own = beside_the_package()
    own |= {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull, "PYTHONDONTWRITEBYTECODE": "1"}
    program = (
        "import numpy as np; from fxsim.kernels.reductions import channel_sums; from "
        "fxsim.cli.parser import main; "
        "print(channel_sums(np.ones((2, 3), np.int16)).tolist()); main(['info'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=own,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("[2, 2, 2]\n")
    assert (
        "kernel cache  none: no folder can be written; NUMBA_CACHE_DIR names another" in run.stdout
    )


def test_processes_that_compile_at_once_do_not_mix_their_files(tmp_path):
    """Each compiles another signature of the same kernels.

    Afterwards all are found, or compiled again, and right.
    """
    copied_package(tmp_path)
    program = (
        "import sys; import numpy as np; from fxsim.kernels.reductions import channel_sums; "
        "print([channel_sums(np.full((2, 3), 5, dtype)).tolist() for dtype in sys.argv[1:]])"
    )
    types = ["int8", "int16", "int32", "uint8"]

    def start(*names):
        return subprocess.Popen(
            [sys.executable, "-c", program, *names],
            cwd=tmp_path,
            env=beside_the_package(),
            stdout=subprocess.PIPE,
            text=True,
        )

    runs = [start(name) for name in types]
    assert [run.communicate(timeout=300)[0] for run in runs] == ["[[10, 10, 10]]\n"] * len(types)
    assert start(*types).communicate(timeout=300)[0] == f"{[[10] * 3] * len(types)}\n"
    names = [path.name for path in tmp_path.rglob("reductions._channel_sums*.nbc")]
    assert len(set(names)) == len(names) >= len(types)


def test_a_change_of_any_kernel_compiles_all_anew(tmp_path):
    """Not only of the file that the function is in: kernels call each other."""
    copied_package(tmp_path)
    program = (
        "import numpy as np; from fxsim.kernels.reductions import channel_sums; "
        "channel_sums(np.ones((2, 3), np.int16)); "
        "from fxsim.kernels.reductions import _channel_sums; "
        "print(sum(_channel_sums.stats.cache_hits.values()))"
    )
    hits = []
    for change in (False, False, True):
        if change:
            other = tmp_path / "fxsim" / "kernels" / "elementwise" / "softmax.py"
            other.write_text(other.read_text() + "\n")
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=300,
        )
        hits.append(run.stdout.strip())
    assert hits == ["0", "1", "0"], run.stderr


def test_the_stamp_covers_the_kernels_of_every_folder(tmp_path):
    copied_package(tmp_path)
    folder = tmp_path / "fxsim" / "kernels"
    spec = importlib.util.spec_from_file_location("copied_cache", folder / "cache.py")
    copied = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copied)
    files = sorted(folder.rglob("*.py"))
    assert {path.parent.name for path in files} >= {"kernels", "elementwise", "products"}
    stamps = [copied.source_stamp()]
    for path in files:
        path.write_text(path.read_text() + "\n")
        copied.source_stamp.cache_clear()
        assert copied.source_stamp() != stamps[-1], path
        stamps.append(copied.source_stamp())
    assert len(set(stamps)) == len(files) + 1
