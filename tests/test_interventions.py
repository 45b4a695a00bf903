"""Interventions on a toy that answers from one slot, and on tiny models against weights changed by hand."""

import dataclasses
import types

import numpy as np
import pytest
import torch
from model_types import make_decoder
from torch.testing import assert_close

from rmtkit import interventions
from rmtkit.analysis import record
from rmtkit.memory import RMTForCausalLM

CARRIER = 1  # the slot that the toy answers from
WIDTH = 12
SILENCEABLE = ("gpt2", "gpt_neox", "llama", "mistral", "qwen3", "gemma3_text", "opt", "phi", "falcon_h1", "lfm2")


class Toy:
    """Answers with the token ids that stand in one slot of its memory, whatever is asked."""

    def __init__(self, tokenizer):
        self.config = types.SimpleNamespace(segment_size=64, num_memory_tokens=3)
        self.device, self.end = torch.device("cpu"), tokenizer.eos_token_id

    def generate(self, last, *, state, max_new_tokens, **_):
        return torch.cat([last, state[:, CARRIER, :max_new_tokens].long()], dim=1)

    def remember(self, samples):
        """Return memories (b, 3, WIDTH) that hold the answers."""
        memories = torch.full((len(samples), 3, WIDTH), float(self.end))
        for memory, sample in zip(memories, samples, strict=True):
            memory[CARRIER, : len(sample.continuation)] = torch.from_numpy(sample.continuation.astype(np.float32))
        return memories


@pytest.fixture(scope="module")
def toy(tokenizer):
    return Toy(tokenizer)


@pytest.fixture(scope="module")
def samples(make_builder):
    return interventions.memory_samples(make_builder(), 300, 64, 24)


def tiny(model_type, *, segment_size=64, **settings):
    backbone = make_decoder(model_type, vocab_size=300, max_position_embeddings=128, **settings)
    return RMTForCausalLM.from_backbone(backbone, num_memory_tokens=3, segment_size=segment_size).eval()


# ---------------------------------------------------------------------- samples and memories


def test_memory_samples_have_no_fact_in_the_last_segment(samples):
    assert [sample.index for sample in samples] == list(range(24))  # none is left out
    assert all(len(sample.prompt) == 300 and sample.fact_spans.max() <= 256 for sample in samples)


def test_memory_samples_leave_the_builder_as_it_is(make_builder):
    builder = make_builder(fact_depth=(0.1, 0.9))
    interventions.memory_samples(builder, 300, 64, 2)
    assert builder.fact_depth == (0.1, 0.9)


def test_memory_samples_need_background_and_room(make_builder):
    with pytest.raises(ValueError, match="background is none"):
        interventions.memory_samples(make_builder(background=None), None, 64, 2)
    with pytest.raises(ValueError, match="do not fit before the last segment"):
        interventions.memory_samples(make_builder(), 60, 64, 2)


def test_read_memories_are_the_states_before_the_last_segment(samples, tokenizer):
    model = tiny("qwen3")
    memories = interventions.read_memories(model, samples[:3], batch_size=2)
    for memory, sample in zip(memories, samples, strict=False):
        assert_close(memory, record(model, sample, tokenizer).states[-2], atol=1e-5, rtol=1e-4)


def test_answers_from_the_models_own_memories_are_its_answers(samples, tokenizer):
    model = tiny("llama")
    memories = interventions.read_memories(model, samples[:4])
    answers = interventions.answer_from(model, samples[:4], memories, tokenizer, batch_size=3)
    assert answers == [record(model, sample, tokenizer).prediction for sample in samples[:4]]


def test_prompts_of_several_lengths_keep_their_order(make_builder, tokenizer):
    model = tiny("llama")
    samples = interventions.memory_samples(make_builder(task="qa4", layout="authors"), 300, 64, 8)
    assert len({len(sample.prompt) for sample in samples}) > 1
    memories = interventions.read_memories(model, samples, batch_size=3)
    for memory, sample in zip(memories, samples, strict=True):
        assert_close(memory, record(model, sample, tokenizer).states[-2], atol=1e-5, rtol=1e-4)


# ---------------------------------------------------------------------- slots


@pytest.mark.parametrize("filling", interventions.FILLINGS)
def test_ablating_the_only_slot_with_the_answer_removes_it(filling, toy, samples, tokenizer):
    table = interventions.ablate_slots(toy, samples, toy.remember(samples), tokenizer, filling=filling)
    accuracy = table.set_index(["kept", "slot"])["accuracy"]
    assert accuracy[("all", -1)] == accuracy[("slot", CARRIER)] == accuracy[("others", 0)] == 1
    assert accuracy[("others", CARRIER)] == accuracy[("none", -1)] == accuracy[("slot", 0)] < 0.5
    assert (table["n"] == 24).all() and len(table) == 8


def test_replace_slots_changes_the_named_slots_only():
    memories = torch.arange(24.0).reshape(4, 3, 2)
    changed = interventions.replace_slots(memories, [2], "mean")
    assert_close(changed[:, :2], memories[:, :2])
    assert_close(changed[:, 2], memories[:, 2].mean(0).expand(4, 2))
    assert (interventions.replace_slots(memories, [0], "zero")[:, 0] == 0).all()
    for slots, filling, message in (([3], "zero", "slots 0 to 2"), ([0], "noise", "allowed: zero, mean")):
        with pytest.raises(ValueError, match=message):
            interventions.replace_slots(memories, slots, filling)


# ---------------------------------------------------------------------- heads


OUTPUTS = ("o_proj", "out_proj", "attention.dense", "self_attn.dense", "attn.c_proj")  # as the backbones name them


def out_projection(model, layer):
    """Return the weight of a layer's output projection of attention, (d, h * d_head), GPT-2's transposed."""
    endings = tuple(f"{name}.weight" for name in OUTPUTS)
    named = model.backbone.named_parameters()
    return next(weight for name, weight in named if f".{layer}." in name and name.endswith(endings))


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "llama", "qwen3", "gemma3_text", "opt", "phi"])
def test_silenced_is_the_same_as_no_weight_from_the_head(model_type):
    model, by_hand = tiny(model_type), tiny(model_type)
    by_hand.memory = model.memory
    tokens, (layer, head) = torch.arange(1, 31).reshape(2, 15), (1, 1)
    weight = out_projection(by_hand, layer)
    size = (weight.shape[0] if model_type == "gpt2" else weight.shape[1]) // 2
    part = slice(head * size, (head + 1) * size)
    with torch.no_grad():
        weight[(part,) if model_type == "gpt2" else (slice(None), part)] = 0
    before, expected = model.step(tokens)[1], by_hand.step(tokens)[1]
    with interventions.silenced(model, layer, head):
        found = model.step(tokens)[1]
    assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(before, expected, atol=1e-3)
    assert_close(model.step(tokens)[1], before)


@pytest.mark.parametrize("model_type", SILENCEABLE)
def test_silenced_works_without_naming_the_architecture(model_type):
    model, tokens = tiny(model_type), torch.arange(1, 31).reshape(2, 15)
    before, former = model.step(tokens)[1], model.backbone.config._attn_implementation
    layers = interventions.attention_layers(model)
    with interventions.silenced(model, len(layers) - 1, 0):
        assert not torch.allclose(model.step(tokens)[1], before, atol=1e-4)
    assert model.backbone.config._attn_implementation == former
    assert_close(model.step(tokens)[1], before)


@pytest.mark.parametrize("model_type", ["bloom", "mamba"])
def test_attention_out_of_reach_is_said(model_type):
    with pytest.raises(ValueError, match="single heads cannot be silenced"):
        interventions.attention_layers(tiny(model_type))


def test_silenced_refuses_a_head_that_is_not_there_and_restores_after_an_error():
    model = tiny("llama")
    with pytest.raises(ValueError, match=r"layer 2, head 0 is not there; the layers have \[2, 2\] heads"):
        with interventions.silenced(model, 2, 0):
            pass
    with pytest.raises(ZeroDivisionError), interventions.silenced(model, 0, 0):
        raise ZeroDivisionError
    assert model.config._attn_implementation == model.backbone.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("when", interventions.PHASES)
def test_ablate_heads_silences_in_its_phase_only(when, samples, tokenizer, monkeypatch):
    model, active, seen = tiny("llama"), [], []

    def silenced(model, layer, head):
        @interventions.contextlib.contextmanager
        def note():
            active.append((layer, head))
            yield
            active.pop()

        return note()

    monkeypatch.setattr(interventions, "silenced", silenced)
    memories = interventions.read_memories(model, samples[:2])
    monkeypatch.setattr(interventions, "read_memories", lambda *_, **__: seen.append(("reading", *active)) or memories)
    monkeypatch.setattr(
        interventions, "answer_from", lambda *_, **__: seen.append(("answering", *active)) or ["a", "b"]
    )
    table = interventions.ablate_heads(model, samples[:2], memories, tokenizer, when=when)
    assert len(table) == 5 and (table["when"] == when).all()
    heads = [(), ((0, 0),), ((0, 1),), ((1, 0),), ((1, 1),)]
    assert [tuple(rest) for phase, *rest in seen if phase == when] == heads
    assert all(not rest for phase, *rest in seen if phase != when)


def test_ablate_heads_names_the_phases(samples, tokenizer):
    with pytest.raises(ValueError, match="allowed: answering, reading"):
        interventions.ablate_heads(tiny("llama"), samples, None, tokenizer, when="always")


# ---------------------------------------------------------------------- swapping


def test_swapped_memories_swap_the_answers_of_a_model_that_answers_from_memory(toy, samples, tokenizer):
    pairs = interventions.swap_pairs(samples)
    records = interventions.swap_each(toy, samples, toy.remember(samples), tokenizer, pairs=pairs)
    shares = interventions.swap_shares(records).set_index(["exchanged", "answer"])["share"]
    assert shares[("everything", "other")] == shares[(f"slot {CARRIER}", "other")] == 1
    assert shares[("nothing", "own")] == shares[("slot 0", "own")] == 1
    assert shares.groupby("exchanged").sum().to_numpy() == pytest.approx(1)
    by_question = interventions.swap_shares(records, ("question",))
    assert by_question["n"].sum() == 3 * 5 * 2 * len(pairs)


def test_swapped_answers_may_be_longer_than_the_samples_own(toy, samples, tokenizer):
    first, second = (samples[index] for index in interventions.swap_pairs(samples)[0])
    long = np.append(np.repeat(second.continuation[:1], 4), toy.end).astype(second.continuation.dtype)
    answer = tokenizer.decode(long[:-1].tolist()).strip()
    question = dataclasses.replace(second.question, answer=answer)
    problem = dataclasses.replace(second.problem, questions=(question,))
    second = dataclasses.replace(second, continuation=long, is_answer=np.ones(5, bool), problem=problem)
    table = interventions.swap_memories(toy, [first, second], toy.remember([first, second]), tokenizer, pairs=[(0, 1)])
    assert table["prediction"].tolist() == [answer, first.question.answer]


def test_swap_pairs_ask_the_same_with_other_answers_once_each(samples):
    pairs = interventions.swap_pairs(samples)
    assert len({index for pair in pairs for index in pair}) == 2 * len(pairs) > 4
    for first, second in pairs:
        assert samples[first].question.text == samples[second].question.text
        assert samples[first].question.answer != samples[second].question.answer
    with pytest.raises(ValueError, match="none of 1 samples"):
        interventions.swap_pairs(samples[:1])
