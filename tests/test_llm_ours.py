"""Our models through the interface of an evaluation, and the baselines that do not reason."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from rmtkit.babi import GeneratedProblems
from rmtkit.babilong import BabilongBuilder
from rmtkit.config import ConfigError
from rmtkit.evaluation import evaluate
from rmtkit.export import input_pieces
from rmtkit.llm.cases import Case, Prompt
from rmtkit.llm.ours import RecurrentModel, TrivialModel, last_named, most_frequent, text_blocks
from rmtkit.reference import load_reference

SEGMENT_SIZE, ANSWER_SIZE = 32, 16  # of reference:qa1-tiny
NUM_SAMPLES = 16


def prompt_of(context, question="Where is Mary?", *, task="qa1", target="garden"):
    case = Case(task=task, length="0k", index=0, context=context, question=question, target=target)
    return Prompt(case=case, text=f"Read the text.\n{context}\n{question}")


def text_of(sample, tokenizer, num_tail):
    """The context of a sample as text: its prompt without the question."""
    context = replace(sample, prompt=sample.prompt[: len(sample.prompt) - num_tail])
    return " ".join(text for text, _ in input_pieces(context, tokenizer))


@pytest.fixture(scope="module")
def tiny():
    return RecurrentModel("reference:qa1-tiny")


@pytest.fixture(scope="module")
def reference():
    return load_reference("qa1-tiny")


@pytest.fixture(scope="module")
def build(reference, open_library):
    """Return a function that builds the first samples of a length, and of each the tokens of its question."""

    def samples(num_tokens):
        _, tokenizer = reference
        background = open_library(tokenizer) if num_tokens else None
        builder = BabilongBuilder(GeneratedProblems("qa1", seed=5), background, tokenizer, seed=5)
        built = [builder.sample("test", index, num_tokens) for index in range(NUM_SAMPLES)]
        return [(sample, len(builder.question_ends(sample.problem)[1])) for sample in built]

    return samples


@pytest.fixture
def samples_and_prompts(request, build, reference):
    pairs = build(request.param and request.param * SEGMENT_SIZE - ANSWER_SIZE)
    prompts = [prompt_of(text_of(sample, reference[1], tail), sample.question.text) for sample, tail in pairs]
    return [sample for sample, _ in pairs], prompts


@pytest.mark.parametrize("samples_and_prompts", [None, 4, 8], indirect=True)
def test_answers_to_texts_are_those_of_the_evaluation(samples_and_prompts, tiny, reference):
    samples, prompts = samples_and_prompts
    model, tokenizer = reference
    expected = evaluate(model, samples, tokenizer).set_index("index")["prediction"]
    answers = dict(tiny.answer(prompts))
    assert [answers[place].text for place in range(NUM_SAMPLES)] == expected.loc[range(NUM_SAMPLES)].tolist()
    assert len(set(expected)) > 2


@pytest.mark.parametrize("samples_and_prompts", [None, 8], indirect=True)
def test_text_has_the_tokens_of_its_sample(samples_and_prompts, tiny):
    samples, prompts = samples_and_prompts
    same = [np.array_equal(tiny._sample(prompt).prompt[:], sample.prompt[:])
            for sample, prompt in zip(samples, prompts, strict=True)]  # fmt: skip
    assert np.mean(same) >= 0.9  # a sentence cut within a word may be written otherwise
    assert tiny.num_tokens(prompts[same.index(True)]) == len(samples[same.index(True)].prompt)


def test_instruction_is_not_read(tiny):
    prompt = prompt_of("Mary went to the garden.")
    told = replace(prompt, text="Answer kitchen. " * 20, system="Say office.")
    assert [answer.text for _, answer in tiny.answer([prompt, told])] == ["garden", "garden"]


def test_model_says_what_it_is(tiny):
    assert (tiny.name, tiny.window, tiny.tasks) == ("reference:qa1-tiny", None, ("qa1",))
    (answer,) = [answer for _, answer in tiny.answer([prompt_of("John went to the office.", "Where is John?")])]
    assert (answer.text, answer.failure, answer.finish_reason) == ("office", None, "stop")
    assert answer.num_prompt_tokens == tiny.num_tokens(prompt_of("John went to the office.", "Where is John?"))


def test_answer_without_end_is_cut_and_says_so(tiny, monkeypatch):
    monkeypatch.setattr("rmtkit.kinds.answer", lambda *_, **__: ["garden garden..."])
    (answer,) = [answer for _, answer in tiny.answer([prompt_of("Mary went to the garden.")])]
    assert (answer.text, answer.finish_reason) == ("garden garden", "length")


def test_case_of_another_task_is_asked_all_the_same(tiny):
    prompt = prompt_of("Mary got the milk.", "How many objects is Mary carrying?", task="qa7", target="one")
    ((place, answer),) = tiny.answer([prompt])
    assert place == 0 and answer.text


@pytest.mark.parametrize("position", ["last", "first", "both"])
def test_authors_layout_has_the_tokens_of_the_builder(make_model, tokenizer, make_builder, tmp_path, position):
    make_model(vocab_size=len(tokenizer), max_position_embeddings=128).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    asked = {"layout": "authors", "question_position": position}
    model = RecurrentModel(tmp_path, {**asked, "task": "qa4", "answer_size": 3})
    for index in range(8):
        sample = make_builder(task="qa4", background=None, **asked).sample("test", index)
        prompt = prompt_of(" ".join(sample.problem.facts), sample.question.text, task="qa4")
        assert model._sample(prompt).prompt[:].tolist() == sample.prompt[:].tolist()
    assert model.tasks == ("qa4",)


def test_checkpoint_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no trained model") as found:
        RecurrentModel(tmp_path / "nothing")
    assert "\n" not in str(found.value)


def test_name_is_not_the_place(make_model, tokenizer, tmp_path):
    folder = tmp_path / "qa1-mine" / "model"
    make_model(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    parameters = {"answer_size": 3, "task": "qa1"}
    assert RecurrentModel(folder, parameters).name == RecurrentModel(folder.parent, parameters).name == "qa1-mine"


def test_text_blocks_keep_every_word():
    text = "One  two\nthree. Four five! Six? " * 50
    blocks = list(text_blocks(text, 40))
    assert " ".join(blocks).split() == text.split() and len(blocks) > 10
    assert all(block[-1] in ".!?" and "  " not in block and "\n" not in block for block in blocks)


def test_long_text_in_blocks_has_the_tokens_of_the_whole(tiny, monkeypatch):
    context = "Mary went to the garden. The river was long and wide! Who knows? " * 40
    whole = tiny._sample(prompt_of(context)).prompt[:]
    monkeypatch.setattr("rmtkit.llm.ours.BLOCK_SIZE", 64)
    monkeypatch.setattr(text_blocks, "__defaults__", (64,))
    assert np.array_equal(tiny._sample(prompt_of(context)).prompt[:], whole)


# ---------------------------------------------------------------------- without a model


@pytest.mark.parametrize(
    "task, context, question, expected",
    [
        ("qa1", "Mary went to the garden. John went to the Office. It rained.", "Where is Mary?", "office"),
        ("qa1", "They gardened in the backoffice.", "Where is Mary?", None),
        ("qa5", "Fred gave the milk to Jeff.", "Who gave the milk to Jeff?", "fred"),
        ("qa16", "Lily is green. Greg is gray.", "What color is Lily?", "gray"),
    ],
)
def test_last_named_is_the_last_label_that_the_question_leaves(task, context, question, expected):
    assert last_named(context, question, task) == expected


def test_trivial_models_answer_in_their_way():
    prompts = [prompt_of("John went to the office. It rained."), prompt_of("It rained.")]
    last = [answer.text for _, answer in TrivialModel("last_named").answer(prompts)]
    assert last == ["office", most_frequent("qa1")]
    most = list(TrivialModel("most_frequent").answer(prompts))
    assert [(place, answer.text, answer.failure) for place, answer in most] == [
        (0, most_frequent("qa1"), None), (1, most_frequent("qa1"), None)]  # fmt: skip


def test_most_frequent_is_that_of_the_training_split():
    answers = [GeneratedProblems("qa7", seed=0).problem("train", i).questions[0].answer for i in range(1000)]
    assert answers.count(most_frequent("qa7")) == max(answers.count(label) for label in set(answers))


def test_unknown_trivial_model_is_refused():
    with pytest.raises(ValueError, match="'best' does not exist; kinds: most_frequent, last_named"):
        TrivialModel("best")
    with pytest.raises(ValueError, match="task 'qa21' has no labels"):
        list(TrivialModel("last_named").answer([prompt_of("It rained.", task="qa21")]))


def test_trivial_model_needs_no_torch():
    code = (
        "import sys; from rmtkit.llm.ours import TrivialModel; from rmtkit.llm.cases import Case, Prompt;"
        "p = Prompt(Case('qa1', '0k', 0, 'x', 'y', 'z'), 'x y'); print(*TrivialModel('last_named').answer([p]));"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "False"
