"""The tables of notebook 01: problems, facts, tokens, background sources, and what they show."""

import re
import types

import numpy as np
import pandas as pd
import pytest

from rmtkit import generalization, statistics
from rmtkit.babi import GeneratedProblems, MixedProblems, Problem, Question
from rmtkit.config import resolve


@pytest.fixture(scope="module")
def problems():
    return GeneratedProblems("qa1", seed=0)


@pytest.fixture(scope="module")
def builder(make_builder):
    return make_builder()


def test_first_problems_stops_where_recorded_problems_end(problems):
    assert len(generalization.first_problems(problems, "train", 7)) == 7
    few = types.SimpleNamespace(num_problems=lambda split: 3, problem=lambda split, index: index)
    assert generalization.first_problems(few, "test", 7) == [0, 1, 2]


def test_distribution_table_counts_every_problem_once(problems):
    table = statistics.distribution_table({"generated": generalization.first_problems(problems, "train", 60)})
    totals = table.groupby("quantity")["share"].sum()
    assert len(totals) == 3 and totals.to_numpy() == pytest.approx(1)
    assert (table["n"] == 60).all()
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()


def test_distribution_table_counts_facts_behind_the_last_supporting_one():
    problem = Problem("qa1", ("a.", "b.", "c.", "d."), (Question("Where?", "x", 4, (0, 2)),))
    table = statistics.distribution_table({"one": [problem]}).set_index("quantity")["value"]
    assert table["facts told after the last supporting one"] == 1 and table["facts in a problem"] == 4


def test_fact_table_places_every_fact(builder):
    samples = [builder.sample("train", index, 300) for index in range(4)]
    table = statistics.fact_table(samples)
    assert len(table) == sum(len(sample.problem.facts) for sample in samples)
    assert table["is_supporting"].sum() == 4
    row = table[table["index"] == 2].iloc[1]
    assert row["position"] == samples[2].fact_spans[1, 0] and row["depth"] == row["position"] / 300


def test_background_table_has_a_row_per_split():
    numbers = {"num_documents": (8, 1, 1), "num_sentences": (80, 10, 20), "num_tokens": (1600, 210, 410)}
    splits = ("train", "validation", "test")
    counts = {name: dict(zip(splits, row, strict=True)).get for name, row in numbers.items()}
    table = statistics.background_table(types.SimpleNamespace(**counts))
    assert list(table.index) == ["train", "validation", "test"]
    assert table.loc["test", "tokens_per_sentence"] == 20.5


def test_baseline_records_answer_without_reading():
    facts = ("Mary went to the garden.", "John moved to the office.")
    train = Problem("qa1", facts, (Question("Where is Mary?", "garden", 2, (0,)),))
    other = Problem("qa1", facts, (Question("Where is John?", "office", 2, (1,)),))
    splits = {"train": [train, train, other], "test": [other, train]}
    source = types.SimpleNamespace(
        num_problems=lambda split: len(splits[split]), problem=lambda split, index: splits[split][index]
    )
    records = generalization.baseline_records(source)
    assert records.groupby("baseline")["is_correct"].apply(list).to_dict() == {
        "majority answer": [False, True],
        "last answer named": [True, False],
    }


def test_baseline_records_know_the_majority_of_each_task():
    source = MixedProblems([GeneratedProblems(task, seed=0) for task in ("qa6", "qa1")])
    records = generalization.baseline_records(source, num_problems=100)
    majority = records[records["baseline"] == "majority answer"]
    assert majority.groupby("task")["prediction"].nunique().to_dict() == {"qa1": 1, "qa6": 1}
    assert set(majority[majority["task"] == "qa6"]["prediction"]) <= {"yes", "no"} and len(majority) == 100


def test_story_table_stars_the_supporting_facts():
    table = statistics.story_table(["qa1", "qa15"], seed=0)
    assert list(table.index) == ["qa1", "qa15"]
    assert [facts.count("*") for facts in table["facts"]] == [1, 2]
    place = table.loc["qa1", "answer"]
    assert re.search(rf"to the {place}\. \*", table.loc["qa1", "facts"])


def test_floor_table_has_both_baselines_of_each_task():
    table = statistics.floor_table(["qa4", "qa17"], seed=0, num_problems=200)
    assert len(table) == 4 and (table["n"] == 200).all()
    majority = table[table["baseline"] == "majority answer"].set_index("task")["accuracy"]
    assert majority["qa17"] == pytest.approx(0.5, abs=0.12) and majority["qa4"] < 0.3


# ---------------------------------------------------------------------- tokens and lengths


def test_token_table_measures_what_a_sample_is_made_of(builder, tokenizer):
    samples = [builder.sample("train", index, 300) for index in range(6)]
    table = statistics.token_table(samples, tokenizer)
    told = [len(tokenizer.encode(" " + fact)) for sample in samples for fact in sample.problem.facts]
    facts = table.loc["tokens of a fact"]
    assert facts["n"] == len(told) and facts["mean"] == pytest.approx(np.mean(told)) and facts["max"] == max(told)
    assert table.loc["tokens of a prompt", ["min", "max"]].tolist() == [300, 300]
    shares = [sum(len(tokenizer.encode(" " + fact)) for fact in s.problem.facts) / 3 for s in samples]
    assert table.loc["facts, % of a prompt's tokens", "mean"] == pytest.approx(np.mean(shares))
    characters = [len(tokenizer.decode(sample.prompt)) / 300 for sample in samples]
    assert table.loc["characters per token, prompt", "median"] == pytest.approx(np.median(characters))


def test_share_table_thins_facts_out_and_leaves_out_lengths_where_none_fits(builder, monkeypatch):
    monkeypatch.setattr("rmtkit.babilong.MAX_DRAWS", 3)
    config = resolve({"preset": "smoke", "segment_size": 24})
    table = statistics.share_table(config, builder, (1, 12, 48), num_samples=8)
    assert table["num_segments"].tolist() == [12, 48] and table["num_tokens"].tolist() == [272, 1136]
    assert (table["low"] <= table["share"]).all() and (table["share"] <= table["high"]).all()
    assert table["share"].iloc[1] < table["share"].iloc[0] / 2
    ratio = table["fact_tokens"] / table["num_tokens"]
    np.testing.assert_allclose(table["share"], ratio)


def test_size_table_counts_facts_and_question(tokenizer):
    table = statistics.size_table(["qa4", "qa1"], tokenizer, seed=0, num_problems=5)
    problem = [GeneratedProblems("qa4", seed=0).problem("train", i) for i in range(5)]
    sizes = [sum(len(tokenizer.encode(" " + text)) for text in (*p.facts, p.questions[0].text)) for p in problem]
    assert table["task"].tolist() == ["qa4", "qa1"] and table["max"].iloc[0] == max(sizes) and table["n"].iloc[0] == 5


# ---------------------------------------------------------------------- background sources


@pytest.fixture
def sources(make_builder, library):
    config = resolve({"preset": "smoke", "background": "local", "background_path": str(library)})
    return statistics.source_table(config, make_builder()).set_index("source")


def test_source_table_shows_the_configured_source_and_what_is_installed(sources):
    assert sources.index.tolist() == ["wiki", "pg19", "wikitext", "local"]
    assert sources["is_configured"].tolist() == [False, False, False, True]
    assert "the river was long and wide" in sources.loc["local", "excerpt"]
    assert len(sources.loc["wiki", "excerpt"]) > 100 and "river was long and wide" not in sources.loc["wiki", "excerpt"]


def test_source_table_fetches_nothing_and_says_what_would_be_needed(make_builder, monkeypatch):
    monkeypatch.setattr("rmtkit.background.sources._hub_splits", lambda source: pytest.fail("the hub was asked"))
    monkeypatch.setattr(statistics, "read_documents", lambda source: (_ for _ in ()).throw(ValueError("no gensim")))
    table = statistics.source_table(resolve({"background": "none"}), make_builder(background=None)).set_index("source")
    assert (table["excerpt"] == "").all() and table.loc["wiki", "needs"] == "no gensim"
    assert "emozilla/pg19" in table.loc["pg19", "needs"] and "background_path" in table.loc["local", "needs"]


def test_render_sources_escapes_and_shows_excerpt_or_needs(sources):
    table = sources.reset_index()
    table.loc[0, "excerpt"] = "<script>"
    text = statistics.render_sources(table)
    assert "<script>" not in text and "&lt;script&gt;" in text and "local (configured)" in text
    assert "background=wikitext with the Hugging Face hub in reach" in text


# ---------------------------------------------------------------------- findings


def test_findings_are_the_numbers_of_the_tables():
    shares = pd.DataFrame({"num_tokens": [48, 240, 4080], "share": [0.5, 0.2, 0.0125], "low": [0.25, 0.1, 0.005],
                           "high": [0.75, 0.3, 0.02], "n": 50})  # fmt: skip
    positions = pd.DataFrame({"depth": [0.2, 0.4, 0.9], "is_supporting": [False, False, True]})
    score = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": 1000}
    rows = [("qa2", "a", 0.1), ("qa2", "b", 0.3), ("qa4", "a", 0.2), ("qa4", "b", 0.25), ("qa6", "a", 0.9)]
    floors = pd.DataFrame([{**score, "task": task, "baseline": name, "accuracy": x} for task, name, x in rows])
    baselines = pd.DataFrame([{**score, "task": "qa2", "baseline": "majority answer"}])
    text = statistics.findings(shares=shares, positions=positions, baselines=baselines, floors=floors)
    assert "50.0 [25.0, 75.0] % of a prompt of 48 tokens and 1.2 [0.5, 2.0] % of one of 4,080" in text
    assert "30 % (others, n=2), 90 % (supporting facts, n=1)" in text
    assert "qa2: majority answer 50.0 [40.0, 60.0] %, n=1,000" in text
    assert re.search(r"lowest in qa4 \(b, 25\.0 .*highest in qa6 \(a, 90\.0 ", text)
