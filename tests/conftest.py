"""Tiny models from configurations, byte-level tokenizers, a background and a short run, all small, shared by tests."""

import pytest
import torch
from tokenizer_types import make_byte_bpe, wrap
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from rmtkit.babi import TASKS, GeneratedProblems, generate_story
from rmtkit.babilong import BabilongBuilder
from rmtkit.background import open_background
from rmtkit.memory import RMTForCausalLM

VOCAB_SIZE, WIDTH, POSITIONS = 48, 16, 64
LAYERS = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES = {"vocab_size": VOCAB_SIZE, "max_position_embeddings": POSITIONS, "initializer_range": 0.3}
LLAMA_LIKE = {**LAYERS, **SIZES, "intermediate_size": 32, "num_key_value_heads": 1}
NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
END = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
CONFIGS = {
    "gpt2": (GPT2Config, {**LAYERS, **SIZES, **NO_DROPOUT}),
    "gpt_neox": (GPTNeoXConfig, {**LAYERS, **SIZES, "intermediate_size": 32, "hidden_dropout": 0.0}),
    "llama": (LlamaConfig, LLAMA_LIKE),
    "qwen3": (Qwen3Config, {**LLAMA_LIKE, "head_dim": 8}),
}


@pytest.fixture(params=list(CONFIGS))
def architecture(request):
    """Each of the four backbones in turn."""
    return request.param


@pytest.fixture(scope="session")
def make_backbone():
    """Return a function that makes a tiny decoder with random weights, the same for the same arguments."""

    def make(name="gpt2", *, seed=0, attention="sdpa", **settings):
        config_class, sizes = CONFIGS[name]
        torch.manual_seed(seed)
        config = config_class(**{**sizes, **END, **settings})
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()

    return make


@pytest.fixture(scope="session")
def make_model(make_backbone):
    """Return a function that wraps a tiny decoder: 3 memory tokens and segments of 5 tokens unless told otherwise."""

    def make(name="gpt2", *, attention="sdpa", dtype=torch.float32, **settings):
        backbone = make_backbone(name, attention=attention, dtype=dtype)
        model = RMTForCausalLM.from_backbone(backbone, **{"num_memory_tokens": 3, "segment_size": 5, **settings})
        model.reset_memory(torch.Generator().manual_seed(1))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def make_tokens():
    """Return a function that draws token ids (b, t); none of them is the end of text."""

    def make(batch_size, num_tokens, *, seed=2):
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(1, VOCAB_SIZE, (batch_size, num_tokens), generator=generator)

    return make


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE as GPT-2's, trained on bAbI."""
    return make_tokenizer()


@pytest.fixture(scope="session")
def bos_tokenizer():
    """The same, with a post-processor that puts a BOS token before each text, as Llama's."""
    return make_tokenizer(has_bos=True)


def make_tokenizer(*, has_bos=False):
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=[AddedToken(token, special=True) for token in ("<|endoftext|>", "<s>")],
    )  # fmt: skip
    bpe.train_from_iterator(babi_sentences(), trainer)
    if has_bos:
        bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", bos_token="<s>")


def babi_sentences():
    import random

    stories = [generate_story(task, random.Random(number)) for task in TASKS for number in range(8)]
    return [text for story in stories for text in (*story.facts, *(q.text for q in story.questions))]


@pytest.fixture(scope="module")
def byte_bpe():
    return wrap(make_byte_bpe())


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A folder of twelve short texts, no two with a sentence in common."""
    folder = tmp_path_factory.mktemp("library")
    for number in range(12):
        sentences = [f"Text {number} says in sentence {line} that the river was long and wide." for line in range(30)]
        (folder / f"{number}.txt").write_text(" ".join(sentences))
    return folder


@pytest.fixture(scope="session")
def open_library(library, tmp_path_factory):
    """Return a function that opens the library as background, tokenised by the given tokenizer."""
    data_dir = tmp_path_factory.mktemp("data")

    def open_it(tokenizer, *, is_joined=True):
        return open_background("local", tokenizer, data_dir=data_dir, path=library, is_joined=is_joined)

    return open_it


@pytest.fixture(scope="session")
def make_builder(tokenizer, open_library):
    """Return a function that makes a builder for qa1 with at most four facts; None means without background."""

    def make(*, task="qa1", tokenizer=tokenizer, background="library", problem_seed=3, **settings):
        problems = GeneratedProblems(task, seed=problem_seed, max_n_facts=4)
        if background == "library":
            background = open_library(tokenizer, is_joined=settings.get("layout") != "authors")
        return BabilongBuilder(problems, background, tokenizer, **settings)

    return make


@pytest.fixture(scope="module")
def small(tmp_path_factory, tokenizer, make_backbone, library) -> dict:
    """Parameters of a run that takes a second: a tiny Llama without biases, three updates, validation after each."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer.save_pretrained(folder)
    make_backbone("llama", vocab_size=len(tokenizer)).save_pretrained(folder)
    return {
        "preset": "smoke", "backbone": str(folder), "data_dir": str(folder), "precision": "float32",
        "background": "local", "background_path": str(library), "segments": "4", "steps": 3, "eval_steps": 1,
        "validation_samples": 4, "promote_at": 1.0, "optimizer": "adamw", "trackers": "none",
    }  # fmt: skip
