"""Golden steps by emulated VNNI and AMX are those of every other path."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
PROGRAM = """
import sys
from fxsim.kernels.products import amx_conv, winograd
from fxsim.ops import products
from golden_hashes_run import CASES, golden_hash

taken = set()
choose = products.choose

def planned(*arguments):
    chosen = choose(*arguments)
    taken.add(chosen.path)
    return chosen

products.choose = planned
for module, name in ((amx_conv, "convolve"), (winograd, "conv_winograd")):
    run = getattr(module, name)
    def watched(*args, run=run, name=name, **kwargs):
        taken.add(name)
        return run(*args, **kwargs)
    setattr(module, name, watched)
for case in CASES:
    print(f"{golden_hash(case, sys.argv[1])}  {case}")
print(*sorted(taken), file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "kernel, emulate, wanted",
    [
        ("auto", "amx", {"convolve", "conv_winograd"}),
        ("int16_vnni", "vnni", {"int16_vnni"}),
        ("split_vnni", "vnni", {"split_vnni"}),
    ],
)
def test_golden_steps(kernel, emulate, wanted):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, kernel],
        env={**os.environ, "FXSIM_EMULATE": emulate, "PYTHONPATH": str(SUPPORT)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout == (SUPPORT / "golden_hashes.txt").read_text()
    assert wanted <= set(run.stderr.split())
