"""Bad input ends in one line on standard error, exit code 2 and nothing written."""

import gzip
import json
import struct

import numpy as np
import pytest

from fxsim.cli import parser as cli
from fxsim.files import read_arrays, write_arrays

SMALL = ("--epochs", "4", "--width", "0.5")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The float run, its statistics and its assignment."""
    out = tmp_path_factory.mktemp("float") / "out"
    for command in (["train", *SMALL], ["analyze"], ["assign"]):
        assert cli.main([*command, "--out", str(out)]) == 0
    return out


@pytest.fixture
def copy(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail with one line, after those of its progress, that has all
    `parts` in it.
    """

    def check(*arguments, parts=()):
        capsys.readouterr()
        assert cli.main([str(argument) for argument in arguments]) == 2
        output = capsys.readouterr()
        *progress, line = output.err.splitlines()
        assert line.startswith("fxsim: error: ")
        assert [part for part in parts if part not in line] == [], line
        assert [other for other in progress if "rror" in other or "Traceback" in other] == []
        assert output.out == ""

    return check


def test_a_missing_data_folder(refused, tmp_path):
    out = tmp_path / "out"
    refused(
        "run",
        "--dataset",
        "mnist",
        "--data",
        tmp_path / "nowhere",
        "--out",
        out,
        parts=("nowhere", "no such folder"),
    )
    refused("run", "--dataset", "mnist", "--out", out, parts=("'mnist' needs a folder",))
    assert not out.exists()


def test_a_truncated_cifar_file(refused, tmp_path):
    record = bytes(1 + 3072)
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(record * 4)
    (tmp_path / "data_batch_3.bin").write_bytes(record * 4 + record[:100])
    refused(
        "run",
        "--dataset",
        "cifar10",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "out",
        parts=("data_batch_3.bin", "truncated"),
    )
    assert not (tmp_path / "out").exists()


def test_an_idx_file_with_a_wrong_magic_number(refused, tmp_path):
    images = struct.pack(">4sIII", b"\0\0\x0d\3", 2, 28, 28) + bytes(2 * 28 * 28)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
    labels = struct.pack(">4sI", b"\0\0\x08\1", 2) + b"\0\1"
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    refused(
        "train",
        "--dataset",
        "mnist",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "out",
        parts=("train-images-idx3-ubyte.gz", "wrong magic number", "0x00000d03", "0x00000803"),
    )


@pytest.mark.parametrize("entry", ["weights_gain", "lambda_max", "gamma_min"])
def test_statistics_with_nan(entry, refused, copy):
    arrays = read_arrays(copy / "statistics.npz")
    arrays[entry] = np.full_like(arrays[entry], np.nan)
    write_arrays(copy / "statistics.npz", arrays)
    before = (copy / "assignment.json").read_bytes()
    refused("assign", "--out", copy, parts=("statistics.npz", entry, "nan"))
    assert (copy / "assignment.json").read_bytes() == before


def test_statistics_of_another_network(refused, copy):
    arrays = read_arrays(copy / "statistics.npz")
    write_arrays(copy / "statistics.npz", arrays | {"network": np.array("other")})
    refused("assign", "--out", copy, parts=("statistics.npz", "'other'", "'digits-convnet'"))


def test_an_assignment_for_another_network(refused, folder, tmp_path):
    file = folder / "assignment.json"
    refused(
        "cost", "mnist-convnet", "--assignment", file, parts=("'digits-convnet'", "'mnist-convnet'")
    )
    table = json.loads(file.read_text())
    table["layers"]["fc9"] = table["layers"].pop("fc2")
    other = tmp_path / "other.json"
    other.write_text(json.dumps(table))
    refused("train", *SMALL, "--assignment", other, "--out", tmp_path / "out", parts=("fc9", "fc2"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("bits", [0, 40, -3, 7.5, "8", None])
def test_bits_that_no_tensor_can_have(bits, refused, copy):
    table = json.loads((copy / "assignment.json").read_text())
    cell = table["layers"]["conv2"]["weight_grads"]
    cell["bits"] = bits
    del cell["step_exp"], cell["q"]  # these repeat what bits say
    (copy / "assignment.json").write_text(json.dumps(table))
    refused(
        "train",
        "--out",
        copy,
        "--assignment",
        copy / "assignment.json",
        parts=("assignment.json", "weight_grads", repr(bits)),
    )


def test_a_damaged_assignment(refused, copy):
    file = copy / "assignment.json"
    file.write_text("{")
    refused(
        "train", "--out", copy, "--assignment", file, parts=("assignment.json", "not valid JSON")
    )
    file.write_text("[]")
    refused(
        "cost",
        "digits-convnet",
        "--assignment",
        file,
        parts=("is no file of kind 'fxsim precision assignment'",),
    )
    refused(
        "cost",
        "digits-convnet",
        "--assignment",
        copy / "nowhere.json",
        parts=("cannot read", "nowhere.json"),
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (
            ("run", "--network", "digits-convent"),
            ("'digits-convent'", "did you mean 'digits-convnet'?"),
        ),
        (("cost", "cifar-convnet"), ("did you mean 'cifar10-convnet'?",)),
        (("cost", "cifar10-convnet", "--design", "FK"), ("'FK'", "FL, FX, BN, SQ, TG")),
        (("cost", "cifar10-convnet", "--width", "0"), ("width", "above 0")),
        (("cost", "cifar10-convnet", "--width", "inf"), ("width", "at most 64")),
        (("run", "--dataset", "cifra10"), ("did you mean 'cifar10'?",)),
        (
            ("run", "--network", "mnist-convnet", "--dataset", "digits"),
            ("(8, 8, 1)", "(28, 28, 1)"),
        ),
        (("run", "--epochs", "0"), ("epochs must be at least 1",)),
        (("run", "--epochs", "x"), ("--epochs", "'x'", "fxsim run --help")),
        (("run", "--batch", "100000"), ("batch must be 1 to 1294",)),
        (("run", "--learning-rate", "-1"), ("learning rate", "above 0")),
        (("run", "--learning-rate", "nan"), ("learning rate", "nan")),
        (("run", "--seed", str(2**64)), ("seed must be 0 to 2**64 - 1",)),
        (("train", "--only", "weight_grads"), ("--only needs --perturb",)),
        (("run", "--epocs", "3"), ("--epocs",)),
        (("rnu",), ("rnu",)),
        ((), ("COMMAND",)),
    ],
)
def test_arguments_that_do_not_do(arguments, parts, refused, tmp_path):
    out = () if arguments[:1] in ((), ("cost",), ("rnu",)) else ("--out", tmp_path / "out")
    refused(*arguments, *out, parts=parts)
    assert not list(tmp_path.glob("out/*"))


def test_an_output_folder_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").write_text("")
    refused(
        "run",
        "--quick",
        "--out",
        tmp_path / "file" / "below",
        parts=("cannot make the folder", "choose another"),
    )
    refused(
        "run",
        "--quick",
        "--out",
        tmp_path / "file",
        parts=("cannot make the folder", "choose another"),
    )
    assert (tmp_path / "file").read_text() == ""


def test_the_results_of_somebody_else_are_not_overwritten(refused, tmp_path):
    (tmp_path / "results.json").write_text('{"kind": "another tool"}')
    refused("run", *SMALL, "--out", tmp_path, parts=("results.json", "in another folder"))
    assert (tmp_path / "results.json").read_text() == '{"kind": "another tool"}'


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("epocs = 3", ("'epocs'", "did you mean 'epochs'?")),
        ("learning-rate = 0.1", ("did you mean 'learning_rate'?",)),
        ("epochs = '3'", ("epochs must be an integer", "'3'")),
        ("epochs = true", ("epochs must be an integer", "True")),
        ("quick = 1", ("quick must be true or false",)),
        ("drops = [1.5]", ("drops must be a list of integers",)),
        ("drops = [12]", ("drops must lie in 1 to 11",)),
        ("target = 1.5", ("target must lie between 0 and 1",)),
        ("epochs = ", ("not valid TOML",)),
        ("layers = 3", ("layers must be a table",)),
        ("[layers]\nnaem = 'mine'", ("'naem'", "did you mean 'name'?")),
        ("[layers]\nlayer = [{type = 'conv', filter = 3}]", ("did you mean 'filters'?",)),
        ("[layers]\nlayer = [{type = 'cnov'}]", ("did you mean 'conv'?",)),
        ("[layers]\nlayer = 3", ("[layers]",)),
        ("[layers]\nlayer = [{type = 'dense', name = 3, units = 10}]", ("[layers]",)),
        ("network = 'mnist-convnet'\n[layers]\nname = 'mine'", ("'mnist-convnet'", "both")),
    ],
)
def test_a_toml_file_that_does_not_do(text, parts, refused, tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text(text)
    refused("run", file, "--out", tmp_path / "out", parts=parts)
    assert not (tmp_path / "out").exists()


def test_a_toml_file_that_is_not_there(refused, tmp_path):
    refused("run", tmp_path / "experiment.toml", parts=("cannot read", "experiment.toml"))


def test_stages_out_of_order(refused, tmp_path):
    refused(
        "analyze", "--out", tmp_path, parts=("holds no float run", f"fxsim train --out {tmp_path}")
    )
    refused("assign", "--out", tmp_path, parts=("holds no float run",))
    refused("train", "--out", tmp_path, "--perturb", "-1", parts=("assignment.json",))


def test_statistics_that_are_not_there_yet(refused, copy):
    (copy / "statistics.npz").unlink()
    refused("assign", "--out", copy, parts=("statistics.npz", "No such file"))


def test_a_fixed_point_run_has_the_settings_of_its_float_run(refused, copy):
    refused(
        "train", "--out", copy, "--perturb", "-1", "--seed", "5", parts=("experiment.json", "seed")
    )


def test_more_bits_than_there_are(refused, copy):
    refused("train", "--out", copy, "--perturb", "-20", parts=("conv1", "cannot take -20"))
    refused(
        "train",
        "--out",
        copy,
        "--perturb",
        "-1",
        "--only",
        "weight_grad",
        parts=("did you mean 'weight_grads'?",),
    )


@pytest.mark.parametrize("name", ["float.npz", "gradients.npz", "experiment.json"])
def test_a_damaged_float_run(name, refused, copy):
    path = copy / name
    path.write_bytes(path.read_bytes()[:100])
    refused("analyze", "--out", copy, parts=(name,))
    path.unlink()
    refused("analyze", "--out", copy)
