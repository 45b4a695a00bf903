"""Words as tokens of their own, before training.

A tokenizer of few tokens writes ` football` as five of them, and a small model then has to put the word together before
it can remember whose it is. The words of the tasks become one token each, as they are in GPT-2's vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import torch

from rmtkit.config import ConfigError
from rmtkit.memory import RMTPreTrainedModel


def add_words(tokenizer, texts: Iterable[str]):
    """Return a tokenizer that writes every word of the texts as one token; the tokens there are keep their ids.

    New tokens are numbered on in sorted order. Whatever is no such word is written as before.

    Args:   tokenizer: a Hugging Face tokenizer of byte-level BPE (GPT-2, Llama 3, Qwen, our own).
    Raises: ConfigError for another sort of tokenizer.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    state = json.loads(backend.to_str()) if backend is not None else {}
    if state.get("model", {}).get("type") != "BPE" or backend.pre_tokenizer is None:
        raise ConfigError(f"whole_words needs a tokenizer of byte-level BPE, not {type(tokenizer).__name__}")
    found = {word for text in texts for word, _ in backend.pre_tokenizer.pre_tokenize_str(text)}
    vocabulary = state["model"]["vocab"]
    new = sorted(word for word in found - vocabulary.keys() if word.lstrip("Ġ").isalpha())
    vocabulary.update({word: number for number, word in enumerate(new, start=len(tokenizer))})
    state["model"]["ignore_merges"] = True  # a word of the vocabulary is that token, whatever the merges make of it
    return type(tokenizer)(tokenizer_object=type(backend).from_str(json.dumps(state)), **tokenizer.init_kwargs)


@torch.no_grad()
def add_embeddings(model: RMTPreTrainedModel, tokenizer, former) -> None:
    """Give the tokens that `former` does not have an embedding: the mean of those that it writes them with.

    Gee et al. 2022, "Fast vocabulary transfer for language model compression" (arXiv 2402.09977), section 3; the output
    layer's rows likewise where it has its own.
    """
    new = range(len(former), len(tokenizer))
    pieces = [former(tokenizer.decode([token]), add_special_tokens=False)["input_ids"] for token in new]
    backbone = model.backbone
    former_weights = [weight.clone() for weight in _token_weights(backbone)]
    backbone.resize_token_embeddings(max(len(tokenizer), len(former_weights[0])), mean_resizing=False)
    for former_weight, weight in zip(former_weights, _token_weights(backbone), strict=True):
        for token, written in zip(new, pieces, strict=True):
            weight[token] = former_weight[written].mean(0)


def _token_weights(backbone) -> list[torch.Tensor]:
    """Return the weights (v, d) that have a row for every token: of the embeddings and the output layer."""
    return [layer.weight for layer in (backbone.get_input_embeddings(), backbone.get_output_embeddings())]
