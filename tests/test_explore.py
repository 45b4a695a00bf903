"""What is there with a live front end and without one: the browser of samples, the form for parameters."""

import sys
import types

import pytest

from rmtkit import explore
from rmtkit.config import ConfigError, resolve
from rmtkit.experiment import open_builder, open_problems, open_tokenizer, prompt_size
from rmtkit.lens import render_sample


@pytest.fixture(scope="module")
def config(library, tmp_path_factory):
    given = {"preset": "smoke", "background": "local", "background_path": str(library)}
    return resolve({**given, "data_dir": str(tmp_path_factory.mktemp("data")), "segments": "4,8", "task": "qa1"})


@pytest.fixture(scope="module")
def builder(config):
    return open_builder(config, open_tokenizer(config), open_problems(config))


# ---------------------------------------------------------------------- front end


def front_end(monkeypatch, *, allow_stdin=True, environment="JPY_SESSION_NAME"):
    """Pretend that a kernel runs this, started by a front end."""
    kernel = types.SimpleNamespace(get_parent=lambda: {"content": {"allow_stdin": allow_stdin}})
    shell = types.SimpleNamespace(kernel=kernel)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    for name in ("CI", "JPY_SESSION_NAME", "VSCODE_PID"):
        monkeypatch.delenv(name, raising=False)
    if environment:
        monkeypatch.setenv(environment, "1")


def test_is_interactive_needs_no_kernel_to_say_no(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None))
    assert not explore.is_interactive()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace()))
    assert not explore.is_interactive()


@pytest.mark.parametrize(
    ("environment", "allow_stdin", "expected"),
    [
        ("JPY_SESSION_NAME", True, True),
        ("VSCODE_PID", True, True),
        ("JPY_SESSION_NAME", False, False),
        (None, True, False),
    ],
)
def test_is_interactive_needs_a_front_end_that_takes_input(monkeypatch, environment, allow_stdin, expected):
    front_end(monkeypatch, allow_stdin=allow_stdin, environment=environment)
    assert explore.is_interactive() is expected


def test_is_interactive_is_never_so_in_ci(monkeypatch):
    front_end(monkeypatch)
    monkeypatch.setenv("CI", "true")
    assert not explore.is_interactive()


# ---------------------------------------------------------------------- samples


def test_explore_samples_headless_is_the_first_sample_without_a_widget(config, builder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    shown = explore.explore_samples(config, builder)
    sample = builder.sample("train", 0, prompt_size(config, 4))
    assert shown.data.endswith(render_sample(sample, builder.tokenizer, segment_size=config.segment_size))


def test_views_are_of_the_task_length_depth_seed_and_sample_chosen(config, builder):
    views = explore.SampleViews(config, builder)
    text = views.render(explore.Choice("qa6", 8, (0.5, 1.0), 7, 3))
    other = resolve({**vars(config), "task": "qa6", "seed": 7, "fact_depth_start": 0.5})
    sample = open_builder(other, builder.tokenizer, open_problems(other)).sample("train", 3, prompt_size(config, 8))
    assert text.endswith(render_sample(sample, builder.tokenizer, segment_size=config.segment_size))
    assert text.startswith("<p>seed 7, facts between 50 and 100 % of the sample</p>")
    assert sample.fact_spans[0, 0] >= 0.5 * len(sample.prompt) and sample.problem.task == "qa6"


def test_view_of_facts_alone_has_no_background(config, builder):
    text = explore.SampleViews(config, builder).render(explore.Choice("qa1", None, (0.0, 1.0), 0, 0))
    assert "river" not in text and "supporting fact" in text


@pytest.mark.parametrize("change", [{"task": "qa99"}, {"fact_depth": (0.5, 0.5)}, {"task": "qa15", "num_segments": 1}])
def test_view_of_what_cannot_be_had_says_why(config, builder, change, monkeypatch):
    monkeypatch.setattr("rmtkit.babilong.MAX_DRAWS", 3)
    views = explore.SampleViews(config, builder)
    text = views.render(explore.dataclasses.replace(views.first, **change))
    assert text.startswith("<p><b>There is no such sample:</b> ") and len(text) > 60


def test_explore_samples_interactive_follows_its_controls_without_output_capture(config, builder):
    ipywidgets = pytest.importorskip("ipywidgets")
    browser = explore.explore_samples(config, builder, interactive=True, num_samples=9)
    (task, length, depth), (seed, index), view = (*(row.children for row in browser.children[:2]), browser.children[2])
    views = explore.SampleViews(config, builder)
    assert view.value == views.render(views.first) and index.max == 8
    index.value, length.value, task.value, seed.value, depth.value = 5, 8, "qa6", 2, (0.25, 0.75)
    assert view.value == views.render(explore.Choice("qa6", 8, (0.25, 0.75), 2, 5))
    length.value = None
    assert view.value == views.render(explore.Choice("qa6", None, (0.25, 0.75), 2, 5))
    assert not any(isinstance(w, ipywidgets.Output) for w in (task, length, depth, seed, index, view))


# ---------------------------------------------------------------------- parameters


def form(parameters, monkeypatch):
    """Build the form as if live; return what `choose_parameters` returned, its controls, button and message."""
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    chosen = explore.choose_parameters(parameters, interactive=True)
    row, said = shown[0].children
    *controls, button = row.children
    return chosen, controls, button, said


def test_choose_parameters_headless_builds_nothing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    given = {"task": "qa2", "preset": "smoke", "seed": 3, "steps": None}
    assert explore.choose_parameters(given) == given


def test_choose_parameters_stops_at_once_at_a_wrong_one():
    with pytest.raises(ConfigError, match="did you mean 'task'"):
        explore.choose_parameters({"taks": "qa1"}, interactive=False)


def test_button_of_the_form_changes_what_the_cells_below_use(monkeypatch):
    pytest.importorskip("ipywidgets")
    given = {"task": "qa1", "preset": "tiny", "seed": 0, "batch_size": 64}
    chosen, (task, preset, seed), button, said = form(given, monkeypatch)
    assert (task.value, preset.value, seed.value) == ("qa1", "tiny", 0)
    task.value, preset.value, seed.value = "qa2,qa3", "smoke", 5
    assert chosen == given
    button.click()
    assert chosen == {"task": "qa2,qa3", "preset": "smoke", "seed": 5, "batch_size": 64}
    assert "task qa2,qa3, preset smoke, seed 5" in said.value and given["task"] == "qa1"


def test_button_of_the_form_refuses_what_does_not_go(monkeypatch):
    pytest.importorskip("ipywidgets")
    chosen, (task, _, _), button, said = form({"task": "qa1"}, monkeypatch)
    task.value = "qa77<b>"
    button.click()
    assert chosen == {"task": "qa1"} and "qa77&lt;b&gt;" in said.value
