"""One way to open files: what is no regular file, too large, a bomb or a lie is refused at once."""

import io
import os
import struct
import zipfile
import zlib

import numpy as np
import pytest

from fxsim import Format, InputError, Tensor
from fxsim.analysis.statistics import Statistics
from fxsim.datasets import read_idx
from fxsim.datasets.cifar import read_cifar
from fxsim.datasets.mat import read_svhn
from fxsim.experiment import results
from fxsim.experiment.settings import Settings, read_toml
from fxsim.files import MOST_TEXT, open_regular, parse_npy, read_arrays, read_json, read_text
from fxsim.golden.manifest import Manifest
from fxsim.nn.precision import PrecisionAssignment
from fxsim.train import checkpoint

READERS = {
    "images-idx3-ubyte": lambda path: read_idx(path, 3),
    "images-idx3-ubyte.gz": lambda path: read_idx(path, 3),
    "data_batch_1.bin": lambda path: read_cifar(path, {"label": 10}),
    "test_32x32.mat": read_svhn,
    "codes.mem": lambda path: Tensor.from_mem(path, Format(8, 0), (6, 10)),
    "codes.npy": lambda path: Tensor.from_npy(path, Format(8, 0)),
    "experiment.toml": read_toml,
    "experiment.json": Settings.load,
    "assignment.json": PrecisionAssignment.load,
    "results.json": lambda path: results.read_results(path.parent),
    "curves.csv": lambda path: results.write_curves(path.parent, {"FL": []}),
    "float.npz": read_arrays,
    "statistics.npz": Statistics.load,
    "checkpoint-FL.npz": checkpoint.read,
    "manifest.json": lambda path: Manifest.load(path.parent),
}


def refusal(read, path):
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert len(message) <= 300 and message.isprintable()
    assert message.count(str(path)) == 1
    return message


@pytest.mark.parametrize("name", READERS)
def test_no_reader_waits_for_a_pipe(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert "is a device, a pipe or a socket" in refusal(READERS[name], tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_no_reader_reads_a_device(tmp_path, name):
    (tmp_path / name).symlink_to("/dev/zero")
    assert "is a device, a pipe or a socket" in refusal(READERS[name], tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_a_file_of_any_size(tmp_path, name):
    """A file of 8 GiB that takes no place on the disk."""
    with open(tmp_path / name, "wb") as file:
        file.truncate(2**33)
    assert "8,589,934,592 bytes, more than" in refusal(READERS[name], tmp_path / name)


@pytest.mark.parametrize("name", READERS)
def test_no_reader_reads_a_folder(tmp_path, name):
    (tmp_path / name).mkdir()
    assert "Is a directory" in refusal(READERS[name], tmp_path / name)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(InputError, match="no file can have this name"):
        read_text(name)


def test_a_message_has_no_control_characters_and_a_length(tmp_path):
    with pytest.raises(InputError) as caught:
        read_text(tmp_path / "a\nb\x1b[2J")
    assert r"a\nb\x1b[2J: No such file" in str(caught.value)
    with pytest.raises(InputError, match="File name too long; check the path") as caught:
        read_text("x" * 5000)
    assert len(str(caught.value)) <= 300


def test_text_is_bounded_and_may_begin_with_a_mark(tmp_path):
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(tmp_path / "x.json") == [1]
    (tmp_path / "x.json").write_bytes(b" " * (MOST_TEXT + 1))
    assert "bytes, more than" in refusal(read_json, tmp_path / "x.json")


def test_the_body_s_own_errors_pass(tmp_path):
    (tmp_path / "x").write_bytes(b"x")
    with pytest.raises(ValueError, match="mine"), open_regular(tmp_path / "x"):
        raise ValueError("mine")


def npy(array, **changes):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {**np.lib.format.header_data_from_array_1_0(array), **changes}
    )
    return file.getvalue() + array.tobytes()


ARRAYS = [
    np.zeros((0, 3)),
    np.array(3),
    np.arange(12).reshape(3, 4),
    np.array(["a", "bc"]),
    np.array("x"),
    np.arange(3, dtype=">f4"),
    np.array(["é", "bc"]).astype(">U2"),
]


@pytest.mark.parametrize("array", ARRAYS, ids=str)
def test_an_array_is_read_as_numpy_wrote_it(array, tmp_path):
    found = parse_npy(npy(array), "x")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert found.flags.writeable
    columns = np.arange(12).reshape(3, 4).T
    np.save(tmp_path / "x.npy", columns)
    np.testing.assert_array_equal(parse_npy((tmp_path / "x.npy").read_bytes(), "x"), columns)


NUMBERS = np.arange(3)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (npy(NUMBERS)[:-1], "takes 24 bytes, and 23 follow its header"),
        (npy(NUMBERS) + b"x", "takes 24 bytes, and 25 follow its header"),
        (npy(NUMBERS, shape=(10**9, 10**9)), "bytes, and 24 follow"),
        (npy(NUMBERS, shape=(10**30,)), "bytes, and 24 follow"),
        (npy(NUMBERS, shape=(-3, -1)), "bytes, and 24 follow"),
        (npy(NUMBERS, shape=(1,) * 69 + (3,)), "has 70 axes, more than arrays have"),
        (npy(NUMBERS, descr="|O"), "holds Python objects"),
        (npy(NUMBERS, descr="<U0"), "holds Python objects or nothing"),
        (npy(NUMBERS, descr="\\d"), "its header is damaged"),
        (npy(np.array([1, 0x110000], "<u4"), descr="<U1"), "characters that are none"),
        (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "its header is damaged"),
        (b"", "its header is damaged"),
    ],
)
def test_an_array_that_is_none(data, told):
    with pytest.raises(InputError, match=told):
        parse_npy(data, "x")


def test_an_npz_of_anything_else(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.zeros(10**6))
    assert "is compressed" in refusal(read_arrays, path)
    for name in ("a.npy", "notes.txt", "notes"):
        np.savez(path, a=NUMBERS)
        with zipfile.ZipFile(path, "a") as archive:
            if name == "a.npy":
                with pytest.warns(UserWarning, match="Duplicate name"):
                    archive.writestr(name, npy(NUMBERS))
            else:
                archive.writestr(name, b"x")
        assert "is no array, or is there twice" in refusal(read_arrays, path)
    np.savez(path, a=np.array([1j]))
    assert "'a' holds complex128, no numbers or texts" in refusal(read_arrays, path)


def test_what_inflates_to_more_is_refused_before(tmp_path):
    """The header of 4 GiB of pixels, with few bytes behind it."""
    path = tmp_path / "test_32x32.mat"
    elements = struct.pack("<IIII", 6, 8, 9, 0) + struct.pack("<IIiiii", 5, 16, 32, 32, 3, 2**20)
    elements += struct.pack("<HHI", 1, 1, ord("X")) + struct.pack("<II", 2, 3 * 2**30)
    packed = zlib.compress(struct.pack("<II", 14, len(elements) + 3 * 2**30) + elements)
    labels = struct.pack("<IIII", 6, 8, 9, 0) + struct.pack("<IIii", 5, 8, 2**20, 1)
    labels += struct.pack("<HHI", 1, 1, ord("y")) + struct.pack("<II", 2, 2**20) + bytes(2**20)
    others = zlib.compress(struct.pack("<II", 14, len(labels)) + labels)
    path.write_bytes(
        b"MATLAB 5.0".ljust(124)
        + b"\x00\x01IM"
        + b"".join(struct.pack("<II", 15, len(each)) + each for each in (packed, others))
    )
    assert "X takes 3,221,225,5" in refusal(read_svhn, path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a." * 100_000 + "a = 1", "nested too deep"),
        ("a = " + "[" * 40 + "]" * 40, "nested too deep"),
        ("a = " + "[" * 5000 + "]" * 5000, "nested too deep"),
        ("learning_rate = nan", "'nan' is no finite number"),
        ("learning_rate = 1e999", "'1e999' is no finite number"),
        ("seed = 1" + "0" * 5000, "has too many digits"),
        ("seed = 1\nseed = 2", "not valid TOML"),
    ],
)
def test_settings_that_are_none(tmp_path, text, told):
    (tmp_path / "x.toml").write_text(text)
    assert told in refusal(read_toml, tmp_path / "x.toml")


def test_curves_of_somebody_else_are_not_overwritten(tmp_path):
    path = tmp_path / "curves.csv"
    header = ",".join(results.COLUMNS)
    for content in ("epoch,loss\n1,2\n", f"{header}\nFL,1\n", f'{header}\n"', ""):
        path.write_text(content)
        with pytest.raises(InputError, match="is no file of curves of fxsim"):
            results.write_curves(tmp_path, {"FL": []})
        assert path.read_text() == content
