"""Looking at the data: a sample with its facts marked, a browser of samples, tables of problems, facts and baselines.

The browser is thin: `render_sample` makes the HTML, and without a live front end that HTML is all that is shown.
"""

from __future__ import annotations

import html
import os
import sys
from collections import Counter

import pandas as pd

from rmtkit.analysis import question_start
from rmtkit.babi import Problem
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.evaluation import wilson_interval

MARKS = {  # background colour and CSS of each kind of text; all are colour-blind safe and differ in weight too
    "supporting fact": "background:#ffd27f;color:#000;font-weight:bold;",
    "fact": "background:#cfe6ff;color:#000;",
    "question": "background:#c9ecd0;color:#000;text-decoration:underline;",
    "answer": "border:1px solid #888;padding:0 3px;font-weight:bold;",
}
STYLE = "max-width:60em;line-height:1.6;white-space:pre-wrap;overflow-wrap:anywhere;"
NUM_PROBLEMS = 1000  # problems behind a table, unless asked otherwise


# ---------------------------------------------------------------------- a sample as HTML


def render_sample(sample: Sample, tokenizer, *, max_chars: int = 3000) -> str:
    """Return a sample as HTML: facts, supporting facts, question and answer marked, long background shortened.

    Args: max_chars: characters of background to show, shared evenly by its pieces; each keeps its two ends.
    """
    pieces = list(_pieces(sample))
    room = max(40, max_chars // max(1, sum(kind == "background" for kind, _ in pieces)))
    body = "".join(_render_piece(kind, ids, tokenizer, room) for kind, ids in pieces)
    legend = " ".join(_mark(kind, kind) for kind in MARKS if kind != "answer")
    facts = len(sample.problem.facts)
    title = f"{sample.problem.task}, {sample.split} {sample.index}: {len(sample.prompt):,} tokens, {facts} facts"
    answer = _mark("answer", sample.question.answer)
    return f'<p><b>{html.escape(title)}</b>&ensp;{legend}</p><div style="{STYLE}">{body} &rarr; {answer}</div>'


def _pieces(sample: Sample):
    """Yield (kind, token ids) of the whole prompt, in order."""
    done, ids = 0, sample.prompt
    for fact, (start, end) in enumerate(sample.fact_spans.tolist()):
        if start > done:
            yield "background", ids[done:start]
        yield ("supporting fact" if fact in sample.question.supporting else "fact"), ids[start:end]
        done = end
    yield "background", ids[done:]


def _render_piece(kind: str, ids, tokenizer, room: int) -> str:
    text = tokenizer.decode(ids.tolist())
    if kind != "background":
        return _mark(kind, text)
    if len(text) <= room:
        return html.escape(text)
    ends = html.escape(text[: room // 2]), html.escape(text[-(room // 2) :])
    return f"{ends[0]}<i> &hellip; {len(ids):,} tokens of background &hellip; </i>{ends[1]}"


def _mark(kind: str, text: str) -> str:
    space = " " * text.startswith(" ")
    return f'{space}<span title="{kind}" style="{MARKS[kind]}">{html.escape(text.removeprefix(" "))}</span>'
