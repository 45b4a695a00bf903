"""BABILong samples: the facts of a bAbI problem scattered in background text to an exact length.

Kuratov et al. 2024 (2402.10790), section 3. A sample is a pure function of (seed, split, index): neither order nor
workers nor ranks nor a resumed run can change it. Background arrives as views of a token store: building ten million
tokens is no tokenisation, and a long prompt is not even copied (`rmtkit.background.TokenPieces`).

Axis letters: b batch, t tokens, k facts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rmtkit.babi import Problem, Question, has_space_before_tab
from rmtkit.background import SPLITS, Background, TokenPieces, encode_pieces

LAYOUTS = ("spaced", "authors")
QUESTION_POSITIONS = ("last", "first", "both")
MAX_DRAWS = 2000  # problems drawn in search of one that fits, before giving up
LAZY_TOKENS = 2**17  # from this length on a prompt stays in pieces: 32 of 10M tokens side by side take a few MB


@dataclass(frozen=True, slots=True)
class Sample:
    """One BABILong sample as token ids, and where its facts are.

    prompt:        Edna liked fog. | Mary went to the garden. | It rained. ... | Where is Mary?      (t,)
    fact_spans:                     [start, end) of each fact in the prompt                           (k, 2)
    earlier_answers: [start, end) in the prompt of answers, EOS included, to questions on the way     (q, 2)
    foreground_spans: [start, end) of all in the prompt but background: facts, questions and answers  (p, 2)
    continuation:  garden <eos>  [ Where is John? hallway <eos> ... ]   extra questions in training   (c,)
    is_answer:     1      1      [ 0     0  0     1       1         ]   where the loss is taken       (c,)
    """

    prompt: np.ndarray | TokenPieces
    continuation: np.ndarray
    is_answer: np.ndarray
    fact_spans: np.ndarray
    earlier_answers: np.ndarray
    foreground_spans: np.ndarray
    problem: Problem
    split: str
    index: int

    @property
    def question(self) -> Question:
        """The question that is scored."""
        return self.problem.questions[0]

    @property
    def supporting_depths(self) -> tuple[float, ...]:
        """Where the supporting facts start, as a share of the prompt: 0 is its first token."""
        return tuple(float(self.fact_spans[i, 0]) / len(self.prompt) for i in self.question.supporting)


class BabilongBuilder:
    """Builds samples of any length from problems and background.

    Args:
        problems: `GeneratedProblems` or `RecordedProblems`.
        background: an opened token store made with the same tokenizer, or None for facts alone ("0k").
        tokenizer: any Hugging Face tokenizer with an EOS token.
        seed: of background passages and fact positions (stories have the seed of `problems`).
        layout: "spaced" puts one space between all pieces; "authors" repeats the token layout of the paper's code
            for GPT-2: no separator between facts and background, a "GEN" token before the answer, no space in it.
        question_position: "last"; "first" (then "Answer:" ends the prompt); "both" ends.
        fact_depth: facts lie between these two shares of the sample, 0 <= low < high <= 1; if no gap between
            sentences is there, in the nearest one.
        answer_size: tokens that the continuation may take, in the layout "authors" together with question and "GEN";
            extra questions that do not fit are dropped, the first answer never is.
    Raises: ValueError for a value outside of what is listed above.
    """

    def __init__(
        self,
        problems,
        background: Background | None,
        tokenizer,
        *,
        seed: int = 0,
        layout: str = "spaced",
        question_position: str = "last",
        fact_depth: tuple[float, float] = (0.0, 1.0),
        answer_size: int = 32,
    ):
        _check_choice("layout", layout, LAYOUTS)
        _check_choice("question_position", question_position, QUESTION_POSITIONS)
        low, high = fact_depth
        if not 0 <= low < high <= 1:
            raise ValueError(f"fact_depth is {low}..{high}; expected two shares of the sample, 0 <= low < high <= 1")
        if tokenizer.eos_token_id is None:
            raise ValueError("the tokenizer has no EOS token, which ends every answer; set tokenizer.eos_token")
        self.problems = problems
        self.background = background
        self.tokenizer = tokenizer
        self.seed = seed
        self.layout = layout
        self.question_position = question_position
        self.fact_depth = fact_depth
        self.answer_size = answer_size
        self._pieces: dict[str, np.ndarray] = {}
        self._fitting: dict[tuple[str, int | None], np.ndarray] = {}

    def sample(self, split: str, index: int, num_tokens: int | None = None, *, num_extra_questions: int = 0,
               num_questions_between: int = 0, max_n_facts: int | None = None,
               background_share: float = 1.0) -> Sample:  # fmt: skip
        """Build the sample with this index.

        Args:    split: train, validation or test;  index: from 0;  num_tokens: exact length of the prompt in tokens
                 (in the layout "authors" of the prompt without its question and "GEN"); None: facts alone;
                 num_extra_questions: further questions about the same facts after the first answer, as many as
                 `answer_size` holds;  num_questions_between: questions asked and answered on the way, at each point
                 where the story has one, if there is room. Both are dense supervision for training.
                 max_n_facts: a limit below that of `problems`, for generated problems;  background_share: of the
                 background that `num_tokens` has room for; below 1 the prompt is shorter. Both make easy samples.
        Raises:  ValueError if facts and question do not fit `num_tokens`.
        """
        _check_choice("split", split, SPLITS)
        if self.background is None:
            num_tokens = None
        rng = np.random.default_rng([self.seed, SPLITS.index(split), index])
        asked = {
            "num_extra_questions": num_extra_questions,
            "num_questions_between": num_questions_between,
            "max_n_facts": max_n_facts,
        }
        problem = self._fitting_problem(split, index, num_tokens, asked)
        if num_tokens is not None and background_share < 1:
            num_fixed = self.num_fixed_tokens(problem)
            num_tokens = num_fixed + int(background_share * (num_tokens - num_fixed))
        head, tail = self.question_ends(problem)
        room = None if num_tokens is None else num_tokens - self.num_fixed_tokens(problem)
        told, answer_sizes = self._told(problem, room)
        context, spans = self._context(told, num_tokens, len(head), len(tail), split, rng)
        spans += len(head)
        prompt = _join([head, *context, tail])
        asked_spans = [(0, len(head)), (len(prompt) - len(tail), len(prompt))]
        beyond = len(head) + len(tail) if self.layout == "authors" else 0
        continuation, is_answer = self._continuation(problem, self.answer_size - beyond)
        return Sample(
            prompt=prompt,
            continuation=continuation,
            is_answer=is_answer,
            fact_spans=spans[answer_sizes == 0],
            earlier_answers=np.stack([spans[:, 1] - answer_sizes, spans[:, 1]], axis=1)[answer_sizes > 0],
            foreground_spans=np.concatenate([spans, asked_spans]),
            problem=problem,
            split=split,
            index=index,
        )

    def num_fitting(self, split: str, num_tokens: int | None) -> int | None:
        """Return how many recorded problems fit a prompt of `num_tokens`; None if problems are endless."""
        if self.problems.num_problems(split) is None:
            return None
        return len(self._fitting_indices(split, None if self.background is None else num_tokens))

    # ------------------------------------------------------------------ which problem

    def _fitting_problem(self, split, index, num_tokens, asked) -> Problem:
        """Return the problem of this index; one that does not fit is drawn anew (generated) or left out (recorded)."""
        draw = self.problems.problem
        if self.problems.num_problems(split) is not None:
            fitting = self._fitting_indices(split, num_tokens)
            if not len(fitting):
                raise ValueError(self._too_long(f"none of the recorded {split} problems fits", num_tokens))
            return draw(split, int(fitting[index % len(fitting)]))
        for attempt in range(MAX_DRAWS):
            problem = draw(split, index + (attempt << 40), **asked)
            if num_tokens is None or self.num_fixed_tokens(problem) <= num_tokens:
                return problem
        raise ValueError(self._too_long(f"none of {MAX_DRAWS} generated problems fits", num_tokens))

    def _fitting_indices(self, split, num_tokens) -> np.ndarray:
        key = (split, num_tokens)
        if key not in self._fitting:
            everything = (self.problems.problem(split, i) for i in range(self.problems.num_problems(split)))
            fits = [num_tokens is None or self.num_fixed_tokens(problem) <= num_tokens for problem in everything]
            self._fitting[key] = np.flatnonzero(fits)
        return self._fitting[key]

    def num_fixed_tokens(self, problem: Problem) -> int:
        """Return the tokens of a prompt that are not background: facts, question, answer mark."""
        ends = [] if self.layout == "authors" else self.question_ends(problem)
        return sum(len(self._encode(fact)) for fact in problem.facts) + sum(len(end) for end in ends)

    def _too_long(self, what: str, num_tokens: int | None) -> str:
        limit = self.problems.max_n_facts
        limited = "" if limit is None else f" (with up to max_n_facts={limit} facts)"
        return f"{what} a prompt of {num_tokens} tokens{limited}; take longer samples or fewer facts (max_n_facts)"

    # ------------------------------------------------------------------ tokens

    def _encode(self, text: str) -> np.ndarray:
        """Encode a piece of text once; bAbI has few different sentences, so that the table stays small."""
        if text not in self._pieces:
            self._pieces[text] = encode_pieces(self.tokenizer, [text], is_joined=self.layout == "spaced")[0]
        return self._pieces[text]

    def question_ends(self, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
        """Return what stands before and what stands after the context."""
        question = problem.questions[0]
        head = self._encode("") if self.question_position == "last" else self._asked(problem.task, question)
        is_first = self.question_position == "first"
        return head, self._answer_mark() if is_first else self.asked_alone(question, problem.task)

    def _asked(self, task: str, question: Question) -> np.ndarray:
        """Encode a question; the authors keep the file's space before the tab."""
        is_spaced = self.layout == "authors" and has_space_before_tab(task)
        return self._encode(question.text + " " * is_spaced)

    def _answer_mark(self) -> np.ndarray:
        """Return what stands before every answer: the authors' mark is the first piece of the word "GEN"."""
        if self.layout == "authors":
            return self._encode("GEN")[:1]
        return self._encode("Answer:" if self.question_position == "first" else "")

    def _answer(self, question: Question) -> np.ndarray:
        answer = self._encode(question.answer)
        return np.append(answer, self.tokenizer.eos_token_id).astype(answer.dtype)

    def _continuation(self, problem: Problem, room: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the answer and further questions with theirs, each answer ended by EOS, and the answers' mask.

        Args: room: tokens that all of it may take; the first answer stays whatever it takes.
        """
        tokens, is_answer = self._encode(""), np.empty(0, dtype=bool)
        for number, question in enumerate(problem.questions):
            asked = self._encode("")
            if number:
                asked = self.asked_alone(question, problem.task)
            answer = self._answer(question)
            if number and len(tokens) + len(asked) + len(answer) > room:
                break
            tokens = np.concatenate([tokens, asked, answer])
            is_answer = np.concatenate([is_answer, np.zeros(len(asked), dtype=bool), np.ones(len(answer), dtype=bool)])
        return tokens, is_answer

    # ------------------------------------------------------------------ facts in background

    def _told(self, problem: Problem, room: int | None) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the facts and, while `room` lasts, the earlier questions with their answers, in the story's order.

        Returns: token ids of each piece, and how many of them are an answer (0 for a fact), (k + q,).
        """
        pieces, answer_sizes = [], []
        for number, fact in enumerate(problem.facts, start=1):
            pieces.append(self._encode(fact))
            answer_sizes.append(0)
            for question in (q for q in problem.earlier if q.num_facts == number):
                answer = self._answer(question)
                piece = np.concatenate([self.asked_alone(question, problem.task), answer])
                if room is None or len(piece) <= room:
                    pieces.append(piece)
                    answer_sizes.append(len(answer))
                    room = None if room is None else room - len(piece)
        return pieces, np.asarray(answer_sizes, dtype=np.int64)

    def facts_in_text(self, problem: Problem, num_tokens: int, split: str, rng: np.random.Generator, *,
                      fact_depth: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return a text of `num_tokens` that tells the facts and asks nothing, (t,), and the facts' spans, (k, 2).

        Without background it has the facts alone. Raises: ValueError if they take more than `num_tokens`.
        """
        told = [self._encode(fact) for fact in problem.facts]
        if sum(len(fact) for fact in told) > num_tokens:
            raise ValueError(self._too_long("the problem does not fit", num_tokens))
        size = None if self.background is None else num_tokens
        pieces, spans = self._context(told, size, 0, 0, split, rng, fact_depth)
        return np.concatenate([self._encode(""), *pieces]), spans

    def ask(self, questions: tuple[Question, ...], task: str, room: int) -> tuple[np.ndarray, np.ndarray]:
        """Return questions with their answers, each ended by EOS, (t,), and the mask of the answers.

        Args: room: tokens that all of it may take; what does not fit is left out, but not the first question.
        """
        asked = self.asked_alone(questions[0], task)
        continuation, is_answer = self._continuation(Problem(task, (), tuple(questions)), room - len(asked))
        return np.concatenate([asked, continuation]), np.append(np.zeros(len(asked), dtype=bool), is_answer)

    def asked_alone(self, question: Question, task: str) -> np.ndarray:
        """Return a question and what stands before its answer, (t,)."""
        return np.concatenate([self._asked(task, question), self._answer_mark()])

    def _context(self, told, num_tokens, num_head, num_tail, split, rng, fact_depth=None):
        """Insert what is told into a passage of background, in order, at gaps drawn with replacement.

        Returns: the pieces of the context, (t,) together, and the spans (k, 2) of what is told.
        """
        num_told = sum(len(piece) for piece in told)
        beyond = 0 if self.layout == "authors" else num_head + num_tail
        num_background = 0 if num_tokens is None else num_tokens - beyond - num_told
        if not num_background:
            return _interleave(TokenPieces([self._encode("")]), np.zeros(len(told), dtype=np.int64), told)
        if num_background < LAZY_TOKENS:
            passage, starts = self.background.passage(split, num_background, rng)
            views = [passage]
        else:
            views, starts = self.background.passage_views(split, num_background, rng)
        gaps = np.append(starts, num_background)
        prompt_size = num_head + num_background + num_told + num_tail
        low, high = (share * prompt_size - num_head for share in fact_depth or self.fact_depth)
        allowed = gaps[(gaps >= low) & (gaps + num_told <= high)]
        if not len(allowed):  # no sentence ends within the range: the nearest gap before its end
            allowed = gaps[np.abs(gaps - max(low, high - num_told)).argmin()][None]
        return _interleave(TokenPieces(views), np.sort(rng.choice(allowed, len(told))), told)


def tokens_in(spans: np.ndarray, num_tokens: int) -> np.ndarray:
    """Return which tokens of a text lie in one of the spans (k, 2), as booleans (t,)."""
    change = np.zeros(num_tokens + 1, dtype=np.int64)
    np.add.at(change, spans[:, 0], 1)
    np.add.at(change, spans[:, 1], -1)
    return np.cumsum(change)[:-1] > 0


def segments_of_background(is_background: np.ndarray, segment_size: int, num_segments: int) -> np.ndarray:
    """Return which segments are full of background alone, (n,); after the tokens given, (t,), there is none."""
    padding = np.zeros(num_segments * segment_size - len(is_background), dtype=bool)
    return np.append(is_background, padding).reshape(num_segments, segment_size).all(axis=1)


def _interleave(passage: TokenPieces, positions, told) -> tuple[list[np.ndarray], np.ndarray]:
    """Insert pieces before the given positions of a passage; return all pieces and the spans of those (k, 2)."""
    pieces, spans, length, done = [], [], 0, 0
    for position, piece in zip(positions, told, strict=True):
        length += int(position) - done
        pieces += [*passage.cut(done, int(position)), piece]
        spans.append((length, length + len(piece)))
        length, done = length + len(piece), int(position)
    pieces += passage.cut(done, len(passage))
    return pieces, np.asarray(spans, dtype=np.int64).reshape(-1, 2)


def _join(pieces: list[np.ndarray]) -> np.ndarray | TokenPieces:
    """Return pieces as one array, or as they are if that would be large."""
    return TokenPieces(pieces) if sum(map(len, pieces)) >= LAZY_TOKENS else np.concatenate(pieces)


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
