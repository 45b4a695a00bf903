"""A whole evaluation of a language model: cases, the model and what it is compared with, predictions, tables.

    python -m rmtkit llm run --model=NAME        or run_llm(resolve_llm({"model": NAME})); then read_predictions(folder)

A run that is killed, or whose disk is full, goes on when it is started again.
"""

from __future__ import annotations

from pathlib import Path

from rmtkit.llm import opening
from rmtkit.llm.asking import evaluate_model, versions
from rmtkit.llm.predictions import forget_failures, read_predictions, save
from rmtkit.llm.settings import LLMSettings, check_packages
from rmtkit.progress import Display
from rmtkit.runs import read_json

__all__ = ["evaluate_model", "read_predictions", "run_llm"]


def run_llm(settings: LLMSettings) -> Path:
    """Evaluate a model, its baselines and the recurrent models on the same cases, as the settings say.

    What can be wrong is found before anything heavy: packages, questions, models, server, window. The cases of one task
    and length are made once, in tokens of the model that is evaluated.

    Returns: the folder: config.json, environment.json, predictions/ (`read_predictions`), accuracy.csv, and result.json
             last.
    Raises:  ConfigError or another ValueError, in one line.
    """
    check_packages(settings)
    cells = opening.open_cells(settings)
    folder = opening.open_folder(settings)
    candidates = opening.open_candidates(settings, cells)
    opening.check_weights(folder, candidates)
    main = candidates[0]
    opening.check_window(settings, main.model)
    save(folder / "config.json", {**read_json(folder / "config.json"), "model": main.model.name})
    save(folder / "environment.json", versions())
    if settings.retry_failed:
        forget_failures(folder)
    display = Display()
    for cell in cells:
        cases = opening.build_cases(settings, cell, main.style, model=main.model)
        for candidate in candidates:
            if cell.task in (candidate.tasks or (cell.task,)):
                evaluate_model(
                    candidate.model, cases, candidate.style, folder=folder, rule=settings.scoring,
                    retriever=candidate.retriever, about=candidate.about, display=display,
                )  # fmt: skip
    _write_result(settings, folder, main.model.name)
    return folder


def _write_result(settings: LLMSettings, folder: Path, model: str) -> None:
    """Write the table and, last, result.json."""
    from rmtkit.llm.tables import accuracy_table

    predictions = read_predictions(folder)
    save(folder / "accuracy.csv", accuracy_table(predictions).to_csv(index=False))
    failures = {name: int(count) for name, count in predictions["failure"].value_counts().items()}
    result = {
        "model": model, "models": list(dict.fromkeys(predictions["model"])), "rule": settings.scoring,
        "num_predictions": len(predictions), "failures": failures, "settings": settings.record(),
    }  # fmt: skip
    save(folder / "result.json", result)
