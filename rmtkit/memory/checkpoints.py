"""Checkpoints in other layouts than our own, which is that of `save_pretrained`: the authors', and memory alone.

A frozen backbone needs its memory only, 48 KB for GPT-2 (`save_memory`). With LoRA on the backbone, peft saves its
weights beside the memory. Wrap the model inside of peft's: all is frozen but LoRA, and the memory stays trainable.

    lora = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("gpt2"), peft.LoraConfig(target_modules=["c_attn"]))
    model = RMTForCausalLM.from_backbone(lora.get_base_model(), num_memory_tokens=16, segment_size=512)
    ...                                                 train as ever, by transformers' Trainer for example
    lora.save_pretrained("adapter")
    save_memory(model, "adapter")

    lora = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("gpt2"), "adapter")
    model = load_memory("adapter", lora.get_base_model())       LoRA layers beside the backbone's
    model = load_memory("adapter", lora.merge_and_unload())     plain weights, which `save_pretrained` is right for

Traps: Trainer resumes from its checkpoints of a model with LoRA layers, but `from_pretrained` cannot read them: merge
first. peft around the whole RMT would freeze the memory and leave it out of every checkpoint. Training goes on after
`PeftModel.from_pretrained` only with is_trainable=True.

Axis letters: m memory tokens, d width.
"""

import contextlib
import json
import os
import pickle
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PretrainedConfig

from .configuration import RMTConfig
from .modeling import RMTForCausalLM

WEIGHT_FILES = (  # the first that is there is read
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model",
)  # fmt: skip
FETCHED = ("config.json", "model*.safetensors", "pytorch_model*.bin", "*.index.json")  # from the hub
CAUSAL_MASK = re.compile(r"\.(attn|attention)\.(masked_)?bias$")  # buffers of older transformers, the same in all files
NUM_LISTED = 4  # names in an error message

# ---------------------------------------------------------------- the authors' layout


def load_authors_checkpoint(
    path: str | Path, backbone: str | Path | None = None, *, segment_size: int = 512
) -> RMTForCausalLM:
    """Load a checkpoint of the authors' code: weights `memory_cell.memory` (m, d) and `memory_cell.model.*`.

    Args:    path: a file (.bin or .safetensors), a folder, or a hub name such as "booydar/rmt-gpt2-babilong-qa1";
             backbone: name or folder of the backbone, of which the configuration is read only; None: config.json
             beside the weights, and if there is none gpt2, the backbone of the published checkpoints;
             segment_size: tokens, 512 in the published ones.
    Returns: the model in evaluation mode, in the floating-point type of the file.
    Raises:  ValueError if a weight is missing, left over or of another shape, or the file holds more than tensors.
    Source:  github booydar/recurrent-memory-transformer, branch babilong-release, modeling_rmt/language_modeling.py.
    """
    path = _local(path)
    weights = read_weights(path)
    if "memory_cell.memory" not in weights:
        raise ValueError(f"{path} has no memory_cell.memory, so it is not the authors'; it has {_listed(weights)}")
    backbone_config = _config_beside(path) if backbone is None else _read_config(backbone)
    num_memory_tokens = len(weights["memory_cell.memory"])
    config = RMTConfig(backbone_config, num_memory_tokens=num_memory_tokens, segment_size=segment_size)
    own_names = _check_weights(weights, config, path)
    state = {own: weights[name] for name, own in own_names.items() if name in weights}
    dtype = reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})
    return RMTForCausalLM.from_pretrained(None, config=config, state_dict=state, dtype=dtype)


def save_authors_checkpoint(model: RMTForCausalLM, folder: str | Path) -> None:
    """Write pytorch_model.bin as the authors' code reads it, and config.json of the backbone."""
    _check_class(model)
    if model.config.memory_grid:
        grid = model.config.memory_grid
        raise ValueError(f"the authors' code does not round memory, this model does (memory_grid {grid}); set it to 0")
    folder = Path(folder).expanduser()
    model.config.backbone_config.save_pretrained(folder)
    weights = {_authors_name(name): tensor.cpu() for name, tensor in model.state_dict().items()}
    with _whole_file(folder / "pytorch_model.bin") as unfinished:
        torch.save(weights, unfinished)


def convert_authors_checkpoint(
    source: str | Path, folder: Path, backbone: str | None = None, *, segment_size: int = 512
) -> dict:
    """Write a checkpoint of the authors (arguments of `load_authors_checkpoint`) to a folder as ours, with a tokenizer.

    Returns: num_memory_tokens, segment_size, model_type, num_parameters, and has_tokenizer: whether there was one.
    """
    source = _local(source)
    model = load_authors_checkpoint(source, backbone, segment_size=segment_size)
    model.save_pretrained(folder)
    beside = source if source.is_dir() else source.parent
    files = [beside / name for name in TOKENIZER_FILES if (beside / name).is_file()]
    for file in files:
        shutil.copyfile(file, Path(folder) / file.name)
    return {
        "num_memory_tokens": model.config.num_memory_tokens, "segment_size": segment_size,
        "model_type": model.config.backbone_config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()), "has_tokenizer": bool(files),
    }  # fmt: skip


def _check_class(model) -> None:
    if type(model) is not RMTForCausalLM:
        kind = type(model).__name__
        raise ValueError(
            f"{kind} may hold more than a backbone and a memory; expected RMTForCausalLM, use save_pretrained"
        )


def _authors_name(name: str) -> str:
    return "memory_cell." + re.sub(r"^backbone\.", "model.", name)


def _check_weights(weights: dict[str, torch.Tensor], config: RMTConfig, path: Path) -> dict[str, str]:
    """Return our name of each of the authors' weights. Raises: ValueError unless the two sets are the same.

    A weight that is tied to another (GPT-2's head and embedding) may be left out, or has to be equal.
    """
    with torch.device("meta"):
        own = RMTForCausalLM(config).state_dict(keep_vars=True)
    own_names = {_authors_name(name): name for name in own}
    tied = defaultdict(list)
    for name, own_name in own_names.items():
        tied[id(own[own_name])].append(name)
    given = [[name for name in names if name in weights] for names in tied.values()]
    problems = {
        "missing": [names[0] for names, found in zip(tied.values(), given, strict=True) if not found],
        "unexpected": [name for name in weights if name not in own_names and not CAUSAL_MASK.search(name)],
        "of another shape": [n for n in weights if n in own_names and weights[n].shape != own[own_names[n]].shape],
        "tied but not equal": [n for first, *others in filter(None, given) for n in others
                               if not torch.equal(weights[first], weights[n])],
    }  # fmt: skip
    if any(problems.values()):
        found = "; ".join(f"{what}: {_listed(names)}" for what, names in problems.items() if names)
        kind = config.backbone_config.model_type
        raise ValueError(f"{path} does not fit the backbone ({kind}): {found}; give the backbone it was trained with")
    return own_names


def _listed(names) -> str:
    names = list(names)
    more = f" and {len(names) - NUM_LISTED} more" if len(names) > NUM_LISTED else ""
    return ", ".join(names[:NUM_LISTED]) + more


# ---------------------------------------------------------------- memory alone


def save_memory(model: RMTForCausalLM, folder: str | Path) -> None:
    """Write the memory (m, d) of a model whose backbone is frozen: memory.safetensors and memory.json.

    What the backbone has learned is not in there: see the module for LoRA, and `save_pretrained` for all weights.
    """
    _check_class(model)
    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "num_memory_tokens": model.config.num_memory_tokens, "segment_size": model.config.segment_size,
        "memory_grid": model.config.memory_grid,
        "backbone": model.config.backbone_config.name_or_path, **_fingerprint(model.config.backbone_config),
    }  # fmt: skip
    with _whole_file(folder / "memory.safetensors") as unfinished:
        save_file({"memory": model.memory.detach().cpu().contiguous()}, unfinished)
    with _whole_file(folder / "memory.json") as unfinished:
        unfinished.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def load_memory(folder: str | Path, backbone) -> RMTForCausalLM:
    """Wrap a backbone with a memory from `save_memory`.

    Args:   backbone: the decoder that the memory was trained with, or its folder or hub name; quantised, with peft's
            adapters or merged is fine. Its sizes are compared, its weights are not.
    Raises: ValueError for a folder without a memory, or a backbone of another kind, width or vocabulary.
    """
    folder = Path(folder).expanduser()
    path = folder / "memory.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no memory.json; expected a folder that save_memory wrote")
    about = json.loads(path.read_text(encoding="utf-8"))
    memory = _read_file(folder / "memory.safetensors")["memory"]
    config = _read_config(backbone) if isinstance(backbone, str | Path) else backbone.config
    wanted, found = {name: about[name] for name in _fingerprint(config)}, _fingerprint(config)
    if found != wanted:
        raise ValueError(f"the memory in {folder} was trained with {about['backbone']!r}, {wanted}; this is {found}")
    sizes = {name: about[name] for name in ("num_memory_tokens", "segment_size")}
    model = RMTForCausalLM.from_backbone(backbone, **sizes, memory_grid=about.get("memory_grid", 0.0))
    if memory.shape != model.memory.shape:
        raise ValueError(f"{folder}: the memory is {tuple(memory.shape)}; expected {tuple(model.memory.shape)}")
    model.memory.data.copy_(memory)
    return model


def _fingerprint(config: PretrainedConfig) -> dict:
    text = config.get_text_config()
    return {"model_type": config.model_type, "hidden_size": text.hidden_size, "vocab_size": text.vocab_size}


# ---------------------------------------------------------------- files


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a file of weights, or the one (whole or in shards) of a folder. Raises: ValueError, also for any pickle."""
    if path.is_dir():
        path = next((path / name for name in WEIGHT_FILES if (path / name).is_file()), path)
        if path.is_dir():
            raise ValueError(f"{path} has no weights; expected one of {', '.join(WEIGHT_FILES)}")
    if path.suffix != ".json":
        return _read_file(path)
    shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    parts = [_read_file(path.parent / Path(shard).name) for shard in sorted(shards)]
    return {name: tensor for part in parts for name, tensor in part.items()}


def _read_file(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise ValueError(f"cannot read {path}: it is cut off, or holds more than tensors, which is refused") from error
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        raise ValueError(f"{path} is no state dict; expected names and tensors")
    return weights


def _local(path: str | Path) -> Path:
    """Return a local path as it is, and the folder of what is fetched from the hub."""
    local = Path(path).expanduser()
    if local.exists():
        return local
    try:
        return Path(snapshot_download(str(path), allow_patterns=[*FETCHED, *TOKENIZER_FILES]))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is no local file or folder, and the hub does not give it; check the name") from error


def _config_beside(path: Path) -> PretrainedConfig:
    folder = path if path.is_dir() else path.parent
    return _read_config(folder if (folder / "config.json").is_file() else "gpt2")


def _read_config(backbone: str | Path) -> PretrainedConfig:
    local = Path(backbone).expanduser()
    try:
        return AutoConfig.from_pretrained(local if local.exists() else backbone, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read the configuration of {backbone}; give a backbone by name or folder") from error


@contextlib.contextmanager
def _whole_file(path: Path) -> Iterator[Path]:
    """Yield a path to write to; the file gets its name when it is complete."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
