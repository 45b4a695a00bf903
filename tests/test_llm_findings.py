"""Sentences about predictions, with the numbers of their tables; answers as they are shown."""

import pytest
from llm_rows import cell, frame

from rmtkit.llm.answers import render_answers
from rmtkit.llm.findings import llm_findings


def test_findings_say_who_falls_and_who_does_not_with_their_numbers():
    text = llm_findings(frame(
        cell("qa1", "0k", right=80, wrong=20, model="LLM"), cell("qa1", "4k", right=20, wrong=80, model="LLM"),
        cell("qa1", "0k", right=100, model="RMT"), cell("qa1", "4k", right=99, wrong=1, model="RMT"),
    ))  # fmt: skip
    llm, rmt, ahead, *_ = text.split("\n")
    assert "at 0k 80.0 [71.1, 86.7] % (n=100), at 4k 20.0 [13.3, 28.9] % (n=100). It falls: -60.0 points [" in llm
    assert "No change beyond chance: -1.0 points [" in rmt
    assert ahead.startswith("- qa1 at 4k: RMT 99.0 [") and " 79.0 points [" in ahead and "behind" in ahead
    assert "scored by babilong_labels" in text.split("\n")[-1]


def test_findings_name_the_tasks_that_fall():
    cells = [cell("qa1", length, right=right, wrong=50 - right) for length, right in (("0k", 50), ("1k", 5))]
    cells += [cell("qa2", length, right=25, wrong=25) for length in ("0k", "1k")]
    assert "Lower beyond chance by task: qa1 (of 2 compared" in llm_findings(frame(*cells))


def test_findings_tell_failures_from_wrong_answers():
    text = llm_findings(frame(cell(right=6, wrong=2, timeout=1, too_long=3), cell(model="N", right=1)))
    assert "M has no answer to 4 of 12 questions (too long 3, timeout 1); of those answered: 75.0 [" in text
    assert "All questions were answered by: N (1)." in text
    assert "there is none to score" in llm_findings(frame(cell(refused=2)))


def test_findings_say_what_retrieval_kept():
    text = llm_findings(frame(cell(right=4, recall=1.0), cell(length="4k", right=4, recall=0.5)))
    assert "What M was given held this share of the supporting facts: 100.0 [" in text and "at 4k (n=4)" in text
    assert "held this share" not in llm_findings(frame(cell(right=1)))


def test_findings_of_nothing_or_of_two_rules_are_refused():
    with pytest.raises(ValueError, match="nothing was evaluated"):
        llm_findings(frame(cell(right=1))[:0])
    with pytest.raises(ValueError, match="one rule"):
        llm_findings(frame(cell(right=1), cell("qa2", right=1, rule="substring")))


def test_answers_are_shown_escaped_by_kind_and_cut():
    rows = frame(cell(right=5, wrong=1, timeout=1, model="<i>M</i>"))
    rows.loc[5, "output"] = "<script>alert(1)</script>" + "x" * 400
    rows.loc[6, "detail"] = "no answer in 60 s & gone"
    page = render_answers(rows, per_kind=2)
    assert "<script" not in page and "&lt;script&gt;" in page and "<i>M" not in page
    assert page.count("&#10003; right") == 2 and page.count("&#10007; wrong") == 1 and page.count("no answer (") == 1
    assert "no answer in 60 s &amp; gone" in page and "(125 characters more)" in page
    assert "5 right, 1 wrong, 1 failed of 7" in page
