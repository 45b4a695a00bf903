"""Generation with transformers' options, and what others build on it: pipeline and the evaluation harness."""

import pytest
import torch
from transformers import pipeline
from transformers.generation import BaseStreamer

from rmtkit.memory import RMTForCausalLM

OPTIONS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def log_probability(model, tokens, start):
    """Sum the log-probabilities of tokens[start:] of each row, from whole forward passes."""
    log_p = model(tokens).logits[:, :-1].log_softmax(-1)
    return log_p.gather(2, tokens[:, 1:, None])[:, start - 1 :, 0].sum(dim=1)


def test_beam_search_finds_what_scores_best_from_scratch(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 8)
    beams = model.generate(tokens, max_new_tokens=7, num_beams=4, num_return_sequences=4, **OPTIONS)
    scores = log_probability(model, beams, 8).view(2, 4)
    assert torch.equal(scores, scores.sort(dim=1, descending=True).values)
    alone = model.generate(tokens, max_new_tokens=7, **OPTIONS)
    assert (scores[:, 0] >= log_probability(model, alone, 8) - 1e-4).all()


def test_beam_search_does_not_depend_on_the_cache(make_model, make_tokens):
    model, tokens = make_model("llama"), make_tokens(2, 8)
    options = {"max_new_tokens": 9, "num_beams": 3, **OPTIONS}
    assert torch.equal(model.generate(tokens, **options), model.generate(tokens, use_cache=False, **options))


def test_beam_search_from_a_state_equals_that_from_the_start(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 8)
    options = {"max_new_tokens": 6, "num_beams": 3, **OPTIONS}
    found = model.generate(tokens[:, 5:], state=model.read(tokens[:, :5]), **options)
    assert torch.equal(found[:, 3:], model.generate(tokens, **options)[:, 8:])


def test_sampling_is_seeded_and_follows_the_distribution(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(1, 8).expand(400, -1)
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(model.generate(tokens, max_new_tokens=1, do_sample=True, eos_token_id=None, pad_token_id=0)[:, 8])
    assert torch.equal(drawn[0], drawn[1])
    expected = model(tokens[:1]).logits[0, -1].softmax(-1)
    share = drawn[0].bincount(minlength=len(expected)) / 400
    assert (share - expected).abs().max() < 0.1 and share.count_nonzero() > 3


def test_generate_stops_at_the_end_of_text(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 8)
    new = model.generate(tokens, max_new_tokens=12, **OPTIONS)[:, 8:]
    end = int(new[0, 3])
    stopped = model.generate(tokens, max_new_tokens=12, do_sample=False, eos_token_id=end, pad_token_id=0)[:, 8:]
    first = new[0].tolist().index(end)
    assert stopped[0, : first + 1].tolist() == new[0, : first + 1].tolist()
    assert not stopped[0, first + 1 :].any()


def test_streamer_gets_every_token(make_model, make_tokens):
    class Recorder(BaseStreamer):
        def __init__(self):
            self.tokens = []

        def put(self, value):
            self.tokens += value.flatten().tolist()

        def end(self):
            self.tokens.append(None)

    model, tokens, recorder = make_model(), make_tokens(1, 8), Recorder()
    found = model.generate(tokens, max_new_tokens=9, streamer=recorder, **OPTIONS)
    assert recorder.tokens == [*found[0].tolist(), None]


def test_generate_in_chunks_of_the_prompt_equals_whole(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 13)
    mask = torch.ones_like(tokens)
    mask[0, :6] = 0
    options = {"max_new_tokens": 6, "attention_mask": mask, **OPTIONS}
    expected = model.generate(tokens, **options)
    cache = model(tokens[:, :4], attention_mask=mask[:, :4], use_cache=True).past_key_values
    assert torch.equal(model.generate(tokens, past_key_values=cache, **options), expected)


def test_assisted_generation_is_refused(make_model, make_tokens):
    model = make_model()
    with pytest.raises(ValueError, match="stateful"):
        model.generate(make_tokens(1, 8), assistant_model=model.backbone, max_new_tokens=3, **OPTIONS)


@pytest.fixture
def text_model(make_backbone, tokenizer):
    """A model with the vocabulary of the tokenizer."""
    backbone = make_backbone("llama", vocab_size=len(tokenizer))
    return RMTForCausalLM.from_backbone(backbone, num_memory_tokens=3, segment_size=6)


def test_pipeline_generates_text_for_prompts_of_several_lengths(text_model, tokenizer):
    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.eos_token
    generator = pipeline("text-generation", model=text_model, tokenizer=tokenizer, device="cpu")
    prompts = ["Mary went to the kitchen. Where is Mary?", "John moved. Where?", "Sandra"]
    options = {"max_new_tokens": 8, "do_sample": False, "return_full_text": False}
    together = [rows[0]["generated_text"] for rows in generator(prompts, batch_size=3, **options)]
    assert together == [generator(prompt, **options)[0]["generated_text"] for prompt in prompts]


def test_evaluation_harness_takes_the_model(text_model, tokenizer):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (an extra)")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    tokenizer.pad_token = tokenizer.eos_token
    harness = HFLM(pretrained=text_model, tokenizer=tokenizer, max_length=4096, batch_size=2, device="cpu")
    context = "Mary went to the kitchen. Where is Mary?"
    requests = [Instance("loglikelihood", {}, (context, f" {place}"), 0) for place in ("kitchen", "garden")]
    scores = [score for score, _ in harness.loglikelihood(requests)]
    for place, score in zip(("kitchen", "garden"), scores, strict=True):
        ids = torch.tensor([tokenizer(f"{context} {place}", add_special_tokens=False)["input_ids"]])
        start = len(tokenizer(context, add_special_tokens=False)["input_ids"])
        assert score == pytest.approx(float(log_probability(text_model, ids, start).detach()), abs=1e-3)
    until = Instance("generate_until", {}, (context, {"until": ["\n"], "max_gen_toks": 5}), 0)
    assert isinstance(harness.generate_until([until])[0], str)
