"""The frame of a page: complete in itself, light and dark, and forbidden by its own policy to load anything."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from markupsafe import Markup

from harmonize.reporting.escape import clean
from harmonize.reporting.markup.elements import tag, words

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


def document(title: str, body: Sequence[object], style: str = "", script: str = "") -> str:
    """A whole page as text.

    Args:
        title: Of the window.
        body: Its elements.
        style: Rules beside those of all pages.
        script: Runs at the end; the page's policy allows no other.
    """
    policy, run = _POLICY, None
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, run = f"{policy}; script-src 'sha256-{digest}'", tag("script", Markup(script))
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", clean(title, 120)),
        tag("style", Markup(asset("harmonize.reporting.markup", "base.css") + style)),
    ]
    html = tag("html", tag("head", *head), tag("body", *body, run), lang="en")
    return f"<!doctype html>\n{html}\n"


def page(title: str, body: Sequence[object]) -> str:
    """A page of a title and what stands below it."""
    return document(title, [tag("h1", words(title, None)), *body])


def asset(package: str, name: str) -> str:
    """A style sheet or script that lies beside the code."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def picture(caption: str, path: Path) -> Markup:
    """A figure's file, taken into the page."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    # written together here: `clean` would look at every letter of it
    source = Markup(f"data:{_TYPES[path.suffix]};base64,{data}")
    return tag("figure", tag("img", alt=caption, src=source), tag("figcaption", caption))
