"""Training on texts that are read on and on: windows of a few segments, the memory carried from one to the next.

A memory has to keep what it holds for a hundred thousand segments, which no gradient passes through. Here each row of
a batch reads one text after another, a window of segments an update; the memory goes on to the next window as a
constant (truncated BPTT), so that the model meets memories of any age, and what it has to learn is local: to write a
fact, and to leave all else as it was. By induction that holds for ever.

    text        | window 1       | window 2       | window 3       | next text ...
    memory    M_0 ------------> M_4 ----------> M_8 ------------> M_12       M_0
    asides          ? ?               ?  ?            ?   ?

Questions are asked aside: a copy of the memory before some segment reads the first tokens of that segment and the
questions, as at the end of a sample, and the memory that is carried on has not seen them. So one memory gives many
answers, after any segment, and an older fact cannot be learned from the answer to an earlier question.

Length of a text: its number of windows w is drawn with a density of 1 / w^2, so that each octave of lengths gets the
same time of reading. Facts lie anywhere in it, or in half of the texts within a part of it, which leaves a long stretch
of background before and behind them. Half of the texts begin such that a segment's border cuts a fact in two, which is
rare where segments are long, and hard: what is written must say that it has begun.

Ours; not in the paper. Axis letters: b batch (rows), q asides, t tokens, s segment tokens, k segments of a window,
m memory tokens, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import Dataset

from rmtkit.babi import Problem, Question
from rmtkit.babilong import BabilongBuilder, segments_of_background, tokens_in
from rmtkit.config import Config
from rmtkit.curriculum import Stage, distract
from rmtkit.memory import RMTForCausalLM
from rmtkit.memory.segments import split_segments
from rmtkit.stillness import motion

TEXT, WINDOW = 1, 2  # what a random generator is for
TRIES = 10  # places looked at in search of one where the question fits its segment
AT_END = 0.5  # share of asides whose question stands where it does in evaluation, where the facts leave the room
CUT = 0.5  # share of texts that begin where a segment's border cuts one of their facts in two
ANYWHERE = 0.5  # share of texts with facts from beginning to end


@dataclass(frozen=True, slots=True)
class Text:
    """A text that tells the facts of a problem: tokens (t,), spans of the facts (k, 2), and what may be asked."""

    tokens: np.ndarray
    fact_spans: np.ndarray
    problem: Problem
    num_windows: int

    def questions_after(self, num_facts: int) -> tuple[Question, ...]:
        """Return what may be asked when so many facts have been told; nothing between two that are told together."""
        last = self.problem.questions if num_facts == len(self.fact_spans) else ()
        earlier = tuple(question for question in self.problem.earlier if question.num_facts == num_facts)
        return tuple({question.text: question for question in (*last, *earlier)}.values())

    def pauses(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """Return where in tokens start..end something may be asked: number of facts told, first and last place.

        A place is a number of tokens told; it is not within a fact.
        """
        firsts = self.fact_spans[:, 1]
        lasts = np.append(self.fact_spans[1:, 0], len(self.tokens))
        told = sorted({question.num_facts for question in (*self.problem.earlier, self.problem.questions[0])})
        found = [(n, max(start, int(firsts[n - 1])), min(end, int(lasts[n - 1]))) for n in told]
        return [pause for pause in found if pause[1] <= pause[2]]


@dataclass(frozen=True, slots=True)
class Aside:
    """Questions asked of the memory before a segment: its first tokens, questions and answers (t,), answers marked."""

    segment: int
    tokens: np.ndarray
    is_answer: np.ndarray


@dataclass(frozen=True, slots=True)
class Window:
    """What a row reads in one update: tokens (k * s,), which segments (k,) are background alone, whether a text begins
    with them, and the questions aside."""

    row: int
    tokens: np.ndarray
    is_background: np.ndarray
    is_start: bool
    asides: tuple[Aside, ...]


class StreamDataset(Dataset):
    """The windows of one stage. Window `i` is that of row i % batch_size in update i // batch_size.

    It is a function of the index alone: which text a row has reached follows from the lengths of those before.
    """

    def __init__(self, builder: BabilongBuilder, config: Config, stage: Stage):
        self.builder = builder
        self.config = config
        self.stage = stage
        self.window_size = config.window * config.segment_size
        self.first_index = stage.index << 32  # no stage repeats another's problems
        self._reached: dict[int, tuple[int, int]] = {}  # by row: its text, and the update that it began in
        self._text = lru_cache(2 * config.batch_size)(self._make_text)

    def __len__(self) -> int:
        return self.stage.max_steps * self.config.batch_size

    def __getitem__(self, index: int) -> Window:
        number, window = self.place(index)
        text, rng = self.text(number), self._rng(WINDOW, index)
        asides = (self._aside(text, window, rng) for _ in range(self.config.num_asides))
        start = window * self.window_size
        tokens = text.tokens[start : start + self.window_size]
        is_background = ~tokens_in(text.fact_spans, len(text.tokens))[start : start + len(tokens)]
        padding = np.full(self.window_size - len(tokens), self.builder.tokenizer.eos_token_id, tokens.dtype)
        return Window(
            row=index % self.config.batch_size,
            tokens=np.concatenate([tokens, padding]),
            is_background=segments_of_background(is_background, self.config.segment_size, self.config.window),
            is_start=window == 0,
            asides=tuple(aside for aside in asides if aside),
        )

    def place(self, index: int) -> tuple[int, int]:
        """Return the text and the window in it, both from 0, that an index stands for."""
        step, row = divmod(index, self.config.batch_size)
        count, start = self._reached.get(row, (0, 0))
        if start > step:
            count, start = 0, 0
        while step >= start + (windows := self.text(row + count * self.config.batch_size).num_windows):
            count, start = count + 1, start + windows
        self._reached[row] = count, start
        return row + count * self.config.batch_size, step - start

    def text(self, number: int) -> Text:
        """Return the text with this number; each is read by one row, once."""
        return self._text(number)

    def _make_text(self, number: int) -> Text:
        config, rng = self.config, self._rng(TEXT, number)
        most = config.num_questions_between
        problem = self.builder.problems.problem(
            "train", self.first_index + number, num_extra_questions=most, num_questions_between=most
        )
        shortest = -(-self.builder.num_fixed_tokens(problem) // self.window_size)
        longest = max(shortest, -(-self.stage.num_segments // config.window))
        share = rng.random()
        num_windows = min(longest, int(1 / (1 / shortest - share * (1 / shortest - 1 / (longest + 1)))))
        tokens, spans = self._tell(problem, num_windows * self.window_size, rng)
        tokens = distract(tokens, spans, ~tokens_in(spans, len(tokens)), config.distraction, rng)
        return Text(tokens, spans, problem, -(-len(tokens) // self.window_size))

    def _tell(self, problem: Problem, num_tokens: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return a text (t,) that tells the facts, and their spans (k, 2); often one of them is cut by a border."""
        size, (low, high) = self.config.segment_size, _fact_depth(rng)
        room = num_tokens - size
        if rng.random() >= CUT or self.builder.background is None or self.builder.num_fixed_tokens(problem) > room:
            return self.builder.facts_in_text(problem, num_tokens, "train", rng, fact_depth=(low, high))
        whole = num_tokens + size  # facts lie behind its first segment and before its last, so that either can go
        depth = (size + low * room) / whole, (size + high * room) / whole
        tokens, spans = self.builder.facts_in_text(problem, whole, "train", rng, fact_depth=depth)
        first, last = spans[rng.integers(len(spans))]
        shift = rng.integers(first + 1, max(last, first + 2)) % size  # a border within this fact
        shift = int(np.clip(shift, max(0, spans[-1, 1] - num_tokens), spans[0, 0]))  # no fact is lost
        return tokens[shift : shift + num_tokens], spans - shift

    def _aside(self, text: Text, window: int, rng: np.random.Generator) -> Aside | None:
        """Ask at a place drawn at random; None if nothing can be asked yet, or not at the places drawn."""
        size, room = self.config.segment_size, self.config.segment_size - self.config.answer_size
        start = window * self.window_size
        pauses = text.pauses(start, min(start + self.window_size + room, len(text.tokens)))
        for _ in range(TRIES if pauses else 0):
            num_facts, first, last = pauses[rng.integers(len(pauses))]
            known = text.questions_after(num_facts)
            questions = tuple(known[i] for i in rng.permutation(len(known)))
            num_told = room - len(self.builder.asked_alone(questions[0], text.problem.task))  # as in evaluation
            places = np.arange(self.config.window + 1) * size + start + num_told
            places = places[(places >= first) & (places <= last)]
            is_as_evaluated = len(places) and rng.random() < AT_END
            place = int(rng.choice(places) if is_as_evaluated else rng.integers(first, last + 1))
            segment, num_read = divmod(place - start, size)
            if num_read <= num_told:
                asked, is_answer = self.builder.ask(questions, text.problem.task, size - num_read)
                read = text.tokens[place - num_read : place]
                return Aside(segment, np.concatenate([read, asked]), np.append(np.zeros(num_read, bool), is_answer))
        return None

    def _rng(self, purpose: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.config.seed, purpose, self.stage.index, number])


def _fact_depth(rng: np.random.Generator) -> tuple[float, float]:
    """Return the part of a text that its facts lie in."""
    if rng.random() < ANYWHERE:
        return 0.0, 1.0
    share = max(1e-3, rng.random() ** 2)  # a small part, more often than not
    low = rng.random() * (1 - share)
    return low, low + share


def collate_windows(windows: list[Window], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Make a training batch.

    Returns: input_ids and labels (q, t) of the asides, padded on the right, -100 but at answers; of each its row in
             the batch and its segment, (q,); text (b, k * s); is_background (b, k); is_start (b,); rows (b,), which
             row of the update each row of the batch is.
    """
    asides = [(row, aside) for row, window in enumerate(windows) for aside in window.asides]
    longest = max((len(aside.tokens) for _, aside in asides), default=1)
    input_ids = torch.full((len(asides), longest), pad_token_id)
    labels = torch.full_like(input_ids, -100)
    for number, (_, aside) in enumerate(asides):
        tokens = torch.from_numpy(aside.tokens.astype(np.int64))
        input_ids[number, : len(tokens)] = tokens
        labels[number, : len(tokens)] = tokens.masked_fill(torch.from_numpy(~aside.is_answer), -100)
    return {
        "input_ids": input_ids,
        "labels": labels,
        "aside_rows": torch.tensor([row for row, _ in asides], dtype=torch.long),
        "aside_segments": torch.tensor([aside.segment for _, aside in asides], dtype=torch.long),
        "text": torch.from_numpy(np.stack([window.tokens for window in windows]).astype(np.int64)),
        "is_background": torch.from_numpy(np.stack([window.is_background for window in windows])),
        "is_start": torch.tensor([window.is_start for window in windows]),
        "rows": torch.tensor([window.row for window in windows]),
    }


class CarriedMemory:
    """The memory of each row between two updates, (b, m, d) for all rows of an update on this process."""

    def __init__(self, num_rows: int):
        self.num_rows = num_rows
        self.memory: torch.Tensor | None = None

    def before(self, model: RMTForCausalLM, rows: torch.Tensor, is_start: torch.Tensor) -> torch.Tensor:
        """Return the memory that the windows of these rows (b,) begin with: M_0 or what is carried, (b, m, d)."""
        initial = model.initial_memory(len(rows))
        if self.memory is None:
            self.memory = initial.detach()[:1].repeat(self.num_rows, 1, 1)
        return torch.where(is_start[:, None, None], initial, self.memory[rows])

    def keep(self, rows: torch.Tensor, memory: torch.Tensor) -> None:
        """Carry the memory (b, m, d) on to the next windows of these rows (b,)."""
        self.memory[rows] = memory.detach()


def window_loss(model, batch: dict[str, torch.Tensor], memory: torch.Tensor, num_items=None, *,
                stillness: float = 0.0, num_rows: int | None = None):  # fmt: skip
    """Read a window and answer the questions asked aside.

    Args:    model: RMTForCausalLM, or what wraps it (DDP);  batch: of `collate_windows`;  memory: what the window
             begins with, (b, m, d);  num_items: what the loss is divided by; None: the number of labels;
             stillness: weight of `rmtkit.stillness.motion`, whose sum is divided by num_rows; None: the number of rows.
    Returns: the loss, and the memory after the window, (b, m, d).
    """
    reader = getattr(model, "module", model)
    embeddings = reader.get_input_embeddings()(batch["text"])  # at once: the gradient (v, d) is made once, too
    memories, written = [memory], []
    for segment in split_segments(embeddings, reader.config.segment_size):
        output, memory = reader.checkpointed_step(segment, memories[-1], None)
        memories.append(memory)
        written.append(output.written)
    states = torch.stack(memories)
    loss = 0.0 * memory.sum()  # nothing can be asked yet: no gradient, but a loss that one can be taken of
    if len(batch["input_ids"]):
        asked = states[batch["aside_segments"], batch["aside_rows"]]
        loss = model(batch["input_ids"], labels=batch["labels"], state=asked, num_items_in_batch=num_items).loss
    if stillness:
        is_background = batch["is_background"]
        moved = motion(states, torch.stack(written), is_background, reader.config.memory_grid, batch["is_start"])
        loss = loss + stillness * moved.sum() / (num_rows or len(moved))
    return loss, memory
