"""Tables of text: aligned for a terminal, and in Markdown.

Every table that fxsim prints or writes is laid out here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fxsim.errors import InputError

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
