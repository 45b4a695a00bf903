"""Small tokenizers of many kinds, trained on four sentences: what background text is encoded with."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SENTENCES = [
    "The river was high and the road was long.",
    'She said: "No, wait (a moment)."',
    "(In 1990 it rained.)",
    "Mary went to the garden.",
]


def train(model, trainer, pre_tokenizer, decoder, *, normalizer=None):
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizer, decoder
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(SENTENCES * 20, trainer)
    return tokenizer


def make_byte_bpe(vocab_size=400):
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>"],
        show_progress=False,
    )
    return train(models.BPE(), trainer, pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())


def make_byte_bpe_with_bos():
    tokenizer = make_byte_bpe()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def make_wordpiece():
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    return train(
        models.WordPiece(unk_token="[UNK]"),
        trainer,
        pre_tokenizers.BertPreTokenizer(),
        decoders.WordPiece(),
        normalizer=normalizers.BertNormalizer(),
    )


def make_unigram():
    trainer = trainers.UnigramTrainer(vocab_size=200, unk_token="<unk>", special_tokens=["<unk>"], show_progress=False)
    return train(models.Unigram(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def make_metaspace_bpe():
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    return train(
        models.BPE(),
        trainer,
        pre_tokenizers.Metaspace(prepend_scheme="never"),
        decoders.Metaspace(prepend_scheme="never"),
    )


MAKERS = {
    "byte_bpe": make_byte_bpe,
    "byte_bpe_with_bos": make_byte_bpe_with_bos,
    "wordpiece": make_wordpiece,
    "unigram": make_unigram,
    "metaspace_bpe": make_metaspace_bpe,
}


def wrap(tokenizer, **options):
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options)
