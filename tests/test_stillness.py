"""Keeping still in background: what moves, the loss of whole texts, and pieces of facts strewn over background."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from rmtkit.babilong import tokens_in
from rmtkit.config import resolve
from rmtkit.curriculum import Stage, StageDataset, distract
from rmtkit.kinds import collate
from rmtkit.memory import RMTForCausalLM
from rmtkit.stillness import motion, text_loss

SEGMENT = 32


@pytest.fixture
def samples(make_builder):
    """Training samples of sixteen segments with questions on the way and after the answer."""
    return stage_dataset(make_builder)


def stage_dataset(make_builder, **settings):
    config = resolve({"segment_size": SEGMENT, "segments": "16", "batch_size": 4, "micro_batch_size": 4,
                      "answer_size": 16, "num_questions_between": 2, "vary_segments": 0, **settings})  # fmt: skip
    return StageDataset(make_builder(answer_size=16), config, Stage(0, 16, 25, Path(), is_last=True))


@pytest.fixture
def model(make_backbone):
    """A tiny GPT-2 with three memory tokens on a grid, in training."""
    backbone = make_backbone(vocab_size=400, max_position_embeddings=128)
    made = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=3, segment_size=SEGMENT, memory_grid=0.25)
    made.reset_memory(torch.Generator().manual_seed(1))
    return made.train()


@pytest.mark.parametrize("position", ["last", "first", "both"])
def test_all_but_background_is_in_the_foreground(make_builder, tokenizer, position):
    builder = make_builder(question_position=position, answer_size=16)
    for index in range(20):
        sample = builder.sample("train", index, 400, num_questions_between=2)
        is_foreground = tokens_in(sample.foreground_spans, len(sample.prompt))
        assert "Text" not in tokenizer.decode(sample.prompt[is_foreground])
        rest = tokenizer.decode(sample.prompt[~is_foreground])
        assert "wide." in rest and not re.search(r"Where|Mary|John|Daniel|Sandra|went|<", rest)


def test_segments_of_background_alone_have_no_token_of_anything_else(samples, model):
    read = [samples[index] for index in range(16)]
    batch = collate(read, 0, model, marks_background=True)
    found = batch["is_background"]
    assert found.shape == (16, -(-batch["input_ids"].shape[1] // SEGMENT)) and 0.2 < found.float().mean() < 0.9
    for row, sample in enumerate(read):
        told = {place for first, last in sample.foreground_spans for place in range(first, last)}
        for segment, is_alone in enumerate(found[row]):
            places = range(segment * SEGMENT, (segment + 1) * SEGMENT)
            assert is_alone == (places.stop <= len(sample.prompt) and not told.intersection(places))


def test_batches_say_nothing_of_background_unless_asked(samples, model):
    assert set(collate([samples[0]], 0, model)) == {"input_ids", "labels"}


@pytest.mark.parametrize("grid", [0.0, 0.5])
def test_motion_is_what_two_segments_of_background_change_beyond_a_quarter_of_the_grid(grid):
    generator = torch.Generator().manual_seed(0)
    memories, written = (torch.randn(n, 3, 2, 4, generator=generator) for n in (5, 4))
    is_background = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 0, 1]]).bool()
    is_start = torch.tensor([False, False, True])
    expected = torch.zeros(3)
    for row, pairs in enumerate([(1, 2, 3), (2,), ()]):  # the last row's first pair begins with M_0
        for j in pairs:
            distance = (written[j, row] - memories[j - 1, row]).abs()
            excess = (distance / grid - 0.25).clamp(min=0) if grid else distance
            expected[row] += excess.square().mean() / 3
    torch.testing.assert_close(motion(memories, written, is_background, grid, is_start), expected)


def test_motion_of_one_segment_is_zero():
    written = torch.ones(1, 2, 3, 4)
    assert not motion(torch.zeros(2, 2, 3, 4), written, torch.ones(2, 1).bool(), 0.5).any()


def test_loss_of_texts_is_that_of_the_answers_and_what_background_moves(samples, model):
    batch = collate([samples[index] for index in range(4)], 0, model, marks_background=True)
    memory, memories, written = model.initial_memory(4), [], []
    for part in batch["input_ids"].split(SEGMENT, dim=1):
        output, memory = model.step(part, memory)
        written.append(output.written)
        memories.append(memory)
    moved = torch.zeros(4)
    for j in range(2, len(written)):  # 0 is written from M_0, 1 and 2 from what was written
        distance = ((written[j] - memories[j - 2]).abs() / 0.25 - 0.25).clamp(min=0).square().mean(dim=(1, 2))
        moved += distance * batch["is_background"][:, j - 1] * batch["is_background"][:, j] / (len(written) - 2)
    plain = model(batch["input_ids"], labels=batch["labels"]).loss
    still = text_loss(model, batch, stillness=3.0)
    torch.testing.assert_close(still, plain + 3 * moved.mean())
    torch.testing.assert_close(text_loss(model, batch, stillness=3.0, num_rows=8), plain + 3 * moved.sum() / 8)
    (still - plain).backward()
    assert moved.max() > 0 and model.memory.grad.abs().max() > 0  # what is written has a gradient, though it is rounded


def test_loss_of_texts_is_the_same_with_activations_computed_again(samples, model):
    batch = collate([samples[index] for index in range(2)], 0, model, marks_background=True)
    again = copy.deepcopy(model)
    again.config.segment_checkpointing = True
    for one in (model, again):
        text_loss(one, batch, stillness=3.0).backward()
    for mine, other in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_writing_is_returned_with_a_loss_to_learn_from(samples, model):
    batch = collate([samples[0]], 0, model)
    output = model(**batch)
    assert len(output.written) == -(-batch["input_ids"].shape[1] // SEGMENT)
    torch.testing.assert_close(torch.round(output.written[-1] / 0.25) * 0.25, output.memory)
    assert model(batch["input_ids"]).written is None
    with torch.no_grad():
        assert model(**batch).written is None


def test_pieces_of_facts_are_written_over_background_and_no_fact_is_touched():
    tokens, spans = np.zeros(20_000, np.uint16), np.array([[100, 106], [106, 113], [4000, 4005]])
    for first, last in spans:
        tokens[first:last] = np.arange(first, last)
    found = distract(tokens, spans, ~tokens_in(spans, 20_000), 0.02, np.random.default_rng(0))
    assert not tokens[:100].any() and all((found[a:b] == tokens[a:b]).all() for a, b in spans)
    is_written = found != tokens
    assert 0.015 < is_written.mean() < 0.025
    text = "".join(chr(token) if written else "." for written, token in zip(is_written, found, strict=True))
    runs = re.findall(r"[^.]+", text)
    assert set(map(ord, text)) == {ord("."), *range(100, 113), *range(4000, 4005)}
    steps = np.concatenate([np.diff([ord(token) for token in run]) for run in runs])
    assert len(steps) and (steps == 1).mean() > 0.9  # pieces in their order
    assert max(map(len, runs)) <= 2 * 3  # at most half of a fact; now and then two of them side by side
    firsts = [ord(run[0]) in spans[:, 0] for run in runs]
    assert 0.4 < np.mean(firsts) < 0.8  # half of them with a fact's subject, and chance


def test_background_is_as_it_is_without_distraction():
    tokens = np.arange(50, dtype=np.uint16)
    assert (distract(tokens, np.array([[10, 16]]), np.ones(50, bool), 0.0, np.random.default_rng(0)) == tokens).all()


def test_training_samples_are_distracted_as_asked_and_tell_and_ask_the_same(samples, make_builder):
    distracted = stage_dataset(make_builder, distraction=0.05)
    for one, other in ((samples[index], distracted[index]) for index in range(12)):
        changed = np.asarray(one.prompt) != np.asarray(other.prompt)
        assert not (changed & tokens_in(one.foreground_spans, len(one.prompt))).any()
        assert 0 < changed.mean() < 0.1 and (one.continuation == other.continuation).all()
    again = stage_dataset(make_builder, distraction=0.05)
    assert (np.asarray(distracted[3].prompt) == np.asarray(again[3].prompt)).all()
