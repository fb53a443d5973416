"""report.html: one file with its style, its script and its plots; it asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from fxsim.nn.layer_precision import SYMBOLS
from fxsim.nn.precision import PrecisionAssignment
from fxsim.report import charts, text
from fxsim.report.charts import Series
from fxsim.report.markup import element, escaped, paragraph, typeset
from fxsim.report.sections import (
    COST_NAMES,
    Section,
    figures,
    introduction,
    sections,
    title,
    verdict,
)
from fxsim.report.tables import html_table


@dataclass(frozen=True)
class Run:
    """A folder's results.

    Args:
        name: of the folder.
        data: the plain data of its results.json.
        sensitivity: rows of study.sensitivity.
    """

    name: str
    data: dict
    sensitivity: Sequence[dict] = ()


def report_html(runs: Sequence[Run]) -> str:
    """The page on one run, or on several beside each other, each below by itself."""
    if len(runs) == 1:
        heading = title(runs[0].data)
        content = element("h1", typeset(heading)) + _run(runs[0], "", 2)
    else:
        heading = f"{len(runs)} runs"
        content = element("h1", escaped(heading)) + _comparison(runs)
        content += "".join(
            _folded(f"{run.name}: {title(run.data)}", _run(run, f"run-{number}-", 3), 2)
            for number, run in enumerate(runs, start=1)
        )
    return _page(heading, content)


def _page(heading: str, content: str) -> str:
    style = _beside("page.css")
    script = _beside("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
        f"<title>{escaped(heading)} - fxsim</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"{charts.mark_definitions()}\n<main>\n{content}\n</main>\n"
        f"<script>{script}</script>\n</body>\n</html>\n"
    )


@cache
def _beside(name: str) -> str:
    return files("fxsim.report").joinpath(name).read_text(encoding="utf-8")


def _run(run: Run, prefix: str, level: int) -> str:
    """All sections of one run.

    prefix: of their ids.  level: of their headings.
    """
    data = run.data
    own = {section.key: section for section in sections(data, run.sensitivity)}
    parts = {key: _section(section) for key, section in own.items()}
    plots = _plots(run)
    order = [
        ("designs", "Designs", parts.pop("designs")),
        ("remarks", "Worth a look", parts.pop("remarks", "")),
        ("costs", "Costs", plots["costs"]),
        ("training", "Training", plots["training"]),
        ("formats", "Bits of every tensor", _bits(data) + parts.pop("formats", "")),
        ("values", "Values and formats", plots["values"] + _counts(data)),
        ("sensitivity", "Sensitivity", plots["sensitivity"] + parts.pop("sensitivity", "")),
        *((key, own[key].title, part) for key, part in parts.items()),
        ("settings", "Settings", _settings(data)),
        ("versions", "Versions and fingerprints", _versions(data)),
    ]
    shown = [(prefix + key, heading, part) for key, heading, part in order if part]
    links = "".join(
        element("li", element("a", typeset(heading), href=f"#{key}")) for key, heading, _ in shown
    )
    body = "".join(
        element(
            "section",
            element(f"h{level}", typeset(heading), id=f"{key}-h") + part,
            id=key,
            aria_labelledby=f"{key}-h",
        )  # fmt: skip
        for key, heading, part in shown
    )
    contents = element("nav", element("ul", links), aria_label="sections")
    return _first_screen(data) + contents + body


def _first_screen(data: dict) -> str:
    cards = "".join(
        element(
            "div",
            element("dt", typeset(each.label))
            + element("dd", typeset(each.value), class_="large")
            + element("dd", typeset(each.note)),
        )
        for each in figures(data)
    )
    return (
        element("p", typeset(verdict(data)), class_="verdict")
        + element("dl", cards, class_="figures")
        + element("p", typeset(introduction(data)), class_="soft")
    )


def _section(section: Section) -> str:
    """Texts, table and terms; the heading is the page's."""
    parts = [paragraph(each) for each in section.before]
    if section.rows:
        header, *rows = section.rows
        kind = None if section.key == "formats" else "titled"  # its heading is above the table
        table = html_table(header, rows, section.title)
        parts.append(element("div", table, class_=kind))
    if section.terms:
        terms = (
            element("dt", typeset(term)) + element("dd", paragraph(meaning))
            for term, meaning in section.terms
        )
        parts.append(element("dl", "".join(terms), class_="terms"))
    return "".join([*parts, *(paragraph(each) for each in section.after)])


def _folded(summary: str, content: str, level: int | None = None) -> str:
    heading = typeset(summary)
    if level:
        heading = element(f"h{level}", heading)
    return element("details", element("summary", heading) + content)


def _grid(pictures: Iterable[str], kind: str = "panels") -> str:
    return element("div", "".join(pictures), class_=kind)


def _plots(run: Run) -> dict[str, str]:
    designs = run.data["designs"]
    shown = text.compared(designs)
    return {
        "costs": _costs({row["design"]: row for row in shown}, text.float_row(designs)),
        "training": _curves({row["design"]: row for row in shown}) + _epochs(shown),
        "values": _values(text.chosen_design(designs)),
        "sensitivity": _sensitivity(run.sensitivity),
    }


def _costs(rows: dict[str, dict], reference: dict | None) -> str:
    """A chart for each of the four costs, as shares of `reference` or by themselves."""
    pictures = []
    for metric, (symbol, _) in text.METRICS.items():
        costs = {name: row["costs"]["total"][metric] for name, row in rows.items()}
        of = reference["costs"]["total"][metric] if reference else 0
        if of:
            bars = [(name, cost / of, f"{cost / of:.3g}") for name, cost in costs.items()]
            heading = f"{COST_NAMES[metric]}, {symbol}: share of float's"
        else:
            scale, unit = text.cost_unit(list(rows.values()), metric)
            bars = [(name, float(cost), f"{cost / scale:,.3g}") for name, cost in costs.items()]
            heading = f"{COST_NAMES[metric]}, {symbol} [{unit}]"
        pictures.append(charts.bar_chart(_capital(heading), bars, 1.0 if of else None))
    return _grid(pictures)


def _capital(heading: str) -> str:
    return heading[0].upper() + heading[1:]


def _curves(rows: dict[str, dict]) -> str:
    loss = _of_epochs(rows, lambda epoch: epoch["train_loss"])
    name, tested = _tested(list(rows.values()))
    return _grid(
        [
            charts.line_chart("Training loss", loss, "epoch", log=True),
            charts.line_chart(name, _of_epochs(rows, tested), "epoch"),
        ]
    )


def _of_epochs(rows: dict[str, dict], value) -> list[Series]:
    return [
        Series(name, [(epoch["epoch"], value(epoch)) for epoch in row["epochs"]])
        for name, row in rows.items()
    ]


def _tested(rows: Sequence[dict]):
    """What the test set tells: its name, and how to get it."""
    if any(row["test_error"] is None for row in rows):
        return "Test loss", lambda row: row["test_loss"]
    return "Test error (%)", lambda row: 100 * row["test_error"]


def _epochs(designs: Sequence[dict]) -> str:
    header = ["design", "epoch", text.tested_header(designs), "train loss"]
    rows = [
        [row["design"], str(epoch["epoch"]), *text.tested_cells(epoch)]
        for row in designs
        for epoch in row["epochs"]
    ]
    return _folded("The curves as a table", html_table(header, rows, "Losses and errors by epoch"))


def _bits(data: dict) -> str:
    """A row for each layer, a column for each kind of tensor."""
    chosen = text.chosen_design(data["designs"])
    if not chosen:
        return ""
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    rows = []
    for name, layer in assignment.layers.items():
        given = layer.given()
        formats = [given.get(tensor) for tensor in SYMBOLS]
        rows.append([name, *(str(format.bits) if format else "none" for format in formats)])
    caption = f"Bits by layer and tensor, {chosen['design']}"
    return html_table(["layer", *SYMBOLS.values()], rows, caption, "l" + "r" * len(SYMBOLS))


def _values(chosen: dict | None) -> str:
    """Histograms of every layer's tensors; the axis is one for all layers."""
    if not chosen or not chosen["measured"]:
        return ""
    assignment = PrecisionAssignment.from_dict(chosen["assignment"])
    found = chosen["measured"]["histograms"]
    spans = {tensor: _span(assignment, found, tensor) for tensor in SYMBOLS}
    pictures = []
    for layer, formats in assignment.layers.items():
        for tensor, symbol in SYMBOLS.items():
            name = f"{layer} {symbol}"
            start, end = (found[moment][layer][tensor] for moment in ("start", "end"))
            format = getattr(formats, tensor)
            picture = charts.histogram(name, format, start, end, spans[tensor])
            pictures.append(charts.figure(name, picture))
    said = (
        "Shares of magnitudes by powers of two, of one batch: bars at the end of training, a line at "
        "its start. The band is what the format holds, from its step to its range. Zeros are left "
        "out; for W^acc the values are the updates."
    )
    return paragraph(said) + _grid(pictures, "histograms")


def _span(assignment: PrecisionAssignment, found: dict, tensor: str) -> tuple[int, int]:
    """The exponents that the histograms of this tensor show in all layers."""
    least = []
    most = []
    for layer, formats in assignment.layers.items():
        format = getattr(formats, tensor)
        if format is not None:
            least.append(format.step_exp - 1)
            most.append(format.range_exp + 1)
        for moment in ("start", "end"):
            row = found[moment][layer][tensor]
            if row["counts"]:
                least.append(row["least"])
                most.append(row["least"] + len(row["counts"]))
    high = max(most, default=1)
    return max(min(least, default=0), high - charts.MOST_BINS), high


def _counts(data: dict) -> str:
    chosen = text.chosen_design(data["designs"])
    if not chosen or not chosen["counts"]:
        return ""
    rows = [["layer", "tensor", "elements", "clipped", "flushed"]]
    for key, counts in chosen["counts"].items():
        layer, _, tensor = key.rpartition(".")
        elements = counts["elements"]
        clipped = counts["below"] + counts["above"]
        shares = (f"{clipped / elements:.3%}", f"{counts['flushed'] / elements:.2%}")
        symbol = text.ALL_SYMBOLS.get(tensor, tensor.replace("_", " "))
        rows.append([layer, symbol, f"{elements:,}", *shares])
    caption = f"Clipped and flushed elements, over all of training, {chosen['design']}"
    return _folded(caption, html_table(rows[0], rows[1:], caption))


def _sensitivity(rows: Sequence[dict]) -> str:
    if not rows:
        return ""
    classes = dict.fromkeys(row["class"] for row in rows if row["bits"])
    name, tested = _tested(rows)
    pictures = [
        charts.line_chart(heading, _of_classes(classes, rows, value), "bits added to C_o", log)
        for heading, value, log in (
            ("Training loss", lambda row: row["train_loss"], True),
            (name, tested, False),
        )
    ]
    return _grid(pictures)


def _of_classes(classes: Iterable[str], rows: Sequence[dict], value) -> list[Series]:
    return [
        Series(
            name.replace("_", " "),
            sorted(
                (row["bits"], value(row)) for row in rows if row["class"] == name or not row["bits"]
            ),
        )
        for name in classes
    ]


def _settings(data: dict) -> str:
    rows = [[name.replace("_", " "), _plain(value)] for name, value in _set(data).items()]
    commands = dict.fromkeys(row["command"] for row in data["designs"] if row["command"])
    shown = "".join(element("pre", element("code", escaped(each))) for each in commands)
    return shown + html_table(["setting", "value"], rows, "Settings", "ll")


def _set(data: dict) -> dict:
    """The settings that are no tables; a network of the user's own is told by its costs."""
    settings = data["identity"]["settings"]
    return {name: value for name, value in settings.items() if not isinstance(value, dict)}


def _plain(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "default" if value is None else str(value)


def _versions(data: dict) -> str:
    machines = [row["machine"] for row in data["designs"]]
    described = {
        "processor": [each["processor"] for each in machines],
        "system": [each.get("system") for each in machines],
        "threads": [each.get("threads") for each in machines],
        "kernel path": [each.get("kernels", {}).get("chosen") for each in machines],
    }
    for name in dict.fromkeys(name for each in machines for name in each["versions"]):
        described[name] = [each["versions"].get(name) for each in machines]
    rows = [
        [name, ", ".join(dict.fromkeys(str(value) for value in values if value is not None))]
        for name, values in described.items()
    ]
    prints = [
        [row["design"], f"{row['seconds']:,.1f}", row["fingerprint"] or ""]
        for row in data["designs"]
    ]
    return html_table(
        ["of", "value"], [row for row in rows if row[1]], "Versions", "ll"
    ) + html_table(["design", "seconds", "SHA-256 of all weights"], prints, "Fingerprints", "lrl")


def _comparison(runs: Sequence[Run]) -> str:
    """What the runs came to, beside each other."""
    rows = [[run.name, *_compared(run.data)] for run in runs]
    header = ["run", "float", "fixed point", "design", "bits"]
    header += [symbol for symbol, _ in text.METRICS.values()]
    chosen = {run.name: row for run in runs if (row := text.chosen_design(run.data["designs"]))}
    curves = {
        f"{run.name}: {row['design']}": row
        for run in runs
        for row in (text.float_row(run.data["designs"]), chosen.get(run.name))
        if row
    }
    tested = {row["test_error"] is None for row in curves.values()}
    parts = [
        element("h2", "Results"),
        *(paragraph(f"{run.name}: {verdict(run.data)}") for run in runs),
        html_table(header, rows, "Runs; costs as shares of float's"),
    ]
    if chosen:
        parts += [element("h2", "Costs"), _costs(chosen, None)]
    if len(tested) == 1:
        parts += [element("h2", "Training"), _curves(curves)]
    return "".join([*parts, element("h2", "Settings that differ"), _differences(runs)])


def _compared(data: dict) -> list[str]:
    designs = data["designs"]
    reference = text.float_row(designs)
    chosen = text.chosen_design(designs)
    bits = next((each.value for each in figures(data) if each.label == "bits"), "")
    cells = [text.tested_cells(row)[0] if row else "" for row in (reference, chosen)]
    shares = ["" for _ in text.METRICS]
    if reference and chosen:
        costs = [row["costs"]["total"] for row in (chosen, reference)]
        shares = [f"{costs[0][metric] / costs[1][metric]:.3f}" for metric in text.METRICS]
    return [*cells, chosen["design"] if chosen else "", bits, *shares]


def _differences(runs: Sequence[Run]) -> str:
    found = [
        {name: _plain(value) for name, value in _set(run.data).items()}
        | {"fxsim": run.data["designs"][0]["machine"]["versions"]["fxsim"]}
        for run in runs
    ]
    names = dict.fromkeys(name for each in found for name in each)
    rows = [
        [name.replace("_", " "), *(each.get(name, "") for each in found)]
        for name in names
        if len({each.get(name, "") for each in found}) > 1
    ]
    if not rows:
        return paragraph("None.")
    header = ["setting", *(run.name for run in runs)]
    return html_table(header, rows, "Settings that differ", "l" * len(header))
