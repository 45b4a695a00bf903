"""Encoders and encoder-decoders as experiments: the class that wraps them, batches, answers, training, loading."""

import copy

import pytest
import torch
from transformers import (
    AutoConfig,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    ModernBertConfig,
    RobertaConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from rmtkit.config import ConfigError, resolve
from rmtkit.curriculum import StageDataset, stages
from rmtkit.evaluation import evaluate
from rmtkit.experiment import build_model, load_trained, open_tokenizer, prepare, prompt_size
from rmtkit.kinds import answer, collate, load_model, model_class, training_questions
from rmtkit.memory import RMTForCausalLM, RMTForSeq2SeqLM, RMTForSequenceClassification
from rmtkit.training import train

PLACES = ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """Untrained backbones with random weights, tokenizer files beside them: bert, t5, bart."""
    folder, tokenizer = tmp_path_factory.mktemp("backbones"), copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    size, end = len(tokenizer), tokenizer.eos_token_id
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    bert = BertConfig(vocab_size=size, hidden_size=16, max_position_embeddings=64, initializer_range=0.3, **layers)
    ids = {"vocab_size": size, "d_model": 16, "pad_token_id": end, "eos_token_id": end, "decoder_start_token_id": end}
    t5 = T5Config(d_kv=8, d_ff=32, num_layers=2, num_heads=2, **ids)
    bart = BartConfig(
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
        decoder_ffn_dim=32, forced_bos_token_id=7, init_std=0.3, **ids,
    )  # fmt: skip
    torch.manual_seed(0)
    for name, model in (
        ("bert", BertModel(bert)),
        ("t5", T5ForConditionalGeneration(t5)),
        ("bart", BartForConditionalGeneration(bart)),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture(params=["bert", "t5"])
def name(request):
    """An encoder and an encoder-decoder in turn."""
    return request.param


@pytest.fixture(scope="module")
def make_experiment(folder, library):
    """Return a function that prepares a smoke run of one of the backbones, in segments of 48 tokens."""

    def make(name, outputs_dir, **more):
        parameters = {
            "preset": "smoke", "backbone": str(folder / name), "data_dir": str(folder), "precision": "float32",
            "outputs_dir": str(outputs_dir), "segment_size": 48, **more,
        }  # fmt: skip
        if "background" not in more:
            parameters.update(background="local", background_path=str(library))
        return prepare(resolve(parameters))

    return make


def take(experiment, *, num_segments=2, count=6, **options):
    size = prompt_size(experiment.config, num_segments)
    return [experiment.builder.sample("test", index, size, **options) for index in range(count)]


@pytest.mark.parametrize(
    "config, expected",
    [(BertConfig(), RMTForSequenceClassification), (RobertaConfig(), RMTForSequenceClassification),
     (ModernBertConfig(), RMTForSequenceClassification), (T5Config(), RMTForSeq2SeqLM),
     (BartConfig(), RMTForSeq2SeqLM), (GPT2Config(), RMTForCausalLM), (BertConfig(is_decoder=True), RMTForCausalLM)],
)  # fmt: skip
def test_model_class_follows_the_backbone(config, expected):
    assert model_class(config) is expected


@pytest.mark.parametrize("task, answers", [("qa1", PLACES), ("qa1,qa6", sorted([*PLACES, "yes", "no"]))])
def test_build_model_has_a_class_for_every_answer(make_experiment, tmp_path, task, answers):
    model = build_model(make_experiment("bert", tmp_path, task=task).config)
    assert list(model.config.id2label.values()) == answers and model.backbone.config.num_labels == len(answers)


def test_build_model_depends_on_the_seed_only(make_experiment, tmp_path):
    drawn = []
    for noise, seed in ((0, 5), (1, 5), (1, 6)):
        torch.manual_seed(noise)
        model = build_model(make_experiment("bert", tmp_path, seed=seed).config)
        drawn.append(torch.cat([model.memory.flatten(), model.backbone.classifier.weight.flatten()]))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1][-10:], drawn[2][-10:]) and not torch.equal(drawn[1][:10], drawn[2][:10])


def test_build_model_gives_cls_and_sep_of_the_tokenizer(make_experiment, tmp_path):
    experiment = make_experiment("bert", tmp_path)
    config, tokenizer = build_model(experiment.config).config, experiment.tokenizer
    assert (config.cls_token_id, config.sep_token_id) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert None not in (config.cls_token_id, config.sep_token_id)


def test_prepare_counts_cls_and_sep_among_the_positions(make_experiment, tmp_path):
    make_experiment("bert", tmp_path, segment_size=53)
    with pytest.raises(ConfigError, match="segments of at most 53 tokens"):  # 64 positions, 8 memory tokens
        make_experiment("bert", tmp_path, segment_size=54)


def test_tokenizer_without_eos_ends_answers_with_sep(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_special_tokens({"sep_token": "[SEP]"})
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    assert open_tokenizer(resolve({"backbone": str(tmp_path)})).eos_token == "[SEP]"


# ---------------------------------------------------------------- batches


def test_collate_for_a_classifier_is_the_prompt_and_the_answer(make_experiment, tmp_path):
    experiment = make_experiment("bert", tmp_path, background="none")
    model, samples = build_model(experiment.config), take(experiment, num_extra_questions=2)
    batch = collate(samples, experiment.tokenizer.eos_token_id, model)
    assert len({len(sample.prompt) for sample in samples}) > 1
    for row, sample in enumerate(samples):
        assert batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist() == sample.prompt.tolist()
        assert PLACES[batch["labels"][row]] == sample.question.answer


def test_collate_for_an_encoder_decoder_is_prompt_and_answer_with_eos(make_experiment, tmp_path):
    experiment = make_experiment("t5", tmp_path, background="none", answer_size=40)
    model, samples = build_model(experiment.config), take(experiment, num_extra_questions=2)
    batch = collate(samples, experiment.tokenizer.eos_token_id, model)
    assert not all(sample.is_answer.all() for sample in samples)  # there are extra questions to leave out
    for row, sample in enumerate(samples):
        given = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert given == [*sample.prompt.tolist(), experiment.tokenizer.eos_token_id]
        labels = batch["labels"][row][batch["labels"][row] != -100]
        assert experiment.tokenizer.decode(labels) == f" {sample.question.answer}<|endoftext|>"


def test_training_samples_ask_one_question(make_experiment, tmp_path, name):
    experiment = make_experiment(name, tmp_path)
    assert experiment.config.num_questions_between and experiment.config.num_extra_questions
    config = training_questions(experiment.config, build_model(experiment.config))
    dataset = StageDataset(experiment.builder, config, stages(experiment)[1])
    samples = [dataset[index] for index in range(8)]
    assert not any(len(sample.earlier_answers) for sample in samples)
    assert all(sample.is_answer.all() for sample in samples)


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("num_segments", [2, 3])
def test_answer_of_a_classifier_equals_its_forward_pass(make_experiment, tmp_path, num_segments):
    experiment = make_experiment("bert", tmp_path)
    model, samples = build_model(experiment.config).eval(), take(experiment, num_segments=num_segments, count=12)
    found = answer(model, samples, experiment.tokenizer)
    for sample, text in zip(samples, found, strict=True):
        logits = model(torch.from_numpy(sample.prompt.astype("int64"))[None]).logits
        assert text == PLACES[int(logits.argmax())]
    assert len(set(found)) > 1


@pytest.mark.parametrize("backbone", ["t5", "bart"])
@pytest.mark.parametrize("num_segments", [2, 3])
def test_answer_of_an_encoder_decoder_equals_token_by_token(make_experiment, tmp_path, backbone, num_segments):
    experiment = make_experiment(backbone, tmp_path)
    model, tokenizer = build_model(experiment.config).eval(), experiment.tokenizer
    samples, end = take(experiment, num_segments=num_segments), experiment.tokenizer.eos_token_id
    for sample, text in zip(samples, answer(model, samples, tokenizer), strict=True):
        given = torch.tensor([[*sample.prompt.tolist(), end]])
        ids, size = [end], len(sample.continuation)
        while len(ids) <= size and ids[1:].count(end) == 0:
            ids.append(int(model(given, decoder_input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        has_end = ids[-1] == end
        assert text == tokenizer.decode(ids[1:-1] if has_end else ids[1:]).strip() + ("" if has_end else "...")


def test_answer_of_an_encoder_decoder_reads_the_prompt_with_eos(make_experiment, tmp_path):
    experiment, seen = make_experiment("t5", tmp_path), []
    model, samples = build_model(experiment.config), take(experiment)
    generate = model.generate
    model.generate = lambda last, **options: seen.append(last) or generate(last, **options)
    answer(model, samples, experiment.tokenizer)
    assert seen[0].shape[1] == experiment.config.segment_size
    assert (seen[0][:, -1] == experiment.tokenizer.eos_token_id).all()
    assert seen[0][0, :-1].tolist() == samples[0].prompt[-47:].tolist()


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_train_and_load_give_the_same_answers(make_experiment, tmp_path, name, optimizer):
    experiment = make_experiment(name, tmp_path, optimizer=optimizer)
    model = train(experiment)
    loaded, tokenizer = load_trained(experiment.config)
    assert type(loaded) is type(model)
    samples = take(experiment)
    found = evaluate(loaded, samples, tokenizer)
    assert found["prediction"].tolist() == evaluate(model, samples, tokenizer)["prediction"].tolist()
    assert [row["step"] for row in experiment.run.metrics()] == [2, 4, 2, 4]


def test_train_changes_memory_and_weights(make_experiment, tmp_path, name):
    experiment = make_experiment(name, tmp_path)
    before, after = build_model(experiment.config), train(experiment)
    assert not torch.equal(before.memory, after.memory)
    assert not torch.equal(before.get_input_embeddings().weight, after.get_input_embeddings().weight)


def test_build_model_goes_on_with_a_trained_model(make_experiment, tmp_path, name):
    model = train(make_experiment(name, tmp_path / "first", run_dir=str(tmp_path / "first")))
    more = {"backbone": str(tmp_path / "first" / "model"), "bptt_depth": 1}
    again = build_model(make_experiment(name, tmp_path / "second", **more).config)
    assert type(again) is type(model) and again.config.bptt_depth == 1
    assert torch.equal(again.memory, model.memory)
    assert type(load_model(tmp_path / "first" / "model")) is type(model)
    assert AutoConfig.from_pretrained(tmp_path / "first" / "model").model_type == "rmt"


def test_build_model_refuses_a_classifier_of_other_answers(make_experiment, tmp_path):
    train(make_experiment("bert", tmp_path / "first", run_dir=str(tmp_path / "first")))
    other = make_experiment("bert", tmp_path, backbone=str(tmp_path / "first" / "model"), task="qa6")
    with pytest.raises(ConfigError, match="task qa6 has other answers"):
        build_model(other.config)
