"""report.html: whole, escaped, by itself, and of the same tables as report.md."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from support.report_cases import (
    ASSIGNMENT,
    DESIGNS,
    SENSITIVITY,
    design,
    measured,
    results_of,
)

from fxsim.cli import parser as cli
from fxsim.experiment.stages import OF_A_RUN
from fxsim.report import charts, sections, text
from fxsim.report.charts import Series
from fxsim.report.page import Run, report_html
from fxsim.report.tables import number_in

VOID = ("meta", "link")
CHOSEN = design(
    "FX C_o",
    assignment=ASSIGNMENT.to_dict(),
    measured=measured(),
    counts={"conv1.weights": {"elements": 1000, "below": 1, "above": 99, "flushed": 500}},
    sums={"conv1": {"forward": {"terms": 9, "bits": 14, "path": "plain"}}},
)
MISMATCH = {
    "target": 0.01,
    "bound": "tight",
    "measured": {"test": {"images": 360, "share": 0.3, "tight": 0.034, "paper": 12.3}},
}
RUN = Run("mine", results_of([*DESIGNS, CHOSEN], mismatch=MISMATCH), SENSITIVITY)


class Page(HTMLParser):
    """Elements with their attributes; fails where one is not closed."""

    def __init__(self, page):
        super().__init__()
        self.open = []
        self.found = []
        self.said = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.said.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


@pytest.fixture(scope="module")
def html():
    return report_html([RUN])


def test_the_page_has_all_sections_and_links_to_them(html):
    page = Page(html)
    ids = [row["id"] for row in page.all("section")]
    assert ids == ["designs", "remarks", "costs", "training", "formats", "values", "sensitivity", "criteria",
                   "decisions", "sums", "settings", "versions"]  # fmt: skip
    assert [row["href"] for row in page.all("a")] == [f"#{key}" for key in ids]
    every = [row["id"] for _, row in page.found if "id" in row]
    assert len(every) == len(set(every))
    assert [tag for tag, _ in page.found if tag in ("h1", "h3")] == ["h1"]


def test_nothing_is_asked_of_others_and_only_the_own_script_may_run(html):
    page = Page(html)
    for _, row in page.found:
        for name in ("src", "href"):
            assert row.get(name, "#").startswith("#") or row[name] == "data:,"
    assert not re.search(r"url\(|@import|https?:|fetch\(|eval\(", html)
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [row["content"] for row in page.all("meta") if "http-equiv" in row]
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert not [name for _, row in page.found for name in row if name.startswith("on")]


def test_pictures_and_tables_say_what_they_are(html):
    page = Page(html)
    hidden = [row for row in page.all("svg") if row.get("aria-hidden")]
    for row in page.all("svg"):
        assert row in hidden or (row["role"] == "img" and row["aria-label"])
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(row["scope"] in ("row", "col") for row in page.all("th"))
    assert page.all("html") == [{"lang": "en"}]


def test_the_page_has_every_cell_of_the_tables_of_report_md(html):
    said = "".join(Page(html).said).replace("\u2212", "-")
    for section in sections.sections(RUN.data, SENSITIVITY):
        for row in section.rows:
            for cell in row:
                plain = re.sub(r"\^(?=[AWZa\d-])|(?<=C)_", "", cell)
                assert plain in said, cell


EVIL = "<script>alert(1)</script>&\"'`x`"


def test_all_text_is_escaped():
    assignment = json.loads(json.dumps(ASSIGNMENT.to_dict()).replace("conv1", "a<b>&c"))
    found = json.loads(json.dumps(measured()).replace("conv1", "a<b>&c"))
    settings = RUN.data["identity"]["settings"] | {"data": EVIL, "network": EVIL}
    data = results_of([
        design("FL", command=EVIL, machine={"processor": EVIL, "versions": {"fxsim": EVIL}}),
        design(f"FX {EVIL}", assignment=assignment, measured=found,
               counts={f"{EVIL}.weights": {"elements": 1, "below": 0, "above": 0, "flushed": 0}}),
    ])  # fmt: skip
    data["identity"]["settings"] = settings
    rows = [row | {"class": EVIL} for row in SENSITIVITY]
    run = Run(EVIL, data, rows)
    for page in (report_html([run]), report_html([run, RUN])):
        assert page.count("<script") == 1
        assert "a<b" not in page
        whole = Page(page)
        assert "b" not in {tag for tag, _ in whole.found}
        assert EVIL in " ".join(whole.said)


def test_the_first_screen_answers_whether_fixed_point_follows_float():
    def told(error, reference=0.05, images=1000):
        rows = [design("FL", test_error=reference), CHOSEN | {"test_error": error}]
        data = results_of(rows)
        data["identity"]["images"]["test"] = images
        return sections.verdict(data)

    assert told(0.06).startswith("Fixed point follows float: FX C_o has test error 6.00%, float")
    assert told(0.02).startswith("Fixed point follows float")
    assert told(0.08).startswith("Fixed point falls behind float")
    assert told(0.06, images=100_000).startswith("Fixed point falls behind float")
    # two standard errors of 5 % and 6 % over 1000 images
    assert "are 2.04 points" in told(0.06)
    assert sections.verdict(results_of([CHOSEN])).startswith("No float run to compare with")
    assert sections.verdict(results_of(DESIGNS[:1])) == "No design in fixed point was trained."
    no_decisions = [design("FL", test_error=None, test_loss=0.5),
                    CHOSEN | {"test_error": None, "test_loss": 0.6}]  # fmt: skip
    assert sections.verdict(results_of(no_decisions)).endswith(": 1.2 times as much.")


def test_the_first_screen_has_error_bits_costs_and_criteria():
    found = {each.label: each for each in sections.figures(RUN.data)}
    assert list(found) == ["test error", "bits", *sections.COST_NAMES.values(), "criteria"]
    assert found["bits"].value == "5 to 12"
    assert found["bits"].note == "W 7, A 5, G^A 11, G^W 10, W^acc 12"
    assert found["weight storage"].value == "1.00"
    assert found["criteria"].value == "GC fails"


def test_a_criterion_that_fails_says_what_to_do():
    criteria = next(each for each in sections.sections(RUN.data, ()) if each.key == "criteria")
    terms = dict(criteria.terms)
    assert list(terms) == ["GC", "RQB", "GF", "AS"]
    assert "It fails here. Give the tensor one bit more of range" in terms["GC"]
    assert not any("fails here" in terms[name] for name in ("RQB", "GF", "AS"))
    assert set(sections.CRITERIA) == {"GC", "RQB", "BQN", "GF", "AS"}


@pytest.mark.parametrize("share, result", [(0.034, "holds"), (0.05, "holds"), (0.1, "fails")])
def test_decisions_fail_where_they_are_above_the_bound_by_three_standard_errors(share, result):
    row = MISMATCH["measured"]["test"] | {"share": share}
    data = results_of(DESIGNS, mismatch=MISMATCH | {"measured": {"test": row}})
    decisions = next(each for each in sections.sections(data, ()) if each.key == "decisions")
    assert decisions.rows[1][-1] == result
    assert ("It fails here. The noise" in decisions.terms[0][1]) == (result == "fails")


def test_a_page_on_float_designs_alone_leaves_out_what_there_is_not():
    ids = [
        row["id"] for row in Page(report_html([Run("f", results_of(DESIGNS[:2]))])).all("section")
    ]
    assert ids == ["designs", "costs", "training", "settings", "versions"]


def test_runs_are_compared_by_results_costs_and_the_settings_that_differ():
    other = results_of([*DESIGNS, CHOSEN])
    other["identity"]["settings"] = other["identity"]["settings"] | {"epochs": 77}
    html = report_html([RUN, Run("other", other)])
    page = Page(html)
    ids = [row["id"] for _, row in page.found if "id" in row]
    assert len(ids) == len(set(ids))
    table = html[html.index(">Settings that differ</h2>") :]
    table = table[: table.index("</table>")]
    assert table.count("<tr>") == 2
    assert "<td" in table and ">77<" in table
    assert "mine: FX C<sub>o</sub>" in html and "other: FX C<sub>o</sub>" in html


def test_a_histogram_has_the_band_of_the_format_and_shares_of_all_elements():
    counted = {"zeros": 2, "least": -6, "counts": [1, 0, 3]}
    picture = charts.histogram("fc1 W", ASSIGNMENT.layers["fc1"].weight_grads, counted, counted,
                               (-12, 0))  # fmt: skip
    right = charts.Scale(-12, 0, 4, 196)
    band = re.search(
        r'<rect x="([\d.]+)" y="4" width="([\d.]+)" height="66" class="band">', picture
    )
    assert float(band[1]) == pytest.approx(right(-11), abs=0.01)
    assert float(band[2]) == pytest.approx(right(-2) - right(-11), abs=0.01)
    assert "2^-4 to 2^-3\nend 50.00%\nstart 50.00%" in picture
    assert "2^-6 to 2^-5\nend 16.67%" in picture


def test_what_is_far_below_the_step_joins_the_last_bar_so_that_the_plot_is_bounded():
    counted = {"zeros": 0, "least": -1074, "counts": [1] * 1074}
    picture = charts.histogram("a", None, counted, counted, (-24, 0))
    assert picture.count('class="hit"') == 24
    assert "or smaller" in picture


def test_a_line_chart_shows_all_lines_at_each_place():
    series = [Series("FL", [(1, 2.0), (2, 0.02)]), Series("FX", [(1, 3.0)])]
    chart = charts.line_chart("loss", series, "epoch", log=True)
    assert "loss (logarithmic)" in chart
    assert "epoch 1\nFL: 2\nFX: 3</title>" in chart
    assert "epoch 2\nFL: 0.02</title>" in chart
    flat = charts.line_chart("loss", [Series("FL", [(1, 0.0)])], "epoch", log=True)
    assert "logarithmic" not in flat


def test_the_width_of_a_bar_is_its_share_of_the_longest():
    chart = charts.bar_chart("cost", [("FL", 1.0, "1"), ("FX", 0.25, "0.25")], 1.0)
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="14"', chart)]
    assert widths[1] / widths[0] == pytest.approx(0.25, abs=1e-3)


def test_typeset_cells_keep_the_numbers_that_they_sort_by(html):
    assert '<td class="r short" data-value="0.015625">2<sup>\u22126</sup></td>' in html


@pytest.mark.parametrize("cell", ["9" * 400, "1e999"])
def test_a_cell_beyond_all_floats_sorts_as_text(cell):
    assert number_in(cell) is None
    assert number_in("2^9999") == 2


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_contrast_with_the_paper_in_light_dark_and_print(html):
    palettes = [dict(re.findall(r"--(\w+): (#\w{6})", block))
                for block in re.findall(r":root \{(.*?)\}", html, re.DOTALL)]  # fmt: skip
    assert len(palettes) == 3
    for colours in palettes:
        for name in ("ink", "soft", "link", "bad"):
            assert contrast(colours[name], colours["paper"]) >= 4.5, name
        for index in range(charts.COLOURS):
            assert contrast(colours[f"s{index}"], colours["paper"]) >= 3, index
        assert contrast(colours["s1"], colours["band"]) >= 3
        assert contrast(colours["soft"], colours["band"]) >= 4.5


def test_a_float_run_sets_the_page_aside_too():
    assert "report.html" in OF_A_RUN


def test_the_command_writes_one_page_on_several_folders(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fxsim.cli.commands.read_results", lambda folder: RUN.data)
    assert cli.main(["report", "a", "b"]) == 0
    assert capsys.readouterr().out == "written to comparison.html\n"
    assert "<h1>2 runs</h1>" in (tmp_path / "comparison.html").read_text()
    assert cli.main(["report", "a", "--out", "one.html"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.html", "one.html"]


def test_the_command_writes_the_reports_of_a_folder_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("fxsim.cli.commands.read_results", lambda folder: RUN.data)
    monkeypatch.setattr("fxsim.report.plots.write_plots", lambda *arguments: ["curves.png"])
    assert cli.main(["report", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        f"written to {tmp_path}: report.html, report.md, curves.png",
        f"open {tmp_path / 'report.html'} in a browser",
    ]


@pytest.mark.parametrize(
    "words, message",
    [
        (["report", "nowhere"], "cannot read nowhere/results.json"),
        (["report", "a", "a"], "a folder is given twice"),
        (["report", "a", "--out", "b"], "--out must name a file that ends in .html, got 'b'"),
    ],
)
def test_the_command_refuses_in_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_both_reports_say_the_same_first(html):
    assert text.chosen_design(RUN.data["designs"])["design"] == "FX C_o"
    assert "Fixed point follows float" in html
