"""Linear probes of the memory: what do its states say about the world of a story, when, and for how long?

A text tells the facts of a generated problem in background. After each segment the memory is kept, and with it what can
be asked at that moment and the right answer ("Where is Mary?" bathroom): one probe per question is fitted to states of
training texts and tried on texts of the test split, whose stories and articles it has not seen.

    segments read     1        2        3        4        5
    told              -     Mary: bathroom       -    Mary: office
    Where is Mary?    -     bathroom bathroom bathroom office
    age of the fact   -        0        1        2        0        in segments

A probe is ridge regression on one-hot answers (Alain and Bengio 2016, arXiv 1610.01644, probe with logistic regression;
ridge has a closed form and one number to choose). What a probe cannot read may still be there, not linearly.

Ours; not in the paper. Axis letters: r rows (states of several texts), n segments, b texts, m memory tokens, d width,
f = m * d features, c answers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from rmtkit.babi import GeneratedProblems, MixedProblems
from rmtkit.babilong import BabilongBuilder
from rmtkit.background import SPLITS
from rmtkit.config import Config
from rmtkit.evaluation import accuracy_table
from rmtkit.experiment import open_builder, open_stories
from rmtkit.memory import RMTPreTrainedModel
from rmtkit.streams import Text

PROBING = 3  # what a random generator is for; 1 and 2 are those of rmtkit.streams
EVERY_QUESTION = 1000  # more than any story has
TRIES = 200  # problems looked at for each text
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1)  # of the ridge, for each row
HELD_OUT = 5  # every fifth text chooses the penalty
AGES = (0, 1, 2, 3, 4, 6, 8, 11, 15, 22, 31)  # segments since a fact was told, at which probes are compared
SMALLEST = 0.1  # of the largest number of answers: below, an accuracy says nothing
PHASES = ("same parity", "other parity", "both parities")  # the states that a probe was fitted to


# ---------------------------------------------------------------------- texts and their states


def story_builder(config: Config, tokenizer) -> BabilongBuilder:
    """Return a builder of generated stories for a configuration, even where `babi_path` names recorded ones."""
    return open_builder(config, tokenizer, open_stories(config))


def tell(builder: BabilongBuilder, split: str, num_texts: int, num_tokens: int,
         fact_depth: tuple[float, float] = (0.0, 1.0)) -> list[Text]:  # fmt: skip
    """Return texts of `num_tokens` that tell the facts of generated problems, each a function of (seed, split, index).

    Raises: ValueError for recorded problems, which do not say what else could be asked, without background, or if too
            few problems fit.
    """
    if not isinstance(builder.problems, GeneratedProblems | MixedProblems) or builder.problems.num_problems(split):
        raise ValueError("probes need generated stories, which say what can be asked at any point; see story_builder")
    if builder.background is None:
        raise ValueError("background is none: there is nothing between the facts to keep them through; take one")
    texts = list(itertools.islice(_texts(builder, split, num_tokens, fact_depth, TRIES * num_texts), num_texts))
    if len(texts) < num_texts:
        raise ValueError(f"{len(texts)} of {TRIES * num_texts} problems fit {num_tokens} tokens; take longer texts")
    return texts


def _texts(builder, split: str, num_tokens: int, fact_depth, num_tries: int) -> Iterator[Text]:
    asked = {"num_extra_questions": EVERY_QUESTION, "num_questions_between": EVERY_QUESTION}
    for index in range(num_tries):
        problem = builder.problems.problem(split, index, **asked)
        if builder.num_fixed_tokens(problem) <= num_tokens * (fact_depth[1] - fact_depth[0]):
            rng = np.random.default_rng([builder.seed, PROBING, SPLITS.index(split), index])
            tokens, spans = builder.facts_in_text(problem, num_tokens, split, rng, fact_depth=fact_depth)
            yield Text(tokens, spans, problem, num_windows=1)


@torch.inference_mode()
def read_states(model: RMTPreTrainedModel, texts: Sequence[Text], *, batch_size: int = 64) -> torch.Tensor:
    """Read texts of equal length and return the memory after every segment, (n, b, m, d) in float32 on the CPU."""
    columns = []
    for start in range(0, len(texts), batch_size):
        tokens = torch.from_numpy(
            np.stack([text.tokens for text in texts[start : start + batch_size]]).astype(np.int64)
        )
        state, states = model.initial_memory(len(tokens)), []
        for segment in tokens.split(model.config.segment_size, dim=1):
            state = model.step(segment.to(model.device), state)[1]
            states.append(state.float().cpu())
        columns.append(torch.stack(states))
    return torch.cat(columns, dim=1)


def knowledge(texts: Sequence[Text], segment_size: int) -> pd.DataFrame:
    """Return what can be asked after each segment of each text, where its story has a question, and the answer.

    Returns: a row per text, segments_read (1 to n) and question: answer; age, segments since the one in which the last
             fact that supports the answer ended: 0 is the first state that can know it.
    """
    rows = []
    for number, text in enumerate(texts):
        ends = text.fact_spans[:, 1]
        for segments_read in range(1, -(-len(text.tokens) // segment_size) + 1):
            num_told = int((ends <= segments_read * segment_size).sum())
            for question in text.questions_after(num_told) if num_told else ():
                last = max(question.supporting, default=num_told - 1)
                age = segments_read - -(-int(ends[last]) // segment_size)
                rows.append((number, segments_read, question.text, question.answer, age))
    return pd.DataFrame(rows, columns=["text", "segments_read", "question", "answer", "age"])


# ---------------------------------------------------------------------- a probe


@dataclass(frozen=True)
class Probe:
    """A linear classifier of flattened states: argmax of ((x - mean) / scale) @ weights over the answers."""

    mean: torch.Tensor  # (f,)
    scale: float
    weights: torch.Tensor  # (f, c)
    answers: tuple[str, ...]  # c of them

    def predict(self, features: torch.Tensor) -> list[str]:
        """Return the answer that each row of features (r, f) speaks for."""
        best = ((features - self.mean) / self.scale @ self.weights).argmax(dim=1)
        return [self.answers[index] for index in best.tolist()]


def fit_probe(features: torch.Tensor, answers: Sequence[str], groups: Sequence[int]) -> Probe:
    """Fit a probe to features (r, f).

    Args:   answers: of each row;  groups: the text of each row. The penalty is the one of `PENALTIES` that does best on
            the rows of every fifth group, fitted to the others; all rows are used then.
    Raises: ValueError if there is no row.
    """
    if not len(features):
        raise ValueError("there is no state to fit a probe to")
    mean = features.mean(dim=0)
    scale = max(float((features - mean).std()), 1e-12) if len(features) > 1 else 1.0
    classes = tuple(sorted(set(answers)))
    labels = torch.tensor([classes.index(answer) for answer in answers])
    rows, targets = (features - mean) / scale, torch.nn.functional.one_hot(labels, len(classes)).to(features)
    is_held = torch.tensor(pd.factorize(np.asarray(groups))[0] % HELD_OUT == HELD_OUT - 1)
    penalty = PENALTIES[0]
    if is_held.any() and not is_held.all():
        fitted = _ridge(rows[~is_held], targets[~is_held], PENALTIES)
        hits = [int(((rows[is_held] @ weights).argmax(1) == labels[is_held]).sum()) for weights in fitted]
        penalty = PENALTIES[max(range(len(hits)), key=lambda index: (hits[index], index))]  # of equals the strongest
    return Probe(mean, scale, _ridge(rows, targets, (penalty,))[0], classes)


def _ridge(rows: torch.Tensor, targets: torch.Tensor, penalties: Sequence[float]) -> list[torch.Tensor]:
    """Return the weights (f, c) for each penalty; the smaller of the two systems of equations is solved."""
    (num_rows, num_features), is_wide = rows.shape, rows.shape[0] < rows.shape[1]
    gram = rows @ rows.T if is_wide else rows.T @ rows
    wanted, one = targets if is_wide else rows.T @ targets, torch.eye(min(num_rows, num_features)).to(rows)
    solved = [torch.linalg.solve(gram + penalty * num_rows * one, wanted) for penalty in penalties]
    return [rows.T @ weights for weights in solved] if is_wide else solved


# ---------------------------------------------------------------------- probes of all questions


def probe_questions(train: tuple[pd.DataFrame, torch.Tensor], test: tuple[pd.DataFrame, torch.Tensor], *,
                    num_questions: int = 6) -> pd.DataFrame:  # fmt: skip
    """Fit probes of the questions asked most often and try them on other texts.

    The memory of a small model may hold the same thing in two ways by turns, so each question has a probe of the states
    after an even number of segments, one of those after an odd number, and one of both. Every test state is tried with
    all three.

    Args:    train, test: `knowledge` of some texts and their `read_states`, (n, b, m, d).
    Returns: the rows of the test's knowledge for each of `PHASES`, where there is a probe: trained_on, prediction,
             is_correct, floor (whether the answer most frequent in training is right, of those that go with the
             present answer where the table has that column, see `overwritten`). None, of a training table without any.
    Raises:  ValueError if no question has two answers in training.
    """
    table, states = train
    if table.empty:
        return table.assign(trained_on="", prediction="", floor=False, is_correct=False)
    several = table.groupby("question")["answer"].nunique() > 1
    asked = table[table["question"].map(several)]["question"].value_counts(sort=True)
    if asked.empty:
        raise ValueError("no question has two answers in the training texts; take more of them")
    tried = []
    for question in asked.index[:num_questions]:
        own, tests = (rows[rows["question"] == question] for rows in (table, test[0]))
        probes = {parity: _fit(own[own["segments_read"] % 2 == parity], states) for parity in (0, 1)}
        probes["both"] = _fit(own, states)
        for parity, rows in tests.groupby(tests["segments_read"] % 2):
            features = _features(rows, test[1])
            for phase, probe in zip(PHASES, (probes[parity], probes[1 - parity], probes["both"]), strict=True):
                if probe is not None:
                    found = rows.assign(trained_on=phase, prediction=probe.predict(features))
                    tried.append(found.assign(floor=_guesses(own, rows) == rows["answer"]))
    if not tried:
        raise ValueError("none of these questions is asked in the test texts; take more of them")
    records = pd.concat(tried, ignore_index=True)
    return records.assign(is_correct=records["prediction"] == records["answer"])


def _guesses(train: pd.DataFrame, test: pd.DataFrame) -> pd.Series:
    """Return the best guess at each test row's answer without a look at the state."""
    most_frequent = train["answer"].mode()[0]
    if "present" not in train:
        return pd.Series(most_frequent, index=test.index)
    by_present = train.groupby("present")["answer"].agg(lambda answers: answers.mode()[0])
    return test["present"].map(by_present).fillna(most_frequent)


def _fit(rows: pd.DataFrame, states: torch.Tensor) -> Probe | None:
    if rows.empty:
        return None
    return fit_probe(_features(rows, states), rows["answer"].tolist(), rows["text"].tolist())


def _features(rows: pd.DataFrame, states: torch.Tensor) -> torch.Tensor:
    """Return the flattened states that rows of `knowledge` are about, (r, f)."""
    index = (torch.from_numpy(rows[name].to_numpy(copy=True)) for name in ("segments_read", "text"))
    segments_read, text = index
    return states[segments_read - 1, text].flatten(start_dim=1)


def accuracy_by_age(records: pd.DataFrame, by: tuple[str, ...] = ("trained_on",)) -> pd.DataFrame:
    """Return the accuracy of probes by the age of a fact, at `AGES`.

    At one age each fact of each text counts once for each question, so that n counts answers told at different times,
    not the same one again and again.

    Args:    records: of `probe_questions`;  by: further columns to group by.
    Returns: a row per group and age: accuracy, its 95 % Wilson interval (low, high), n, floor (0..1). Left out is what
             has less than a tenth of the answers that the largest row has.
    """
    rows = records[records["age"].isin(AGES)]
    keys = [*by, "age"]
    table = accuracy_table(rows, keys).merge(rows.groupby(keys)["floor"].mean().reset_index(), on=keys)
    table = table[table["n"] >= SMALLEST * table["n"].max()]
    if "trained_on" in by:
        table = table.sort_values("trained_on", key=lambda names: names.map(PHASES.index), kind="stable")
    return table.reset_index(drop=True)


def overwritten(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `knowledge` whose answer was another one before, with that former answer in its place.

    The age stays that of the fact that took its place: how long ago the former answer became wrong. No question of the
    task asks for it; a probe says whether memory still holds it. The column present has the answer that is right now:
    what is known of it makes some former answers likelier than others.
    """
    rows = table.sort_values(["text", "question", "segments_read"], kind="stable")
    of_question = rows.groupby(["text", "question"])["answer"]
    is_changed = rows["answer"] != of_question.shift()
    former = of_question.shift().where(is_changed).groupby([rows["text"], rows["question"]]).ffill()
    return rows.assign(answer=former, present=rows["answer"])[former.notna()].sort_index()
