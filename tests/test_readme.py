"""The README's commands, example and claims are true."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fxsim.cli import parser as cli
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)

pytestmark = pytest.mark.skipif(
    not TEXT, reason="the README is beside the tests in a checkout only"
)


EXAMPLES = [
    place
    for place, (kind, block) in enumerate(BLOCKS[:-1])
    if kind == "python" and "print(" in block and BLOCKS[place + 1][0] == "text"
]


@pytest.mark.parametrize("place", EXAMPLES)
def test_an_example_prints_what_the_readme_says(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[place][1], str(README), "exec"), {})
    assert BLOCKS[place + 1] == ("text", capsys.readouterr().out)


def test_the_operations_take_at_most_ten_lines_each():
    shown = [BLOCKS[place][1] for place in EXAMPLES if "ops." in BLOCKS[place][1]]
    assert len(shown) >= 3
    for block in shown:
        assert len([line for line in block.splitlines() if line]) <= 10


@pytest.mark.parametrize(
    "command",
    [
        "python -m pip install '.[plot]' && fxsim run",
        "python -m pip install '.[test]' && python -m pytest",
    ],
)
def test_the_two_commands_have_a_line_each(command):
    assert command in TEXT.splitlines()


def test_the_commands_exist_with_these_options():
    shell = [block.replace("\\\n", "") for kind, block in BLOCKS if kind == "sh"]
    lines = [line.partition("#")[0] for block in shell for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fxsim ")]
    assert len(commands) > 10
    for command in commands:
        assert cli.parse(command).command == command[0]


def test_every_mode_is_in_the_tables():
    assert [mode for mode in (*ROUNDINGS, *OVERFLOWS) if f"`{mode}`" not in TEXT] == []


def test_the_notations_are_those_of_the_formats():
    for format in (Format(8, 0), Format(8, 0, signed=False)):
        for notation in (format.q("ti"), format.q("arm"), format.ap_fixed(), format.wl_fl()):
            assert f"| `{notation}`" in TEXT


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert links
    assert [link for link in links if not (README.parent / link).exists()] == []


def test_the_contract_is_installed_with_the_package():
    code = "import importlib.resources as r; print((r.files('fxsim') / 'numerics.md').read_text()[:40])"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(cli.__file__).parent.parent,
    )
    assert found.stdout.startswith("# The numerical contract")


def test_the_tables_are_those_of_the_result_files():
    run = subprocess.run(
        [sys.executable, README.parent / "benchmarks" / "summary.py"],
        capture_output=True,
        text=True,
        check=True,
    )
    for table in run.stdout.strip().split("\n\n"):
        assert table in TEXT
