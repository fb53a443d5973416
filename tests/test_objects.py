"""Objects of public classes: what they keep of the caller's, their hash, `==` and copies."""

import copy
import pickle

import numpy as np
import pytest
from support.public_calls import (
    ASSIGNMENT,
    CLASSES,
    FIXED,
    FLOATING,
    IMAGES,
    LABELS,
    MAC,
    NETWORK,
    OPTIMIZER,
    PIXELS,
    PRECISION,
    QUOTIENT,
    RATE,
    REST,
    STATISTICS,
    SUM,
    VALUE,
)

from fxsim import (
    Counts,
    Dataset,
    DroppedBits,
    Format,
    InputError,
    Lfsr,
    Quantizer,
    Reason,
    Settings,
    Statistics,
    Stream,
    Tensor,
    WordMemory,
    ops,
)
from fxsim.arrays import frozen

LAYERS = {"input_shape": [8, 8, 1], "layer": [{"type": "dense", "name": "a", "units": 10}]}
TWICE = {
    "Format": lambda: Format(8, 0),
    "Tensor": lambda: Tensor([1, 2], Format(4, 3)),
    "Quantizer": lambda: Quantizer(Format(8, 0)),
    "Quantizer, words": lambda: Quantizer(Format(8, 0), "stochastic", words=np.arange(3)),
    "Stream": lambda: Stream(0, 1, "x"),
    "Lfsr": lambda: Lfsr(8, (8, 6, 5, 4), 4, [1, 9], lanes=2),
    "Lfsr.at": lambda: Lfsr(8, (8, 6, 5, 4), 4).at(3),
    "DroppedBits": DroppedBits,
    "WordMemory": lambda: WordMemory([1, 2], 8),
    "Counts": lambda: Counts(1, 0, 0, 1),
    "Accumulator": lambda: copy.deepcopy(MAC),
    "Network": lambda: copy.deepcopy(NETWORK),
    "LayerPrecision": lambda: copy.deepcopy(PRECISION),
    "PrecisionAssignment": lambda: copy.deepcopy(ASSIGNMENT),
    "Reason": lambda: Reason("x", {"a": 1.0}, 1.0),
    "LearningRate": lambda: copy.deepcopy(RATE),
    "Optimizer": lambda: copy.deepcopy(OPTIMIZER),
    "Settings": lambda: Settings.make(dataset="mnist"),
    "Settings, layers": lambda: Settings.make(layers=LAYERS),
    "Parameter": lambda: ops.Parameter(copy.deepcopy(VALUE), REST),
}
"""Calls that make equal objects."""


@pytest.mark.parametrize("make", TWICE.values(), ids=TWICE)
def test_equal_objects_have_one_hash_and_equal_copies(make):
    one, other = make(), make()
    assert one is not other
    assert one == other
    assert hash(one) == hash(other)
    assert one != 1
    assert one is not None and one != None  # noqa: E711  # `!=` is what is tested
    for copied in (copy.copy(one), copy.deepcopy(one), pickle.loads(pickle.dumps(one))):
        assert copied == one
        assert hash(copied) == hash(one)


def test_tensors_differ_by_format_shape_and_codes():
    one = Tensor([1, 2], Format(4, 3))
    assert Tensor([1, 2], Format(4, 2)) != one
    assert Tensor([[1, 2]], Format(4, 3)) != one
    assert Tensor([1, 3], Format(4, 3)) != one
    assert Tensor([1, 2], Format(4, 3)) in {one}


@pytest.mark.parametrize("exact", [SUM, QUOTIENT], ids=["Exact", "Quotient"])
def test_exact_results_refuse_comparison_and_hash(exact):
    with pytest.raises(TypeError, match="exact results have no ==; compare"):
        assert exact == exact
    with pytest.raises(TypeError, match="exact results have no =="):
        assert exact != 1
    with pytest.raises(TypeError, match="unhashable type"):
        hash(exact)


NETWORKS = {"fixed": copy.deepcopy(FIXED), "floating": copy.deepcopy(FLOATING)}
"""As they are before other tests of this process train them."""


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_refuse_a_shallow_copy(name):
    """It would train the parameters of the other."""
    network = NETWORKS[name]
    with pytest.raises(TypeError, match="use copy.deepcopy"):
        copy.copy(network)
    other = copy.deepcopy(network)
    before = {name: array.copy() for name, array in network.state().items()}
    pixels = IMAGES if name == "fixed" else IMAGES / 255
    other.train_step(pixels, LABELS, RATE, 0)
    assert all(np.array_equal(before[name], array) for name, array in network.state().items())
    assert any(not np.array_equal(before[name], array) for name, array in other.state().items())


# What is kept of the caller's.


def dataset(images=PIXELS, labels=CLASSES):
    return Dataset("d", images, labels, PIXELS, CLASSES, 3)


def test_what_the_caller_does_to_his_arrays_later_changes_nothing():
    codes = np.array([1, 2], np.int8)
    tensor = Tensor(codes, Format(4, 3))
    words = np.arange(3)
    quantizer = Quantizer(Format(8, 0), "stochastic", words=words)
    images = PIXELS.copy()
    labels = CLASSES.copy()
    data = dataset(images, labels[:])
    gains = np.ones(2)
    statistics = Statistics(**STATISTICS | {"weights_gain": gains})
    layers = copy.deepcopy(LAYERS)
    settings = Settings.make(layers=layers)
    for array in (codes, words, images, labels, gains):
        array[...] = 9
    layers["layer"][0]["units"] = 3
    assert tensor.codes.tolist() == [1, 2]
    assert quantizer.words.tolist() == [0, 1, 2]
    assert np.array_equal(data.train_images, PIXELS)
    assert np.array_equal(data.train_labels, CLASSES)
    assert statistics.weights_gain.tolist() == [1, 1]
    assert settings == Settings.make(layers=LAYERS)
    state = FIXED.state()
    other = copy.deepcopy(FIXED)
    other.load_state(state)
    for array in state.values():
        array[...] = 1
    assert other.fingerprint() == FIXED.fingerprint()


def test_kept_arrays_cannot_be_written():
    kept = (
        Tensor([1, 2], Format(4, 3)).codes,
        Quantizer(Format(8, 0), "stochastic", words=np.arange(3)).words,
        dataset().train_images,
        dataset().test_labels,
        Statistics(**STATISTICS).lambda_max,
    )
    for array in kept:
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


def test_memory_that_nobody_can_write_is_not_copied():
    whole = frozen(np.arange(6))
    assert frozen(whole) is whole
    assert np.shares_memory(frozen(whole[2:]), whole)
    text = np.frombuffer(b"abc", np.uint8)
    assert frozen(text) is text
    writable = np.arange(6)
    view = writable[:]
    view.setflags(write=False)
    assert not np.shares_memory(frozen(view), writable)
    assert not np.shares_memory(frozen(np.frombuffer(bytearray(b"abc"), np.uint8)), writable)


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_images", "test_labels"])
def test_masked_arrays_of_a_dataset_are_refused(name):
    arrays = {
        "train_images": PIXELS,
        "train_labels": CLASSES,
        "test_images": PIXELS,
        "test_labels": CLASSES,
    }
    with pytest.raises(
        TypeError, match=f"{name} must be a NumPy array of uint8.*, got MaskedArray"
    ):
        Dataset(name="d", classes=3, **arrays | {name: np.ma.array(arrays[name])})


def test_masked_words_are_refused():
    with pytest.raises(TypeError, match="random words must be a plain array, got a masked one"):
        Quantizer(Format(8, 0), "stochastic", words=np.ma.array(np.arange(3)))


# Probes.


def test_what_a_probe_of_the_fixed_network_keeps_does_not_change():
    network = copy.deepcopy(FIXED)
    kept = []

    def keep(tensor, layer, value):
        kept.append((tensor, value, value.codes.copy()))

    for step in range(2):
        network.train_step(IMAGES, LABELS, RATE, step, keep)
    assert len(kept) > 50
    for tensor, value, then in kept:
        assert np.array_equal(value.codes, then), tensor


def test_a_probe_cannot_change_the_training():
    def train(network, pixels, probe):
        for step in range(2):
            network.train_step(pixels, LABELS, RATE, step, probe)
        return {name: array.tobytes() for name, array in network.state().items()}

    def spoil(tensor, layer, value):
        array = value.codes if isinstance(value, Tensor) else value
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0

    for network, pixels in ((FIXED, IMAGES), (FLOATING, IMAGES / 255)):
        alone = train(copy.deepcopy(network), pixels, None)
        assert train(copy.deepcopy(network), pixels, spoil) == alone


def test_a_probe_that_is_no_function_is_refused_before_the_step():
    for network, pixels in ((FIXED, IMAGES), (FLOATING, IMAGES / 255)):
        before = {name: array.tobytes() for name, array in network.state().items()}
        with pytest.raises(TypeError, match="probe must be a function or None, got 3"):
            network.train_step(pixels, LABELS, RATE, 0, 3)
        assert {name: array.tobytes() for name, array in network.state().items()} == before


def test_settings_refuse_layers_without_end():
    endless = {"name": "n"}
    endless["layer"] = endless
    with pytest.raises(InputError, match="layers must not be nested so deeply"):
        Settings.make(layers=endless)
