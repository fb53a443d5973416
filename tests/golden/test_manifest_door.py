"""Manifests are checked where they enter: types, names, keys, what contradicts, what nobody reads."""

import dataclasses
import json
from functools import cache

import pytest
from hypothesis import given, settings
from support.golden_steps import golden_step
from support.mutations import refusal, spoilt

from fxsim import Format, InputError
from fxsim.accumulator import Accumulator as Model
from fxsim.golden.manifest import Accumulator, Entry, File, Manifest

SHA256 = "0" * 64
MODEL = Accumulator(24, 9, "input", "model", Model(24, "wrap"))
ENTRY = Entry(
    "c1",
    "weight_grads",
    "result",
    (2, 3),
    "I,O",
    Format(8, 0),
    "floor",
    "wrap",
    MODEL,
    files={"mem": File("c1.weight_grads.mem", SHA256)},
)


@cache
def small():
    """A manifest of one step with two of its tensors."""
    whole = golden_step().manifest
    gradient = next(entry for entry in whole.tensors if entry.counts)
    return dataclasses.replace(whole, tensors=(ENTRY, gradient))


def data():
    return json.loads(json.dumps(small().to_dict()))


def test_what_is_written_is_read_back():
    assert Manifest.from_dict(data()) == small()
    whole = golden_step().manifest
    assert Manifest.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"layer": 3}, TypeError, "tensor layer must be a text, got 3"),
        ({"shape": "23"}, TypeError, "tensor shape must be a tuple, got '23'"),
        ({"shape": (2, 3.0)}, TypeError, r"shape\[1\] must be an integer, got 3.0"),
        ({"shape": (2, 0)}, InputError, "size in the shape .* must be at least 1, got 0"),
        ({"axes": "O"}, InputError, "axes of 'c1.weight_grads' must name the 2 axes"),
        ({"format": "Q0.7"}, TypeError, "tensor format must be a fxsim.Format, got 'Q0.7'"),
        ({"role": "output"}, InputError, "role 'output' is unknown"),
        ({"rounding": 3}, TypeError, "tensor rounding must be a text, got 3"),
        ({"overflow": "clip"}, InputError, "overflow 'clip' is unknown"),
        ({"layer": "../c1"}, InputError, "must be letters, digits, underscores and dots"),
        ({"files": {"elf": File("x", SHA256)}}, InputError, "key 'elf' is unknown; .*mem, hex"),
        ({"files": {"mem": "x.mem"}}, TypeError, "must be a fxsim.File, got 'x.mem'"),
        ({"accumulator": 24}, TypeError, "must be a fxsim.Accumulator, got 24"),
    ],
)
def test_an_entry_of_wrong_values(change, error, message):
    with pytest.raises(error, match=message):
        dataclasses.replace(ENTRY, **change)


@pytest.mark.parametrize("sha256", ["", "0" * 63, "G" * 64])
def test_a_hash_has_64_digits(sha256):
    with pytest.raises(InputError, match="file sha256 must be 64 hex digits"):
        File("x.mem", sha256)


def test_a_tensor_stands_once():
    with pytest.raises(InputError, match="tensor 'c1.weight_grads' twice"):
        dataclasses.replace(small(), tensors=(ENTRY, ENTRY))


def first(**values):
    return lambda data: data["tensors"][0].update(values)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: data["tensors"][0]["format"].update(bits=9), "step_exp -7 contradicts"),
        (lambda data: data["tensors"][0]["format"].update(fraction=7), "key 'fraction' is unknown"),
        (lambda data: data["tensors"][0]["format"].pop("signed"), "format needs 'signed'"),
        (lambda data: data["tensors"][0].pop("counts"), r"tensors\[0\] needs 'counts'"),
        (first(shape=["2", "3"]), r"shape\[0\] must be an integer, got '2'"),
        (first(files=[]), r"files must be a mapping, got \[\]"),
        (first(files={"mem": {"name": "x"}}), "files, 'mem' needs 'sha256'"),
        (first(rounded="floor"), "key 'rounded' is unknown; did you mean 'rounding'"),
        (first(accumulator={"bits": 8}), "accumulator needs 'terms', 'order'"),
        (
            lambda data: data["tensors"][0]["accumulator"]["model"].update(bits=23),
            "text '24 bits, .*' contradicts the other keys, which give '23 bits",
        ),
        (
            lambda data: data["tensors"][0]["accumulator"].update(overflow="wrap"),
            "accumulator overflow 'wrap' is unknown",
        ),
        (
            lambda data: data["tensors"][0]["accumulator"].update(overflow="exact"),
            "accumulator with overflow 'model' needs a model",
        ),
        (lambda data: data["tensors"][1]["counts"].update(below="0"), "below must be an integer"),
        (
            lambda data: data["learning_rate"].update(real=1.0),
            "learning_rate: real 1.0 contradicts",
        ),
        (lambda data: data["learning_rate"].update(mantissa=1), "mantissa must be"),
        (lambda data: data.update(encoding={}), "encoding is not the one that this fxsim reads"),
        (
            lambda data: data.update(steps=3),
            "manifest: key 'steps' is unknown; did you mean 'step'",
        ),
        (lambda data: data.update(step="0"), "manifest: step must be an integer, got '0'"),
        (lambda data: data.update(batch=0), "manifest batch must be at least 1, got 0"),
        (lambda data: data.update(version=True), "the manifest has version True"),
        (lambda data: data["network"].update(layers=[]), "network: key 'layers' is unknown"),
        (lambda data: data["fingerprints"].update(now=""), "key 'now' is unknown; .*before, after"),
    ],
)
def test_no_edit_of_a_file_goes_unread(change, message):
    edited = data()
    change(edited)
    with pytest.raises(InputError, match=f"{message}"):
        Manifest.from_dict(edited)


@given(spoilt(data()))
@settings(max_examples=500, deadline=None)
def test_a_spoilt_file_is_read_or_refused(spoilt_data):
    error = refusal(Manifest.from_dict, spoilt_data)
    assert error is None or isinstance(error, InputError)
