"""Whole networks: ONNX Runtime and qonnx give fxsim's codes."""

import dataclasses
import functools

import numpy as np
import pytest
from support.export_cases import (
    LARGE,
    SMALL,
    assert_exported,
    assignment,
    by_onnxruntime,
    by_qonnx,
    fixed_network,
    images_of,
)

from fxsim import Format, InputError, presets
from fxsim.interchange import to_onnx, to_qonnx

pytest.importorskip("onnx", reason="needs ONNX (pip install onnx)")

IMAGES = 30


def folded(fixed):
    """Without batch norm, if there is any."""
    return fixed.folded() if any(layer.norm for layer in fixed.network.layers) else fixed


@pytest.mark.parametrize("widths", [(8, 8), (6, 12), (16, 16)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_onnxruntime_gives_the_codes(name, widths, tmp_path):
    fixed = fixed_network(SMALL[name], assignment(SMALL[name], *widths))
    codes = images_of(fixed, IMAGES)
    wanted = assert_exported(to_onnx, by_onnxruntime, fixed, tmp_path / "m.onnx", codes)
    assert len(np.unique(wanted)) > 20


@pytest.mark.parametrize("widths", [(8, 8), (5, 6)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_qonnx_gives_the_codes(name, widths, tmp_path):
    fixed = folded(fixed_network(SMALL[name], assignment(SMALL[name], *widths)))
    codes = images_of(fixed, IMAGES)
    export = functools.partial(to_qonnx, batch=IMAGES)
    wanted = assert_exported(export, by_qonnx, fixed, tmp_path / "m.onnx", codes)
    assert len(np.unique(wanted)) > 20


@pytest.mark.parametrize("name", ["mobilenet", "mlp", "autoencoder"])
def test_folded_networks_in_integers(name, tmp_path):
    fixed = fixed_network(SMALL[name], assignment(SMALL[name])).folded()
    codes = images_of(fixed, IMAGES)
    assert_exported(to_onnx, by_onnxruntime, fixed, tmp_path / "m.onnx", codes)


@pytest.mark.parametrize("name", SMALL)
def test_onnx_by_its_own_evaluator(name, tmp_path):
    """Another executor than ONNX Runtime, by the text of the standard."""
    from onnx import checker, load, reference

    for widths in ((8, 8), (12, 16)):
        fixed = fixed_network(SMALL[name], assignment(SMALL[name], *widths))
        to_onnx(fixed, tmp_path / "m.onnx")
        model = load(tmp_path / "m.onnx")
        checker.check_model(model, full_check=True)
        codes = images_of(fixed, 4).astype(fixed.input_format.dtype)
        (made,) = reference.ReferenceEvaluator(model).run(None, {"images": codes})
        assert (made == fixed.logits(codes)).all()


def test_the_number_of_images_is_open(tmp_path):
    fixed = fixed_network(SMALL["mobilenet"], assignment(SMALL["mobilenet"]))
    for count in (2, 5):
        codes = images_of(fixed, count)
        assert_exported(to_onnx, by_onnxruntime, fixed, tmp_path / "m.onnx", codes)


def test_pixels_over_their_maximum_are_images_of_qonnx(tmp_path):
    fixed = fixed_network(SMALL["leaky"], assignment(SMALL["leaky"]))
    pixels = np.arange(250).reshape(5, 5, 5, 2)
    to_qonnx(fixed, tmp_path / "m.onnx", batch=5)
    step = fixed.input_format.step
    codes = np.minimum(np.floor(pixels / 255 / step + 0.5), 255).astype(int)
    made = by_qonnx(tmp_path / "m.onnx", fixed, pixels / 255 / step)
    assert (made == fixed.logits(codes)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_thousand_images_of_known_networks(name, tmp_path):
    fixed = fixed_network(LARGE[name], assignment(LARGE[name]))
    codes = images_of(fixed, 1000)
    path = tmp_path / "m.onnx"
    to_onnx(fixed, path)
    merged = folded(fixed)
    to_qonnx(merged, tmp_path / "q.onnx", batch=100)
    for start in range(0, 1000, 100):
        part = codes[start : start + 100]
        assert (by_onnxruntime(path, fixed, part) == fixed.logits(part)).all()
        assert (by_qonnx(tmp_path / "q.onnx", merged, part) == merged.logits(part)).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_formats_of_16_bits_on_thousand_images(name, tmp_path):
    fixed = fixed_network(LARGE[name], presets.uniform("Q6.10").assignment(LARGE[name]))
    codes = images_of(fixed, 1000)
    to_onnx(fixed, tmp_path / "m.onnx")
    for start in range(0, 1000, 100):
        part = codes[start : start + 100]
        assert (by_onnxruntime(tmp_path / "m.onnx", fixed, part) == fixed.logits(part)).all()


def test_what_float32_does_not_hold_is_refused(tmp_path):
    network = SMALL["lenet5"]
    wide = fixed_network(network, assignment(network, 16, 16))
    with pytest.raises(InputError, match="layer 'conv1': its sums of 16-bit act.* 16-bit weights"):
        to_qonnx(wide, tmp_path / "m.onnx")
    formats = dataclasses.replace(assignment(network, 4, 4), logits=Format(32, 5))
    with pytest.raises(InputError, match=r"layer 'fc3': a tensor in s32 .* at most 24 bits"):
        to_qonnx(fixed_network(network, formats), tmp_path / "m.onnx")
    normed = fixed_network(SMALL["mlp"], assignment(SMALL["mlp"]))
    with pytest.raises(InputError, match="layer 'a': batch norm .* fold batch norm"):
        to_qonnx(normed, tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())
