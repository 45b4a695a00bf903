"""Assembling a long sample from the token store, against tokenising its text on the fly."""

from __future__ import annotations

import numpy as np

from rmtkit.config import Config

from .measurement import seconds

LONG, LONGEST = 512 * 1024, 10_000_000  # tokens


def bench_data(config: Config) -> dict:
    """Compare assembling a sample of 512k tokens from the store with tokenising its text on the fly.

    The text is tokenised in the two ways people do: a call per sentence (the authors' code), and one batched call.
    """
    from rmtkit.experiment import open_builder, open_problems, open_tokenizer

    tokenizer = open_tokenizer(config)
    open_builder(config, tokenizer, open_problems(config))  # build the store first, if it is not there
    builder = open_builder(config, tokenizer, open_problems(config))
    longest = seconds(lambda: builder.sample("test", 0, LONGEST))
    assembled = min(seconds(lambda i=i: builder.sample("test", i, LONG)) for i in range(1, 6))
    tokens, starts = builder.background.passage("test", LONG, np.random.default_rng(0))
    sentences = tokenizer.batch_decode([piece.tolist() for piece in np.split(tokens, starts[1:])])
    batched = min(seconds(lambda: tokenizer(sentences, add_special_tokens=False)) for _ in range(2))
    one_by_one = seconds(lambda: [tokenizer(sentence, add_special_tokens=False) for sentence in sentences])
    print(f"sample of {LONG:,} tokens from the store: {assembled * 1e3:.2f} ms (best of 5)")
    print(
        f"  tokenised on the fly, one batched call: {batched * 1e3:,.0f} ms, {batched / assembled:,.0f} times as long"
    )
    print(
        f"  tokenised on the fly, sentence by sentence: {one_by_one * 1e3:,.0f} ms, {one_by_one / assembled:,.0f} times"
    )
    print(f"first sample of {LONGEST:,} tokens: {longest:.3f} s")
    return {
        "bench": "data", "background": config.background, "tokens": LONG, "assembled_s": assembled,
        "tokenised_batched_s": batched, "tokenised_one_by_one_s": one_by_one,
        "ratio_batched": batched / assembled, "ratio_one_by_one": one_by_one / assembled,
        "first_10m_s": longest,
    }  # fmt: skip
