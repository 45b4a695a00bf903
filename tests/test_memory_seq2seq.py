"""Encoder-decoders with memory: plain models, a hand-unrolled loop, padding, generation, saving."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, BartConfig, BertConfig, BertModel, T5Config
from transformers.modeling_outputs import BaseModelOutput

from rmtkit.memory import RMTForSeq2SeqLM

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
NEAR = {"rtol": 1e-3, "atol": 3e-4}  # T5 does not scale its scores: rounding is amplified over segments
IDS = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "d_model": 16}
CONFIGS = {
    "t5": (T5Config, {**IDS, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "dropout_rate": 0.0,
                      "decoder_start_token_id": 0, "initializer_factor": 2.0}),
    "bart": (BartConfig, {**IDS, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
                          "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "dropout": 0.0,
                          "max_position_embeddings": 32, "init_std": 0.3, "decoder_start_token_id": 1,
                          "bos_token_id": 2, "forced_eos_token_id": None, "scale_embedding": True}),
}  # fmt: skip
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "num_beams": 1}


@pytest.fixture(params=list(CONFIGS))
def name(request):
    """Each of the two encoder-decoders in turn."""
    return request.param


def make(name="t5", *, attention="eager", **settings):
    config_class, sizes = CONFIGS[name]
    torch.manual_seed(0)
    backbone = AutoModelForSeq2SeqLM.from_config(config_class(**sizes), attn_implementation=attention).eval()
    return RMTForSeq2SeqLM.from_backbone(backbone, **{"num_memory_tokens": 3, "segment_size": 5, **settings})


def tokens_of(batch_size, num_tokens, seed=2):
    return torch.randint(3, 40, (batch_size, num_tokens), generator=torch.Generator().manual_seed(seed))


def start_with(model, labels):
    """Shift the answer to the right: the decoder's start token first."""
    return functional.pad(labels[:, :-1], (1, 0), value=model.backbone.config.decoder_start_token_id)


def slow_encode(model, tokens, *, cut_before=()):
    """Read 18 tokens in 4 segments of 3, 5, 5, 5; return what the decoder sees."""
    state, encoder = model.memory.expand(len(tokens), -1, -1), model.backbone.get_encoder()
    first = (tokens.shape[1] - 1) % 5 + 1
    for index, segment in enumerate(tokens.split([first] + [5] * ((tokens.shape[1] - first) // 5), dim=1)):
        state = state.detach() if index in cut_before else state
        inputs = torch.cat([state, encoder.get_input_embeddings()(segment)], dim=1)
        hidden = encoder(inputs_embeds=inputs).last_hidden_state
        state = hidden[:, : state.shape[1]]
    return BaseModelOutput(last_hidden_state=hidden)


def slow_loss(model, tokens, labels, **options):
    encoded = slow_encode(model, tokens, **options)
    logits = model.backbone(encoder_outputs=encoded, decoder_input_ids=start_with(model, labels)).logits
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten())


def slow_greedy(model, tokens, num_new):
    """Answer greedily, each token from scratch and without a cache."""
    answer = torch.full((len(tokens), 1), model.backbone.config.decoder_start_token_id)
    for _ in range(num_new):
        logits = model.backbone(encoder_outputs=slow_encode(model, tokens), decoder_input_ids=answer).logits
        answer = torch.cat([answer, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return answer


def backward(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_forward_without_memory_equals_backbone_bit_for_bit(name):
    model, tokens, labels = make(name, num_memory_tokens=0, segment_size=12), tokens_of(2, 12), tokens_of(2, 4)
    plain = model.backbone(tokens, attention_mask=torch.ones_like(tokens), labels=labels)
    found = model(tokens, labels=labels)
    assert torch.equal(found.logits, plain.logits)
    torch.testing.assert_close(found.loss, plain.loss)


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_forward_equals_unrolled_loop(name, is_recomputed):
    model, tokens, labels = make(name, segment_checkpointing=is_recomputed), tokens_of(2, 18), tokens_of(2, 4)
    loss = slow_loss(model, tokens, labels)
    expected = backward(model, loss)
    model.train()
    output = model(tokens, labels=labels)
    torch.testing.assert_close(output.loss, loss, **CLOSE)
    found = backward(model, output.loss)
    assert set(found) == set(expected) and expected["memory"].abs().max() > 0
    for parameter, grad in found.items():
        torch.testing.assert_close(grad, expected[parameter], **CLOSE, msg=parameter)


def test_bfloat16_equals_unrolled_loop_within_its_rounding(name):
    tokens, labels = tokens_of(2, 18), tokens_of(2, 4)
    with torch.no_grad():
        exact = slow_loss(make(name), tokens, labels)
        model = make(name).to(torch.bfloat16)
        slow, found = slow_loss(model, tokens, labels), model(tokens, labels=labels).loss
    assert abs(found - slow) <= 0.02 * exact and abs(found - exact) <= 0.05 * exact


def test_bptt_depth_cuts_the_segments_before_it(name):
    model, tokens, labels = make(name, bptt_depth=2), tokens_of(2, 18), tokens_of(2, 4)
    found = backward(model, model(tokens, labels=labels).loss)
    expected = backward(model, slow_loss(model, tokens, labels, cut_before=(1, 2)))
    assert "memory" not in found
    for parameter, grad in found.items():
        torch.testing.assert_close(grad, expected[parameter], **CLOSE)


def test_segment_checkpointing_recomputes(monkeypatch):
    model, calls = make(segment_checkpointing=True).train(), []
    step = model.step
    monkeypatch.setattr(model, "step", lambda *a, **k: calls.append(1) or step(*a, **k))
    model(tokens_of(1, 15), labels=tokens_of(1, 3)).loss.backward()
    assert len(calls) == 6


def test_loss_takes_given_labels_only_and_the_number_of_items(name):
    model, tokens, labels = make(name), tokens_of(2, 13), tokens_of(2, 4)
    labels[1, 2:] = -100
    logits = model(tokens, labels=labels).logits
    expected = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")
    torch.testing.assert_close(model(tokens, labels=labels).loss, expected / 6, **CLOSE)
    torch.testing.assert_close(model(tokens, labels=labels, num_items_in_batch=50).loss, expected / 50, **CLOSE)


# ---------------------------------------------------------------- padding and generation


def mixed_batch(side):
    """Rows of 13, 10, 4 and 1 tokens, and the same in a batch with random padding."""
    lengths = (13, 10, 4, 1)
    rows = [tokens_of(1, length, seed=length) for length in lengths]
    mask = torch.stack([torch.arange(14) < length for length in lengths]).long()
    mask = {"left": mask.flip(1), "right": mask, "anywhere": torch.stack([row.roll(3) for row in mask])}[side]
    padded = tokens_of(4, 14, seed=9)
    padded[mask.bool()] = torch.cat([row[0] for row in rows])
    return rows, padded, mask


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right", "anywhere"])
def test_forward_of_a_mixed_batch_equals_its_rows_alone(name, side, attention):
    model, labels = make(name, attention=attention), tokens_of(1, 4)
    rows, padded, mask = mixed_batch(side)
    together = model(padded, attention_mask=mask, labels=labels.expand(4, -1))
    for index, row in enumerate(rows):
        alone = model(row, labels=labels)
        torch.testing.assert_close(together.logits[index], alone.logits[0], **NEAR)
        torch.testing.assert_close(together.memory[index], alone.memory[0], **NEAR)


@pytest.mark.parametrize("side", ["left", "right", "anywhere"])
def test_generate_of_several_lengths_equals_each_alone(name, side):
    model = make(name)
    rows, padded, mask = mixed_batch(side)
    found = model.generate(padded, attention_mask=mask, **GREEDY)
    for row, new in zip(rows, found, strict=True):
        assert torch.equal(new, slow_greedy(model, row, 6)[0])


@pytest.mark.parametrize("num_tokens", [3, 5, 13])
def test_generate_equals_full_recomputation(name, num_tokens):
    model, tokens = make(name), tokens_of(2, num_tokens)
    found = model.generate(tokens.numpy().astype(np.uint16), **GREEDY)
    assert torch.equal(found, slow_greedy(model, tokens, 6))
    assert len({tuple(row) for row in found.tolist()}) == 2


def test_generate_from_state_equals_generate_from_the_start(name):
    model, tokens = make(name), tokens_of(2, 13)
    state = model.read(tokens[:, :8])
    assert torch.equal(model.generate(tokens[:, 8:], state=state, **GREEDY), model.generate(tokens, **GREEDY))


def test_generate_with_beams_keeps_rows_apart(name):
    model, tokens = make(name), tokens_of(2, 13)
    options = {**GREEDY, "num_beams": 3}
    assert torch.equal(model.generate(tokens, **options)[1:], model.generate(tokens[1:], **options))


def test_step_of_padding_alone_keeps_memory(name):
    model, tokens = make(name), tokens_of(2, 5)
    state = model.step(tokens_of(2, 5, seed=5))[1]
    _, memory = model.step(tokens, state, attention_mask=torch.tensor([[1] * 5, [0] * 5]))
    assert torch.equal(memory[1], state[1])
    torch.testing.assert_close(memory[:1], model.step(tokens[:1], state[:1])[1], **CLOSE)


# ---------------------------------------------------------------- wrapping, saving, loading


@pytest.mark.parametrize("load", [RMTForSeq2SeqLM.from_pretrained, AutoModelForSeq2SeqLM.from_pretrained])
def test_save_and_load_gives_the_same_model(name, load, tmp_path):
    model, tokens, labels = make(name), tokens_of(2, 13), tokens_of(2, 4)
    model.save_pretrained(tmp_path)
    loaded, info = load(tmp_path, attn_implementation="eager", output_loading_info=True)
    assert type(loaded) is RMTForSeq2SeqLM and not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded(tokens, labels=labels).logits, model(tokens, labels=labels).logits)
    assert torch.equal(loaded.generate(tokens, **GREEDY), model.generate(tokens, **GREEDY))
    assert loaded.get_input_embeddings().weight is loaded.backbone.get_input_embeddings().weight


def test_save_and_load_keeps_the_settings_of_generation(name, tmp_path):
    backbone = make(name).backbone
    backbone.generation_config.max_new_tokens = 2
    backbone.save_pretrained(tmp_path / "backbone")
    model = RMTForSeq2SeqLM.from_backbone(tmp_path / "backbone", num_memory_tokens=2, segment_size=5)
    model.save_pretrained(tmp_path / "model")
    loaded = RMTForSeq2SeqLM.from_pretrained(tmp_path / "model")
    assert loaded.generate(tokens_of(1, 8), do_sample=False, eos_token_id=None).shape == (1, 3)


def test_from_backbone_refuses_an_encoder():
    backbone = BertModel(BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match="is no encoder-decoder"):
        RMTForSeq2SeqLM.from_backbone(backbone)


def test_segments_may_fill_the_positions_of_the_backbone():
    model = make("bart", segment_size=29)
    assert model(tokens_of(1, 29), labels=tokens_of(1, 2)).logits.isfinite().all()
    with pytest.raises(ValueError, match="segments of at most 29 tokens"):
        make("bart", segment_size=30)
