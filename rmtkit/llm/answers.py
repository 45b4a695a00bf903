"""Answers under the lens, as static HTML: some that are right, some that are wrong, some that did not come.

Styles are inline and every text is escaped: what a model says is shown, never run.
"""

from __future__ import annotations

import html

import pandas as pd

from rmtkit.llm.cases import FAILURES
from rmtkit.llm.tables import with_outcomes

LOOKS = {  # sign, border of each kind; they differ in sign and in the style of the border, too
    "right": ("&#10003; right", "3px solid #0173b2"),
    "wrong": ("&#10007; wrong", "3px dashed #de8f05"),
    "failed": ("&#8709; no answer", "3px dotted #777"),
}
BOX = "padding:2px 8px;margin:5px 0;line-height:1.4;white-space:pre-wrap;overflow-wrap:anywhere;"
SHOWN = 300  # characters of an answer; the rest is cut


def render_answers(predictions: pd.DataFrame, *, per_kind: int = 3) -> str:
    """Return answers of each model as HTML: so many right, wrong and failed ones, with question and target.

    Args: predictions: as `rmtkit.llm.tables.accuracy_table` takes them, with output, question and target, and detail
          where it is known;  per_kind: answers shown of a kind, spread evenly over tasks and lengths.
    """
    rows = with_outcomes(predictions)
    rows = rows.assign(kind=rows["outcome"].where(~rows["outcome"].isin(FAILURES), "failed"))
    return "".join(_render_model(str(name), cells, per_kind) for name, cells in rows.groupby("model", sort=False))


def _render_model(name: str, rows: pd.DataFrame, per_kind: int) -> str:
    counts = rows["kind"].value_counts()
    said = ", ".join(f"{counts.get(kind, 0):,} {kind}" for kind in LOOKS)
    shown = "".join(_render(row) for kind in LOOKS for row in _spread(rows[rows["kind"] == kind], per_kind))
    return f'<h4>{html.escape(name)}: {said} of {len(rows):,}</h4><div style="max-width:60em;">{shown}</div>'


def _spread(rows: pd.DataFrame, number: int) -> list:
    """Return so many rows, evenly spread."""
    step = max(1, len(rows) // number)
    return list(rows.iloc[::step].head(number).itertuples())


def _render(row) -> str:
    sign, border = LOOKS[row.kind]
    if row.kind == "failed":
        detail = getattr(row, "detail", "") or FAILURES[row.outcome]
        said = f"<i>{html.escape(row.outcome)}: {_cut(detail)}</i>"
    else:
        said = f"the model: <b>{_cut(row.output)}</b>"
    asked = f"{html.escape(str(row.question))} &rarr; <b>{html.escape(str(row.target))}</b>"
    place = html.escape(f"{row.task}, {row.length}")
    return f'<div style="border-left:{border};{BOX}">{sign} ({place}) {asked}<br>{said}</div>'


def _cut(text) -> str:
    """Return a text, escaped, and cut where it is long."""
    text = "" if pd.isna(text) else str(text)
    more = f" &hellip; ({len(text) - SHOWN:,} characters more)" if len(text) > SHOWN else ""
    return html.escape(text[:SHOWN]) + more
