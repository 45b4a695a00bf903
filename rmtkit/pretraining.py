"""The small backbone that preset `tiny` starts from, as the paper starts from GPT-2.

A tokenizer of 2,048 byte-level BPE entries and a decoder of four Qwen3-style layers (QK-norm, RoPE), taught to answer
bAbI questions: first from the facts alone, more and more of them, with questions on the way; then from facts in more
and more background text (a tenth more every 40 updates, whatever the loss), everybody asked at the end. Both steps are
ordinary runs of `rmtkit.training` with one segment. Its memory tokens carry nothing there; they are registers, which
attention heads with nothing to find can rest on. They are not kept.

What did not work, with numbers: outputs/reference/LOG.md.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import pandas as pd
import torch

from rmtkit.babi import TASKS, GeneratedProblems, MixedProblems, Variation
from rmtkit.background import read_split
from rmtkit.config import Config, resolve
from rmtkit.experiment import prepare
from rmtkit.intervals import in_percent
from rmtkit.runs import environment, read_rows, write_json
from rmtkit.training import train

VOCAB_SIZE = 2048
NUM_PROBLEMS = 300  # of each task, that the tokenizer is trained on, beside the train split of the background
END = "<|endoftext|>"
LEARNED = 0.9  # exact match on whole problems at which a step counts as learned
LARGE_WORLD = {"num_people": 10, "num_places": 10}  # the tokenizer knows their names, too
CURRICULUM: tuple[dict, ...] = (
    {"background": "none", "segment_size": 256, "growth": "facts", "growth_loss": 0.15, "num_questions_between": 2,
     "num_extra_questions": 1, "batch_size": 64, "micro_batch_size": 64, "steps": 800},
    {"background": "wiki", "segment_size": 160, "growth": "background", "growth_loss": 10, "num_questions_between": 0,
     "num_extra_questions": 4, "batch_size": 32, "micro_batch_size": 32, "steps": 600, "eval_steps": 200},
)  # fmt: skip
SHARED = {
    "segments": 1, "num_memory_tokens": 8, "answer_size": 32, "learning_rate": 3e-4, "memory_learning_rate": 3e-4,
    "matrix_learning_rate": 0.02, "warmup_share": 0.03, "decay_share": 0.3, "vary_segments": 0, "patience": 100,
    "weight_decay": 0.0, "best_metric": "exact_match",
}  # fmt: skip


def train_tokenizer(seed: int):
    """Train a byte-level BPE on background and stories of all tasks, train splits only; return it for transformers."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_tokenizer_texts(seed), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token=END)


def _tokenizer_texts(seed: int):
    """Yield the text that the tokenizer is trained on: articles, then problems with their questions and answers."""
    for document in read_split("wiki", "train"):
        yield " " + document.text
    sources = [GeneratedProblems(task, seed=seed) for task in TASKS]
    problems = MixedProblems([*sources, GeneratedProblems("qa1", seed=seed, variation=Variation(**LARGE_WORLD))])
    for index in range(NUM_PROBLEMS * len(problems.sources)):
        problem = problems.problem("train", index)
        question = problem.questions[0]
        yield " " + " ".join([*problem.facts, question.text, question.answer])


def new_backbone(tokenizer, seed: int):
    """Return the untrained decoder: 4 layers of width 128, 1.1M weights."""
    from transformers import AutoModelForCausalLM, Qwen3Config

    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=4,
        head_dim=32, intermediate_size=384, max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config)


def curriculum(config: Config) -> list[dict]:
    """Return the parameters of each step; preset `smoke` keeps the steps and makes them tiny."""
    steps = [{**SHARED, **step} for step in CURRICULUM]
    if config.preset == "smoke":
        small = {"steps": 2, "batch_size": 4, "micro_batch_size": 4, "eval_steps": 2, "validation_samples": 4}
        steps = [{**step, **small} for step in steps]
    return steps


def pretrain(config: Config, folder: Path, callbacks=()) -> Path:
    """Make the backbone in `folder`/backbone, or find it there; return that folder.

    Args: config: gives preset, task, seed and folders; what is learned is in `CURRICULUM`.
    """
    final, started = folder / "backbone", time.perf_counter()
    if (final / "recipe.json").is_file():
        return final
    tokenizer = train_tokenizer(config.seed)
    start = folder / "untrained"
    new_backbone(tokenizer, config.seed).save_pretrained(start)
    tokenizer.save_pretrained(start)
    backbone, steps = start, []
    for number, step in enumerate(curriculum(config)):
        given = {"preset": config.preset, "task": config.task, "seed": config.seed, "data_dir": config.data_dir}
        run_dir = folder / f"step-{number}"
        experiment = prepare(resolve({**given, **step, "backbone": str(backbone), "run_dir": str(run_dir)}))
        model = train(experiment, callbacks)
        backbone = experiment.run.model_path
        steps.append({**step, "validation": experiment.run.metrics()[-1]})
    model.backbone.save_pretrained(final)
    tokenizer.save_pretrained(final)
    write_json(final / "recipe.json", _recipe(config, steps, final, time.perf_counter() - started))
    return final


def validations(folder: Path) -> pd.DataFrame:
    """Return the validations of every step of `pretrain` in a folder.

    Returns: a row per step (from 1) and update: background, exact_match and its 95 % interval (low, high), n.
    """
    rows = []
    for number, step in enumerate(CURRICULUM):
        path = folder / f"step-{number}" / "metrics.jsonl"
        for row in read_rows(path):
            rows.append({**row, "step": number + 1, "background": step["background"], "update": row["step"]})
    return pd.DataFrame(rows, columns=["step", "background", "update", "exact_match", "low", "high", "n"])


def findings(table: pd.DataFrame) -> str:
    """Return what each step came to, as Markdown: sentences whose numbers are those of `validations`."""
    sentences = []
    for (number, background), rows in table.groupby(["step", "background"]):
        first, last = rows.iloc[0], rows.iloc[-1]
        learned = rows[rows["exact_match"] >= LEARNED]["update"]
        when = f"first after {learned.iloc[0]}" if len(learned) else "never"
        where = "facts alone" if background == "none" else f"in background {background}"
        course = f"{_scored(first)}, {_scored(last)}, its last"
        sentences.append(f"- Step {number}, {where}: {course}. At {100 * LEARNED:.0f} % or more {when}.")
    return "\n".join(sentences)


def _scored(row: pd.Series) -> str:
    score = in_percent(row["exact_match"], row["low"], row["high"])
    return f"{score} % (n={row['n']}) after {row['update']} updates"


def _recipe(config: Config, steps: list[dict], folder: Path, seconds: float) -> dict:
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return {
        "made_by": "notebooks/00_backbone.ipynb", "task": config.task, "seed": config.seed, "seconds": round(seconds),
        "sha256": {"model.safetensors": digest}, "environment": environment(), "steps": steps,
    }  # fmt: skip
