"""Prompts for rewriters that are language models: one text per form in `conf/prompts`, which a user can replace."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harmonize.config.paths import share
from harmonize.data.corpus import content_hash
from harmonize.data.unify.task import Task
from harmonize.errors import ConfigError, did_you_mean

# form -> (placeholders that its prompt must have, further ones that it may have)
PLACEHOLDERS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "passage": (frozenset({"text"}), frozenset({"subject"})),
    "choice": (frozenset({"question", "answer"}), frozenset({"choices", "subject"})),
    "cloze": (frozenset({"question", "answer"}), frozenset({"subject"})),
    "chat": (frozenset({"messages"}), frozenset({"subject"})),
    "qa": (frozenset({"question", "answer"}), frozenset({"subject"})),
    "anchor": (frozenset({"question"}), frozenset({"answer", "subject", "text"})),
}
# A brace before a quote or another brace is JSON that the prompt shows, not a placeholder.
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")

_FILLERS: dict[str, Callable[[Task], str]] = {
    "text": lambda task: task.text,
    "question": lambda task: task.question,
    "answer": lambda task: task.answer,
    "subject": lambda task: task.subject,
    "choices": lambda task: "\n".join(f"- {choice}" for choice in task.choices),
    "messages": lambda task: "\n".join(f"{speaker}: {text}" for speaker, text in task.messages),
}


@dataclass(frozen=True)
class Prompts:
    """The prompt of every form.

    Attributes:
        texts: form -> text with {placeholders}.
    """

    texts: Mapping[str, str]

    @classmethod
    def load(cls, folder: str | None = None) -> Prompts:
        """The shipped prompts, replaced by those of a folder of one's own.

        Args:
            folder: Holds `<form>.txt` for the forms whose prompt is to be replaced.

        Raises:
            ConfigError: No such folder or no prompts in it; a file of another name, with unknown or missing
                placeholders, empty or not UTF-8. All problems together, each with its file.
        """
        shipped = share("conf") / "prompts"
        problems: list[str] = []
        texts = {form: _read(shipped / f"{form}.txt", problems) for form in PLACEHOLDERS}
        for file in _own_files(Path(folder).expanduser()) if folder else ():
            if file.stem in PLACEHOLDERS:
                texts[file.stem] = _read(file, problems)
            else:
                hint = did_you_mean(file.stem, PLACEHOLDERS)
                problems.append(f"{file}: there is no form '{file.stem}'. {hint} Rename the file.")
        if problems:
            raise ConfigError(problems)
        return cls(texts)

    def render(self, task: Task) -> str:
        """The prompt of a task. Braces inside the material are left alone."""
        return _PLACEHOLDER.sub(lambda found: _FILLERS[found.group(1)](task), self.texts[task.form])

    @property
    def hashes(self) -> dict[str, str]:
        """Content hash of the text of every form."""
        return {form: content_hash(text) for form, text in sorted(self.texts.items())}


def _own_files(folder: Path) -> Iterable[Path]:
    if not folder.is_dir():
        raise ConfigError(
            f"rewriter.prompts={folder}: there is no such folder. Copy {share('conf') / 'prompts'}, change the texts "
            "and give the copy, or leave it out: rewriter.prompts=null."
        )
    files = sorted(folder.glob("*.txt"))
    if not files:
        names = ", ".join(f"{form}.txt" for form in PLACEHOLDERS)
        raise ConfigError(f"rewriter.prompts={folder}: holds no prompts. Expected one or more of {names}.")
    return files


def _read(file: Path, problems: list[str]) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        problems.append(f"{file}: not UTF-8. Convert it: iconv -f latin1 -t utf-8 {file.name}")
        return ""
    except OSError as error:
        problems.append(f"{file}: cannot be read ({error.strerror or error}).")
        return ""
    required, optional = PLACEHOLDERS[file.stem]
    found = set(_PLACEHOLDER.findall(text))
    for name in sorted(found - required - optional):
        problems.append(
            f"{file}: unknown placeholder {{{name}}}. {did_you_mean(name, required | optional)} Correct it."
        )
    for name in sorted(required - found):
        problems.append(
            f"{file}: the placeholder {{{name}}} is missing. Write it where the {name} is to stand."
        )
    return text
