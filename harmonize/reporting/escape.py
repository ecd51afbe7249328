"""Text from configurations, status files and models, made safe for where it is shown.

Such text may hold anything: table separators, HTML, LaTeX commands, terminal control sequences.
"""

from __future__ import annotations

import html
import re
import unicodedata

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "–": "--",
    "→": r"$\rightarrow$",
    "≈": r"$\approx$",
    "†": r"\dag{}",
}
_MARKDOWN = re.compile(r"([\\`*_\[\]|~$])")


def clean(text: object, limit: int | None = None) -> str:
    """One line without control or direction-changing characters (terminal escapes among them).

    Args:
        text: Anything.
        limit: Cut to so many characters, with an ellipsis.
    """
    shown = (" " if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") else c for c in str(text))
    line = " ".join("".join(shown).split())
    if limit is not None and len(line) > limit:
        line = line[: limit - 1] + "…"
    return line


def markdown(text: object) -> str:
    """For a cell of a Markdown table: no markup, no HTML, no separator."""
    return _MARKDOWN.sub(r"\\\1", html.escape(clean(text), quote=False))


def latex(text: object) -> str:
    """For running LaTeX text: no commands."""
    return "".join(_LATEX.get(c, c) for c in clean(text))


def csv_cell(text: object) -> str:
    """For a CSV cell that a spreadsheet may open: no formula."""
    line = clean(text)
    return "'" + line if line[:1] in ("=", "+", "-", "@") else line
