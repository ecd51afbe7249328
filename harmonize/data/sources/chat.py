"""Chat transcripts: `messages` in OpenAI's style or `conversations` in ShareGPT's, one conversation a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harmonize.data.example import Role
from harmonize.data.jsonl import kind_of
from harmonize.data.records import Chat, Record
from harmonize.data.sources.fields import encodable, fail, optional
from harmonize.data.sources.files import Paths, role_files, unique_stems
from harmonize.data.sources.rows import Row, rows
from harmonize.data.sources.source import Source
from harmonize.errors import did_you_mean

SUFFIXES = (".jsonl", ".json", ".parquet")
# Column of the turns -> the keys of a turn's speaker and text.
LAYOUTS = {"messages": ("role", "content"), "conversations": ("from", "value")}
SPEAKERS = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatgpt": "assistant",
}  # fmt: skip
# What tools said is neither asked nor answered by anyone; such turns are left out and counted in `meta`.
TOOLS = ("tool", "function", "function_call", "function_response", "observation")


def read(
    *,
    name: str = "chat",
    root: str | None = None,
    role: str | None = None,
    forget: str | Sequence[str] | None = None,
    neighbor: str | Sequence[str] | None = None,
    retain: str | Sequence[str] | None = None,
    general: str | Sequence[str] | None = None,
    subject: str | None = None,
    licence: str = "",
    origin: str = "",
) -> Source:
    """Reads conversations from JSON Lines, a JSON array or Parquet as `Chat`s; other columns go to `meta`.

    A turn is {role, content} under `messages` (content may be a list of parts, of which the texts are read) or
    {from, value} under `conversations`. Turns of tools and turns without text are left out.

    Args:
        name: Of the source.
        root: A folder or file, or hf:owner/name. Alone, files and sub-folders named after roles are read.
        role: Role of everything that no role's own path names.
        forget, neighbor, retain, general: Transcripts of that role: files, folders, patterns or lists of these.
        subject: Column of whom or what a conversation is about; null makes each one a subject.
        licence: Licence of the data.
        origin: Where it is published.

    Raises:
        ConfigError: Nothing to read, or an unknown role.
        DataError: A row without turns or with an unknown speaker; file and line are named.

    Source: the OpenAI chat format, and the ShareGPT format as training tools read it.
    """
    named: dict[str, Paths] = {"forget": forget, "neighbor": neighbor, "retain": retain, "general": general}
    found = role_files(name, root, role, named, SUFFIXES)
    stems = unique_stems(file for file, _ in found)

    def stream() -> Iterator[Record]:
        for file, own in found:
            assert own is not None
            for row in rows(file):
                yield _chat(
                    file, row, own, f"{name}-{stems[file]}-{row.number}", f"{name}/{stems[file]}", subject
                )

    return Source(name, stream, tuple(stems), licence, origin)


def _chat(file: Path, row: Row, role: Role, identity: str, source: str, subject: str | None) -> Chat:
    column = next((c for c in LAYOUTS if row.data.get(c)), None)
    if column is None:
        fail(
            file,
            row,
            "messages",
            f"missing, and so is 'conversations' (columns found: {', '.join(row.data)})",
        )
    turns = row.data[column]
    if not isinstance(turns, list):
        fail(file, row, column, f"expected a list of turns, found {kind_of(turns)}")
    messages: list[tuple[str, str]] = []
    for number, turn in enumerate(turns, 1):
        if (said := _turn(file, row, column, turn, number)) is not None:
            messages.append(said)
    if not any(speaker == "user" for speaker, _ in messages):
        fail(file, row, column, "no turn of a user")
    meta = {k: v for k, v in row.data.items() if k not in (column, subject)}
    if dropped := len(turns) - len(messages):
        meta["turns_left_out"] = dropped
    return Chat(
        id=identity,
        role=role,
        messages=tuple(messages),
        subject=optional(file, row, subject, identity),
        source=source,
        meta=meta,
    )


def _turn(file: Path, row: Row, column: str, turn: Any, number: int) -> tuple[str, str] | None:
    who, what = LAYOUTS[column]
    if not isinstance(turn, dict) or not isinstance(turn.get(who), str):
        fail(file, row, column, f"turn {number}: expected {{{who}, {what}}}, found {kind_of(turn)}")
    speaker = turn[who].lower()
    if speaker in TOOLS:
        return None
    if speaker not in SPEAKERS:
        fail(
            file,
            row,
            column,
            f"turn {number}: unknown speaker '{turn[who]}'. {did_you_mean(speaker, SPEAKERS)}",
        )
    content = turn.get(what)
    if isinstance(content, list):
        content = "\n".join(
            p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str)
        )
    if content is None or content == "":
        return None
    if not isinstance(content, str):
        fail(file, row, column, f"turn {number}: expected text under '{what}', found {kind_of(content)}")
    return SPEAKERS[speaker], encodable(file, row, column, content)
