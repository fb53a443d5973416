"""Tables: aligned text for a terminal, Markdown, HTML.

Every table that fxsim prints or writes is laid out here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from fxsim.errors import InputError
from fxsim.report.markup import element, typeset

SHORT = 24
"""Cells of so many letters are not broken into lines on a page."""

LEFT = "l"
RIGHT = "r"


def text_table(
    header: Sequence[str] | None, rows: Iterable[Sequence[str]], align: str | None = None
) -> str:
    """A table of aligned columns, two spaces apart, with a line of hyphens below the header.

    Args:
        header: the names of the columns; None for a table without a header.
        rows: the cells, row after row.
        align: one letter for each column, 'l' (left) or 'r' (right).  The default is the first
            column to the left and all others to the right.

    Returns:
        The lines of the table, without a newline at the end and without spaces at line ends.

    Raises:
        InputError: a row has more or fewer cells than the table has columns, or `align` has
            another letter or another length.

    Example:
        >>> print(text_table(["layer", "bits"], [["conv1", "8"], ["fc1", "12"]]))
        layer  bits
        -----  ----
        conv1     8
        fc1      12
    """
    lines = _checked(header, rows)
    if not lines:
        return ""
    columns = len(lines[0])
    align = _alignment(align, columns, LEFT + RIGHT * (columns - 1))
    widths = [max(len(line[column]) for line in lines) for column in range(columns)]
    if header is not None:
        lines.insert(1, ["-" * width for width in widths])
    return "\n".join(_text_line(line, widths, align) for line in lines)


def markdown_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], align: str | None = None
) -> str:
    r"""A Markdown table; a `|` in a cell is written as `\|`.

    Args:
        header: the names of the columns.
        rows: the cells, row after row.
        align: one letter for each column, 'l' (left, the default) or 'r' (right).

    Returns:
        The lines of the table, without a newline at the end.

    Raises:
        InputError: as for `text_table`.

    Example:
        >>> print(markdown_table(["layer", "bits"], [["conv1", "8"]], "lr"))
        | layer | bits |
        | --- | ---: |
        | conv1 | 8 |
    """
    header, *rows = _checked(header, rows)
    align = _alignment(align, len(header), LEFT * len(header))
    rule = ["---:" if letter == RIGHT else "---" for letter in align]
    return "\n".join(_markdown_line(line) for line in (header, rule, *rows))


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], caption: str, align: str | None = None
) -> str:
    """A table in HTML; cells that begin with a number carry it, for the page to sort by.

    Args:
        header: the names of the columns.
        rows: the cells, row after row, as text; they are escaped.
        caption: what the table shows, for those who do not see it.
        align: one letter for each column, 'l' or 'r'.  The default is the first column and those
            with a cell that begins with no number to the left, all others to the right.

    Returns:
        The element.

    Raises:
        InputError: as for `text_table`.

    Example:
        >>> table = html_table(["layer", "step"], [["conv<1>", "2^-8"]], "Steps")
        >>> '<th class="l" scope="row">conv&lt;1&gt;</th>' in table
        True
        >>> '<td class="r short" data-value="0.00390625">2<sup>\u22128</sup></td>' in table
        True
    """
    header, *lines = _checked(header, rows)
    columns = list(zip(*lines)) or [() for _ in header]
    numeric = [all(number_in(cell) is not None for cell in column if cell) for column in columns]
    default = LEFT + "".join(RIGHT if each else LEFT for each in numeric[1:])
    align = _alignment(align, len(header), default)
    head = "".join(
        element("th", typeset(cell), class_=letter, scope="col")
        for cell, letter in zip(header, align)
    )
    body = "".join(element("tr", _html_cells(line, align)) for line in lines)
    table = (
        element("caption", typeset(caption))
        + element("thead", element("tr", head))
        + element("tbody", body)
    )
    return element("div", element("table", table), class_="wide", tabindex=0, role="region",
                   aria_label=caption)  # fmt: skip


def _html_cells(line: Sequence[str], align: str) -> str:
    cells = [element("th", typeset(line[0]), class_=align[0], scope="row")]
    for cell, letter in zip(line[1:], align[1:]):
        value = number_in(cell)
        kind = f"{letter} fails" if cell.startswith("fail") else letter
        kind += " short" if len(cell) <= SHORT else ""
        given = None if value is None else f"{value:.12g}"
        cells.append(element("td", typeset(cell), class_=kind, data_value=given))
    return "".join(cells)


_NUMBER = re.compile(r"2\^-?\d{1,3}(?!\d)|[+-]?\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")


def number_in(cell: str) -> float | None:
    """The number that a cell begins with; None where there is none.

    Example:
        >>> [number_in(cell) for cell in ("1,234 (0.5)", "-3%", "2^-2", "1e-3", "conv1")]
        [1234.0, -3.0, 0.25, 0.001, None]
    """
    found = _NUMBER.match(cell)
    if not found:
        return None
    base, power, exponent = found[0].partition("^")
    value = 2.0 ** int(exponent) if power else float(base.replace(",", ""))
    return value if math.isfinite(value) else None


def _checked(header: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> list[list[str]]:
    """The header, if there is one, and the rows, all of one length."""
    lines = [list(row) for row in rows]
    if header is not None:
        lines.insert(0, list(header))
    for number, line in enumerate(lines):
        if len(line) != len(lines[0]):
            raise InputError(
                f"line {number} of the table has {len(line)} cells, line 0 has {len(lines[0])}; "
                f"give every row as many cells as there are columns"
            )
    return lines


def _alignment(align: str | None, columns: int, default: str) -> str:
    if align is None:
        return default
    if len(align) != columns or set(align) - {LEFT, RIGHT}:
        raise InputError(
            f"align must be one letter, {LEFT!r} or {RIGHT!r}, for each of {columns} columns, got "
            f"{align!r}"
        )
    return align


def _text_line(cells: Sequence[str], widths: Sequence[int], align: str) -> str:
    padded = (
        cell.rjust(width) if letter == RIGHT else cell.ljust(width)
        for cell, width, letter in zip(cells, widths, align)
    )
    return "  ".join(padded).rstrip()


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
