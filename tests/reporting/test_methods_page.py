"""The generated page: current, complete, readable, and robust to other kinds of methods."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from harmonize.config.compose import compose_config
from harmonize.config.sources import source_of
from harmonize.errors import ConfigError
from harmonize.reporting import methods_page
from harmonize.reporting.catalogue import methods, names, option
from harmonize.reporting.methods_page import ELSEWHERE, PAGE, filled, main, summary

TEXT = PAGE.read_text()


def test_the_page_is_current() -> None:
    assert filled(TEXT) == TEXT, "run: make docs"


@pytest.mark.parametrize("group", sorted(ELSEWHERE))
def test_pages_of_other_groups_are_current_and_have_every_option(group: str) -> None:
    text = ELSEWHERE[group].read_text()
    assert filled(text) == text, "run: make docs"
    assert all(f"`{group}={name}`" in text for name in names(group))


def test_every_method_has_a_row_and_a_section() -> None:
    for method in methods():
        assert f"[`{method.name}`](#{method.name})" in TEXT and f"\n### {method.name}\n" in TEXT


def test_links_lead_somewhere() -> None:
    links = set(re.findall(r"\]\(([^)#]+)\)", TEXT))
    assert len(links) > 10
    for link in links:
        assert (PAGE.parent / link).exists(), link


def test_tables_and_formulas_are_not_wide() -> None:
    for line in TEXT.splitlines():
        if line.startswith("| ["):
            assert len(line) <= 120, line
        if line.startswith("    "):
            assert len(line) <= 120, line


@pytest.mark.parametrize("method", [m.name for m in methods()])
def test_every_function_of_a_method_is_tested_in_its_room(method: str) -> None:
    for part in option("method", method).parts:
        assert part.source is not None
        assert methods_page.tests_of(part.source), f"no test imports {part.target}"


def retain_terms() -> list[str]:
    table = TEXT.partition("## Retain terms")[2].partition("\n## ")[0]
    return [c for c in re.findall(r"`([^`]+)`", table) if "method." in c]


@pytest.mark.parametrize("overrides", retain_terms())
def test_retain_terms_compose(overrides: str) -> None:
    compose_config("unlearn", ["method=npo", *shlex.split(overrides)])


def test_stale_pages_are_told_and_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Mine\n\n<!-- generated: evidence -->\nold\n<!-- end -->\n\nBy hand.\n")
    assert main([str(page), "--check"]) == 1 and "make docs" in capsys.readouterr().err
    assert main([str(page)]) == 0
    assert "**code**" in page.read_text() and "old" not in page.read_text() and "By hand." in page.read_text()
    assert main([str(page), "--check"]) == 0


def test_wrong_marks_are_told() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'methods'"):
        filled("<!-- generated: method -->\n<!-- end -->")
    with pytest.raises(ConfigError, match="no <!-- end -->"):
        filled("<!-- generated: methods -->\n")


def test_groups_without_a_place_of_their_own_are_listed() -> None:
    text = filled(
        "<!-- generated: options sampler -->\n<!-- end -->\n<!-- generated: other-options -->\n<!-- end -->"
    )
    assert "## Gradient" in text and "gradient=gu" in text and "## Sampler" not in text
    assert all(f"`sampler={name}`" in text for name in names("sampler"))


def test_methods_of_other_shapes_have_sections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.reporting.test_catalogue import OTHERS, write

    write(tmp_path, OTHERS)
    monkeypatch.chdir(tmp_path)
    text = methods_page._section(option("method", "negate", ["."]))
    assert "    theta - scale tau" in text and "Costs: one fine-tuning beforehand." in text
    assert "`graft=negate`" in text and "Needs a model fine-tuned on the forget set; disk." in text
    assert "strange.edits.group_lasso" in methods_page._section(option("method", "regular", ["."]))


def test_summary_says_what_the_page_says() -> None:
    said = "\n".join(summary(option("method", "npo")))
    assert "-(2 / beta) log sigmoid(-beta r)  (per response)" in said
    assert "reference (log-probabilities of the responses)" in said
    assert "1 with teacher.cache=none" in said and "harmonize.objectives.preference.npo" in said
    assert source_of("harmonize.unlearning.combiners.GU") is not None
    assert "without momentum" in "\n".join(summary(option("gradient", "gu")))
