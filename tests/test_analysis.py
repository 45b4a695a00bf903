"""Recording a sample, and the tables made of it, against slices and loops written out by hand."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.testing import assert_close
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from rmtkit import analysis
from rmtkit.babi import GeneratedProblems
from rmtkit.babilong import BabilongBuilder
from rmtkit.kinds import answer
from rmtkit.memory import RMTForCausalLM, RMTForSequenceClassification

SENTENCES = ["The river was high and the road was long.", "It rained for three days in the hills."]
SEGMENT, MEMORY = 32, 3
NUM_TOKENS = 4 * SEGMENT - 5


class Sentences:
    """A background that repeats two sentences."""

    def __init__(self, tokenizer):
        self.sentences = [np.array(tokenizer.encode(f" {text}"), dtype=np.uint16) for text in SENTENCES]

    def passage(self, split, num_tokens, rng):
        pieces = [self.sentences[i] for i in rng.integers(2, size=num_tokens // 5 + 1)]
        starts = np.cumsum([0, *(len(piece) for piece in pieces)])[:-1]
        return np.concatenate(pieces)[:num_tokens], starts[starts < num_tokens]


@pytest.fixture(scope="module")
def tokenizer():
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    facts = [fact for index in range(40) for fact in GeneratedProblems("qa1", seed=0).problem("train", index).facts]
    special = {"special_tokens": ["<eos>"], "initial_alphabet": pre_tokenizers.ByteLevel.alphabet()}
    bpe.train_from_iterator([f" {text}" for text in facts + SENTENCES], trainers.BpeTrainer(vocab_size=400, **special))
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>")


@pytest.fixture(scope="module")
def builder(tokenizer):
    return BabilongBuilder(GeneratedProblems("qa1", seed=0), Sentences(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def sample(builder):
    return analysis.find_samples(builder, NUM_TOKENS, SEGMENT, num_samples=1, num_candidates=200)[0]


def make_model(kind="qwen3", num_memory_tokens=MEMORY):
    torch.manual_seed(0)
    if kind == "gpt2":
        backbone = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=16, n_layer=2, n_head=2, n_positions=128))
    else:
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "head_dim": 8}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
        backbone = Qwen3ForCausalLM(Qwen3Config(vocab_size=400, max_position_embeddings=128, **sizes, **heads))
    return RMTForCausalLM.from_backbone(backbone, num_memory_tokens=num_memory_tokens, segment_size=SEGMENT).eval()


@pytest.fixture(scope="module")
def recording(sample, tokenizer):
    return analysis.record(make_model(), sample, tokenizer)


def straddling(sample):
    """The sample with its first fact said to lie across the border of segments 0 and 1."""
    spans = np.array([[SEGMENT - 2, SEGMENT + 3], *sample.fact_spans[1:].tolist()])
    return dataclasses.replace(sample, fact_spans=spans)


# ---------------------------------------------------------------------- recording


@pytest.mark.parametrize("kind", ["qwen3", "gpt2"])
def test_record_keeps_the_states_that_read_returns(kind, sample, tokenizer):
    model = make_model(kind)
    states = analysis.record(model, sample, tokenizer).states
    assert states.shape == (5, MEMORY, 16)
    assert_close(states[0], model.memory.detach())
    for num_segments in (1, 3, 4):
        expected = model.read(sample.prompt[None, : num_segments * SEGMENT])
        assert_close(states[num_segments], expected[0], atol=1e-5, rtol=1e-4)


def test_record_keeps_attentions_of_fact_segments_and_the_last_one(recording, sample):
    expected = {*(sample.fact_spans[:, 0] // SEGMENT).tolist(), 3}
    assert set(recording.attentions) == expected
    assert recording.attention(3).shape == (2, 4, SEGMENT - 5 + 2 * MEMORY, SEGMENT - 5 + 2 * MEMORY)


def test_record_keeps_the_asked_segments_only(sample, tokenizer):
    recording = analysis.record(make_model(), sample, tokenizer, attention_segments=[1])
    assert set(recording.attentions) == {1}
    with pytest.raises(ValueError, match="segment 0 is not recorded; recorded: 1"):
        recording.attention(0)
    with pytest.raises(ValueError, match="segments 0 to 3"):
        analysis.record(make_model(), sample, tokenizer, attention_segments=[4])


def test_record_predicts_what_evaluation_answers(recording, sample, tokenizer):
    assert recording.prediction == answer(make_model(), [sample], tokenizer)[0]


def test_record_finds_the_question(recording, sample, tokenizer):
    assert tokenizer.decode(sample.prompt[recording.question_start :].tolist()).strip() == sample.question.text


def test_record_works_on_facts_alone(builder, tokenizer):
    sample = builder.sample("test", 0)
    mass = analysis.attention_mass(analysis.record(make_model(), sample, tokenizer))
    assert set(mass["segment"]) == set((sample.fact_spans[:, 0] // SEGMENT).tolist())
    assert mass["share"].sum() == pytest.approx(8 * mass["segment"].nunique(), abs=1e-4)


def test_record_refuses_a_model_without_memory(sample, tokenizer):
    with pytest.raises(ValueError, match="num_memory_tokens=0"):
        analysis.record(make_model(num_memory_tokens=0), sample, tokenizer)


def test_record_refuses_a_model_that_is_no_decoder(sample, tokenizer):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    encoder = AutoModelForSequenceClassification.from_config(BertConfig(vocab_size=300, **sizes))
    model = RMTForSequenceClassification.from_backbone(encoder, num_memory_tokens=2, segment_size=16)
    with pytest.raises(ValueError, match="the analysis is for decoders"):
        analysis.record(model, sample, tokenizer)


def test_record_refuses_layers_without_attention():
    with pytest.raises(ValueError, match="without attention weights"):
        analysis._stack((torch.ones(1, 2, 3, 3), None))


@pytest.mark.parametrize("implementations", [("sdpa", "sdpa"), ("eager", "sdpa")])
def test_record_restores_attention_and_mode(implementations, sample, tokenizer):
    model = make_model().train()
    model.set_attn_implementation({"": implementations[0], "backbone_config": implementations[1]})
    analysis.record(model, sample, tokenizer)
    assert (model.config._attn_implementation, model.backbone.config._attn_implementation) == implementations
    assert model.training


def test_record_restores_attention_after_an_error(sample, tokenizer, monkeypatch):
    model = make_model()
    monkeypatch.setattr(model, "step", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        analysis.record(model, sample, tokenizer)
    assert model.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("position", ["first", "last", "both"])
@pytest.mark.parametrize("layout", ["spaced", "authors"])
def test_question_ends_are_those_of_the_layout(layout, position, tokenizer):
    builder = BabilongBuilder(GeneratedProblems("qa1", seed=0), Sentences(tokenizer), tokenizer, layout=layout,
                              question_position=position)  # fmt: skip
    sample = builder.sample("test", 0, 100)
    head, tail = analysis.question_ends(sample, tokenizer)
    decode = tokenizer.decode
    assert decode(sample.prompt[:head].tolist()).strip() == ("" if position == "last" else sample.question.text)
    assert decode(sample.prompt[tail:].tolist()).strip().startswith("" if position == "first" else sample.question.text)
    assert (tail == len(sample.prompt)) == (position == "first")


def test_find_samples_prefers_few_facts_apart_from_each_other(builder):
    samples = analysis.find_samples(builder, NUM_TOKENS, SEGMENT, num_samples=3, num_candidates=200)
    for sample in samples:
        (first, first_end), (second, second_end) = (sample.fact_spans - [0, 1]) // SEGMENT
        assert first == first_end < second == second_end < 3
    with pytest.raises(ValueError, match="5 are wanted"):
        analysis.find_samples(builder, NUM_TOKENS, SEGMENT, num_samples=5, num_candidates=4)


# ---------------------------------------------------------------------- attention


def test_write_attention_is_the_slice_of_write_slots_and_fact(recording, sample, tokenizer):
    table = analysis.write_attention(recording, 1, num_before=4)
    start, end = sample.fact_spans[1].tolist()
    segment = start // SEGMENT
    first = segment * SEGMENT
    columns = slice(MEMORY + max(first, start - 4) - first, MEMORY + end - first)
    expected = recording.attentions[segment][1, 2, -MEMORY:, columns]
    head = table[(table["layer"] == 1) & (table["head"] == 2)]
    assert_close(torch.tensor(head["weight"].to_numpy()).reshape(MEMORY, -1), expected)
    assert tokenizer.decode(sample.prompt[start:end].tolist()) == "".join(head[head["is_fact"]]["token"][: end - start])


def test_write_attention_of_a_straddling_fact_takes_each_token_from_its_segment(sample, tokenizer):
    recording = analysis.record(make_model(), straddling(sample), tokenizer)
    assert recording.fact_segments(0) == range(0, 2) and {0, 1} <= set(recording.attentions)
    table = analysis.write_attention(recording, 0).set_index(["layer", "head", "slot", "position"])
    assert table["is_fact"].sum() == 2 * 4 * MEMORY * 5
    before, behind = table.loc[(0, 0, 1, SEGMENT - 1)], table.loc[(0, 0, 1, SEGMENT)]
    assert before["segment"] == 0 and before["weight"] == recording.attentions[0][0, 0, -2, MEMORY + SEGMENT - 1]
    assert behind["segment"] == 1 and behind["weight"] == recording.attentions[1][0, 0, -2, MEMORY]


def test_write_attention_refuses_a_fact_that_is_not_there(recording):
    with pytest.raises(ValueError, match="facts 0 to 1"):
        analysis.write_attention(recording, 2)


def test_read_attention_is_the_slice_of_question_and_read_slots(recording, sample):
    table = analysis.read_attention(recording)
    num_asked = len(sample.prompt) - recording.question_start
    expected = recording.attentions[3][0, 3, -MEMORY - num_asked : -MEMORY, :MEMORY]
    head = table[(table["layer"] == 0) & (table["head"] == 3)]
    assert_close(torch.tensor(head["weight"].to_numpy()).reshape(num_asked, MEMORY), expected)
    assert head["position"].max() == len(sample.prompt) - 1


def test_attention_mass_adds_up_to_one(recording):
    mass = analysis.attention_mass(recording).groupby(["segment", "layer", "head"])[["share", "baseline"]].sum()
    np.testing.assert_allclose(mass.to_numpy(), 1, atol=1e-5)


def test_attention_mass_equals_a_loop_over_slots(sample, tokenizer):
    recording = analysis.record(make_model(), straddling(sample), tokenizer)
    mass = analysis.attention_mass(recording).set_index(["segment", "layer", "head", "target"])
    weights, size = recording.attentions[0][1, 0], 2 * MEMORY + SEGMENT
    rows = range(size - MEMORY, size)
    fact = [MEMORY + SEGMENT - 2, MEMORY + SEGMENT - 1]
    found = mass.loc[(0, 1, 0, "facts")]
    assert found["num_positions"] == 2
    assert found["share"] == pytest.approx(np.mean([sum(weights[row, k].item() for k in fact) for row in rows]))
    assert found["baseline"] == pytest.approx(np.mean([2 / (row + 1) for row in rows]))


def test_attention_mass_tells_question_from_background(builder, tokenizer):
    sample = builder.sample("test", 0, SEGMENT)
    mass = analysis.attention_mass(analysis.record(make_model(), sample, tokenizer))
    positions = mass[(mass["layer"] == 0) & (mass["head"] == 0)].set_index("target")["num_positions"]
    num_facts = int((sample.fact_spans[:, 1] - sample.fact_spans[:, 0]).sum())
    assert positions["facts"] == num_facts and positions["read memory"] == positions["write memory"] == MEMORY
    assert positions["facts"] + positions["background"] + positions["question"] == SEGMENT
    assert positions["question"] == SEGMENT - analysis.question_ends(sample, tokenizer)[1]


def test_summarize_mass_averages_samples_within_its_interval(recording):
    mass = analysis.attention_mass(recording)
    double = mass.assign(share=2 * mass["share"])
    summary = analysis.summarize_mass([mass, double]).set_index(["layer", "head", "target"]).loc[(0, 1, "facts")]
    one = mass[(mass["layer"] == 0) & (mass["head"] == 1) & (mass["target"] == "facts")]["share"].mean()
    assert summary["share"] == pytest.approx(1.5 * one) and summary["n"] == 2
    assert summary["low"] == pytest.approx(one) and summary["high"] == pytest.approx(2 * one)


# ---------------------------------------------------------------------- states


def test_state_distances_are_those_of_flattened_states(recording):
    distances = analysis.state_distances(recording)
    assert distances.shape == (5, 5) and list(distances.index) == list(range(5))
    expected = np.linalg.norm(recording.states[1].numpy() - recording.states[4].numpy())
    assert distances.loc[1, 4] == pytest.approx(expected, rel=1e-5)
    pd.testing.assert_frame_equal(distances, distances.T, check_names=False)
    assert (np.diag(distances) == 0).all()


def test_state_distances_offer_cosine_and_name_what_they_offer(recording):
    first, last = recording.states[1].flatten(), recording.states[4].flatten()
    expected = 1 - torch.cosine_similarity(first, last, dim=0).item()
    assert analysis.state_distances(recording, metric="cosine").loc[1, 4] == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="allowed: euclidean, cosine"):
        analysis.state_distances(recording, metric="manhattan")


def test_state_marks_name_the_first_state_after_each_fact(sample, tokenizer):
    recording = analysis.record(make_model(), straddling(sample), tokenizer)
    second = int(sample.fact_spans[1, 0]) // SEGMENT + 1
    assert recording.state_marks() == {"fact 1": 2, "fact 2": second, "question": 4}
