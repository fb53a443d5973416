"""Vectors: what is written, that it is the step that was trained, and that no bad dump passes."""

import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.golden_steps import NETWORKS, golden_step

from fxsim.cli.parser import parse
from fxsim.cli.vectors import run_vectors
from fxsim.datasets import load
from fxsim.errors import InputError
from fxsim.experiment.replay import replay
from fxsim.experiment.settings import Settings
from fxsim.experiment.stages import Experiment
from fxsim.experiment.training import TrainingSetup
from fxsim.factors import LearningRate
from fxsim.formats import Format
from fxsim.golden.capture import capture
from fxsim.golden.check import check
from fxsim.golden.export import Vectors, encode, write_vectors
from fxsim.golden.header import to_header
from fxsim.golden.manifest import Manifest
from fxsim.memfile import from_hex, to_hex
from fxsim.nn.fixed.network import FixedNetwork
from fxsim.nn.init import initial_parameters
from fxsim.nn.layer_precision import LayerPrecision, accumulator_format
from fxsim.nn.networks import cifar10_convnet
from fxsim.nn.precision import PrecisionAssignment
from fxsim.nn.spec import Network
from fxsim.rng import Stream
from fxsim.train.learners import FixedLearner
from fxsim.train.loop import TrainingPlan, train


def plain(value, bits):
    """Two's complement hexadecimal, by Python alone."""
    return f"{value % 2**bits:0{-(-bits // 4)}x}"


@given(st.integers(1, 64), st.booleans(), st.data())
def test_memory_files_hold_two_s_complement_and_read_back(bits, signed, data):
    format = Format(min(bits, 63) if not signed else bits, 0, signed)
    codes = data.draw(st.lists(st.integers(format.min_code, format.max_code), max_size=5))
    array = np.array(codes, format.dtype)
    written = to_hex(array, format.bits)
    assert written.decode().split() == [plain(code, format.bits) for code in codes]
    assert from_hex(written, format, len(codes), "x").tolist() == codes


def test_what_writememh_writes_is_read():
    codes = np.arange(-10, 10, dtype=np.int16)
    lines = [plain(int(code), 9) for code in codes]
    icarus = (
        "// 0x00000000\n"
        + "\n".join(lines[:16])
        + "\n// 0x00000010\n"
        + "\n".join(lines[16:])
        + "\n"
    )
    for text in (
        icarus,
        "@0\n" + "\n".join(lines[:4]) + "\n@4\n" + "\n".join(lines[4:]),
        " ".join(lines).upper(),
        "/* a */" + "\r\n".join(lines),
        "\n".join(line.lstrip("0") or "0" for line in lines) + "\n",
        "\n".join(f"{line[:1]}_{line[1:]}// {line}" for line in lines),
        "@4 " + " ".join(lines[4:]) + "\n@0 " + " ".join(lines[:4]),
    ):
        assert from_hex(text.encode(), Format(9, 0), 20, "x").tolist() == codes.tolist()


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "0 codes, fewer than the 3 of the tensor"),
        ("1ff\n000\n", "2 codes, fewer than the 3 of the tensor"),
        ("1ff\n000\n001\n002\n", "4 codes, more than the 3 of the tensor"),
        ("1ff\n0000\n01\n", "line 2, column 1: '0000' has more than 3 hexadecimal digits"),
        ("1ff\n00\n1", "line 3, column 1: the file ends within '1'"),
        ("1ff\n_00\n001\n", "line 2, column 1: '_00' is not hexadecimal"),
        ("1ff\nxxx\n001\n", "line 2, column 1: 'xxx' is not hexadecimal (undriven"),
        ("1ff\n001\n0z1\n", "line 3, column 1: '0z1' is not hexadecimal (undriven"),
        ("1ff\n0g1\n001\n", "'0g1'"),
        ("-ff\n001\n001\n", "line 1, column 1: '-' is no digit"),
        ("3ff\n000\n001\n", "codes have bits beyond the format's 9, the first is number 0: 3ff"),
        ("@1\n1ff\n000\n001\n", "line 4, column 1: address 3 is beyond the tensor"),
        ("1ff\n000\n@5\n001\n", "line 4, column 1: address 5 is beyond the tensor"),
        ("1ff\n0 0\n001\n", "4 codes, more than the 3 of the tensor"),
        ("0//c\n1\n0\n5\n", "4 codes, more than the 3 of the tensor"),
        ("1ff\n/* 000\n001\n", "line 2, column 1: a comment has no end"),
        ("1ff 0\x0100 001", "line 1, column 6: '\\x01' is no digit"),
    ],
)
def test_a_malformed_memory_file_is_an_error(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        from_hex(text.encode(), Format(9, 0), 3, "x.mem")


@given(st.lists(st.integers(-(2**61), 2**61), min_size=1, max_size=40))
def test_headers_hold_the_codes(codes):
    text = to_header(
        "conv1.preactivations", np.array(codes), Format(63, 4), "conv1_preactivations"
    ).decode()
    assert [
        int(number) for number in text.partition("{")[2].partition("}")[0].split(",")[:-1]
    ] == codes
    assert f"#define FXSIM_CONV1_PREACTIVATIONS_DIM0 {len(codes)}\n" in text
    assert (
        "static const int64_t fxsim_conv1_preactivations[FXSIM_CONV1_PREACTIVATIONS_SIZE]" in text
    )


def test_a_c_compiler_takes_the_headers(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler (cc)")
    golden = golden_step(layers=["d"])
    write_vectors(golden, tmp_path, ("c", "npy"))
    names = sorted(golden.codes)
    lines = [f'#include "{name}.h"' for name in names] + ["#include <stdio.h>", "int main(void) {"]
    for name in names:
        identifier = "fxsim_" + name.replace(".", "_")
        lines.append(
            f"{{ long long sum = 0; for (int i = 0; i < {identifier.upper()}_SIZE; i++)"
            f' sum += (i + 1) * (long long){identifier}[i]; printf("%lld\\n", sum); }}'
        )
    (tmp_path / "main.c").write_text("\n".join([*lines, "return 0; }"]))
    subprocess.run(
        [compiler, "-std=c99", "-Wall", "-Werror", "-o", "main", "main.c"], cwd=tmp_path, check=True
    )
    printed = subprocess.run(
        ["./main"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    weighted = [
        int(
            np.arange(1, golden.codes[name].size + 1)
            @ golden.codes[name].reshape(-1).astype(np.int64)
        )
        for name in names
    ]
    assert [int(line) for line in printed.split()] == weighted


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write_vectors(golden_step(), folder, ("mem", "hex", "npy", "c"))
    return folder


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_step_gives_the_same_bytes(vectors, tmp_path):
    write_vectors(golden_step(), tmp_path, ("mem", "hex", "npy", "c"))
    assert files_of(tmp_path) == files_of(vectors)
    write_vectors(golden_step(), tmp_path, ("mem", "hex", "npy", "c"))
    assert files_of(tmp_path) == files_of(vectors)


def test_another_export_into_the_folder_leaves_nothing_of_the_first(vectors, tmp_path):
    shutil.copytree(vectors, tmp_path / "vectors")
    manifest = write_vectors(golden_step(layers=["d"]), tmp_path / "vectors", ("mem",))
    written = {f"{entry.name}.mem" for entry in manifest.tensors}
    assert set(files_of(tmp_path / "vectors")) == written | {"manifest.json"}


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("all I have")
    with pytest.raises(InputError, match="is not empty and holds no vectors"):
        write_vectors(golden_step(), tmp_path)
    assert files_of(tmp_path) == {"thesis.txt": b"all I have"}


def test_the_manifest_is_plain_data_that_reads_back(vectors):
    data = json.loads((vectors / "manifest.json").read_text())
    manifest = Manifest.load(vectors)
    assert manifest.to_dict() == data
    assert (data["step"], data["seed"], data["batch"]) == (3, 5, 3)
    assert data["learning_rate"] == {"mantissa": 39322, "exponent": -17, "real": 39322 / 2**17}
    assert set(data["versions"]) == {"fxsim", "numpy", "numba"}
    assert manifest.network == NETWORKS["max pool"]
    for row in data["tensors"]:
        for file in row["files"].values():
            assert (
                hashlib.sha256((vectors / file["name"]).read_bytes()).hexdigest() == file["sha256"]
            )
        assert set(row["files"]) == {"mem", "hex", "npy", "c"}


def test_every_kind_of_file_holds_the_same_codes(vectors):
    golden = golden_step()
    for entry in Manifest.load(vectors).tensors:
        codes = golden.codes[entry.name]
        assert np.array_equal(np.load(vectors / f"{entry.name}.npy"), codes)
        assert (vectors / f"{entry.name}.mem").read_bytes() == (
            vectors / f"{entry.name}.hex"
        ).read_bytes()
        lines = (vectors / f"{entry.name}.mem").read_text().split()
        assert lines == [plain(int(code), entry.format.bits) for code in codes.reshape(-1)]


def test_the_tensors_are_those_of_the_step_in_data_flow_order():
    network = NETWORKS["max pool"]
    names = [entry.name for entry in golden_step().manifest.tensors]
    assert names == [
        *(
            f"{layer}.{tensor}"
            for layer in ("c1", "c2", "d")
            for tensor in (
                "activations",
                "weights",
                "bias",
                "preactivations",
                "relu_mask",
                "logits",
                "labels",
            )
            if (tensor in ("logits", "labels")) <= (layer == "d")
            and (tensor != "relu_mask" or layer != "d")
        ),
        *(
            f"{layer}.{tensor}"
            for layer in reversed(network.names)
            for tensor in ("activation_grads", "preactivation_grads", "weight_grads", "bias_grads")
        ),
        *(
            f"{layer}.{tensor}"
            for layer in network.names
            for tensor in (
                "accumulators_before",
                "updates",
                "updated_weights",
                "accumulators",
                "bias_accumulators_before",
                "bias_updates",
                "updated_bias",
                "bias_accumulators",
            )
        ),
    ]


def test_inputs_and_results_are_told_apart():
    inputs = {entry.name for entry in golden_step().manifest.tensors if entry.role == "input"}
    given = ("weights", "bias", "accumulators_before", "bias_accumulators_before")
    assert inputs == {"c1.activations", "d.labels"} | {
        f"{layer}.{tensor}" for layer in ("c1", "c2", "d") for tensor in given
    }


def test_the_exact_sums_have_the_stated_bits():
    golden = golden_step()
    entry = golden.manifest.entry("c1.preactivations")
    assert entry.accumulator.bits == entry.format.bits
    assert entry.accumulator.terms == 2 * 9 + 1
    assert entry.accumulator.order == "input channel, kernel row, kernel column, then the bias"
    assert golden.manifest.entry("c1.weight_grads").accumulator.terms == 3 * 6 * 6
    assert golden.manifest.entry("c1.activation_grads").accumulator.terms == 5 * 2 * 2
    assert golden.manifest.entry("c2.bias_grads").accumulator.terms == 3 * 2 * 2


def test_random_words_are_exported_where_rounding_is_stochastic():
    golden = golden_step(rounding={"activations": "stochastic", "accumulators": "stochastic_equal"})
    names = {entry.name for entry in golden.manifest.tensors if "random_words" in entry.name}
    assert names == {"c2.activations_random_words", "d.activations_random_words"} | {
        f"{layer}.accumulators_random_words" for layer in ("c1", "c2", "d")
    }
    assert np.array_equal(
        golden.codes["c2.activations_random_words"],
        Stream(5, 3, "c2.activations").words((3, 6, 6, 3)),
    )


def test_chosen_layers_come_with_their_inputs_and_outputs():
    names = {entry.name for entry in golden_step(layers=["c2"]).manifest.tensors}
    assert {
        "c2.activations",
        "d.activations",
        "c2.activation_grads",
        "c1.activation_grads",
    } <= names
    assert not {"c1.weights", "d.weights", "d.preactivations", "c1.preactivations"} & names
    with pytest.raises(InputError, match="did you mean 'c2'"):
        golden_step(layers=["c2x"])


def test_capturing_does_not_change_the_step():
    captured = golden_step().manifest.fingerprints
    assert captured == golden_step(layers=["d"]).manifest.fingerprints
    assert captured["before"] != captured["after"]


def digits_assignment(network):
    weights = Format(8, 0)
    bias = Format(12, 0)
    row = LayerPrecision(
        weights=weights,
        activations=Format(6, 1, False),
        activation_grads=Format(10, -3),
        weight_grads=Format(10, -2),
        accumulators=accumulator_format(weights, -16),
        bias=bias,
        bias_grads=Format(10, -1),
        bias_accumulators=accumulator_format(bias, -16),
    )
    return PrecisionAssignment(network.name, dict.fromkeys(network.names, row))


DIGITS = {
    "network": "digits-convnet",
    "width": 0.25,
    "epochs": 2,
    "batch": 256,
    "drops": [1],
    "seed": 4,
}


@pytest.mark.parametrize(
    "augmentation", [{}, {"flip": True, "crop": 1}], ids=["plain", "augmented"]
)
def test_a_replayed_step_is_the_step_of_the_training_run(augmentation):
    settings = Settings.make(**DIGITS, held_out=0, **augmentation)
    network = settings.build_network()
    dataset = load("digits", None)
    assignment = digits_assignment(network)
    fixed = FixedNetwork(network, assignment, initial_parameters(network, 4), seed=4)
    fingerprints = [fixed.fingerprint()]
    learner = FixedLearner(fixed, dataset.pixel_max)
    batch = settings.batch
    plan = TrainingPlan(dataset, settings.schedule(), batch, 4, settings.augmentation())
    train(learner, plan, report=lambda *_: fingerprints.append(fixed.fingerprint()))
    setup = TrainingSetup.of(settings)
    for step in (0, 1, len(fingerprints) - 2):
        golden = replay(setup, assignment, step)
        assert golden.manifest.fingerprints == {
            "before": fingerprints[step],
            "after": fingerprints[step + 1],
        }
        assert golden.manifest.step == step
    with pytest.raises(InputError, match=f"step must be 0 to {len(fingerprints) - 2} "):
        replay(setup, assignment, len(fingerprints) - 1)


def dump_of(vectors, folder, kind="mem"):
    """A device's dump that is right in every code."""
    suffix = {"mem": ".mem", "hex": ".hex", "npy": ".npy"}[kind]
    folder.mkdir(exist_ok=True)
    for entry in Manifest.load(vectors).tensors:
        if entry.role == "result":
            shutil.copy(vectors / (entry.name + suffix), folder)
    return folder


def rewrite(vectors, dump, name, change):
    """`change` (on the golden codes, int64) as the dump of one tensor."""
    source = Vectors(vectors)
    entry = source.manifest.entry(name)
    codes = change(source.codes(name).astype(np.int64))
    (dump / f"{name}.mem").write_bytes(encode("mem", name, codes, entry))


@pytest.mark.parametrize("kind", ["mem", "hex", "npy"])
def test_equal_dumps_pass(vectors, tmp_path, kind):
    report = check(vectors, dump_of(vectors, tmp_path / "dump", kind))
    results = [entry for entry in Manifest.load(vectors).tensors if entry.role == "result"]
    codes = sum(int(np.prod(entry.shape)) for entry in results)
    assert report.passed
    assert report.text() == f"equal: {codes} codes of {len(results)} tensors of step 3"


def test_the_first_divergence_in_the_data_flow_is_told(vectors, tmp_path):
    dump = dump_of(vectors, tmp_path / "dump")

    def spoil(codes):
        codes = codes.copy()
        codes[1, 0, 1, 2] += 2
        codes[2, 0, 0, 0] -= 1
        return codes

    rewrite(vectors, dump, "c2.weight_grads", lambda codes: codes ^ 1)
    rewrite(vectors, dump, "c2.preactivations", spoil)
    report = check(vectors, dump)
    source = Vectors(vectors)
    wanted = int(source.codes("c2.preactivations")[1, 0, 1, 2])
    format = source.manifest.entry("c2.preactivations").format
    lines = report.text().splitlines()
    assert not report.passed
    assert lines[0].startswith("MISMATCH at step 3, layer c2, tensor preactivations (number 9 of ")

    def told(code):
        return f"{code} (0x{plain(code, format.bits)}, {code * format.step:.9g})"

    assert (
        lines[1] == f"first at index (1, 0, 1, 2) of (N,H,W,C): got {told(wanted + 2)}, wanted "
        f"{told(wanted)}"
    )
    assert lines[2] == "2 of 60 codes differ (3.33 %); got - wanted in codes: -1 (1x), +2 (1x)"
    assert lines[3].startswith("no single change of semantics of ")
    assert lines[4:] == [
        f"1 more file of the {report.tensors} tensors compared differs, later in the data flow:",
        "  c2.weight_grads: 60 of 60 codes",
    ]


def test_an_input_that_was_dumped_is_compared_too(vectors, tmp_path):
    dump = dump_of(vectors, tmp_path / "dump")
    rewrite(vectors, dump, "c1.weights", lambda codes: codes)
    assert check(vectors, dump).passed
    rewrite(vectors, dump, "c1.weights", lambda codes: codes[::-1])
    report = check(vectors, dump)
    assert [mismatch.entry.name for mismatch in report.mismatches] == ["c1.weights"]


def test_chosen_tensors_and_single_files(vectors, tmp_path):
    dump = dump_of(vectors, tmp_path / "dump")
    assert check(vectors, dump, ["c2.*grads"]).tensors == 4
    assert check(vectors, dump / "c2.preactivations.mem", ["c2.preactivations"]).passed
    copied = shutil.copy(dump / "c2.preactivations.mem", tmp_path / "out.txt")
    assert check(vectors, copied, ["c2.preactivations"]).passed
    with pytest.raises(InputError, match="is one file; name its tensor"):
        check(vectors, dump / "c2.preactivations.mem")
    with pytest.raises(InputError, match="did you mean 'c2.preactivations'"):
        check(vectors, dump, ["c2.preactivation"])


def test_a_missing_dump_is_an_error(vectors, tmp_path):
    dump = dump_of(vectors, tmp_path / "dump")
    (dump / "c2.preactivations.mem").unlink()
    with pytest.raises(InputError, match="lacks 1 tensor: c2.preactivations "):
        check(vectors, dump)
    with pytest.raises(InputError, match="does not exist"):
        check(vectors, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lacks \d+ tensors: c1.preactivations, "):
        (tmp_path / "empty").mkdir()
        check(vectors, tmp_path / "empty")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-5],
        lambda text: text + text[:5],
        lambda text: "x" + text[1:],
        lambda text: "",
        lambda text: "0" + text,
        lambda text: text.replace("\n", "", 1),
        lambda text: "\0" * len(text),
    ],
)
def test_a_spoilt_dump_is_an_error_and_never_a_pass(vectors, tmp_path, spoil):
    dump = dump_of(vectors, tmp_path / "dump")
    path = dump / "c2.preactivations.mem"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match="c2.preactivations.mem"):
        check(vectors, dump)


@pytest.mark.parametrize(
    "array, message",
    [
        (np.zeros((3, 2, 2, 5)), "float64; dump integer codes"),
        (
            np.zeros((3, 5, 2, 2), np.int64),
            r"has shape \(3, 5, 2, 2\), the manifest says \(3, 2, 2, 5\)",
        ),
        (np.full((3, 2, 2, 5), 2**40), "outside the"),
    ],
)
def test_an_array_that_does_not_fit_is_an_error(vectors, tmp_path, array, message):
    dump = dump_of(vectors, tmp_path / "dump", "npy")
    np.save(dump / "c2.preactivations.npy", array)
    with pytest.raises(InputError, match=message):
        check(vectors, dump)


def test_pickled_arrays_are_refused(vectors, tmp_path):
    dump = dump_of(vectors, tmp_path / "dump", "npy")
    np.save(dump / "c2.preactivations.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="holds Python objects"):
        check(vectors, dump)


def test_vectors_that_were_changed_are_an_error(vectors, tmp_path):
    changed = tmp_path / "vectors"
    shutil.copytree(vectors, changed)
    np.save(changed / "c2.preactivations.npy", np.load(changed / "c2.preactivations.npy") + 1)
    with pytest.raises(InputError, match="is not the file that was exported"):
        check(changed, dump_of(vectors, tmp_path / "dump"))


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda data: data.update(kind="other"), "the manifest is no file of kind 'fxsim vectors'"),
        (lambda data: data.update(version=99), "version 99"),
        (lambda data: data.pop("tensors"), "damaged"),
        (
            lambda data: data["tensors"][0]["files"]["npy"].update(name="../../x.npy"),
            "must be letters, digits",
        ),
        (lambda data: data["tensors"][0].update(rounding="round"), "rounding 'round' is unknown"),
        (lambda data: data["tensors"][0]["format"].update(bits=99), "bits must be"),
    ],
)
def test_a_damaged_manifest_is_an_error(vectors, tmp_path, spoil, message):
    data = json.loads((vectors / "manifest.json").read_text())
    spoil(data)
    (tmp_path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        check(tmp_path, tmp_path)


def command(*argv):
    return run_vectors(parse(["vectors", *map(str, argv)]))


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A folder as `fxsim run` leaves it, as far as an export reads it."""
    folder = tmp_path_factory.mktemp("run")
    settings = Settings.make(**DIGITS)
    settings.save(folder / "experiment.json")
    identity = Experiment(settings, folder).setup.identity
    digits_assignment(settings.build_network()).save(folder / "assignment.json", identity)
    return folder


def test_the_command_line_exports_and_checks(experiment, tmp_path, capsys):
    out = tmp_path / "vectors"
    assert (
        command(
            "export",
            "--run",
            experiment,
            "--step",
            2,
            "--layers",
            "conv2",
            "--batch",
            4,
            "--out",
            out,
            "--files",
            "mem",
        )
        == 0
    )
    assert Manifest.load(out).step == 2
    assert "step 2 of digits-convnet" in capsys.readouterr().out
    assert command("check", out, out) == 0
    assert capsys.readouterr().out.startswith("equal: ")
    dump = dump_of(out, tmp_path / "dump")
    assert command("check", out, dump, "--tensor", "conv2.weight_grads") == 0
    rewrite(out, dump, "conv2.updates", lambda codes: codes + 1 - 2 * (codes > 0))
    assert command("check", out, dump) == 1
    assert "MISMATCH at step 2, layer conv2, tensor updates" in capsys.readouterr().out


def test_an_export_without_an_experiment_needs_an_assignment(experiment, tmp_path):
    with pytest.raises(InputError, match="holds no experiment"):
        command("export", "--run", tmp_path / "none", "--out", tmp_path / "vectors")
    with pytest.raises(InputError, match="needs --assignment"):
        command("export", "--network", "digits-convnet", "--out", tmp_path / "vectors")
    with pytest.raises(InputError, match="kind of file 'vhd' is unknown"):
        command("export", "--run", experiment, "--files", "vhd", "--out", tmp_path / "vectors")


def test_a_stated_network_and_assignment_are_enough(tmp_path):
    network = Settings.make(network="digits-convnet").build_network()
    digits_assignment(network).save(tmp_path / "a.json")
    assert (
        command(
            "export",
            "--network",
            "digits-convnet",
            "--assignment",
            tmp_path / "a.json",
            "--batch",
            2,
            "--seed",
            9,
            "--layers",
            "fc2",
            "--out",
            tmp_path / "vectors",
        )
        == 0
    )
    assert Manifest.load(tmp_path / "vectors").seed == 9


@pytest.mark.slow
def test_a_convnet_step_at_batch_4_takes_seconds(tmp_path):
    """2x(64C3) - MP2 - 2x(128C3) - MP2 - 2x(256C3) - 2x(512FC) - 10 without batch norm."""
    plain_layers = [
        dataclasses.replace(layer, batch_norm=False) for layer in cifar10_convnet().layers
    ]
    network = Network("convnet", (32, 32, 3), tuple(plain_layers))
    fixed = FixedNetwork(network, digits_assignment(network), initial_parameters(network, 0))
    random = np.random.default_rng(0)
    images = random.integers(0, 64, (4, 32, 32, 3))
    labels = random.integers(0, 10, 4)
    fixed.train_step(images, labels, LearningRate.of(0.1), 0)
    start = time.perf_counter()
    write_vectors(capture(fixed, images, labels, LearningRate.of(0.1), 1), tmp_path / "vectors")
    exported = time.perf_counter()
    dump = dump_of(tmp_path / "vectors", tmp_path / "dump")
    rewrite(tmp_path / "vectors", dump, "conv2.weight_grads", lambda codes: codes ^ 1)
    began = time.perf_counter()
    assert not check(tmp_path / "vectors", dump).passed
    checked = time.perf_counter()
    assert exported - start < 10
    assert checked - began < 10
