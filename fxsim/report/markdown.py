"""report.md: what an experiment came to, in tables and plots."""

from __future__ import annotations

from collections.abc import Sequence

from fxsim.report.sections import Section, introduction, sections, title, verdict
from fxsim.report.tables import markdown_table

TITLES = {
    "curves": "Convergence",
    "bits": "Bits of every tensor",
    "sensitivity": "Sensitivity by class of tensors",
    "ranges": "Ranges and steps over the values' magnitudes",
}


def report_markdown(data: dict, sensitivity: Sequence[dict], plots: Sequence[str]) -> str:
    """The report on the plain data of results.json.

    sensitivity: rows of study.sensitivity.  plots: names of image files beside it, of which the
    PNG ones are shown.
    """
    parts = [f"# {title(data)}", verdict(data), f"`{data['designs'][0]['command']}`"]
    parts.append(introduction(data))
    for section in sections(data, sensitivity):
        parts += _section(section)
    parts += [_plot(name) for name in plots if name.endswith(".png")]
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> list[str]:
    parts = [f"## {section.title}", *section.before]
    if section.rows:
        header, *rows = section.rows
        parts.append(markdown_table(header, rows))
    if section.terms:
        parts.append("\n".join(f"- {term}: {meaning}" for term, meaning in section.terms))
    return [*parts, *section.after]


def _plot(name: str) -> str:
    return f"## {TITLES[name.partition('.')[0]]}\n\n![{TITLES[name.partition('.')[0]]}]({name})"
