"""Reading prompts as fast as the machine can: weights in bfloat16, a compiled step that computes nothing in vain.

What is computed is `RMTPreTrainedModel.read`; in another data type it is rounded otherwise, which
`rmtkit.evaluator` checks before it trusts it.

Axis letters: b batch, t tokens, s segment tokens, m memory tokens, d width.
"""

from __future__ import annotations

import copy
import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, cached_property, partial
from itertools import dropwhile, islice
from shutil import which

import numpy as np
import torch

from rmtkit.background import TokenRows
from rmtkit.memory import RMTForCausalLM, RMTPreTrainedModel
from rmtkit.snapshots import Snapshot

SEGMENTS_AT_ONCE = 16  # copied out of the prompts together, while those before are read
SHORT = 256  # positions of a segment up to which plain attention is faster on a CPU than torch's fused one (LOG.md)
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
FLOPS_TO_COMPILE = 8e12  # two minutes of two cores: compiling takes some 20 seconds and saves half (LOG.md)


# ---------------------------------------------------------------------- a copy made for speed


def fast_copy(model: RMTPreTrainedModel, dtype: torch.dtype) -> RMTPreTrainedModel:
    """Return a copy for evaluation with all weights in `dtype`; the model itself if nothing has to be changed.

    On a CPU short segments get plain attention in bfloat16. Buffers stay: rotary frequencies are no weights.
    """
    is_short = model.config.segment_size + 2 * model.config.num_memory_tokens <= SHORT
    pays = model.device.type == "cpu" and dtype is torch.bfloat16 and is_short
    is_plain = not pays or model.backbone.config._attn_implementation == "eager"
    if is_plain and all(weight.dtype == dtype for weight in model.parameters()):
        return model
    fast = copy.deepcopy(model).eval().requires_grad_(False)
    for weight in fast.parameters():
        weight.data = weight.data.to(dtype)
    if not is_plain:
        fast.set_attn_implementation("eager")
    return fast


def flops_per_segment(model: RMTForCausalLM, num_tokens: int, *, only_writing: bool = False) -> int:
    """Return the floating-point operations of one `step` of a decoder on `num_tokens` tokens and the memory around.

    Matrices of the layers: 2 for each weight and position. Attention: 4 x positions x heads x head size for each
    position and layer. The LM head does not count: it is not computed.

    Args: only_writing: as `writer` computes them, whose last layer has keys and values alone but at the write slots.
    """
    config, decoder = model.backbone.config, model.backbone.get_decoder()
    tables = {id(part.weight) for part in decoder.modules() if isinstance(part, torch.nn.Embedding)}
    num_weights = sum(w.numel() for w in decoder.parameters() if w.ndim == 2 and id(w) not in tables)
    positions, heads = num_tokens + 2 * model.config.num_memory_tokens, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // heads
    attention = 4 * positions * heads * head_size  # of a position in a layer
    flops = positions * (2 * num_weights + attention * config.num_hidden_layers)
    if only_writing:
        last = sum(w.numel() for w in decoder.layers[-1].parameters() if w.ndim == 2)
        spared = last - sum(w.numel() for w in _keys_and_values(model))
        flops -= (positions - model.config.num_memory_tokens) * (2 * spared + attention)
    return flops


# ---------------------------------------------------------------------- the last layer


class KeptKeys:
    """The part of transformers' cache that a layer uses, for one layer: it keeps the first keys and values it is given.

    Later calls are answered with those, (b, h, m+s+m, d / h).
    """

    def __init__(self):
        self.kept = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_, **__) -> tuple[torch.Tensor, torch.Tensor]:
        """Keep keys and values at the first call; return what is kept."""
        self.kept = self.kept or (keys, values)
        return self.kept


class WritingLayer(torch.nn.Module):
    """A decoder's last layer (any whose attention asks a cache for keys and values) for the write slots alone.

    Nothing else of its output goes on to the next segment. All positions give keys and values; queries, output and
    feed-forward are computed for the last m. What the first call computes beyond keys and values is used by nobody,
    and the compiler leaves it out; without a compiler this is slower than the layer itself.
    """

    def __init__(self, layer: torch.nn.Module, num_memory_tokens: int):
        super().__init__()
        self.layer = layer
        self.num_memory_tokens = num_memory_tokens

    def forward(self, hidden, attention_mask=None, position_embeddings=None, **_):
        """Return the hidden states (b, m+s+m, d), new only at the write slots."""
        m, num_positions, kept = self.num_memory_tokens, hidden.shape[1], KeptKeys()
        self.layer(hidden, attention_mask=attention_mask, position_embeddings=position_embeddings, past_key_values=kept)
        if attention_mask is None:  # causal, which for the last queries alone has to be said
            mask = torch.ones(m, num_positions, dtype=torch.bool, device=hidden.device).tril(num_positions - m)
        else:
            mask = attention_mask[:, :, -m:]
        written = self.layer(
            hidden[:, -m:], attention_mask=mask, past_key_values=kept,
            position_embeddings=tuple(part[:, -m:] for part in position_embeddings),
        )  # fmt: skip
        return torch.cat([hidden[:, :-m], written], dim=1)


def writer(model: RMTForCausalLM) -> RMTForCausalLM:
    """Return a model with the same weights that writes the same memory and computes no other output of its last layer.

    The model itself if its layers are not of the kind that this works for (tried on a few tokens): Llama's, with
    `self_attn.k_proj` and rotary positions, as Qwen, Mistral, OLMo and many others have them.
    """
    if not _keys_and_values(model) or not model.config.num_memory_tokens:
        return model
    tensors = (*model.parameters(), *model.buffers())
    narrow = copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})  # the same tensors, not copies
    layers = narrow.backbone.get_decoder().layers
    layers[-1] = WritingLayer(layers[-1], model.config.num_memory_tokens)
    probe = torch.arange(4, device=model.device)[None]
    try:
        is_same = torch.allclose(_write(narrow, probe, None), _write(model, probe, None), rtol=1e-2, atol=1e-2)
    except (TypeError, ValueError, RuntimeError, AttributeError):  # a layer that wants something else
        is_same = False
    return narrow if is_same else model


def _keys_and_values(model: RMTForCausalLM) -> list[torch.Tensor]:
    """Return the matrices of the last layer's keys and values; none if they are not there under the usual names."""
    layers = getattr(model.backbone.get_decoder(), "layers", None) or [None]
    attention = getattr(layers[-1], "self_attn", None)
    found = [getattr(attention, name, None) for name in ("k_proj", "v_proj")]
    return [] if None in found else [part.weight for part in found]


# ---------------------------------------------------------------------- reading


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed memory, up to a GiB, for this process: given back, each step takes it anew, page by page.

    Returns: whether it does now; other C libraries stay as they are.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # not Linux, or not glibc
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, 2**25) and mallopt(M_TRIM_THRESHOLD, 2**30))  # 32 MiB: the most it takes


class Reader:
    """Reads prompts side by side and returns their memory, as `model.read` does.

    Segments are cut in a thread while those before are computed. With a snapshot a reading that was killed goes on
    where it was, and gives the same memory bit for bit. On a CPU the process keeps what it frees (`keep_freed_memory`).

    Args: model: of any kind;  on_tokens: called with the number of tokens read since the last call, and of those that
          a snapshot saved reading;  snapshot: where the memory is kept on the way, or None.
    """

    def __init__(self, model: RMTPreTrainedModel, *, on_tokens: Callable[[int, int], None] | None = None,
                 snapshot: Snapshot | None = None):  # fmt: skip
        self.model, self.on_tokens, self.snapshot = model, on_tokens, snapshot
        self._compiled, self._compiled_shape = None, None
        if model.device.type == "cpu":
            keep_freed_memory()

    @cached_property
    def _writer(self) -> RMTForCausalLM:
        """What the compiled step calls."""
        return writer(self.model)

    @torch.inference_mode()
    def compile(self, batch_size: int) -> bool:
        """Compile the step for full segments of so many samples; other shapes are read uncompiled.

        Returns: whether it worked. If not, one line says why and reading goes on without.
        """
        shape = (batch_size, self.model.config.segment_size)
        if self._compiled_shape == shape:
            return True
        self._compiled, self._compiled_shape = None, None
        if problem := _compile_problem(self.model):
            return _say(f"reading without torch.compile: {problem}")
        mode = "reduce-overhead" if self.model.device.type == "cuda" else None  # CUDA graphs
        compiled = torch.compile(partial(_write, self._writer), dynamic=False, mode=mode)
        try:
            compiled(torch.zeros(shape, dtype=torch.long, device=self.model.device), self._first_memory(batch_size))
        except RuntimeError as error:  # torch's and the compiler's own are all of this kind
            return _say(f"reading without torch.compile, which failed: {str(error).strip().splitlines()[0]}")
        self._compiled, self._compiled_shape = compiled, shape
        return True

    @torch.inference_mode()
    def read(self, rows: TokenRows, names: list | None = None) -> torch.Tensor | None:
        """Read prompts (b, t) from M_0 and return the memory (b, m, d); no tokens: None.

        Args: names: what tells these prompts from others, for the snapshot.
        """
        batch_size, num_tokens = rows.shape
        if not num_tokens:
            return None
        what = [names, num_tokens]
        state, position = self.snapshot.load(what) if self.snapshot else (None, 0)
        state = self._first_memory(batch_size) if state is None else state.to(self.model.device).clone()
        self._report(0, batch_size * position)
        for segment, end in self._segments(rows, position):
            state = self._step(segment.to(self.model.device), state)
            self._report(segment.numel(), 0)
            if self.snapshot:
                self.snapshot.keep(what, state, end)
        return state

    def flops_per_segment(self) -> int:
        """Return the floating-point operations that a full segment takes it, as `flops_per_segment` counts them."""
        only_writing = self._compiled is not None and self._writer is not self.model
        return flops_per_segment(self.model, self.model.config.segment_size, only_writing=only_writing)

    def _first_memory(self, batch_size: int) -> torch.Tensor:
        return self.model.initial_memory(batch_size).contiguous()  # compiled code depends on strides

    def _step(self, segment: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        if segment.shape == self._compiled_shape:
            return self._compiled(segment, state).clone()  # CUDA graphs write the next result to the same place
        return _write(self.model, segment, state)

    def _report(self, num_read: int, num_saved: int) -> None:
        if self.on_tokens:
            self.on_tokens(num_read, num_saved)

    def _segments(self, rows: TokenRows, position: int) -> Iterator[tuple[torch.Tensor, int]]:
        """Yield segments (b, s) from a position on, and where each ends."""
        for block in ahead(self._blocks(rows, position)):
            yield from block

    @torch.inference_mode()  # in the thread, too: to compiled code other tensors are of another kind
    def _blocks(self, rows: TokenRows, position: int) -> Iterator[list[tuple[torch.Tensor, int]]]:
        """Yield the segments of `_segments`, several at a time: one copy out of each prompt serves them all."""
        borders = self.model.segment_borders(rows.shape[1])
        borders = dropwhile(lambda border: border[0] < position, borders)
        while block := list(islice(borders, SEGMENTS_AT_ONCE)):
            first, last = block[0][0], block[-1][1]
            tokens = torch.from_numpy(rows[:, first:last].astype(np.int64))
            yield [(tokens[:, start - first : end - first].contiguous(), end) for start, end in block]


def _write(model, segment: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    return model.step(segment, state)[1]


def _compile_problem(model) -> str | None:
    """Return why the step cannot be compiled here, None if nothing is known to be in the way."""
    if not isinstance(model, RMTForCausalLM):
        return f"{type(model).__name__} is no decoder"
    if model.device.type == "cuda":
        from torch.utils._triton import has_triton

        return None if has_triton() else "Triton is not installed"
    if model.device.type != "cpu":
        return f"not on {model.device.type}"
    return None if any(which(name) for name in ("g++", "clang++", "c++", "cl")) else "no C++ compiler is installed"


def _say(text: str) -> bool:
    print(text, file=sys.stderr, flush=True)
    return False


def ahead(items: Iterable) -> Iterator:
    """Yield items; the next one is made in a thread while this one is used."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as pool:
        upcoming = pool.submit(next, iterator, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, iterator, end)
            yield item
