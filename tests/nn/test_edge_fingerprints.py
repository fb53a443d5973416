"""Ten training steps of networks for small devices: the committed bits from every kernel path, emulated
ones among them, and any number of threads.

If bits change on purpose, that is a breaking change: write the new values to
tests/support/edge_fingerprints.txt and name it in the changelog."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.edge_fingerprints_run import NETWORKS, fingerprint

from fxsim.kernels.threads import thread_count, use_threads
from fxsim.ops.paths import available_paths

HERE = Path(__file__).parent.parent / "support"
COMMITTED = (HERE / "edge_fingerprints.txt").read_text()
BY_NAME = dict(reversed(line.split()) for line in COMMITTED.splitlines())


LARGE = ("vww-mobilenet", "ecg-convnet")
"""Their steps take a second and more."""
CASES = [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in NETWORKS]


def test_every_network_has_a_fingerprint_of_its_own():
    assert tuple(BY_NAME) == NETWORKS and len(set(BY_NAME.values())) == len(NETWORKS)


@pytest.mark.parametrize("name", CASES)
def test_every_kernel_path_gives_the_committed_fingerprint(name):
    for kernel in ("auto", *available_paths()):
        assert fingerprint(name, kernel) == BY_NAME[name], kernel


@pytest.mark.parametrize("name", CASES)
def test_every_number_of_threads_gives_the_committed_fingerprint(name):
    threads = thread_count()
    try:
        for count in {1, min(2, threads)}:
            use_threads(count)
            assert fingerprint(name) == BY_NAME[name], count
    finally:
        use_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel, emulate", [("auto", "amx"), ("int16_vnni", "vnni"), ("split_vnni", "vnni")]
)
def test_emulated_paths_give_the_committed_fingerprints(kernel, emulate):
    run = subprocess.run(
        [sys.executable, HERE / "edge_fingerprints_run.py", kernel],
        env={**os.environ, "FXSIM_EMULATE": emulate},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == COMMITTED
