"""A model and cases for tests of evaluations, quick to import: processes that are killed use them, too."""

import dataclasses

from rmtkit.llm.cases import Answer, Case

PLACES = ("garden", "office", "kitchen")


def make_case(index, *, task="qa1", length="0k", context=None):
    context = context or f"Mary went to place {index}."
    return Case(task, length, index, context, "Where is Mary?", PLACES[index % 3], ((0, len(context)),))


def make_cases(number, **options):
    return [make_case(index, **options) for index in range(number)]


class EchoModel:
    """Answers with the target, from the last prompt to the first; keeps what it is sent.

    Args: failures, answers: by the index of a case;  log: a file for what is sent;
          stop: what is called instead of answering when so many prompts have been answered, (number, function).
    """

    window = None

    def __init__(self, name="echo", *, failures=None, answers=None, log=None, stop=None):
        self.name, self.failures, self.answers, self.sent = name, failures or {}, answers or {}, []
        self.log, self.stop = log, stop

    def num_tokens(self, prompt):
        return len(prompt.text.split())

    def answer(self, prompts):
        for place in reversed(range(len(prompts))):
            if self.stop and len(self.sent) == self.stop[0]:
                self.stop[1]()
            self._note(prompts[place].text)
            case = prompts[place].case
            failure = self.failures.get(case.index)
            text = "" if failure else self.answers.get(case.index, case.target)
            yield place, Answer(text, failure=failure, num_prompt_tokens=self.num_tokens(prompts[place]))

    def _note(self, text):
        self.sent.append(text)
        if self.log:
            with open(self.log, "a") as file:
                file.write(text.replace("\n", " ") + "\n")


class HalfRetriever:
    """Keeps the first half of a context."""

    kind, unit, top = "bm25", "sentence", 5

    def retrieve(self, case):
        return dataclasses.replace(case, context=case.context[: len(case.context) // 2], supporting=())

    def recall(self, case, retrieved):
        return len(retrieved.supporting) / len(case.supporting)
