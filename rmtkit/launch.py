"""Run one experiment whole, on this device or on several: what notebook 02 and `python -m rmtkit train` have in common.

One process trains on one device. On several, each process holds its share of `batch_size`, which stays the samples of
an update; the weights are those of one process but for rounding:

    accelerate launch --num_processes 4 -m rmtkit train --task qa1                   one machine, four GPUs
    accelerate launch --num_machines 2 --machine_rank 0 --main_process_ip HOST ...   nodes; see accelerate's help
    torchrun --nproc_per_node 2 -m rmtkit train --task qa1                           also on CPUs, unlike accelerate

`python -m rmtkit train` and notebook 02 do the first by themselves where several GPUs are visible; CUDA_VISIBLE_DEVICES
says which. Sharded parameters are accelerate's, too, with adamw only:

    accelerate launch --use_fsdp --fsdp_version 2 -m rmtkit train --optimizer adamw ...

or DeepSpeed, ZeRO stage 1 or 2, by `accelerate config`. Gradients, answers and saving of a sharded model are tested on
CPU processes; accelerate shards on GPUs only, and there neither was run by us.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys

from rmtkit.config import Config
from rmtkit.parameters import as_text
from rmtkit.processes import is_launched, is_main, micro_batch_size


class ChildError(RuntimeError):
    """A child process that failed; one line with the end of what it said."""


TAIL = 5  # last lines of a failed child that an error shows


def train_anywhere(experiment, callbacks=(), *, num_processes: int | None = None):
    """Train as many processes as there are GPUs, or in this one; return the model. A finished training is loaded.

    Args:    experiment: of `rmtkit.experiment.prepare`;  callbacks: for progress, in this process only;
             num_processes: None: one for each visible GPU.
    Raises:  ChildError if a child process fails; what it did is kept, and goes on next time.
    """
    from rmtkit.training import train

    number = num_processes or num_to_launch()
    if number > 1 and not experiment.run.model_path.is_dir():
        run_streamed(launch_command(experiment.config, number))
    return train(experiment, callbacks)


def train_and_test(config: Config, *, num_processes: int | None = None) -> dict:
    """Run notebook 02 without the notebook: train, test at all lengths, figure, result.json, summary.html.

    Returns: what result.json holds, the run folder under "run", and the page under "summary".
    Raises:  ConfigError and other ValueErrors before anything heavy.
    """
    from rmtkit.experiment import prepare
    from rmtkit.generalization import evaluate_lengths, length_table, plot_lengths
    from rmtkit.live import TrainingProgress
    from rmtkit.summary import summarize, write_summary
    from rmtkit.training import finish

    experiment = prepare(config)
    run = experiment.run
    model = train_anywhere(experiment, (TrainingProgress(),), num_processes=num_processes)
    records = evaluate_lengths(config, model, experiment.tokenizer, experiment.builder, run.folder)
    if not is_main():
        return {}
    plot_lengths(config, records, experiment.builder.problems, run.folder)
    result = finish(experiment, length_table(records))
    page = write_summary(run, summarize(experiment, records))
    return {"run": str(run.folder), "summary": str(page), **result}


def evaluate_trained(config: Config) -> dict:
    """Compute the numbers of notebook 03: a trained model at all lengths, by length and by depth of the facts.

    Writes the records of every length, accuracy_by_length.csv, accuracy_by_depth.csv and accuracy_by_length.png to
    the folder of `evaluation_folder`.

    Returns: the folder under "folder", the scoring rule, and the table by length under "tests".
    Raises:  ConfigError if there is no such model.
    """
    from rmtkit.experiment import evaluation_folder, load_trained, open_builder, open_problems
    from rmtkit.generalization import evaluate_lengths, plot_lengths, write_tables

    problems = open_problems(config, splits=(config.test_split,))
    model, tokenizer = load_trained(config)
    folder = evaluation_folder(config)
    builder = open_builder(config, tokenizer, problems)
    records = evaluate_lengths(config, model, tokenizer, builder, folder)
    if not is_main():
        return {}
    table = write_tables(config, records, builder, folder)
    plot_lengths(config, records, problems, folder, has_published=True)
    return {"folder": str(folder), "scoring_rule": config.scoring, "tests": table.to_dict("records")}


def num_to_launch() -> int:
    """Return how many processes to start from here: one for each visible GPU, one if a launcher started this one."""
    if is_launched():
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def launch_command(config: Config, num_processes: int) -> list[str]:
    """Return the command that trains a configuration in several processes; it names every field of it.

    Raises: ConfigError if the batch cannot be shared.
    """
    import torch

    micro_batch_size(config, num_processes)
    if torch.cuda.device_count() >= num_processes:
        launcher = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", str(num_processes)]
        launcher += ["--num_machines", "1", "--main_process_port", "0"]
    else:  # accelerate launch --cpu starts a single process, whatever --num_processes says
        launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    return [sys.executable, "-m", *launcher, "-m", "rmtkit", "train", *as_options(config)]


def as_options(config: Config) -> list[str]:
    """Return a configuration as --NAME=VALUE, which `resolve` turns back into it."""
    fields = dataclasses.asdict(config)
    return [f"--{name}={as_text(value)}" for name, value in fields.items()]


def run_streamed(command: list[str]) -> None:
    """Run a child process and print its lines as they come; it ends with this one.

    Raises: ChildError with its last lines if it fails.
    """
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        try:
            for line in child.stdout:
                lines = [*lines[1 - TAIL :], line.rstrip()]
                print(line, end="", file=sys.stderr, flush=True)
        except BaseException:
            child.terminate()
            raise
    if child.returncode:
        raise ChildError(f"training in several processes ended with status {child.returncode}: " + " | ".join(lines))
