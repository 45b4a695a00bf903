"""The model as a Hugging Face model: configuration, saving, streaming, generation."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, CohereConfig, Gemma2Config, LlamaConfig

from rmtkit.memory import RMTConfig, RMTForCausalLM

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def next_logits(model, input_ids, *, size=5):
    """Compute the logits (b, v) of the next token from scratch: whole segments, then [memory; rest], no cache."""
    whole, state = (input_ids.shape[1] - 1) // size * size, model.initial_memory(len(input_ids))
    for start in range(0, whole, size):
        _, state = model.step(input_ids[:, start : start + size], state)
    embeddings = torch.cat([state, model.get_input_embeddings()(input_ids[:, whole:])], dim=1)
    return model.backbone(inputs_embeds=embeddings, use_cache=False).logits[:, -1]


def greedy(model, input_ids, num_new):
    """Continue greedily, each token from scratch."""
    for _ in range(num_new):
        input_ids = torch.cat([input_ids, next_logits(model, input_ids).argmax(-1, keepdim=True)], dim=1)
    return input_ids


# ---------------------------------------------------------------- streaming


@pytest.mark.parametrize("num_tokens", [4, 10, 13])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int64])
def test_read_of_numpy_tokens_equals_forward(make_model, make_tokens, dtype, num_tokens):
    model, tokens = make_model(), make_tokens(2, num_tokens)
    torch.testing.assert_close(model.read(tokens.numpy().astype(dtype)), model(tokens).memory, **CLOSE)


def test_read_takes_a_memory_mapped_file_without_warning(make_model, make_tokens, tmp_path, recwarn):
    model, tokens = make_model(), make_tokens(1, 13)
    tokens.numpy().astype(np.uint16).tofile(tmp_path / "tokens.bin")
    mapped = np.memmap(tmp_path / "tokens.bin", dtype=np.uint16, mode="r")[None]
    torch.testing.assert_close(model.read(mapped), model(tokens).memory, **CLOSE)
    assert not [warning for warning in recwarn if "writable" in str(warning.message)]


def test_read_in_pieces_equals_whole(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 13)
    state = model.read(tokens[:, :10])
    torch.testing.assert_close(model.read(tokens[:, 10:], state), model.read(tokens), **CLOSE)


def test_read_with_padding_equals_forward(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 13)
    mask = torch.tensor([[1] * 13, [1] * 4 + [0] * 9])
    found = model.read(tokens, attention_mask=mask)
    torch.testing.assert_close(found, model(tokens, attention_mask=mask).memory, **CLOSE)
    torch.testing.assert_close(found[1:], model.read(tokens[1:, :4]), **CLOSE)


def test_read_of_nothing_returns_the_state(make_model, make_tokens):
    model, nothing = make_model(), make_tokens(2, 0)
    state = model.initial_memory(2)
    assert model.read(nothing, state) is state
    assert model.read(nothing) is None


def test_read_memory_takes_a_gradient(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(1, 8)
    state = model.read(tokens).requires_grad_()
    model(tokens, labels=tokens, state=state).loss.backward()
    assert state.grad.abs().sum() > 0


# ---------------------------------------------------------------- generation


@pytest.mark.parametrize("num_tokens", [3, 5, 10, 13])
def test_generate_equals_full_recomputation(architecture, make_model, make_tokens, num_tokens):
    model, tokens = make_model(architecture), make_tokens(2, num_tokens)
    found = model.generate(tokens, max_new_tokens=13, do_sample=False, eos_token_id=None)
    assert torch.equal(found, greedy(model, tokens, 13))


def test_generate_without_memory_tokens_reads_the_last_segment(make_model, make_tokens):
    model, tokens = make_model(num_memory_tokens=0), make_tokens(2, 8)
    found = model.generate(tokens, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert torch.equal(found, greedy(model, tokens, 3))


def test_generate_from_state_equals_generate_from_the_start(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(2, 13)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    found = model.generate(tokens[:, 10:], state=model.read(tokens[:, :10]), **options)
    assert torch.equal(found[:, 3:], model.generate(tokens, **options)[:, 13:])


def test_generate_of_uint16_equals_generate_of_int64(make_model, make_tokens):
    model, tokens = make_model(), make_tokens(1, 8)
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(model.generate(tokens.numpy().astype(np.uint16), **options), model.generate(tokens, **options))


@pytest.mark.parametrize("side", ["left", "right", "anywhere"])
def test_generate_of_several_lengths_equals_each_alone(architecture, make_model, make_tokens, side):
    model, lengths = make_model(architecture), (13, 10, 4, 1)
    rows = [make_tokens(1, length, seed=length) for length in lengths]
    mask = torch.stack([torch.arange(13) < length for length in lengths]).long()
    mask = {"left": mask.flip(1), "right": mask, "anywhere": torch.stack([row.roll(3) for row in mask])}[side]
    padded = torch.zeros_like(mask)
    padded[mask.bool()] = torch.cat([row[0] for row in rows])
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(padded, attention_mask=mask, **options)[:, 13:]
    for row, new in zip(rows, found, strict=True):
        assert torch.equal(new, model.generate(row, **options)[0, row.shape[1] :])


# ---------------------------------------------------------------- wrapping, saving, loading


def test_from_backbone_keeps_weights_and_mode(architecture, make_backbone):
    backbone = make_backbone(architecture)
    weights = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=4)
    assert model.backbone is backbone and not model.training
    assert all(torch.equal(tensor, weights[name]) for name, tensor in backbone.state_dict().items())
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])


def test_from_backbone_in_training_keeps_dropout(make_backbone):
    backbone = make_backbone(resid_pdrop=0.5).train()
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=4)
    assert model.training and backbone.training


def test_from_backbone_takes_a_folder(make_backbone, tmp_path):
    backbone = make_backbone("llama")
    backbone.save_pretrained(tmp_path)
    model = RMTForCausalLM.from_backbone(tmp_path, num_memory_tokens=2, segment_size=4)
    assert torch.equal(model.get_input_embeddings().weight, backbone.get_input_embeddings().weight)


def test_from_backbone_draws_memory_in_the_backbone_dtype(architecture, make_backbone, make_tokens):
    backbone = make_backbone(architecture, dtype=torch.bfloat16)
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=4)
    assert model.memory.dtype is torch.bfloat16
    assert model(make_tokens(1, 6)).memory.dtype is torch.bfloat16


@pytest.mark.parametrize("config_class", [Gemma2Config, CohereConfig])
def test_from_backbone_refuses_a_head_with_scaled_logits(config_class):
    config = config_class(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1, head_dim=8,
        intermediate_size=16, pad_token_id=0, bos_token_id=0, eos_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    with pytest.raises(ValueError, match="output of its head"):
        RMTForCausalLM.from_backbone(AutoModelForCausalLM.from_config(config), segment_size=4)


def test_reset_memory_has_the_spread_of_the_embeddings(make_model):
    model = make_model(num_memory_tokens=16, segment_size=8)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(7.0)
    model.reset_memory(torch.Generator().manual_seed(0))
    ratio = model.memory.std() / model.get_input_embeddings().weight.std()
    assert 0.8 < ratio < 1.2


def test_reset_memory_depends_on_its_generator_only(make_model):
    drawn = []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        model = make_model()
        torch.manual_seed(noise)
        model.reset_memory(torch.Generator().manual_seed(seed))
        drawn.append(model.memory.detach().clone())
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[1], drawn[2])


def test_extend_memory_keeps_what_is_there_and_draws_more_of_the_same_spread(make_model, make_tokens, tmp_path):
    model = make_model(num_memory_tokens=3)
    with torch.no_grad():
        model.memory.mul_(7.0)
    before = model.memory.detach().clone()
    model.extend_memory(20, torch.Generator().manual_seed(0))
    assert model.memory.requires_grad and model.config.num_memory_tokens == 20
    assert torch.equal(model.memory[:3], before)
    assert 0.8 < model.memory[3:].std() / before.std() < 1.2
    tokens = make_tokens(2, 12)
    memory = model.read(tokens)
    assert memory.shape == (2, 20, model.memory.shape[1])
    model.save_pretrained(tmp_path)
    assert torch.equal(RMTForCausalLM.from_pretrained(tmp_path).eval().read(tokens), memory)


@pytest.mark.parametrize(
    "now, wanted, message",
    [(3, 2, "from 3 to 2: expected 3 or more"), (0, 4, "from 0 to 4: the model has"), (3, 30, "positions")],
)
def test_extend_memory_refuses_what_cannot_be_and_leaves_the_model(make_model, now, wanted, message):
    model = make_model(num_memory_tokens=now, n_positions=32)
    with pytest.raises(ValueError, match=message):
        model.extend_memory(wanted)
    assert len(model.memory) == model.config.num_memory_tokens == now


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("load", [RMTForCausalLM.from_pretrained, AutoModelForCausalLM.from_pretrained])
def test_save_and_load_gives_the_same_model(architecture, make_model, make_tokens, tmp_path, load, dtype):
    model, tokens = make_model(architecture, dtype=dtype, bptt_depth=2), make_tokens(2, 13)
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert type(loaded) is RMTForCausalLM and loaded.dtype is loaded.memory.dtype is dtype
    assert torch.equal(loaded.memory, model.memory)
    assert torch.equal(loaded(tokens).logits, model(tokens).logits)
    assert loaded.config.bptt_depth == 2


def test_save_and_load_keeps_weights_tied(make_model, tmp_path):
    make_model("gpt2").save_pretrained(tmp_path)
    loaded = RMTForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


@pytest.mark.parametrize("is_tied", [True, False])
def test_save_and_load_keeps_the_tying_of_any_backbone(make_backbone, make_tokens, tmp_path, is_tied):
    backbone = make_backbone("llama", tie_word_embeddings=is_tied)
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=4)
    model.save_pretrained(tmp_path)
    loaded, info = RMTForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == is_tied
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert torch.equal(loaded(make_tokens(1, 6)).logits, model(make_tokens(1, 6)).logits)


def test_load_initialises_only_what_is_missing(make_model, tmp_path):
    model = make_model("llama")
    weights = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith("norm.weight")}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = RMTForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.memory, model.memory)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


def test_load_draws_memory_that_is_missing(make_model, tmp_path):
    model = make_model("llama")
    weights = {name: tensor for name, tensor in model.state_dict().items() if name != "memory"}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = RMTForCausalLM.from_pretrained(tmp_path)
    assert loaded.memory.isfinite().all() and 0.1 < loaded.memory.std() < 1


def test_load_with_eager_attention_returns_attention_maps(architecture, make_model, make_tokens, tmp_path):
    model, tokens = make_model(architecture), make_tokens(1, 5)
    model.save_pretrained(tmp_path)
    loaded = RMTForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    model.set_attn_implementation("eager")
    for each in (loaded, model):
        attentions = each.step(tokens, output_attentions=True)[0].attentions
        assert [tuple(layer.shape) for layer in attentions] == [(1, 2, 11, 11)] * 2


# ---------------------------------------------------------------- configuration


def test_config_round_trip_keeps_the_backbone(architecture, make_model, tmp_path):
    config = make_model(architecture, segment_checkpointing=True).config
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is RMTConfig and type(loaded.backbone_config) is type(config.backbone_config)
    assert loaded.backbone_config.vocab_size == 48
    assert loaded.to_diff_dict() == config.to_diff_dict()
    assert loaded.get_text_config().hidden_size == 16


def test_config_takes_the_ids_and_tying_of_the_backbone():
    config = RMTConfig(LlamaConfig(eos_token_id=7, pad_token_id=6, bos_token_id=5, tie_word_embeddings=True))
    assert (config.eos_token_id, config.pad_token_id, config.bos_token_id) == (7, 6, 5)
    assert config.tie_word_embeddings


@pytest.mark.parametrize("name, value", [("num_memory_tokens", -1), ("segment_size", 0), ("bptt_depth", 0)])
def test_config_refuses_sizes_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        RMTConfig(LlamaConfig(), **{name: value})


def test_config_refuses_segments_beyond_the_positions(make_backbone):
    RMTForCausalLM.from_backbone(make_backbone(), num_memory_tokens=4, segment_size=56)
    with pytest.raises(ValueError, match="segments of at most 56 tokens"):
        RMTForCausalLM.from_backbone(make_backbone(), num_memory_tokens=4, segment_size=57)


def test_config_without_segment_room_says_so(make_backbone):
    with pytest.raises(ValueError, match="at most 31 memory tokens"):
        RMTForCausalLM.from_backbone(make_backbone(), num_memory_tokens=32, segment_size=5)
