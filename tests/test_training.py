"""The curriculum: batches of one length, labels, growth, precision, resume after a kill."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from trainer_runs import make_experiment
from transformers import TrainerControl, TrainerState

from rmtkit.config import ConfigError, resolve
from rmtkit.curriculum import GrowthCallback, Stage, StageDataset, StageEndCallback, stages
from rmtkit.experiment import build_model, prepare, prompt_size
from rmtkit.kinds import collate, load_model
from rmtkit.optimization import MuonWithAdamW
from rmtkit.pretraining import new_backbone, train_tokenizer
from rmtkit.runs import open_run, read_json
from rmtkit.trainer import make_optimizer
from rmtkit.training import (
    Hooks,
    choose_precision,
    first_training_text,
    make_trainer,
    newest_complete_checkpoint,
    stage_dataset,
    train,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict:
    """Parameters of a run that takes a second: an untrained backbone, two stages of four updates."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_tokenizer(seed=0)
    tokenizer.save_pretrained(folder)
    new_backbone(tokenizer, seed=0).save_pretrained(folder)
    return {"preset": "smoke", "backbone": str(folder), "data_dir": str(folder), "precision": "float32"}


def test_stage_batches_have_one_number_of_segments(small, tmp_path):
    experiment = make_experiment(small, tmp_path, segments="2,6", vary_segments=0.5)
    dataset = StageDataset(experiment.builder, experiment.config, stages(experiment)[1])
    size = experiment.config.batch_size
    drawn = [{dataset.num_segments(i) for i in range(start, start + size)} for start in range(0, 40 * size, size)]
    assert all(len(numbers) == 1 for numbers in drawn)
    assert {2, 6} <= set.union(*drawn) <= {2, 3, 4, 5, 6}


def test_stages_share_no_sample(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    first, second = (StageDataset(experiment.builder, experiment.config, stage) for stage in stages(experiment))
    assert first[0].index != second[0].index
    assert first[0].problem.facts != second[0].problem.facts


def test_collate_labels_are_the_answers_and_nothing_else(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    size = prompt_size(experiment.config, 4)
    samples = [
        experiment.builder.sample("train", i, size, num_extra_questions=2, num_questions_between=4) for i in range(6)
    ]
    batch = collate(samples, pad_token_id=0)
    for row, sample in enumerate(samples):
        labels = batch["labels"][row]
        text = experiment.tokenizer.decode(labels[labels != -100])
        order = sorted(sample.problem.earlier, key=lambda q: q.num_facts)
        kept = order[: len(sample.earlier_answers)] if len(order) >= len(sample.earlier_answers) else order
        answers = [q.answer for q in kept] + [q.answer for q in sample.problem.questions]
        found = [answer for answer in text.replace("<|endoftext|>", " ").split()]
        assert found == answers[: len(found)]
        is_label = labels != -100
        assert torch.equal(batch["input_ids"][row][is_label], labels[is_label])


def test_train_uses_no_test_sample(small, tmp_path, monkeypatch):
    experiment = make_experiment(small, tmp_path)
    splits, sample = set(), experiment.builder.sample
    monkeypatch.setattr(
        experiment.builder, "sample", lambda split, *a, **k: splits.add(split) or sample(split, *a, **k)
    )
    train(experiment)
    assert splits == {"train", "validation"}


def test_stage_starts_from_the_best_of_the_last(small, tmp_path):
    experiment = make_experiment(small, tmp_path, learning_rate=0, matrix_learning_rate=0, memory_learning_rate=0)
    train(experiment)
    first, second = (load_file(stage.best / "model.safetensors") for stage in stages(experiment))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("share", "precision"), [(0.25, "float32"), (0.5, "bfloat16"), (1.0, "float32")])
def test_the_model_kept_is_mixed_with_that_of_the_start(small, tmp_path, share, precision):
    experiment = make_experiment(small, tmp_path, start_share=share, precision=precision)
    kept = train(experiment).state_dict()
    start, best = build_model(experiment.config).state_dict(), load_model(stages(experiment)[-1].best).state_dict()
    assert any(not torch.equal(start[name].to(best[name]), best[name]) for name in best)
    saved = load_model(experiment.run.model_path).state_dict()
    for name, weight in best.items():
        mixed = (1 - share) * weight.float() + share * start[name].float()
        torch.testing.assert_close(kept[name], mixed.to(weight.dtype))
        assert torch.equal(saved[name], kept[name])
    again = train(experiment).state_dict()  # of a finished run, as after a kill between training and test
    assert all(torch.equal(again[name], kept[name]) for name in kept)


def test_each_stage_has_its_share_of_the_learning_rates(small, tmp_path):
    experiment = make_experiment(small, tmp_path, stage_rates="1,0.25", memory_learning_rate="none")
    config = experiment.config
    for stage, share in zip(stages(experiment), (1, 0.25), strict=True):
        optimizer = make_trainer(experiment, stage, build_model(config), Hooks()).create_optimizer()
        rates = {group["lr"] for group in optimizer.param_groups}
        assert rates == {share * config.matrix_learning_rate, share * config.learning_rate}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_stage_with_no_share_of_the_rates_changes_nothing(small, tmp_path, optimizer):
    experiment = make_experiment(small, tmp_path, stage_rates="1,0", optimizer=optimizer)
    train(experiment)
    first, second = (load_file(stage.best / "model.safetensors") for stage in stages(experiment))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_finished_run_is_not_trained_again(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    train(experiment)
    before = len(experiment.run.metrics())
    train(make_experiment(small, tmp_path))
    assert len(experiment.run.metrics()) == before


def test_promotion_ends_every_stage_but_the_last_early(small, tmp_path):
    experiment = make_experiment(small, tmp_path, promote_at=0.0, steps="6", eval_steps=2)
    train(experiment)
    assert [(row["stage"], row["step"]) for row in experiment.run.metrics()] == [(0, 2), (1, 2), (1, 4), (1, 6)]


def test_stage_promoted_before_a_kill_stays_promoted(small, tmp_path):
    experiment = make_experiment(small, tmp_path, promote_at=0.0, steps="4", eval_steps=2)
    first, second = stages(experiment)
    train(experiment)
    before = load_file(first.best / "model.safetensors")
    for folder in (first.best, second.folder, experiment.run.model_path):  # as if killed after its last checkpoint
        shutil.rmtree(folder)
    train(experiment)
    after = load_file(first.best / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [row["step"] for row in experiment.run.metrics() if row["stage"] == 0] == [2]


def test_seconds_of_a_stage_are_those_of_all_processes_that_trained_it(small, tmp_path):
    experiment = make_experiment(small, tmp_path, steps="4", eval_steps=2)
    first, second = stages(experiment)
    train(experiment)
    for folder in (second.best, second.folder / "checkpoint-4", experiment.run.model_path):  # as if killed after two
        shutil.rmtree(folder)
    for seconds, stage, step in [(10_000, 0, 2), (200, 1, 1), (30, 1, 2), (4_000, 1, 3)]:
        experiment.run.append_log({"stage": stage, "step": step, "split": "train", "seconds": seconds})
    train(experiment)
    assert 230 < read_json(second.folder / "stage.json")["seconds"] < 4_000
    assert read_json(first.folder / "stage.json")["seconds"] < 230


@pytest.mark.parametrize(
    ("promote_at", "patience", "stops"), [(None, 3, 6), (0.9, 3, 2), (0.95, 3, 6), (None, 9, None)]
)
def test_stage_ends_when_learned_or_stuck(promote_at, patience, stops):
    callback, state = StageEndCallback(promote_at, patience), TrainerState(log_history=[])
    for step, accuracy in enumerate([0.5, 0.9, 0.94, 0.94, 0.9, 0.94], start=1):
        state.log_history += [{"step": step, "loss": 0.1}, {"step": step, "eval_exact_match": accuracy}]
        for method in (callback.on_train_begin, callback.on_evaluate):  # resumed, or not killed
            assert method(None, state, TrainerControl()).should_training_stop == (stops is not None and step >= stops)


def facts_and_background(samples):
    """The most facts in a sample, and the tokens that are no fact and no question."""
    facts = max(len(sample.problem.facts) for sample in samples)
    spans = [(sample.fact_spans[:, 1] - sample.fact_spans[:, 0]).sum() for sample in samples]
    return facts, sum(len(sample.prompt) for sample in samples) - sum(spans)


@pytest.mark.parametrize("growth", ["facts", "background"])
def test_samples_grow_with_every_level(small, tmp_path, growth):
    experiment = make_experiment(small, tmp_path, growth=growth, batch_size=16, micro_batch_size=16, segments="8")
    dataset = StageDataset(experiment.builder, experiment.config, stages(experiment)[0])
    dataset.grown_at = [1, 2, 2]
    batches = [[dataset[i] for i in range(start, start + 16)] for start in (0, 16, 32)]
    facts, background = zip(*map(facts_and_background, batches), strict=True)
    if growth == "facts":
        assert facts == (2, 4, 8)
    else:
        assert background[0] < background[1] < background[2] and max(facts) == 10


def test_batches_of_varied_background_have_any_share_of_it(small, tmp_path):
    varied = {"vary_background": 0.5, "batch_size": 4, "micro_batch_size": 4, "segments": "8", "vary_segments": 0}
    experiment = make_experiment(small, tmp_path, **varied)
    dataset = StageDataset(experiment.builder, experiment.config, stages(experiment)[0])
    whole = prompt_size(experiment.config, 8)
    sizes = [[len(dataset[i].prompt) for i in range(start, start + 4)] for start in range(0, 120, 4)]
    full = [batch for batch in sizes if min(batch) == whole]
    assert 8 <= len(full) <= 22
    assert all(max(batch) < whole for batch in sizes if batch not in full)
    assert len({max(batch) for batch in sizes}) == 31 - len(full)


def test_facts_of_recorded_stories_cannot_grow(tmp_path):
    with pytest.raises(ConfigError, match="growth facts needs generated stories"):
        resolve({"preset": "smoke", "growth": "facts", "babi_path": str(tmp_path)})


@pytest.mark.parametrize("varied", [{"growth": "background"}, {"vary_background": 0.3}])
def test_background_varies_only_where_there_is_some(varied):
    resolve({"preset": "smoke", "background": "wiki", **varied})
    with pytest.raises(ConfigError, match="change how much background there is"):
        resolve({"preset": "smoke", "background": "none", **varied})


def test_samples_grow_where_the_log_says_solved(small, tmp_path):
    experiment = make_experiment(small, tmp_path, growth="facts", growth_loss=0.5)
    dataset = StageDataset(experiment.builder, experiment.config, stages(experiment)[0])
    state = TrainerState(log_history=[{"step": 3, "loss": 0.6}, {"step": 6, "loss": 0.4}, {"step": 6, "eval_loss": 0}])
    GrowthCallback(dataset).on_log(None, state, None)
    assert dataset.grown_at == [6 + GrowthCallback.AHEAD]


def test_optimizer_gives_matrices_to_muon_and_every_weight_to_one_part(small, tmp_path):
    experiment = make_experiment(small, tmp_path)
    model = build_model(experiment.config)
    optimizer = make_optimizer(model, experiment.config)
    assert isinstance(optimizer, MuonWithAdamW)
    matrices, others, memory = (group["params"] for group in optimizer.param_groups)
    assert all(p.ndim == 2 for p in matrices) and any(p is model.get_input_embeddings().weight for p in others)
    assert memory[0] is model.memory and len(memory) == 1
    everything = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(everything) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_is_in_the_precision_asked_for_whatever_is_stored(small, tmp_path, stored, precision, monkeypatch):
    monkeypatch.setattr("rmtkit.training.default_device", lambda: torch.device("cpu"))
    config = make_experiment(small, tmp_path, precision=precision).config
    model = build_model(config).to(stored)
    choose_precision(model, config)
    assert {str(weight.dtype) for weight in model.parameters()} == {f"torch.{precision}"}


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_gpu_trains_weights_stored_in_bfloat16_in_float32(small, tmp_path, precision, monkeypatch):
    monkeypatch.setattr("rmtkit.training.default_device", lambda: torch.device("cuda"))
    config = make_experiment(small, tmp_path, precision=precision).config
    model = build_model(config).bfloat16()
    choose_precision(model, config)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("is_trained", [False, True])
def test_spread_embeddings_have_nothing_in_common(small, tmp_path, is_trained):
    experiment = make_experiment(small, tmp_path)
    backbone = experiment.config.backbone
    if is_trained:
        backbone = str(tmp_path / "rmt")
        model = build_model(experiment.config)
        with torch.no_grad():
            model.get_input_embeddings().weight.add_(0.5)
        model.save_pretrained(backbone)
        experiment.tokenizer.save_pretrained(backbone)
    config = dataclasses.replace(experiment.config, backbone=backbone)
    before, after = build_model(config), build_model(dataclasses.replace(config, spread_embeddings=True))
    old, new = before.get_input_embeddings().weight, after.get_input_embeddings().weight
    torch.testing.assert_close(new.norm(dim=-1), old.norm(dim=-1))
    one, two = (torch.nn.functional.normalize(w, dim=-1) for w in (old, new))
    common = torch.nn.functional.normalize(one.mean(0), dim=0)
    assert (two @ common).abs().max() < 1e-5 and (one @ common).abs().max() > 0.1
    assert new.data_ptr() == after.get_output_embeddings().weight.data_ptr()  # the output layer is the same matrix
    changed = {name for name, weight in after.named_parameters() if not weight.equal(before.get_parameter(name))}
    assert len(changed) == 1


def test_newest_complete_checkpoint_skips_one_cut_off(tmp_path):
    for step, state in ((2, "{}"), (10, '{"global_st')):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    assert newest_complete_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    assert not (tmp_path / "checkpoint-10").exists()
    assert newest_complete_checkpoint(tmp_path / "nothing") is None


TRAIN = """
import sys, torch
from rmtkit.config import ConfigError, resolve
from rmtkit.experiment import prepare
from rmtkit.training import train

def spoil(batch):  # gradients that are not finite, in updates that the tokens decide
    if "text" not in batch and int(batch["input_ids"].sum()) % 5 == 0:
        batch["state"] = torch.full((len(batch["input_ids"]), 8, 128), torch.nan)
    return batch

torch.set_num_threads(1)
train(prepare(resolve(dict(item.split("=", 1) for item in sys.argv[1:]))), batch_transform=spoil)
"""


def start_training(parameters: dict) -> subprocess.Popen:
    arguments = [f"{name}={value}" for name, value in parameters.items()]
    return subprocess.Popen([sys.executable, "-c", TRAIN, *arguments], stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "more",
    [
        {"growth": "background", "growth_loss": "100"},  # grows with every log
        {"window": "1", "precision": "bfloat16"},
        {"window": "1", "distraction": "0.1", "ema_decay": "0.5", "start_share": "0.5"},
        {"distraction": "0.1", "stillness": "5", "memory_grid": "0.5"},
    ],
)
def test_killed_run_ends_with_the_weights_of_an_uninterrupted_one(small, tmp_path, more):
    parameters = {**small, "segments": "2,3", "steps": "8", "eval_steps": "2", "promote_at": "1.0"}
    parameters |= {"best_metric": "loss", "micro_batch_size": "4"} | more
    whole, broken = ({**parameters, "outputs_dir": str(tmp_path / name)} for name in ("whole", "broken"))
    assert start_training(whole).wait(timeout=120) == 0
    run = open_run(resolve(broken))
    for pattern in ("checkpoints/*/checkpoint-2", "checkpoints/stage-1-*/checkpoint-4/model.safetensors"):
        process, deadline = start_training(broken), time.monotonic() + 120
        while not list(run.folder.glob(pattern)) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert start_training(broken).wait(timeout=120) == 0
    models = [load_file(open_run(resolve(p)).model_path / "model.safetensors") for p in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    rows = [open_run(resolve(p)).metrics() for p in (whole, broken)]
    assert rows[0] == rows[1] and ("window" in more or sum(row["skipped_updates"] for row in rows[0]) > 0)
    ends = [[read_json(stage.folder / "stage.json") for stage in stages(prepare(resolve(p)))] for p in (whole, broken)]
    assert [{**end, "seconds": 0} for end in ends[0]] == [{**end, "seconds": 0} for end in ends[1]]


def test_first_training_text_has_the_answers_that_are_learned(small, tmp_path):
    whole = first_training_text(make_experiment(small, tmp_path))
    assert " Where is " in whole and "<|endoftext|>" in whole.split("-->")[1]
    window = first_training_text(make_experiment(small, tmp_path, window=2, segments="2"))
    asides = window.split("--> aside, of the memory before segment ")[1:]
    assert asides and all("<|endoftext|>" in aside and " Where is " in aside for aside in asides)


@pytest.mark.parametrize(("name", "value"), [("window", 2), ("stillness", 5)])
def test_window_and_stillness_are_for_decoders(small, tmp_path, name, value):
    experiment = make_experiment(small, tmp_path, segments="2", **{name: value})
    with pytest.raises(ConfigError, match=f"{name} is for decoders"):
        stage_dataset(experiment, stages(experiment)[0], model=None)


def test_stage_is_over_when_its_best_model_is_there(tmp_path):
    stage = Stage(0, 1, 10, tmp_path, is_last=True)
    assert stage.best == Path(tmp_path) / "best"
