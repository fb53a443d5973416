"""Elements of HTML and SVG as text; whatever comes from a user is escaped here."""

from __future__ import annotations

import html
import re

_SYMBOLS = re.compile(r"(?<![\w^])(?:(?P<base>[GW])\^(?P<up>acc|[AWZ])|C_(?P<down>[\w+-]+))(?!\w)")
_POWER = re.compile(r"(?<![\w^])2\^(-?\d+)")


def escaped(text: object) -> str:
    """Text for HTML, between tags or between the quotes of an attribute.

    Example:
        >>> escaped('<b> & "c"')
        '&lt;b&gt; &amp; &quot;c&quot;'
    """
    return html.escape(str(text), quote=True)


def element(name: str, content: str = "", **attributes: object) -> str:
    """An element; an underscore at the end of an attribute's name is dropped, others are hyphens.

    Args:
        name: of the element.
        content: its markup.
        attributes: their values, which are escaped; numbers have at most two decimals, and what is
            None is left out.

    Example:
        >>> element("text", escaped("a < b"), class_="tick", text_anchor="end", x=1.0)
        '<text class="tick" text-anchor="end" x="1">a &lt; b</text>'
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{content}</{name}>"


def _value(value: object) -> str:
    return f"{round(value, 2):g}" if isinstance(value, float) else escaped(value)


def typeset(text: str) -> str:
    """Text as HTML, with the method's symbols, powers of two and minus signs set as in print.

    Example:
        >>> typeset("W^acc of C_-1: 2^-6")
        'W<sup>acc</sup> of C<sub>\u22121</sub>: 2<sup>\u22126</sup>'
    """
    return _raised(_SYMBOLS.sub(_symbol, escaped(text)))


def paragraph(text: str) -> str:
    """A paragraph of text in which `code` stands between backquotes."""
    parts = text.split("`")
    marked = (
        element("code", escaped(part)) if index % 2 else typeset(part)
        for index, part in enumerate(parts)
    )
    return element("p", "".join(marked))


def svg_text(text: str) -> str:
    """What `typeset` gives, in the elements that SVG has for it."""
    parts = re.split(r"<(sup|sub)>(.*?)</\1>", typeset(text))
    written = [parts[0]]
    for kind, inner, after in zip(parts[1::3], parts[2::3], parts[3::3]):
        shift = 0.3 if kind == "sub" else -0.4
        written.append(element("tspan", inner, dy=f"{shift / 0.75:.3g}em", class_="small"))
        if after:
            written.append(element("tspan", after, dy=f"{-shift:g}em"))
    return "".join(written)


def _symbol(found: re.Match[str]) -> str:
    if found["base"]:
        return f"{found['base']}<sup>{found['up']}</sup>"
    return f"C<sub>{found['down'].replace('-', chr(0x2212))}</sub>"


def _raised(markup: str) -> str:
    return _POWER.sub(lambda found: f"2<sup>{found[1].replace('-', chr(0x2212))}</sup>", markup)
