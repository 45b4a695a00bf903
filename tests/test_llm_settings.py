"""Settings of an evaluation of language models: text as parameters, presets, what is refused, what stays secret."""

import dataclasses
import json

import pytest

from rmtkit.llm.settings import PRESETS, LLMSettings, public_url, resolve_llm
from rmtkit.parameters import ConfigError, as_text


def test_resolve_llm_understands_text_as_papermill_and_shells_give_it():
    given = {"task": "qa2,qa3", "num_samples": "7", "examples": "false", "timeout": "1e1", "base_url": "none"}
    found = resolve_llm({**given, "chat_template": "true", "system_prompt": None})
    assert (found.tasks, found.num_samples, found.examples, found.timeout) == (("qa2", "qa3"), 7, False, 10.0)
    assert found.base_url is None and found.chat_template is True


@pytest.mark.parametrize("preset", PRESETS)
def test_resolve_llm_of_a_presets_own_fields_as_text_gives_the_preset(preset):
    fields = {field.name: as_text(getattr(PRESETS[preset], field.name)) for field in dataclasses.fields(LLMSettings)}
    assert resolve_llm(fields) == PRESETS[preset] == resolve_llm({"preset": preset})


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tsak": "qa1"}, "unknown parameter 'tsak' (did you mean 'task'?)"),
        ({"preset": "paper"}, "preset is 'paper'; allowed: smoke, tiny"),
        ({"task": "qa21"}, "task is 'qa21'; allowed: qa1"),
        ({"task": "qa1,qa1"}, "task is 'qa1,qa1'"),
        ({"lengths": "3k"}, "lengths is '3k'; allowed: 0k, 1k, 2k"),
        ({"lengths": ""}, "lengths is ''"),
        ({"num_samples": 0}, "num_samples is 0; expected at least 1"),
        ({"num_samples": 1.5}, "num_samples is 1.5; expected a whole number"),
        ({"seed": 2**32}, "seed is 4294967296; expected at most"),
        ({"scoring": "vibes"}, "scoring is 'vibes'; allowed: "),
        ({"prompts": "poem"}, "prompts is 'poem'; allowed: rmtkit, lm_eval, plain"),
        ({"prompts": "plain", "examples": True}, "prompts plain are context and question alone"),
        ({"retrieval": "page"}, "retrieval is 'page'; allowed: none, sentence, chunk"),
        ({"trivial": "oracle"}, "trivial is 'oracle'; allowed: most_frequent, last_named"),
        ({"source": "babylong"}, "source is 'babylong'; allowed: generated, babilong"),
        ({"source": "mine.jsonl"}, "there is no such file"),
        ({"source": "babilong", "babi_path": "hub"}, "babi_path is for source generated"),
        ({"background": "tales"}, "background is 'tales'; allowed: wiki"),
        ({"background": "none"}, "background none has facts alone"),
        ({"base_url": "localhost:8000"}, "base_url is "),
        ({"window": 4096}, "window is of a model at a server"),
    ],
)  # fmt: skip
def test_resolve_llm_refuses_with_one_line(parameters, message):
    with pytest.raises(ConfigError) as caught:
        resolve_llm(parameters)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_parts_of_the_prompt_follow_the_wording_unless_given():
    plain = resolve_llm({"prompts": "plain"})
    assert not (plain.instruction or plain.examples or plain.post_prompt)
    small, other = resolve_llm({}), resolve_llm({"model": "gpt2"})
    assert (small.examples, small.chat_template) == (False, False)
    assert (other.examples, other.chat_template) == (True, None)
    assert resolve_llm({"examples": True}).examples and resolve_llm({"prompts": "lm_eval"}).examples
    worded = resolve_llm({"preset": "smoke", "prompts": "rmtkit", "examples": False})
    assert worded.instruction and worded.post_prompt and not worded.examples


def test_settings_show_nothing_secret_of_an_address():
    address = "https://me:hunter2@host.example:81/v1?api_key=hunter2#hunter2"
    found = dataclasses.replace(PRESETS["tiny"], base_url=address)
    assert "hunter2" not in repr(found) + json.dumps(found.record())
    assert public_url(address) == "https://host.example:81/v1" and "base_url='https://host.example:81/v1'" in repr(
        found
    )
    with pytest.raises(ConfigError) as caught:
        resolve_llm({"base_url": address})
    assert "hunter2" not in str(caught.value) and "api_key_variable" in str(caught.value)
