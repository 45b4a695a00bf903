"""What depends on the kind of a backbone: which model wraps it, what a training batch is, how a sample is answered.

| backbone | model | learns | answers with |
|---|---|---|---|
| decoder | RMTForCausalLM | the answer after the prompt, further questions, questions on the way | the text it writes |
| encoder-decoder | RMTForSeq2SeqLM | the answer | the text it writes |
| encoder | RMTForSequenceClassification | which of the task's answers it is | that answer |

Axis letters: b batch, t tokens, a answer tokens.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from transformers import AutoConfig, PretrainedConfig

from rmtkit.babilong import Sample, segments_of_background, tokens_in
from rmtkit.background import TokenRows
from rmtkit.config import Config
from rmtkit.memory import (
    RMTForCausalLM,
    RMTForSeq2SeqLM,
    RMTForSequenceClassification,
    RMTPreTrainedModel,
    backbone_kind,
)

Read = Callable[[TokenRows], torch.Tensor | None]
MODELS = {"decoder": RMTForCausalLM, "encoder": RMTForSequenceClassification, "encoder-decoder": RMTForSeq2SeqLM}


def model_class(backbone: PretrainedConfig) -> type[RMTPreTrainedModel]:
    """Return the class that wraps a backbone with this configuration."""
    return MODELS[backbone_kind(backbone)]


def load_model(folder) -> RMTPreTrainedModel:
    """Load a trained model of any kind."""
    return model_class(AutoConfig.from_pretrained(folder).backbone_config).from_pretrained(folder)


def training_questions(config: Config, model: RMTPreTrainedModel) -> Config:
    """Return the configuration of a model's training samples: only decoders are asked more than one question."""
    if isinstance(model, RMTForCausalLM):
        return config
    return dataclasses.replace(config, num_extra_questions=0, num_questions_between=0)


# ---------------------------------------------------------------------- batches


def collate(samples: list[Sample], pad_token_id: int, model: RMTPreTrainedModel | None = None, *,
            marks_background: bool = False) -> dict:  # fmt: skip
    """Make a training batch for a model; None: a decoder.

    Args: marks_background: add is_background (b, n), which segments of a decoder's text are background alone.
    """
    if isinstance(model, RMTForSequenceClassification):
        labels = [model.config.label2id[sample.question.answer] for sample in samples]
        return {**_pad([sample.prompt for sample in samples], pad_token_id), "labels": torch.tensor(labels)}
    if isinstance(model, RMTForSeq2SeqLM):
        answers = _pad([sample.continuation[: _answer_size(sample)] for sample in samples], pad_token_id)
        labels = answers["input_ids"].masked_fill(answers["attention_mask"] == 0, -100)
        return {**_pad([_with_eos(sample) for sample in samples], pad_token_id), "labels": labels}
    batch = _collate_decoder(samples, pad_token_id)
    if marks_background:
        size = model.config.segment_size
        num_segments = -(-batch["input_ids"].shape[1] // size)
        batch["is_background"] = torch.from_numpy(np.stack([_is_background(s, size, num_segments) for s in samples]))
    return batch


def _is_background(sample: Sample, segment_size: int, num_segments: int) -> np.ndarray:
    is_background = ~tokens_in(sample.foreground_spans, len(sample.prompt))
    return segments_of_background(is_background, segment_size, num_segments)


def _collate_decoder(samples: list[Sample], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Make a batch: input_ids (b, t) and labels (b, t), -100 but at the answers.

    Padding is on the right and needs no mask: under a causal mask nothing that is scored can see it.
    """
    rows = [np.concatenate([sample.prompt, sample.continuation]) for sample in samples]
    input_ids = _pad(rows, pad_token_id)["input_ids"]
    labels = torch.full_like(input_ids, -100)
    for row, sample in enumerate(samples):
        start, end = len(sample.prompt), len(sample.prompt) + len(sample.continuation)
        labels[row, start:end] = input_ids[row, start:end].masked_fill(torch.from_numpy(~sample.is_answer), -100)
        for first, last in sample.earlier_answers:
            labels[row, first:last] = input_ids[row, first:last]
    return {"input_ids": input_ids, "labels": labels}


def _pad(rows: list[np.ndarray], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return rows of token ids with padding on the right, and their mask, (b, t) each."""
    input_ids = torch.full((len(rows), max(len(row) for row in rows)), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = torch.from_numpy(row.astype(np.int64))
        attention_mask[index, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _answer_size(sample: Sample) -> int:
    """Return the tokens of the first answer with its EOS."""
    return int(np.append(sample.is_answer, False).argmin())


def _with_eos(sample: Sample) -> np.ndarray:
    """Return the prompt and the EOS that ends an encoder-decoder's input."""
    return np.append(sample.prompt, sample.continuation[_answer_size(sample) - 1]).astype(sample.prompt.dtype)


# ---------------------------------------------------------------------- answers


@torch.inference_mode()
def answer(model, batch: list[Sample], tokenizer, *, read: Read | None = None) -> list[str]:
    """Return the greedy answers to samples whose prompts are equally long; a text is decoded up to EOS and stripped.

    A text is cut at the number of tokens that its sample's own answer has, whatever the others in the batch have.

    Args: read: what takes all but the last segment of the prompts (b, t) to a memory (b, m, d); None: `model.read`.
    """
    if isinstance(model, RMTForSequenceClassification):
        last, state = _read(model, [sample.prompt for sample in batch], read)
        return [model.config.id2label[index] for index in model(last, state=state).logits.argmax(-1).tolist()]
    sizes = [_answer_size(sample) for sample in batch]
    options = {
        "max_new_tokens": max(sizes), "do_sample": False, "num_beams": 1, "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    if isinstance(model, RMTForSeq2SeqLM):
        last, state = _read(model, [_with_eos(sample) for sample in batch], read)
        num_given = 1  # the start token of the decoder
        options.update(forced_bos_token_id=None, forced_eos_token_id=None)  # BART's; our answers are not written so
    else:
        last, state = _read(model, [sample.prompt for sample in batch], read)
        num_given = last.shape[1]
        options["attention_mask"] = torch.ones_like(last)  # transformers would warn of padding that is EOS
    new = model.generate(last, state=state, **options)[:, num_given:].tolist()
    return [_text(ids[:size], tokenizer) for ids, size in zip(new, sizes, strict=True)]


def _read(model, prompts: list, read: Read | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Read all but the last segment of prompts (t,) each; return that segment (b, s) and the memory before it.

    A decoder's segments are cut from the left, so that its last may be short; those of the others from the right.
    """
    size, num_tokens = model.config.segment_size, len(prompts[0])
    is_right = isinstance(model, (RMTForSequenceClassification, RMTForSeq2SeqLM))
    start = max(0, num_tokens - size) if is_right else (num_tokens - 1) // size * size
    state = (read or model.read)(TokenRows(prompts, start))
    last = np.stack([prompt[start:] for prompt in prompts]).astype(np.int64)
    return torch.from_numpy(last).to(model.device), state


def _text(ids: list[int], tokenizer) -> str:
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
        return tokenizer.decode(ids).strip()
    return tokenizer.decode(ids).strip() + "..."  # no end where the answer has its own: not an exact match
