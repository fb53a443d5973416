"""The commands, examples and claims of the README and the guide are true."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from fxsim.cli import parser as cli
from fxsim.formats import OVERFLOWS, ROUNDINGS, Format
from fxsim.golden.explain.tried import NOT_TRIED, TRIED

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
GUIDE = sorted((Path(cli.__file__).parent.parent / "guide").glob("*.md"))
RESULTS = README.parent / "benchmarks" / "README.md"
PAGES = [README, RESULTS, *GUIDE] if TEXT else []
BLOCKS = {
    page.name if page in GUIDE else "": re.findall(
        r"```(\w+)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL
    )
    for page in PAGES
    if page != RESULTS
}
"""Page of the guide, or '' for the README -> kind and content of its blocks."""

pytestmark = pytest.mark.skipif(
    not TEXT, reason="the README is beside the tests in a checkout only"
)


EXAMPLES = [
    (page, place)
    for page, blocks in BLOCKS.items()
    for place, (kind, block) in enumerate(blocks[:-1])
    if kind == "python" and "print(" in block and blocks[place + 1][0] == "text"
]


@pytest.mark.parametrize("page, place", EXAMPLES)
def test_an_example_prints_what_the_page_says(page, place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(compile(BLOCKS[page][place][1], page or "README.md", "exec"), {})
    assert BLOCKS[page][place + 1] == ("text", capsys.readouterr().out)


def test_the_operations_take_at_most_ten_lines_each():
    shown = [BLOCKS[page][place][1] for page, place in EXAMPLES if not page]
    assert len(shown) >= 3
    for block in shown:
        assert len([line for line in block.splitlines() if line]) <= 10


def sentences(text):
    """Sentences of paragraphs and list items; no tables, no blocks."""
    prose = re.sub(r"```.*?```|<!--.*?-->|^[|#].*?$", "\n\n", text, flags=re.DOTALL | re.MULTILINE)
    for paragraph in re.split(r"\n\s*\n|\n- ", prose):
        yield from re.split(r"(?<=[.:;?!])\s+", " ".join(paragraph.split()))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_no_sentence_is_longer_than_30_words(page):
    long = [each for each in sentences(page.read_text()) if len(each.split()) > 30]
    assert long == []


def test_the_readme_has_at_most_200_lines():
    assert 100 < len(TEXT.splitlines()) <= 200


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
    shell = [
        block.replace("\\\n", "")
        for blocks in BLOCKS.values()
        for kind, block in blocks
        if kind == "sh"
    ]
    lines = [line.partition("#")[0] for block in shell for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("fxsim ")]
    assert len(commands) > 10
    for command in commands:
        assert cli.parse(command).command == command[0]


FORMATS = next(page for page in GUIDE if page.stem == "formats").read_text()


def test_every_mode_is_in_the_tables():
    assert [mode for mode in (*ROUNDINGS, *OVERFLOWS) if f"`{mode}`" not in FORMATS] == []


def test_the_notations_are_those_of_the_formats():
    for format in (Format(8, 0), Format(8, 0, signed=False)):
        for notation in (format.q("ti"), format.q("arm"), format.ap_fixed(), format.wl_fl()):
            assert f"| `{notation}`" in FORMATS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_links_lead_to_files(page):
    if page in GUIDE:  # its links are those of a checkout
        page = README.parent / "fxsim" / "guide" / page.name
    found = re.findall(r"\]\(([^)#]+)(?:#[\w-]+)?\)", page.read_text())
    links = [link for link in found if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_guide_lists_every_page():
    listed = re.findall(
        r"^\| \[([\w-]+)\]", (GUIDE[0].parent / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == [page.stem for page in GUIDE if page.stem != "README"]


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
    shown = TEXT + RESULTS.read_text()
    for table in run.stdout.strip().split("\n\n"):
        assert table in shown


def test_the_guide_and_the_help_tell_the_same_of_what_explains_a_mismatch(capsys):
    page = next(page for page in GUIDE if page.name == "golden-vectors.md")
    text = page.read_text(encoding="utf-8")
    table = text.partition("| of | tried |\n| --- | --- |\n")[2].partition("\n\n")[0]
    assert dict(row[2:-2].split(" | ") for row in table.splitlines()) == TRIED
    assert NOT_TRIED in text
    assert cli.main(["vectors", "check", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    for of, changes in TRIED.items():
        assert f"{of} {changes}" in told
    assert NOT_TRIED in told


def test_pictures_of_the_guide_are_small_and_shown():
    shown = "".join(page.read_text() for page in GUIDE)
    for path in GUIDE[0].parent.rglob("*.[ps][nv]g"):
        assert path.stat().st_size < 60_000, path
        assert path.relative_to(GUIDE[0].parent).as_posix() in shown, path
