"""Data sets: every format read back from small files in the real layout, every kind of
malformed file refused.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from support.datasets_cases import (
    idx_bytes,
    write_cifar,
    write_cifar10,
    write_idx,
    write_mnist_pair,
    write_svhn,
    write_svhn_pair,
)

from fxsim import datasets
from fxsim.datasets import Dataset, idx, mat
from fxsim.errors import InputError
from fxsim.files import MOST_INFLATED


def refusal(call, *args) -> str:
    with pytest.raises(InputError) as caught:
        call(*args)
    message = str(caught.value)
    assert "\n" not in message
    return message


def assert_holds(dataset, train, test):
    wanted = (*train, *test)
    got = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    for got_array, wanted_array in zip(got, wanted):
        assert (
            got_array.dtype == np.uint8
            and got_array.flags.c_contiguous
            and not got_array.flags.writeable
        )
        np.testing.assert_array_equal(got_array, wanted_array)


def small(**changes):
    fields = {
        "name": "small",
        "train_images": np.zeros((4, 2, 2, 1), np.uint8),
        "classes": 3,
        "train_labels": np.array([0, 1, 2, 2], np.uint8),
        "test_images": np.zeros((1, 2, 2, 1), np.uint8),
        "test_labels": np.array([1], np.uint8),
        "pixel_max": 16,
    }
    return Dataset(**{**fields, **changes})


def test_dataset_holds_its_arrays_and_tells_the_image_shape():
    dataset = small()
    assert dataset.image_shape == (2, 2, 1)
    assert repr(dataset) == "Dataset(name='small', classes=3, pixel_max=16)"
    with pytest.raises(AttributeError):
        dataset.classes = 4


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"classes": 0}, "classes must be 1 to 256, got 0"),
        ({"pixel_max": 65536}, "pixel_max must be 1 to 65535, got 65536"),
        ({"train_images": np.zeros((4, 2, 2), np.uint8)}, "train_images must be (N, H, W, C)"),
        (
            {"test_images": np.zeros((0, 2, 2, 1), np.uint8)},
            "test_images must be (N, H, W, C) and not empty",
        ),
        (
            {"train_labels": np.zeros(3, np.uint8)},
            "train_labels must be one for each of 4 images, got (3,)",
        ),
        (
            {"train_labels": np.zeros((4, 1), np.uint8)},
            "train_labels must be one for each of 4 images, got (4, 1)",
        ),
        (
            {"train_labels": np.array([0, 1, 3, 2], np.uint8)},
            "train_labels: record 2 has label 3, outside 0 to 2",
        ),
        ({"test_labels": np.array([9], np.uint8)}, "test_labels: record 0 has label 9"),
        (
            {"test_images": np.full((1, 2, 2, 1), 17, np.uint8)},
            "image 0 has pixel 17, above pixel_max 16",
        ),
        (
            {"test_images": np.zeros((1, 2, 3, 1), np.uint8)},
            "test_images are (2, 3, 1), train_images (2, 2, 1)",
        ),
    ],
)
def test_dataset_refuses_what_does_not_fit(changes, words):
    message = refusal(lambda: small(**changes))
    assert "dataset 'small'" in message and words in message


@pytest.mark.parametrize("array", [np.zeros((4, 2, 2, 1)), [[0]]])
def test_dataset_takes_no_other_type_than_uint8_arrays(array):
    with pytest.raises(
        TypeError, match="train_images must be a (NumPy array of uint8|numpy.ndarray)"
    ):
        small(train_images=array)


def test_digits_are_the_uci_digits_with_the_last_fifth_as_test_set():
    dataset = datasets.load("digits")
    assert (dataset.name, dataset.classes, dataset.pixel_max, dataset.image_shape) == (
        "digits",
        10,
        16,
        (8, 8, 1),
    )
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (1437, 360)
    # the class counts of the 1,797 images, and the first image, as scikit-learn's documentation
    # prints them
    counts = np.bincount(np.concatenate((dataset.train_labels, dataset.test_labels)))
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert dataset.train_labels[0] == 0
    assert dataset.train_images[0, :2, :, 0].tolist() == [
        [0, 0, 5, 13, 9, 1, 0, 0],
        [0, 0, 13, 15, 10, 15, 5, 0],
    ]
    assert dataset.train_images.max() == dataset.test_images.max() == 16
    assert dataset.train_images.flags.c_contiguous and dataset.test_images.flags.c_contiguous


def test_digits_are_the_same_bytes_everywhere():
    dataset = datasets.digits()
    arrays = (dataset.train_images, dataset.train_labels, dataset.test_images, dataset.test_labels)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()
    assert digest == "adbedc90ca53bba766d95f51152881946c85767fcaa14d6722d36d9dd86d8e3d"


@pytest.mark.parametrize("join", "-.")
@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist_reads_both_pairs(tmp_path, join, end):
    train = write_mnist_pair(tmp_path, "train-", 7, 1, join, end)
    test = write_mnist_pair(tmp_path, "t10k-", 3, 2, join, end)
    dataset = datasets.mnist(tmp_path)
    assert_holds(dataset, train, test)
    assert (dataset.name, dataset.classes, dataset.pixel_max) == ("mnist", 10, 255)


@pytest.mark.parametrize("count, cut", [(10, 8), (11, 8), (2, 1)])
@pytest.mark.parametrize("prefix", ["mnist-10k-", "train-", ""])
def test_mnist_splits_the_last_fifth_off_a_lone_pair(tmp_path, prefix, count, cut):
    images, labels = write_mnist_pair(tmp_path, prefix, count, end=".gz")
    assert_holds(
        datasets.mnist(tmp_path), (images[:cut], labels[:cut]), (images[cut:], labels[cut:])
    )


def test_mnist_does_not_split_a_pair_when_part_of_the_other_is_there(tmp_path):
    write_mnist_pair(tmp_path, "train-", 5)
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.zeros(5, np.uint8))
    assert f"{tmp_path / 't10k-images-idx3-ubyte'}: missing" in refusal(datasets.mnist, tmp_path)


def test_mnist_refuses_to_choose_between_several_pairs(tmp_path):
    write_mnist_pair(tmp_path, "a-", 5)
    write_mnist_pair(tmp_path, "b-", 5)
    assert "prefixes 'a-', 'b-'" in refusal(datasets.mnist, tmp_path)


def test_mnist_refuses_unequal_counts_other_sizes_and_wrong_labels(tmp_path):
    write_mnist_pair(tmp_path, "", 5)
    labels_path = tmp_path / "labels-idx1-ubyte"
    images_path = tmp_path / "images-idx3-ubyte"
    write_idx(labels_path, np.zeros(4, np.uint8))
    assert f"{labels_path}: 4 labels for the 5 images" in refusal(datasets.mnist, tmp_path)
    write_idx(labels_path, np.array([0, 1, 2, 10, 11], np.uint8))
    assert f"{labels_path}: record 3 has label 10, outside 0 to 9" in refusal(
        datasets.mnist, tmp_path
    )
    write_idx(images_path, np.zeros((5, 28, 27), np.uint8))
    assert f"{images_path}: images are 28x27" in refusal(datasets.mnist, tmp_path)


@pytest.mark.parametrize("name", ["a", "a.gz"])
@pytest.mark.parametrize(
    "shape", [(5,), (2, 3, 4), (1, 1 << 21)]
)  # the last is larger than one chunk
def test_idx_round_trip(tmp_path, name, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_idx(tmp_path / name, array)
    np.testing.assert_array_equal(datasets.read_idx(tmp_path / name, len(shape)), array)


IDX = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "wrong magic number: got 0x, wanted 0x00000803"),
        (b"PNG...", "wrong magic number: got 0x504e472e"),
        (idx_bytes(np.zeros(4, np.uint8)), "wrong magic number: got 0x00000801, wanted 0x00000803"),
        (
            idx_bytes(np.zeros((2, 3, 4), np.uint8), dtype_code=13),
            "wrong magic number: got 0x00000d03",
        ),
        (IDX[:10], "truncated: the header is 16 bytes, there are 10"),
        (IDX[:-1], "truncated: 23 bytes follow a header whose shape (2, 3, 4) takes 24"),
        (IDX + b"\0", "oversized: more than 24 bytes follow"),
        (idx_bytes(np.zeros((2, 0, 4), np.uint8)), "shape (2, 0, 4) is empty"),
        (struct.pack(">4B3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "bytes, more than the "),
    ],
)
@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_idx_refuses(tmp_path, name, content, words):
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    message = refusal(datasets.read_idx, path, 3)
    assert message.startswith(f"{path}: ") and words in message


def test_idx_refuses_damaged_gzip(tmp_path):
    path = tmp_path / "a.gz"
    packed = gzip.compress(IDX)
    crc_flipped = packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:]
    body_flipped = packed[:12] + bytes([packed[12] ^ 0xFF]) + packed[13:]
    for content in (IDX, packed[:-9], packed[:4], crc_flipped, body_flipped, packed + b"more"):
        path.write_bytes(content)
        assert f"{path}: damaged gzip file" in refusal(datasets.read_idx, path, 3)


def test_idx_checks_the_end_of_a_file_that_fills_whole_chunks(tmp_path):
    path = tmp_path / "a.gz"
    content = idx_bytes(np.zeros(idx._CHUNK_BYTES, np.uint8))
    packed = gzip.compress(content)
    path.write_bytes(gzip.compress(content + b"\0"))
    assert "oversized" in refusal(datasets.read_idx, path, 1)
    path.write_bytes(packed[:-8] + bytes([packed[-8] ^ 1]) + packed[-7:])
    assert "damaged gzip file" in refusal(datasets.read_idx, path, 1)


def test_idx_reads_little_more_of_an_archive_than_its_header_says():
    with gzip.open(io.BytesIO(gzip.compress(bytes(50_000_000)))) as stream:
        assert 24 < len(idx._read_past(stream, 24)) <= 24 + idx._CHUNK_BYTES


PEAK = r"""
import re, sys
from pathlib import Path
from fxsim.datasets import idx, mat
from fxsim.errors import InputError
try:
    images = idx.read_idx(sys.argv[1], 3) if "idx" in sys.argv[1] else mat.read_svhn(Path(sys.argv[1]))
    print(len(images))
except InputError as error:
    print(error)
print(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
"""


def peak_memory(path) -> tuple[str, int]:
    """What reading a file prints in a process of its own, and the MiB that this process took."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    return done.stdout, int(done.stderr) // 1024


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_small_archive_takes_less_than_a_gib(tmp_path):
    most = MOST_INFLATED // 784
    path = tmp_path / "idx.gz"
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((most, 28, 28), np.uint8)), 1))
    printed, peak = peak_memory(path)
    assert printed == f"{most}\n" and 256 < peak < 1024
    path.write_bytes(gzip.compress(idx_bytes(np.zeros((most + 1, 28, 28), np.uint8)), 1))
    printed, peak = peak_memory(path)
    assert "gunzip it" in printed and peak < 256
    path = tmp_path / "svhn.mat"
    images = np.zeros((32, 32, 3, MOST_INFLATED // 3072 - 1), np.uint8)
    write_svhn(path, 2, X=images, y=np.ones((images.shape[3], 1)))
    printed, peak = peak_memory(path)
    assert printed == "2\n" and 256 < peak < 1024
    images = np.zeros((32, 32, 3, MOST_INFLATED // 3072 + 1), np.uint8)
    write_svhn(path, 2, X=images, y=np.ones((images.shape[3], 1)))
    printed, peak = peak_memory(path)
    assert "more than the 268,435,456" in printed and peak < 256


@pytest.mark.parametrize("child", ["", "cifar-10-batches-bin"])
def test_cifar10_reads_planes_as_channels_last(tmp_path, child):
    (tmp_path / child).mkdir(exist_ok=True)
    *train, test = write_cifar10(tmp_path / child)
    dataset = datasets.cifar10(tmp_path)
    assert_holds(dataset, [np.concatenate(arrays) for arrays in zip(*train)], test)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("cifar10", 10, (32, 32, 3))


@pytest.mark.parametrize("child", ["", "cifar-100-binary"])
def test_cifar100_reads_the_fine_labels(tmp_path, child):
    (tmp_path / child).mkdir(exist_ok=True)
    train = write_cifar(tmp_path / child / "train.bin", 40, 1, (20, 100))
    test = write_cifar(tmp_path / child / "test.bin", 9, 2, (20, 100))
    dataset = datasets.cifar100(tmp_path)
    assert_holds(dataset, train, test)
    assert dataset.classes == 100 and dataset.train_labels.max() > 20


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "truncated: 0 bytes is not a multiple of 3,073"),
        (bytes(3000), "truncated: 3,000 bytes is not a multiple of 3,073"),
        (bytes(2 * 3073 + 1), "truncated: 6,147 bytes is not a multiple of 3,073"),
        (bytes(2 * 3073) + b"\x0a" + bytes(3072), "record 2 has label 10, outside 0 to 9"),
    ],
)
def test_cifar10_refuses(tmp_path, content, words):
    write_cifar10(tmp_path)
    path = tmp_path / "data_batch_4.bin"
    path.write_bytes(content)
    message = refusal(datasets.cifar10, tmp_path)
    assert message.startswith(f"{path}: ") and words in message


def test_cifar10_names_a_missing_file(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    assert f"{tmp_path / 'data_batch_3.bin'}: missing" in refusal(datasets.cifar10, tmp_path)


@pytest.mark.parametrize(
    "content, words",
    [
        (bytes(3073), "truncated: 3,073 bytes is not a multiple of 3,074"),
        (bytes(3074) + b"\x14\x00" + bytes(3072), "record 1 has coarse label 20, outside 0 to 19"),
        (b"\x13\x64" + bytes(3072), "record 0 has fine label 100, outside 0 to 99"),
    ],
)
def test_cifar100_refuses(tmp_path, content, words):
    write_cifar(tmp_path / "train.bin", 2, label_classes=(20, 100))
    (tmp_path / "test.bin").write_bytes(content)
    message = refusal(datasets.cifar100, tmp_path)
    assert message.startswith(f"{tmp_path / 'test.bin'}: ") and words in message


def test_a_folder_in_a_file_s_place_cannot_be_read(tmp_path):
    write_cifar10(tmp_path)
    (tmp_path / "test_batch.bin").unlink()
    (tmp_path / "test_batch.bin").mkdir()
    assert f"cannot read {tmp_path / 'test_batch.bin'}: Is a directory" in refusal(
        datasets.cifar10, tmp_path
    )


def test_svhn_reads_label_10_as_the_digit_0(tmp_path):
    train, test = write_svhn_pair(tmp_path)
    assert 0 in train[1]
    dataset = datasets.svhn(tmp_path)
    assert_holds(dataset, train, test)
    assert (dataset.name, dataset.classes, dataset.image_shape) == ("svhn", 10, (32, 32, 3))


def test_svhn_takes_labels_saved_as_doubles(tmp_path):
    train, test = write_svhn_pair(tmp_path, y=np.arange(20).reshape(20, 1) % 10 + 1.0)
    assert_holds(datasets.svhn(tmp_path), (train[0], (np.arange(20) + 1) % 10), test)


def labels_with(value, dtype=np.uint8):
    labels = np.ones((20, 1), dtype)
    labels[7] = value
    return labels


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"X": None}, "has no array 'X'"),
        ({"y": None}, "has no array 'y'"),
        ({"X": scipy.sparse.eye(3, format="csc")}, "has no array 'X'"),
        ({"X": np.zeros((32, 32, 3, 20))}, "X is float64 (32, 32, 3, 20)"),
        (
            {"X": np.zeros((20, 32, 32, 3), np.uint8)},
            "X is uint8 (20, 32, 32, 3), wanted uint8 (32, 32, 3, N)",
        ),
        ({"X": np.zeros((32, 32, 3), np.uint8)}, "X is uint8 (32, 32, 3)"),
        ({"X": np.zeros((32, 32, 3, 0), np.uint8)}, "X is empty, of shape (32, 32, 3, 0)"),
        ({"X": {"a": 1}}, "has no array 'X' of numbers"),
        ({"X": np.zeros((32, 32, 3, 20), complex)}, "has no array 'X' of numbers"),
        ({"y": np.ones((19, 1), np.uint8)}, "y is uint8 (19, 1), wanted numbers (20, 1)"),
        ({"y": np.ones((1, 20), np.uint8)}, "y is uint8 (1, 20)"),
        ({"y": np.full((20, 1), "a")}, "has no array 'y' of numbers"),
        ({"y": labels_with(0)}, "record 7 has label 0, outside 1 to 10"),
        ({"y": labels_with(11)}, "record 7 has label 11, outside 1 to 10"),
        ({"y": labels_with(1.5, float)}, "record 7 has label 1.5"),
        ({"y": labels_with(np.nan, float)}, "record 7 has label nan"),
    ],
)
def test_svhn_refuses_other_variables(tmp_path, changes, words):
    write_svhn_pair(tmp_path, **changes)
    message = refusal(datasets.svhn, tmp_path)
    assert message.startswith(f"{tmp_path / 'train_32x32.mat'}: ") and words in message


def test_svhn_refuses_foreign_and_truncated_files(tmp_path):
    write_svhn_pair(tmp_path)
    path = tmp_path / "train_32x32.mat"
    whole = path.read_bytes()
    big_endian = whole[:124] + b"\x01\x00MI" + whole[128:]
    hdf5 = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(100)
    for content, words in [
        (b"", "not a MATLAB 5.0 file"),
        (bytes(4000), "not a MATLAB 5.0 file"),
        (b"\x80\x04N.", "not a MATLAB 5.0 file"),
        (hdf5, "not a MATLAB 5.0 file"),
        (big_endian, "not a MATLAB 5.0 file"),
        (whole[:128], "has no array 'X'"),
        (whole[:-1], "truncated"),
        (whole[:131], "truncated"),
        (whole + b"more", "is not compressed or its tag is damaged"),
    ]:
        path.write_bytes(content)
        message = refusal(datasets.svhn, tmp_path)
        assert message.startswith(f"{path}: ") and words in message


def test_svhn_refuses_uncompressed_variables(tmp_path):
    write_svhn_pair(tmp_path, compressed=False)
    assert "byte 128 is not compressed" in refusal(datasets.svhn, tmp_path)


def test_svhn_refuses_every_flipped_byte_after_the_descriptive_text(tmp_path):
    path = tmp_path / "train_32x32.mat"
    write_svhn(path, 2, X=np.zeros((32, 32, 3, 2), np.uint8))  # zeros, so that the file is short
    whole = path.read_bytes()
    assert len(whole) < 500
    for index in range(124, len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 0xFF]) + whole[index + 1 :])
        assert refusal(mat.read_svhn, path).startswith(f"{path}: ")


def test_load_reads_the_folder_of_the_named_set(tmp_path):
    images, labels = write_mnist_pair(tmp_path, "", 5)
    assert_holds(
        datasets.load("mnist", str(tmp_path)), (images[:4], labels[:4]), (images[4:], labels[4:])
    )


def test_load_refuses_unknown_names_and_says_which_folder_is_wanted(tmp_path):
    assert "did you mean 'cifar10'? choose from digits, mnist" in refusal(datasets.load, "cifar-10")
    assert "dataset 'digits' is inside the package" in refusal(datasets.load, "digits", tmp_path)
    for name, file in [
        ("mnist", "train-images-idx3-ubyte"),
        ("cifar10", "data_batch_1.bin"),
        ("cifar100", "train.bin"),
        ("svhn", "train_32x32.mat"),
    ]:
        assert f"dataset {name!r} needs a folder with {file}" in refusal(datasets.load, name)
        assert f"{tmp_path / 'none'}: no such folder" in refusal(
            datasets.load, name, tmp_path / "none"
        )
        message = refusal(datasets.load, name, tmp_path)
        assert message.startswith(f"{tmp_path}: holds no {name} files") and file in message


def test_names_are_what_load_knows():
    assert datasets.NAMES == ("digits", "mnist", "cifar10", "cifar100", "svhn", "npz", "folder")


def test_describe_lists_every_file_with_its_records_or_its_problem(tmp_path):
    write_mnist_pair(tmp_path, "", 6)
    write_cifar10(tmp_path)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(3000))
    (tmp_path / "data_batch_5.bin").unlink()
    write_svhn(tmp_path / "test_32x32.mat", 4)
    (tmp_path / "notes.txt").write_text("not a data set")
    found = {check.files[0].name: check for check in datasets.describe(tmp_path)}
    assert [
        (check.dataset, check.split, check.records)
        for check in found.values()
        if check.problem is None
    ] == [
        ("mnist", "train+test", 6),
        ("cifar10", "train", 3),
        ("cifar10", "train", 3),
        ("cifar10", "train", 3),
        ("cifar10", "test", 3),
        ("svhn", "test", 4),
    ]
    assert [file.name for file in found["images-idx3-ubyte"].files] == [
        "images-idx3-ubyte",
        "labels-idx1-ubyte",
    ]
    assert "3,000 bytes is not a multiple" in found["data_batch_2.bin"].problem
    assert "data_batch_5.bin: missing" in found["data_batch_5.bin"].problem
    assert "train_32x32.mat: missing" in found["train_32x32.mat"].problem
    assert len(found) == 9


def test_describe_reports_pairs_it_cannot_choose_between(tmp_path):
    write_mnist_pair(tmp_path, "a-", 5)
    write_mnist_pair(tmp_path, "b-", 5)
    (check,) = datasets.describe(tmp_path)
    assert (check.dataset, check.split, check.files, check.records) == ("mnist", "", (tmp_path,), 0)
    assert "leave one pair" in check.problem


def test_describe_of_a_folder_without_data_sets_is_empty_and_of_no_folder_is_refused(tmp_path):
    assert datasets.describe(tmp_path) == []
    assert "no such folder" in refusal(datasets.describe, tmp_path / "none")


def test_a_folder_that_may_not_be_listed_is_refused(tmp_path, monkeypatch):
    def forbidden(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(tmp_path), "iterdir", forbidden)
    assert f"cannot read {tmp_path}: Permission denied" in refusal(datasets.mnist, tmp_path)
