"""Drawings as SVG that stands in a page: every text in it is escaped, every shape can be named for a screen reader."""

import re
import unicodedata

from markupsafe import Markup, escape

Number = int | float

# What turns the direction of the text around it: shown by its number, so that no name rewrites its line.
_TURNS = dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C))


def plain(text: str) -> str:
    """Return a text as one line that a page can hold: control characters as spaces, what turns text by its number.

    Args:
        text: Whatever a file, a class or a card is called.
    """
    told = "".join(f"\\u{ord(c):04x}" if ord(c) in _TURNS else c for c in text)
    told = told.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return re.sub(r"\s+", " ", "".join(" " if unicodedata.category(c) == "Cc" else c for c in told))


def element(name: str, *children: str, **attributes: str | Number | None) -> Markup:
    """Write an element; what is not Markup already is escaped.

    Args:
        name: Its name.
        children: Texts and elements inside it.
        attributes: By name, `_` for `-` and behind words that Python keeps for itself; None is left out.
    """
    told = [
        Markup(' {}="{}"').format(_attribute(key), _value(value))
        for key, value in attributes.items()
        if value is not None
    ]
    inside = Markup("").join(
        child if isinstance(child, Markup) else escape(plain(child)) for child in children
    )
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), Markup("").join(told), inside)


def drawing(*children: str, width: Number, height: Number, label: str, class_: str | None = None) -> Markup:
    """Write a drawing that a screen reader takes for one picture.

    Args:
        children: What is drawn.
        width: In units of the drawing, which are pixels where there is room.
        height: Likewise.
        label: What it shows, in words.
        class_: Of the style sheet.
    """
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=label,
        class_=class_,
    )


def hint(text: str) -> Markup:
    """Write what a shape says when the pointer rests on it."""
    return element("title", text)


def text(
    words: str,
    x: Number,
    y: Number,
    *,
    anchor: str | None = None,
    class_: str | None = None,
    turn: str | None = None,
) -> Markup:
    """Write a line of text.

    Args:
        words: The text.
        x: Where it starts, has its middle or ends, as `anchor` says.
        y: Its base line.
        anchor: `middle` or `end`; None is its start.
        class_: Of the style sheet.
        turn: SVG's `transform`.
    """
    return element("text", words, x=x, y=y, text_anchor=anchor, class_=class_, transform=turn)


def line(x1: Number, y1: Number, x2: Number, y2: Number, class_: str) -> Markup:
    """Draw a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def rectangle(
    x: Number,
    y: Number,
    width: Number,
    height: Number,
    class_: str,
    *,
    says: str | None = None,
    **more: str | Number | None,
) -> Markup:
    """Draw a rectangle, with what it says when the pointer rests on it."""
    inside = () if says is None else (hint(says),)
    return element("rect", *inside, x=x, y=y, width=width, height=height, class_=class_, **more)


def _attribute(key: str) -> Markup:
    return Markup(key.rstrip("_").replace("_", "-"))


def _value(value: str | Number) -> str:
    return plain(value) if isinstance(value, str) else f"{value:.6g}"
