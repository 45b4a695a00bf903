"""What the data is, in numbers: tables of problems, facts, tokens, background and answers without reading."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd

from rmtkit.babi import GeneratedProblems, Problem
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import SPLITS, Background, read_documents
from rmtkit.background.sources import HUB, ORIGINS
from rmtkit.config import Config
from rmtkit.evaluation import accuracy_table
from rmtkit.experiment import prompt_size
from rmtkit.generalization import baseline_records
from rmtkit.intervals import in_percent, wilson_interval

EXCERPT_TOKENS = 70
QUANTILES = {"min": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "max": 1.0}


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


# ---------------------------------------------------------------------- tokens and lengths


def token_table(samples: Sequence[Sample], tokenizer) -> pd.DataFrame:
    """Measure facts, questions, answers and prompts of samples in tokens, and tokens in characters.

    Returns: a row per quantity: n (what was measured: facts, questions, prompts), mean, and the quantiles `QUANTILES`.
    """
    sizes = [np.diff(sample.fact_spans, axis=1)[:, 0] for sample in samples]
    texts = [[sample.prompt[start:end].tolist() for start, end in sample.fact_spans] for sample in samples]
    prompts = [sample.prompt.tolist() for sample in samples]
    questions = [len(tokenizer(sample.question.text, add_special_tokens=False)["input_ids"]) for sample in samples]
    measured = {
        "tokens of a fact": np.concatenate(sizes),
        "tokens of a question": questions,
        "facts of a problem": [len(size) for size in sizes],
        "tokens of a problem's facts": [size.sum() for size in sizes],
        "tokens of a prompt": [len(prompt) for prompt in prompts],
        "facts, % of a prompt's tokens": [100 * size.sum() / len(p) for size, p in zip(sizes, prompts, strict=True)],
        "characters per token, facts": [len(tokenizer.decode(fact)) / len(fact) for told in texts for fact in told],
        "characters per token, prompt": [len(tokenizer.decode(prompt)) / len(prompt) for prompt in prompts],
    }
    return pd.DataFrame({name: _spread(values) for name, values in measured.items()}).T.astype({"n": int})


def _spread(values) -> dict[str, float]:
    values = np.asarray(values, dtype=float)
    spread = {name: float(np.quantile(values, share)) for name, share in QUANTILES.items()}
    return {"n": len(values), "mean": float(values.mean()), **spread}


def share_table(config: Config, builder: BabilongBuilder, segments: Sequence[int], *, num_samples: int = 50,
                split: str = "train") -> pd.DataFrame:  # fmt: skip
    """Measure how much of a prompt is facts at each length.

    Args:    segments: numbers of segments; lengths at which no problem fits are left out, and repeated ones.
    Returns: a row per number of segments: num_segments, num_tokens, num_facts (mean), fact_tokens (mean), and the share
             of facts in the prompt, 0..1: share (mean), low, high (5 % and 95 % of the samples), n.
    """
    rows = []
    for number in segments:
        try:
            drawn = [builder.sample(split, i, prompt_size(config, number)) for i in range(num_samples)]
        except ValueError:
            continue
        told = np.array([np.diff(sample.fact_spans, axis=1).sum() for sample in drawn])
        sizes = np.array([len(sample.prompt) for sample in drawn])
        low, high = np.quantile(told / sizes, (0.05, 0.95))
        facts = np.mean([len(sample.problem.facts) for sample in drawn])
        rows.append({"num_segments": number, "num_tokens": int(sizes.mean().round()), "num_facts": facts,
                     "fact_tokens": told.mean(), "share": (told / sizes).mean(), "low": low, "high": high,
                     "n": num_samples})  # fmt: skip
    return pd.DataFrame(rows).drop_duplicates("num_tokens") if rows else pd.DataFrame()


def size_table(tasks: Sequence[str], tokenizer, seed: int, *, num_problems: int = 100) -> pd.DataFrame:
    """Measure what generated problems of each task take without background: facts and question, in tokens.

    Returns: a row per task: task, n, mean, and the quantiles `QUANTILES`, in tokens.
    """
    rows = []
    for task in tasks:
        source = GeneratedProblems(task, seed=seed)
        builder = BabilongBuilder(source, None, tokenizer)
        sizes = [builder.num_fixed_tokens(source.problem("train", index)) for index in range(num_problems)]
        rows.append({"task": task, **_spread(sizes)})
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------- background sources


def source_table(config: Config, builder: BabilongBuilder) -> pd.DataFrame:
    """Say of each background source whether it is at hand, show a piece of it, or say what it would need.

    Nothing is fetched, and none stands in for another: the configured source is read from its token store, `wiki` from
    the installed package.

    Returns: a row per source: source, is_configured, origin, excerpt ("": not at hand), needs.
    """
    rows = []
    for source, origin in ORIGINS.items():
        row = {"source": source, "is_configured": source == config.background, "origin": origin, "excerpt": ""}
        if source == config.background:
            row["excerpt"] = _stored_excerpt(builder)
        elif source == "wiki":
            row.update(_wiki_excerpt())
        rows.append({"needs": "" if row["excerpt"] or source == "wiki" else _needs(source), **row})
    return pd.DataFrame(rows)


def _stored_excerpt(builder: BabilongBuilder) -> str:
    tokens, _ = builder.background.passage("train", EXCERPT_TOKENS, np.random.default_rng(builder.seed))
    return builder.tokenizer.decode(tokens.tolist()).strip(" \ufffd")


def _wiki_excerpt() -> dict:
    """Return the beginning of the first article, or why it cannot be read."""
    try:
        document = next(read_documents("wiki"))
    except ValueError as error:
        return {"needs": str(error)}
    return {"excerpt": " ".join(document.text.split())[: 4 * EXCERPT_TOKENS]}


def _needs(source: str) -> str:
    if source == "local":
        return "background=local and background_path=a folder of .txt, .jsonl or .parquet files"
    name = HUB[source].repository
    return f"background={source} with the Hugging Face hub in reach, or background_path=a local copy of {name}"


def render_sources(table: pd.DataFrame) -> str:
    """Return the table of `source_table` as HTML."""
    rows = []
    for row in table.itertuples():
        name = html.escape(row.source) + (" (configured)" if row.is_configured else "")
        text = f"&hellip; {html.escape(row.excerpt)} &hellip;" if row.excerpt else f"<i>{html.escape(row.needs)}</i>"
        rows.append(f"<p><b>{name}</b>: {html.escape(row.origin)}<br>{text}</p>")
    return f'<div style="max-width:60em;line-height:1.5;">{"".join(rows)}</div>'


# ---------------------------------------------------------------------- what we see


def findings(*, shares: pd.DataFrame, positions: pd.DataFrame, baselines: pd.DataFrame, floors: pd.DataFrame) -> str:
    """Return what the tables show, as Markdown: sentences whose numbers are computed here.

    Args: shares: of `share_table`;  positions: of `fact_table`;  baselines: accuracy, low, high, n by task and
          baseline;  floors: of `floor_table`.
    """
    sentences = []
    if len(shares):
        first, *_, last = shares.to_dict("records")[:1] + shares.to_dict("records")
        sentences.append(
            f"Facts are {_share(first)} of a prompt of {first['num_tokens']:,} tokens and {_share(last)} of one of "
            f"{last['num_tokens']:,} (in brackets 5 to 95 % of n={last['n']} samples each); all else is background."
        )
    names = positions["is_supporting"].map({True: "supporting facts", False: "others"})
    places = positions.groupby(names, sort=False)["depth"].agg(["mean", "count"])
    told = [f"{100 * row['mean']:.0f} % ({name}, n={int(row['count']):,})" for name, row in places.iterrows()]
    sentences.append(f"On average a fact begins after this share of the sample: {', '.join(told)}.")
    sentences += [f"Without reading, {row.task}: {row.baseline} {_scored(row)}." for row in baselines.itertuples()]
    best = floors.sort_values("accuracy").groupby("task").tail(1)
    low, high = best.iloc[0], best.iloc[-1]
    sentences.append(
        f"The better of the two answers without reading differs by task: lowest in {low.task} ({low.baseline}, "
        f"{_scored(low)}), highest in {high.task} ({high.baseline}, {_scored(high)})."
    )
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _share(row) -> str:
    return f"{in_percent(row['share'], row['low'], row['high'])} %"


def _scored(row) -> str:
    return f"{in_percent(row.accuracy, row.low, row.high)} %, n={int(row.n):,}"
