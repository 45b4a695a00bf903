"""Words of the tasks as tokens of their own: what is written otherwise, what stays, what a run makes of it."""

import dataclasses
import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, GPT2Config, GPT2Tokenizer, LlamaConfig, PreTrainedTokenizerFast

from rmtkit.config import ConfigError, resolve
from rmtkit.evaluation import evaluate
from rmtkit.experiment import build_model, open_former_tokenizer, open_stories, open_tokenizer, prepare
from rmtkit.kinds import load_model
from rmtkit.memory import RMTForCausalLM
from rmtkit.pretraining import new_backbone
from rmtkit.training import train
from rmtkit.vocabulary import add_embeddings, add_words

TEXTS = (" Mary discarded the football there.", " Where is the milk?", " milk")
NEW = ["Ġdiscarded", "Ġfootball", "Ġmilk"]


@pytest.fixture(scope="module")
def own():
    """The tokenizer of the reference backbone, which writes ` football` as five tokens."""
    return open_former_tokenizer(resolve({}))


def test_words_become_tokens_and_the_others_keep_theirs(own):
    extended = add_words(own, TEXTS)
    assert extended.convert_ids_to_tokens(range(len(own), len(extended))) == NEW
    ids = extended(TEXTS[0])["input_ids"]
    assert ids[1:4] == [len(own), own.convert_tokens_to_ids("Ġthe"), len(own) + 1]
    assert [extended.decode(extended(text)["input_ids"]) for text in TEXTS] == list(TEXTS)
    assert own.get_vocab().items() <= extended.get_vocab().items()
    for text in (" Footballs and footballers, milky discard; a foot, a ball.", "The milkman's 12 \n\n folk songs é"):
        assert extended(text)["input_ids"] == own(text)["input_ids"]


def test_words_that_are_tokens_already_change_nothing(own):
    extended = add_words(own, [" John went to the kitchen."])
    assert extended.get_vocab() == own.get_vocab()


@pytest.mark.parametrize("is_gpt2", [False, True])
def test_saved_and_loaded_the_words_are_still_there(own, is_gpt2, tmp_path):
    former = own
    if is_gpt2:  # a class that makes its own rules from vocabulary and merges when it is loaded
        bpe = json.loads(own.backend_tokenizer.to_str())["model"]
        former = GPT2Tokenizer(vocab=bpe["vocab"], merges=[tuple(pair) for pair in bpe["merges"]])
    extended = add_words(former, TEXTS)
    extended.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        assert loaded(text)["input_ids"] == extended(text)["input_ids"] != former(text)["input_ids"]
    assert loaded.eos_token_id == former.eos_token_id is not None


def test_other_sorts_of_tokenizers_are_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(ConfigError, match="whole_words needs a tokenizer of byte-level BPE, not"):
        add_words(PreTrainedTokenizerFast(tokenizer_object=words), TEXTS)


@pytest.mark.parametrize("make", [GPT2Config, LlamaConfig])  # tied, with an output layer of its own
def test_a_new_tokens_embedding_is_the_mean_of_its_pieces(own, make):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "bos_token_id": 0, "eos_token_id": 0}
    config = make(vocab_size=len(own), **sizes, **({"intermediate_size": 8} if make is LlamaConfig else {}))
    model, extended = (
        RMTForCausalLM.from_backbone(_decoder(config), num_memory_tokens=2, segment_size=8),
        add_words(own, TEXTS),
    )
    layers = (model.get_input_embeddings, model.get_output_embeddings)
    before = [layer().weight.detach().clone() for layer in layers]
    add_embeddings(model, extended, own)
    for former, layer in zip(before, layers, strict=True):
        weight = layer().weight
        assert weight.shape == (len(extended), 8) and weight[: len(own)].equal(former)
        for token, word in enumerate(NEW, start=len(own)):
            pieces = own(word.replace("Ġ", " "))["input_ids"]
            torch.testing.assert_close(weight[token], former[pieces].mean(0))
    assert model(input_ids=torch.full((1, 12), len(own))).logits.shape[-1] == len(extended)


def _decoder(config):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("layout", ["spaced", "authors"])
@pytest.mark.parametrize("task", ["qa2", "qa5", "qa8"])
def test_all_that_a_task_says_is_whole_words(task, layout):
    config = resolve({"task": task, "layout": layout, "whole_words": True, "max_n_facts": 20})
    extended, space = open_tokenizer(config), "" if layout == "authors" else " "
    stories = open_stories(dataclasses.replace(config, seed=7))
    for index in range(40):
        problem = stories.problem("test", index)
        question = problem.questions[0]
        for text in (*(" " + fact for fact in problem.facts), " " + question.text, space + question.answer):
            written = extended.convert_ids_to_tokens(extended(text)["input_ids"])
            assert len(written) == len(text.replace(",", " , ").replace(".", " .").replace("?", " ?").split())


def test_a_run_with_whole_words_is_evaluated_and_gone_on_with(own, tmp_path):
    folder = tmp_path / "backbone"
    new_backbone(own, seed=0).save_pretrained(folder)
    own.save_pretrained(folder)
    given = {"preset": "smoke", "task": "qa2", "backbone": str(folder), "precision": "float32", "steps": "2",
             "segments": "4", "segment_size": 64, "outputs_dir": str(tmp_path), "data_dir": str(tmp_path)}  # fmt: skip
    experiment = prepare(resolve({**given, "whole_words": True, "start_share": 0.5}))
    model = train(experiment)
    saved, written = load_model(experiment.run.model_path), AutoTokenizer.from_pretrained(experiment.run.model_path)
    assert len(written) == len(experiment.tokenizer) > len(own)
    assert saved.get_input_embeddings().weight.equal(model.get_input_embeddings().weight)
    records = evaluate(saved, [experiment.builder.sample("validation", i, 200) for i in range(4)], written)
    assert len(records) == 4 and (records["num_tokens"] == 200).all()
    further = prepare(resolve({**given, "backbone": str(experiment.run.model_path), "seed": 1}))
    assert further.tokenizer.get_vocab() == written.get_vocab()
    assert build_model(further.config).get_input_embeddings().weight.equal(saved.get_input_embeddings().weight)
