"""Several processes: the same samples, weights, metrics and files as one; the hand-over; kill and resume."""

import itertools
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pandas as pd
import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import BatchSampler, SequentialSampler

from rmtkit import launch, processes, training
from rmtkit.cli import _overrides, main
from rmtkit.config import ConfigError, resolve
from rmtkit.launch import ChildError, as_options, launch_command, num_to_launch, run_streamed, train_anywhere
from rmtkit.pretraining import new_backbone, train_tokenizer
from rmtkit.runs import Run, run_folder

LAUNCHED = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost"}

MEET = """
from rmtkit.processes import from_main, gather, rank
open(f"seen-{rank()}", "w").write(f"{from_main(rank)} {gather([rank()])}")
from torch.distributed import destroy_process_group
destroy_process_group()  # gloo's threads may abort a process that ends with them
"""

SHARD = """  # the decoder is called once a segment, so its shards are gathered several times in a forward pass
import sys, torch
from torch.distributed import destroy_process_group, get_rank, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from rmtkit.memory import RMTForCausalLM
from rmtkit.sharding import is_sharded, whole_model
init_process_group("gloo")
mesh = init_device_mesh("cpu", (2,))
settings = dict(num_memory_tokens=4, segment_size=16)
whole, sharded = (RMTForCausalLM.from_backbone(sys.argv[1], **settings).train() for _ in range(2))
torch.distributed.broadcast(whole.memory.data, 0)
sharded.load_state_dict(whole.state_dict())
for part in (*sharded.backbone.get_decoder().layers, sharded):
    fully_shard(part, mesh=mesh)
ids = torch.randint(0, 400, (4, 50), generator=torch.Generator().manual_seed(0))
labels = torch.where(torch.arange(50) < 30, -100, ids)
mine = slice(2 * get_rank(), 2 * get_rank() + 2)
whole(ids, labels=labels).loss.backward()
sharded(ids[mine], labels=labels[mine]).loss.backward()
wanted = {name: parameter.grad for name, parameter in whole.named_parameters()}
for name, parameter in sharded.named_parameters():
    torch.testing.assert_close(parameter.grad.full_tensor(), wanted[name], rtol=1e-4, atol=1e-5, msg=name)
copy = whole_model(sharded)
assert whole_model(whole) is whole and is_sharded(sharded) and not is_sharded(copy)
options = dict(max_new_tokens=20, do_sample=False, pad_token_id=0)
assert torch.equal(copy.generate(ids, **options), whole.generate(ids, **options))
if get_rank() == 0:
    copy.save_pretrained(sys.argv[2])
    assert torch.equal(RMTForCausalLM.from_pretrained(sys.argv[2]).memory, whole.memory)
destroy_process_group()
"""


@pytest.fixture
def launched(monkeypatch):
    """The environment of the second of two processes."""
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture(scope="module")
def small(tmp_path_factory, library) -> dict:
    """Parameters of a run of seconds: untrained backbone, two stages of three updates, odd numbers of samples."""
    folder = tmp_path_factory.mktemp("backbone")
    tokenizer = train_tokenizer(seed=0)
    tokenizer.save_pretrained(folder)
    new_backbone(tokenizer, seed=0).save_pretrained(folder)
    return {
        "preset": "smoke", "backbone": folder, "data_dir": folder, "precision": "float32", "background": "local",
        "background_path": library, "steps": "4", "eval_steps": 2, "batch_size": 8, "micro_batch_size": 2,
        "validation_samples": 5, "test_segments": "2,3", "test_samples": 7, "test_batch_size": 2,
        "optimizer": "adamw", "vary_segments": 1.0, "segments": "2,4", "promote_at": 1.0,
    }  # fmt: skip


@pytest.fixture(scope="module")
def runs(small, tmp_path_factory):
    """The same training by one process and by two, these killed in the second stage and started again."""
    folder = tmp_path_factory.mktemp("runs")
    one, two = (resolve({**small, "outputs_dir": folder / name}) for name in ("one", "two"))
    assert main(["train", *as_options(one)]) == 0
    child = subprocess.Popen(launch_command(two, 2))
    pattern, deadline = "checkpoints/stage-1-*/checkpoint-2/trainer_state.json", time.monotonic() + 240
    while not list(run_folder(two).glob(pattern)) and time.monotonic() < deadline and child.poll() is None:
        time.sleep(0.01)
    for process in (*psutil.Process(child.pid).children(recursive=True), child):  # torchrun's workers outlive it
        process.kill()
    assert child.wait() == -signal.SIGKILL and not (run_folder(two) / "result.json").exists()
    run_streamed(launch_command(two, 2))
    return run_folder(one), run_folder(two)


def test_two_processes_train_the_weights_of_one_even_if_killed(runs, small):
    one, two = (load_file(folder / "model" / "model.safetensors") for folder in runs)
    start = load_file(small["backbone"] / "model.safetensors")
    moved = sum((one[f"backbone.{name}"] - start[name]).abs().sum() for name in start if f"backbone.{name}" in one)
    apart = sum((one[name] - two[name]).abs().sum() for name in one)
    assert moved > 1 and apart < 0.01 * moved
    assert any(not torch.equal(one[name], two[name]) for name in one)  # by two indeed: sums are rounded otherwise


def test_two_processes_log_and_answer_as_one(runs):
    one, two = (Run(folder, None) for folder in runs)
    rows = [run.metrics() for run in (one, two)]
    losses = [[row.pop("loss") for row in of_run] for of_run in rows]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # the weights are those of one process, within rounding
    assert rows[0] == rows[1] and rows[0][0]["n"] == 5
    lines = [line for line in (two.folder / "metrics.jsonl").read_text().splitlines() if '"stage": 0' in line]
    assert len(lines) == 2  # of one process, and before the kill
    names = sorted(path.name for path in one.folder.glob("test/*.csv"))
    assert len(names) == 2
    for name in names:
        first, second = (pd.read_csv(run.folder / "test" / name) for run in (one, two))
        pd.testing.assert_frame_equal(first, second)
    assert one.result()["tests"] == two.result()["tests"]
    assert len(list(two.folder.glob("tensorboard/stage-0-*/events*"))) == 1


def test_shards_of_an_update_are_its_samples():
    from accelerate.data_loader import BatchSamplerShard

    micro, total, number = 2, 8, 2
    shards = [
        list(BatchSamplerShard(BatchSampler(SequentialSampler(range(24)), micro, False), number, rank))
        for rank in range(number)
    ]
    accumulated = total // (micro * number)
    for update in range(3):
        mine = [shard[update * accumulated : (update + 1) * accumulated] for shard in shards]
        assert sorted(itertools.chain(*itertools.chain(*mine))) == list(range(update * total, (update + 1) * total))


def test_processes_share_the_batch(launched):
    assert processes.micro_batch_size(resolve({"batch_size": 32, "micro_batch_size": 32})) == 16
    assert processes.micro_batch_size(resolve({"batch_size": 32, "micro_batch_size": 4})) == 4
    assert list(processes.share(range(5))) == [1, 3]
    launched.setenv("WORLD_SIZE", "3")
    with pytest.raises(ConfigError, match="batch_size 32 is not a multiple of 3 processes x micro_batch_size 10"):
        processes.check_processes(resolve({}))


def test_one_process_shares_with_nobody():
    assert list(processes.share(range(3))) == [0, 1, 2] and processes.gather([1]) == [1]
    assert processes.from_main(lambda: 7) == 7 and processes.is_main()


def test_processes_meet_before_any_trainer_is_made(tmp_path):
    (tmp_path / "meet.py").write_text(MEET)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "meet.py"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert {path.name: path.read_text() for path in tmp_path.glob("seen-*")} == {
        f"seen-{rank}": "0 [0, 1]" for rank in range(2)
    }


def test_fsdp_of_another_version_or_with_muon_is_refused_with_one_line(launched, capsys):
    launched.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match="version 1 is not supported"):
        processes.check_processes(resolve({"optimizer": "adamw"}))
    launched.setenv("FSDP_VERSION", "2")
    processes.check_processes(resolve({"optimizer": "adamw"}))
    with pytest.raises(ConfigError, match="optimizer muon needs whole matrices"):
        processes.check_processes(resolve({}))
    launched.setenv("RANK", "0")
    assert main(["train", "--preset=smoke"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_sharded_model_has_gradients_answers_and_files_of_a_whole_one(small, tmp_path):
    (tmp_path / "shard.py").write_text(SHARD)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, "shard.py", str(small["backbone"]), "saved"], cwd=tmp_path, check=True)


def test_launch_command_resolves_to_the_same_configuration(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    changes = {"task": "qa3", "segments": "1,2", "max_n_facts": "none", "bptt_depth": 3, "outputs_dir": "/a b/=c"}
    for preset in ("paper", "tiny"):
        config = resolve({"preset": preset, **changes})
        command = launch_command(config, 4)
        assert command[1:7] == [
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "4",
            "--num_machines",
        ]
        assert resolve(_overrides(command[command.index("train") + 1 :])) == config


def test_launch_command_refuses_a_batch_that_cannot_be_shared():
    with pytest.raises(ConfigError, match="batch_size 32 is not a multiple of 3 processes"):
        launch_command(resolve({}), 3)


@pytest.mark.parametrize(("num_gpus", "is_child", "launches"), [(0, 0, 0), (1, 0, 0), (2, 0, 1), (2, 1, 0)])
def test_training_is_handed_over_where_several_gpus_are_visible(num_gpus, is_child, launches, monkeypatch, tmp_path):
    commands = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    monkeypatch.setattr(launch, "run_streamed", commands.append)
    monkeypatch.setattr(training, "train", lambda experiment, callbacks: "model")
    for name, value in LAUNCHED.items() if is_child else ():
        monkeypatch.setenv(name, value)
    config = resolve({"outputs_dir": tmp_path})
    experiment = SimpleNamespace(config=config, run=Run(tmp_path, config))
    assert train_anywhere(experiment) == "model" and len(commands) == launches
    assert num_to_launch() == (2 if launches else 1)
    experiment.run.model_path.mkdir()
    train_anywhere(experiment)
    assert len(commands) == launches  # what is trained is only loaded


def test_child_that_fails_is_an_error_with_its_last_lines(capfd):
    with pytest.raises(ChildError, match=r"ended with status 3: .*a \| b"):
        run_streamed([sys.executable, "-c", "print('a'); print('b'); raise SystemExit(3)"])
    assert capfd.readouterr().err == "a\nb\n"
