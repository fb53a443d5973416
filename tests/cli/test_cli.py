"""The command line, from arguments to files.

Float runs may differ between machines, so no test pins their numbers.
"""

import csv
import dataclasses
import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from support.cli_cases import ENVIRONMENT

import fxsim
from fxsim.analysis.complexity import design_complexity
from fxsim.cli import parser as cli
from fxsim.errors import InputError
from fxsim.experiment.settings import Settings
from fxsim.files import read_arrays
from fxsim.formats import Format
from fxsim.nn.networks import BUILDERS, build
from fxsim.nn.precision import PrecisionAssignment

SMALL = ("--epochs", "4", "--width", "0.5")


HEARING = """
import signal, sys
# children of a background shell ignore interrupts
signal.signal(signal.SIGINT, signal.default_int_handler)
from fxsim.cli import main
sys.exit(main())
"""


def start(*arguments, **options):
    """`fxsim` in a process of its own that can be interrupted."""
    return subprocess.Popen(
        [sys.executable, "-c", HEARING, *map(str, arguments)],
        env=ENVIRONMENT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **options,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A whole run."""
    path = tmp_path_factory.mktemp("run") / "out"
    assert cli.main(["run", *SMALL, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def designs(folder):
    return json.loads((folder / "results.json").read_text())["designs"]


def test_a_run_writes_its_files_and_no_others(folder):
    plots = [
        f"{name}.{suffix}"
        for name in ("bits", "curves", "ranges", "sensitivity")
        for suffix in ("png", "svg")
    ]
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [
            "assignment.json",
            "curves.csv",
            "experiment.json",
            "float.npz",
            "gradients.npz",
            "report.html",
            "report.md",
            "results.json",
            "statistics.npz",
            *plots,
        ]
    )


def test_results_hold_everything_of_every_design(designs):
    assert [row["design"] for row in designs] == ["FL", "FX C_o", "FX C_-1", "FX C_+1"]
    for row in designs:
        assert [epoch["epoch"] for epoch in row["epochs"]] == [1, 2, 3, 4]
        assert row["train_loss"] == row["epochs"][-1]["train_loss"] > 0
        assert 0 < row["test_error"] < 1
        assert set(row["costs"]["total"]) == {
            "weight_storage",
            "activation_storage",
            "training_macs",
            "communication",
        }
        assert row["command"].startswith("fxsim run --epochs 4 --width 0.5 --out ")
        assert row["machine"]["versions"]["numpy"] == np.__version__
    for row in designs[1:]:
        assert len(row["fingerprint"]) == 64
        assert row["counts"]["conv2.weight_grads"].keys() == {
            "elements",
            "below",
            "above",
            "flushed",
        }
        assert row["sums"]["conv1"].keys() == {"forward", "weight_grad"}
        assert row["sums"]["conv2"]["input_grad"]["bits"] > 8


def test_the_perturbed_designs_are_perturbed(designs):
    by_name = {
        row["design"]: PrecisionAssignment.from_dict(row["assignment"]) for row in designs[1:]
    }
    for bits in (-1, 1):
        assert by_name[f"FX C_{bits:+d}"].layers == by_name["FX C_o"].perturbed(bits).layers


def test_the_assignment_file_is_c_o(folder, designs):
    data = json.loads((folder / "assignment.json").read_text())
    assert data.pop("identity")["settings"]["width"] == 0.5
    assert data == designs[1]["assignment"]
    assert (
        PrecisionAssignment.load(folder / "assignment.json").reasons["conv1", "weights"].criterion
        == "EFQN"
    )


def test_curves_have_a_row_for_each_design_and_epoch(folder, designs):
    with open(folder / "curves.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert [float(row["train_loss"]) for row in rows] == [
        epoch["train_loss"] for row in designs for epoch in row["epochs"]
    ]


def test_the_stages_one_by_one_give_the_bits_of_a_run(folder, designs, tmp_path, capsys):
    out = str(tmp_path / "stages")
    assert cli.main(["train", *SMALL, "--out", out]) == 0
    assert cli.main(["analyze", "--out", out]) == 0
    assert "lambda_max" in capsys.readouterr().out
    assert cli.main(["assign", "--out", out]) == 0
    assert (tmp_path / "stages/assignment.json").read_text() == (
        folder / "assignment.json"
    ).read_text()
    assert cli.main(["train", "--out", out, "--assignment", f"{out}/assignment.json"]) == 0
    assert cli.main(["train", "--out", out, "--perturb", "-1"]) == 0
    assert cli.main(["train", "--out", out, "--perturb", "-1", "--only", "weight_grads"]) == 0
    rows = json.loads((tmp_path / "stages/results.json").read_text())["designs"]
    assert [row["design"] for row in rows] == ["FL", "FX C_o", "FX C_-1", "FX C_-1 weight_grads"]
    assert [row["fingerprint"] for row in rows[:3]] == [row["fingerprint"] for row in designs[:3]]
    assert rows[3]["fingerprint"] != rows[2]["fingerprint"]


def test_a_new_float_run_makes_the_old_ones_void(folder, tmp_path):
    out = tmp_path / "again"
    assert cli.main(["run", *SMALL, "--out", str(out), "--perturb", "1"]) == 0
    assert cli.main(["train", *SMALL, "--seed", "1", "--out", str(out)]) == 0
    assert [row["design"] for row in json.loads((out / "results.json").read_text())["designs"]] == [
        "FL"
    ]
    assert not (out / "assignment.json").exists()
    assert not (out / "curves.png").exists()
    assert (out / "earlier-1/assignment.json").exists()


def test_a_perturbation_that_cannot_be_is_left_out(tmp_path, capsys):
    assert cli.main(["run", *SMALL, "--out", str(tmp_path), "--perturb", "-12", "1"]) == 0
    assert "FX C_-12 is left out: layer 'conv1': " in capsys.readouterr().err
    assert [
        row["design"] for row in json.loads((tmp_path / "results.json").read_text())["designs"]
    ] == ["FL", "FX C_o", "FX C_+1"]


def test_accumulators_keep_one_bit(folder):
    """... of a perturbation that would take more; one that would change nothing is refused."""
    assignment = PrecisionAssignment.load(folder / "assignment.json")
    layers = assignment.layers
    few, least = (
        dataclasses.replace(
            assignment,
            reasons={},  # four of five layers stay
            proposed={},
            layers={
                name: dataclasses.replace(
                    layer, accumulators=Format(bits, layer.accumulators.range_exp)
                )
                for bits, (name, layer) in zip(numbers, layers.items())
            },
        )
        for numbers in ((1, 2, 3, 4), (1, 1, 1, 1))
    )
    perturbed = few.perturbed(-2, "accumulators").layers.values()
    assert [layer.accumulators.bits for layer in perturbed] == [1, 1, 1, 2][: len(layers)]
    for old, new in zip(few.layers.values(), few.perturbed(-1).layers.values()):
        assert new.weights.bits == old.weights.bits - 1
        assert new.accumulators.range_exp == new.weights.step_exp - 1
    with pytest.raises(
        InputError, match="accumulators have at most 1 bit in every layer and cannot take -1"
    ):
        least.perturbed(-1, "accumulators")


def test_an_assignment_trains_without_a_float_run(folder, designs, tmp_path):
    """... and an assignment from elsewhere gives its name to its design."""
    file = folder / "assignment.json"
    assert cli.main(["train", *SMALL, "--out", str(tmp_path), "--assignment", str(file)]) == 0
    row = json.loads((tmp_path / "results.json").read_text())["designs"][0]
    assert row["design"] == "FX C_o of assignment"
    assert row["fingerprint"] == designs[1]["fingerprint"]


def test_a_toml_file_gives_settings_and_a_network_and_options_override_it(tmp_path):
    file = tmp_path / "experiment.toml"
    file.write_text("""
        quick = true
        seed = 3
        perturb = [1]
        [layers]
        name = "mine"
        input_shape = [8, 8, 1]
        layer = [
            {type = "conv", name = "conv1", filters = 4, padding = 1, pool = {kind = "average", size = 4}},
            {type = "dense", name = "fc1", units = 10, relu = false},
        ]
    """)
    assert (
        cli.main(["run", str(file), "--seed", "4", "--epochs", "1", "--out", str(tmp_path / "out")])
        == 0
    )
    results = json.loads((tmp_path / "out/results.json").read_text())
    assert results["identity"]["settings"]["seed"] == 4
    assert results["identity"]["settings"]["perturb"] == [1]
    assert [row["costs"]["network"] for row in results["designs"]] == ["mine"] * 3


def test_settings_come_back_from_json():
    settings = Settings.make(network="mnist-convnet", width=2, drops=[2], quick=True)
    assert Settings.make(**json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("dataset", "network"),
    [
        ("digits", "digits-convnet"),
        ("mnist", "mnist-convnet"),
        ("cifar10", "cifar10-convnet"),
        ("cifar100", "cifar100-resnet"),
    ],
)
def test_a_data_set_has_a_default_network(dataset, network):
    assert Settings.make(dataset=dataset).network == network


def test_every_built_in_network_has_costs(capsys):
    for name in BUILDERS:
        for design in ("FL", "BN", "TG"):
            assert cli.main(["cost", name, "--design", design, "--json"]) == 0
            costs = json.loads(capsys.readouterr().out)
            assert costs == design_complexity(build(name), design).to_dict()


def test_costs_of_an_assignment_are_those_of_the_run(folder, designs, capsys):
    assert (
        cli.main(
            [
                "cost",
                "digits-convnet",
                "--width",
                "0.5",
                "--json",
                "--assignment",
                str(folder / "assignment.json"),
            ]
        )
        == 0
    )
    assert json.loads(capsys.readouterr().out) == designs[1]["costs"]


def test_the_cost_table_ends_with_the_total(capsys):
    assert cli.main(["cost", "cifar10-convnet"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar10-convnet, design FL"
    assert lines[-1].split() == ["total", "148.1", "9.225", "94.37", "49.37"]


def test_info_tells_paths_threads_versions_and_cache(capsys):
    assert cli.main(["info", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["kernels"]["chosen"] == told["kernels"]["available"][0]
    assert told["kernels"]["available"][-1] == "plain"
    assert told["versions"]["numpy"] == np.__version__
    assert told["cache"].keys() == {"folder", "writable"}
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert told["processor"] in text
    assert told["kernels"]["chosen"] in text


def test_a_package_that_is_missing_is_told(monkeypatch, capsys):
    monkeypatch.setattr("fxsim.machine.PACKAGES", ("numpy", "nosuch"))
    assert cli.main(["info"]) == 0
    assert ["nosuch", "not", "installed"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("run",),
        ("sweep",),
        ("train",),
        ("analyze",),
        ("assign",),
        ("cost",),
        ("data",),
        ("info",),
    ],
)
def test_help_teaches(command, capsys):
    assert cli.main([*command, "--help"]) == 0
    assert (
        "fxsim run" in (text := capsys.readouterr().out)
        or "example" in text
        or "NUMBA_NUM_THREADS" in text
    )


def test_the_version_is_told(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"fxsim {fxsim.__version__}\n"


def test_fxsim_can_be_run_as_a_module():
    process = start("cost", "digits-convnet", "--json")
    assert json.loads(process.communicate(timeout=60)[0])["network"] == "digits-convnet"
    assert process.returncode == 0


def strike(process, blow, path, seconds=0.0):
    """Send the signal `blow` so many seconds after `path` is there.

    Returns what was written to standard error.
    """
    try:
        while not path.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.05)
        time.sleep(seconds)
        process.send_signal(blow)
        return process.communicate(timeout=120)[1]
    finally:
        process.kill()


@pytest.mark.parametrize("seconds", [0.1, 1.0, pytest.param(2.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_whole_files_only(blow, seconds, tmp_path):
    out = tmp_path / "out"
    process = start("run", "--epochs", 5000, "--width", 0.5, "--out", out)
    errors = strike(process, blow, out, seconds)
    assert process.returncode == (130 if blow == signal.SIGINT else -signal.SIGKILL), errors
    assert "Traceback" not in errors
    lock = {"fxsim.lock"} if blow == signal.SIGKILL else set()
    assert {path.name for path in out.glob("[!.]*")} <= {"checkpoint-FL.npz", "curves.csv"} | lock
    if (out / "checkpoint-FL.npz").exists():
        read_arrays(out / "checkpoint-FL.npz")
    if blow == signal.SIGINT:
        way_on = f"go on with: fxsim run --resume --epochs 5000 --width 0.5 --out {out}"
        assert errors.splitlines()[-1] == f"fxsim: interrupted; {way_on}"
        assert not list(out.glob(".*"))


@pytest.mark.parametrize(
    "blow", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGKILL]
)
def test_an_interrupted_run_keeps_what_was_finished(blow, folder, tmp_path):
    process = start("run", *SMALL, "--perturb", *range(1, 9), "--out", tmp_path)
    strike(process, blow, tmp_path / "assignment.json")
    assert process.returncode != 0
    for path in tmp_path.glob("[!.]*"):
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".npz":
            read_arrays(path)
    assert json.loads((tmp_path / "results.json").read_text())["designs"][0]["design"] == "FL"


def test_importing_fxsim_is_quick():
    """The names come when they are used; Numba and NumPy are not imported before."""
    code = "import sys, fxsim; print(sorted({'numba', 'numpy', 'scipy', 'matplotlib'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert found.stdout == "[]\n"


def test_every_public_name_is_there():
    assert [name for name in fxsim.__all__ if getattr(fxsim, name, None) is None] == []
    assert set(fxsim.__all__) <= set(dir(fxsim))
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        fxsim.quantise  # noqa: B018


def test_the_guide_lists_its_pages_and_prints_each(capsys):
    assert cli.main(["guide"]) == 0
    pages = re.findall(r"\| \[([\w-]+)\]", capsys.readouterr().out)
    assert "check-a-unit" in pages
    for page in pages:
        assert cli.main(["guide", page]) == 0
        assert capsys.readouterr().out.startswith("# ")
    assert cli.main(["guide", "../numerics"]) == 2
    assert "page '../numerics' is unknown" in capsys.readouterr().err
