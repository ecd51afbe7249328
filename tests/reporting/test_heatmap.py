"""Heat maps: a PNG of a size that a page can hold, whatever the figures."""

from __future__ import annotations

import math
import struct
from pathlib import Path

from harmonize.reporting.heatmap import DPI, Panel, draw_heatmaps


def size(path: Path) -> tuple[int, int]:
    return struct.unpack(">II", path.read_bytes()[16:24])  # type: ignore[return-value]


def test_two_panels_with_a_gap_and_odd_names(tmp_path: Path) -> None:
    one = Panel(
        "a $x_1$", ["total", "layer 0"], ["a\nb", "a\nc"], [[1.0, math.nan], [-1.0, 0.0]], [[0.1] * 2] * 2
    )
    two = Panel("b", ["total"], ["a\nb"], [[0.5]], [[0.0]])
    (path,) = draw_heatmaps([one, two], [tmp_path / "map.png"], title="$ and _")
    wide, high = size(path)
    assert 300 < wide < 15 * DPI and 200 < high < 5 * DPI
    assert path.stat().st_mode & 0o777 == 0o600


def test_many_layers_make_a_taller_picture(tmp_path: Path) -> None:
    def tall(n: int) -> Panel:
        return Panel("x", [f"layer {i}" for i in range(n)], ["a\nb"], [[0.1]] * n, [[0.0]] * n)

    few, many = (size(draw_heatmaps([tall(n)], [tmp_path / f"{n}.png"])[0]) for n in (3, 40))
    assert many[1] > 4 * few[1]
    assert many[0] == few[0]
