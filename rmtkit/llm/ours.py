"""Our Recurrent Memory Transformers as models to evaluate, and baselines that do not reason.

A Recurrent Memory Transformer was fine-tuned on one task: it is given context and question in the layout that it was
trained with, and no instruction (2402.10790, section 5).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from rmtkit.babi import GeneratedProblems, Problem, Question
from rmtkit.babilong import BabilongBuilder, Sample
from rmtkit.background import TokenPieces, encode_pieces
from rmtkit.llm.cases import Answer, Prompt
from rmtkit.scoring import labels_of

BLOCK_SIZE = 2**16  # characters tokenised at once: a tokenizer's own record of a text takes many times its size
UNENDED = "..."  # what `rmtkit.kinds.answer` puts after a text without an end
NUM_PROBLEMS = 1000  # of the training split, whose answers are counted
TRIVIAL_KINDS = ("most_frequent", "last_named")


class RecurrentModel:
    """A trained model with memory. It reads segment by segment, so that there is no window and memory stays flat.

    Args:   checkpoint: `reference:NAME`, a run folder, or a folder of a model;
            parameters: fields of `rmtkit.config.Config` that the checkpoint does not say, such as layout and task of a
            converted one.
    Raises: ConfigError if there is no such model.

    tasks: those that it was trained on. It answers others, too, in the words that it knows.
    weights: a hash of them, as a folder may get others under the same name.
    """

    window = None

    def __init__(self, checkpoint: str | Path, parameters: dict | None = None):
        from rmtkit.experiment import load_trained, model_folder
        from rmtkit.reference import resolve_trained, weights_digest
        from rmtkit.streaming import Reader

        config = resolve_trained({**(parameters or {}), "checkpoint": str(checkpoint)})
        self.model, self.tokenizer = load_trained(config)
        if self.tokenizer.eos_token_id is None:
            self.tokenizer.eos_token = self.tokenizer.sep_token
        self.name, self.tasks = _name(str(checkpoint)), config.tasks
        self.weights = weights_digest(model_folder(config), config.memory_grid)[:16]
        self._answer_size = config.answer_size
        self._reader = Reader(self.model)
        layout = {"layout": config.layout, "question_position": config.question_position}
        self._builder = BabilongBuilder(None, None, self.tokenizer, **layout)

    def num_tokens(self, prompt: Prompt) -> int:
        """Return the tokens of context and question, as they are read."""
        return len(self._sample(prompt).prompt)

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield the place of a prompt and the greedy answer, one after another."""
        from rmtkit.kinds import answer

        for place, prompt in enumerate(prompts):
            sample = self._sample(prompt)
            (text,) = answer(self.model, [sample], self.tokenizer, read=self._reader.read)
            is_ended, text = not text.endswith(UNENDED), text.removesuffix(UNENDED)
            yield place, Answer(
                text=text, failure=None if text else "empty", finish_reason="stop" if is_ended else "length",
                num_prompt_tokens=len(sample.prompt),
            )  # fmt: skip

    def _sample(self, prompt: Prompt) -> Sample:
        """Return a prompt as a sample whose answer may take all the room that training left for answers."""
        case = prompt.case
        question = Question(case.question.strip(), answer="", num_facts=0, supporting=())
        problem = Problem(case.task, facts=(), questions=(question,))
        head, tail = self._builder.question_ends(problem)
        none = np.empty((0, 2), dtype=np.int64)
        return Sample(
            prompt=TokenPieces([head, *self._encode(case.context), tail]),
            continuation=np.full(self._answer_size, self.tokenizer.eos_token_id),
            is_answer=np.ones(self._answer_size, dtype=bool),
            fact_spans=none, earlier_answers=none, foreground_spans=none,
            problem=problem, split="test", index=case.index,
        )  # fmt: skip

    def _encode(self, context: str) -> Iterator[np.ndarray]:
        """Yield the tokens of a context, a part at a time.

        In the layout "spaced" one space stands between any two sentences, so that a text is what its words are; in
        that of the authors sentences follow each other without, and are found as those of the background were.
        """
        is_joined = self._builder.layout == "spaced"
        for part in text_blocks(context):
            pieces = [part] if is_joined else _sentences(part)
            yield from encode_pieces(self.tokenizer, pieces, is_joined=is_joined)


def text_blocks(text: str, size: int = BLOCK_SIZE) -> Iterator[str]:
    """Yield a text in parts of `size` characters and what a sentence takes to end; white space becomes one space."""
    start, border = 0, re.compile(r"(?<=[.!?])\s")
    while start < len(text):
        found = border.search(text, start + size)
        end = found.start() if found else len(text)
        if block := " ".join(text[start:end].split()):
            yield block
        start = end


def _sentences(text: str) -> list[str]:
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    return PunktSentenceTokenizer().tokenize(text)


def _name(checkpoint: str) -> str:
    path = Path(checkpoint)
    return checkpoint if ":" in checkpoint else path.parent.name if path.name == "model" else path.name


# ---------------------------------------------------------------------- without a model


class TrivialModel:
    """What can be had without reasoning: the floor of every table.

    | kind | answer |
    |---|---|
    | most_frequent | the answer that comes most often in `NUM_PROBLEMS` generated training problems of the task |
    | last_named | the label of the task that the context names last as a word of its own; most_frequent if none |

    In most tasks all labels are about equally frequent, and which of them is the first is a matter of the seed. Labels
    that the question names are passed over by last_named. It takes background for facts: a book that says "no" answers
    qa6.

    Raises: ValueError for another kind, or when asked about a task without labels.
    """

    window = None

    def __init__(self, kind: str):
        if kind not in TRIVIAL_KINDS:
            raise ValueError(f"trivial model {kind!r} does not exist; kinds: {', '.join(TRIVIAL_KINDS)}")
        self.name = kind

    def num_tokens(self, prompt: Prompt) -> int:
        """Return the words of a prompt: there is no tokenizer."""
        return len(prompt.text.split())

    def answer(self, prompts: Sequence[Prompt]) -> Iterator[tuple[int, Answer]]:
        """Yield the place of a prompt and the answer, one after another."""
        for place, prompt in enumerate(prompts):
            case = prompt.case
            named = last_named(case.context, case.question, case.task) if self.name == "last_named" else None
            yield place, Answer(text=named or most_frequent(case.task), finish_reason="stop")


@cache
def most_frequent(task: str) -> str:
    """Return the answer that comes most often in generated training problems of a task. Raises: ValueError."""
    problems = GeneratedProblems(task, seed=0)
    answers = (problems.problem("train", index).questions[0].answer for index in range(NUM_PROBLEMS))
    return Counter(answers).most_common(1)[0][0]


def last_named(context: str, question: str, task: str) -> str | None:
    """Return the label of the task that a text names last, None if it names none; not one that the question names."""
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, labels_of(task)))})\b", re.IGNORECASE)
    asked, found = {label.lower() for label in pattern.findall(question)}, None
    for match in pattern.finditer(context):
        if (label := match[0].lower()) not in asked:
            found = label
    return found
