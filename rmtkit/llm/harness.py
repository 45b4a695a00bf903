"""lm-evaluation-harness (lm_eval): its prompts of BABILong for our cases, and our cases as tasks for its backends.

Its wording is read from the package that is installed, by its own code: what it would send is what we send. An
exported folder needs lm_eval alone: our scoring rules travel with it.

    lm_eval --model vllm --model_args pretrained=NAME --include_path FOLDER --tasks rmtkit_babilong_qa1_4k
"""

from __future__ import annotations

import contextlib
import inspect
import json
import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path

from rmtkit import __version__, scoring
from rmtkit.babi import LABELS
from rmtkit.export import new_folder
from rmtkit.formats import sha256
from rmtkit.llm.cases import Case, Prompt
from rmtkit.llm.prompts import ANSWER_BUDGET, PromptStyle, make_prompt
from rmtkit.scoring import SCORING_RULES, labels_of, score

GROUP = "rmtkit_babilong"
MODULE = f"{GROUP}.py"  # beside the tasks: how they read their data and score
COMMON = f"_{GROUP}"  # what all tasks share; without .yaml, so that it is not taken for a task
FIELDS = {"context": "{{input.strip()}}", "question": "{{question.strip()}}"}  # of a case, in lm_eval's templates
LABELS_IMPORT = "from rmtkit.babi import LABELS\n"


def harness_prompt(case: Case, style: PromptStyle) -> Prompt:
    """Put a case as lm_eval puts a document of its task `babilong_<task>` with the same content.

    With a chat template as by `--apply_chat_template --fewshot_as_multiturn false`: the instruction is in the system's
    message, the examples in the user's.

    Raises: ValueError if lm_eval is not installed, or has no such task.
    """
    task = _harness_task(case.task, style.instruction)
    context = task.fewshot_context(
        doc={"input": case.context, "question": case.question, "target": case.target},
        num_fewshot=task.config.num_fewshot if style.examples else 0,
        system_instruction=style.system_prompt,
        apply_chat_template=style.chat_template,
        fewshot_as_multiturn=False,
        chat_template=lambda messages, **_: messages,
    )
    if not style.chat_template:
        return Prompt(case, context)
    content = {message["role"]: message["content"] for message in context}
    return Prompt(case, content["user"], content.get("system"))


@cache
def _harness_task(task: str, has_instruction: bool):
    """Return lm_eval's own task object, with an empty document in place of its data set, which is on the hub."""
    try:
        import lm_eval.tasks
    except ImportError as error:
        raise ValueError(f"prompts=lm_eval reads the installed lm_eval ({error}): pip install 'rmtkit[llm]'") from None

    name = f"babilong_{task}"
    folder = Path(lm_eval.tasks.__file__).parent / "babilong"
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    if name not in manager.all_subtasks:
        raise ValueError(f"the lm_eval that is installed has no task {name}; take prompts=rmtkit, or another lm_eval")
    changes = {"task": name, "custom_dataset": _empty_document, **({} if has_instruction else {"description": ""})}
    with _quiet():
        return manager.load({"group": GROUP, "task": [changes]})["tasks"][name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep back lm_eval's advice on how to give a task other data, which is of no use here."""
    logger = logging.getLogger("lm_eval.api.task")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _empty_document(**_) -> dict:
    from datasets import Dataset

    documents = Dataset.from_list([{"input": "", "question": "", "target": ""}])
    return defaultdict(lambda: documents)  # of whatever split


def export_harness_tasks(cases: Iterable[Case], output: str | Path, *, style: PromptStyle | None = None) -> dict:
    """Write cases as a folder of tasks for lm_eval: data, prompts in the given style, our scoring rules as metrics.

    A task for each task and length of the cases, `rmtkit_babilong_qa1_4k`; the group `rmtkit_babilong` of all, and the
    tags `rmtkit_babilong_qa1` and `rmtkit_babilong_4k`. Answers are greedy, of `ANSWER_BUDGET` tokens.

    Args:    output: a folder that does not exist yet;  style: `PromptStyle()` if None.
    Returns: the manifest: version, style, and of each task its name, its data file with rows and SHA-256.
    Raises:  ValueError for no cases, a task without labels, a length that cannot be part of a name; an output that
             exists or cannot be written.
    Trap:    lm_eval cuts a prompt that its model's window does not hold, from the left, without a word in the result.
    """
    style, output = style or PromptStyle(), Path(output).expanduser()
    with new_folder(output) as folder:
        try:
            manifest = _write_folder(folder, cases, style)
        except OSError as error:
            raise ValueError(f"cannot write {output} ({error.strerror}); give another output") from error
    return manifest


def _write_folder(folder: Path, cases: Iterable[Case], style: PromptStyle) -> dict:
    firsts = _write_data(folder, cases)
    (folder / MODULE).write_text(_module(), encoding="utf-8")
    _write_yaml(folder / COMMON, _common())
    for name, case in firsts.items():
        _write_yaml(folder / f"{name}.yaml", _task_yaml(name, case, style))
    metrics = [{"metric": rule, "aggregation": "mean", "weight_by_size": False} for rule in SCORING_RULES]
    group = {"group": GROUP, "task": list(firsts), "aggregate_metric_list": metrics, "metadata": {"version": 1.0}}
    _write_yaml(folder / f"{GROUP}.yaml", group)
    (folder / "README.md").write_text(_readme(list(firsts), style), encoding="utf-8")
    manifest = {
        "made_by": f"rmtkit {__version__}",
        "style": asdict(style),
        "tasks": [_describe(folder, name, case) for name, case in firsts.items()],
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    return manifest


def _write_data(folder: Path, cases: Iterable[Case]) -> dict[str, Case]:
    """Write each case as a line of its task's file; return a case of each, without context, by the task's name."""
    firsts: dict[str, Case] = {}
    (folder / "data").mkdir()
    for case in cases:
        labels_of(case.task)
        name = f"{GROUP}_{case.task}_{case.length}"
        if not re.fullmatch(r"[\w.-]+", case.length):
            raise ValueError(f"length {case.length!r} cannot be part of a task's name: letters, digits, _ . - only")
        firsts.setdefault(name, replace(case, context=""))
        row = {"input": case.context, "question": case.question, "target": case.target}
        row |= {"task": case.task, "length": case.length, "index": case.index}
        with _data_file(folder, case).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    if not firsts:
        raise ValueError("there are no cases to write")
    return firsts


def _data_file(folder: Path, case: Case) -> Path:
    return folder / "data" / f"{case.task}_{case.length}.jsonl"


def _describe(folder: Path, name: str, case: Case) -> dict:
    path = _data_file(folder, case)
    with path.open(encoding="utf-8") as lines:
        num_cases = sum(1 for _ in lines)
    return {"name": name, "path": path.relative_to(folder).as_posix(), "num_cases": num_cases, "sha256": sha256(path)}


class _Function(str):
    """A function of the module beside a yaml file, written as lm_eval reads it: `!function module.name`."""


def _common() -> dict:
    """Return what all tasks share."""
    rules = [{"metric": rule, "aggregation": "mean", "higher_is_better": True} for rule in SCORING_RULES]
    return {
        "output_type": "generate_until",
        "custom_dataset": _Function(f"{GROUP}.load_data"),
        "test_split": "test",
        "doc_to_target": "{{target}}",
        "num_fewshot": 0,  # the examples are in the prompt
        "generation_kwargs": {"do_sample": False, "temperature": 0.0, "max_gen_toks": ANSWER_BUDGET, "until": []},
        "process_results": _Function(f"{GROUP}.process_results"),
        "metric_list": rules,
        "metadata": {"version": 1.0},
    }


def _task_yaml(name: str, case: Case, style: PromptStyle) -> dict:
    """Return what one task has of its own. A prompt is a template: that of a case whose fields are template fields."""
    marks = {field: f"\0{field}\0" for field in FIELDS}
    prompt = make_prompt(replace(case, **marks), style)
    text = _escape(prompt.text)
    for field, template in FIELDS.items():
        text = text.replace(marks[field], template)
    return {
        "include": COMMON,
        "task": name,
        "tag": [f"{GROUP}_{case.task}", f"{GROUP}_{case.length}"],
        "dataset_kwargs": {"data_file": f"data/{case.task}_{case.length}.jsonl"},
        **({"description": _escape(prompt.system)} if prompt.system else {}),
        "doc_to_text": text,
    }


def _escape(text: str) -> str:
    """Return a text as a template that gives it back."""
    return text.replace("{", "{{ '{' }}")


def _write_yaml(path: Path, content: dict) -> None:
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def write_text(dumper: yaml.SafeDumper, text: str):
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)

    Dumper.add_representer(str, write_text)
    Dumper.add_representer(_Function, lambda dumper, name: dumper.represent_scalar("!function", str(name)))
    path.write_text(yaml.dump(content, Dumper=Dumper, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _module() -> str:
    """Return the module beside the tasks: our scoring rules as they are here, and the two functions below."""
    rules = inspect.getsource(scoring)
    if LABELS_IMPORT not in rules:
        raise RuntimeError(f"{scoring.__file__} does not import the labels as {LABELS_IMPORT!r}")
    rules = rules.replace(LABELS_IMPORT, f"LABELS = {LABELS!r}\n")
    return "\n\n".join([rules, inspect.getsource(load_data), inspect.getsource(process_results)])


def load_data(*, data_file: str, **_) -> dict:
    """Return the documents of a task; lm_eval calls this in an exported folder, with what else it knows."""
    import json
    from pathlib import Path

    from datasets import Dataset

    with (Path(__file__).parent / data_file).open(encoding="utf-8") as lines:
        return {"test": Dataset.from_list([json.loads(line) for line in lines])}


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Return the score of an answer by each rule; lm_eval calls this in an exported folder."""
    asked = {name: doc[name] for name in ("question", "target", "task")}
    return {rule: float(score(rule, results[0], **asked)) for rule in SCORING_RULES}


def _readme(names: list[str], style: PromptStyle) -> str:
    """Return how to run the tasks."""
    chat = " --apply_chat_template" if style.chat_template else ""
    with_or_without = "with" if style.chat_template else "without"
    return f"""# BABILong tasks for lm_eval, written by rmtkit {__version__}

    lm_eval --model hf --model_args pretrained=NAME,max_length=WINDOW --include_path FOLDER --tasks {names[0]}{chat}

FOLDER is this folder. `{GROUP}` is all of its tasks, `{GROUP}_TASK` those of one task, `{GROUP}_LENGTH` of one length:

{", ".join(names)}

The prompts are made for models {with_or_without} a chat template: run them {with_or_without} `--apply_chat_template`.
lm_eval cuts a prompt that does not fit the window of the model from the left: give a window that holds the longest.

Answers are greedy, of up to {ANSWER_BUDGET} tokens. The metrics are scoring rules, whose numbers are not comparable
with each other: {", ".join(SCORING_RULES)}. `{MODULE}` says what each means.
"""
