"""Prompts of the 20 tasks: each switch, the order of the parts, and the answers of the worked examples."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from babi_solver import read_fact, solve
from hypothesis import given
from hypothesis import strategies as st

from rmtkit.babi import TASKS
from rmtkit.llm.cases import Case
from rmtkit.llm.prompts import ANSWER_BUDGET, PROMPTS, PromptStyle, make_prompt
from rmtkit.llm.wording import WORDING
from rmtkit.public import PROMPT_ROOM
from rmtkit.scoring import labels_of

CASE = Case("qa1", "0k", 0, "Mary went to the attic. It rained.", "Where is Mary?", "attic")
BARE = PromptStyle(instruction=False, examples=False, post_prompt=False)
STYLES = st.builds(
    PromptStyle, st.sampled_from(["rmtkit", "plain"]), *[st.booleans()] * 4, st.none() | st.text(min_size=1)
)


def facts_of(context):
    """The sentences of a text that bAbI's solver can read."""
    facts = []
    for sentence in re.findall(r"\S[^.]*\.", context):
        try:
            read_fact(sentence)
        except ValueError:
            continue
        facts.append(sentence)
    return facts


EXAMPLES = [(task, example) for task, wording in WORDING.items() for example in wording.examples]


def test_there_is_a_wording_for_each_task():
    assert set(WORDING) == set(TASKS) and ANSWER_BUDGET == 20
    texts = [wording.instruction for wording in WORDING.values()]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("task, example", EXAMPLES, ids=lambda value: value if isinstance(value, str) else "")
def test_example_is_answered_as_by_the_solver(task, example):
    assert solve(task, facts_of(example.context), example.question)[0] == example.answer
    parts = example.answer.split(",") if task == "qa8" else [example.answer]
    assert set(parts) <= set(labels_of(task))


@pytest.mark.parametrize("task", WORDING)
def test_examples_show_facts_alone_and_facts_in_background(task):
    alone, hidden = (example.context for example in WORDING[task].examples)
    assert " ".join(facts_of(alone)) == alone
    assert len(facts_of(hidden)) < hidden.count(".")


@pytest.mark.parametrize("task", WORDING)
def test_examples_have_different_answers(task):
    first, second = (example.answer for example in WORDING[task].examples)
    assert first != second


@pytest.mark.parametrize("task", WORDING)
def test_prompt_has_its_parts_in_the_order_of_the_benchmark(task):
    case, wording = replace(CASE, task=task), WORDING[task]
    text = make_prompt(case, PromptStyle()).text
    parts = [
        wording.instruction,
        *(
            f"{example.context}\nQuestion: {example.question}\nAnswer: {example.answer}\n"
            for example in wording.examples
        ),
        wording.answer_format,
        f"\n\n<context>\n{CASE.context}\n</context>\n\n",
        f"Question: {CASE.question}",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places) and all(text.count(part) == 1 for part in parts)
    assert text.startswith(parts[0]) and text.endswith(parts[-1])
    assert text.count("<example>") == text.count("</example>") == 2


@pytest.mark.parametrize("task", WORDING)
def test_prompt_around_the_context_fits_the_room_of_the_benchmark(task):
    text = make_prompt(replace(CASE, task=task, context=""), PromptStyle(chat_template=False)).text
    num_tokens = len(re.findall(r"\w+|[^\w\s]|\n", text))  # words, marks and lines: GPT-2 has hardly more
    assert num_tokens < 0.95 * PROMPT_ROOM


@pytest.mark.parametrize("part", ["instruction", "examples", "post_prompt"])
@pytest.mark.parametrize("task", WORDING)
def test_switch_takes_one_part_out_and_nothing_else(task, part):
    case, wording = replace(CASE, task=task), WORDING[task]
    texts = {
        "instruction": wording.instruction + "\n\n",
        "examples": re.search(r"<example>.*</example>\n\n", make_prompt(case, PromptStyle()).text, re.S)[0],
        "post_prompt": wording.answer_format + "\n\n",
    }
    without = make_prompt(case, PromptStyle(**{part: False})).text
    assert without == make_prompt(case, PromptStyle()).text.replace(texts[part], "")
    alone = make_prompt(case, replace(BARE, **{part: True})).text
    assert alone == texts[part] + make_prompt(case, BARE).text


def test_prompt_without_all_parts_is_context_and_question():
    assert make_prompt(CASE, BARE).text == f"<context>\n{CASE.context}\n</context>\n\nQuestion: {CASE.question}"


def test_chat_template_makes_the_system_prompt_a_message():
    prompt = make_prompt(CASE, PromptStyle(system_prompt="Be brief."))
    assert prompt.system == "Be brief." and prompt.text == make_prompt(CASE, PromptStyle()).text
    assert make_prompt(CASE, PromptStyle()).system is None


def test_text_without_chat_template_has_the_system_prompt_and_asks_for_the_answer():
    text = make_prompt(CASE, PromptStyle()).text
    prompt = make_prompt(CASE, PromptStyle(chat_template=False, system_prompt="Be brief."))
    assert prompt.system is None and prompt.text == f"Be brief.\n\n{text}\nAnswer:"
    assert make_prompt(CASE, PromptStyle(chat_template=False)).text == f"{text}\nAnswer:"


def test_plain_prompt_is_context_line_question():
    plain = PromptStyle(prompts="plain", chat_template=False)
    assert make_prompt(CASE, plain).text == f"{CASE.context}\n{CASE.question}"
    assert make_prompt(replace(CASE, task="other"), plain).text == f"{CASE.context}\n{CASE.question}"
    assert make_prompt(CASE, PromptStyle("plain", system_prompt="Be brief.")).system == "Be brief."


def test_plain_style_says_that_it_has_no_other_parts():
    style = PromptStyle("plain", instruction=True, examples=True, post_prompt=True)
    assert (style.instruction, style.examples, style.post_prompt) == (False, False, False)


def test_style_refuses_what_does_not_exist():
    with pytest.raises(ValueError, match="prompts is 'own'; allowed: rmtkit, lm_eval, plain"):
        PromptStyle(prompts="own")
    with pytest.raises(ValueError, match="post_prompt is False and instruction True"):
        PromptStyle(prompts="lm_eval", post_prompt=False)
    assert set(PROMPTS) == {"rmtkit", "lm_eval", "plain"}


def test_prompt_refuses_a_task_without_wording():
    with pytest.raises(ValueError, match="no prompt for task 'qa21'; tasks: qa1, qa2"):
        make_prompt(replace(CASE, task="qa21"), PromptStyle())


@given(style=STYLES, task=st.sampled_from(TASKS), context=st.text(), question=st.text(min_size=1))
def test_prompt_keeps_context_and_question_whole(style, task, context, question):
    case = Case(task, "0k", 0, context, question, "yes")
    prompt = make_prompt(case, style)
    end = "\nAnswer:" if style.prompts == "rmtkit" and not style.chat_template else ""
    assert prompt.case is case and prompt.text.endswith(question.strip() + end)
    assert context.strip() in prompt.text and question.strip() in prompt.text
    assert prompt.system == (style.system_prompt if style.chat_template else None)
    assert style.chat_template or prompt.text.startswith(style.system_prompt or "")


@given(style=STYLES, task=st.sampled_from(TASKS))
def test_prompt_tells_nothing_of_the_target(style, task):
    case = replace(CASE, task=task)
    assert make_prompt(case, style).text == make_prompt(replace(case, target="\0"), style).text


def test_prompts_are_imported_without_torch():
    code = "import sys, rmtkit.llm.prompts, rmtkit.llm.harness; print('torch' in sys.modules, 'lm_eval' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False False"
