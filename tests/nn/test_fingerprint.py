"""The same bits from every kernel path and number of threads, and the same as when the fingerprint
was committed.

`.ci/run` compares the committed fingerprint under a second Python version, too.  If bits change on
purpose, that is a breaking change: write the new value to tests/support/fingerprint.txt and name it
in the changelog."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.fingerprint_run import fingerprint

from fxsim.ops.paths import available_paths

HERE = Path(__file__).parent.parent / "support"
COMMITTED = (HERE / "fingerprint.txt").read_text().strip()


@pytest.mark.parametrize("kernel", available_paths())
def test_every_kernel_path_gives_the_committed_fingerprint(kernel):
    assert fingerprint(kernel) == COMMITTED


@pytest.mark.parametrize("threads", ("1", "2"))
def test_every_number_of_threads_gives_the_committed_fingerprint(threads):
    run = subprocess.run(
        [sys.executable, HERE / "fingerprint_run.py"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "NUMBA_NUM_THREADS": threads},
    )
    assert run.stdout.strip() == COMMITTED
