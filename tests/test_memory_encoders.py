"""Encoders with memory: the step against plain models, a hand-unrolled loop, padding, BPTT, saving."""

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertConfig,
    GPT2Config,
    ModernBertConfig,
    RobertaConfig,
)

from rmtkit.memory import RMTConfig, RMTForMaskedLM, RMTForSequenceClassification, RMTForTokenClassification

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CLS, SEP, PAD = 1, 2, 0
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
         "max_position_embeddings": 32, "initializer_range": 0.3, "pad_token_id": PAD, "num_labels": 3}  # fmt: skip
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
ENCODERS = {
    "bert": (BertConfig, {**SIZES, **NO_DROPOUT}),
    "roberta": (RobertaConfig, {**SIZES, **NO_DROPOUT}),
    "modernbert": (
        ModernBertConfig,
        {**SIZES, "initializer_cutoff_factor": 3.0, "local_attention": 6, "global_attn_every_n_layers": 2,
         "cls_token_id": CLS, "sep_token_id": SEP, "bos_token_id": CLS, "eos_token_id": SEP},
    ),
}  # fmt: skip
MODELS = (RMTForSequenceClassification, RMTForTokenClassification, RMTForMaskedLM)
AUTO = (AutoModelForSequenceClassification, AutoModelForTokenClassification, AutoModelForMaskedLM)


@pytest.fixture(params=list(ENCODERS))
def name(request):
    """Each of the three encoders in turn."""
    return request.param


@pytest.fixture(params=MODELS, ids=lambda each: each.__name__)
def model_class(request):
    """Each of the three kinds of heads in turn."""
    return request.param


def make(model_class, name="bert", *, attention="sdpa", **settings):
    config_class, sizes = ENCODERS[name]
    torch.manual_seed(0)
    backbone = model_class.auto_class.from_config(config_class(**sizes), attn_implementation=attention).eval()
    given = {"num_memory_tokens": 3, "segment_size": 5, "cls_token_id": CLS, "sep_token_id": SEP, **settings}
    return model_class.from_backbone(backbone, **given)


def tokens_of(batch_size, num_tokens, seed=2):
    return torch.randint(3, 40, (batch_size, num_tokens), generator=torch.Generator().manual_seed(seed))


def labels_of(model_class, tokens):
    if model_class is RMTForSequenceClassification:
        return tokens[:, 0] % 3
    labels = tokens if model_class is RMTForMaskedLM else tokens % 3
    return labels.masked_fill(tokens % 2 == 0, -100)


def slow_step(model, segment, state):
    """Compute a step with a list of embeddings and no mask; body and head run one after the other."""
    embed, b = model.backbone.get_input_embeddings(), len(segment)
    cls, sep = (embed(torch.full((b, 1), token)) for token in (CLS, SEP))
    inputs, m = torch.cat([cls, state, sep, embed(segment), sep], dim=1), state.shape[1]
    hidden = model.backbone.base_model(inputs_embeds=inputs).last_hidden_state
    logits = model.backbone(inputs_embeds=inputs).logits
    return logits if logits.ndim == 2 else logits[:, m + 2 : -1], hidden[:, 1 : 1 + m]


def slow_run(model, tokens, *, cut_before=()):
    """Run 18 tokens in 4 segments: of 5, 5, 5, 3 tokens, or 3, 5, 5, 5 for the class of the sample."""
    is_right = isinstance(model, RMTForSequenceClassification)
    state, logits = model.memory.expand(len(tokens), -1, -1), []
    for index, segment in enumerate(tokens.split([3, 5, 5, 5] if is_right else [5, 5, 5, 3], dim=1)):
        state = state.detach() if index in cut_before else state
        segment_logits, state = slow_step(model, segment, state)
        logits.append(segment_logits)
    return logits[-1] if is_right else torch.cat(logits, dim=1), state


def slow_loss(model, tokens, labels, **options):
    logits, _ = slow_run(model, tokens, **options)
    return functional.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def backward(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected):
    assert expected["memory"].abs().max() > 0 and set(expected) == set(found)
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], **CLOSE, msg=name)


def test_forward_without_memory_equals_backbone_bit_for_bit(model_class, name):
    model, tokens = make(model_class, name, num_memory_tokens=0, segment_size=12), tokens_of(2, 12)
    ends = torch.full((2, 1), CLS), torch.full((2, 1), SEP)
    plain = model.backbone(torch.cat([ends[0], tokens, ends[1]], dim=1)).logits
    assert torch.equal(model(tokens).logits, plain if plain.ndim == 2 else plain[:, 1:-1])


@pytest.mark.parametrize("is_recomputed", [False, True])
def test_forward_equals_unrolled_loop(model_class, name, is_recomputed):
    model, tokens = make(model_class, name, segment_checkpointing=is_recomputed), tokens_of(2, 18)
    labels = labels_of(model_class, tokens)
    torch.testing.assert_close(model(tokens).logits, slow_run(model, tokens)[0], **CLOSE)
    torch.testing.assert_close(model(tokens).memory, slow_run(model, tokens)[1], **CLOSE)
    expected = backward(model, slow_loss(model, tokens, labels))
    model.train()
    assert_same_gradients(backward(model, model(tokens, labels=labels).loss), expected)


def test_bfloat16_equals_unrolled_loop_within_its_rounding(model_class, name):
    tokens = tokens_of(2, 18)
    labels = labels_of(model_class, tokens)
    with torch.no_grad():
        exact = slow_loss(make(model_class, name), tokens, labels)
        model = make(model_class, name).to(torch.bfloat16)
        slow, found = slow_loss(model, tokens, labels), model(tokens, labels=labels).loss
    assert abs(found - slow) <= 0.02 * exact and abs(found - exact) <= 0.05 * exact


@pytest.mark.parametrize("depth", [2, 3])
def test_bptt_depth_cuts_the_segments_before_it(model_class, depth):
    model, tokens = make(model_class, bptt_depth=depth), tokens_of(2, 18)
    labels = labels_of(model_class, tokens)
    start = model.initial_memory(2).detach().requires_grad_()
    found = backward(model, model(tokens, labels=labels).loss)
    expected = backward(model, slow_loss(model, tokens, labels, cut_before=range(1, 5 - depth)))
    for name, grad in found.items():
        torch.testing.assert_close(grad, expected[name], **CLOSE)
    if model_class is RMTForSequenceClassification:
        assert not torch.autograd.grad(model(tokens, labels=labels, state=start).loss, start, allow_unused=True)[0]


def test_segment_checkpointing_recomputes(model_class, monkeypatch):
    model, calls = make(model_class, segment_checkpointing=True).train(), []
    step, tokens = model.step, tokens_of(4, 15)
    monkeypatch.setattr(model, "step", lambda *a, **k: calls.append(1) or step(*a, **k))
    model(tokens, labels=labels_of(model_class, tokens)).loss.backward()
    assert len(calls) == 6
    assert not model.backbone.base_model._forward_hooks


def test_loss_is_divided_by_the_number_of_items_given(model_class):
    model, tokens = make(model_class), tokens_of(4, 12)
    labels = labels_of(model_class, tokens)
    num_labels = int((labels != -100).sum())
    expected = model(tokens, labels=labels).loss * num_labels / 50
    torch.testing.assert_close(model(tokens, labels=labels, num_items_in_batch=50).loss, expected, **CLOSE)


def test_forward_without_any_label_raises():
    tokens = tokens_of(2, 7)
    with pytest.raises(ValueError, match="no target"):
        make(RMTForMaskedLM)(tokens, labels=torch.full_like(tokens, -100))


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("side", ["left", "right", "anywhere"])
def test_forward_of_a_mixed_batch_equals_its_rows_alone(model_class, name, side, attention):
    model, lengths = make(model_class, name, attention=attention), (13, 10, 4, 1)
    rows = [tokens_of(1, length, seed=length) for length in lengths]
    mask = torch.stack([torch.arange(14) < length for length in lengths]).long()
    mask = {"left": mask.flip(1), "right": mask, "anywhere": torch.stack([row.roll(3) for row in mask])}[side]
    padded = tokens_of(4, 14, seed=9)
    padded[mask.bool()] = torch.cat([row[0] for row in rows])
    together = model(padded, attention_mask=mask)
    for index, row in enumerate(rows):
        alone, logits = model(row), together.logits[index]
        found = logits if logits.ndim == 1 else logits[mask[index].bool()]
        torch.testing.assert_close(found, alone.logits[0], **CLOSE)
        torch.testing.assert_close(together.memory[index], alone.memory[0], **CLOSE)


def test_loss_does_not_see_padding(model_class):
    model, tokens = make(model_class), tokens_of(2, 13)
    labels, pads = labels_of(model_class, tokens), tokens_of(2, 4, seed=8)
    mask = torch.cat([torch.zeros_like(pads), torch.ones_like(tokens)], dim=1)
    padded_labels = labels if labels.ndim == 1 else torch.cat([torch.full_like(pads, -100), labels], dim=1)
    padded = model(torch.cat([pads, tokens], dim=1), attention_mask=mask, labels=padded_labels)
    torch.testing.assert_close(padded.loss, model(tokens, labels=labels).loss, **CLOSE)


def test_step_of_padding_alone_keeps_memory(model_class, name):
    model, tokens = make(model_class, name), tokens_of(2, 5)
    state = model.step(tokens_of(2, 5, seed=5))[1]
    _, memory = model.step(tokens, state, attention_mask=torch.tensor([[1] * 5, [0] * 5]))
    assert torch.equal(memory[1], state[1])
    torch.testing.assert_close(memory[:1], model.step(tokens[:1], state[:1])[1], **CLOSE)


@pytest.mark.parametrize("num_tokens", [4, 10, 13])
def test_read_equals_forward(model_class, num_tokens):
    model, tokens = make(model_class), tokens_of(2, num_tokens)
    expected = model(tokens).memory
    torch.testing.assert_close(model.read(tokens.numpy().astype(np.uint16)), expected, **CLOSE)
    padded = torch.cat([tokens, tokens_of(2, 6)], dim=1)
    mask = (torch.arange(num_tokens + 6) < num_tokens).long().expand(2, -1)
    torch.testing.assert_close(model.read(padded, attention_mask=mask), expected, **CLOSE)


def test_read_and_the_last_segment_equal_the_whole_sample():
    model, tokens = make(RMTForSequenceClassification), tokens_of(2, 13)
    state = model.read(tokens[:, :8])
    torch.testing.assert_close(model(tokens[:, 8:], state=state).logits, model(tokens).logits, **CLOSE)


# ---------------------------------------------------------------- wrapping, saving, loading


@pytest.mark.parametrize("index", range(3))
@pytest.mark.parametrize("is_auto", [False, True])
def test_save_and_load_gives_the_same_model(name, index, is_auto, tmp_path):
    model, tokens = make(MODELS[index], name, bptt_depth=2), tokens_of(2, 13)
    model.save_pretrained(tmp_path)
    load = (AUTO if is_auto else MODELS)[index].from_pretrained
    loaded, info = load(tmp_path, output_loading_info=True)
    assert type(loaded) is MODELS[index] and not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert (loaded.config.cls_token_id, loaded.config.bptt_depth) == (CLS, 2)
    if index == 2:
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_from_backbone_takes_a_folder(model_class, name, tmp_path):
    backbone = make(model_class, name).backbone
    backbone.save_pretrained(tmp_path)
    model = model_class.from_backbone(tmp_path, num_memory_tokens=2, segment_size=4)
    assert torch.equal(model.get_input_embeddings().weight, backbone.get_input_embeddings().weight)


def test_config_keeps_the_names_of_the_classes(tmp_path):
    config = BertConfig(vocab_size=40, id2label={0: "office", 1: "garden", 2: "hallway"})
    RMTConfig(config, segment_size=5, num_memory_tokens=1).save_pretrained(tmp_path)
    assert RMTConfig.from_pretrained(tmp_path).id2label == {0: "office", 1: "garden", 2: "hallway"}


def test_from_backbone_refuses_a_decoder():
    config = GPT2Config(vocab_size=40, n_embd=16, n_layer=1, n_head=2, n_positions=32)
    with pytest.raises(ValueError, match="is no encoder"):
        RMTForSequenceClassification.from_backbone(AutoModelForSequenceClassification.from_config(config))


@pytest.mark.parametrize("segment_size, is_allowed", [(26, True), (27, False)])
def test_segments_may_fill_the_positions_of_the_backbone(model_class, segment_size, is_allowed):
    """32 positions: 3 memory tokens, CLS and two SEP leave 26; the authors' 499 + 10 + 3 tokens fill BERT's 512."""
    if is_allowed:
        model = make(model_class, segment_size=segment_size)
        assert model(tokens_of(1, segment_size)).logits.isfinite().all()
    else:
        with pytest.raises(ValueError, match="segments of at most 26 tokens"):
            make(model_class, segment_size=segment_size)


def test_positions_of_roberta_begin_behind_those_of_padding():
    model = make(RMTForMaskedLM, "roberta", segment_size=25)
    assert model(tokens_of(1, 25)).logits.isfinite().all()
    with pytest.raises(ValueError, match="smaller by 1"):
        make(RMTForMaskedLM, "roberta", segment_size=26)


def test_attentions_cover_all_positions(name):
    model = make(RMTForSequenceClassification, name, attention="eager")
    attentions = model.step(tokens_of(1, 5), output_attentions=True)[0].attentions
    assert [tuple(layer.shape) for layer in attentions] == [(1, 2, 11, 11)] * 2


def test_step_without_cls_and_sep_reads_memory_and_text():
    model = make(RMTForSequenceClassification, "bert", attention="eager", cls_token_id=None, sep_token_id=None)
    output, memory = model.step(tokens_of(1, 5), output_attentions=True)
    assert output.attentions[0].shape[-1] == 8 and memory.shape == (1, 3, 16)
