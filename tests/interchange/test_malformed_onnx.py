"""Malformed ONNX models end in one line and exit code 2, whatever they declare."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

from support import malformed_onnx  # noqa: E402
from support.cli_cases import ENVIRONMENT  # noqa: E402

MOST_MEGABYTES = 1000


def test_every_one_ends_in_one_line_with_little_memory(tmp_path):
    assert len(malformed_onnx.MODELS) >= 50
    names = sorted(malformed_onnx.MODELS)
    for number, name in enumerate(names):
        place = tmp_path / "models" / f"{number:03}"
        place.mkdir(parents=True)
        malformed_onnx.MODELS[name](place / "model.onnx")
    tests = str(Path(malformed_onnx.__file__).parents[1])
    paths = os.pathsep.join([ENVIRONMENT["PYTHONPATH"], tests])
    done = subprocess.run(
        [sys.executable, malformed_onnx.__file__, tmp_path / "models"],
        env={**ENVIRONMENT, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *codes, memory = map(int, done.stdout.split())
    lines = done.stderr.splitlines()
    assert len(lines) == len(names), done.stderr[-4000:]
    for name, code, line in zip(names, codes, lines, strict=True):
        assert code == 2, f"{name}: {line}"
        assert line.startswith("fxsim: error: ") and len(line) <= 300, f"{name}: {line}"
        assert "please report" not in line, f"{name}: {line}"
    assert memory < MOST_MEGABYTES
