"""Curves of a run as a long table and as a figure, in both formats."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from harmonize.evaluation.report import curve
from harmonize.reporting.layer_curves import RESULT, draw_panels, to_csv, write_curves
from harmonize.tracking.metric import Metric
from harmonize.tracking.results import build_results, read_results, write_results


def curves(n: int = 3) -> dict[str, Any]:
    def line(panel: str, y: str, high: float) -> dict[str, Any]:
        points = [
            (float(i), Metric(high * i / n, 12, None if i == 0 else 0.0, None if i == 0 else high))
            for i in range(n)
        ]
        return curve(panel, "layer", y, points)

    own = {
        "forget_lens_probability": line("logit lens", "probability", 0.8),
        "retain_lens_probability": line("logit lens", "probability", 1.0),
        "forget_answer_probe_control": line("answer probe", "accuracy", 0.2),
        "forget_lens_top1": line("", "share", 0.9),
        "remind_forget_rise": curve(
            "loss landscape", "replaced tokens", "$nats_", [(1.0, Metric(-0.3, 5)), (2.0, Metric(None, 0))]
        ),
    }
    return {RESULT: own, "gold": {"forget_lens_probability": line("logit lens", "probability", 0.1)}}


def test_a_line_for_every_point(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(curves()))))
    assert len(rows) == 4 * 3 + 1 + 3
    first = rows[1]
    assert (
        first["model"] == RESULT
        and first["curve"] == "forget_lens_probability"
        and first["x_name"] == "layer"
    )
    assert float(first["x"]) == 1 and float(first["value"]) == 0.8 / 3 and float(first["ci_high"]) == 0.8
    assert rows[0]["ci_low"] == "" and first["n"] == "12"
    assert [r["value"] for r in rows if r["curve"] == "remind_forget_rise"] == [
        "-0.3"
    ]  # what was not measured is no point


def test_a_figure_in_two_formats(tmp_path: Path) -> None:
    png, svg = draw_panels(curves(), tmp_path / "curves")
    assert png.read_bytes().startswith(b"\x89PNG") and svg.read_text().count("<svg") == 1
    again = draw_panels(curves(), tmp_path / "again")
    assert again[1].read_bytes() == svg.read_bytes() and again[0].read_bytes() == png.read_bytes()
    assert png.stat().st_mode & 0o777 == 0o600
    assert draw_panels({RESULT: {"x": {**curve("", "layer", "y", [])}}}, tmp_path / "none") == []


def test_results_keep_curves_and_a_run_without_writes_nothing(tmp_path: Path) -> None:
    made = {"config": {}, "seed": 0, "metrics": {}}
    assert write_curves(build_results(**made), tmp_path) == []
    path = write_results(tmp_path, build_results(**made, curves=curves()))
    written = write_curves(read_results(path), tmp_path)
    assert sorted(p.name for p in written) == ["curves.csv", "curves.png", "curves.svg"]
    assert (tmp_path / "curves.csv").read_text() == to_csv(curves())
