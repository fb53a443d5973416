"""Exported training steps have the bytes that are committed, on every machine and path."""

from pathlib import Path

import pytest
from support.golden_hashes_run import CASES, golden_hash

from fxsim.ops.paths import available_paths

LINES = (Path(__file__).parent.parent / "support" / "golden_hashes.txt").read_text().splitlines()
COMMITTED = {line.partition("  ")[2]: line.partition("  ")[0] for line in LINES}


def test_every_case_has_a_committed_hash():
    assert list(COMMITTED) == list(CASES)


@pytest.mark.parametrize("case", CASES)
def test_an_exported_step_has_the_committed_bytes(case):
    assert golden_hash(case) == COMMITTED[case]


@pytest.mark.slow
@pytest.mark.parametrize("path", available_paths())
@pytest.mark.parametrize("case", CASES)
def test_it_has_them_by_every_path(case, path):
    assert golden_hash(case, path) == COMMITTED[case]
