"""Looking at the data: a sample with its facts marked, a browser of samples, tables of problems, facts and baselines.

The browser is thin: `render_sample` makes the HTML, and without a live front end that HTML is all that is shown.
"""

from __future__ import annotations

import html
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from rmtkit.analysis import question_ends
from rmtkit.babi import GeneratedProblems, Problem
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import SPLITS, Background
from rmtkit.evaluation import accuracy_table, wilson_interval
from rmtkit.generalization import baseline_records

MARKS = {  # background colour and CSS of each kind of text; all are colour-blind safe and differ in weight too
    "supporting fact": "background:#ffd27f;color:#000;font-weight:bold;",
    "fact": "background:#cfe6ff;color:#000;",
    "question": "background:#c9ecd0;color:#000;text-decoration:underline;",
    "answer": "border:1px solid #888;padding:0 3px;font-weight:bold;",
}
STYLE = "max-width:60em;line-height:1.6;white-space:pre-wrap;overflow-wrap:anywhere;"


# ---------------------------------------------------------------------- a sample as HTML


def render_sample(sample: Sample, tokenizer, *, max_chars: int = 3000) -> str:
    """Return a sample as HTML: facts, supporting facts, question and answer marked, long background shortened.

    Args: max_chars: characters of background to show, shared evenly by its pieces; each keeps its two ends.
    """
    pieces = _pieces(sample, tokenizer)
    room = max(40, max_chars // max(1, sum(kind == "background" for kind, _ in pieces)))
    body = "".join(_render_piece(kind, ids, tokenizer, room) for kind, ids in pieces)
    legend = " ".join(_mark(kind, kind) for kind in ("supporting fact", "fact", "question"))
    size, facts = len(sample.prompt), len(sample.problem.facts)
    title = html.escape(f"{sample.problem.task}, {sample.split} sample {sample.index}: {size:,} tokens, {facts} facts")
    answer = _mark("answer", sample.question.answer)
    return f'<p><b>{title}</b>&ensp;{legend}</p><div style="{STYLE}">{body} &rarr; {answer}</div>'


def _pieces(sample: Sample, tokenizer) -> list[tuple[str, np.ndarray]]:
    """Cut the prompt into (kind, token ids), in order."""
    head, tail = question_ends(sample, tokenizer)
    kinds = ["supporting fact" if k in sample.question.supporting else "fact" for k in range(len(sample.fact_spans))]
    facts = zip(kinds, *sample.fact_spans.T.tolist(), strict=True)
    pieces, done = [], 0
    for kind, start, end in (("question", 0, head), *facts, ("question", tail, len(sample.prompt))):
        pieces += [("background", sample.prompt[done:start]), (kind, sample.prompt[start:end])]
        done = end
    return [(kind, ids) for kind, ids in pieces if len(ids)]


def _render_piece(kind: str, ids: np.ndarray, tokenizer, room: int) -> str:
    text = tokenizer.decode(ids.tolist())
    if kind != "background":
        return _mark(kind, text)
    if len(text) <= room:
        return html.escape(text)
    left, right = html.escape(text[: room // 2]), html.escape(text[-(room // 2) :])
    return f"{left} <i>&hellip; {len(ids):,} tokens of background &hellip;</i> {right}"


def _mark(kind: str, text: str) -> str:
    space = " " * text.startswith(" ")
    return f'{space}<span title="{kind}" style="{MARKS[kind]}">{html.escape(text.removeprefix(" "))}</span>'


# ---------------------------------------------------------------------- the browser


def is_interactive() -> bool:
    """Return whether a live front end shows this notebook, so that a widget can be used.

    JupyterLab, Colab or VS Code must have started the kernel, and the running cell must be allowed to ask for input: a
    headless run (papermill, nbmake) is not, even when it inherits the environment of a notebook. CI is never live.
    In doubt: no. A widget in a headless run can hang for ever (nbclient#312).
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel") or os.environ.get("CI"):
        return False
    has_front_end = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules
    request = shell.kernel.get_parent() or {}
    return has_front_end and bool(request.get("content", {}).get("allow_stdin", False))


def explore_samples(builder: BabilongBuilder, *, lengths: list[int | None], split: str = "train",
                    num_samples: int = 50, interactive: bool | None = None):  # fmt: skip
    """Return a browser of samples, or the first sample as static HTML if no live front end is there.

    Args: lengths: of the prompt in tokens, to choose from; None: facts alone;
          interactive: build the widget or not; None: `is_interactive()`.
    """

    def render(num_tokens: int | None, index: int) -> str:
        return render_sample(builder.sample(split, index, num_tokens), builder.tokenizer)

    if not (is_interactive() if interactive is None else interactive):
        from IPython.display import HTML

        return HTML(render(lengths[0], 0))
    return _browser(render, lengths, num_samples)


def _browser(render: Callable[[int | None, int], str], lengths: list[int | None], num_samples: int):
    """Return two controls above an HTML view; core widgets without Output, alike in ipywidgets 7 and 8."""
    import ipywidgets

    names = [(f"{length:,} tokens" if length else "facts alone", length) for length in lengths]
    length = ipywidgets.Dropdown(options=names, value=lengths[0], description="length")
    index = ipywidgets.IntSlider(value=0, min=0, max=num_samples - 1, description="sample", continuous_update=False)
    view = ipywidgets.HTML(render(lengths[0], 0))

    def show(_change) -> None:
        view.value = render(length.value, index.value)

    length.observe(show, names="value")
    index.observe(show, names="value")
    return ipywidgets.VBox([ipywidgets.HBox([length, index]), view])


# ---------------------------------------------------------------------- tables


def distribution_table(problems_of_source: dict[str, list[Problem]]) -> pd.DataFrame:
    """Count answers, facts and supporting facts of problems from several sources.

    Returns: a row per source, quantity and value: share of the problems, its 95 % Wilson interval (low, high), n.
    """
    quantities = {
        "answer": lambda problem: problem.questions[0].answer,
        "facts in a problem": lambda problem: len(problem.facts),
        "facts told after the last supporting one": _num_facts_after,
    }
    rows = []
    for quantity, measure in quantities.items():
        for source, problems in problems_of_source.items():
            for value, count in sorted(Counter(map(measure, problems)).items()):
                low, high = wilson_interval(count, len(problems))
                row = {"quantity": quantity, "value": value, "source": source, "share": count / len(problems)}
                rows.append({**row, "low": low, "high": high, "n": len(problems)})
    return pd.DataFrame(rows)


def _num_facts_after(problem: Problem) -> int:
    return len(problem.facts) - 1 - max(problem.questions[0].supporting, default=-1)


def fact_table(samples: list[Sample]) -> pd.DataFrame:
    """Return a row per fact: index (of its sample), num_tokens, fact, text, position, depth (0..1), is_supporting."""
    return pd.DataFrame(
        {"index": sample.index, "num_tokens": len(sample.prompt), "fact": fact, "text": sample.problem.facts[fact],
         "position": start, "depth": start / len(sample.prompt), "is_supporting": fact in sample.question.supporting}
        for sample in samples
        for fact, start in enumerate(sample.fact_spans[:, 0].tolist())
    )  # fmt: skip


def background_table(background: Background) -> pd.DataFrame:
    """Return documents, sentences, tokens and tokens per sentence of each split of a background."""
    table = pd.DataFrame(
        {"split": split, "documents": background.num_documents(split), "sentences": background.num_sentences(split),
         "tokens": background.num_tokens(split)}
        for split in SPLITS
    )  # fmt: skip
    return table.assign(tokens_per_sentence=(table["tokens"] / table["sentences"]).round(1)).set_index("split")


def story_table(tasks: Sequence[str], seed: int) -> pd.DataFrame:
    """Return a short generated problem of each task: task, facts (a star at the supporting ones), question, answer."""
    rows = []
    for task in tasks:
        source = GeneratedProblems(task, seed=seed)
        problem = min((source.problem("train", index) for index in range(5)), key=lambda problem: len(problem.facts))
        question = problem.questions[0]
        told = [f"{fact} *" if i in question.supporting else fact for i, fact in enumerate(problem.facts)]
        rows.append({"task": task, "facts": " ".join(told), "question": question.text, "answer": question.answer})
    return pd.DataFrame(rows).set_index("task")


def floor_table(tasks: Sequence[str], seed: int, *, num_problems: int = 500) -> pd.DataFrame:
    """Return the accuracy of both baselines on generated problems of each task, its 95 % Wilson interval, and n."""
    sources = (GeneratedProblems(task, seed=seed) for task in tasks)
    records = pd.concat([baseline_records(source, num_problems=num_problems) for source in sources])
    return accuracy_table(records, ["task", "baseline"])
