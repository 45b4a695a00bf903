"""Every decoder of the README's table: equal to the plain model without memory, and to a loop written out by hand."""

import pytest
import torch
from model_types import DECODERS, VOCAB_SIZE, WITHOUT_SDPA, make_decoder
from torch.nn import functional

from rmtkit.memory import RMTForCausalLM

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
SIZE = 5  # tokens of a segment


@pytest.fixture(params=list(DECODERS))
def model_type(request):
    """Each model type in turn."""
    return request.param


def make_model(model_type, *, attention="sdpa", dtype=torch.float32, **settings):
    backbone = make_decoder(model_type, attention=attention).to(dtype)
    model = RMTForCausalLM.from_backbone(backbone, **{"num_memory_tokens": 3, "segment_size": SIZE, **settings})
    model.reset_memory(torch.Generator().manual_seed(1))
    return model.eval()


def make_tokens(batch_size, num_tokens, *, seed=2):
    return torch.randint(1, VOCAB_SIZE, (batch_size, num_tokens), generator=torch.Generator().manual_seed(seed))


def unrolled_loss(model, tokens):
    """Compute the loss over four segments with nothing but the plain causal LM and its outputs."""
    backbone, m, state, logits = model.backbone, len(model.memory), model.memory.expand(len(tokens), -1, -1), []
    for segment in tokens.split(SIZE, dim=1):
        inputs = torch.cat([state, backbone.get_input_embeddings()(segment), state], dim=1)
        output = backbone(inputs_embeds=inputs, use_cache=False, output_hidden_states=True)
        logits.append(output.logits[:, m : m + segment.shape[1]])
        state = output.hidden_states[-1][:, m + segment.shape[1] :]
    logits = torch.cat(logits, dim=1)
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_model_without_memory_equals_the_plain_model_bit_for_bit(model_type):
    model, tokens = make_model(model_type, num_memory_tokens=0, segment_size=12), make_tokens(2, 12)
    assert torch.equal(model(tokens).logits, model.backbone(tokens, use_cache=False).logits)


def test_loss_and_gradients_equal_the_unrolled_loop(model_type):
    model, tokens = make_model(model_type), make_tokens(2, 18)
    slow = unrolled_loss(model, tokens)
    expected = gradients(model, slow)
    loss = model(tokens, labels=tokens).loss
    torch.testing.assert_close(loss, slow, **CLOSE)
    found = gradients(model, loss)
    model.train()
    model.config.segment_checkpointing = True
    recomputed = gradients(model, model(tokens, labels=tokens).loss)
    assert expected["memory"].abs().max() > 0
    for name, gradient in expected.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5 * float(scale) + 1e-7)
        torch.testing.assert_close(recomputed[name], found[name], rtol=1e-3, atol=1e-5 * float(scale) + 1e-7)


def test_bfloat16_equals_the_unrolled_loop_within_its_rounding(model_type):
    model, tokens = make_model(model_type, dtype=torch.bfloat16), make_tokens(2, 18)
    with torch.no_grad():
        exact = unrolled_loss(make_model(model_type), tokens)
        slow, found = unrolled_loss(model, tokens), model(tokens, labels=tokens).loss
    assert abs(found - slow) <= 0.02 * exact and abs(found - exact) <= 0.05 * exact


def test_batches_and_padding_change_nothing(model_type):
    model, lengths = make_model(model_type), (13, 10, 4)
    rows = [make_tokens(1, length, seed=length) for length in lengths]
    for is_left in (False, True):
        mask = torch.stack([torch.arange(13) < length for length in lengths])
        mask = mask.flip(1) if is_left else mask
        tokens = make_tokens(3, 13, seed=9)
        tokens[mask] = torch.cat([row[0] for row in rows])
        output = model(tokens, attention_mask=mask.long())
        for number, row in enumerate(rows):
            alone = model(row)
            torch.testing.assert_close(output.logits[number][mask[number]], alone.logits[0], **CLOSE)
            torch.testing.assert_close(output.memory[number], alone.memory[0], **CLOSE)


def with_other_attention(model_type, attention):
    model, tokens = make_model(model_type), make_tokens(2, 13)
    with torch.no_grad():
        expected = model(tokens).logits
        model.set_attn_implementation(attention)
        return model(tokens).logits, expected


@pytest.mark.parametrize("model_type", [name for name in DECODERS if name not in WITHOUT_SDPA])
def test_eager_attention_equals_sdpa(model_type):
    torch.testing.assert_close(*with_other_attention(model_type, "eager"), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])  # each takes seconds to compile
def test_flex_attention_equals_sdpa(model_type):
    torch.testing.assert_close(*with_other_attention(model_type, "flex_attention"), rtol=1e-3, atol=1e-4)


def test_generate_equals_tokens_from_scratch(model_type):
    model, tokens = make_model(model_type), make_tokens(2, 8)
    found = model.generate(tokens, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    for _ in range(9):
        tokens = torch.cat([tokens, model(tokens).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, tokens)


def test_save_and_load_gives_the_same_model(model_type, tmp_path):
    model, tokens = make_model(model_type), make_tokens(2, 13)
    model.save_pretrained(tmp_path)
    loaded = RMTForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
