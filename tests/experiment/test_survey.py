"""`fxsim data`: what it tells of whole data sets, and of truncated, mislabelled, foreign and
missing files.
"""

import json

import numpy as np
import pytest
from support.datasets_cases import (
    random_images,
    write_cifar,
    write_cifar10,
    write_idx,
    write_mnist_pair,
    write_svhn,
    write_svhn_pair,
)

from fxsim import datasets
from fxsim.cli import parser as cli


@pytest.fixture
def told(capsys):
    """Runs `fxsim data`; (exit code, standard output, standard error)."""

    def run(*arguments):
        code = cli.main(["data", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def refused(result, *parts):
    """Exit code 2 and one line on standard error with all parts in it; returns standard output."""
    code, out, err = result
    assert code == 2 and err.startswith("fxsim: error: ") and err.count("\n") == 1
    assert [part for part in parts if part not in err] == [], err
    return out


def write_cifar100(folder):
    for seed, (name, count) in enumerate((("train.bin", 40), ("test.bin", 9))):
        write_cifar(folder / name, count, seed, (20, 100))


def write_mnist(folder):
    for prefix, count in (("train-", 12), ("t10k-", 5)):
        write_mnist_pair(folder, prefix, count)


WRITERS = {
    "mnist": write_mnist,
    "cifar10": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn_pair,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_whole_set_is_told_as_load_reads_it(name, tmp_path, told):
    WRITERS[name](tmp_path)
    dataset = datasets.load(name, tmp_path)
    code, out, err = told(tmp_path, "--json")
    assert (code, err) == (0, "")
    (row,) = json.loads(out)["datasets"]
    assert (row["name"], row["classes"], row["shape"]) == (
        name,
        dataset.classes,
        list(dataset.image_shape),
    )
    assert row["problems"] == [] and {part["problem"] for part in row["files"]} == {None}
    for split in ("train", "test"):
        images = getattr(dataset, f"{split}_images")
        labels = getattr(dataset, f"{split}_labels")
        own = row["splits"][split]
        parts = [part for part in row["files"] if part["split"] == split]
        assert own["images"] == len(labels) == sum(part["images"] for part in parts)
        assert own["class_counts"] == np.bincount(labels, minlength=dataset.classes).tolist()
        assert min(part["pixels"][0] for part in parts) == images.min()
        assert max(part["pixels"][1] for part in parts) == images.max()
    files = [file for part in row["files"] for file in part["files"]]
    assert sorted(files) == sorted(path.name for path in tmp_path.iterdir())


def test_a_whole_set_in_words(tmp_path, told):
    for prefix, count in (("train-", 60), ("t10k-", 10_000)):
        write_idx(tmp_path / f"{prefix}images-idx3-ubyte", np.zeros((count, 28, 28), np.uint8))
        write_idx(tmp_path / f"{prefix}labels-idx1-ubyte", (np.arange(count) % 10).astype(np.uint8))
    assert told(tmp_path) == (
        0,
        """\
mnist: whole, 10 classes, images of 28x28x1

  train       train-images-idx3-ubyte, train-labels-idx1-ubyte: 60 images, pixels 0 to 0
  test        t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte: 10,000 images, pixels 0 to 0

  train       60 images in all (published: 60,000); 6 of each class
  test        10,000 images in all (as published); 1,000 of each class
""",
        "",
    )


def test_one_pair_is_told_as_it_is_split(tmp_path, told):
    _, labels = write_mnist_pair(tmp_path, "", 11)
    code, out, _ = told(tmp_path, "--json")
    splits = json.loads(out)["datasets"][0]["splits"]
    assert code == 0
    assert splits["train"]["class_counts"] == np.bincount(labels[:8], minlength=10).tolist()
    assert splits["test"]["class_counts"] == np.bincount(labels[8:], minlength=10).tolist()


def test_many_classes_are_told_by_their_extremes(tmp_path, told):
    write_cifar100(tmp_path)
    assert "40 images in all (published: 50,000); 0 to" in told(tmp_path)[1]


MALFORMED = {
    "truncated mnist": (
        "mnist",
        "train-images-idx3-ubyte",
        lambda path: path.read_bytes()[:-1],
        "truncated",
    ),
    "truncated cifar10": (
        "cifar10",
        "data_batch_4.bin",
        lambda path: path.read_bytes()[:-1],
        "truncated",
    ),
    "truncated cifar100": (
        "cifar100",
        "test.bin",
        lambda path: path.read_bytes()[:-1],
        "truncated",
    ),
    "truncated svhn": ("svhn", "train_32x32.mat", lambda path: path.read_bytes()[:-1], "truncated"),
    "mislabelled mnist": (
        "mnist",
        "t10k-labels-idx1-ubyte",
        lambda path: path.read_bytes()[:-1] + b"\x0a",
        "has label 10",
    ),
    "mislabelled cifar10": (
        "cifar10",
        "test_batch.bin",
        lambda path: b"\x0b" + path.read_bytes()[1:],
        "has label 11",
    ),
    "mislabelled cifar100": (
        "cifar100",
        "train.bin",
        lambda path: b"\x14" + path.read_bytes()[1:],
        "has coarse label 20",
    ),
    "foreign mnist": (
        "mnist",
        "train-images-idx3-ubyte",
        lambda path: b"\x89PNG" + bytes(100),
        "wrong magic number",
    ),
    "foreign cifar10": (
        "cifar10",
        "data_batch_1.bin",
        lambda path: b"\x80\x04" + bytes(100),
        "not a multiple of 3,073",
    ),
    "cifar10 as cifar100": (
        "cifar100",
        "train.bin",
        lambda path: bytes(3073),
        "not a multiple of 3,074",
    ),
    "foreign svhn": (
        "svhn",
        "test_32x32.mat",
        lambda path: b"\x80\x04" + bytes(100),
        "not a MATLAB 5.0 file",
    ),
    "missing mnist": ("mnist", "train-labels-idx1-ubyte", None, "missing"),
    "missing cifar10": ("cifar10", "data_batch_3.bin", None, "missing"),
    "missing cifar100": ("cifar100", "test.bin", None, "missing"),
    "missing svhn": ("svhn", "test_32x32.mat", None, "missing"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_or_missing_file_has_a_line_and_exit_code_2(case, tmp_path, told):
    name, file, content, words = MALFORMED[case]
    WRITERS[name](tmp_path)
    path = tmp_path / file
    path.write_bytes(content(path)) if content else path.unlink()
    out = refused(
        told(tmp_path),
        str(tmp_path),
        f"{name}: 1 of {len(datasets.describe(tmp_path))} parts missing or malformed",
        f"looked for {datasets.folder.LAYOUTS[name].wanted}",
    )
    (line,) = [line for line in out.splitlines() if str(path) in line]
    assert words in line
    assert words in json.loads(refused(told(tmp_path, "--json")))["datasets"][0]["problems"][0]


def test_mislabelled_svhn(tmp_path, told):
    write_svhn_pair(tmp_path)
    write_svhn(tmp_path / "test_32x32.mat", 5, y=np.zeros((5, 1), np.uint8))
    assert "record 0 has label 0, outside 1 to 10" in refused(told(tmp_path), "svhn: 1 of 2 parts")


def test_an_empty_folder_is_told_what_was_looked_for(tmp_path, told):
    refused(
        told(tmp_path),
        f"{tmp_path}: holds no data set; looked for mnist, cifar10, cifar100, svhn; ",
        "`fxsim data --help` names the files of each",
    )
    (tmp_path / "notes.txt").write_text("nothing here")
    assert refused(told(tmp_path), "holds no data set") == ""
    refused(told(tmp_path / "none"), f"{tmp_path / 'none'}: no such folder")
    refused(told(tmp_path / "notes.txt"), "no such folder")


def test_one_data_set_of_several_can_be_asked_for(tmp_path, told):
    write_svhn_pair(tmp_path)
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_5.bin").unlink()
    out = refused(told(tmp_path), "cifar10: 1 of 6 parts missing")
    assert "svhn: whole" in out
    assert told(tmp_path, "--dataset", "svhn")[0] == 0
    refused(told(tmp_path, "--dataset", "mnist"), "holds no data set; looked for train-images-")
    refused(told(tmp_path, "--dataset", "cifar"), "did you mean 'cifar10'?")


def test_what_is_not_read_is_told(tmp_path, told):
    child = tmp_path / "cifar-10-batches-bin"
    child.mkdir()
    write_cifar10(child)
    for name in ("a.txt", ".hidden", *(f"{letter}.png" for letter in "bcdefg")):
        (tmp_path / name).write_bytes(b"")
    code, out, _ = told(tmp_path)
    assert code == 0 and "cifar-10-batches-bin/test_batch.bin: 3 images" in out
    assert out.endswith("\nnot read: a.txt, b.png, c.png, d.png, e.png and 2 more\n")


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, told, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", forbidden)
    assert ": Permission denied" in refused(told(tmp_path), "mnist: 1 of 1 parts")


def test_images_of_noise_span_all_pixels(tmp_path, told):
    images, labels = random_images(400, (28, 28), 10)
    write_idx(tmp_path / "images-idx3-ubyte", images)
    write_idx(tmp_path / "labels-idx1-ubyte", labels)
    assert (
        "train+test  images-idx3-ubyte, labels-idx1-ubyte: 400 images, pixels 0 to 255"
        in told(tmp_path)[1]
    )
