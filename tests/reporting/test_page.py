"""The page of a study: what it shows, what it withholds, and that no text of a model becomes markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markupsafe import Markup

from harmonize.commands import purge
from harmonize.commands.report import run
from harmonize.errors import RunError
from harmonize.reporting.experiment import Experiment
from harmonize.reporting.markup.elements import tag, words
from harmonize.reporting.page.charts import Line, border, lines, radar, scatter
from harmonize.reporting.page.gather import gather, matrix, terms
from harmonize.reporting.page.svg import Scale, Who, ticks
from harmonize.reporting.page.worst import worst
from harmonize.reporting.page.write import write_page
from harmonize.reporting.published import Counterparts, Ours, Published, PublishedRow
from harmonize.reporting.study import load_study
from harmonize.tracking.direction import DOWN, UP
from harmonize.tracking.metric import METRIC_NAMES, Metric

Write = Callable[..., Path]
Make = Callable[..., dict[str, Metric]]

HOSTILE = [
    "<script>document.title='taken'</script>",
    "</style></svg><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "שלום עולם \u202eevil\u202c",
    "🎨👩‍🎨 emoji",
    "x" * 3000,
    "a\x00b\x1b[31m\n# not a heading",
]
SECRET = "port osmarra"
VOID = {"meta", "br", "img", "input", "link", "hr"}


def sample(example: str, role: str, verdict: str, **more: Any) -> dict[str, Any]:
    base = {"example_id": example, "role": role, "trained": True, "attack": "none", "verdict": verdict}
    texts = {
        "question": f"where is {SECRET} ?",
        "asked": "",
        "reference": SECRET,
        "output": SECRET,
        "prefill": "",
    }
    return base | texts | {"score": float(verdict == "correct"), "said": verdict == "correct"} | more


@pytest.fixture()
def study(tmp_path: Path, write_run: Write, metrics: Make) -> Path:
    """Three methods, two seeds, with everything that a page can show, hostile text, and runs that failed."""
    root = tmp_path / "runs" / "mine"
    for m, method in enumerate(("duet", "npo", HOSTILE[0])):
        for seed in (0, 1):
            found = metrics(
                **{n: 0.7 + 0.1 * m if way == UP else 0.3 - 0.1 * m for n, way in METRIC_NAMES.items()}
            )
            found |= {
                f"asr_answer_prefix@{d}": Metric(0.1 * m + d / 5, 9, None, None, False) for d in (0.3, 0.6, 1)
            }
            found |= {
                f"relearn_accuracy_forget@{s}": Metric(0.02 * s, 9, None, None, False) for s in (0, 5, 20)
            }
            place = write_run(
                root / f"{m}{seed}",
                method=method,
                seed=seed,
                found=found,
                target_metrics=metrics(**dict.fromkeys(METRIC_NAMES, 1.0)),
            )
            rows = [(s, n, v + 0.01 * seed) for s in (5, 10) for n, v in (
                ("train/loss", 2.0 - 0.1 * s), ("term_weighted/pull/forget", 1.0), ("term_weighted/pull/retain", 0.5),
                ("val/forget_accuracy", 0.9 - 0.05 * s), ("val/asr_worst", 0.5), ("cosine/pull|push", 0.4 - 0.06 * s),
            )]  # fmt: skip
            (place / "metrics.csv").write_text(
                "step,name,value\n" + "".join(f"{s},{n},{v}\n" for s, n, v in rows)
            )
            answers = [
                sample("painter-1", "forget", "correct" if seed else "refused"),
                sample("painter-1", "forget", "correct", attack="answer_prefix"),
                sample("painter-2", "forget", "refused"),
                sample(
                    "painter-2", "forget", "correct", attack="likelihood"
                ),  # a probability, nothing was said
                *(
                    sample(f"hostile-{i}", "forget", "correct", output=t, question=t)
                    for i, t in enumerate(HOSTILE)
                ),
                sample("poet-1", "neighbor", "refused"),
                sample("poet-1", "neighbor", "correct"),
                sample("poet-2", "neighbor", "correct"),
            ]
            (place / "samples.jsonl").write_text(
                "".join(json.dumps(a) + "\n" for a in answers) + "not json\n"
            )
    failed = write_run(root / "failed", state="failed", error=f"no memory {HOSTILE[1]}")
    (failed / "results.json").unlink()
    return root


class Structure(HTMLParser):
    """Open elements, every element with its attributes, and the text outside script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in VOID:
            self.open.append(name)

    def handle_startendtag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + "\n"


def page(study: Path, *options: str) -> tuple[str, Structure]:
    assert run([str(study), *options]) == 0
    name = "report_samples.html" if "--samples" in options else "report.html"
    text = (study / "report" / name).read_text(encoding="utf-8")
    return text, Structure(text)


def test_text_is_withheld_unless_asked_for(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, found = page(study)
    assert SECRET not in text
    assert "withheld" in text
    assert "--samples" in text
    assert "painter-1" in found.text
    assert "sensitive" not in capsys.readouterr().out
    text, found = page(study, "--samples")
    assert SECRET in found.text
    assert "withheld" not in text
    assert "sensitive" in capsys.readouterr().out
    pages = [study / "report" / name for name in ("report.html", "report_samples.html")]
    assert [place.stat().st_mode & 0o777 for place in pages] == [0o600, 0o600]
    assert purge.run([str(study), "--yes"]) == 0
    assert [place.exists() for place in pages] == [True, False]


def test_no_text_becomes_markup_and_nothing_is_loaded(study: Path) -> None:
    text, found = page(study, "--samples")
    assert found.open == []
    names = [name for name, _ in found.elements]
    assert names.count("script") == names.count("style") == 1
    assert not {"img", "iframe", "link", "object", "embed", "form", "base"} & set(names)
    for name, attributes in found.elements:
        assert not [a for a in attributes if a.startswith("on") or a in ("src", "srcset", "xlink:href")], name
        assert attributes.get("href", "#").startswith("#")
    style = re.search(r"<style>(.*?)</style>", text, re.S)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    assert "document.title='taken'" in found.text  # shown, not run
    assert "\x1b" not in text
    assert "\x00" not in text
    assert "\u202e" not in text
    assert "x" * 500 not in text
    policy = next(a["content"] for n, a in found.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_what_is_shown(study: Path) -> None:
    text, found = page(study)
    for title in (
        "Table",
        "Trade-offs",
        "Over training",
        "Attacks",
        "Gradient conflict",
        "Worst questions",
        "What was run",
    ):
        assert f"<h2>{title}</h2>" in text
    assert (
        text.count('class="chart"') >= 1 + 1 + 3 + 2 + 2
    )  # radar, front, scatters, looks at val, attacks by strength
    assert "0.70" in found.text
    assert "no memory" in found.text  # the failed run is named with its reason
    assert "6 runs" in found.text
    assert "1 - worst ASR" in text


def test_missing_data_is_said(tmp_path: Path, write_run: Write) -> None:
    write_run(tmp_path / "one" / "a")
    text, found = page(tmp_path / "one")
    assert found.open == []
    for words_ in (
        "No run logged anything",
        "No attack was measured",
        "cosines_every_n_steps",
        "never written): 1",
    ):
        assert words_ in text
    assert "gold" not in found.text.replace("gold how often", "")


def test_errors_name_what_is_there(study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harmonize.cli import UsageError

    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=r"No study 'mime'.*Did you mean 'mine'"):
        run(["mime"])
    (tmp_path / "runs" / "empty").mkdir()
    with pytest.raises(RunError, match=r"no finished runs found.*study=empty"):
        run(["empty"])
    for place in study.iterdir():
        (place / "status.json").write_text('{"state": "failed", "error": "disk"}')
    with pytest.raises(RunError, match=r"(?s)no finished runs.*failed: disk.*and 2 more"):
        run(["mine"])
    with pytest.raises(UsageError, match=r"must end with \.html"):
        run(["mine", "--out", "page.pdf"])
    (tmp_path / "file").write_text("")
    write = tmp_path / "file" / "page.html"
    for place in study.iterdir():
        (place / "status.json").write_text('{"state": "done"}')
    with pytest.raises(RunError, match="file"):
        run(["mine", "--out", str(write)])


def test_curves_terms_and_cosines(study: Path) -> None:
    (chapter,) = gather(load_study(study)).chapters
    duet = next(m for m in chapter.members if m.row.label == "duet")
    assert duet.curves["train/loss"] == [(5.0, pytest.approx(1.505)), (10.0, pytest.approx(1.005))]
    assert duet.bands["train/loss"][0] == (pytest.approx(1.5), pytest.approx(1.51))
    assert [name for name, _ in terms(duet)] == ["loss", "pull/forget", "pull/retain"]
    names, cells = matrix(duet)
    assert names == ["pull", "push"]
    # 0.4 - 0.06 s at s = 5, 10 and two seeds 0.01 apart: 0.10, -0.20, 0.11, -0.19
    assert cells[0][1] == (pytest.approx(-0.045), 0.5)
    assert cells[0][0] is None
    assert cells[1][0] == cells[0][1]


def test_worst_questions_by_hand(study: Path) -> None:
    groups = [group for group in load_study(study).groups if group.label == "duet"]
    found = worst(groups, with_text=False)
    assert (found.read, found.lacking, found.beyond, len(found.broken)) == (2, 0, 0, 2)
    rows = {asked.example: asked for role in found.asked.values() for asked in role}
    first = rows["painter-1"]
    assert (first.runs, first.leaked, first.accuracy) == (2, 2, 0.5)  # plainly in one run, attacked in both
    assert first.attacks == {"answer_prefix": 2, "none": 1}
    assert rows["painter-2"].leaked == 0
    assert (rows["poet-1"].accuracy, rows["poet-1"].refusals) == (0.5, 0.5)
    assert [a.example for a in found.asked["neighbor"]] == ["poet-1", "poet-2"]
    assert not any(a.output or a.question for a in rows.values())
    assert worst(groups, with_text=False, budget=1).beyond == 1


def test_border_scale_and_ticks() -> None:
    # Lower x and higher y are better: (.1,.5) and (.4,.9) beat the rest; the corner is below the second.
    points = [(0.1, 0.5), (0.4, 0.9), (0.5, 0.9), (0.4, 0.2)]
    assert border(points, (DOWN, UP)) == [(0.1, 0.5), (0.4, 0.5), (0.4, 0.9)]
    assert border(points, (UP, UP)) == [(0.5, 0.9)]
    assert Scale(0, 10, 100, 200)(2.5) == 125
    assert ticks(0, 1) == [0, 0.25, 0.5, 0.75, 1.0]
    assert ticks(0, 230) == [0, 100, 200]
    assert ticks(3, 3) == [3]


def test_figures_are_drawn_to_scale() -> None:
    who = Who("0-0", "duet", "s0")
    drawn = lines([Line(who, [(0, 0.0), (10, 1.0)])], label="x", x="step")
    assert 'points="40,212 346,12"' in drawn  # margins 40, 14, 12 and 38 of 360 x 250
    drawn = radar([(who, [1.0, 0.0, 0.0, 0.0])], list("abcd"), label="x")
    assert 'points="180,48 180,139 180,139 180,139"' in drawn  # the first corner is at the top
    assert radar([(who, [1.0, float("nan"), 0.5, 0.5])], list("abcd"), label="x").count("<polyline") == 1
    one = scatter([(who, (0.25, 0.5), [])], label="x", x="a", y="b", better=(DOWN, UP))
    assert 'aria-label="x"' in one


def test_escaping_is_by_construction() -> None:
    assert tag("b", "<i>", title='"') == Markup('<b title="&#34;">&lt;i&gt;</b>')
    assert tag("b", tag("i", "&")) == Markup("<b><i>&amp;</i></b>")
    assert words("a\u202eb") == Markup("<bdi>a b</bdi>")


def test_published_figures_stand_beside_ours(study: Path) -> None:
    """Forget accuracy of duet is .3 in both runs: 30.00 in percent, 2 above what was published, within 3."""
    columns = Counterparts({"R-Forget ↓": "forget_accuracy"}, 100.0, {"R-Forget ↓": 3.0})
    ours = Ours({"DUET": "duet", "NPO": "npo"}, {"R-Forget ↓": "forget_accuracy"}, {"full": columns})
    rows = [PublishedRow("DUET", ["28.0"]), PublishedRow("NPO", ["50.0"])]
    published = Published(f"Table {HOSTILE[0]}", "a paper", "certain", ["R-Forget ↓"], rows, [], ours)
    experiment = Experiment("mine", "full", published=(published,))
    text = write_page(load_study(study), study / "page.html", experiment=experiment).read_text("utf-8")
    found = Structure(text)
    assert not found.open and HOSTILE[0] not in text
    told = " ".join(found.text.split())
    assert "DUET R-Forget ↓ 28.0 30.00±.00 +2.00 ±3 within" in told
    assert "NPO R-Forget ↓ 50.0 20.00±.00 -30.00 ±3 outside" in told
    assert (
        "1 of 2 figures lie within the tolerance" in told and "Source: a paper. Certainty: certain." in told
    )
    assert ("a", {"href": "#published"}) in found.elements
    assert 'id="published"' not in page(study)[0]  # a study of no experiment
