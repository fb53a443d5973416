"""The RTL is lint-clean, and a simulation that is missing or goes wrong never passes for a
right one.
"""

import shutil

import pytest
from rtl.harness import (
    FOLDER,
    ICARUS,
    ON_PACKAGES,
    UNITS,
    VERILATOR,
    execute,
    need,
    read_codes,
    sources,
    write_codes,
)

from fxsim import InputError


@pytest.mark.parametrize("unit", UNITS[1:])
def test_units_are_clean_in_verilators_lint(tmp_path, unit):
    need("Verilator", shutil.which("verilator"))
    execute(["verilator", "--lint-only", "-Wall", "--top-module", unit, *sources(*UNITS)], tmp_path)


def test_every_unit_and_bench_is_known():
    names = {path.stem for path in FOLDER.glob("*.sv")}
    benches = {f"{unit}_tb" for unit in UNITS if (FOLDER / f"{unit}_tb.sv").exists()}
    assert names - set(UNITS) == benches | set(ON_PACKAGES)


@pytest.mark.parametrize("simulator, name", [(ICARUS, "Icarus Verilog"), (VERILATOR, "Verilator")])
def test_a_missing_simulator_skips_by_name_and_fails_on_a_ci_machine(
    tmp_path, monkeypatch, simulator, name
):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=f"{name} is not installed"):
        simulator.build("requantize_tb", tmp_path)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=f"{name} is not installed"):
        simulator.build("requantize_tb", tmp_path)


@pytest.mark.parametrize("simulator", [ICARUS, pytest.param(VERILATOR, marks=pytest.mark.slow)])
def test_a_bench_without_its_files_fails(tmp_path, simulator):
    simulation = simulator.build(
        "requantize_tb", tmp_path, COUNT=1, IN_BITS=2, OUT_BITS_MAX=1, SHIFT_MIN=0, SHIFT_MAX=0
    )
    with pytest.raises(RuntimeError, match="no plusarg values="):
        simulation.run()


def test_an_unknown_bench_and_a_wrong_parameter_fail(tmp_path):
    with pytest.raises(RuntimeError):
        ICARUS.build("no_such_tb", tmp_path)
    with pytest.raises(RuntimeError):
        ICARUS.build("requantize_tb", tmp_path, NO_SUCH_PARAMETER=1)


def test_what_was_never_loaded_is_no_code(tmp_path):
    """Icarus dumps x for it."""
    simulation = ICARUS.build(
        "saturating_mac_tb", tmp_path, CYCLES=2, A_BITS=4, B_BITS=4, ACC_BITS=8
    )
    for name, codes in (("a", [1]), ("b", [1, 1]), ("control", [0b1100000, 0b1000000])):
        write_codes(simulation.folder / name, codes, 7 if name == "control" else 4)
    simulation.run(a="a", b="b", control="control", acc="acc", overflows="overflows")
    with pytest.raises(InputError, match="undriven or uninitialised"):
        read_codes(simulation.folder / "acc", 8, True, 2)


def test_codes_go_through_a_file_unchanged(tmp_path):
    for bits in (1, 2, 4, 5, 8, 31, 63):
        codes = [-(2 ** (bits - 1)), -1, 0, 2 ** (bits - 1) - 1]
        write_codes(tmp_path / "codes", codes, bits)
        assert read_codes(tmp_path / "codes", bits, True, 4).tolist() == codes
    assert (tmp_path / "codes").read_text().split() == [
        "4000000000000000",
        "7fffffffffffffff",
        "0" * 16,
        "3" + "f" * 15,
    ]
