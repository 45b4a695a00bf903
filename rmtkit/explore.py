"""What only a live front end has: a browser of samples, and a form for the parameters of a run.

Both are thin: a pure function makes the HTML or the parameters, and headless that is all that happens. Only core
widgets are used, alike in ipywidgets 7 and 8, and none that captures output: it can hang a headless run for ever.
"""

from __future__ import annotations

import dataclasses
import html
import os
import sys
from collections.abc import Callable, Sequence

from rmtkit.babilong import BabilongBuilder
from rmtkit.config import PRESETS, TASKS, Config, ConfigError, check, resolve
from rmtkit.experiment import open_builder, open_problems, prompt_size
from rmtkit.lens import render_sample

SPLIT = "train"  # of what is browsed: test samples are for the test


def is_interactive() -> bool:
    """Return whether a live front end shows this notebook, so that a widget can be used.

    JupyterLab, Colab or VS Code must have started the kernel, and the running cell must be allowed to ask for input: a
    headless run (papermill, nbmake) is not, even when it inherits the environment of a notebook. CI is never live.
    In doubt: no. A widget in a headless run can hang for ever (nbclient#312).
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None or not hasattr(shell, "kernel") or os.environ.get("CI"):
        return False
    has_front_end = "JPY_SESSION_NAME" in os.environ or "VSCODE_PID" in os.environ or "google.colab" in sys.modules
    request = shell.kernel.get_parent() or {}
    return has_front_end and bool(request.get("content", {}).get("allow_stdin", False))


# ---------------------------------------------------------------------- samples


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a reader of samples can choose."""

    task: str
    num_segments: int | None  # None: facts alone
    fact_depth: tuple[float, float]  # facts lie between these shares of the sample
    seed: int
    index: int


class SampleViews:
    """The HTML of any sample that one can choose; builders are kept.

    Args: config: of everything that is not chosen;  builder: of that configuration.
    """

    def __init__(self, config: Config, builder: BabilongBuilder):
        self.config, self.tokenizer = config, builder.tokenizer
        self._builders = {self._key(self.first): builder}

    @property
    def first(self) -> Choice:
        """The choice that is the configuration's own."""
        config = self.config
        num_segments = None if config.background == "none" else config.segments[0]
        return Choice(config.task, num_segments, (config.fact_depth_start, config.fact_depth_end), config.seed, 0)

    def render(self, choice: Choice) -> str:
        """Return the sample as HTML; of a choice that cannot be had, why."""
        try:
            builder = self._builder(choice)
            size = None if choice.num_segments is None else prompt_size(self.config, choice.num_segments)
            sample = builder.sample(SPLIT, choice.index, size)
        except ValueError as error:
            return f"<p><b>There is no such sample:</b> {html.escape(str(error))}</p>"
        start, end = (f"{100 * share:.0f}" for share in choice.fact_depth)
        caption = f"<p>seed {choice.seed}, facts between {start} and {end} % of the sample</p>"
        return caption + render_sample(sample, self.tokenizer, segment_size=self.config.segment_size)

    def _builder(self, choice: Choice) -> BabilongBuilder:
        if self._key(choice) not in self._builders:
            start, end = choice.fact_depth
            chosen = {"task": choice.task, "seed": choice.seed, "fact_depth_start": start, "fact_depth_end": end}
            config = check(dataclasses.replace(self.config, **chosen))
            self._builders[self._key(choice)] = open_builder(config, self.tokenizer, open_problems(config))
        return self._builders[self._key(choice)]

    @staticmethod
    def _key(choice: Choice) -> tuple:
        return choice.task, choice.fact_depth, choice.seed


def explore_samples(config: Config, builder: BabilongBuilder, *, num_samples: int = 50,
                    interactive: bool | None = None):  # fmt: skip
    """Return a browser of samples, or the first sample as static HTML if no live front end is there.

    Args: builder: of the configuration;  interactive: build the widget or not; None: `is_interactive()`.
    """
    views = SampleViews(config, builder)
    if not (is_interactive() if interactive is None else interactive):
        from IPython.display import HTML

        return HTML(views.render(views.first))
    return _browser(views.render, views.first, _lengths(config), num_samples)


def _lengths(config: Config) -> list[tuple[str, int | None]]:
    """Return the lengths to choose from: name and number of segments; None is facts alone."""
    if config.background == "none":
        return [("facts alone", None)]
    numbers = sorted({*config.segments, *config.test_segments})
    return [("facts alone", None), *((f"{n} segments, {n * config.segment_size:,} tokens", n) for n in numbers)]


def _browser(render: Callable[[Choice], str], first: Choice, lengths: Sequence[tuple[str, int | None]],
             num_samples: int):  # fmt: skip
    """Return five controls above an HTML view."""
    import ipywidgets

    lazy = {"continuous_update": False}  # a slider tells its value when it is let go
    controls = {
        "task": ipywidgets.Dropdown(options=sorted({*TASKS, first.task}, key=_task_order), value=first.task),
        "num_segments": ipywidgets.Dropdown(options=lengths, value=first.num_segments),
        "fact_depth": ipywidgets.FloatRangeSlider(value=first.fact_depth, min=0, max=1, step=0.05, **lazy),
        "seed": ipywidgets.BoundedIntText(value=first.seed, min=0, max=2**32 - 1),
        "index": ipywidgets.IntSlider(value=0, min=0, max=num_samples - 1, **lazy),
    }
    names = {"num_segments": "length", "fact_depth": "facts in", "index": "sample"}
    for name, control in controls.items():
        control.description = names.get(name, name)
    view = ipywidgets.HTML(render(first))

    def show(_change) -> None:
        view.value = render(Choice(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(show, names="value")
    first_row, second_row = list(controls.values())[:3], list(controls.values())[3:]
    return ipywidgets.VBox([ipywidgets.HBox(first_row), ipywidgets.HBox(second_row), view])


def _task_order(name: str) -> int:
    return int(name[2:]) if name[2:].isdigit() else 0


# ---------------------------------------------------------------------- parameters


def choose_parameters(parameters: dict, *, interactive: bool | None = None) -> dict:
    """Return the parameters; with a live front end also show a form that changes task, preset and seed in them.

    Args:   parameters: as `rmtkit.config.notebook_parameters` has them;  interactive: as in `explore_samples`.
    Raises: ConfigError for parameters that do not go.
    """
    config, parameters = resolve(parameters), dict(parameters)
    if is_interactive() if interactive is None else interactive:
        from IPython.display import display

        display(_form(config, parameters))
    return parameters


def _form(config: Config, parameters: dict):
    """Return three controls and a button that writes their values into the parameters, if they go."""
    import ipywidgets

    controls = {
        "task": ipywidgets.Combobox(options=TASKS, value=config.task, ensure_option=False, description="task"),
        "preset": ipywidgets.Dropdown(options=list(PRESETS), value=config.preset, description="preset"),
        "seed": ipywidgets.BoundedIntText(value=config.seed, min=0, max=2**32 - 1, description="seed"),
    }
    button, said = ipywidgets.Button(description="Use these"), ipywidgets.HTML()

    def use(_button) -> None:
        chosen = {name: control.value for name, control in controls.items()}
        try:
            resolve({**parameters, **chosen})
        except ConfigError as error:
            said.value = html.escape(str(error))
            return
        parameters.update(chosen)
        text = ", ".join(f"{name} {value}" for name, value in chosen.items())
        said.value = f"The cells below now use {html.escape(text)}. Run them: Run, Run Selected Cell and All Below."

    button.on_click(use)
    return ipywidgets.VBox([ipywidgets.HBox([*controls.values(), button]), said])
