"""The compatibility profiles as Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

from fxsim.profiles import (
    CHECKED,
    OVERFLOW_CASES,
    OVERFLOW_FORMAT,
    PROFILES,
    ROUNDING_CASES,
    Profile,
    truth,
)
from fxsim.report.tables import markdown_table


def profiles_markdown() -> str:
    """Both tables of profiles in Markdown, each row with what fxsim's mode gives."""
    format = OVERFLOW_FORMAT
    parts = [
        "Rounding to a step of 1:",
        _table("rounding", ROUNDING_CASES),
        f"Overflow of {format.bits} signed bits, {format.min_code} to {format.max_code}:",
        _table("overflow", OVERFLOW_CASES),
        CHECKED,
        _sources(),
    ]
    return "\n\n".join(parts) + "\n"


def _table(kind: str, cases: Sequence[float]) -> str:
    header = ["system", "name", "fxsim", *(f"{case:g}" for case in cases), "checked", "remarks"]
    rows = [_cells(row, len(cases)) for row in PROFILES if row.kind == kind]
    return markdown_table(header, rows, "lll" + "r" * len(cases) + "ll")


def _cells(row: Profile, cases: int) -> list[str]:
    codes = truth(row.kind, row.mode) if row.mode else None
    shown = [str(code) for code in codes] if codes else [""] * cases
    return [row.system, f"`{row.name}`", row.mode or "no equal", *shown, row.checked, row.note]


def _sources() -> str:
    sources = {row.system: row.source for row in PROFILES}
    return "Sources:\n\n" + "\n".join(f"- {system}: {source}" for system, source in sources.items())
