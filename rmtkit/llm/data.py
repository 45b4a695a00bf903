"""Cases for language models: generated, from the public sets, or the user's own. All are plain text.

A length is a number of tokens that the whole prompt fits (`rmtkit.lengths`), counted by the tokenizer of the evaluated
model. The samples are those of `rmtkit.export`: facts and background are put together in tokens of the kit's own
tokenizer, and of the lengths that this allows the longest is taken that still fits. So every model gets the same
problems in the same passages, only cut at another place, and one token store of the background serves all of them.

Kuratov et al. 2024 (2402.10790, section 3; 2406.10149).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count as count_from
from pathlib import Path

from rmtkit.babi import GeneratedProblems, Problem, RecordedProblems
from rmtkit.babilong import MAX_DRAWS
from rmtkit.background import SOURCES, open_background
from rmtkit.config import PROJECT, TASKS
from rmtkit.export import ContextBuilder, sample_row
from rmtkit.lengths import LENGTHS, TOKENS
from rmtkit.llm.cases import Case
from rmtkit.public import read_public
from rmtkit.reference import resolve_reference

SPLIT = "test"
OWN_TOKENIZER = "reference:backbone"  # puts samples together, and counts for models whose tokenizer is not at hand
NUM_PROBES, JOINTS, ROUND_TO = 50, 8, 16  # see prompt_room
EVEN_STEPS = 8  # of the search for the longest context, before it halves the rest
FIELDS = ("task", "length", "input", "context", "question", "target", "supporting")
EXPORTED = (  # further columns of `python -m rmtkit export`
    "split", "index", "seed", "num_tokens", "facts", "supporting_facts", "fact_positions", "fact_tokens",
)  # fmt: skip
Count = Callable[[str], int]


def generated_cases(task: str, length: str, num_samples: int, *, num_tokens=None, prompt_room: int = 0, seed: int = 0,
                    background: str | Path = "wiki", data_dir: str | Path = PROJECT / "data",
                    babi_path: str | Path | None = None) -> list[Case]:  # fmt: skip
    """Return cases of one task and length from the test split, with the places of their supporting facts.

    Case i depends on task, length, seed, i and what counts its tokens, but not on num_samples.

    Args:    task: "qa1" .. "qa20";  length: one of `rmtkit.lengths`; "0k" is facts alone, however many;
             num_samples: recorded problems may give fewer;
             num_tokens: the evaluated model's tokenizer, or a function from a text to its number of tokens; None, for a
             served model whose tokenizer is not at hand: the kit's own tokenizer, which makes three tokens of English
             where SmolLM2's makes two, so that a prompt of "4k" has some 2,700 tokens of such a model;
             prompt_room: tokens left free for all that is not context, see `prompt_room`;
             background: a source of `rmtkit.background`, or a folder of texts;  data_dir: where token stores are kept;
             babi_path: real bAbI, as in `rmtkit.config.Config`; None: generated stories.
    Returns: cases with contexts as long as fits: one more of our tokens of background would be too many.
    Raises:  ValueError for an argument outside of what is listed above, or if no problem's facts fit.
    """
    room = _context_room(task, length, prompt_room)
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; expected at least 1")
    count = token_counter(num_tokens)
    source = RecordedProblems(babi_path, task, seed=seed) if babi_path else GeneratedProblems(task, seed=seed)
    problems = FittingProblems(source, count, room)
    store = None if room is None else _open_background(background, length, data_dir)
    builder = ContextBuilder(problems, store, _own_tokenizer(), seed=seed)
    indices = range(min(num_samples, problems.num_different or num_samples))
    rows = (_longest_row(builder, index, length, count, room) for index in indices)
    return [_case_of_row(row, task, length, index) for index, row in enumerate(rows)]


def public_cases(source: str | Path, task: str, length: str, num_samples: int | None = None) -> list[Case]:
    """Return cases of one task and length of a public set, in the order of its file.

    Their lengths are those of `rmtkit.public`: GPT-2 tokens, whatever model is evaluated. Supporting facts are known if
    the source is a folder written by `python -m rmtkit export`, else not.

    Args: source: as in `rmtkit.public.read_public`, which says what is raised;  num_samples: None: all.
    """
    rows = read_public(source, length, task, num_samples=num_samples)
    return [_case_of_row(row, task, length, index) for index, row in enumerate(rows)]


def read_cases(path: str | Path) -> list[Case]:
    """Read cases of the user's from JSON lines, or a file that `python -m rmtkit export` wrote.

    A line is an object with the texts task, length, question, target and either context or input; `supporting`, if
    there, is a list of [start, end) in characters of the context. The cases of a task and length are numbered from 0.

    Raises: ValueError with the number of the line that is not so, or that repeats the question about the same context.
    """
    path = Path(path).expanduser()
    cases, lines, numbers = [], {}, {}
    for line, record in _read_records(path):
        try:
            fields = _check_record(record)
            earlier = lines.setdefault((fields["task"], fields["length"], fields["context"], fields["question"]), line)
            if earlier != line:
                raise ValueError(f"repeats line {earlier}: task, length, context and question are the same")
        except ValueError as error:
            raise ValueError(f"{path}:{line}: {error}") from None
        cell = fields["task"], fields["length"]
        numbers[cell] = numbers.get(cell, -1) + 1
        cases.append(Case(index=numbers[cell], **fields))
    if not cases:
        raise ValueError(f"{path} holds no case; expected a line of JSON for each")
    return cases


def prompt_room(task: str, num_tokens: Callable[[Case], int]) -> int:
    """Return how many tokens to leave free for all that is not context in the prompts of a task.

    That is the longest of some prompts with an empty context, with room for joints that a tokenizer splits otherwise,
    rounded up. It depends on the task, the prompt's style and the tokenizer alone.

    Args: num_tokens: from a case to the tokens of its prompt as it is sent.
    """
    problems = GeneratedProblems(task, seed=0)
    questions = (problems.problem("train", index).questions[0] for index in range(NUM_PROBES))  # the most are there
    probes = (Case(task, "0k", index, "", asked.text, asked.answer) for index, asked in enumerate(questions))
    longest = max(num_tokens(probe) for probe in probes)
    return math.ceil((longest + JOINTS) / ROUND_TO) * ROUND_TO


# ------------------------------------------------------------------ how long


def token_counter(num_tokens=None) -> Count:
    """Return a function from a text to its number of tokens, without special tokens.

    Args: num_tokens: a Hugging Face tokenizer, such a function itself, or None for the kit's own tokenizer.
    """
    tokenizer = _own_tokenizer() if num_tokens is None else num_tokens
    if not hasattr(tokenizer, "get_vocab"):
        return tokenizer
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    return lambda text: len(tokenizer(text, **options)["input_ids"])


class FittingProblems:
    """Problems whose facts fit so many tokens, by index and without end; others are drawn anew, recorded ones left out.

    Args:   source: `GeneratedProblems` or `RecordedProblems`;  room: tokens as `count` counts them, None: no limit.
    Raises: ValueError if no problem fits.
    """

    def __init__(self, source, count: Count, room: int | None):
        self.max_n_facts = source.max_n_facts
        self._source, self._count, self._room = source, count, room
        self._found = lru_cache(maxsize=8)(self._find)  # asked for at each step of the search for a length
        recorded = source.num_problems(SPLIT)
        self._fitting = None if recorded is None else [i for i in range(recorded) if self._fits(self._draw(i))]
        if self._fitting == []:
            raise self._too_long("none of the recorded problems fits")

    @property
    def num_different(self) -> int | None:
        """How many recorded problems fit; None if there is no end."""
        return None if self._fitting is None else len(self._fitting)

    def num_problems(self, split: str) -> None:
        """None: there is no end; recorded problems start again from the first."""

    def problem(self, split: str, index: int, **_) -> Problem:
        """Return the problem with this index, the same for every length of the background."""
        return self._found(index)

    def _find(self, index: int) -> Problem:
        if self._fitting is not None:
            return self._draw(self._fitting[index % len(self._fitting)])
        for attempt in range(MAX_DRAWS):
            problem = self._draw(index + (attempt << 40))
            if self._fits(problem):
                return problem
        raise self._too_long(f"none of {MAX_DRAWS} generated problems fits")

    def _draw(self, index: int) -> Problem:
        return self._source.problem(SPLIT, index)

    def _fits(self, problem: Problem) -> bool:
        return self._room is None or self._count(" ".join(problem.facts)) <= self._room

    def _too_long(self, what: str) -> ValueError:
        return ValueError(
            f"{what}: the facts of {self._source.task} take more than the {self._room} tokens that the prompt leaves; "
            "take a longer length or a shorter prompt"
        )


def longest_fitting(build: Callable[[int], dict], measure: Callable[[dict], int], room: int) -> dict:
    """Return what `build` makes of the largest size that measures at most `room`; size 0 must fit.

    The measure grows nearly evenly with the size, so that steps of what is missing, divided by the growth so far, reach
    it soon. It ends at a size whose successor does not fit, or that fills the room.
    """
    best = build(0)
    base = reached = measure(best)
    size, low, high = room - base, 0, math.inf
    for step in count_from():
        if reached == room or high - low <= 1:
            return best
        found = build(size)
        measured = measure(found)
        if measured <= room:
            best, reached, low = found, measured, size
        else:
            high = size
        growth = max((measured - base) / size, 0.01)
        is_even = step < EVEN_STEPS or high == math.inf
        size = size + math.floor((room - measured) / growth) if is_even else (low + high) // 2
        size = max(low + 1, min(size, high - 1))
    return best


def _longest_row(builder: ContextBuilder, index: int, length: str, count: Count, room: int | None) -> dict:
    """Return the row of one sample with as much background as fits."""
    num_facts = builder.num_fixed_tokens(builder.problems.problem(SPLIT, index))

    def build(num_background: int) -> dict:
        sample = builder.sample(SPLIT, index, None if room is None else num_facts + num_background)
        return sample_row(sample, builder.tokenizer, length=length, seed=builder.seed)

    return build(0) if room is None else longest_fitting(build, lambda row: count(row["input"]), room)


def _context_room(task: str, length: str, prompt_room: int) -> int | None:
    """Return the tokens that a length leaves for the context, None for facts alone. Raises: ValueError."""
    _check_choice("task", task, TASKS)
    _check_choice("length", length, LENGTHS)
    if length == "0k":
        return None
    if not 0 <= prompt_room < TOKENS[length]:
        raise ValueError(f"prompt_room is {prompt_room}; expected 0 or more, and less than {length}={TOKENS[length]}")
    return TOKENS[length] - prompt_room


def _open_background(background: str | Path, length: str, data_dir: str | Path):
    """Return the token store of a source, or of a folder of texts. Raises: ValueError."""
    if background == "none":
        raise ValueError(f"background 'none' is facts alone, which is length 0k, not {length}")
    if background in SOURCES and background != "local":
        return open_background(background, _own_tokenizer(), data_dir=data_dir)
    path = Path(background).expanduser()
    if not path.is_dir():
        raise ValueError(f"background {str(background)!r} is neither a folder nor a source: {', '.join(SOURCES)}")
    return open_background("local", _own_tokenizer(), data_dir=data_dir, path=path)


@lru_cache(maxsize=1)
def _own_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(resolve_reference(OWN_TOKENIZER))


# ------------------------------------------------------------------ rows and records


def _case_of_row(row: dict, task: str, length: str, index: int) -> Case:
    context, question, target = row["input"], row["question"], row["target"]
    return Case(task, length, index, context, question, target, _exported_supporting(row))


def _exported_supporting(row: dict) -> tuple[tuple[int, int], ...] | None:
    """Return the spans of the supporting facts of a row of `rmtkit.export`, in the order of the text; else None."""
    if not {"fact_positions", "supporting_facts"} <= row.keys():
        return None
    return tuple(tuple(row["fact_positions"][fact]) for fact in sorted(set(row["supporting_facts"])))


def _read_records(path: Path) -> Iterator[tuple[int, object]]:
    """Yield the number of each line that is not empty, and what it holds."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, _parse(path, number, line)
    except OSError as error:
        raise ValueError(f"cannot read {path} ({error.strerror}); expected a file of JSON lines") from None


def _parse(path: Path, number: int, line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except ValueError as error:  # also what a decoding error is
        raise ValueError(f"{path}:{number}: not a line of UTF-8 JSON ({error})") from None


def _check_record(record: object) -> dict:
    """Return the fields of a case but its index. Raises: ValueError."""
    if not isinstance(record, dict):
        raise ValueError("expected a JSON object")
    unknown = sorted(record.keys() - {*FIELDS, *EXPORTED})
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r}; fields: {', '.join(FIELDS)}")
    if ("input" in record) == ("context" in record):
        raise ValueError("expected either input or context")
    given = {"context": record.get("input"), **record}
    fields = {name: given.get(name) for name in ("task", "length", "context", "question", "target")}
    for name, value in fields.items():
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{name} is {value!r}; expected a text")
    fields.update(question=fields["question"].strip(), target=fields["target"].strip())
    _check_choice("task", fields["task"], TASKS)
    _check_choice("length", fields["length"], LENGTHS)
    return {**fields, "supporting": _check_supporting(record, len(fields["context"]))}


def _check_supporting(record: dict, size: int) -> tuple[tuple[int, int], ...] | None:
    """Return the spans in a record, None if it has none. Raises: ValueError for one outside of the context."""
    try:
        spans = record.get("supporting", _exported_supporting(record))
        spans = None if spans is None else tuple((start, end) for start, end in spans)
    except (TypeError, ValueError, IndexError):
        raise ValueError("supporting is not a list of pairs [start, end]") from None
    for span in spans or ():
        if not all(type(place) is int for place in span) or not 0 <= span[0] < span[1] <= size:
            raise ValueError(f"supporting has {list(span)}; expected 0 <= start < end <= {size}, characters of context")
    return spans


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")
