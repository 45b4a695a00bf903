"""lm_eval: its prompts are what it would send itself, and its runs of our exported tasks score as we do."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("lm_eval")

import datasets  # noqa: E402
import yaml  # noqa: E402
from lm_eval.api.model import LM  # noqa: E402
from lm_eval.evaluator import evaluate, simple_evaluate  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402
from lm_eval.utils import apply_template  # noqa: E402

from rmtkit.babi import TASKS  # noqa: E402
from rmtkit.llm import harness  # noqa: E402
from rmtkit.llm.cases import Case  # noqa: E402
from rmtkit.llm.harness import export_harness_tasks, harness_prompt  # noqa: E402
from rmtkit.llm.prompts import ANSWER_BUDGET, PromptStyle, make_prompt  # noqa: E402
from rmtkit.scoring import SCORING_RULES, score  # noqa: E402

FOLDER = harness.Path(sys.modules["lm_eval.tasks"].__file__).parent / "babilong"
CONTEXT, QUESTION = " It rained {{ all }} day. Mary went to the office. ", "Where is Mary? "
CASES = [Case(task, "0k", 0, CONTEXT, QUESTION, "office") for task in TASKS]
SYSTEM = "Answer in {{ one }} word, {# not #} two.\n"
STYLES = [
    PromptStyle(),
    PromptStyle(chat_template=False),
    PromptStyle(system_prompt=SYSTEM),
    PromptStyle(chat_template=False, system_prompt=SYSTEM, examples=False),
    PromptStyle("plain", system_prompt=SYSTEM, chat_template=False),
    PromptStyle("lm_eval", system_prompt=SYSTEM),
    PromptStyle("lm_eval", chat_template=False),
]


class Scripted(LM):
    """Gives the answers it was given, by task and number, and remembers what it was asked."""

    tokenizer_name = "none"

    def __init__(self, answers=None):
        super().__init__()
        self.answers, self.sent = answers or {}, {}

    def generate_until(self, requests):
        for request in requests:
            self.sent[request.task_name, request.doc_id] = request.args
        return [self.answers.get((request.task_name, request.doc_id), "") for request in requests]

    def apply_chat_template(self, chat_history, add_generation_prompt=True):
        return json.dumps(chat_history)

    def loglikelihood(self, requests):
        raise AssertionError("not asked for")

    loglikelihood_rolling = loglikelihood


def as_sent(prompt, style):
    """The text that `Scripted` is sent for a prompt."""
    if not style.chat_template:
        assert prompt.system is None
        return prompt.text
    system = [{"role": "system", "content": prompt.system}] if prompt.system else []
    return json.dumps([*system, {"role": "user", "content": prompt.text}])


@pytest.fixture
def benchmark(monkeypatch):
    """lm_eval's own tasks of BABILong; the data set on the hub is a document with the content of our cases."""
    documents = datasets.Dataset.from_list([{"input": CONTEXT, "question": QUESTION, "target": "office"}])

    def load_dataset(*_, split=None, **__):
        return documents if split else dict.fromkeys(TASKS, documents)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return TaskManager(include_path=str(FOLDER), include_defaults=False).load(["babilong"])


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("has_chat", [False, True])
def test_prompts_are_what_lm_eval_sends(benchmark, has_chat, system):
    style, model = PromptStyle("lm_eval", chat_template=has_chat, system_prompt=system), Scripted()
    evaluate(model, benchmark, bootstrap_iters=0, system_instruction=system, apply_chat_template=has_chat)
    sent = {name: text for (name, _), (text, _) in model.sent.items()}
    assert sent == {f"babilong_{case.task}": as_sent(make_prompt(case, style), style) for case in CASES}


def test_prompts_without_examples_are_what_lm_eval_sends_zero_shot(benchmark):
    style, model = PromptStyle("lm_eval", examples=False, chat_template=False), Scripted()
    for task in benchmark["tasks"].values():
        task.set_config("num_fewshot", 0)
    evaluate(model, benchmark, bootstrap_iters=0)
    sent = {name: text for (name, _), (text, _) in model.sent.items()}
    assert sent == {f"babilong_{case.task}": make_prompt(case, style).text for case in CASES}


@pytest.mark.parametrize("case", CASES, ids=TASKS)
def test_prompts_of_lm_eval_have_its_instruction_and_two_of_its_examples(case):
    text = make_prompt(case, PromptStyle("lm_eval", chat_template=False)).text
    config = yaml.load((FOLDER / f"babilong_{case.task}.yaml").read_text(encoding="utf-8"), PlainLoader)
    examples = [f"{each['input']}\n{each['question']} {each['target']}" for each in config["fewshot_config"]["samples"]]
    asked = f"{CONTEXT.strip()}\n{QUESTION.strip()}"
    assert text == config["description"] + "\n\n".join([*examples[:2], asked])
    bare = PromptStyle("lm_eval", instruction=False, post_prompt=False, chat_template=False)
    assert make_prompt(case, bare).text == text.removeprefix(config["description"])


class PlainLoader(yaml.SafeLoader):
    """Reads a task's yaml without its functions."""


PlainLoader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


def test_reading_the_wording_prints_nothing_and_leaves_the_logger_as_it_was(caplog):
    harness._harness_task.cache_clear()
    level = harness.logging.getLogger("lm_eval.api.task").level
    make_prompt(CASES[0], PromptStyle("lm_eval"))
    assert caplog.records == [] and harness.logging.getLogger("lm_eval.api.task").level == level


def test_missing_lm_eval_is_one_clear_line(monkeypatch):
    harness._harness_task.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(ValueError, match=r"^prompts=lm_eval reads .*: pip install 'rmtkit\[llm\]'$"):
        make_prompt(CASES[0], PromptStyle("lm_eval"))


def test_lm_eval_without_the_task_is_one_clear_line():
    with pytest.raises(ValueError, match="no task babilong_qa21; take prompts=rmtkit"):
        harness_prompt(Case("qa21", "0k", 0, "", "", ""), PromptStyle("lm_eval"))


def load(folder, names):
    return TaskManager(include_path=str(folder), include_defaults=False).load(names)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: f"{style.prompts}-{style.chat_template}-{style.examples}")
def test_exported_tasks_send_our_prompts(tmp_path, style):
    export_harness_tasks(CASES, tmp_path / "tasks", style=style)
    model = Scripted()
    evaluate(
        model, load(tmp_path / "tasks", ["rmtkit_babilong"]), bootstrap_iters=0, apply_chat_template=style.chat_template
    )
    expected = {(f"rmtkit_babilong_{case.task}_0k", 0): as_sent(make_prompt(case, style), style) for case in CASES}
    assert {key: text for key, (text, _) in model.sent.items()} == expected
    settings = [settings for _, settings in model.sent.values()]
    assert all(each["max_gen_toks"] == ANSWER_BUDGET and not each["do_sample"] for each in settings)
    assert all(each["until"] == [] for each in settings)


ANSWERED = [  # task, length, question, target, answer
    ("qa1", "0k", "Where is Mary?", "office", "office"),
    ("qa1", "0k", "Where is Mary?", "office", "She left. The office"),
    ("qa1", "0k", "Where is Mary?", "office", "office, not the garden"),
    ("qa1", "1k", "Where is Mary?", "garden", "the garden"),
    ("qa7", "1k", "How many objects is Mary carrying?", "none", "none"),
    ("qa8", "0k", "What is Mary carrying?", "milk,apple", "apple and milk"),
    ("qa8", "0k", "What is Mary carrying?", "nothing", "\t"),
]


@pytest.fixture
def answered():
    """Cases, and the answers to them by lm_eval's task and number."""
    cases, answers, numbers = [], {}, {}
    for task, length, question, target, answer in ANSWERED:
        name = f"rmtkit_babilong_{task}_{length}"
        numbers[name] = numbers.get(name, -1) + 1
        cases.append(Case(task, length, 100 + len(cases), "It rained.", question, target))
        answers[name, numbers[name]] = answer
    return cases, answers


def accuracy(answered, name, rule):
    """By our own scoring, the answers of one task."""
    cases, answers = answered
    found = [
        score(rule, answer, question=case.question, target=case.target, task=case.task)
        for case, ((task, _), answer) in zip(cases, answers.items(), strict=True)
        if task == name
    ]
    return sum(found) / len(found)


def test_exported_tasks_score_as_we_do(tmp_path, answered):
    export_harness_tasks(iter(answered[0]), tmp_path / "tasks")
    found = evaluate(Scripted(answered[1]), load(tmp_path / "tasks", ["rmtkit_babilong"]), bootstrap_iters=0)
    names = ["qa1_0k", "qa1_1k", "qa7_1k", "qa8_0k"]
    expected = {
        (name, rule): accuracy(answered, f"rmtkit_babilong_{name}", rule) for name in names for rule in SCORING_RULES
    }
    assert {key: found["results"][f"rmtkit_babilong_{key[0]}"][f"{key[1]},none"] for key in expected} == expected
    assert len(set(expected.values())) > 3
    for rule in SCORING_RULES:  # the group: the mean of its tasks
        mean = sum(expected[name, rule] for name in names) / len(names)
        assert found["groups"]["rmtkit_babilong"][f"{rule},none"] == pytest.approx(mean)


@pytest.mark.parametrize("tag, names", [("1k", ["qa1_1k", "qa7_1k"]), ("qa1", ["qa1_0k", "qa1_1k"])])
def test_exported_tasks_have_tags_of_task_and_length(tmp_path, answered, tag, names):
    export_harness_tasks(answered[0], tmp_path / "tasks")
    loaded = load(tmp_path / "tasks", [f"rmtkit_babilong_{tag}"])
    assert sorted(loaded["tasks"]) == [f"rmtkit_babilong_{name}" for name in names]


def test_exported_folder_says_what_is_in_it(tmp_path, answered):
    style = PromptStyle(examples=False, chat_template=False)
    manifest = export_harness_tasks(answered[0], tmp_path / "tasks", style=style)
    assert json.loads((tmp_path / "tasks" / "manifest.json").read_text()) == manifest
    assert [(task["name"], task["num_cases"]) for task in manifest["tasks"]] == [
        ("rmtkit_babilong_qa1_0k", 3), ("rmtkit_babilong_qa1_1k", 1), ("rmtkit_babilong_qa7_1k", 1),
        ("rmtkit_babilong_qa8_0k", 2),
    ]  # fmt: skip
    assert manifest["style"]["examples"] is False and manifest["style"]["prompts"] == "rmtkit"
    readme = (tmp_path / "tasks" / "README.md").read_text()
    assert "--tasks rmtkit_babilong_qa1_0k\n" in readme and "without `--apply_chat_template`" in readme


def test_exported_folder_repeats_byte_for_byte(tmp_path, answered):
    for name in ("one", "two"):
        export_harness_tasks(answered[0], tmp_path / name)
    files = [path.relative_to(tmp_path / "one") for path in sorted((tmp_path / "one").rglob("*")) if path.is_file()]
    assert len(files) == 4 + 4 + 5  # data, tasks, and what they share
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes() for file in files)


def test_exported_module_scores_without_rmtkit(tmp_path):
    export_harness_tasks(CASES[:1], tmp_path / "tasks")
    code = """import sys, runpy
sys.modules["rmtkit"] = None
module = runpy.run_path(sys.argv[1])
asked = {"task": "qa1", "question": "Where is Mary?", "target": "office"}
print(module["process_results"](asked, ["The office. Mary is in the garden."]))"""
    command = [sys.executable, "-c", code, str(tmp_path / "tasks" / harness.MODULE)]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found == "{'exact_match': 0.0, 'babilong_labels': 1.0, 'substring': 1.0, 'lm_eval': 1.0}\n"


@pytest.mark.parametrize(
    "case, message",
    [
        (Case("qa21", "0k", 0, "", "", ""), "'qa21' has no labels"),
        (Case("qa1", "../4k", 0, "", "", ""), "length '../4k' cannot be part"),
        (Case("qa1", "4k 100", 0, "", "", ""), "length '4k 100' cannot be part"),
    ],
)
def test_export_refuses_what_it_cannot_name_or_score(tmp_path, case, message):
    with pytest.raises(ValueError, match=message):
        export_harness_tasks([CASES[0], case], tmp_path / "tasks")
    assert list(tmp_path.iterdir()) == []


def test_export_refuses_no_cases_and_an_output_that_exists(tmp_path):
    with pytest.raises(ValueError, match="no cases"):
        export_harness_tasks([], tmp_path / "tasks")
    with pytest.raises(ValueError, match="exists already"):
        export_harness_tasks(CASES, tmp_path)


def test_export_on_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(harness, "_write_yaml", full)
    with pytest.raises(ValueError, match=r"cannot write .*tasks \(No space left on device\)"):
        export_harness_tasks(CASES, tmp_path / "tasks")
    assert list(tmp_path.iterdir()) == []


@given(text=st.text(alphabet="{}%#-\n'\\ao"))
def test_escaped_text_is_a_template_that_gives_it_back(text):
    rendered = apply_template(harness._escape(text), {})
    assert rendered == text.replace("\r\n", "\n").replace("\r", "\n")  # jinja's lines


@pytest.fixture(scope="module")
def tiny_model(tokenizer, make_backbone):
    """lm_eval's Hugging Face backend with a random model that has room for our prompts."""
    from lm_eval.models.huggingface import HFLM

    model = make_backbone("llama", vocab_size=len(tokenizer), max_position_embeddings=4096)
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=4096, batch_size=2)


def test_simple_evaluate_of_a_hugging_face_model_scores_as_we_do(tmp_path, tiny_model):
    style = PromptStyle(chat_template=False)
    cases = [Case("qa1", "4k", i, f"Mary went to the {place}.", QUESTION, "never") for i, place in enumerate("abc")]
    outputs = [generate(tiny_model, make_prompt(case, style).text) for case in cases[:2]]
    within = re.search("[a-z]+", outputs[1])[0].upper()
    targets = [outputs[0], within, "never"]  # the first is right by equality, the second by what it contains
    cases = [replace(case, target=target) for case, target in zip(cases, targets, strict=True)]
    export_harness_tasks(cases, tmp_path / "tasks", style=style)
    manager, name = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False), "rmtkit_babilong_qa1_4k"
    found = simple_evaluate(tiny_model, tasks=[name], limit=2, bootstrap_iters=0, task_manager=manager)
    assert [sample["resps"][0][0] for sample in found["samples"][name]] == outputs
    for rule in SCORING_RULES:
        asked = [(output, case.target) for output, case in zip(outputs, cases[:2], strict=True)]
        right = [score(rule, output, question=QUESTION, target=target, task="qa1") for output, target in asked]
        assert found["results"][name][f"{rule},none"] == sum(right) / 2
    first, second = found["samples"][name]
    assert (first["exact_match"], second["exact_match"], second["lm_eval"]) == (1.0, 0.0, 1.0)


def generate(model, text):
    """What the model goes on with, by transformers alone: greedy, `ANSWER_BUDGET` tokens."""
    inputs = model.tokenizer(text, return_tensors="pt")
    output = model.model.generate(**inputs, max_new_tokens=ANSWER_BUDGET, do_sample=False)
    return model.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
