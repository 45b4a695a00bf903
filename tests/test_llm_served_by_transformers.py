"""A served model against `transformers serve`, which is killed and started again while it is asked."""

import importlib.util
import json
from collections import Counter
from itertools import product
from pathlib import Path

import pytest
import torch
from llm_servers import TransformersServer, prompt_of
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig

from rmtkit.llm.cases import Case, Prompt
from rmtkit.llm.local import LocalModel
from rmtkit.llm.served import ServedModel

MISSING = [name for name in ("openai", "fastapi", "uvicorn") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {MISSING}: pip install them")

BACKBONE = Path(__file__).parents[1] / "outputs/reference/backbone"
CHAT_TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}Answer:{% endif %}"
PEOPLE = ("Mary", "John", "Daniel", "Sandra", "Emily")
PLACES = ("kitchen", "garden", "hallway", "office", "bedroom", "bathroom", "cinema", "park")
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
         "max_position_embeddings": 256, "initializer_range": 0.3, "bos_token_id": 0, "eos_token_id": 0,
         "pad_token_id": 0}  # fmt: skip
NUM_TOKENS = 4  # of an answer
KILLED_AFTER = 90  # answers
CONCURRENCY = 8


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory):
    """A folder with a small Llama of random weights, the reference backbone's tokenizer and a chat template."""
    folder = tmp_path_factory.mktemp("model") / "chat"
    tokenizer = AutoTokenizer.from_pretrained(BACKBONE)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), **SIZES)).save_pretrained(folder)
    return folder


@pytest.fixture
def sent(monkeypatch):
    """How often each prompt was sent by our side, attempts without a server included."""
    import openai

    counts, send = Counter(), openai.DefaultAsyncHttpxClient.send

    async def counted(client, request, **options):
        counts[prompt_of(json.loads(request.content))] += 1
        return await send(client, request, **options)

    monkeypatch.setattr(openai.DefaultAsyncHttpxClient, "send", counted)
    return counts


def make_prompts():
    facts = product(PEOPLE, PLACES, PLACES[:5])
    texts = [f"{who} went to the {first}. Then {who} went to the {last}. Where is {who}?" for who, first, last in facts]
    return [Prompt(Case("qa1", "0k", index, text, "", ""), text) for index, text in enumerate(texts)]


@torch.no_grad()
def generate(folder, prompts):
    """Return the greedy answers of the model in a folder, one prompt at a time, and the tokens of the prompts."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    texts, sizes = [], []
    for prompt in prompts:
        ids = tokenizer(prompt.text + " Answer:", return_tensors="pt")["input_ids"]
        output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NUM_TOKENS)
        texts.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
        sizes.append(ids.shape[1])
    return texts, sizes


def test_server_killed_and_started_again_loses_nothing_and_is_sent_nothing_twice(chat_model, tmp_path, sent):
    prompts, answers = make_prompts(), {}
    with TransformersServer(chat_model, tmp_path / "server.log") as server:
        server.start()
        server.wait()
        model = ServedModel(
            str(chat_model), base_url=server.base_url, concurrency=CONCURRENCY, max_answer_tokens=NUM_TOKENS,
            max_attempts=40, window=256, tokenizer=chat_model,
        )  # fmt: skip
        for number, (place, answer) in enumerate(model.answer(prompts), start=1):
            assert place not in answers
            answers[place] = answer
            if number == KILLED_AFTER:
                server.kill()
                server.start()
    texts, sizes = generate(chat_model, prompts)
    assert len(prompts) == len(answers) == len(sent) == 200
    assert [answers[place].text for place in range(200)] == texts and len(set(texts)) > 20
    local = LocalModel.from_pretrained(chat_model, precision="float32", max_answer_tokens=NUM_TOKENS)
    assert {place: answer.text for place, answer in local.answer(prompts)} == {
        place: answer.text.strip() for place, answer in answers.items()
    }
    assert [answers[place].num_prompt_tokens for place in range(200)] == sizes == list(map(model.num_tokens, prompts))
    assert sent == {prompt.text: answers[place].num_attempts for place, prompt in enumerate(prompts)}
    tried_again = [place for place, answer in answers.items() if answer.num_attempts > 1]
    assert 0 < len(tried_again) <= CONCURRENCY
    num_served = server.log.read_text().count('/completions HTTP/1.1" 200')
    assert 200 <= num_served <= 200 + CONCURRENCY  # more: answers that were on their way when it was killed


def test_server_does_not_outlive_a_failing_test(chat_model, tmp_path):
    with pytest.raises(ZeroDivisionError), TransformersServer(chat_model, tmp_path / "server.log") as server:
        server.start()
        assert server.is_alive()
        1 / 0  # noqa: B018
    assert not server.is_alive()
