"""No float array comes into being during a fixed-point step (tests/support/audit_run.py).

Nothing is excepted.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.audit_run import small_step

from fxsim.factors import LearningRate

AUDIT = Path(__file__).parent.parent / "support" / "audit_run.py"
PATH = os.pathsep.join(map(str, (AUDIT.parent.parent, AUDIT.parent.parent.parent)))


def audit(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, AUDIT, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": PATH},
    )


def test_a_fixed_point_step_makes_no_float_array():
    run = audit()
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("no float array")
    fixed, images, labels = small_step()  # compiled, where the audit ran in plain Python
    fixed.train_step(images, labels, LearningRate.of(0.1), 0)
    assert run.stdout.split()[-1] == fixed.fingerprint()


@pytest.mark.parametrize(
    "place",
    (
        "fxsim.kernels.elementwise.pool.max_pool",
        "fxsim.kernels.elementwise.softmax.softmax_row",
        "fxsim.ops.arithmetic.channel_sums",
        "fxsim.kernels.rounding.requantize_codes",
    ),
)
def test_a_planted_float_array_is_found(place):
    run = audit("--plant", place)
    assert run.returncode == 1
    assert "a float array was made: float64" in run.stderr
