"""A frozen backbone: memory alone, LoRA by peft and memory, and an int8 backbone by bitsandbytes."""

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainingArguments

from rmtkit.memory import RMTForCausalLM
from rmtkit.memory.checkpoints import load_memory, save_memory

SIZES = {"num_memory_tokens": 3, "segment_size": 5}
TARGETS = {"gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "down_proj"]}


def train_two_steps(model, tokens, folder):
    """Train by transformers' Trainer on all tokens of each sample."""
    samples = [{"input_ids": row, "labels": row} for row in tokens]
    options = {"max_steps": 2, "learning_rate": 0.05, "per_device_train_batch_size": 2, "save_steps": 1}
    arguments = TrainingArguments(folder, **options, use_cpu=True, disable_tqdm=True, report_to="none", seed=3)
    trainer = Trainer(model=model, args=arguments, train_dataset=samples)
    trainer.train()
    return trainer


@pytest.fixture(params=list(TARGETS))
def lora(request, make_backbone):
    """A tiny decoder inside of peft's model."""
    peft = pytest.importorskip("peft", reason="LoRA needs the package peft: pip install rmtkit[lora]")
    config = peft.LoraConfig(target_modules=TARGETS[request.param], r=2, fan_in_fan_out=request.param == "gpt2")
    return peft.get_peft_model(make_backbone(request.param), config)


@pytest.fixture
def model(lora):
    """A recurrent memory transformer around the backbone with LoRA layers."""
    return RMTForCausalLM.from_backbone(lora.get_base_model(), **SIZES)


# ---------------------------------------------------------------- LoRA


def test_lora_gradients_reach_lora_and_memory_only(model, make_tokens):
    tokens = make_tokens(2, 13)
    torch.nn.init.ones_(next(p for name, p in model.named_parameters() if "lora_B" in name))
    model(tokens, labels=tokens).loss.backward()
    with_gradient = {name for name, p in model.named_parameters() if p.grad is not None}
    assert "memory" in with_gradient and model.memory.grad.abs().sum() > 0
    assert with_gradient - {"memory"} == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert any(p.grad.abs().sum() > 0 for name, p in model.named_parameters() if "lora_A" in name)


def test_lora_trainer_changes_lora_and_memory_only(model, make_tokens, tmp_path):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_two_steps(model, make_tokens(4, 13), tmp_path)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name in before if "lora_" in name or name == "memory"}


def test_lora_trainer_checkpoint_holds_lora_and_memory(model, make_tokens, tmp_path):
    train_two_steps(model, make_tokens(4, 13), tmp_path)
    saved = load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(saved[name], parameter)


def test_lora_trainer_resumes_where_it_stopped(model, make_tokens, tmp_path):
    tokens = make_tokens(4, 13)
    trainer = train_two_steps(model, tokens, tmp_path)
    wanted = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, wanted[name], msg=name)


def test_lora_and_memory_come_back_over_a_fresh_base(lora, model, make_backbone, make_tokens, tmp_path):
    import peft

    tokens, kind = make_tokens(2, 13), model.config.backbone_config.model_type
    train_two_steps(model, make_tokens(4, 13), tmp_path / "run")
    lora.save_pretrained(tmp_path / "adapter")
    save_memory(model, tmp_path / "adapter")
    expected = model.eval()(tokens).logits
    loaded = peft.PeftModel.from_pretrained(make_backbone(kind), tmp_path / "adapter")
    torch.testing.assert_close(load_memory(tmp_path / "adapter", loaded.get_base_model())(tokens).logits, expected)
    assert not torch.equal(load_memory(tmp_path / "adapter", make_backbone(kind))(tokens).logits, expected)


def test_lora_merged_gives_the_same_logits_and_a_plain_model(lora, model, make_tokens, tmp_path):
    tokens = make_tokens(2, 13)
    train_two_steps(model, make_tokens(4, 13), tmp_path / "run")
    save_memory(model, tmp_path / "memory")
    expected = model.eval()(tokens).logits
    merged = load_memory(tmp_path / "memory", lora.merge_and_unload())
    merged.save_pretrained(tmp_path / "merged")
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    for found in (merged, AutoModelForCausalLM.from_pretrained(tmp_path / "merged")):
        torch.testing.assert_close(found.eval()(tokens).logits, expected, rtol=1e-4, atol=1e-5)


def test_from_backbone_says_what_to_take_of_the_model_of_peft(lora):
    with pytest.raises(ValueError, match="PeftModel.*get_base_model"):
        RMTForCausalLM.from_backbone(lora, **SIZES)


# ---------------------------------------------------------------- memory alone


def test_frozen_backbone_trains_its_memory_alone(make_backbone, make_tokens, tmp_path):
    model = RMTForCausalLM.from_backbone(make_backbone().requires_grad_(False), **SIZES)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    train_two_steps(model, make_tokens(4, 13), tmp_path)
    assert [name for name, p in model.named_parameters() if not torch.equal(p, before[name])] == ["memory"]


# ---------------------------------------------------------------- an int8 backbone


@pytest.fixture(params=["gpt2", "llama"])
def int8_pair(request, make_backbone, tmp_path):
    """The same decoder in float32 and in int8, each with the same memory."""
    pytest.importorskip("bitsandbytes", reason="int8 backbones need the package bitsandbytes")
    backbone = make_backbone(request.param, initializer_range=0.1, hidden_size=64)
    backbone.save_pretrained(tmp_path / "base")
    options = {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": "cpu"}
    small = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **options)
    assert any(p.dtype == torch.int8 for p in small.parameters())
    model = RMTForCausalLM.from_backbone(backbone, **SIZES)
    save_memory(model, tmp_path / "memory")
    return model.eval(), load_memory(tmp_path / "memory", small).eval()


def test_int8_backbone_computes_nearly_the_same(int8_pair, make_tokens):
    model, small = int8_pair
    tokens = make_tokens(2, 13)
    assert small.memory.dtype == torch.float32
    found, expected = small(tokens), model(tokens)
    torch.testing.assert_close(found.logits.float(), expected.logits, rtol=0, atol=0.2 * expected.logits.std().item())
    torch.testing.assert_close(found.memory.float(), expected.memory, rtol=0, atol=0.2 * expected.memory.std().item())


def test_int8_backbone_generates_what_its_logits_say(int8_pair, make_tokens):
    _, small = int8_pair
    tokens = make_tokens(2, 9)
    new = small.generate(tokens, max_new_tokens=1, do_sample=False)
    assert torch.equal(new[:, -1], small(tokens).logits[:, -1].argmax(-1))
    assert small.generate(tokens, max_new_tokens=8, min_new_tokens=8, do_sample=False).shape == (2, 17)


def test_int8_backbone_hands_gradients_to_the_memory(int8_pair, make_tokens):
    model, small = int8_pair
    tokens = make_tokens(2, 13)
    for each in int8_pair:
        each.backbone.requires_grad_(False)
        each(tokens, labels=tokens).loss.backward()
    similarity = torch.cosine_similarity(small.memory.grad.flatten(), model.memory.grad.flatten(), dim=0)
    assert similarity > 0.95 and all(p.grad is None for p in small.backbone.parameters())
