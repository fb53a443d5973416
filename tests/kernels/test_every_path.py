"""Every instruction path gives the codes, masks, counts and moments of NumPy's int64.

VNNI and AMX are emulated where the processor lacks them, each family of paths in a process of its
own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from oracle.rounding import round_exact
from support.path_cases import MODES, rounded

PROGRAM = Path(__file__).parents[1] / "support" / "path_cases_run.py"
FORWARD = "forward"
INPUT = "input gradient"
WEIGHT = "weight gradient"
FAMILIES = {
    "plain": [("plain", kind) for kind in (FORWARD, INPUT, WEIGHT)],
    "avx2": [("avx2", kind) for kind in (FORWARD, INPUT, WEIGHT)],
    "vnni": [
        *(("vnni", kind) for kind in (FORWARD, INPUT, WEIGHT)),
        ("vnni bytes", FORWARD),
    ],
    **{
        f"winograd {size} {path}": [(f"winograd {size} {path}", kind) for kind in (FORWARD, INPUT)]
        for size in (2, 4)
        for path in ("avx2", "vnni")
    },
    **{
        f"winograd gradient {path}": [(f"winograd gradient {path}", WEIGHT)]
        for path in ("avx2", "vnni")
    },
    "amx": [("amx", FORWARD), ("amx", INPUT)],
}
EMULATED = [family for family in FAMILIES if "vnni" in family or family == "amx"]


def run_cases(families, seed: int, count: int) -> dict:
    """Cases that each path took, for each kind of product."""
    emulate = sorted(
        {"amx" if family == "amx" else "vnni" for family in families} & {"amx", "vnni"}
    )
    native = all(family not in EMULATED for family in families)
    run = subprocess.run(
        [sys.executable, PROGRAM, ",".join(families), str(seed), str(count)],
        env={**os.environ, "FXSIM_EMULATE": "" if native else ",".join(emulate)},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    taken = {}
    for line in run.stdout.splitlines():
        what, _, cases = line.rpartition(": ")
        taken[tuple(what.split(", "))] = int(cases)
    return taken


def check(families, seed, count, least):
    taken = run_cases(families, seed, count)
    wanted = {each for family in families for each in FAMILIES[family]}
    assert set(taken) == wanted
    assert min(taken.values()) >= least, taken


@pytest.mark.parametrize(
    "families",
    [
        ("plain", "avx2", "winograd 2 avx2", "winograd 4 avx2", "winograd gradient avx2"),
        pytest.param(
            ("vnni", "winograd 2 vnni", "winograd 4 vnni", "winograd gradient vnni"),
            marks=pytest.mark.slow,
        ),
        pytest.param(("amx",), marks=pytest.mark.slow),
    ],
    ids=["native", "vnni", "amx"],
)
def test_random_products(families):
    native = "plain" in families  # to emulate takes ten times as long
    check(families, seed=1, count=200 if native else 80, least=5 if native else 2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 12))
def test_many_random_products(seed):
    check(tuple(FAMILIES), seed, count=1000, least=20)


SUITES = [
    "kernels/test_byte_products.py",
    "kernels/test_winograd.py",
    "kernels/test_matmul.py",
    "ops/test_conv.py",
    "ops/test_conv_paths.py",
    "ops/test_epilogues_of_paths.py",
]


@pytest.mark.slow
@pytest.mark.parametrize("suite", SUITES)
def test_suites_pass_where_vnni_and_amx_are_emulated(suite):
    """No test in them is left out for want of an instruction."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", PROGRAM.parents[1] / suite],
        env={**os.environ, "FXSIM_EMULATE": "vnni,amx", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    last = run.stdout.splitlines()[-1]
    assert run.returncode == 0 and "skipped" not in last, run.stdout[-2000:]


def test_the_reference_rounds_as_the_twin():
    values = np.arange(-70, 71)
    for mode in MODES:
        for shift in range(6):
            wanted = [round_exact(Fraction(int(value), 2**shift), mode) for value in values]
            assert rounded(values, shift, mode).tolist() == wanted, (mode, shift)


def test_a_name_that_cannot_be_emulated_is_refused():
    run = subprocess.run(
        [sys.executable, "-c", "import fxsim.kernels.jit"],
        env={**os.environ, "FXSIM_EMULATE": "vnni, sve"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode != 0
    assert run.stderr.splitlines()[-1] == (
        "fxsim.errors.InputError: FXSIM_EMULATE names 'sve', which cannot be emulated; choose from "
        "vnni, amx, avx512, separated by commas"
    )


@pytest.mark.parametrize(
    "emulate, added",
    [
        ("", set()),
        ("vnni", {"int8_vnni", "int16_vnni", "split_vnni"}),
        ("amx", {"int8_amx", "int16_amx", "int8_vnni", "int16_vnni", "split_vnni"}),
    ],
)
def test_emulated_paths_are_those_that_products_may_take(emulate, added):
    program = "from fxsim.ops.paths import forward_paths; print(*forward_paths())"
    features = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse4.2,+avx2"}
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **features, "FXSIM_EMULATE": emulate},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert set(run.stdout.split()) == {"int16_avx2", "split_avx2", "plain"} | added


def test_emulated_machine_code_is_kept_apart(tmp_path):
    """Each process finds its own in the cache, not that of the other."""
    program = (
        "import numpy as np; from fxsim.kernels.reductions import channel_sums, _channel_sums; "
        "channel_sums(np.ones((2, 3), np.int16)); "
        "print(sum(_channel_sums.stats.cache_hits.values()))"
    )
    hits = []
    for emulate in ("", "vnni", "amx", "", "vnni", "amx"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "FXSIM_EMULATE": emulate},
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        hits.append(run.stdout.strip())
    assert hits == ["0", "0", "0", "1", "1", "1"]
