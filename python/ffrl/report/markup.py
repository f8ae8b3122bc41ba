"""HTML that is escaped by construction: text becomes markup only by passing through `element`."""

import html
import re

_VOID = frozenset(("br", "img", "meta"))
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff]")


class Markup(str):
    """Text that is HTML already; every other `str` is escaped before it gets into a page."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """<tag attributes>children</tag>.

    children: `Markup` as it is, other text escaped. attributes: None leaves one out; class_ stands for class, and
    stroke_width for stroke-width.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{written}>")
    return Markup(f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """The children one after another, text escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def escape(text: str) -> Markup:
    """Text as HTML text or attribute value. Half characters of broken names are spelt out: UTF-8 cannot hold them."""
    whole = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", whole), quote=True))
