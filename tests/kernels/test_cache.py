"""A kernel cache that is damaged, full or gone stops no run: kernels are compiled, and entries
replaced.
"""

import hashlib
import importlib.util
import resource
import shutil

import numba
import numpy as np
import pytest

from fxsim.kernels.cache import is_whole

pytestmark = pytest.mark.skipif(
    bool(numba.config.DISABLE_JIT), reason="nothing is compiled, so nothing is kept"
)

PROGRAM = "from fxsim.kernels.jit import jit\n\n\n@jit\ndef double(x):\n    return x * 2\n"


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A call that loads the program anew, runs it, and gives (result, whether it was cached)."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)

    def run(between=lambda: None):
        spec = importlib.util.spec_from_file_location("program", path)
        program = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(program)
        between()
        result = program.double(21)
        return result, bool(program.double.stats.cache_hits)

    return run


COMPILED = (42, False)
CACHED = (42, True)


def the_file(tmp_path, suffix):
    (path,) = tmp_path.rglob(f"*{suffix}")
    return path


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


DAMAGE = {
    "empty": lambda content: b"",
    "zeros": lambda content: bytes(len(content)),
    "first half": lambda content: content[: len(content) // 2],
    "without the last byte": lambda content: content[:-1],
    "without the digest": lambda content: content[:-32],
    "longer": lambda content: content + b"x",
    "twice": lambda content: content * 2,
    "text": lambda content: b"version https://git-lfs.github.com/spec/v1\n",
    "first byte": lambda content: flipped(content, 0),
    "a byte of the middle": lambda content: flipped(content, len(content) // 2),
    "last byte": lambda content: flipped(content, -1),
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_is_replaced(process, tmp_path, suffix):
    assert [process(), process()] == [COMPILED, CACHED]
    for name, damage in DAMAGE.items():
        path = the_file(tmp_path, suffix)
        path.write_bytes(damage(path.read_bytes()))
        assert [process(), process()] == [COMPILED, CACHED], name
        if suffix == ".nbi":  # the new index knows nothing of the old data
            for data in tmp_path.rglob("*.nbc"):
                if data.name.encode() not in the_file(tmp_path, ".nbi").read_bytes():
                    data.unlink()


def test_every_changed_byte_is_seen(process, tmp_path):
    """Machine code with one other bit would run, and compute something else."""
    process()
    path = the_file(tmp_path, ".nbc")
    whole = path.read_bytes()
    assert is_whole(path)
    for place in range(0, len(whole), 11):
        path.write_bytes(flipped(whole, place))
        assert not is_whole(path), place


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_file_that_is_gone_is_made_anew(process, tmp_path, suffix):
    process()
    the_file(tmp_path, suffix).unlink()
    assert [process(), process()] == [COMPILED, CACHED]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_folder_or_a_circle_of_links_in_the_place_of_a_file_is_no_failure(
    process, tmp_path, suffix
):
    process()
    path = the_file(tmp_path, suffix)
    path.unlink()
    path.mkdir()
    assert [process(), process()] == [COMPILED, COMPILED]
    path.rmdir()
    path.symlink_to(path)
    assert [process(), process()] == [COMPILED, CACHED]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_whole_file_that_numba_cannot_read_is_replaced(process, tmp_path, suffix):
    """As another build of it may have left."""
    process()
    path = the_file(tmp_path, suffix)
    content = b"cno_such_module\nname\n."
    path.write_bytes(content + hashlib.sha256(content).digest())
    assert is_whole(path)
    assert [process(), process()] == [COMPILED, CACHED]


@pytest.mark.parametrize("most", [0, 100, 1000])
def test_a_full_disk_is_no_failure(process, tmp_path, most):
    """No file may grow beyond `most` bytes; nothing of it is left, and it is written next time."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))

    try:
        assert process(fill) == COMPILED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.rglob("*.tmp.*"))
    assert [process(), process()] == [COMPILED, CACHED]


def test_a_folder_that_goes_is_no_failure(process, tmp_path):
    folder = tmp_path / "__pycache__"
    assert process(lambda: shutil.rmtree(folder)) == COMPILED
    assert process() == CACHED

    def replace_by_a_file():
        shutil.rmtree(folder)
        folder.write_text("")

    assert process(replace_by_a_file) == COMPILED


def test_two_signatures_have_two_files(process, tmp_path):
    process()
    spec = importlib.util.spec_from_file_location("program", tmp_path / "program.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    assert program.double(np.float32(1.5)) == 3
    assert len(list(tmp_path.rglob("*.nbc"))) == 2
    assert process() == CACHED
