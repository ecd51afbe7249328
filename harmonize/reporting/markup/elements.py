"""Elements of HTML and SVG whose text is always escaped."""

from __future__ import annotations

from collections.abc import Iterable

from markupsafe import Markup, escape

from harmonize.reporting.escape import clean

_VOID = frozenset(("br", "img", "meta", "circle", "line", "path", "polygon", "polyline", "rect", "use"))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are not Markup are text and are escaped, as every attribute is.

    Args:
        name: Of the element.
        children: In order; None is left out.
        attributes: `class_` is class, `data_m` is data-m; None is left out.
    """
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
        if value is not None
    )
    inside = join(children)
    if not inside and name in _VOID:
        return Markup("<{}{}/>").format(Markup(name), given)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), given, inside)


def join(children: Iterable[object]) -> Markup:
    """The children one after another; None is left out."""
    return Markup("").join(escape(child) for child in children if child is not None)


def words(text: object, limit: int | None = 160) -> Markup:
    """Foreign text (names, answers): one line without control characters, whose direction ends where it ends."""
    return tag("bdi", clean(text, limit))


def _attribute(value: object) -> object:
    if isinstance(value, float):
        return number(value)
    return value if isinstance(value, Markup) else clean(value)


def number(value: float) -> str:
    """A coordinate, to a tenth of a pixel."""
    text = f"{value:.1f}"
    return text.removesuffix(".0")
