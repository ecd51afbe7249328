"""Where a prepared data set came from: every file with its checksum, and the licence it was published under."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harmonize.data.prepare.folder import sha256_of
from harmonize.data.sources.source import Source


def provenance(name: str, source: Source, records: Mapping[str, int]) -> dict[str, Any]:
    """One source as `dataset.json` states it.

    Args:
        name: In this data set.
        source: Its files are read for their checksums.
        records: Form to number of records read.

    Raises:
        DataError: A file that cannot be read.
    """
    return {
        "name": name,
        "reader": source.name,
        "origin": source.origin,
        "licence": source.licence,
        "layout_verified": source.verified,
        "records": dict(sorted(records.items())),
        "notes": list(source.notes),
        "files": [
            {"file": shown, "bytes": file.stat().st_size, "sha256": sha256_of(file)}
            for file, shown in zip(source.files, _below_common(source.files), strict=True)
        ],
    }


def _below_common(files: Sequence[Path]) -> list[str]:
    """Paths below the deepest folder that holds all of them: what lies above is the machine's, not the data's."""
    if not files:
        return []
    common = os.path.commonpath([file.absolute().parent for file in files])
    return [file.absolute().relative_to(common).as_posix() for file in files]
