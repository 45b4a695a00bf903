"""Prompts: what a language model is asked, by a style that is stored with every result.

| prompts | wording |
|---|---|
| rmtkit | ours (`rmtkit.llm.wording`), in the order of the benchmark (Kuratov et al. 2024, 2406.10149) |
| lm_eval | that of lm-evaluation-harness, read from the installed package (`rmtkit.llm.harness`) |
| plain | the context, a line, the question |

    {system prompt}       with a chat template a message of its own

    {instruction}

    <example>             two of them
    {context}
    Question: ...
    Answer: ...
    </example>

    {answer format}       the "post prompt" of the benchmark

    <context>
    {context}
    </context>

    Question: ...
    Answer:               only without a chat template, where the model goes on with the text
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rmtkit.llm.cases import Case, Prompt
from rmtkit.llm.wording import WORDING, Example

ANSWER_BUDGET = 20  # new tokens, as the benchmark
PROMPTS = ("rmtkit", "lm_eval", "plain")


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """How a case is put to a model.

    A plain prompt has no instruction, examples or post-prompt: these are False then, whatever was given. In lm_eval's
    wording the form of the answer is a part of the instruction.

    Raises: ValueError for prompts that do not exist; for post_prompt unlike instruction with prompts=lm_eval.
    """

    prompts: str = "rmtkit"  # a name in PROMPTS
    instruction: bool = True  # what the facts say and what is wanted
    examples: bool = True  # two worked ones
    post_prompt: bool = True  # the form of the answer
    chat_template: bool = True  # the prompt is sent as messages; otherwise as a text to go on with
    system_prompt: str | None = None  # an own message before the prompt; without a chat template, text before it

    def __post_init__(self):
        if self.prompts not in PROMPTS:
            raise ValueError(f"prompts is {self.prompts!r}; allowed: {', '.join(PROMPTS)}")
        if self.prompts == "plain":
            for part in ("instruction", "examples", "post_prompt"):
                object.__setattr__(self, part, False)
        if self.prompts == "lm_eval" and self.instruction != self.post_prompt:
            raise ValueError(
                f"post_prompt is {self.post_prompt} and instruction {self.instruction}; lm_eval has both in one text: "
                "set them alike, or take prompts=rmtkit"
            )


def make_prompt(case: Case, style: PromptStyle) -> Prompt:
    """Put a case to a model.

    Returns: the complete user's message, and the system's where the style has a chat template.
    Raises:  ValueError if there is no wording of the task; if the style needs lm_eval and it is not installed.
    """
    if style.prompts == "lm_eval":
        from rmtkit.llm.harness import harness_prompt

        return harness_prompt(case, style)
    if style.prompts == "plain":
        text = f"{case.context.strip()}\n{case.question.strip()}".strip()
    else:
        text = "\n\n".join(_parts(case, style))
    prompt = Prompt(case, text, style.system_prompt)
    return prompt if style.chat_template else Prompt(case, prompt.whole)


def _parts(case: Case, style: PromptStyle) -> Iterator[str]:
    """Yield the parts of a prompt in our wording, which stand an empty line apart."""
    if case.task not in WORDING:
        raise ValueError(f"there is no prompt for task {case.task!r}; tasks: {', '.join(WORDING)}")
    wording = WORDING[case.task]
    if style.instruction:
        yield wording.instruction
    if style.examples:
        yield from (_example(example) for example in wording.examples)
    if style.post_prompt:
        yield wording.answer_format
    yield f"<context>\n{case.context.strip()}\n</context>"
    yield f"Question: {case.question.strip()}" + ("" if style.chat_template else "\nAnswer:")


def _example(example: Example) -> str:
    return f"<example>\n{example.context}\nQuestion: {example.question}\nAnswer: {example.answer}\n</example>"
