"""Tiny random decoders of many model types: what `RMTForCausalLM` is tested around (README, "Bring your own model")."""

import torch
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB_SIZE = 40
IDS = {"vocab_size": VOCAB_SIZE, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
SHAPE = {**IDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64,
         "initializer_range": 0.3}  # fmt: skip
LLAMA = {**SHAPE, "intermediate_size": 32, "num_key_value_heads": 1}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8,
         "mamba_d_conv": 4, "mamba_chunk_size": 8}  # fmt: skip
DECODERS = {
    "gpt2": {**SHAPE, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "gpt_neox": {**SHAPE, "intermediate_size": 32},  # Pythia
    "llama": LLAMA,  # SmolLM2
    "mistral": {**LLAMA, "sliding_window": 7},
    "qwen2": {**LLAMA, "use_sliding_window": False},
    "qwen3": {**LLAMA, "head_dim": 8},
    "gemma": {**LLAMA, "head_dim": 8},
    "gemma3_text": {**LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 6},
    "opt": {**SHAPE, "ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.0, "init_std": 0.3},
    "phi": {**SHAPE, "intermediate_size": 32, "partial_rotary_factor": 0.5},
    "phi3": {**LLAMA, "head_dim": 8},
    "olmo2": LLAMA,
    "bloom": {**IDS, "hidden_size": 16, "n_layer": 2, "n_head": 2, "initializer_range": 0.3},
    "falcon": {**SHAPE, "new_decoder_architecture": False, "alibi": False},
    "falcon_h1": {**LLAMA, "head_dim": 8, **MAMBA},  # attention and Mamba 2 side by side
    "mamba": {**IDS, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 8, "initializer_range": 0.3},
    "lfm2": {**LLAMA, "layer_types": ["conv", "full_attention"], "block_ff_dim": 32},
}


WITHOUT_SDPA = ("bloom", "mamba")


def make_decoder(model_type, *, attention="sdpa", seed=0, **settings):
    """Return a tiny decoder with random weights, the same for the same arguments, without dropout."""
    attention = None if model_type in WITHOUT_SDPA else attention
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **{**DECODERS[model_type], **settings})
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
