"""Exact-match evaluation: intervals, tables, answers that do not depend on the batch."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from rmtkit.babi import GeneratedProblems
from rmtkit.babilong import LAZY_TOKENS, BabilongBuilder
from rmtkit.config import PRESETS
from rmtkit.evaluation import MAX_TOKENS_IN_BATCH, accuracy_table, evaluate
from rmtkit.intervals import wilson_interval
from rmtkit.kinds import answer
from rmtkit.memory import RMTForCausalLM

SEGMENT_SIZE = 40


@pytest.fixture(scope="module")
def builder(tokenizer, open_library):
    """Samples of qa1, whose answers differ in their number of tokens."""
    problems = GeneratedProblems("qa1", seed=0, max_n_facts=4)
    return BabilongBuilder(problems, open_library(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def model(make_backbone, tokenizer):
    """A tiny random model that knows the tokenizer's vocabulary; it ends some answers early, some late."""
    backbone = make_backbone("llama", vocab_size=len(tokenizer))
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=SEGMENT_SIZE)
    model.reset_memory(torch.Generator().manual_seed(0))
    return model


class ScriptedModel(torch.nn.Module):
    """Answers with given texts, in the order of the samples."""

    def __init__(self, tokenizer, answers):
        super().__init__()
        self.config = SimpleNamespace(segment_size=SEGMENT_SIZE)
        self.device = torch.device("cpu")
        self.tokenizer, self.answers = tokenizer, iter(answers)

    def read(self, tokens):
        return None

    def generate(self, last, *, max_new_tokens, **options):
        rows = [self.tokenizer(next(self.answers))["input_ids"][:max_new_tokens] for _ in last]
        rows = [row + [self.tokenizer.eos_token_id] * (max_new_tokens - len(row)) for row in rows]
        return torch.cat([last, torch.tensor(rows)], dim=1)


def slow_answer(model, sample, tokenizer):
    """Answer by feeding the whole prompt again for each token: read memory, last segment, no write slots, no cache."""
    ids, found = torch.from_numpy(sample.prompt.astype("int64"))[None], []
    limit = sample.continuation.tolist().index(tokenizer.eos_token_id) + 1
    while len(found) < limit and tokenizer.eos_token_id not in found:
        text = torch.cat([ids, torch.tensor([found], dtype=torch.long)], dim=1)
        whole = (text.shape[1] - 1) // SEGMENT_SIZE * SEGMENT_SIZE
        state = model(text[:, :whole]).memory if whole else model.initial_memory(1)
        embeddings = torch.cat([state, model.get_input_embeddings()(text[:, whole:])], dim=1)
        found.append(int(model.backbone(inputs_embeds=embeddings, use_cache=False).logits[0, -1].argmax()))
    has_end = found[-1] == tokenizer.eos_token_id
    return tokenizer.decode(found[:-1] if has_end else found).strip() + ("" if has_end else "...")


def take(builder, lengths, **options):
    return [builder.sample("test", index, length, **options) for index, length in enumerate(lengths)]


# ---------------------------------------------------------------- intervals


@pytest.mark.parametrize(
    "num_correct, n, low, high",
    [(8, 10, 0.4902, 0.9433), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0),  # scipy 1.17, binomtest(...).proportion_ci
     (81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)  # fmt: skip
def test_wilson_interval_equals_published_values(num_correct, n, low, high):
    """The last four are table I of Newcombe 1998, method 3."""
    assert wilson_interval(num_correct, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("n", [1, 8, 20, 100, 500])
def test_wilson_interval_ends_at_the_share_where_all_or_nothing_is_right(n):
    assert wilson_interval(0, n)[0] == 0.0
    assert wilson_interval(n, n)[1] == 1.0


@pytest.mark.parametrize("num_correct, n", [(1, 0), (0, 0), (3, 2), (-1, 2)])
def test_wilson_interval_refuses_impossible_counts(num_correct, n):
    with pytest.raises(ValueError, match=f"{num_correct} correct of {n}"):
        wilson_interval(num_correct, n)


def test_accuracy_table_counts_by_group():
    records = pd.DataFrame({"num_segments": [2, 1, 2, 2, 2], "is_correct": [True, False, True, False, True]})
    table = accuracy_table(records, "num_segments")
    assert list(table.columns) == ["num_segments", "n", "accuracy", "low", "high"]
    assert table[["num_segments", "n", "accuracy"]].values.tolist() == [[1, 1, 0.0], [2, 4, 0.75]]
    assert table.loc[1, ["low", "high"]].tolist() == pytest.approx(wilson_interval(3, 4))


def test_accuracy_table_groups_by_several_columns():
    records = pd.DataFrame({"task": ["qa1", "qa1", "qa2"], "split": ["test"] * 3, "is_correct": [True, True, False]})
    assert accuracy_table(records, ["task", "split"])["n"].tolist() == [2, 1]


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("length", [80, 100, 120, 130])
def test_answer_equals_slow_greedy(builder, model, tokenizer, length):
    samples = take(builder, [length] * 6)
    assert answer(model, samples, tokenizer) == [slow_answer(model, sample, tokenizer) for sample in samples]


def test_evaluate_does_not_depend_on_order_or_batch(builder, model, tokenizer):
    samples = take(builder, [100, 130, 100, 90, 130, 100, 90, 130, 100])
    alone = evaluate(model, samples, tokenizer, batch_size=1)
    for order, batch_size in ((samples, 4), (samples[::-1], 2), (samples[3:] + samples[:3], 100)):
        together = evaluate(model, iter(order), tokenizer, batch_size=batch_size)
        assert_same_rows(together, alone)


def test_evaluate_cuts_each_answer_at_its_own_length(builder, tokenizer):
    """Side by side with a longer answer, a model must not get more tokens to end its own in."""
    samples = take(builder, [100] * 12)
    sizes = {len(sample.continuation) for sample in samples}
    assert len(sizes) > 1
    long = "a b c d e f g"
    rows = evaluate(ScriptedModel(tokenizer, [long] * 12), samples, tokenizer, batch_size=12)
    for sample, prediction in zip(samples, rows["prediction"], strict=True):
        assert prediction == tokenizer.decode(tokenizer(long)["input_ids"][: len(sample.continuation)]).strip() + "..."


def test_evaluate_ignores_extra_questions(builder, model, tokenizer):
    plain, extra = take(builder, [130] * 5), take(builder, [130] * 5, num_extra_questions=2)
    assert any(len(b.continuation) > len(a.continuation) for a, b in zip(plain, extra, strict=True))
    assert_same_rows(evaluate(model, extra, tokenizer), evaluate(model, plain, tokenizer))


def assert_same_rows(found, expected):
    pd.testing.assert_frame_equal(*(t.sort_values("index").reset_index(drop=True) for t in (found, expected)))


def test_evaluate_describes_every_sample(builder, model, tokenizer):
    samples = take(builder, [80, 81, 120])
    rows = evaluate(model, samples, tokenizer).sort_values("index")
    assert rows["num_tokens"].tolist() == [80, 81, 120] and rows["num_segments"].tolist() == [2, 3, 3]
    assert set(rows["task"]) == {"qa1"} and set(rows["split"]) == {"test"} and set(rows["rule"]) == {"exact_match"}
    assert rows["fact_depth"].tolist() == [min(sample.supporting_depths) for sample in samples]
    assert rows["target"].tolist() == [sample.question.answer for sample in samples]
    assert rows["num_facts"].tolist() == [len(sample.problem.facts) for sample in samples]
    assert not rows["fact_depth"].map(math.isnan).any()


def test_evaluate_takes_the_depth_of_the_earliest_supporting_fact(make_builder, model, tokenizer):
    sample = make_builder(task="qa2").sample("test", 0, 120)
    assert sample.supporting_depths[0] != sample.supporting_depths[1]
    assert evaluate(model, [sample], tokenizer)["fact_depth"].tolist() == [min(sample.supporting_depths)]


def test_evaluate_scores_right_and_wrong_answers(builder, tokenizer):
    samples = take(builder, [100] * 3)
    texts = [f" {samples[0].question.answer}", " nowhere", f" {samples[2].question.answer} and on"]
    rows = evaluate(ScriptedModel(tokenizer, texts), samples, tokenizer)
    assert rows["is_correct"].tolist() == [True, False, False]
    assert rows["prediction"][0] == samples[0].question.answer


@pytest.mark.parametrize("rule, is_right", [("exact_match", False), ("babilong_labels", True)])
def test_evaluate_scores_by_the_rule_named(builder, tokenizer, rule, is_right):
    samples = take(builder, [100] * 2)
    model = ScriptedModel(tokenizer, [f" {sample.question.answer}." for sample in samples])
    rows = evaluate(model, samples, tokenizer, rule=rule)
    assert rows["is_correct"].tolist() == [is_right] * 2 and set(rows["rule"]) == {rule}


@pytest.mark.parametrize("is_training", [True, False])
def test_evaluate_restores_the_mode(builder, model, tokenizer, is_training):
    modes = []
    model.train(is_training)
    evaluate(model, take(builder, [90]), tokenizer, on_batch=lambda num_tokens: modes.append(model.training))
    assert modes == [False] and model.training is is_training and model.backbone.training is is_training
    model.eval()


def test_evaluate_restores_the_mode_after_an_error(builder, model, tokenizer):
    model.train()

    def stop(num_tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(model, take(builder, [90]), tokenizer, on_batch=stop)
    assert model.training
    model.eval()


def test_evaluate_reports_the_tokens_read(builder, model, tokenizer):
    read = []
    evaluate(model, take(builder, [90, 100, 90]), tokenizer, batch_size=2, on_batch=read.append)
    assert sorted(read) == [100, 180]


def test_evaluate_bounds_the_tokens_in_a_batch(builder, model, tokenizer, monkeypatch):
    read = []
    monkeypatch.setattr("rmtkit.evaluation.MAX_TOKENS_IN_BATCH", 250)
    evaluate(model, take(builder, [100] * 5), tokenizer, on_batch=read.append)
    assert read == [200, 200, 100]


def test_batches_of_presets_are_whole_at_any_length():
    """A step compiled for a batch reads only batches of this size."""
    largest = max(preset.test_batch_size for preset in PRESETS.values())
    assert MAX_TOKENS_IN_BATCH // LAZY_TOKENS >= largest


def test_evaluate_leaves_no_gradient_behind(builder, model, tokenizer):
    evaluate(model, take(builder, [90]), tokenizer)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_evaluate_refuses_an_unknown_rule(builder, model, tokenizer):
    with pytest.raises(ValueError, match="rules: exact_match"):
        evaluate(model, [], tokenizer, rule="fuzzy")
