"""What the source text of a `_target_` says: signature, docstring, decorators. Nothing is imported or run.

Listings and help describe functions without loading torch, and without running a stranger's module.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

from harmonize.config.instantiate import plugins

SECTIONS: tuple[str, ...] = ("Formula", "Needs", "Costs", "Source")
_HEAD = re.compile(r"(\w+):(?: (.*))?$")
Definition = ast.FunctionDef | ast.ClassDef


@dataclass(frozen=True)
class Source:
    """A function or class as its file defines it.

    Attributes:
        module, name: Where it is defined.
        path: The file.
        summary: First line of the docstring.
        sections: Of `SECTIONS`, those that the docstring has; a section ends at an empty line or at the next one.
        inputs: Positional parameters; settings: keyword-only ones with their defaults, as written.
        decorators: As written, without the @.
    """

    module: str
    name: str
    path: Path
    summary: str
    sections: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    settings: Mapping[str, str | None] = field(default_factory=dict)
    decorators: tuple[str, ...] = ()


@lru_cache(maxsize=256)
def source_of(target: str) -> Source | None:
    """What a `_target_` names (dotted path, `module:name`, or a plugin), or None where no source can be read."""
    found = _defined_at(target)
    if found is None and (entry := plugins().get(target)) is not None:
        found = _defined_at(entry.value)
    return found


def file_of(module: str) -> Path | None:
    """The file of a module, found without importing its packages; a module of the working folder counts as well."""
    where: list[str] | None = [*sys.path, ""]
    origin = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, where)
        if spec is None:
            return None
        origin, where = spec.origin, list(spec.submodule_search_locations or [])
    return Path(origin) if origin and origin.endswith(".py") else None


@lru_cache(maxsize=64)
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file; an empty one where it cannot be read."""
    try:
        return ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def sections_of(docstring: str) -> dict[str, str]:
    """The sections of a cleaned docstring, lines joined."""
    found: dict[str, list[str]] = {}
    open_section: list[str] | None = None
    for line in docstring.splitlines():
        head = _HEAD.match(line)
        if head and head[1] in SECTIONS and head[2]:
            open_section = found.setdefault(head[1], [])
            open_section.append(head[2])
        elif not line.strip() or head:
            open_section = None
        elif open_section is not None:
            open_section.append(line.strip())
    return {name: " ".join(lines) for name, lines in found.items()}


def _defined_at(place: str) -> Source | None:
    module, colon, name = place.partition(":")
    if not colon:
        module, _, name = place.rpartition(".")
    return _find(module, name, depth=5) if module and name.isidentifier() else None


def _find(module: str, name: str, depth: int) -> Source | None:
    path = file_of(module)
    if path is None or not depth:
        return None
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return _source(module, path, node)
        if isinstance(node, ast.ImportFrom):  # a package that shows what one of its modules defines
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find(_absolute(module, path, node), alias.name, depth - 1)
    return None


def _absolute(module: str, path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.split(".")[: len(module.split(".")) - node.level + (path.name == "__init__.py")]
    return ".".join([*package, *filter(None, [node.module])])


def _source(module: str, path: Path, node: Definition) -> Source:
    docstring = inspect.cleandoc(ast.get_docstring(node) or "")
    inputs, settings = _signature(node)
    return Source(
        module,
        node.name,
        path,
        docstring.partition("\n")[0],
        sections_of(docstring),
        inputs,
        settings,
        tuple(ast.unparse(d) for d in node.decorator_list),
    )


def _signature(node: Definition) -> tuple[tuple[str, ...], dict[str, str | None]]:
    """Positional parameters, and keyword-only ones; of a class those of its `__init__`."""
    skip = 0
    if isinstance(node, ast.ClassDef):
        own = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if not own:
            return (), {}
        node, skip = own[0], 1
    a = node.args
    inputs = tuple(p.arg for p in (*a.posonlyargs, *a.args)[skip:])
    defaults = (None if d is None else ast.unparse(d) for d in a.kw_defaults)
    return inputs, dict(zip((p.arg for p in a.kwonlyargs), defaults, strict=True))
