"""Probes against planted directions, what the stories say against the stories, drift against states written by hand."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from rmtkit import drift, probing
from rmtkit.babi import Problem, Question
from rmtkit.config import Config
from rmtkit.findings import forgetting_finding
from rmtkit.streams import Text

PLACES = ("garden", "kitchen", "office")


def planted(num_texts=120, num_segments=6, *, noise=0.3, seed=0):
    """States (n, b, 2, 8) of which slot 0 says the answer of the text, and what is known after each segment."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(len(PLACES), size=num_texts)
    states = torch.from_numpy(rng.normal(scale=noise, size=(num_segments, num_texts, 2, 8))).float()
    directions = torch.from_numpy(np.random.default_rng(99).normal(size=(len(PLACES), 8))).float()
    states[:, :, 0] += directions[answers]
    rows = [(text, n, "Where is Mary?", PLACES[answers[text]], n - 1)
            for text in range(num_texts) for n in range(1, num_segments + 1)]  # fmt: skip
    return pd.DataFrame(rows, columns=["text", "segments_read", "question", "answer", "age"]), states


# ---------------------------------------------------------------------- probes


def test_probe_finds_a_planted_direction_in_other_texts():
    records = probing.probe_questions(planted(seed=1), planted(seed=2))
    table = probing.accuracy_by_age(records)
    assert set(table["trained_on"]) == set(probing.PHASES)
    assert (table["accuracy"] > 0.97).all() and (table["n"] == 120).all() and (table["floor"] < 0.5).all()


def test_probe_is_at_the_floor_on_shuffled_answers():
    rng = np.random.default_rng(5)
    shuffled = []
    for seed in (1, 2):
        table, states = planted(seed=seed)
        of_text = rng.permutation(table.drop_duplicates("text")["answer"].to_numpy())
        shuffled.append((table.assign(answer=of_text[table["text"]]), states))
    records = probing.probe_questions(*shuffled)
    both = records[(records["trained_on"] == "both parities") & (records["age"] == 0)]
    assert both["is_correct"].mean() < both["floor"].mean() + 0.15


def test_probe_of_the_other_parity_fails_where_states_alternate():
    def alternating(seed):
        table, states = planted(seed=seed)
        states[::2] = states[::2].flip(-1)  # the same, told in another code
        return table, states

    records = probing.probe_questions(alternating(1), alternating(2))
    accuracy = records.groupby("trained_on")["is_correct"].mean()
    assert accuracy["same parity"] > 0.97 and accuracy["other parity"] < 0.7


def test_floor_of_former_answers_is_the_best_guess_from_the_present_one():
    table, states = planted(num_texts=40)
    former = table["answer"].map({"garden": "kitchen", "kitchen": "office", "office": "garden"})
    table = table.assign(present=table["answer"], answer=former)
    records = probing.probe_questions((table, states), (table, states))
    assert records["floor"].all()
    assert not probing.probe_questions((table.drop(columns="present"), states), (table, states))["floor"].all()


def test_accuracy_by_age_leaves_out_ages_with_few_answers():
    counts = {0: 40, 1: 4, 2: 3, 5: 40}
    rows = [("same parity", age, n % 2 == 0, False) for age, count in counts.items() for n in range(count)]
    records = pd.DataFrame(rows, columns=["trained_on", "age", "is_correct", "floor"])
    table = probing.accuracy_by_age(records)
    assert table["age"].tolist() == [0, 1] and table["accuracy"].tolist() == [0.5, 0.5]


def test_ridge_solves_the_smaller_system_to_the_same_weights():
    generator = torch.Generator().manual_seed(0)
    for num_rows in (5, 30):
        rows, targets = (torch.randn(num_rows, size, generator=generator, dtype=torch.float64) for size in (12, 3))
        (weights,) = probing._ridge(rows, targets, (0.1,))
        gradient = rows.T @ (rows @ weights - targets) + 0.1 * num_rows * weights
        assert_close(gradient, torch.zeros_like(gradient))


def test_probe_questions_refuses_questions_with_one_answer():
    table, states = planted()
    with pytest.raises(ValueError, match="no question has two answers"):
        probing.probe_questions((table.assign(answer="garden"), states), (table, states))


# ---------------------------------------------------------------------- what can be known


def story():
    """Two facts that end in segments 1 and 3 of 8 tokens each, and what is asked after each of them."""
    first, second = Question("Where is Mary?", "garden", 1, (0,)), Question("Where is Mary?", "office", 2, (1,))
    problem = Problem("qa1", ("Mary went to the garden.", "Mary went to the office."), (second,), (first,))
    return Text(np.arange(40), np.array([[2, 7], [14, 18]]), problem, num_windows=1)


def test_knowledge_says_the_answer_from_the_segment_that_ends_the_fact_on():
    table = probing.knowledge([story()], 8)
    assert table["segments_read"].tolist() == [1, 2, 3, 4, 5]
    assert table["answer"].tolist() == ["garden", "garden", "office", "office", "office"]
    assert table["age"].tolist() == [0, 1, 0, 1, 2]


def test_where_no_fact_overwrites_an_answer_there_is_nothing_to_probe():
    table, states = planted()
    kept = probing.overwritten(table.drop_duplicates(["text", "question"]))
    records = probing.probe_questions((kept, states), (kept, states))
    assert kept.empty and records.empty and "floor" in records
    by_phase = probing.accuracy_by_age(records)
    assert by_phase.empty and {"trained_on", "age", "accuracy"} <= set(by_phase)
    assert forgetting_finding(by_phase) == "No fact of these texts overwrites an answer: there is nothing to forget."


def test_overwritten_has_the_former_answer_from_the_change_on():
    former = probing.overwritten(probing.knowledge([story(), story()], 8))
    assert former["answer"].tolist() == 6 * ["garden"] and former["present"].tolist() == 6 * ["office"]
    assert former["segments_read"].tolist() == 2 * [3, 4, 5] and former["age"].tolist() == 2 * [0, 1, 2]


def test_tell_and_knowledge_agree_with_a_reading_of_the_facts(make_builder, tokenizer):
    texts = probing.tell(make_builder(), "test", 5, 200)
    table, size = probing.knowledge(texts, 20), 20
    assert len(table)
    for row in table.itertuples():
        told = tokenizer.decode(texts[row.text].tokens[: row.segments_read * size].tolist())
        person = row.question.removeprefix("Where is ").rstrip("?")
        heard = [fact for fact in texts[row.text].problem.facts if fact in told and fact.startswith(person)]
        assert heard[-1].rstrip(".").endswith(row.answer)


def test_story_builder_generates_where_recorded_stories_were_asked_for(tokenizer):
    config = Config(babi_path="recorded", background="none", max_n_facts=3)
    problems = probing.story_builder(config, tokenizer).problems
    assert problems.num_problems("test") is None and problems.max_n_facts == 3


def test_tell_refuses_recorded_problems_and_facts_alone(make_builder):
    recorded = types.SimpleNamespace(num_problems=lambda split: 3)
    with pytest.raises(ValueError, match="see story_builder"):
        probing.tell(types.SimpleNamespace(problems=recorded), "test", 2, 100)
    with pytest.raises(ValueError, match="background is none"):
        probing.tell(make_builder(background=None), "test", 2, 100)
    with pytest.raises(ValueError, match="0 of 400 problems fit 5 tokens"):
        probing.tell(make_builder(), "test", 2, 5)


def test_read_states_are_those_of_reading_each_prefix(make_model):
    model = make_model("llama")
    texts = [Text(np.arange(1, 14) + row, np.zeros((0, 2), int), None, 1) for row in range(3)]
    states = probing.read_states(model, texts, batch_size=2)
    assert states.shape == (3, 3, 3, 16)
    tokens = torch.from_numpy(np.stack([text.tokens for text in texts]))
    for number, end in enumerate((5, 10, 13)):
        assert_close(states[number], model.read(tokens[:, :end]), atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------- drift


def test_lags_are_powers_of_two_with_their_neighbours():
    assert drift.lags(9) == [0, 1, 2, 3, 4, 5, 8, 9] and drift.lags(8) == [0, 1, 2, 3, 4, 5, 8]


def test_drift_segments_follow_max_length():
    config = Config(max_length="64k", segment_size=128)
    assert drift.drift_segments(config) == 512 and drift.drift_segments(Config()) == 128


def test_state_drift_measures_from_the_state_of_the_same_parity():
    base = torch.tensor([[0.0, 0.0], [3.0, 4.0]])[:, None]  # two texts, 5 apart
    states = {0: base, 1: base + 10, 2: base + torch.tensor([0.0, 1.0]), 3: base + 10}
    table = drift.state_drift(states).set_index(["text", "lag"])
    assert table["scale"].tolist() == pytest.approx([5] * 8)
    assert table.loc[(0, 2), "distance"] == table.loc[(0, 2), "in_phase"] == pytest.approx(1)
    assert table.loc[(1, 3), "in_phase"] == 0 and table.loc[(1, 3), "distance"] == pytest.approx(200**0.5)


def test_read_at_keeps_the_memory_that_read_returns(make_model):
    model, config = make_model("qwen3"), Config(segment_size=5, compile="never", answer_size=2)
    texts = [Text(np.arange(1, 31) + row, np.zeros((0, 2), int), None, 1) for row in range(2)]
    states = drift.read_at(model, texts, [10, 25], config)
    tokens = torch.from_numpy(np.stack([text.tokens for text in texts]))
    assert set(states) == {10, 25}
    for end, state in states.items():
        assert_close(state, model.read(tokens[:, :end]), atol=1e-5, rtol=1e-4)


def test_follow_asks_at_the_end_of_a_segment_of_background(make_builder, make_model, tokenizer, monkeypatch):
    asked = []

    def answer_from(model, samples, states, tokenizer):
        asked.append(samples)
        return [sample.question.answer for sample in samples]

    monkeypatch.setattr(drift, "answer_from", answer_from)
    model = make_model("llama", segment_size=40)
    monkeypatch.setattr(drift, "read_at", lambda model, texts, ends, config: {
        end: torch.zeros(len(texts), 3, 16) + end for end in ends})  # fmt: skip
    config = dataclasses.replace(Config(segment_size=40, test_segments=(4,), test_samples=3), answer_size=8)
    table = drift.follow(model, tokenizer, make_builder(), config, num_fact_segments=4)
    assert table["lag"].unique().tolist() == [0, 1, 2, 3, 4] and len(table) == 15 and table["is_correct"].all()
    for sample in asked[2]:
        assert len(sample.prompt) <= 40 - 8
        assert tokenizer.decode(sample.prompt.tolist()).endswith(sample.question.text)
    assert asked[0][0].problem.facts == probing.tell(make_builder(), "test", 3, 360, (0, 4 / 9))[0].problem.facts
    drift.follow(model, tokenizer, make_builder(), dataclasses.replace(config, test_split="validation"),
                 num_fact_segments=4)  # fmt: skip
    assert asked[-1][0].problem.facts == probing.tell(make_builder(), "validation", 3, 360, (0, 4 / 9))[0].problem.facts
    assert asked[0][0].split == "test" and asked[-1][0].split == "validation"
    summary = drift.summarize_drift(table)
    assert summary["n"].tolist() == [3] * 5 and summary["tokens"].tolist() == [0, 40, 80, 120, 160]
