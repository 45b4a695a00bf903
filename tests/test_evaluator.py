"""Evaluation of one length after another: killed and gone on with, in the precision that has been checked."""

import copy
import json
from functools import partial
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from rmtkit.babi import GeneratedProblems, RecordedProblems
from rmtkit.babilong import BabilongBuilder
from rmtkit.config import resolve
from rmtkit.evaluation import evaluate
from rmtkit.evaluator import Evaluator, compare_precisions
from rmtkit.memory import RMTForCausalLM
from rmtkit.progress import ReadingProgress
from rmtkit.snapshots import Snapshot

LENGTH = SimpleNamespace(label="420 tokens", size=420, num_samples=10)
CONFIG = resolve({"preset": "smoke", "test_batch_size": 4, "precision": "float32", "answer_size": 10})


class Killed(BaseException):
    pass


class Shown:
    """Stands for a display; kills the evaluation at a line, counted from 1."""

    def __init__(self, kill_at=None):
        self.lines, self.kill_at = [], kill_at

    def show(self, text, *, force=False):
        self.lines.append(text)
        if len(self.lines) == self.kill_at:
            raise Killed


@pytest.fixture(scope="module")
def builder(tokenizer, open_library):
    return BabilongBuilder(GeneratedProblems("qa1", seed=0, max_n_facts=4), open_library(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def model(make_backbone, tokenizer):
    backbone = make_backbone("llama", vocab_size=len(tokenizer))
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=40)
    model.reset_memory(torch.Generator().manual_seed(0))
    return model.eval()


@pytest.fixture
def make(model, tokenizer, builder, tmp_path):
    """Return a function that makes an evaluator."""

    def make(shown=None, *, config=CONFIG, model=model, lengths=(LENGTH,)):
        return Evaluator(config, model, tokenizer, builder, lengths=lengths, folder=tmp_path, display=shown or Shown())

    return make


def with_fields(**fields):
    return resolve({"preset": "smoke", "test_batch_size": 4, "precision": "float32", "answer_size": 10, **fields})


def test_evaluator_has_the_records_of_evaluate(make, model, tokenizer, builder):
    samples = [builder.sample("test", index, 420) for index in range(10)]
    found = pd.DataFrame(make().records(LENGTH, "a"))
    pd.testing.assert_frame_equal(found, evaluate(model, samples, tokenizer, batch_size=4))


def test_evaluator_makes_batches_of_one_size(make, monkeypatch):
    sizes = []
    evaluator = make()
    read = evaluator._reader.read
    monkeypatch.setattr(
        evaluator._reader, "read", lambda rows, names=None: sizes.append(rows.shape[0]) or read(rows, names)
    )
    evaluator.records(SimpleNamespace(label="", size=420, num_samples=9), "a")
    assert sizes == [3, 3, 3]  # not 4, 4, 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("is_lazy", [False, True])
def test_evaluator_killed_again_and_again_has_the_same_records(make, monkeypatch, precision, is_lazy):
    monkeypatch.setattr("rmtkit.evaluator.Snapshot", partial(Snapshot, seconds=0.0))
    if is_lazy:
        monkeypatch.setattr("rmtkit.babilong.LAZY_TOKENS", 100)
    config = with_fields(precision=precision)
    whole = make(config=config).records(LENGTH, "whole")
    reached = []
    while True:
        shown = Shown(kill_at=9)
        try:
            records = make(shown, config=config).records(LENGTH, "killed")
            break
        except Killed:
            reached.append(tokens_of(shown.lines[-1]))
    assert records == whole
    assert len(reached) > 3 and reached == sorted(set(reached))


def test_evaluator_measures_what_it_has_read_itself(make):
    evaluator = make()
    evaluator.records(LENGTH, "a")
    assert (evaluator.reading["num_read"], evaluator.reading["batch_size"]) == (10 * 420, 4)
    assert evaluator.reading["dtype"] == "float32" and not evaluator.reading["is_compiled"]
    evaluator.records(LENGTH, "a")
    assert evaluator.reading["num_read"] == 0  # all was there


def tokens_of(line):
    return int(line.split()[2].replace(",", ""))


def test_evaluator_does_not_read_what_is_done_again(make, monkeypatch):
    make().records(LENGTH, "a")
    evaluator = make()
    monkeypatch.setattr(evaluator._reader, "read", lambda *arguments, **named: pytest.fail("read again"))
    assert len(evaluator.records(LENGTH, "a")) == 10


@pytest.mark.parametrize("change", ["weights", "name", "batch_size", "precision"])
def test_evaluator_begins_anew_when_something_is_different(make, model, change):
    make().records(LENGTH, "a")
    config = CONFIG
    if change == "weights":
        model = copy.deepcopy(model)
        model.memory.data += 1e-3
    if change == "batch_size":
        config = with_fields(test_batch_size=5)
    if change == "precision":
        config = with_fields(precision="bfloat16")
    shown = Shown()
    make(shown, config=config, model=model).records(LENGTH, "b" if change == "name" else "a")
    assert shown.lines[0].startswith("420 tokens: 0 of")


def test_evaluator_forgets_what_it_kept(make, tmp_path, monkeypatch):
    evaluator = make()
    evaluator.records(LENGTH, "a")
    assert list(tmp_path.iterdir())
    evaluator.forget("a")
    assert not list(tmp_path.iterdir())


def test_evaluator_shows_tokens_on_the_way(make):
    shown = Shown()
    make(shown).records(LENGTH, "a")
    done = [tokens_of(line) for line in shown.lines]
    assert done == sorted(done) and done[-1] == 10 * 420 and len(done) > 3 * 10


def test_reading_progress_counts_its_own_speed_only():
    progress = ReadingProgress(Shown(), "10M", 10_000)
    progress.add(0, 4_000)
    progress.add(2_000)
    assert progress.line(4.0) == "10M: 6,000 of 10,000 tokens read, 500 tokens/s, 0:00:08 left"


def test_reading_progress_without_a_known_total_promises_no_end():
    progress = ReadingProgress(Shown(), "0k", 0)
    progress.add(2_000)
    assert progress.line(4.0) == "0k: 2,000 tokens read, 500 tokens/s"


# ---------------------------------------------------------------- precision


@pytest.fixture
def with_bfloat16(monkeypatch):
    """A processor with bfloat16, and evaluations long enough for the check."""
    monkeypatch.setattr("rmtkit.precision.has_bfloat16", lambda: True)
    monkeypatch.setattr("rmtkit.evaluator.TOKENS_TO_CHECK", 1000)


def findings(folder):
    return [json.loads(path.read_text()) for path in folder.glob("precision-*.json")]


def test_evaluator_uses_bfloat16_that_answers_as_well(make, model, tmp_path, with_bfloat16):
    evaluator = make(config=with_fields(precision="auto"))
    evaluator.records(LENGTH, "a")
    (found,) = findings(tmp_path)
    assert evaluator._reader.model.dtype == torch.bfloat16 and model.dtype == torch.float32
    assert found["is_as_good"] and found["num_samples"] == 64 and found["num_tokens"] == 420


def test_evaluator_checks_with_short_samples_even_if_only_long_ones_are_asked_for(
    make, tmp_path, with_bfloat16, monkeypatch
):
    monkeypatch.setattr("rmtkit.evaluator.CHECKED_TOKENS", 210)
    make(config=with_fields(precision="auto")).records(LENGTH, "a")
    (found,) = findings(tmp_path)
    assert found["num_tokens"] == 210


def test_evaluator_checks_with_generated_stories_where_there_is_no_training_file(make, tmp_path, with_bfloat16):
    folder = tmp_path / "babi"
    folder.mkdir()
    story = "1 Mary moved to the bathroom.\n2 John went to the hallway.\n3 Where is Mary? \tbathroom\t1\n"
    (folder / "qa1_single-supporting-fact_test.txt").write_text(story)
    evaluator = make(config=with_fields(precision="auto"))
    evaluator.builder = copy.copy(evaluator.builder)
    evaluator.builder.problems = RecordedProblems(folder, "qa1", seed=0)
    evaluator.records(LENGTH, "a")
    (found,) = findings(tmp_path)
    assert found["num_samples"] == 64 and isinstance(evaluator.builder.problems, RecordedProblems)


def test_evaluator_checks_once(make, tmp_path, with_bfloat16, monkeypatch):
    make(config=with_fields(precision="auto")).records(LENGTH, "a")
    monkeypatch.setattr("rmtkit.evaluator.compare_precisions", lambda *arguments: pytest.fail("checked again"))
    make(config=with_fields(precision="auto")).records(LENGTH, "b")


def test_evaluator_uses_float32_where_bfloat16_is_worse(make, model, with_bfloat16, monkeypatch, capsys):
    worse = {"is_as_good": False, "sentence": "of 64 validation samples torch.bfloat16 answers 1 right, float32 60"}
    monkeypatch.setattr("rmtkit.evaluator.compare_precisions", lambda *arguments: worse)
    evaluator = make(config=with_fields(precision="auto"))
    evaluator.records(LENGTH, "a")
    assert evaluator._reader.model is model
    assert capsys.readouterr().err == f"evaluating in float32: {worse['sentence']}\n"


def test_evaluator_stays_in_float32_for_few_tokens(make, model, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.precision.has_bfloat16", lambda: True)
    evaluator = make(config=with_fields(precision="auto"))
    assert evaluator._reader.model is model and not findings(tmp_path)


def records_of(answers):
    return pd.DataFrame({"prediction": answers, "is_correct": [each == "right" for each in answers]})


@pytest.mark.parametrize(
    "lost, gained, chance, is_as_good",
    [(0, 0, 1.0, True), (1, 0, 0.5, True), (4, 0, 1 / 16, True), (5, 0, 1 / 32, False), (8, 3, 0.1133, True),
     (9, 1, 0.0107, False), (0, 9, 1.0, True)],
)  # fmt: skip
def test_compare_precisions_by_the_sign_test(lost, gained, chance, is_as_good):
    """Probabilities of scipy 1.17, binomtest(lost, lost + gained, alternative="greater")."""
    exact = records_of(["right"] * (10 + lost) + ["wrong"] * (10 + gained))
    fast = records_of(["right"] * 10 + ["wrong"] * (10 + lost) + ["right"] * gained)
    found = compare_precisions(exact, fast, "half")
    assert found["chance"] == pytest.approx(chance, abs=1e-4) and found["is_as_good"] is is_as_good
    assert (found["lost"], found["gained"]) == (lost, gained) and found["num_same_answers"] == 20


def test_compare_precisions_of_no_samples_is_no_proof():
    assert not compare_precisions(records_of([]), records_of([]), "half")["is_as_good"]
