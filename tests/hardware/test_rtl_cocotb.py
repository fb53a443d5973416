"""A cocotb bench whose scoreboard is fxsim passes on the right RTL and fails on RTL with a bug."""

import contextlib
import importlib.util
import shutil

import pytest
from rtl.harness import UNITS, need, sources

CASES = [
    ("requantize", "requantizes_as_fxsim_does", "REQUANTIZE"),
    ("saturating_mac", "accumulates_as_fxsim_does", "MAC"),
]

PLAIN_ASSERTIONS = {"COCOTB_REWRITE_ASSERTION_FILES": ""}
"""Else cocotb rewrites the assertions of every module that is imported, NumPy and Numba too, at
5 s a simulation.
"""


def results(unit, test, parameters, folder, bug):
    """(tests run, tests failed) of a cocotb test of a unit in Icarus Verilog."""
    need("cocotb", importlib.util.find_spec("cocotb_tools"))
    need("Icarus Verilog", shutil.which("iverilog"))
    from cocotb_tools.runner import get_results, get_runner
    from rtl import cocotb_scoreboard

    runner = get_runner("icarus")
    runner.build(
        sources=sources(*UNITS),
        hdl_toplevel=unit,
        build_dir=folder,
        timescale=("1ns", "1ps"),
        parameters={**getattr(cocotb_scoreboard, parameters), "BUG": bug},
        log_file=folder / "build.log",
    )
    with contextlib.suppress(SystemExit):  # how the runner tells under pytest that a test failed
        runner.test(
            hdl_toplevel=unit,
            test_module=cocotb_scoreboard.__name__,
            test_filter=test,
            build_dir=folder,
            test_dir=folder,
            results_xml=str(folder / "results.xml"),
            log_file=folder / "test.log",
            extra_env=PLAIN_ASSERTIONS,
        )
    return get_results(folder / "results.xml")


@pytest.mark.parametrize("unit, test, parameters", CASES)
def test_the_scoreboard_passes(tmp_path, unit, test, parameters):
    assert results(unit, test, parameters, tmp_path, 0) == (1, 0)


def test_the_scoreboard_catches_a_planted_bug(tmp_path):
    assert results(*CASES[0], tmp_path, 1) == (1, 1)
    assert "wanted" in (tmp_path / "test.log").read_text()


def test_the_scoreboard_explains_a_planted_bug(tmp_path):
    """An accumulator that wraps where it should saturate."""
    assert results(*CASES[1], tmp_path, 2) == (1, 1)
    assert "accumulator of 10 bits, wrap each addition" in (tmp_path / "test.log").read_text()
