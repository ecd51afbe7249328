"""The page in a real browser: its script runs, nothing overflows, and it is drawn in light and in dark.

Skipped where there is no Chromium; CI installs it (.ci/run).
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from harmonize.commands.report import run
from harmonize.reporting.command import main
from harmonize.tracking.direction import UP
from harmonize.tracking.metric import METRIC_NAMES, Metric

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *(
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
    ),
)
# Asks the page from inside; in the page itself its policy forbids any script but its own.
PROBE = """<script>
const wide = document.scrollingElement.scrollWidth, room = document.documentElement.clientWidth;
const table = document.querySelector("table.figures"), heads = [...table.querySelectorAll("th[data-sort]")];
const names = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent.replace("†", "").trim()).join(",");
heads.find((th) => th.textContent.startsWith("forget ")).click();
const up = names();
heads.find((th) => th.textContent.startsWith("forget ")).click();
document.querySelector(".chip[data-m='0-1']").click();
const lit = document.querySelectorAll("[data-m='0-1'].on").length;
document.body.setAttribute("data-probe", JSON.stringify([wide, room, up, names(), lit, document.title]));
</script>"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt-get install chromium)")


def browse(folder: Path, page: Path, *options: str) -> str:
    """Standard output of a headless browser of a fresh profile."""
    profile = folder / f"profile{len(list(folder.glob('profile*')))}"
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=True, env={"HOME": str(folder)}
    )
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study of three methods whose names are hostile or long."""
    return tmp_path_factory.mktemp("page") / "report.html"


@pytest.fixture()
def written(
    page: Path, tmp_path: Path, write_run: Callable[..., Path], metrics: Callable[..., dict[str, Metric]]
) -> Path:
    if not page.exists():
        for m, method in enumerate(("duet", "<script>document.title='taken'</script>", "long" * 40)):
            values = {n: 0.9 - 0.1 * m if way == UP else 0.1 + 0.2 * m for n, way in METRIC_NAMES.items()}
            place = write_run(tmp_path / "study" / str(m), method=method, found=metrics(**values))
            rows = "".join(f"{s},val/forget_accuracy,{1 - s / 20}\n{s},train/loss,{s}\n" for s in (5, 10, 15))
            (place / "metrics.csv").write_text(f"step,name,value\n{rows}")
        run([str(tmp_path / "study"), "--out", str(page)])
    return page


def test_it_works_and_nothing_overflows(written: Path, tmp_path: Path) -> None:
    dom = browse(tmp_path, written, "--dump-dom")
    assert re.search(r'<html[^>]*class="js"', dom)  # its own script ran under its own policy
    assert "<title>study – harmonize</title>" in dom
    text = written.read_text(encoding="utf-8")
    probed = tmp_path / "probed.html"
    probed.write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", f"{PROBE}</body>"), encoding="utf-8"
    )
    for width in (1280, 390):
        dom = browse(tmp_path, probed, "--dump-dom", f"--window-size={width},900")
        found = re.search(r'data-probe="([^"]*)"', dom)
        assert found is not None
        wide, room, up, down, lit, title = json.loads(html.unescape(found[1]))
        assert wide <= room
        assert up.split(",") == list(reversed(down.split(",")))
        assert up.startswith("duet,<script>")
        assert lit >= 5  # in the table, the radar, the front and the scatters
        assert title == "study – harmonize"


def test_the_page_of_the_table_fits(
    tmp_path: Path, write_run: Callable[..., Path], metrics: Callable[..., dict[str, Metric]]
) -> None:
    for method in ("duet", "a long name of a method " * 4):
        write_run(
            tmp_path / "study" / method[:5], method=method, found=metrics(**dict.fromkeys(METRIC_NAMES, 0.5))
        )
    assert main(["--study", str(tmp_path / "study"), "--format", "html", "--format", "svg"]) == 0
    table = tmp_path / "study" / "report" / "table.html"
    probe = """<script>window.onload = () => document.body.setAttribute("data-probe", JSON.stringify(
    [document.scrollingElement.scrollWidth, document.documentElement.clientWidth,
    document.querySelector("figure img").naturalWidth]))</script>"""
    text = table.read_text(encoding="utf-8").replace("default-src", "object-src")  # else no script may ask
    table.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    found = re.search(r'data-probe="([^"]*)"', browse(tmp_path, table, "--dump-dom", "--window-size=600,900"))
    assert found is not None
    wide, room, drawn = json.loads(html.unescape(found[1]))
    assert wide <= room and drawn > 300  # the policy lets the figure inside the page through


@pytest.mark.parametrize(("scheme", "bright"), [(1, True), (0, False)])
def test_it_is_drawn(written: Path, tmp_path: Path, scheme: int, bright: bool) -> None:
    picture = tmp_path / "page.png"
    setting = f"--blink-settings=preferredColorScheme={scheme}"
    browse(tmp_path, written, f"--screenshot={picture}", "--window-size=1280,3000", setting)
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[:2] == (3000, 1280)
    assert (pixels[5, 5].mean() > 0.9) == bright
    assert (pixels[5, 5].mean() < 0.2) != bright
    ink = (np.abs(pixels - pixels[5, 5]).max(axis=2) > 0.3).mean()
    assert 0.005 < ink < 0.5  # neither empty nor covered
    hues = pixels[(pixels.max(axis=2) - pixels.min(axis=2)) > 0.35]
    assert len(hues) > 2000  # lines and heat maps have their colours
