"""Charts as SVG: lines, bars, histograms.  Each mark has its values in a title, which the page shows
under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fxsim.formats import Format
from fxsim.report.markup import element, escaped, svg_text, typeset

WIDTH = 420
COLOURS = 7
"""Colours of the page's style: series-0, in which float is drawn, and so on."""


@dataclass(frozen=True)
class Series:
    """A line of a chart: its name and its points, from left to right."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Scale:
    """Values from `low` to `high` on pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value."""
        low = self._of(self.low)
        high = self._of(self.high)
        share = (self._of(value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers from `low` to `high`, at most so many.

    Example:
        >>> ticks(0, 0.33)
        [0.0, 0.1, 0.2, 0.3]
    """
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    first = math.ceil(low / step - 1e-9)
    return [round(n * step, 12) for n in range(first, math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from `low` to `high`; more where these are few, fewer where
    they are many.

    Example:
        >>> log_ticks(0.02, 1.5)
        [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        found = [float(f"{factor}e{power}") for power in powers for factor in factors]
        found = [value for value in found if low <= value <= high]
        if len(found) > 3:
            return found[:: math.ceil(len(found) / 8)]
    return found


def line_chart(title: str, series: Sequence[Series], across: str, log: bool = False) -> str:
    """Lines over `across`, the name of the horizontal axis; `log` asks for a logarithmic axis where
    the values span more than a factor of five.

    Every place on the horizontal axis has the values of all lines in its title.
    """
    height = 260
    left = 50
    top = 14
    bottom = 36
    values = [y for each in series for _, y in each.points]
    places = sorted({x for each in series for x, _ in each.points})
    log = log and min(values) > 0 and max(values) > 5 * min(values)
    low, high = (
        (min(values) / 1.05, max(values) * 1.05) if log else (0.0, max(values) * 1.05 or 1.0)
    )
    down = Scale(low, high, height - bottom, top, log)
    right = Scale(places[0], places[-1] + (len(places) == 1), left + 8, WIDTH - 10)
    marks = [
        _level(down(value), left, f"{value:g}")
        for value in (log_ticks(low, high) if log else ticks(low, high))
    ]
    marks += [_below(right(place), height - bottom, f"{place:g}") for place in _shown(places)]
    marks.append(
        element("text", svg_text(across), x=(left + WIDTH) / 2, y=height - 4, class_="name")
    )
    marks += [_line(index, each, right, down) for index, each in enumerate(series)]
    half = (right(places[-1]) - right(places[0])) / max(len(places) - 1, 1) / 2
    for place in places:
        tip = [f"{across} {place:g}"]
        tip += [f"{each.name}: {y:.4g}" for each in series for x, y in each.points if x == place]
        hit = element("title", escaped("\n".join(tip)))
        start = right(place) - half
        marks.append(
            element(
                "rect",
                hit,
                x=start,
                y=top,
                width=2 * half or 20,
                height=height - top - bottom,
                class_="hit",
            )  # fmt: skip
        )
    note = " (logarithmic)" if log else ""
    return figure(title + note, svg(title, height, "".join(marks)), legend(series))


def _shown(places: Sequence[float]) -> Sequence[float]:
    """At most nine of the places, evenly apart."""
    return places[:: math.ceil(len(places) / 9)]


def _line(index: int, series: Series, right: Scale, down: Scale) -> str:
    points = [(right(x), down(y)) for x, y in series.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    marks = element("path", d=path, class_="line")
    marks += "".join(element("use", href=f"#mark-{index % COLOURS}", x=x, y=y) for x, y in points)
    return element("g", marks, class_=_style(index))


def _style(index: int) -> str:
    return f"series-{index % COLOURS} dash-{index // COLOURS % 3}"


def _level(y: float, left: float, label: str) -> str:
    line = element("line", x1=left, x2=WIDTH - 4, y1=y, y2=y, class_="grid")
    return line + element("text", svg_text(label), x=left - 6, y=y + 4, class_="end")


def _below(x: float, y: float, label: str) -> str:
    return element("text", svg_text(label), x=x, y=y + 16, class_="name")


def legend(series: Sequence[Series]) -> str:
    """The names of the lines beside their strokes; nothing for one line."""
    items = []
    for index, each in enumerate(series):
        stroke = element("path", d="M1 7H27", class_="line")
        stroke += element("use", href=f"#mark-{index % COLOURS}", x=14, y=7)
        sample = element("svg", element("g", stroke, class_=_style(index)), viewBox="0 0 28 14",
                         class_="sample", aria_hidden="true")  # fmt: skip
        items.append(element("li", sample + element("span", typeset(each.name))))
    return element("ul", "".join(items), class_="legend") if len(items) > 1 else ""


def bar_chart(title: str, rows: Sequence[tuple[str, float, str]], reference: float | None) -> str:
    """A horizontal bar for each row: its name, value and the value as text.

    reference: where a line stands, as float's cost; None for none.
    """
    step = 20
    top = 6
    left = 118
    height = top + step * len(rows) + 4
    most = max([value for _, value, _ in rows] + [reference or 0.0]) or 1.0
    right = Scale(0.0, most, left, WIDTH - 62)
    marks = []
    if reference is not None:
        x = right(reference)
        marks.append(element("line", x1=x, x2=x, y1=0, y2=height, class_="reference"))
    for index, (name, value, shown) in enumerate(rows):
        y = top + step * index
        tip = element("title", escaped(f"{name}: {shown}"))
        kind = "bar series-0" if name == "FL" else "bar series-1"
        marks.append(
            element("text", svg_text(_short(name)), x=left - 6, y=y + 14, class_="end")
            + element(
                "rect",
                tip,
                x=left,
                y=y + 3,
                width=max(right(value) - left, 0.5),
                height=step - 6,
                class_=kind,
            )  # fmt: skip
            + element("text", svg_text(shown), x=right(value) + 5, y=y + 14, class_="value")
        )
    return figure(title, svg(title, height, "".join(marks)))


def _short(name: str) -> str:
    return name if len(name) <= 16 else f"{name[:15]}…"


MOST_BINS = 24
"""Powers of two that a histogram draws below the format's step; what is smaller joins the last."""


def histogram(
    name: str, format: Format | None, start: dict, end: dict, span: tuple[int, int]
) -> str:
    """Shares of magnitudes by powers of two, at the end of training (bars) and at its start (line),
    over a band from the format's step to its range.

    start, end: see analysis.fixed_run.histograms.  span: the exponents that the axis shows.
    """
    width = 200
    height = 92
    base = 70
    low, high = span
    right = Scale(low, high, 4, width - 4)
    first = shares(start, low)
    last = shares(end, low)
    most = max([*first.values(), *last.values(), 1e-9])
    down = Scale(0, most, base, 12)
    marks = []
    if format is not None:
        x = right(max(format.step_exp, low))
        band = right(min(format.range_exp, high)) - x
        marks.append(
            element("rect", x=x, y=4, width=max(band, 0.0), height=base - 4, class_="band")
        )
        for at in (format.step_exp, format.range_exp):
            if low <= at <= high:
                x = right(at)
                marks.append(element("line", x1=x, x2=x, y1=4, y2=base, class_="edge"))
                marks.append(
                    element(
                        "text",
                        svg_text(f"2^{at}"),
                        x=min(max(x, 16), width - 16),
                        y=base + 14,
                        class_="name",
                    )  # fmt: skip
                )
    bars = "".join(
        f"M{right(at):.1f} {base}V{down(share):.1f}H{right(at + 1) - 0.6:.1f}V{base}Z"
        for at, share in last.items()
    )
    marks.append(element("path", d=bars, class_="bar series-1"))
    outline = f"M{right(low):.1f} {base}" + "".join(
        f"V{down(first.get(at, 0.0)):.1f}H{right(at + 1):.1f}" for at in range(low, high)
    )
    marks.append(element("path", d=outline, class_="outline"))
    marks.append(element("line", x1=4, x2=width - 4, y1=base, y2=base, class_="axis"))
    for at in range(low, high):
        before = first.get(at, 0.0)
        after = last.get(at, 0.0)
        if before or after:
            smaller = "or smaller" if at == low else f"to 2^{at + 1}"
            tip = f"{name}\n2^{at} {smaller}\nend {after:.2%}\nstart {before:.2%}"
            x = right(at)
            marks.append(
                element(
                    "rect",
                    element("title", escaped(tip)),
                    x=x,
                    y=4,
                    width=right(at + 1) - x,
                    height=base - 4,
                    class_="hit",
                )  # fmt: skip
            )
    return svg(f"{name}: shares of magnitudes by powers of two", height, "".join(marks), width)


def shares(counted: dict, low: int) -> dict[int, float]:
    """Exponent -> share of all elements; what is below 2**low counts at low.

    Example:
        >>> shares({"zeros": 1, "least": -3, "counts": [1, 1, 2]}, -2)
        {-2: 0.4, -1: 0.4}
    """
    total = counted["zeros"] + sum(counted["counts"])
    found: dict[int, int] = {}
    for index, count in enumerate(counted["counts"]):
        at = max(counted["least"] + index, low)
        found[at] = found.get(at, 0) + count
    return {at: count / total for at, count in found.items() if count}


def svg(title: str, height: float, content: str, width: float = WIDTH) -> str:
    """A picture with its title."""
    return element(
        "svg", content, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=title
    )


def figure(title: str, picture: str, below: str = "") -> str:
    """A picture below its title."""
    return element("figure", element("figcaption", typeset(title)) + picture + below)


MARKS = (
    '<circle r="3"/>',
    '<rect x="-3" y="-3" width="6" height="6"/>',
    '<path d="M0-3.8L3.6 2.8H-3.6Z"/>',
    '<path d="M0-4L4 0L0 4L-4 0Z"/>',
    '<path d="M0 3.8L3.6-2.8H-3.6Z"/>',
    '<path d="M-3-3L3 3M-3 3L3-3" class="stroke"/>',
    '<path d="M-4 0H4M0-4V4" class="stroke"/>',
)
"""The marks of the series' points, about (0, 0)."""


def mark_definitions() -> str:
    """What the charts' points refer to; once a page."""
    marks = (element("g", mark, id=f"mark-{index}") for index, mark in enumerate(MARKS))
    return element("svg", element("defs", "".join(marks)), class_="hidden", aria_hidden="true")
