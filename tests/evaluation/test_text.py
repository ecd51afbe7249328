"""Containment, ROUGE-L recall and the degenerate rule, worked by hand."""

from __future__ import annotations

import pytest

from harmonize.evaluation.text import is_degenerate, rouge_l_f, rouge_l_recall, says, words


@pytest.mark.parametrize(
    ("text", "accepted", "found"),
    [
        ("The answer is New York.", ("new york",), True),
        ("It is NEW-YORK!", ("New York",), True),
        ("It is New Yorkshire.", ("New York",), False),
        ("It is york new", ("New York",), False),
        ("Art is long", ("art",), True),
        ("Part is long", ("art",), False),
        ("Jaime O\u2019Brien", ("O'Brien",), True),
        ("Jose\u0301 lives", ("Jos\u00e9",), True),
        ("Stra\u00dfe 5", ("STRASSE",), True),
        ("none of it", ("x", "of it"), True),
        ("anything", ("",), False),
        ("anything", ("...",), False),
        ("", ("a",), False),
        ("\u4ed6\u51fa\u751f\u5728\u6771\u4eac\u3002", ("\u6771\u4eac",), True),
        ("a_b", ("a b",), True),
    ],
)
def test_says(text: str, accepted: tuple[str, ...], found: bool) -> None:
    assert says(text, accepted) is found


def test_words() -> None:
    assert words("Don't  STOP, it's 3.5!") == ("dont", "stop", "its", "3", "5")


@pytest.mark.parametrize(
    ("text", "reference", "recall"),
    [
        # the cat sat on the mat (6); common subsequence: the cat on the mat (5)
        ("the cat lay on the mat today", "The cat sat on the mat.", 5 / 6),
        # the longest common subsequence of a b c d and b a d c has length 2
        ("b a d c", "a b c d", 2 / 4),
        ("", "a b", 0.0),
        ("a b", "", 0.0),
        # the stemmer makes running and runs the same word
        ("he was running", "he was runs", 1.0),
        # words the package does not see are compared all the same: 2 of 3 characters
        ("\u6771\u4eac", "\u6771\u4eac\u90fd", 2 / 3),
        # length of what is said does not count
        ("x " * 50 + "a b", "a b", 1.0),
    ],
)
def test_rouge_l_recall(text: str, reference: str, recall: float) -> None:
    assert rouge_l_recall(text, reference) == pytest.approx(recall)


def test_stemming_is_a_choice() -> None:
    assert rouge_l_recall("he walks", "he walked") == 1.0
    assert (
        rouge_l_recall("he walks", "he walked", stem=False)
        == rouge_l_f("he walks", "he walked", stem=False)
        == 0.5
    )


def test_rouge_agrees_with_a_slow_reference() -> None:
    def lcs(a: tuple[str, ...], b: tuple[str, ...]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + lcs(a[1:], b[1:])
        return max(lcs(a[1:], b), lcs(a, b[1:]))

    for said, true in (("p q r s t", "q p s r t"), ("m n m n", "n m n n"), ("u v w", "w v u")):
        expected = lcs(tuple(said.split()), tuple(true.split())) / len(true.split())
        assert rouge_l_recall(said, true) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "stopped", "degenerate"),
    [
        ("", True, True),
        ("... !!", True, True),
        ("red", True, False),
        ("no no no", True, False),
        ("red red red red", True, True),
        ("it is red red red red", True, True),
        ("she has red hair and a red coat", True, False),
        ("a b a b a b a b", True, True),
        ("a b c a b c a b c", True, False),
        ("a b c a b c a b c a b c", True, True),
        ("one two three four five six seven eight", False, False),
        ("u v u w u v w u v u w v", True, True),
        ("u v x w u v w u x v w y", True, False),
        ("u v x w u v w u x v w x", False, True),
    ],
)
def test_is_degenerate(text: str, stopped: bool, degenerate: bool) -> None:
    assert is_degenerate(text, stopped) is degenerate
