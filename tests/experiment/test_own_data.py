"""Images of one's own in an .npz: what is read, what is refused, a training on them."""

import json
import zipfile

import numpy as np
import pytest

from fxsim import cli
from fxsim.datasets import Dataset, digits, load, read_npz
from fxsim.datasets.pixels import pixel_codes
from fxsim.errors import InputError
from fxsim.formats import Format

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 201, (20, 8, 8, 1))
LABELS = np.arange(20) % 10


def saved(tmp_path, **arrays):
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    return path


def of_train(tmp_path, images=IMAGES, labels=LABELS, **others):
    return saved(tmp_path, train_images=images, train_labels=labels, **others)


@pytest.mark.parametrize(
    "kind, pixel_max, stored",
    [("uint8", 200, "uint8"), ("int64", 255, "uint8"), (">u2", 256, "uint16"), ("i4", 4095, "u2")],
)
def test_integers_are_read_as_they_are(tmp_path, kind, pixel_max, stored):
    images = IMAGES.astype(kind)
    tests = {"test_images": images[:3], "test_labels": LABELS[:3]}
    found = load("npz", of_train(tmp_path, images, pixel_max=pixel_max, **tests))
    assert (found.name, found.classes, found.pixel_max) == ("mine", 10, pixel_max)
    assert found.train_images.dtype == stored and found.test_images.dtype == stored
    np.testing.assert_array_equal(found.train_images, IMAGES)
    np.testing.assert_array_equal(found.test_images, IMAGES[:3])
    np.testing.assert_array_equal(found.train_labels, LABELS)


def test_bytes_stand_for_255ths_and_the_last_fifth_is_the_test_set(tmp_path):
    found = read_npz(of_train(tmp_path, IMAGES.astype(np.uint8), classes=12))
    assert (found.pixel_max, found.classes) == (255, 12)
    np.testing.assert_array_equal(found.train_images, IMAGES[:16])
    np.testing.assert_array_equal(found.test_labels, LABELS[16:])


def test_floats_become_the_nearest_of_65536_steps_of_their_range(tmp_path):
    images = np.linspace(-1, 3, 20 * 64, dtype=np.float32).reshape(20, 8, 8, 1)
    found = read_npz(of_train(tmp_path, images, pixel_range=[-1.0, 3.0]))
    wanted = [int((int(float(x) * 2**30) + 2**30) * 65535 + 2**31) >> 32 for x in images.ravel()]
    every = np.concatenate([found.train_images, found.test_images])
    assert every.dtype == np.uint16 and every.min() == 0 and every.max() == 65535
    np.testing.assert_array_equal(every.ravel(), wanted)


@pytest.mark.parametrize("pixel_max", [1, 16, 255, 256, 65535])
def test_pixels_are_rounded_to_codes_with_ties_away_from_zero(pixel_max):
    format = Format(9, 1, signed=False)  # steps of 2^-8
    codes = pixel_codes(pixel_max, format)
    for p in range(0, pixel_max + 1, max(1, pixel_max // 999)):
        assert codes[p] == (2 * 256 * p + pixel_max) // (2 * pixel_max)


@pytest.mark.parametrize(
    "arrays, told",
    [
        ({}, "needs 'train_images', 'train_labels'"),
        ({"train_image": IMAGES}, "key 'train_image' is unknown; did you mean 'train_images'"),
        ({"train_labels": LABELS[:19]}, "must be one for each of 20 images, got 19"),
        ({"train_labels": LABELS / 2}, "train_labels must be integers (N,), class numbers"),
        ({"train_labels": np.eye(10)[LABELS].astype(int)}, "train_labels must be integers (N,)"),
        ({"train_labels": LABELS - 1}, "train_labels must lie in 0 to 255, got -1 to 8"),
        ({"train_labels": LABELS, "classes": 4}, "record 4 has label 4, outside 0 to 3"),
        ({"train_labels": LABELS, "classes": [1, 2]}, "classes must be one integer"),
        ({"train_labels": LABELS, "test_labels": LABELS}, "test_labels stands alone"),
        ({"train_images": IMAGES}, "images are int64 and pixel_max is missing"),
        ({"train_labels": LABELS, "pixel_max": 100}, "must lie in 0 to pixel_max, 100, got 0 to"),
        ({"train_labels": LABELS, "pixel_max": 2**16}, "pixel_max must be 1 to 65535, got 65536"),
        ({"train_labels": LABELS, "pixel_max": 1.0}, "pixel_max must be one integer"),
        ({"train_labels": LABELS, "pixel_range": [0, 1]}, "pixel_range is for floats"),
        ({"train_images": IMAGES / 200}, "images are floats and pixel_range is missing"),
        ({"train_images": IMAGES / 200, "pixel_max": 1}, "pixel_max is for integers"),
        ({"train_images": IMAGES / 1.0, "pixel_range": [0, 1]}, "must lie in pixel_range, 0 to 1"),
        ({"train_images": IMAGES / 1.0, "pixel_range": [1, 1]}, "pixel_range must rise"),
        ({"train_images": IMAGES / 1.0, "pixel_range": [0, np.nan]}, "two finite numbers"),
        ({"train_images": IMAGES * np.nan, "pixel_range": [0, 1]}, "must lie in pixel_range"),
        ({"train_images": IMAGES > 9}, "holds bool, no numbers or texts"),
        ({"train_images": IMAGES.astype(str)}, "must be integers or floats, got <U21"),
        (
            {"train_images": IMAGES[0], "pixel_max": 255},
            "must be (N, H, W, C) and not empty, got (8, 8, 1)",
        ),
        ({"train_images": IMAGES[..., 0], "pixel_max": 255}, "must be (N, H, W, C)"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, arrays, told):
    given = {"train_images": IMAGES.astype(np.uint8)} if "train_labels" in arrays else {}
    if "train_images" in arrays:
        given = {"train_labels": LABELS}
    path = saved(tmp_path, **given | arrays)
    with pytest.raises(InputError) as refusal:
        read_npz(path)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and told in message
    assert "\n" not in message and len(message.replace(str(path), "")) < 250


def test_a_compressed_file_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", train_images=IMAGES)
    assert zipfile.is_zipfile(tmp_path / "a.npz")
    with pytest.raises(InputError, match="is compressed; write it with numpy.savez"):
        read_npz(tmp_path / "a.npz")


def own_digits(tmp_path, scale=1):
    """The embedded digits as a file of one's own; `scale` times as fine."""
    found = digits()
    images = found.train_images.astype(np.uint16) * scale, found.test_images * scale
    return saved(
        tmp_path,
        train_images=images[0],
        train_labels=found.train_labels,
        test_images=images[1].astype(np.uint16),
        test_labels=found.test_labels,
        pixel_max=16 * scale,
    )


def curve(folder):
    designs = json.loads((folder / "results.json").read_text())["designs"]
    return [epoch["train_loss"] for design in designs for epoch in design["epochs"]]


def test_the_digits_as_a_file_train_as_the_embedded_ones_do(tmp_path, capsys):
    path = own_digits(tmp_path)
    options = ["--network", "digits-convnet", "--width", "0.5", "--images", "64"]
    options += ["--epochs", "1"]
    assert cli.main(["train", *options, "--out", str(tmp_path / "a")]) == 0
    own = ["--dataset", "npz", "--data", str(path), "--out", str(tmp_path / "b")]
    assert cli.main(["train", *options, *own]) == 0
    assert curve(tmp_path / "a") == curve(tmp_path / "b")
    capsys.readouterr()


def test_pixels_of_12_bits_train(tmp_path, capsys):
    path = own_digits(tmp_path, scale=255)
    options = ["--network", "digits-convnet", "--width", "0.5", "--images", "64", "--epochs", "1"]
    own = ["--dataset", "npz", "--data", str(path), "--out", str(tmp_path / "b")]
    assert cli.main(["run", *options, *own, "--perturb", "none"]) == 0
    assert len(curve(tmp_path / "b")) == 2
    capsys.readouterr()


def test_data_tells_what_is_in_the_file(tmp_path, capsys):
    path = of_train(tmp_path, pixel_max=255)
    assert cli.main(["data", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "npz: whole, 10 classes, images of 8x8x1" in printed
    assert "mine.npz: 20 images, pixels 0 to 200" in printed
    assert "train       16 images in all; of classes 0 to 9: 2 2 2 2 2 2 1 1 1 1" in printed
    assert cli.main(["data", str(path), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["datasets"]
    assert found["splits"]["test"]["images"] == 4 and found["problems"] == []


def test_data_tells_what_is_wrong_with_the_file(tmp_path, capsys):
    path = of_train(tmp_path)
    assert cli.main(["data", str(path)]) == 2
    assert "pixel_max is missing" in capsys.readouterr().out
    assert cli.main(["data", str(tmp_path / "none.npz")]) == 2


def test_a_dataset_takes_pixels_of_16_bits():
    images = IMAGES.astype(np.uint16) * 300
    found = Dataset(
        "d", images, LABELS.astype(np.uint8), images, LABELS.astype(np.uint8), 10, 60000
    )
    assert found.train_images.dtype == np.uint16


def test_a_dataset_comes_back_as_it_was_saved(tmp_path):
    found = digits()
    found.save(tmp_path / "mine.npz")
    again = read_npz(tmp_path / "mine.npz")
    assert (again.classes, again.pixel_max, again.name) == (10, 16, "mine")
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    with pytest.raises(InputError, match="path must end in .npz"):
        found.save(tmp_path / "mine.dat")
