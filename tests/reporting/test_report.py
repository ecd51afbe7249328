"""The command, the radar plot and the published figures."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from harmonize.config.paths import share
from harmonize.errors import ConfigError, Interrupted, RunError
from harmonize.reporting.command import main
from harmonize.reporting.experiment import experiments, load_experiment
from harmonize.reporting.published import load_published
from harmonize.reporting.radar import AXES, draw_radar, radar_values, write_radar_csv
from harmonize.reporting.study import load_study
from harmonize.reporting.table import build_tables
from harmonize.tracking.direction import DOWN, UP
from harmonize.tracking.metric import METRIC_NAMES, Metric

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]


@pytest.fixture()
def study(tmp_path: Path, write_run: Write, metrics: Make) -> Path:
    """Two methods, two seeds, all figures."""
    full = metrics(**{name: 0.9 if way == UP else 0.1 for name, way in METRIC_NAMES.items()})
    for method in ("duet", "bidirectional"):
        for seed in (0, 1):
            write_run(
                tmp_path / "runs" / "mine" / f"{method}{seed}",
                method=method,
                seed=seed,
                found=full,
                config={"dataset.world_seed": 10},
                target_metrics=metrics(forget_accuracy=1.0, asr_worst=1.0, retain_accuracy=0.98),
            )
    return tmp_path / "runs" / "mine"


def png_size(path: Path) -> tuple[int, int]:
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_the_command_prints_and_writes(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--experiment", "main_books", "--study", str(study)]) == 0
    out = capsys.readouterr().out
    for name in ("table.md", "table.tex", "table.csv", "table.html", "radar.png", "radar.svg", "radar.csv"):
        assert (study / "report" / name).stat().st_size > 100
        assert f"Wrote {study / 'report' / name}" in out
    assert "Next: " in out
    published = out.index("Published, not ours")
    assert out.index("bidirectional") < published < out.index("16.0")
    assert png_size(study / "report" / "radar.png") == (1200, 900)


def test_our_figures_and_published_ones_never_mix(tmp_path: Path, write_run: Write, metrics: Make) -> None:
    study = tmp_path / "duets"
    for seed in (0, 1):
        write_run(
            study / str(seed),
            seed=seed,
            prefill="none",
            config={"dataset.world_seed": 10},
            found=metrics(**dict.fromkeys(METRIC_NAMES, 0.5)),
        )
    main(["--experiment", "duet_harry_potter", "--study", str(study)])
    assert "5.98" not in (study / "report" / "table.csv").read_text()
    assert "MUSE" not in (study / "report" / "radar.csv").read_text()
    text = (study / "report" / "table.md").read_text()
    ours, published = text.split("## Published, not ours")
    assert "55.90" in published
    assert "55.90" not in ours
    assert published.count("Source: ") == published.count("Certainty: ") == published.count("### ")


def test_study_by_name_latest_out_and_format(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--study", "mine", "--out", "here", "--format", "csv"]) == 0
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["table.csv"]
    assert main(["--format", "md"]) == 0
    assert (study / "report" / "table.md").is_file()
    assert not (study / "report" / "radar.png").exists()
    with pytest.raises(RunError, match=r"No study 'mime'.*Did you mean 'mine'"):
        main(["--study", "mime"])


def test_no_runs(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs found"):
        main(["--runs", str(tmp_path / "runs")])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match="no finished runs found"):
        main(["--study", str(tmp_path / "empty")])


def test_only_failed_runs(tmp_path: Path, write_run: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "s" / "a", state="failed", error="out of memory")
    with pytest.raises(RunError, match=r"no finished runs found \(left out: 1"):
        main(["--study", str(tmp_path / "s")])
    assert "out of memory" in capsys.readouterr().out


def test_unknown_experiment_and_stray_overrides(study: Path) -> None:
    with pytest.raises(ConfigError, match=r"No experiment 'main_boks'. Did you mean 'main_books'"):
        main(["--experiment", "main_boks", "--study", str(study)])
    with pytest.raises(ConfigError, match="overrides need --run"):
        main(["seed=0"])


def test_run_calls_the_sweep_and_collects_what_came_of_it(
    tmp_path: Path, write_run: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harmonize import cli

    seen: list[list[str]] = []

    def sweep(arguments: list[str]) -> None:
        seen.append(arguments)
        write_run(
            tmp_path / "runs" / "main_books" / "duet0",
            config={"dataset.name": "sandbox_easy", "dataset.world_seed": 10},
        )
        raise SystemExit(1)  # one job failed

    monkeypatch.setattr(cli, "main", sweep)
    monkeypatch.chdir(tmp_path)
    assert main(["--run", "--format", "csv", "seed=0,1", "dataset=sandbox_easy"]) == 1
    (arguments,) = seen
    assert arguments == [
        *("sweep", "main_books", "--profile", "sandbox"),
        *("--study", "main_books", "--runs", "runs", "--jobs", "1"),
        *("seed=0,1", "dataset=sandbox_easy"),
    ]
    assert (tmp_path / "runs" / "main_books" / "report" / "table.csv").is_file()


@pytest.mark.parametrize("code", [1, 130])
def test_run_that_never_started_or_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    from harmonize import cli

    def sweep(arguments: list[str]) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(cli, "main", sweep)
    monkeypatch.chdir(tmp_path)
    if code == 1:
        assert main(["--run"]) == 1
    else:
        with pytest.raises(Interrupted, match="--study runs/main_books"):
            main(["--run"])


def test_through_the_command_line(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from harmonize import cli

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["reproduce-paper-table", "--study", "mine"])
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        cli.reproduce_paper_table(["--study", "none"])
    assert end.value.code == 1
    assert "No study 'none'" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(experiments()))
def test_experiment_file_is_sound(name: str) -> None:
    experiment = load_experiment(name)
    for claim in experiment.found.get("claims") or []:
        assert claim["metric"] in METRIC_NAMES
        assert claim["better"] == METRIC_NAMES[claim["metric"]].name
        assert {claim["method"], claim["against"]} <= set(experiment.order)
    assert all(block.source and block.certainty for block in experiment.published)


def test_published_figures_add_up() -> None:
    """Shift is the sum of the changes from the base model, counted so that better is positive."""
    blocks = {
        block.title: block
        for block in load_published(share("experiments") / "duet_harry_potter/published.yaml")
    }
    block = blocks["DUET (arXiv 2601.21283) on MUSE-Books, Llama-3.2-3B"]
    rows = {row.label: row.values for row in block.rows}
    base = [float(v or "nan") for v in rows["base model"][:4]]
    for name in ("GA", "NPO", "FLAT", "DUET"):
        values = [float(v or "nan") for v in rows[name]]
        shift = (base[0] - values[0]) + (base[1] - values[1]) + (values[2] - base[2]) + (values[3] - base[3])
        assert shift == pytest.approx(values[4], abs=0.011)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("published: 3", "list under 'published'"),
        ("published: [{title: a}]", "entry 1: missing source, certainty, columns, rows"),
        (
            "published: [{title: a, source: b, certainty: X, columns: [c], rows: {r: ['1']}}]",
            "certainty is one of",
        ),
        (
            "published: [{title: a, source: b, certainty: C, columns: [c], rows: {r: []}}]",
            "row 'r': expected 1",
        ),
        ("published: [", "cannot be read"),
    ],
)
def test_published_errors(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "published.yaml"
    path.write_text(text)
    with pytest.raises(RunError, match=message) as caught:
        load_published(path)
    assert str(path) in str(caught.value)


def test_outward_is_better_on_every_axis(study: Path) -> None:
    (table,) = build_tables(load_study(study))
    target, method = table.rows[0], table.rows[1]
    assert radar_values(method) == pytest.approx([0.9] * 5)  # 0.1 where lower is better, 0.9 where higher is
    assert radar_values(target)[0] == 0.0
    assert [axis.inverted for axis in AXES] == [METRIC_NAMES[axis.key] == DOWN for axis in AXES]


def test_radar_survives_gaps_many_rows_and_odd_names(tmp_path: Path, write_run: Write, metrics: Make) -> None:
    for i in range(40):
        write_run(tmp_path / str(i), method=f"_m${i}_{{", found=metrics(forget_accuracy=i / 40))
    (table,) = build_tables(load_study(tmp_path))
    (path,) = draw_radar(table, [tmp_path / "radar.png"])  # a panel each: five across, eight down
    width, height = png_size(path)
    assert width < 2000 < height
    lines = write_radar_csv(table, tmp_path / "radar.csv").read_text().splitlines()
    assert len(lines) == 1 + 40 * len(AXES)
    assert path.stat().st_mode & 0o777 == 0o600


def test_spread_by_hand() -> None:
    from harmonize.reporting.columns import Cell
    from harmonize.reporting.spread import spread, spread_lines
    from harmonize.reporting.table import Row, Table

    def row(label: str, mean: float, sd: float | None, n: int = 3) -> Row:
        return Row(label, False, "random", n, {"asr_opener": Cell(mean, sd, n)})

    table = Table("world", ("d", "m"), [row("a", 0.1, 0.03), row("b", 0.4, 0.05, 5)], [])
    found = spread(table, "asr_opener", by=0.2, deviations=3)
    # pooled: sqrt((2 * 0.03^2 + 4 * 0.05^2) / 6)
    assert found is not None and found.width == pytest.approx(0.3)
    assert found.noise == pytest.approx(0.0443471, abs=1e-6) and found.apart
    assert not spread(table, "asr_opener", by=0.31, deviations=3).apart  # type: ignore[union-attr]
    assert not spread(table, "asr_opener", by=0.2, deviations=7).apart  # type: ignore[union-attr]
    assert spread(table, "relearn_accuracy", 0.2, 3) is None
    demand = {"metrics": ["asr_opener", "relearn_accuracy"], "by": 0.2, "deviations": 3, "at_least": 2}
    assert "1 of 2 metrics lie apart; it does not" in spread_lines(demand, [table])[-1]
    assert spread_lines(None, [table]) == []


def test_effects_by_hand(tmp_path: Path, write_run: Write, metrics: Make) -> None:
    """Two factors, two seeds: each effect is the mean over pairs that agree in the other factor and the seed."""
    from harmonize.reporting.effects import Factor, effects, effects_markdown

    value = {("none", "first"): 0.2, ("random", "first"): 0.3, ("none", "all"): 0.6, ("random", "all"): 0.9}
    for seed in (0, 1):
        for (mode, positions), forget in value.items():
            config = {
                "seed": seed,
                "dataset": {"name": "sandbox", "prefill": {"mode": mode}},
                "method": {"name": "bidirectional", "objectives": {"pull": {"positions": positions}}},
            }
            write_run(
                tmp_path / f"{mode}{positions}{seed}",
                config=config,
                found=metrics(forget_accuracy=forget + 0.02 * seed * (mode == "random")),
            )
    views = Factor("views", "dataset.prefill.mode", "none", "*")
    positions = Factor("positions", "method.objectives.pull.positions", "first", "all")
    absent = Factor("push", "method.objectives.push._target_", "<missing>", "*")
    (table,) = effects(load_study(tmp_path), [views, positions, absent])
    assert [(name, n) for name, n, _ in table.rows] == [("views", 4), ("positions", 4)]
    place = table.metrics.index("forget_accuracy")
    view, position = (found[place] for _, _, found in table.rows)
    # views: 0.1, 0.3, 0.12, 0.32; positions: 0.4, 0.6, 0.4, 0.6
    assert view is not None and view.mean == pytest.approx(0.21)
    assert view.error == pytest.approx(0.1159 / 2, abs=1e-3)
    assert position is not None and position.mean == pytest.approx(0.5)
    assert str(position) == "+0.50±.06"
    assert "| forget ↓ | +0.21±.06 | +0.50±.06 |" in effects_markdown([table])
