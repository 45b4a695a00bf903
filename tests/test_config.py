"""Parameters: what papermill and a shell may hand over, what is refused, and what presets promise."""

import ast
import dataclasses
import math
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rmtkit
from rmtkit.babi import Variation
from rmtkit.config import (
    AT_LEAST,
    AT_MOST,
    CHOICES,
    PAPER_TASKS,
    PRESETS,
    Config,
    ConfigError,
    check,
    identity,
    notebook_parameters,
    resolve,
)
from rmtkit.parameters import coerce

FIELDS = {field.name: field for field in dataclasses.fields(Config)}
ANNOTATIONS = typing.get_type_hints(Config)
NUMBERS = tuple[int, ...]
SHARES = tuple[float, ...]
ANYTHING = st.one_of(
    st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.binary(),
    st.lists(st.one_of(st.integers(), st.text(), st.floats(), st.none())), st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


# ---------------------------------------------------------------- one value


@pytest.mark.parametrize(
    "value, annotation, expected",
    [("true", bool, True), ("False", bool, False), (True, bool, True),
     ("[0,1]", NUMBERS, (0, 1)), ("(1, 2)", NUMBERS, (1, 2)), ("1,2,4", NUMBERS, (1, 2, 4)), ("3", NUMBERS, (3,)),
     (3, NUMBERS, (3,)), ([1, 2], NUMBERS, (1, 2)), ("1,0.5", SHARES, (1.0, 0.5)), (1, SHARES, (1.0,)),
     ("1e-4", float, 1e-4), (1, float, 1.0), ("1", float, 1.0),
     ("007", int, 7), (7.0, int, 7), ("1_000", int, 1000),
     ("None", int | None, None), ("none", int | None, None), (None, int | None, None), ("4", int | None, 4),
     ("none", str, "none"), (3, str, "3"), ("wiki", str | None, "wiki")],
)  # fmt: skip
def test_coerce_understands(value, annotation, expected):
    found = coerce("x", value, annotation)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    "value, annotation",
    [("yes", bool), (1, bool), ("", bool), (math.nan, float), ("nan", float), ("inf", float), (True, float),
     ("fast", float), (10**400, float), (1.5, int), ("1.5", int), (True, int), ("", int), (math.inf, int),
     (math.nan, int),
     ("1,,2", NUMBERS), ("", NUMBERS), ("[1,", NUMBERS), ("1.5,2", NUMBERS), ([True], NUMBERS), ("[[1]]", NUMBERS),
     ("[x]", NUMBERS), ("1,half", SHARES), ([True], SHARES), (None, int), ("None", float),
     (None, NUMBERS), ([1], int), ({}, NUMBERS)],
)  # fmt: skip
def test_coerce_refuses(value, annotation):
    with pytest.raises(ConfigError, match="x is .*; expected "):
        coerce("x", value, annotation)


@given(st.integers())
def test_coerce_reads_any_whole_number_it_wrote(number):
    assert coerce("x", str(number), int) == coerce("x", number, int) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_coerce_reads_any_float_it_wrote(number):
    assert coerce("x", repr(number), float) == coerce("x", number, float) == number


@given(st.lists(st.integers(), min_size=1))
def test_coerce_reads_numbers_however_they_are_written(numbers):
    written = (numbers, tuple(numbers), str(numbers), str(tuple(numbers)), ",".join(map(str, numbers)))
    assert {coerce("x", each, NUMBERS) for each in written} == {tuple(numbers)}


@given(st.sampled_from(list(FIELDS)), ANYTHING)
def test_resolve_of_anything_is_a_config_or_a_config_error(name, value):
    try:
        found = resolve({name: value})
    except ConfigError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(found, Config)


# ---------------------------------------------------------------- names, ranges, presets


def test_resolve_without_parameters_is_tiny():
    assert resolve() == resolve({}) == Config() == PRESETS["tiny"]


def test_resolve_of_an_unknown_name_suggests_and_lists():
    with pytest.raises(ConfigError, match="'taks'.*did you mean 'task'") as error:
        resolve({"taks": "qa3"})
    assert all(name in str(error.value) for name in FIELDS)


def test_resolve_of_an_unknown_preset_lists_the_presets():
    with pytest.raises(ConfigError, match="'large'; allowed: smoke, tiny, long, paper"):
        resolve({"preset": "large"})


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_passes_its_own_check(preset):
    config = resolve({"preset": preset})
    assert config == check(PRESETS[preset]) and config.preset == preset


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_typed_as_annotated(name):
    for field, annotation in ANNOTATIONS.items():
        value = getattr(PRESETS[name], field)
        found = coerce(field, value, annotation)
        assert found == value and type(found) is type(value), field


def test_paper_preset_takes_the_numbers_of_its_task():
    assert resolve({"preset": "paper", "task": "qa2"}).steps == PAPER_TASKS["qa2"]["steps"]
    assert resolve({"preset": "paper", "task": "qa3"}).learning_rate == 3e-5
    assert resolve({"preset": "paper", "task": "qa3", "learning_rate": "1e-6"}).learning_rate == 1e-6
    assert resolve({"task": "qa3"}).learning_rate == Config().learning_rate


@pytest.mark.parametrize("name", CHOICES)
def test_check_lists_the_choices(name):
    with pytest.raises(ConfigError, match=f"{name} is 'elephant'; allowed: {CHOICES[name][0]}"):
        check(dataclasses.replace(Config(), **{name: "elephant"}))


def test_choices_are_those_of_the_modules():
    from rmtkit.babi import LEARNABLE, TASKS
    from rmtkit.babilong import LAYOUTS, QUESTION_POSITIONS
    from rmtkit.background import SOURCES
    from rmtkit.scoring import SCORING_RULES

    assert Config(task="all").tasks == TASKS and rmtkit.config.LEARNABLE == LEARNABLE
    assert CHOICES["layout"] == LAYOUTS and CHOICES["question_position"] == QUESTION_POSITIONS
    assert set(CHOICES["scoring"]) == set(SCORING_RULES)
    assert set(CHOICES["background"]) == set(SOURCES)


@pytest.mark.parametrize(
    ("task", "tasks", "name"),
    [
        ("qa7", ("qa7",), "qa7"),
        ("qa1,qa2, qa3", ("qa1", "qa2", "qa3"), "qa1+qa2+qa3"),
        ("qa1,who", ("qa1", "who"), "qa1+who"),
        ("all", tuple(f"qa{number}" for number in range(1, 21)), "all"),
    ],
)
def test_task_may_be_several(task, tasks, name):
    config = resolve({"task": task})
    assert config.tasks == tasks and config.task_name == name


@pytest.mark.parametrize("task", ["qa21", "qa1;qa2", "qa1,qa1", "", "qa1,", "1"])
def test_tasks_that_do_not_exist_are_refused_with_those_that_do(task):
    with pytest.raises(ConfigError, match="task is .* allowed: qa1, .*qa20, who, several of them with commas, or all"):
        resolve({"task": task})


def test_tasks_with_long_facts_have_twice_the_segments():
    assert resolve({"task": "qa15"}).segments == resolve({"task": "all"}).segments == (4, 8, 32)
    assert resolve({"task": "qa15", "preset": "smoke"}).test_segments == (4, 8, 16)
    assert resolve({"task": "qa1,qa2"}).segments == (2, 4, 16)
    assert resolve({"task": "qa15", "segments": "3"}).segments == (3,)
    assert resolve({"task": "qa15", "preset": "paper"}).segments == PRESETS["paper"].segments


def out_of_range(name, number):
    return (number,) if isinstance(getattr(Config(), name), tuple) else number


@pytest.mark.parametrize("name", AT_LEAST)
def test_check_names_what_is_below_the_range(name):
    with pytest.raises(ConfigError, match=f"{name} is .*expected at least"):
        check(dataclasses.replace(Config(), **{name: out_of_range(name, AT_LEAST[name] - 1)}))


@pytest.mark.parametrize("name", AT_MOST)
def test_check_names_what_is_above_the_range(name):
    with pytest.raises(ConfigError, match=f"{name} is .*expected at most"):
        check(dataclasses.replace(Config(), **{name: AT_MOST[name] + 1}))


def test_every_number_has_a_range():
    bounded = {*AT_LEAST, *AT_MOST}
    for name, annotation in ANNOTATIONS.items():
        kinds = {annotation, *typing.get_args(annotation)}
        assert name in bounded or not kinds & {int, float}, name


@pytest.mark.parametrize(
    "parameters, message",
    [({"segments": "4,2"}, "growing"), ({"segments": "2,2"}, "growing"), ({"segments": "[]"}, "empty"),
     ({"segments": "1,2,4", "steps": "1,2"}, "2 numbers for 3 stages"),
     ({"batch_size": 48, "micro_batch_size": 32}, "multiple of micro_batch_size"),
     ({"fact_depth_start": 0.5, "fact_depth_end": 0.5}, "not below"),
     ({"answer_size": 64, "segment_size": 64}, "no room"),
     ({"background": "local"}, "background_path"),
     ({"max_grad_norm": 1.0, "max_grad_value": 0.5}, "exclude each other; set one of them to 0"),
     ({"schedule": "reduce_lr_on_plateau", "best_metric": "last"}, "last never gets worse; give loss"),
     ({"best_is_lowest": True}, "first weights"),
     ({"trainable": "memory", "num_memory_tokens": 0}, "nothing to train"),
     ({"trainable": "memory", "spread_embeddings": True}, "trainable memory keeps")],
)  # fmt: skip
def test_check_names_fields_that_disagree(parameters, message):
    with pytest.raises(ConfigError, match=message):
        resolve(parameters)


def test_max_grad_value_alone_switches_off_the_norm():
    config = resolve({"max_grad_value": "0.5"})
    assert (config.max_grad_norm, config.max_grad_value) == (0.0, 0.5)
    assert resolve({"max_grad_value": 0}).max_grad_norm == Config().max_grad_norm


@pytest.mark.parametrize(
    ("trackers", "names"),
    [("none", ()), ("tensorboard", ("tensorboard",)), ("wandb, trackio", ("wandb", "trackio"))],
)
def test_trackers_may_be_several_or_none(trackers, names):
    assert resolve({"trackers": trackers}).tracker_names == names


@pytest.mark.parametrize("trackers", ["", "mlflow", "wandb,wandb", "wandb,none", "wandb;trackio"])
def test_trackers_that_do_not_exist_are_refused_with_those_that_do(trackers):
    with pytest.raises(ConfigError, match="trackers is .* allowed: tensorboard, trackio, wandb, several .* or none"):
        resolve({"trackers": trackers})


@pytest.mark.parametrize(
    ("parameters", "is_lowest"),
    [({}, False), ({"preset": "paper"}, False), ({"best_metric": "loss"}, True),
     ({"best_metric": "errors", "best_is_lowest": "true"}, True),
     ({"best_metric": "loss", "best_is_lowest": "false"}, False), ({"best_metric": "f1"}, False)],
)  # fmt: skip
def test_lowest_is_best_for_loss_or_where_it_is_said(parameters, is_lowest):
    assert resolve(parameters).is_lowest_best == is_lowest


def test_segments_alone_take_the_longest_stage_of_the_preset():
    assert resolve({"segments": "1,3"}).stage_rates == (1.0,)
    assert resolve({"segments": "1,3", "stage_rates": "1,0.5"}).stage_rates == (1.0, 0.5)
    assert resolve({"segments": "1,3"}).steps == (max(Config().steps),)
    assert resolve({"segments": "1,3", "steps": "5,6"}).steps == (5, 6)
    assert resolve({"segments": "1,3", "steps": 5}).steps == (5,)
    assert resolve({"preset": "paper", "segments": "1,3"}).steps == PRESETS["paper"].steps


def test_none_keeps_the_value_of_the_preset():
    assert resolve({"preset": "paper", "background_tokens": None}).background_tokens == 200_000_000
    assert resolve({"preset": "paper", "background_tokens": "none"}).background_tokens is None


def test_identity_leaves_out_places():
    names = set(identity(Config()))
    assert {"task", "seed", "segments", "backbone"} <= names
    assert not {"outputs_dir", "data_dir", "run_dir", "num_workers", "test_samples", "checkpoint"} & names


def test_every_field_is_read_somewhere():
    read = {field.name for field in dataclasses.fields(Variation)}  # rmtkit.experiment reads them by these names
    for file in Path(rmtkit.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif file.name != "config.py" and isinstance(node, ast.Constant):
                read.add(node.value)  # getattr(config, name) over a tuple of names
    assert set(FIELDS) - read == set()


# ---------------------------------------------------------------- notebooks


def run_cells(*cells):
    namespace = {"In": ["", *cells]}
    for cell in cells:
        exec(cell, namespace)
    return namespace


def test_notebook_parameters_reads_both_cells():
    own = '# Parameters\ntask: str = "qa1"  # bAbI task\nseed: int = 0'
    namespace = run_cells("import math", own, '# Parameters\ntask = "qa3"\n', "other = 1")
    assert notebook_parameters(namespace) == {"task": "qa3", "seed": 0}


def test_notebook_parameters_finds_a_mistyped_injected_name():
    namespace = run_cells('# Parameters\ntask: str = "qa1"', '# Parameters\ntaks = "qa3"\n')
    with pytest.raises(ConfigError, match="'taks'"):
        resolve(notebook_parameters(namespace))


def test_notebook_parameters_of_a_plain_script_is_empty():
    assert notebook_parameters({"task": "qa3"}) == {}
