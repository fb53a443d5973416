"""Packages of VHDL and SystemVerilog: their names, and how they are written.

tests/hardware/test_rtl_packages.py simulates benches on them.
"""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.golden_steps import golden_step

from fxsim.cli.parser import main
from fxsim.errors import InputError
from fxsim.golden.check import check
from fxsim.golden.export import write_vectors
from fxsim.golden.manifest import Manifest
from fxsim.golden.packages import SUFFIXES, identifiers

LAYERS = st.from_regex(r"[A-Ca-c1_]*[A-Ca-c1][A-Ca-c1_]*", fullmatch=True)
TENSORS = st.sampled_from(["weights", "updated_weights", "bias", "activations", "c"])
LEGAL = re.compile(r"[a-z]([a-z0-9]|_(?=[a-z0-9]))*", re.IGNORECASE)


@given(st.lists(st.tuples(LAYERS, TENSORS).map(".".join), unique=True, max_size=12))
def test_identifiers_are_legal_and_differ_without_regard_to_capitals(names):
    found = identifiers(names)
    assert list(found) == names
    made = [f"{identifier}_{suffix}" for identifier in found.values() for suffix in SUFFIXES]
    assert all(map(LEGAL.fullmatch, made))
    assert len({name.lower() for name in made}) == len(made)


def test_a_name_that_is_an_identifier_stays_what_it_is():
    assert identifiers(["conv1.weight_grads"]) == {"conv1.weight_grads": "conv1_weight_grads"}
    both = identifiers(["conv.updated_weights", "conv_updated.weights"])
    assert list(both.values()) == ["conv_updated_weights", "conv_updated_weights_2"]


@pytest.fixture
def exported(tmp_path):
    write_vectors(golden_step(), tmp_path / "v", ("hex", "vhdl", "sv"))
    return tmp_path / "v"


def test_the_manifest_names_the_packages(exported):
    manifest = Manifest.load(exported)
    names = {kind: file.name for kind, file in manifest.packages.items()}
    assert names == {"vhdl": "fxsim_vectors.vhd", "sv": "fxsim_vectors.sv"}
    assert all((exported / name).exists() for name in names.values())
    assert manifest.to_dict()["packages"]["sv"]["name"] == "fxsim_vectors.sv"
    assert "packages" not in golden_step().manifest.to_dict()
    assert check(exported, exported).passed


def test_the_packages_tell_every_tensor(exported):
    manifest = Manifest.load(exported)
    vhdl = (exported / "fxsim_vectors.vhd").read_text()
    systemverilog = (exported / "fxsim_vectors.sv").read_text()
    for name, entry in manifest.entries.items():
        identifier = identifiers(manifest.entries)[name]
        assert f"constant {identifier}_bits : positive := {entry.format.bits};" in vhdl
        assert f"localparam int {identifier}_step_exp = {entry.format.step_exp};" in systemverilog
        assert f'{identifier}_file : string := "{name}.hex";' in vhdl
        assert f'localparam {identifier}_file = "{name}.hex";' in systemverilog
    rounding = manifest.entry("c2.weight_grads").rounding
    assert f"c2_weight_grads_rounding : rounding_mode := round_{rounding};" in vhdl
    assert f"c2_weight_grads_rounding = ROUND_{rounding.upper()};" in systemverilog
    assert "learning_rate_mantissa : positive := 39322;" in vhdl
    assert "localparam int learning_rate_exponent = -17;" in systemverilog


def test_an_export_without_packages_takes_the_place_of_one_with_them(exported):
    write_vectors(golden_step(), exported, ("mem",))
    assert not list(exported.glob("fxsim_vectors.*"))


@pytest.mark.parametrize("kinds", [("npy", "vhdl"), ("npy", "c", "sv")])
def test_a_package_needs_the_files_that_it_names(tmp_path, kinds):
    with pytest.raises(InputError, match=f"must include mem or hex.* kind '{kinds[-1]}'"):
        write_vectors(golden_step(), tmp_path / "v", kinds)
    assert not (tmp_path / "v").exists()


def test_the_command_line_writes_both_packages(tmp_path):
    words = "vectors export --network digits-convnet --formats Q4.12 --batch 2 --layers fc2 --files"
    assert main([*words.split(), "mem", "vhdl", "sv", "--out", str(tmp_path / "v")]) == 0
    assert {"fxsim_vectors.vhd", "fxsim_vectors.sv"} < {path.name for path in tmp_path.glob("v/*")}
