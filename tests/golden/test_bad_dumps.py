"""`fxsim vectors check` ends with code 2 and one line where a dump or the vectors are not what
they should be.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from support.golden_steps import golden_step

from fxsim.cli import parser as cli
from fxsim.formats import Format
from fxsim.golden.export import write_vectors
from fxsim.identity import sealed

NAME = "c2.activation_grads"
BITS = 8
SHAPE = (3, 2, 2, 5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    write_vectors(golden_step(), folder, ("mem", "npy"))
    return folder


@pytest.fixture
def folders(exported, tmp_path):
    """(vectors, a dump of one tensor that is right), to be spoilt."""
    vectors = shutil.copytree(exported, tmp_path / "vectors")
    dump = tmp_path / "dump"
    dump.mkdir()
    shutil.copy(vectors / f"{NAME}.mem", dump)
    return vectors, dump


def refused(capsys, vectors, dump):
    """The one line that the check ends with; it has passed nothing."""
    code = cli.main(["vectors", "check", str(vectors), str(dump), "--tensor", NAME])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("fxsim: error: ")
    assert printed.err.count("\n") == 1
    return printed.err


def test_the_dump_is_right_before_it_is_spoilt(folders, capsys):
    assert cli.main(["vectors", "check", *map(str, folders), "--tensor", NAME]) == 0
    assert capsys.readouterr().out == "equal: 60 codes of 1 tensor of step 3\n"


MEMORY_FILES = {
    "x": (
        lambda lines: ["xx", *lines[1:]],
        "line 1, column 1: 'xx' is not hexadecimal (undriven",
    ),
    "z": (
        lambda lines: [*lines[:-1], "0Z"],
        "line 60, column 1: '0Z' is not hexadecimal (undriven",
    ),
    "too wide": (lambda lines: ["0" + line for line in lines], "has more than 2 hexadecimal"),
    "binary": (
        lambda lines: [f"{int(line, 16):08b}" for line in lines],
        "has more than 2 hexadecimal digits",
    ),
    "decimal with signs": (lambda lines: ["-1", *lines[1:]], "line 1, column 1: '-' is no digit"),
    "short": (lambda lines: lines[:-1], "holds 59 codes, fewer than the 60 of the tensor"),
    "long": (lambda lines: [*lines, "00"], "holds 61 codes, more than the 60 of the tensor"),
    "twice": (lambda lines: 2 * lines, "holds 120 codes, more than"),
    "empty": (lambda lines: [], "holds 0 codes, fewer than"),
    "comments alone": (lambda lines: [f"// {line}" for line in lines], "holds 0 codes, fewer than"),
    "a gap": (
        lambda lines: [*lines[:4], "@5", *lines[4:]],
        "line 61, column 1: address 3c is beyond",
    ),
    "an address twice": (lambda lines: [*lines[:4], "@3", *lines[4:]], "address 3 is given twice"),
    "a control character": (lambda lines: ["\0" + lines[0][1:], *lines[1:]], "'\\x00' is no digit"),
    "an open comment": (lambda lines: ["/*", *lines], "line 1, column 1: a comment has no end"),
    "no number": (lambda lines: ["_" + lines[0][1:], *lines[1:]], "line 1, column 1: '_"),
    "slashes": (lambda lines: ["/" * 10**6 for _ in range(2)], "bytes, more than"),
}


@pytest.mark.parametrize("kind", MEMORY_FILES)
def test_a_spoilt_memory_file(folders, capsys, kind):
    spoil, message = MEMORY_FILES[kind]
    file = folders[1] / f"{NAME}.mem"
    file.write_text("".join(f"{line}\n" for line in spoil(file.read_text().split())))
    assert message in refused(capsys, *folders)


@pytest.mark.parametrize(
    "text",
    [
        "/" * 10**6,
        "/*" * 10**5,
        "*/" * 10**5,
        "/ " * 10**5,
        "//\n" * 10**5,
        "@" * 10**5,
        "_" * 10**6,
        "@0 " * 10**5,
    ],
)
def test_a_memory_file_is_read_in_linear_time(folders, capsys, text):
    """A reader in quadratic time would take minutes for these."""
    (folders[1] / f"{NAME}.mem").write_text(text)
    refused(capsys, *folders)


def test_a_memory_file_that_is_no_text(folders, capsys):
    (folders[1] / f"{NAME}.mem").write_bytes(bytes(range(256)))
    assert f"{NAME}.mem" in refused(capsys, *folders)


ARRAYS = {
    "float": (np.zeros(SHAPE), "holds float64; dump integer codes"),
    "bool": (np.zeros(SHAPE, bool), "holds bool; dump integer codes"),
    "complex": (np.zeros(SHAPE, complex), "holds complex128; dump integer codes"),
    "text": (np.zeros(SHAPE, "U2"), "dump integer codes"),
    "records": (np.zeros(SHAPE, [("code", "i4")]), "dump integer codes"),
    "flat": (np.zeros(60, np.int8), "has shape (60,), the manifest says (3, 2, 2, 5)"),
    "axes in another order": (
        np.zeros((3, 5, 2, 2), np.int8),
        "has shape (3, 5, 2, 2), the manifest says (3, 2, 2, 5)",
    ),
    "short": (np.zeros((2, 2, 2, 5), np.int8), "has shape (2, 2, 2, 5)"),
    "beyond the format": (
        np.full(SHAPE, 128, np.int16),
        "holds codes in [128, 128], outside the 8 bits of the format",
    ),
    "unsigned": (
        np.full(SHAPE, 255, np.uint8),
        "holds codes in [255, 255], outside the 8 bits of the format",
    ),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_that_does_not_fit(folders, capsys, kind):
    array, message = ARRAYS[kind]
    (folders[1] / f"{NAME}.mem").unlink()
    np.save(folders[1] / f"{NAME}.npy", array)
    assert message in refused(capsys, *folders)


def huge_header(data):
    """The array's header with more elements than any memory holds."""
    return data.replace(b"(3, 2, 2, 5), }" + b" " * 20, b"(9999999, 9999999, 9), }" + b" " * 11)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        huge_header,
        lambda data: b"PK" + data,
    ],
    ids=["cut", "header cut", "empty", "huge", "no array"],
)
def test_an_array_file_that_cannot_be_read(folders, capsys, spoil):
    vectors, dump = folders
    (dump / f"{NAME}.mem").unlink()
    data = (vectors / f"{NAME}.npy").read_bytes()
    assert spoil(data) != data
    (dump / f"{NAME}.npy").write_bytes(spoil(data))
    assert f"{NAME}.npy is not an .npy: " in refused(capsys, *folders)


def test_a_right_file_beside_a_wrong_one_does_not_hide_it(folders, capsys):
    vectors, dump = folders
    codes = np.load(vectors / f"{NAME}.npy")
    np.save(dump / f"{NAME}.npy", codes ^ 1)
    assert cli.main(["vectors", "check", str(vectors), str(dump), "--tensor", NAME]) == 1
    assert "60 of 60 codes differ" in capsys.readouterr().out


def test_what_is_missing(folders, capsys):
    vectors, dump = folders
    (dump / f"{NAME}.mem").rename(dump / f"{NAME}.memory")
    assert f"lacks 1 tensor: {NAME} " in refused(capsys, vectors, dump)
    assert "does not exist" in refused(capsys, vectors, dump / "nowhere")
    (dump / f"{NAME}.mem").mkdir()
    assert "cannot read" in refused(capsys, vectors, dump)
    assert "holds no manifest.json" in refused(capsys, dump, dump)
    (vectors / f"{NAME}.npy").unlink()
    shutil.rmtree(dump / f"{NAME}.mem")
    shutil.copy(vectors / f"{NAME}.mem", dump)
    assert "cannot read" in refused(capsys, vectors, dump)


def entry_of(manifest):
    return next(
        entry for entry in manifest["tensors"] if f"{entry['layer']}.{entry['tensor']}" == NAME
    )


def format_of(entry):
    return Format.from_dict(entry["format"])


MANIFESTS = {
    "another file's hash": (
        lambda entry: entry["files"]["npy"].update(sha256="0" * 64),
        "is not the file that was exported",
    ),
    "another file": (
        lambda entry: entry["files"]["npy"].update(name="c2.weights.npy"),
        "is not the file that was exported",
    ),
    "another width": (
        lambda entry: entry.update(format=dataclasses.replace(format_of(entry), bits=4).to_dict()),
        "has more than 1 hexadecimal digits",
    ),
    "a width that contradicts": (lambda entry: entry["format"].update(bits=4), "contradicts"),
    "another shape": (
        lambda entry: entry.update(shape=[3, 2, 5, 2]),
        "has shape (3, 2, 2, 5), the manifest says",
    ),
    "a width of text": (lambda entry: entry["format"].update(bits="8"), "manifest"),
    "no shape": (lambda entry: entry.pop("shape"), "manifest"),
    "an unknown key": (lambda entry: entry.update(key=1), "manifest"),
    "a path upward": (
        lambda entry: entry["files"]["npy"].update(name="../secret.npy"),
        "must be letters, digits",
    ),
    "an absolute path": (
        lambda entry: entry["files"]["npy"].update(name="/etc/passwd"),
        "must be letters, digits",
    ),
    "the parent": (
        lambda entry: entry["files"]["npy"].update(name=".."),
        "must be letters, digits",
    ),
    "a layer outside": (lambda entry: entry.update(layer="../../c2"), "must be letters, digits"),
    "a tensor outside": (
        lambda entry: entry.update(tensor="x/../../grads"),
        "must be letters, digits",
    ),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_was_altered(folders, capsys, kind):
    spoil, message = MANIFESTS[kind]
    path = folders[0] / "manifest.json"
    manifest = json.loads(path.read_text())
    spoil(entry_of(manifest))
    path.write_text(json.dumps(sealed(manifest)))
    assert message in refused(capsys, *folders)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"kind": "fxsim vectors"}', "\0", "NaN"])
def test_a_manifest_that_is_none(folders, capsys, text):
    (folders[0] / "manifest.json").write_text(text)
    assert "manifest" in refused(capsys, *folders)
