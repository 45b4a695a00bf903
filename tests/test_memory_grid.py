"""Memory that is rounded to a grid after each segment: what changes, what is kept, and where the spacing goes."""

import dataclasses
import math

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, LlamaConfig, T5Config, T5ForConditionalGeneration

from rmtkit.config import ConfigError, resolve
from rmtkit.experiment import build_model, load_trained
from rmtkit.generalization import evaluate_lengths
from rmtkit.memory import RMTConfig, RMTForCausalLM, RMTForSeq2SeqLM, RMTForTokenClassification
from rmtkit.memory.base import on_grid
from rmtkit.memory.checkpoints import load_memory, save_authors_checkpoint, save_memory
from rmtkit.reference import resolve_trained, weights_digest

SIZES = {"vocab_size": 99, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def test_memory_is_rounded_to_the_nearest_multiple():
    memory = torch.tensor([[[0.2, 0.3, -0.8, 7.6]]])
    assert on_grid(memory, 0.5).tolist() == [[[0.0, 0.5, -1.0, 7.5]]]
    assert on_grid(memory, 0.0) is memory


def test_what_moves_by_less_than_half_of_the_spacing_does_not_move():
    memory = on_grid(torch.randn(2, 3, 8), 0.25)
    assert torch.equal(on_grid(memory + 0.12 * (2 * torch.rand_like(memory) - 1), 0.25), memory)


def test_gradient_is_that_of_the_identity():
    memory, weight = torch.randn(2, 3, 8, requires_grad=True), torch.randn(2, 3, 8)
    (on_grid(memory, 0.5) * weight).sum().backward()
    assert torch.equal(memory.grad, weight)


def test_step_carries_what_was_written_on_the_grid(architecture, make_model, make_tokens):
    model, tokens = make_model(architecture), make_tokens(2, 10)
    _, plain = model.step(tokens[:, :5])
    model.config.memory_grid = 0.25
    _, memory = model.step(tokens[:, :5])
    assert torch.equal(memory, torch.round(plain / 0.25) * 0.25) and not torch.equal(memory, plain)
    torch.testing.assert_close(model(tokens).memory, model.step(tokens[:, 5:], memory)[1])
    model.config.memory_grid = 0.0  # the fixture's models are shared


@pytest.mark.parametrize("kind", ["encoder", "encoder-decoder"])
def test_other_kinds_of_model_round_too_and_padding_keeps_memory(kind):
    torch.manual_seed(0)
    if kind == "encoder":
        backbone, wrapper = BertForMaskedLM(BertConfig(**SIZES)), RMTForTokenClassification
    else:
        t5 = T5Config(vocab_size=99, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0)
        backbone, wrapper = T5ForConditionalGeneration(t5), RMTForSeq2SeqLM
    model = wrapper.from_backbone(backbone, num_memory_tokens=2, segment_size=5, memory_grid=0.25).eval()
    tokens = torch.randint(1, 99, (2, 5))
    _, memory = model.step(tokens)
    assert torch.equal(memory, torch.round(memory / 0.25) * 0.25) and memory.abs().sum() > 0
    mask = torch.tensor([[1] * 5, [0] * 5])
    _, later = model.step(tokens, memory + 0.1, attention_mask=mask)  # what is not written is not rounded
    assert torch.equal(later[1], memory[1] + 0.1) and torch.equal(later[0], torch.round(later[0] / 0.25) * 0.25)


@pytest.mark.parametrize("grid", [-0.5, math.inf, math.nan])
def test_spacing_has_to_be_a_distance(grid):
    with pytest.raises(ValueError, match="memory_grid is .*; expected a spacing above 0, or 0 for none"):
        RMTConfig(LlamaConfig(), memory_grid=grid)
    with pytest.raises(ConfigError, match="memory_grid is"):
        resolve({"memory_grid": -0.5})


def test_spacing_is_saved_with_the_model_and_with_its_memory(make_model, make_tokens, tmp_path):
    model, tokens = make_model(memory_grid=0.25), make_tokens(2, 13)
    model.save_pretrained(tmp_path / "model")
    save_memory(model, tmp_path / "memory")
    model.backbone.save_pretrained(tmp_path / "backbone")
    loaded = RMTForCausalLM.from_pretrained(tmp_path / "model"), load_memory(tmp_path / "memory", tmp_path / "backbone")
    for other in loaded:
        torch.testing.assert_close(other(tokens).logits, model(tokens).logits)
        assert other.config.memory_grid == 0.25
    with pytest.raises(ValueError, match="the authors' code does not round memory"):
        save_authors_checkpoint(model, tmp_path / "authors")
    assert not (tmp_path / "authors").exists()


@pytest.mark.parametrize("asked, grid", [("none", 0.25), (0.5, 0.5), (0, 0.0), (None, 1.0)])
def test_training_goes_on_with_the_spacing_of_the_model_or_its_own(make_model, tmp_path, asked, grid):
    make_model(memory_grid=0.25, num_memory_tokens=2).save_pretrained(tmp_path)
    fields = {"backbone": tmp_path, "num_memory_tokens": 2, "segment_size": 40, "memory_grid": asked}
    assert build_model(resolve(fields)).config.memory_grid == grid


@pytest.mark.parametrize("given, grid", [({}, 1.0), ({"memory_grid": 0.5}, 0.5), ({"memory_grid": "none"}, 0.0),
                                         ({"preset": "long"}, 0.0), ({"preset": "paper"}, 0.0)])  # fmt: skip
def test_fresh_model_has_the_grid_of_its_preset_or_the_one_asked_for(make_backbone, tmp_path, given, grid):
    make_backbone().save_pretrained(tmp_path)
    fields = {"backbone": tmp_path, "num_memory_tokens": 2, "segment_size": 40}
    assert build_model(resolve({**fields, **given})).config.memory_grid == grid


def test_evaluation_leaves_a_model_its_grid(make_model, tmp_path):
    make_model(memory_grid=0.25, num_memory_tokens=2).save_pretrained(tmp_path)
    checkpoint = {"checkpoint": tmp_path, "task": "qa1", "answer_size": 4}
    assert resolve_trained(checkpoint).memory_grid is None
    assert resolve_trained({**checkpoint, "memory_grid": 0.5}).memory_grid == 0.5


def test_evaluation_with_another_spacing_is_of_another_model(make_backbone, make_builder, tokenizer, tmp_path):
    backbone = make_backbone("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=256).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    fields = {"checkpoint": tmp_path / "model", "max_length": "1k", "num_samples": 2, "num_memory_tokens": 2,
              "segment_size": 256, "answer_size": 16}  # fmt: skip
    config = resolve(fields)
    for grid in (None, 0, 0.5):
        model, _ = load_trained(dataclasses.replace(config, memory_grid=grid))
        assert model.config.memory_grid == (grid or 0.0)
        builder = make_builder(answer_size=16)
        evaluate_lengths(dataclasses.replace(config, memory_grid=grid), model, tokenizer, builder, tmp_path)
    assert len(list((tmp_path / "test").glob("1k-*.csv"))) == 2  # 0 is what the model has, 0.5 is not
    plain = weights_digest(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")  # with 0.5 in its configuration
    assert weights_digest(tmp_path / "model", 0) == plain
    assert weights_digest(tmp_path / "model") == weights_digest(tmp_path / "model", 0.5) != plain
