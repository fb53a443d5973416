"""What the exported files say of themselves, and what becomes of wrong calls."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from support.export_cases import SMALL, assignment, fixed_network

import fxsim
from fxsim import Format, InputError
from fxsim.interchange import to_onnx, to_qonnx

EXPORTS = [to_onnx, to_qonnx]
NETWORK = SMALL["leaky"]


@pytest.fixture
def fixed():
    return fixed_network(NETWORK, assignment(NETWORK, rounding={"logits": "floor"}))


def properties(path):
    onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    return {each.key: each.value for each in onnx.load(path).metadata_props}


@pytest.mark.parametrize("export", EXPORTS)
def test_the_file_has_formats_version_and_digest(export, fixed, tmp_path):
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    export(fixed, tmp_path / "m.onnx")
    found = properties(tmp_path / "m.onnx")
    assert found["fxsim.kind"].startswith("fxsim inference in ")
    assert found["fxsim.version"] == fxsim.__version__
    assert found["fxsim.fingerprint"] == fixed.fingerprint()
    formats = json.loads(found["fxsim.formats"])
    for layer, own in fixed.assignment.layers.items():
        for tensor in ("activations", "weights", "bias"):
            row = formats[f"{layer}.{tensor}"]
            assert row.pop("rounding") == "nearest_away"
            assert row.pop("overflow") == "saturate"
            assert Format.from_dict(row) == getattr(own, tensor)
    assert formats["scores.logits"]["rounding"] == "floor"
    assert set(json.loads(found["fxsim.products"])) == set(NETWORK.names)


def test_the_file_names_the_operator_of_each_product(tmp_path):
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    wide = {8: ["ConvInteger", "MatMulInteger", "MatMulInteger"], 9: ["MatMul of int64"] * 3}
    for bits, operators in wide.items():
        to_onnx(fixed_network(NETWORK, assignment(NETWORK, 8, bits)), tmp_path / "m.onnx")
        found = json.loads(properties(tmp_path / "m.onnx")["fxsim.products"])
        assert list(found.values()) == operators


@pytest.mark.parametrize("export", EXPORTS)
def test_outputs_of_layers_have_the_names_of_fxsim(export, fixed, tmp_path):
    onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    export(fixed, tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    made = {name for node in model.graph.node for name in node.output}
    assert {"a.activations", "b.activations", "scores.activations", "logits"} <= made
    known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    assert made <= known
    onnx.checker.check_model(model)


@pytest.mark.parametrize("export", EXPORTS)
def test_the_same_network_gives_the_same_bytes(export, fixed, tmp_path):
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    for name in ("a", "b"):
        export(fixed, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("export", EXPORTS)
def test_without_onnx_the_message_says_how_to_get_it(export, fixed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'fxsim\[onnx\]'"):
        export(fixed, tmp_path / "m.onnx")


@pytest.mark.parametrize("export", EXPORTS)
def test_wrong_arguments(export, fixed, tmp_path):
    with pytest.raises(TypeError, match="network must be a fxsim.FixedNetwork, got 3"):
        export(3, tmp_path / "m.onnx")
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    with pytest.raises(InputError, match="missing"):
        export(fixed, tmp_path / "missing" / "m.onnx")


@pytest.mark.parametrize("batch, error", [(0, InputError), (1.5, TypeError), (True, TypeError)])
def test_wrong_batches(batch, error, fixed, tmp_path):
    with pytest.raises(error, match="batch must be"):
        to_qonnx(fixed, tmp_path / "m.onnx", batch)


def test_exporting_changes_nothing(fixed, tmp_path):
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    codes = np.zeros((1, *NETWORK.input_shape), int)
    before = fixed.fingerprint(), fixed.logits(codes).tolist()
    to_onnx(fixed, tmp_path / "m.onnx")
    assert (fixed.fingerprint(), fixed.logits(codes).tolist()) == before


def test_the_example_of_the_guide(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")
    pytest.importorskip("onnxruntime", reason="needs ONNX Runtime (pip install onnxruntime)")
    page = Path(fxsim.__file__).parent / "guide" / "export.md"
    (block,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "export.md", "exec"), {})
    assert capsys.readouterr().out == "True\n"
    assert (tmp_path / "small-q.onnx").exists()
