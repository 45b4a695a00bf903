"""What is seen of a training: lines in a terminal, one line and one image in place in a notebook."""

import html
import shutil
import types
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from transformers import PrinterCallback
from transformers.utils.notebook import NotebookProgressCallback

from rmtkit import live, progress
from rmtkit.config import resolve
from rmtkit.curriculum import Stage, stages
from rmtkit.experiment import build_model, prepare
from rmtkit.runs import Run
from rmtkit.training import Hooks, make_trainer, train


class Shown(list):
    """What a notebook has shown: (id of the display, object), and how often each was shown anew."""

    def display(self, thing, *, display_id=None):
        number = len({number for number, _ in self})
        self.append((number, thing))
        return types.SimpleNamespace(update=lambda other: self.append((number, other)))

    def last(self):
        return list(dict(self).values())


def pretend_notebook(monkeypatch) -> Shown:
    """Pretend that a kernel runs this; return what it shows."""
    plt.switch_backend("Agg")  # pyplot would ask the pretended shell for more than it has
    shown = Shown()
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr("IPython.display.display", shown.display)
    return shown


@pytest.fixture
def notebook(monkeypatch):
    return pretend_notebook(monkeypatch)


@pytest.fixture(scope="module")
def parameters(library, tmp_path_factory) -> dict:
    given = {"preset": "smoke", "background": "local", "background_path": str(library), "precision": "float32"}
    return {**given, "data_dir": str(tmp_path_factory.mktemp("data"))}


@pytest.fixture(scope="module")
def trained(parameters, tmp_path_factory):
    """An experiment whose two stages of four updates were trained in a notebook, and what that showed."""
    experiment = prepare(resolve({**parameters, "outputs_dir": str(tmp_path_factory.mktemp("outputs"))}))
    with pytest.MonkeyPatch.context() as monkeypatch:
        shown = pretend_notebook(monkeypatch)
        train(experiment, (live.TrainingProgress(),))
    return experiment, shown


# ---------------------------------------------------------------------- pieces


def test_display_in_a_terminal_prints_lines_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    display = progress.Display(seconds=2)
    for second in range(12):
        now[0] = 100.0 + second
        display.show(f"line {second}")
    display.show("end", force=True)
    assert capsys.readouterr().err.splitlines() == ["line 0", "line 10", "end"] and not display.is_in_place


def test_display_in_a_notebook_is_one_escaped_text_and_nothing_before_the_first(notebook):
    display = progress.Display(seconds=0)
    assert notebook == []
    display.show("<b>1")
    display.show("<b>2")
    (text,) = notebook.last()
    assert len(notebook) == 2 and text._repr_html_() == f"<pre>{html.escape('<b>2')}</pre>"


def test_live_image_is_drawn_rarely_and_the_rarer_the_longer_it_takes(notebook, monkeypatch):
    now, drawn = [100.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def draw(seconds):
        now[0] += seconds
        drawn.append(now[0])
        return b"\x89PNG\r\n\x1a\n" + b"0" * 20

    image = progress.LiveImage(seconds=2, share=0.05)
    for moment, seconds in ((100, 0.01), (101, 0.01), (102.5, 1.0), (123, 0.01), (124, 0.01)):
        now[0] = moment
        image.show(lambda seconds=seconds: draw(seconds))
    assert drawn == [100.01, 103.5, 124.01]
    image.show(lambda: draw(0), force=True)
    assert len(drawn) == 4 and len(notebook) == 4 and len(notebook.last()) == 1


def test_live_image_is_not_drawn_outside_of_a_notebook(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    progress.LiveImage().show(lambda: pytest.fail("drawn"), force=True)


def test_pace_counts_tokens_and_seconds_between_laps_without_pauses(monkeypatch):
    now = [5.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    pace = progress.Pace()
    pace.num_tokens += 300
    now[0] = 7.0
    with pace.paused():
        now[0] = 17.0
    now[0] = 18.0
    assert pace.lap() == {"num_tokens": 300, "seconds": 3.0}
    now[0] = 19.5
    assert pace.lap() == {"num_tokens": 0, "seconds": 1.5}


# ---------------------------------------------------------------------- a training


def test_training_in_a_notebook_ends_as_one_text_and_one_image(trained):
    experiment, shown = trained
    text, image = shown.last()
    lines = text.text.splitlines()
    assert [line.split(":")[0] for line in lines] == ["stage 1 of 2, 2 segments", "stage 2 of 2, 4 segments"]
    assert all("step 4/4, loss " in line and " n=8, " in line and " tokens/s, ended after " in line for line in lines)
    assert image.data == live.training_png(experiment.run) and len(image.data) < 100_000


def test_training_in_a_terminal_prints_plain_lines(parameters, tmp_path, capsys, monkeypatch):
    short = {"outputs_dir": str(tmp_path), "segments": "2", "steps": "2", "validation_samples": 2}
    experiment = prepare(resolve({**parameters, **short}))
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    monkeypatch.setattr(live, "training_png", lambda run: pytest.fail("drawn"))
    train(experiment, (live.TrainingProgress(),))
    lines = capsys.readouterr().err.splitlines()
    shown = [line for line in lines if line.startswith("stage ")]
    assert len(shown) >= 2 and all("<" not in line for line in shown)
    assert "at most " in shown[0] and "ended after " in shown[-1]


def test_time_left_counts_the_later_stages_by_their_segments(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    now = [0.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    config = resolve({"segments": "2,4,8", "steps": "10,10,5"})
    stage = Stage(1, 4, 10, Path("run/checkpoints/stage"), is_last=False)
    loader = types.SimpleNamespace(dataset=types.SimpleNamespace(stage=stage, config=config))
    shown, state = live.TrainingProgress(), types.SimpleNamespace(global_step=0, max_steps=10)
    shown.on_train_begin(None, state, None, train_dataloader=loader)
    now[0], state.global_step = 8.0, 2  # 1 s a segment; 8 updates of 4 segments and 5 of 8 are left
    shown.on_step_end(None, state, None)
    assert "step 2/10" in shown.lines[-1] and "at most 0:01:12 left" in shown.lines[-1]


def test_last_line_of_a_stage_has_its_last_validation(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    config, stage = resolve({"segments": 4}), Stage(0, 4, 10, Path("run/checkpoints/stage"), is_last=True)
    loader = types.SimpleNamespace(dataset=types.SimpleNamespace(stage=stage, config=config))
    shown, state = live.TrainingProgress(), types.SimpleNamespace(global_step=0, max_steps=10)
    shown.on_train_begin(None, state, None, train_dataloader=loader)
    for accuracy in (0.5, 0.75):
        state.global_step += 5
        shown.on_step_end(None, state, None)
        logs = {"eval_exact_match": accuracy, "eval_low": 0.25, "eval_high": 1.0, "eval_n": 8}
        shown.on_log(None, state, None, logs=logs)
    shown.on_train_end(None, state, None)
    assert "step 10/10, " in shown.lines[-1] and "exact match 0.750 [0.250, 1.000] n=8" in shown.lines[-1]


def test_transformers_own_tables_are_off(trained, notebook):
    experiment, _ = trained
    stage = stages(experiment)[0]
    trainer = make_trainer(experiment, stage, build_model(experiment.config), Hooks())
    for callback in trainer.callback_handler.callbacks:
        assert not isinstance(callback, NotebookProgressCallback | PrinterCallback)


def test_training_log_has_loss_tokens_and_seconds_of_each_logged_step(trained):
    experiment, _ = trained
    rows = experiment.run.training_log()
    assert [(row["stage"], row["step"]) for row in rows] == [(stage, step) for stage in (0, 1) for step in (1, 2, 3, 4)]
    assert all(row["loss"] > 0 and row["seconds"] > 0 for row in rows)
    assert all(row["num_segments"] == 2 * row["stage"] + 2 for row in rows)
    size = experiment.config.segment_size * experiment.config.batch_size
    first = [row["num_tokens"] for row in rows if row["stage"] == 0]
    assert all(size < tokens <= 2 * size for tokens in first)


def test_curves_of_a_run_without_a_log_are_drawn(trained, tmp_path):
    experiment, _ = trained
    shutil.copy(experiment.run.folder / "metrics.jsonl", tmp_path)
    alone = live.training_png(Run(tmp_path, experiment.config))
    assert alone.startswith(b"\x89PNG") and len(alone) < len(live.training_png(experiment.run))
