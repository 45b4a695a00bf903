"""Checkpoints: the authors' layout, memory alone, and what `from_pretrained` takes and refuses."""

import json
import os

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from rmtkit.cli import main
from rmtkit.config import ConfigError
from rmtkit.memory import RMTForCausalLM
from rmtkit.memory.checkpoints import load_authors_checkpoint, load_memory, save_authors_checkpoint, save_memory
from rmtkit.reference import resolve_trained

CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def authors_weights(backbone, num_memory_tokens=3):
    """Return weights as the authors' code names them, with the buffers that GPT-2 had then."""
    generator = torch.Generator().manual_seed(5)
    weights = {"memory_cell.memory": torch.randn(num_memory_tokens, backbone.config.hidden_size, generator=generator)}
    for name, tensor in backbone.state_dict().items():
        weights[f"memory_cell.model.{name}"] = tensor.clone()
    for layer in range(backbone.config.num_hidden_layers):
        mask = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()
        weights[f"memory_cell.model.transformer.h.{layer}.attn.bias"] = mask
        weights[f"memory_cell.model.transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return weights


def authors_logits(backbone, memory, input_ids, segment_size):
    """Compute what the authors' wrapper computes: the whole model on [M; X; M], hidden_states[-1] at the end is M."""
    m, state, logits = len(memory), memory.expand(len(input_ids), -1, -1), []
    for start in range(0, input_ids.shape[1], segment_size):
        tokens = backbone.get_input_embeddings()(input_ids[:, start : start + segment_size])
        output = backbone(inputs_embeds=torch.cat([state, tokens, state], dim=1), output_hidden_states=True)
        state = output.hidden_states[-1][:, -m:]
        logits.append(output.logits[:, m:-m])
    return torch.cat(logits, dim=1)


@pytest.fixture
def folder(make_backbone, tmp_path):
    """A folder of the authors' weights, and config.json of the backbone."""
    folder, backbone = tmp_path / "authors", make_backbone()
    backbone.config.save_pretrained(folder)
    torch.save(authors_weights(backbone), folder / "pytorch_model.bin")
    return folder


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


# ---------------------------------------------------------------- the authors' layout


def test_load_authors_checkpoint_computes_what_the_authors_do(folder, make_backbone, make_tokens):
    backbone, tokens = make_backbone(), make_tokens(2, 13)
    model = load_authors_checkpoint(folder, segment_size=5)
    memory = authors_weights(backbone)["memory_cell.memory"]
    assert not model.training and model.config.num_memory_tokens == 3
    torch.testing.assert_close(model(tokens).logits, authors_logits(backbone, memory, tokens, 5), **CLOSE)


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_authors_checkpoint_of_another_decoder_equals_the_recomputation(name, make_model, make_tokens, tmp_path):
    model, tokens = make_model(name), make_tokens(1, 13)
    save_authors_checkpoint(model, tmp_path)
    loaded = load_authors_checkpoint(tmp_path, segment_size=5)
    torch.testing.assert_close(loaded(tokens).logits, authors_logits(model.backbone, model.memory, tokens, 5), **CLOSE)


def test_save_authors_checkpoint_writes_the_layout(make_model, make_tokens, tmp_path):
    model, tokens = make_model(), make_tokens(2, 13)
    save_authors_checkpoint(model, tmp_path)
    written = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    layout = {
        name for name in authors_weights(model.backbone) if not name.endswith((".attn.bias", ".attn.masked_bias"))
    }
    assert set(written) == layout
    torch.testing.assert_close(load_authors_checkpoint(tmp_path, segment_size=5)(tokens).logits, model(tokens).logits)


def test_load_authors_checkpoint_reads_safetensors_in_shards(folder, make_backbone, make_tokens):
    tokens, whole = make_tokens(1, 13), load_authors_checkpoint(folder, segment_size=5)
    (folder / "pytorch_model.bin").unlink()
    weights, shards = authors_weights(make_backbone()), {}
    for number, name in enumerate(weights):
        shards.setdefault(f"model-{number % 2}.safetensors", {})[name] = weights[name]
    for shard, part in shards.items():
        save_file(part, folder / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    torch.testing.assert_close(load_authors_checkpoint(folder, segment_size=5)(tokens).logits, whole(tokens).logits)


def test_load_authors_checkpoint_takes_a_file_and_a_backbone(folder, make_backbone, make_tokens, tmp_path):
    tokens, whole = make_tokens(1, 13), load_authors_checkpoint(folder, segment_size=5)
    (folder / "config.json").unlink()
    make_backbone().config.save_pretrained(tmp_path / "backbone")
    model = load_authors_checkpoint(folder / "pytorch_model.bin", tmp_path / "backbone", segment_size=5)
    torch.testing.assert_close(model(tokens).logits, whole(tokens).logits)


def test_load_authors_checkpoint_keeps_the_type_of_the_file(folder, make_backbone):
    weights = authors_weights(make_backbone())
    halves = {name: w.bfloat16() if w.is_floating_point() and w.ndim else w for name, w in weights.items()}
    torch.save(halves, folder / "pytorch_model.bin")
    model = load_authors_checkpoint(folder, segment_size=5)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_load_authors_checkpoint_does_without_a_tied_head(folder, make_backbone, make_tokens):
    tokens, whole = make_tokens(1, 13), load_authors_checkpoint(folder, segment_size=5)
    weights = authors_weights(make_backbone())
    del weights["memory_cell.model.lm_head.weight"]
    torch.save(weights, folder / "pytorch_model.bin")
    torch.testing.assert_close(load_authors_checkpoint(folder, segment_size=5)(tokens).logits, whole(tokens).logits)


HEAD, NORM = "memory_cell.model.lm_head.weight", "memory_cell.model.transformer.ln_f.bias"


@pytest.mark.parametrize(
    "change, message",
    [
        ({NORM: None}, f"missing: {NORM}"),
        ({"memory_cell.gate": torch.zeros(2)}, "unexpected: memory_cell.gate"),
        ({"model.x": torch.zeros(2)}, "unexpected: model.x"),
        ({NORM: torch.zeros(7)}, f"of another shape: {NORM}"),
        ({HEAD: torch.zeros(48, 16)}, f"tied but not equal: {HEAD}"),
        ({"memory_cell.memory": None}, "no memory_cell.memory"),
    ],
)
def test_load_authors_checkpoint_accounts_for_every_weight(folder, make_backbone, change, message):
    weights = {**authors_weights(make_backbone()), **change}
    torch.save({name: value for name, value in weights.items() if value is not None}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=message) as error:
        load_authors_checkpoint(folder, segment_size=5)
    assert "\n" not in str(error.value)


def test_load_authors_checkpoint_names_a_few_of_many(folder, make_backbone):
    make_backbone("llama").config.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"llama.*missing: .* and \d+ more; unexpected: .* and \d+ more"):
        load_authors_checkpoint(folder, segment_size=5)


def test_load_authors_checkpoint_of_nothing_is_one_line(tmp_path):
    for path, message in ((tmp_path, "no weights"), ("no/such/checkpoint", "no local file")):
        with pytest.raises(ValueError, match=message) as error:
            load_authors_checkpoint(path, segment_size=5)
        assert "\n" not in str(error.value)


def test_convert_writes_our_format(folder, tokenizer, make_tokens, capsys):
    tokenizer.save_pretrained(folder)
    output, tokens = folder.with_name("ours"), make_tokens(2, 13)
    assert main(["convert", "--source", str(folder), "--output", str(output), "--segment_size", "5"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["output"] == str(output) and result["has_tokenizer"] and result["num_memory_tokens"] == 3
    model = AutoModelForCausalLM.from_pretrained(output)
    torch.testing.assert_close(model(tokens).logits, load_authors_checkpoint(folder, segment_size=5)(tokens).logits)
    assert (output / "tokenizer.json").is_file()


def test_converted_checkpoint_is_asked_as_the_authors_trained_it(folder, capsys):
    size, outputs = ["--segment_size", "40"], {name: str(folder.with_name(name)) for name in ("of qa3", "of no task")}
    assert main(["convert", "--source", str(folder), "--output", outputs["of qa3"], "--task", "qa3", *size]) == 0
    config = resolve_trained({"checkpoint": outputs["of qa3"]})
    assert (config.task, config.preset, config.layout, config.segment_size) == ("qa3", "paper", "authors", 40)
    assert main(["convert", "--source", str(folder), "--output", outputs["of no task"], *size]) == 0
    with pytest.raises(ConfigError, match="does not say which task it was trained for; give task="):
        resolve_trained({"checkpoint": outputs["of no task"]})
    assert resolve_trained({"checkpoint": outputs["of no task"], "task": "qa2"}).layout == "authors"


def test_convert_leaves_nothing_of_a_failure_and_never_replaces(folder, capsys):
    arguments = ["convert", "--source", str(folder), "--output", str(folder.with_name("ours"))]
    assert main(arguments) == 2  # 512 tokens do not fit 64 positions
    assert main([*arguments, "--backbone", str(folder / "nowhere")]) == 2
    assert main(["convert", "--source", str(folder), "--output", str(folder), "--segment_size", "5"]) == 2
    assert main([*arguments, "--segment_size", "5", "--colour", "red"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert ["512" in errors[0], "nowhere" in errors[1], "exists" in errors[2], "colour" in errors[3]] == [True] * 4
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


# ---------------------------------------------------------------- no pickle


def test_load_authors_checkpoint_refuses_a_pickle_with_code(folder, tmp_path):
    torch.save({"memory_cell.memory": Harmful(tmp_path / "harm")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="refused"):
        load_authors_checkpoint(folder, segment_size=5)
    assert not (tmp_path / "harm").exists()


def test_from_pretrained_refuses_a_pickle_with_code(make_model, tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.save({"memory": Harmful(tmp_path / "harm")}, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(Exception, match="(?i)weights_only|unpickl"):
        RMTForCausalLM.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "harm").exists()


# ---------------------------------------------------------------- our own format


def test_from_pretrained_in_bfloat16_rounds_every_weight(make_model, make_tokens, tmp_path):
    model, tokens = make_model(), make_tokens(2, 13)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    torch.testing.assert_close(loaded(tokens).logits, model.bfloat16()(tokens).logits)


def test_save_pretrained_in_shards_comes_back_whole(make_model, make_tokens, tmp_path):
    model, tokens = make_model(), make_tokens(2, 13)
    model.save_pretrained(tmp_path, max_shard_size="5KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    torch.testing.assert_close(AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, model(tokens).logits)


# ---------------------------------------------------------------- memory alone


def test_load_memory_over_the_same_backbone_gives_the_same_model(architecture, make_model, make_tokens, tmp_path):
    model, tokens = make_model(architecture), make_tokens(2, 13)
    model.backbone.save_pretrained(tmp_path / "backbone")
    save_memory(model, tmp_path / "memory")
    loaded = load_memory(tmp_path / "memory", str(tmp_path / "backbone"))
    assert loaded.config.segment_size == 5
    torch.testing.assert_close(loaded(tokens).logits, model(tokens).logits)
    assert sum(file.stat().st_size for file in (tmp_path / "memory").iterdir()) < 2000


@pytest.mark.parametrize(
    "settings", [{"name": "gpt_neox"}, {"hidden_size": 8}, {"vocab_size": 50}], ids=["kind", "width", "vocabulary"]
)
def test_load_memory_refuses_another_backbone(settings, make_model, make_backbone, tmp_path):
    save_memory(make_model(), tmp_path)
    with pytest.raises(ValueError, match="was trained with") as error:
        load_memory(tmp_path, make_backbone(**settings))
    assert "\n" not in str(error.value)


def test_load_memory_refuses_a_folder_without_one(make_backbone, tmp_path):
    with pytest.raises(ValueError, match="no memory.json"):
        load_memory(tmp_path, make_backbone())


def test_save_memory_refuses_a_model_with_more_than_memory(make_model, tmp_path):
    class WithMore(RMTForCausalLM):
        pass

    model = make_model()
    model.__class__ = WithMore
    with pytest.raises(ValueError, match="WithMore"):
        save_memory(model, tmp_path)
