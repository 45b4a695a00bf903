"""Make an untrained BERT and an untrained BART, both tiny, with the tokenizer of the reference backbone.

python outputs/reference/encoders/make_backbones.py FOLDER     from the repository; writes FOLDER/bert and FOLDER/bart
"""

import sys
from pathlib import Path

import torch
from transformers import AutoTokenizer, BartConfig, BartForConditionalGeneration, BertConfig, BertForMaskedLM

WIDTH, LAYERS, HEADS = 128, 3, 4


def make(folder: Path) -> None:
    """Write both folders: weights drawn from seed 0, tokenizer files beside them."""
    tokenizer = AutoTokenizer.from_pretrained("outputs/reference/backbone")
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    size, end = len(tokenizer), tokenizer.eos_token_id
    bert = BertConfig(
        vocab_size=size, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        intermediate_size=3 * WIDTH, max_position_embeddings=256, pad_token_id=end, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    bart = BartConfig(
        vocab_size=size, d_model=WIDTH, encoder_layers=LAYERS, decoder_layers=1, encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS, encoder_ffn_dim=3 * WIDTH, decoder_ffn_dim=3 * WIDTH,
        max_position_embeddings=256, dropout=0.0, pad_token_id=end, eos_token_id=end, bos_token_id=end,
        decoder_start_token_id=end, forced_eos_token_id=None,
    )  # fmt: skip
    for name, model_class, config in (("bert", BertForMaskedLM, bert), ("bart", BartForConditionalGeneration, bart)):
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
