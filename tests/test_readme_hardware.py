"""What the guide tells hardware people is true.

Its commands and examples are run as they stand there.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings
from rtl.harness import need

import fxsim

ROOT = Path(__file__).parent.parent
GUIDE = Path(fxsim.__file__).parent / "guide"
UNIT = (GUIDE / "check-a-unit.md").read_text(encoding="utf-8")
VECTORS = (GUIDE / "golden-vectors.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(
    not (ROOT / "tests" / "rtl").exists(), reason="the RTL is beside the tests in a checkout only"
)


def blocks(kind, page=VECTORS):
    return re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that stands for the checkout of somebody who has installed fxsim.

    Its `bin` comes first on the path.
    """
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / "bin").mkdir()
    package, python = (
        shlex.quote(str(path)) for path in (Path(fxsim.__file__).parent.parent, sys.executable)
    )
    for name, options in (("python", ""), ("fxsim", "-m fxsim ")):
        script = folder / "bin" / name
        script.write_text(
            f'#!/bin/sh\nPYTHONPATH={package}:$PYTHONPATH exec {python} {options}"$@"\n'
        )
        script.chmod(0o755)
    return folder


def run(commands, folder):
    """The exit code of the last of the commands, or of the first that fails; what they print."""
    environment = {**os.environ, "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def without_numbers(text):
    """The float run, and so the assignment and all codes, may be others on another processor."""
    return re.sub(
        r"codes: .*", "codes: #", re.sub(r"-?(0x[0-9a-f]+|\d+(\.\d+)?(e[-+]?\d+)?)", "#", text)
    )


@pytest.fixture(scope="module")
def right_rtl(checkout):
    """What the commands print that simulate the RTL as it is."""
    need("Verilator", shutil.which("verilator"))
    return run(blocks("sh")[0], checkout)


def test_the_rtl_computes_a_training_step_to_the_bit(right_rtl):
    code, printed = right_rtl
    assert code == 0, printed
    assert printed.endswith(f"\n{blocks('text')[0]}")


def test_the_simulation_names_the_tensors_to_check(right_rtl):
    (check,) = re.findall(
        r"^fxsim vectors check .*", blocks("sh")[0].replace("\\\n", ""), re.MULTILINE
    )
    assert f"next: {' '.join(check.split())}\n" in right_rtl[1]


def test_a_planted_bug_is_named(right_rtl, checkout):
    code, printed = run(blocks("sh")[2], checkout)
    shown = blocks("text")[2]
    assert code == 1, printed
    report = printed[printed.index("MISMATCH") :]
    assert without_numbers(report) == without_numbers(shown)
    assert report.splitlines()[0].startswith(
        "MISMATCH at step 3, layer conv2, tensor preactivations "
    )
    assert (
        report.splitlines()[-1]
        == shown.splitlines()[-1]
        == "  products truncated by 1 bit before they are added"
    )


def test_the_rtl_infers_to_the_bit(right_rtl, checkout):
    code, printed = run(blocks("sh")[1], checkout)
    assert code == 0, printed
    assert printed.endswith(f"\n{blocks('text')[1]}")


@pytest.fixture
def property_test():
    """The README's property test as source."""
    (source,) = (block for block in blocks("python", UNIT) if "@given" in block)
    return source


def run_property_test(source):
    namespace = {"__name__": "readme"}
    exec(compile(source, "check-a-unit.md", "exec"), namespace)
    settings(print_blob=False)(namespace["test_my_unit"])()


def test_the_property_test_passes(property_test):
    run_property_test(property_test)


def test_the_property_test_finds_the_bug_that_the_readme_plants(property_test):
    planted = " - (code < 0)"
    shown = blocks("text", UNIT)[0]
    assert f"`{planted.removeprefix(' ')}`" in UNIT
    with pytest.raises(AssertionError) as raised:
        run_property_test(property_test.replace(planted, ""))
    # which of the ties is the smallest is Hypothesis' to say, and differs among its versions
    assert without_numbers(str(raised.value).splitlines()[0]) == without_numbers(
        shown.splitlines()[0]
    )


def test_the_benches_on_packages_equal_fxsim(checkout):
    for tool in ("ghdl", "iverilog"):
        need(tool, shutil.which(tool))
    for kind, suffix in (("vhdl", "vhd"), ("systemverilog", "sv")):
        (bench,) = blocks(kind, UNIT)
        (checkout / f"requantizer.{suffix}").write_text(bench)
    (commands,) = blocks("sh", UNIT)
    code, printed = run(commands, checkout)
    assert code == 0, printed
    (equal,) = (shown for shown in blocks("text", UNIT) if shown.startswith("equal"))
    assert printed.count(equal) == 2
    assert printed.endswith(equal)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", GUIDE / "check-a-unit.md"], ids=["README", "guide"]
)
def test_the_cocotb_bench_is_that_of_the_file(page):
    """tests/hardware/test_rtl_cocotb.py runs the file."""
    if not page.exists():
        pytest.skip("the README is beside the tests in a checkout only")
    (shown,) = (block for block in blocks("python", page.read_text()) if "dut." in block)
    lines = (ROOT / "tests" / "rtl" / "cocotb_scoreboard.py").read_text().splitlines()
    own = (line for line in shown.splitlines() if line and not line.lstrip().startswith("..."))
    assert [line for line in own if line not in lines] == []
