"""The guide's page of modes with its pictures, from what fxsim computes.

    python tests/support/modes_gallery.py

writes fxsim/guide/modes.md and fxsim/guide/modes/*.svg; a test compares them.
"""

from fractions import Fraction
from pathlib import Path

import numpy as np

import fxsim
from fxsim import OVERFLOWS, ROUNDINGS, Format, quantize
from fxsim.formats import STOCHASTIC
from fxsim.profiles import OVERFLOW_CASES, OVERFLOW_FORMAT, ROUNDING_CASES
from fxsim.report.charts import Scale
from fxsim.report.markup import element
from fxsim.report.tables import markdown_table

FOLDER = Path(fxsim.__file__).parent / "guide"
DROPPED = 4
"""Bits that the pictures' values lose."""
WIDE = Format(8, 7)
GRID = np.arange(-40, 41) / 2**DROPPED
"""-2.5 to 2.5 steps."""
ABOVE = np.arange(1, 33) / 2**DROPPED
"""Two steps, over which errors are averaged, and over their negatives."""
WORDS = [np.uint32(word << 28) for word in range(16)]
"""Every word of as many bits as are dropped."""

ROUNDING_RULES = {
    "floor": "Toward -infinity: the bits are dropped. An arithmetic shift to the right.",
    "ceil": "Toward +infinity.",
    "zero": "Toward zero: the magnitude is cut, as an integer division in C does.",
    "away": "Away from zero, to the next step outward.",
    "nearest_even": "To the nearest; a tie to the even code, as IEEE 754 does.",
    "nearest_odd": "To the nearest; a tie to the odd code.",
    "nearest_away": "To the nearest; a tie away from zero. The default.",
    "nearest_zero": "To the nearest; a tie toward zero.",
    "nearest_up": "To the nearest; a tie toward +infinity: half a step is added, then bits are dropped.",
    "nearest_down": "To the nearest; a tie toward -infinity.",
    "jam": "Bits are dropped, and the last one that stays becomes one, also of exact values (von Neumann).",
    "stochastic": "Up with the probability of the fraction: without bias at every value.",
    "stochastic_equal": "Up or down with probability 1/2 each; what is exact stays.",
}
OVERFLOW_RULES = {
    "saturate": "To the nearest code that there is. The default.",
    "saturate_symmetric": "As saturate, but the most negative code is never used.",
    "saturate_zero": "To zero.",
    "wrap": "The upper bits are dropped: modulo 2^bits.",
}

STYLE = (
    "svg{--paper:#fff;--ink:#1a1a1a;--soft:#595959;--rule:#d8d8d8;--one:#0072b2;--two:#c44e00}"
    "@media(prefers-color-scheme:dark){svg{--paper:#15171a;--ink:#e6e6e6;--soft:#a9aeb5;"
    "--rule:#3b3f45;--one:#56b4e9;--two:#f08a3c}}"
    ".paper{fill:var(--paper)}text{font:12px system-ui,sans-serif;fill:var(--soft)}"
    ".grid{stroke:var(--rule)}.ideal{stroke:var(--soft);stroke-dasharray:3 3}"
    ".code{fill:var(--one)}.error{fill:var(--two)}.end{text-anchor:end}.mid{text-anchor:middle}"
)


def outcomes(mode, values):
    """For each value its codes, each with its probability."""
    if mode not in STOCHASTIC:
        return [{int(code): Fraction(1)} for code in quantize(values, WIDE, rounding=mode).codes]
    found = [{} for _ in values]
    for word in WORDS:
        words = np.full(len(values), word)
        for row, code in zip(found, quantize(values, WIDE, rounding=mode, words=words).codes):
            row[int(code)] = row.get(int(code), Fraction(0)) + Fraction(1, len(WORDS))
    return found


def overflowed(mode, values):
    return [{int(code): 1} for code in quantize(values, OVERFLOW_FORMAT, overflow=mode).codes]


def errors(mode, values):
    """The mean errors at the values, in steps."""
    found = outcomes(mode, values)
    return [
        sum(share * code for code, share in row.items()) - Fraction(float(value))
        for value, row in zip(values, found)
    ]


def bias(mode, values):
    found = errors(mode, values)
    return sum(found) / len(found)


def largest(mode):
    return max(
        abs(code - Fraction(float(value)))
        for value, row in zip(ABOVE, outcomes(mode, ABOVE))
        for code in row
    )


def picture(title, values, found, labels):
    """Codes over values, and their errors, side by side."""
    half = 250
    height = 190
    left = 30
    top = 26
    most = float(max(abs(values)))
    highest = max(most, *(abs(code) for row in found for code in row))
    parts = [
        element("title", title),
        element("style", STYLE),
        element("rect", width=2 * half, height=height, class_="paper"),
    ]
    means = [float(sum(share * code for code, share in row.items())) for row in found]
    deepest = max(1, *(abs(mean - value) for mean, value in zip(means, values)))
    for start, name, limit in ((0, "code", highest), (half, "error, in steps", deepest)):
        across = Scale(-most, most, start + left, start + half - 8)
        down = Scale(-limit, limit, height - 22, top)
        parts.append(element("text", name, x=start + left, y=14))
        for label in labels:
            x = across(label)
            parts.append(element("text", f"{label}", x=x, y=height - 6, class_="mid"))
        for level in labels if start == 0 else (-limit, 0, limit):
            y = down(level)
            parts.append(element("line", x1=start + left, x2=start + half - 8, y1=y, y2=y,
                                 class_="grid"))  # fmt: skip
            parts.append(element("text", f"{level:g}", x=start + left - 5, y=y + 4, class_="end"))
        if start == 0:
            parts.append(element("line", x1=across(-most), y1=down(-most), x2=across(most),
                                 y2=down(most), class_="ideal"))  # fmt: skip
        for value, row in zip(values, found):
            for code, share in row.items():
                shown = code if start == 0 else code - float(value)
                if abs(shown) <= limit:
                    opacity = None if share == 1 else float(share)
                    parts.append(
                        element(
                            "circle",
                            cx=across(float(value)),
                            cy=down(shown),
                            r=1.8,
                            class_="error" if start else "code",
                            opacity=opacity,
                        )  # fmt: skip
                    )
    picture = element("svg", "".join(parts), xmlns="http://www.w3.org/2000/svg", role="img",
                      viewBox=f"0 0 {2 * half} {height}", width=2 * half, height=height)  # fmt: skip
    return picture + "\n"


def rounding_picture(mode):
    return picture(f"{mode}: codes and errors", GRID, outcomes(mode, GRID), [-2, -1, 0, 1, 2])


def overflow_picture(mode):
    values = np.arange(-20, 21)
    return picture(f"{mode}: codes and errors", values, overflowed(mode, values),
                   [-20, -8, 0, 7, 20])  # fmt: skip


def truth_cell(row):
    return " or ".join(map(str, sorted(row)))


def rounding_truth():
    header = ["mode", *(f"{case:g}" for case in ROUNDING_CASES)]
    cases = np.array(ROUNDING_CASES)
    rows = [[f"`{mode}`", *map(truth_cell, outcomes(mode, cases))] for mode in ROUNDINGS]
    return markdown_table(header, rows, "l" + "r" * len(cases))


def overflow_truth():
    header = ["mode", *map(str, OVERFLOW_CASES)]
    cases = np.array(OVERFLOW_CASES)
    rows = [[f"`{mode}`", *map(truth_cell, overflowed(mode, cases))] for mode in OVERFLOWS]
    return markdown_table(header, rows, "l" + "r" * len(cases))


def bias_table():
    header = ["mode", "bias above 0", "bias below 0", "bias of both", "largest error"]
    rows = [
        [
            f"`{mode}`",
            *(f"{float(bias(mode, part)):+.3f}" for part in (ABOVE, -ABOVE)),
            f"{float(bias(mode, np.append(ABOVE, -ABOVE))):+.3f}",
            f"{float(largest(mode)):.3f}",
        ]
        for mode in ROUNDINGS
    ]
    return markdown_table(header, [[cell.replace("+0.000", "0") for cell in row] for row in rows],
                          "lrrrr")  # fmt: skip


def page():
    bits = OVERFLOW_FORMAT.bits
    parts = [
        "# Rounding and overflow, mode by mode",
        "What each mode does, as fxsim computes it. [numerics.md](../numerics.md) has the rules, "
        "[formats](formats.md) the names.\n`fxsim profiles` translates the names of other tools.",
        "## Rounding",
        "Values lose four bits on their way to a step of 1. A code with a probability is drawn as "
        "faint as it is rare. The dashed line\nis the value itself. What codes become:",
        rounding_truth(),
        "The bias is the mean error, in steps, over the multiples of 1/16 from 1/16 to 2, and over their "
        "negatives. A mode whose two biases\ndiffer pulls values toward zero, or away from it.",
        bias_table(),
    ]
    for mode in ROUNDINGS:
        parts += [f"### `{mode}`", ROUNDING_RULES[mode], f"![{mode}](modes/{mode}.svg)"]
    parts += [
        "## Overflow",
        f"Values in a format of {bits} signed bits, {OVERFLOW_FORMAT.min_code} to "
        f"{OVERFLOW_FORMAT.max_code}:",
        overflow_truth(),
    ]
    for mode in OVERFLOWS:
        parts += [f"### `{mode}`", OVERFLOW_RULES[mode], f"![{mode}](modes/{mode}.svg)"]
    return "\n\n".join(parts) + "\n"


def files():
    """Name below the guide's folder -> content."""
    found = {"modes.md": page()}
    found |= {f"modes/{mode}.svg": rounding_picture(mode) for mode in ROUNDINGS}
    found |= {f"modes/{mode}.svg": overflow_picture(mode) for mode in OVERFLOWS}
    return found


if __name__ == "__main__":
    (FOLDER / "modes").mkdir(exist_ok=True)
    for name, content in files().items():
        (FOLDER / name).write_text(content, encoding="utf-8")
