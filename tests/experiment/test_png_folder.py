"""Images of one's own as PNG files: what is read, what is refused, a training on them."""

import io
import json
import struct
import zlib

import numpy as np
import pytest

from fxsim import cli
from fxsim.datasets import load
from fxsim.datasets.png import read_folder
from fxsim.errors import InputError

Image = pytest.importorskip("PIL.Image")
RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (6, 8), np.uint8)


def write(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of(width, height, bits, colour, rows):
    """The bytes of a PNG with these numbers in its header."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


@pytest.fixture
def folder(tmp_path):
    """Three classes, of which '10' comes before '2'."""
    counts = {"train/10": 2, "train/2": 4, "train/cat": 1, "test/cat": 1, "test/10": 2}
    for name, count in counts.items():
        for number in range(count):
            images = RANDOM.integers(0, 256, (6, 8), np.uint8)
            write(tmp_path / "images" / name / f"{number}.png", images)
    return tmp_path / "images"


def pixels(path):
    return np.asarray(Image.open(path)).astype(np.int64)[:, :, None]


def test_classes_are_in_the_order_of_their_names_and_images_spread_evenly(folder):
    (folder / "train" / ".DS_Store").write_bytes(b"hidden")
    found = load("folder", folder)
    assert (found.name, found.classes, found.pixel_max) == ("images", 3, 255)
    assert found.image_shape == (6, 8, 1)
    # at 1/8, 2/8 (of two), 3/8, 4/8 (of one), 5/8, 6/8 and 7/8 of the way
    assert found.train_labels.tolist() == [1, 0, 1, 2, 1, 0, 1]
    assert found.test_labels.tolist() == [0, 2, 0]
    names = ["2/0", "10/0", "2/1", "cat/0", "2/2", "10/1", "2/3"]
    for image, name in zip(found.train_images, names):
        np.testing.assert_array_equal(image, pixels(folder / "train" / f"{name}.png"))


@pytest.mark.parametrize(
    ("kind", "shape", "pixel_max"),
    [("uint8", (6, 8, 1), 255), ("uint16", (6, 8, 1), 65535), ("rgb", (6, 8, 3), 255)],
)
def test_every_kind_keeps_its_pixels(tmp_path, kind, shape, pixel_max):
    stored = "uint8" if kind == "rgb" else kind
    written = RANDOM.integers(0, pixel_max + 1, (2, *shape)).astype(stored)
    written[0, 0, 0] = pixel_max
    plain = written if kind == "rgb" else written[..., 0]
    for split, image in zip(("train", "test"), plain):
        write(tmp_path / split / "a" / "image.PNG", image)
    found = read_folder(tmp_path)
    assert (found.pixel_max, found.train_images.dtype) == (pixel_max, stored)
    np.testing.assert_array_equal(found.train_images[0], written[0])
    np.testing.assert_array_equal(found.test_images[0], written[1])


TRUECOLOUR_16 = png_of(8, 6, 16, 2, bytes(6 * (1 + 48)))


@pytest.mark.parametrize(
    ("told", "change"),
    [
        ("is no PNG; write it as one", lambda path: path.write_bytes(b"GIF89a" + bytes(99))),
        ("is no PNG", lambda path: path.write_bytes(b"")),
        ("is damaged", lambda path: path.write_bytes(path.read_bytes()[:-30])),
        ("is damaged", lambda path: path.write_bytes(path.read_bytes()[:40] + bytes(30))),
        ("8x5, grey of 8 bits, and others are 8x6", lambda path: write(path, GREY[:5])),
        ("RGB of 8 bits, and others", lambda path: write(path, np.stack([GREY] * 3, 2))),
        ("colour type 6 of 8 bits", lambda path: write(path, np.stack([GREY] * 4, 2))),
        ("colour type 4 of 8 bits", lambda path: write(path, np.stack([GREY] * 2, 2))),
        ("colour type 2 of 16 bits", lambda path: path.write_bytes(TRUECOLOUR_16)),
        ("colour type 0 of 1 bits", lambda path: write(path, GREY > 9)),
        ("has transparency", lambda path: write(path, GREY, transparency=3)),
        ("is 90000x90000, at most", lambda path: path.write_bytes(png_of(90000, 90000, 8, 0, b""))),
        ("is damaged", lambda path: path.write_bytes(png_of(8, 6, 8, 0, bytes(20)))),
    ],
)
def test_a_wrong_image_is_named(folder, told, change):
    path = folder / "train" / "2" / "1.png"
    change(path)
    with pytest.raises(InputError) as refusal:
        read_folder(folder)
    message = str(refusal.value)
    assert message.startswith(f"{path}: ") and told in message
    assert "\n" not in message and len(message.replace(str(path), "")) < 250


def test_an_animation_is_refused(folder):
    path = folder / "test" / "cat" / "0.png"
    frames = [Image.fromarray(GREY), Image.fromarray(255 - GREY)]
    data = io.BytesIO()
    frames[0].save(data, format="PNG", save_all=True, append_images=frames[1:])
    path.write_bytes(data.getvalue())
    with pytest.raises(InputError, match="several frames"):
        read_folder(folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda root: (root / "train" / "cat" / "0.png").unlink(), "cat: holds no image"),
        (lambda root: (root / "train" / "notes.txt").write_text("x"), "is no folder of a class"),
        (lambda root: (root / "train" / "cat" / "a.jpg").write_text("x"), "a.jpg: is no .png"),
        (lambda root: write(root / "test" / "dog" / "0.png", GREY), "dog: is no class of train"),
        (lambda root: (root / "test").rename(root / "tests"), "test: no such folder; wanted train"),
        (lambda root: (root / "train").rename(root / "all"), "train: no such folder; wanted train"),
        (
            lambda root: [write(root / "train" / f"c{n}" / "0.png", GREY) for n in range(254)],
            "has folders of 257 classes, 1 to 256 can be",
        ),
    ],
)
def test_a_wrong_folder_is_named(folder, change, told):
    change(folder)
    with pytest.raises(InputError, match=told):
        read_folder(folder)


def test_more_than_can_be_held_is_refused_before_it_is_read(folder, monkeypatch):
    monkeypatch.setattr("fxsim.datasets.png.MOST_BYTES", 479)
    with pytest.raises(InputError, match="its images have 480 bytes, at most 479 are read"):
        read_folder(folder)


def test_without_pillow_its_installation_is_named(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(InputError, match="needs Pillow to read PNG files; python -m pip install"):
        read_folder(folder)
    with pytest.raises(InputError, match="dataset 'folder' needs a folder with train/CLASS"):
        load("folder")


def test_data_tells_what_is_in_the_folder(folder, capsys):
    assert cli.main(["data", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "folder: whole, 3 classes, images of 6x8x1" in printed
    assert "  classes     '10', '2', 'cat'\n" in printed
    assert "train, test: 10 images, pixels" in printed
    assert "train       7 images in all; of classes 0 to 2: 2 4 1" in printed
    assert cli.main(["data", str(folder), "--dataset", "folder", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["datasets"]
    assert found["class_names"] == ["10", "2", "cat"] and found["problems"] == []
    (folder / "test" / "cat" / "0.png").write_bytes(b"x")
    assert cli.main(["data", str(folder)]) == 2
    told = capsys.readouterr()
    assert "0.png: is no PNG" in told.out
    assert "looked for a folder with train/CLASS/*.png" in told.err


def test_a_training_reads_them_as_it_reads_the_same_images_in_a_file(folder, tmp_path, capsys):
    for split, count in (("train", 40), ("test", 20)):
        for number in range(count):
            image = RANDOM.integers(0, 256, (6, 8), np.uint8)
            write(folder / split / str(number % 2) / f"{number}.png", image)
    toml = tmp_path / "mine.toml"
    layer = '{type = "dense", name = "scores", units = 5, activation = "none"}'
    toml.write_text(f"[layers]\ninput_shape = [6, 8, 1]\nlayer = [{layer}]\n")
    read_folder(folder).save(tmp_path / "mine.npz")
    losses = []
    for dataset, data in (("folder", folder), ("npz", tmp_path / "mine.npz")):
        out = tmp_path / dataset
        options = ["--dataset", dataset, "--data", str(data), "--epochs", "1", "--batch", "8"]
        assert cli.main(["train", str(toml), *options, "--out", str(out)]) == 0
        rows = json.loads((out / "results.json").read_text())["designs"]
        losses.append(rows[0]["train_loss"])
    assert losses[0] == losses[1]
    capsys.readouterr()
