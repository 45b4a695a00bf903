"""Training on texts read on and on: windows, questions aside, the carried memory, copies of the weights in float32."""

import copy
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from rmtkit import streams
from rmtkit.config import ConfigError, resolve
from rmtkit.curriculum import Stage
from rmtkit.memory import RMTForCausalLM
from rmtkit.memory.segments import split_segments
from rmtkit.optimization import WithCopies
from rmtkit.stillness import motion
from rmtkit.streams import CarriedMemory, StreamDataset, collate_windows, window_loss

SEGMENT, WINDOW, ROWS = 64, 3, 4


@pytest.fixture
def dataset(make_builder):
    """Windows of three segments in four rows, texts of up to thirty segments."""
    config = resolve(
        {"window": WINDOW, "segment_size": SEGMENT, "batch_size": ROWS, "micro_batch_size": ROWS, "answer_size": 16}
    )
    stage = Stage(0, 30, 25, Path(), is_last=True)
    return StreamDataset(make_builder(answer_size=16), config, stage)


def last_place(told: str, question: str) -> str:
    """The place that a text says last of the person whom a question is about."""
    person = re.fullmatch(r" ?Where is (\w+)\?", question).group(1)
    return re.findall(rf"{person} (?:went|journeyed|travelled|moved|went back) to the (\w+)\.", told)[-1]


def test_windows_of_a_row_are_its_texts_one_after_another(dataset):
    places = [dataset.place(step * ROWS + 1) for step in range(25)]
    expected = []
    for number in dict.fromkeys(number for number, _ in places):
        expected += [(number, window) for window in range(dataset.text(number).num_windows)]
    assert places == expected[:25] and len({number for number, _ in places}) > 3
    for step, (number, window) in enumerate(places):
        read = dataset[step * ROWS + 1]
        told = dataset.text(number).tokens[window * WINDOW * SEGMENT :][: WINDOW * SEGMENT]
        assert (read.tokens[: len(told)] == told).all() and not read.tokens[len(told) :].any()  # EOS is 0
        assert read.is_start == (window == 0)


def test_window_depends_on_its_index_alone(dataset, make_builder):
    again = StreamDataset(make_builder(answer_size=16), dataset.config, dataset.stage)
    for index in (37, 5, 61, 61, 2):
        again[index]
    for index in range(70):
        one, other = dataset[index], again[index]
        assert (one.tokens == other.tokens).all() and len(one.asides) == len(other.asides)
        assert all((a.tokens == b.tokens).all() for a, b in zip(one.asides, other.asides, strict=True))


def test_rows_read_different_texts(dataset):
    numbers = [{dataset.place(step * ROWS + row)[0] for step in range(25)} for row in range(ROWS)]
    assert sum(map(len, numbers)) == len(set.union(*numbers))


def test_answers_aside_are_right_where_they_are_asked(dataset):
    tokenizer, num_asked = dataset.builder.tokenizer, 0
    for index in range(100):
        number, window = dataset.place(index)
        text = dataset.text(number).tokens
        for aside in dataset[index].asides:
            start = (window * WINDOW + aside.segment) * SEGMENT
            read = tokenizer.decode(aside.tokens)
            asked = re.findall(r"( ?Where is \w+\?) (\w+)<\|endoftext\|>", read)
            before = tokenizer.decode(text[:start]) + read[: read.index(asked[0][0])]
            assert tokenizer.decode(text).startswith(before)
            assert all(last_place(before, question) == answer for question, answer in asked)
            assert len(aside.tokens) <= SEGMENT
            num_asked += len(asked)
    assert num_asked > 100


def test_half_of_the_questions_stand_where_they_do_in_evaluation(dataset):
    ends = [int(aside.is_answer.argmax()) for index in range(100) for aside in dataset[index].asides]
    at_end = sum(end == SEGMENT - dataset.config.answer_size for end in ends) / len(ends)
    assert 0.3 < at_end < 0.8 and min(ends) < SEGMENT // 2


def test_a_border_cuts_a_fact_of_half_of_the_texts_and_more_and_all_is_told(dataset, monkeypatch):
    def texts_cut():
        fresh = StreamDataset(dataset.builder, dataset.config, dataset.stage)
        texts = [fresh.text(number) for number in range(60)]
        for text in texts:
            told = [dataset.builder.tokenizer.decode(text.tokens[first:last]) for first, last in text.fact_spans]
            assert [fact.strip() for fact in told] == list(text.problem.facts)
            assert len(text.tokens) == text.num_windows * WINDOW * SEGMENT
        segments = [(text.fact_spans - [0, 1]) // SEGMENT for text in texts]
        return np.mean([(pairs[:, 0] != pairs[:, 1]).any() for pairs in segments])

    by_share = []
    for share in (0.0, streams.CUT, 1.0):
        monkeypatch.setattr(streams, "CUT", share)
        by_share.append(texts_cut())
    assert by_share[0] + 0.1 < by_share[1] < by_share[2] - 0.1 and by_share[2] > 0.9


def test_training_texts_are_distracted_as_asked(dataset, make_builder):
    config = dataclasses.replace(dataset.config, distraction=0.05)
    distracted = StreamDataset(make_builder(answer_size=16), config, dataset.stage)
    pairs = [(dataset.text(number), distracted.text(number)) for number in range(8)]
    assert all((one.fact_spans == other.fact_spans).all() for one, other in pairs)
    assert 0.03 < np.mean(np.concatenate([one.tokens != other.tokens for one, other in pairs])) < 0.06


def test_segments_of_background_alone_have_no_token_of_a_fact(dataset):
    size, num_found = WINDOW * SEGMENT, 0
    for index in range(100):
        number, window = dataset.place(index)
        text = dataset.text(number)
        told = {place for first, last in text.fact_spans for place in range(first, last)}
        for segment, found in enumerate(dataset[index].is_background):
            start = window * size + segment * SEGMENT
            places = range(start, start + SEGMENT)
            assert found == (places.stop <= len(text.tokens) and not told.intersection(places))
            num_found += found
    assert 50 < num_found < 250


def test_padding_behind_a_text_is_no_background(dataset):
    text = dataset.text(0)
    short = dataclasses.replace(text, tokens=text.tokens[: SEGMENT + 9], fact_spans=np.array([[SEGMENT, SEGMENT + 9]]))
    dataset._text, dataset.config = lambda number: short, dataclasses.replace(dataset.config, num_asides=0)
    assert dataset[0].is_background.tolist() == [True, False, False]


def test_longer_texts_come_more_seldom(dataset):
    windows = [dataset.text(number).num_windows for number in range(300)]
    assert 0.35 < sum(n == 1 for n in windows) / 300 < 0.65 and max(windows) == 10


@pytest.fixture
def model(make_backbone):
    """A tiny GPT-2 with three memory tokens, in training."""
    backbone = make_backbone(vocab_size=400, max_position_embeddings=128)
    made = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=3, segment_size=SEGMENT)
    made.reset_memory(torch.Generator().manual_seed(1))
    return made.train()


def make_batch(dataset, first):
    return collate_windows([dataset[index] for index in range(first, first + ROWS)], pad_token_id=0)


def test_window_loss_equals_reading_for_each_question_anew(dataset, model):
    slow = copy.deepcopy(model)
    batch, memory = make_batch(dataset, 0), model.initial_memory(ROWS)
    loss, after = window_loss(model, batch, memory)
    total = 0.0
    for number, labels in enumerate(batch["labels"]):
        row, segment = int(batch["aside_rows"][number]), int(batch["aside_segments"][number])
        state = slow.initial_memory(1)
        for part in split_segments(batch["text"][row : row + 1, : segment * SEGMENT], SEGMENT) if segment else ():
            _, state = slow.step(part, state)
        logits = slow(batch["input_ids"][number : number + 1], state=state).logits[0]
        total += functional.cross_entropy(logits[:-1], labels[1:], reduction="sum")
    total = total / (batch["labels"][:, 1:] != -100).sum()
    torch.testing.assert_close(loss, total)
    torch.testing.assert_close(after, slow.read(batch["text"]))
    loss.backward()
    total.backward()
    for mine, other in zip(model.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-3, atol=1e-6)


def test_window_without_questions_has_a_loss_without_gradient(dataset, model):
    batch = make_batch(dataset, 0)
    empty = {name: batch[name][:0] for name in ("input_ids", "labels", "aside_rows", "aside_segments")}
    loss, _ = window_loss(model, {**batch, **empty}, model.initial_memory(ROWS))
    loss.backward()
    assert loss == 0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_stillness_is_beside_the_answers_and_the_same_in_parts(dataset, model):
    model.config.memory_grid = 0.25
    batch = make_batch(dataset, 5 * ROWS)
    batch["is_background"][:] = True
    initial = model.initial_memory(ROWS)
    plain, memory = window_loss(model, batch, initial)
    still, after = window_loss(model, batch, initial, stillness=3.0)
    memories = [initial, *(model.read(batch["text"][:, : n * SEGMENT]) for n in range(1, WINDOW + 1))]
    steps = zip(split_segments(batch["text"], SEGMENT), memories, strict=False)
    written = torch.stack([model.step(part, state)[0].written for part, state in steps])
    moved = motion(torch.stack(memories), written, batch["is_background"], 0.25, batch["is_start"])
    torch.testing.assert_close(still, plain + 3 * moved.mean())
    torch.testing.assert_close(after, memory)
    (still - plain).backward()
    assert model.memory.grad.abs().max() > 0  # what is written has a gradient, though it is rounded
    part = collate_windows([dataset[5 * ROWS]], pad_token_id=0) | {"is_background": batch["is_background"][:1]}
    plain, _ = window_loss(model, part, initial[:1])
    still, _ = window_loss(model, part, initial[:1], stillness=3.0, num_rows=ROWS)
    torch.testing.assert_close(still, plain + 3 * moved[0] / ROWS)


def test_memory_goes_on_within_a_text_and_begins_anew_with_the_next(dataset, model):
    carried, states = CarriedMemory(ROWS), {}
    for step in range(12):
        batch = make_batch(dataset, step * ROWS)
        before = carried.before(model, batch["rows"], batch["is_start"])
        for row in range(ROWS):
            expected = model.memory if batch["is_start"][row] else states[row]
            torch.testing.assert_close(before[row], expected)
        _, after = window_loss(model, batch, before)
        carried.keep(batch["rows"], after)
        states = dict(enumerate(after.detach()))
    assert not carried.memory.requires_grad


def make_linear(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4).to(dtype)
    return layer, lambda model: torch.optim.SGD(model.parameters(), lr=1e-4)


def update(layer, optimizer):
    for weight in layer.parameters():
        weight.grad = torch.ones_like(weight)
    optimizer.step()


def test_master_weights_keep_updates_that_bfloat16_would_lose():
    layer, make = make_linear(torch.bfloat16)
    plain, _ = make_linear(torch.bfloat16)
    before, optimizer, lossy = layer.weight.float(), WithCopies(layer, make), make(plain)
    for _ in range(500):
        update(layer, optimizer)
        update(plain, lossy)
    torch.testing.assert_close(layer.weight.float(), before - 0.05, rtol=0, atol=0.002)
    assert (plain.weight.float() - before).abs().mean() < 0.02  # what the copies are for


def test_master_weights_survive_saving():
    layer, make = make_linear(torch.bfloat16)
    optimizer = WithCopies(layer, make)
    update(layer, optimizer)
    other = copy.deepcopy(layer)
    restored = WithCopies(other, make)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(20):
        update(layer, optimizer)
        update(other, restored)
    assert torch.equal(layer.weight, other.weight) and layer.weight.dtype is torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_average_is_the_exponential_one_of_the_weights(dtype):
    layer, make = make_linear(dtype)
    optimizer, expected = WithCopies(layer, make, ema_decay=0.5), layer.weight.detach().double()
    master = expected.clone()
    for number in range(20):
        update(layer, optimizer)
        master -= 1e-4
        decay = min(0.5, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * master
    now = layer.weight.clone()
    with pytest.raises(KeyboardInterrupt), optimizer.averaged():
        torch.testing.assert_close(layer.weight, expected.to(dtype))
        raise KeyboardInterrupt
    assert (layer.weight == now).all()


def test_without_average_weights_stay_as_they_are():
    layer, make = make_linear(torch.bfloat16)
    optimizer = WithCopies(layer, make)
    update(layer, optimizer)
    now = layer.weight.clone()
    with optimizer.averaged():
        assert (layer.weight == now).all()


def test_average_and_weights_survive_saving_and_a_model_that_was_saved_averaged():
    layer, make = make_linear(torch.float32)
    optimizer = WithCopies(layer, make, ema_decay=0.9)
    for _ in range(10):
        update(layer, optimizer)
    other, _ = make_linear(torch.float32)
    with optimizer.averaged():
        other.load_state_dict(layer.state_dict())
    restored = WithCopies(other, make, ema_decay=0.9)
    assert (layer.weight != other.weight).any()
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert (layer.weight == other.weight).all()  # the next gradient is taken of these
    for one, its in ((layer, optimizer), (other, restored)):
        update(one, its)
    assert (layer.weight == other.weight).all()
    with optimizer.averaged(), restored.averaged():
        assert (layer.weight == other.weight).all()


def test_schedulers_reach_the_optimizer_inside():
    layer, make = make_linear(torch.bfloat16)
    optimizer = WithCopies(layer, make)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5)
    assert optimizer.inner.param_groups[0]["lr"] == 0.5e-4


@pytest.mark.parametrize(
    "more",
    [{"growth": "facts"}, {"vary_background": 0.5}, {"question_position": "both"}, {"question_position": "first"}],
)
def test_window_refuses_what_it_cannot_do(more):
    with pytest.raises(ConfigError, match="window reads texts on and on"):
        resolve({"window": 4, **more})
