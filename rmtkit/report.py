"""A run as one HTML file for people who send results around: its notebooks without code, figures embedded.

    python -m rmtkit report outputs/runs/RUN
    python -m rmtkit report out.ipynb

Notebook 02 of a finished run shows its summary without training. Notebooks 03 and 04 are there if they were run for it,
and find what they have written. Of a reference model they are rendered from the committed predictions and the model; a
notebook that papermill has written is rendered as it is. The page loads nothing from the network.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rmtkit.config import PROJECT, Config, ConfigError, resolve
from rmtkit.launch import as_options
from rmtkit.lengths import LENGTHS, default_samples
from rmtkit.parameters import as_given
from rmtkit.publishing import READ, read_lengths, without_paths
from rmtkit.reference import REFERENCE, resolve_reference, weights_digest
from rmtkit.runs import check_writable, read_json, write_text

WRITES = {  # notebook -> what is in a run folder when it has run for it
    "02_train": "result.json",
    "03_length_generalization": "accuracy_by_depth.csv",
    "04_memory_attention": "analysis",
}
OF_LENGTHS = "03_length_generalization"
SECONDS_PER_CELL = 3600
REMOTE_IMAGE = re.compile(r"\[?!\[[^\]]*\]\(https?://[^)]*\)(?:\]\([^)]*\))?\n*")
TEMPLATE = """{% extends "lab/index.html.j2" %}
{% block html_head_js %}{% endblock %}{% block jupyter_widgets %}{% endblock %}
{% block html_head_js_mathjax %}{% endblock %}{% block html_head_js_mermaidjs %}{% endblock %}"""


def write_report(
    what: str, output: str | Path | None = None, *, notebooks: Sequence[str] = (), overrides: dict | None = None
) -> dict:
    """Render a finished run, `reference:NAME`, or an executed notebook to one HTML file, written whole or not at all.

    Args:    what: a run folder, reference:NAME, or an .ipynb file;
             output: the file; None: report.html in the run folder, outputs/reference/html/NAME.html, or NOTEBOOK.html;
             notebooks: names in `WRITES`; none: those that have run for it;
             overrides: fields of `Config` that go before the run's own, such as data_dir.
    Returns: the file, its size in bytes, and the notebooks in it.
    Raises:  ConfigError if there is no finished run, or one of its notebooks stops.
    """
    if what.endswith(".ipynb"):
        return _of_notebook(Path(what).expanduser(), output)
    with tempfile.TemporaryDirectory() as scratch:
        describe = _of_reference if what.startswith("reference:") else _of_run
        default, parameters = describe(what, notebooks, overrides or {}, Path(scratch))
        output = Path(output or default).expanduser().absolute()
        check_writable(output.parent)
        executed = [execute(name, parameters[name], Path(scratch)) for name in parameters]
    page = render(executed, title=what if ":" in what else Path(what).resolve().name)
    for options in parameters.values():
        page = _without_places(page, options)
    return _write(output, page, list(parameters))


def _of_notebook(path: Path, output: str | Path | None) -> dict:
    """Render an executed notebook. Raises: ConfigError if it is none, or was not executed to its end."""
    import nbformat

    if not path.is_file():
        raise ConfigError(f"there is no notebook {path}")
    output = Path(output or path.with_suffix(".html")).expanduser().absolute()
    check_writable(output.parent)
    notebook = nbformat.read(path, as_version=4)
    if any(cell.cell_type == "code" and cell.source.strip() and not cell.execution_count for cell in notebook.cells):
        raise ConfigError(f"{path} was not executed to its end; run it with papermill first")
    given = notebook.metadata.get("papermill", {}).get("parameters", {})
    places = {name: value for name, value in given.items() if isinstance(value, str)}
    return _write(output, _without_places(render([notebook], title=path.stem), places), [path.stem])


def _write(output: Path, page: str, notebooks: list[str]) -> dict:
    write_text(output, page)
    return {"output": str(output), "num_bytes": len(page.encode()), "notebooks": notebooks}


# ---------------------------------------------------------------------- the parameters of each notebook


def _of_run(what: str, notebooks: Sequence[str], overrides: dict, scratch: Path) -> tuple[Path, dict[str, dict]]:
    """Return the default file and, for every notebook, the parameters that open the run instead of making one."""
    folder = Path(what).expanduser()
    settings = _settings(folder)
    places = {"run_dir": str(folder.absolute()), "checkpoint": None}
    if not Path(settings.get("data_dir", "")).is_dir():
        settings.pop("data_dir", None)  # a run of another machine
    config = resolve({**settings, **places, **overrides})
    options = dict(option.removeprefix("--").split("=", 1) for option in as_options(config))
    names = notebooks or [name for name, trace in WRITES.items() if (folder / trace).exists()]
    parameters = {name: options for name in names}
    if OF_LENGTHS in parameters:
        parameters[OF_LENGTHS] = {**options, **_lengths_evaluated(folder)}
    return folder / "report.html", parameters


def _settings(folder: Path) -> dict:
    """Return the configuration of a finished run, as text where it is None. Raises: ConfigError."""
    path = folder / "config.json"
    found = read_json(path).get("config") if path.is_file() else None
    if not found:
        raise ConfigError(f"{folder} is no run folder of notebook 02, which has its parameters in config.json")
    if not (folder / "result.json").is_file():
        raise ConfigError(
            f"{folder} is not finished: it has no result.json; run notebook 02 again with its parameters, it goes on"
        )
    return as_given(found, Config)


def _lengths_evaluated(folder: Path) -> dict:
    """Return what notebook 03 was given to test at lengths by name; nothing if it was lengths in segments."""
    weights = weights_digest(folder / "model")
    about = [read_json(path) for path in (folder / "test").glob("*.json")]
    about = [found for found in about if found.get("length") and found.get("weights") == weights]
    if not about:
        return {}
    by_length = sorted(about, key=lambda found: (LENGTHS.index(found["length"]), found["num_samples"]))
    first, last = by_length[0], by_length[-1]
    is_usual = last["num_samples"] == default_samples(last["length"])
    return {"min_length": first["length"], "max_length": last["length"],
            **({} if is_usual else {"num_samples": last["num_samples"]})}  # fmt: skip


def _of_reference(what: str, notebooks: Sequence[str], overrides: dict, scratch: Path) -> tuple[Path, dict[str, dict]]:
    """Return the default file and the parameters of notebooks 03 and 04, with the committed predictions at hand."""
    source = Path(resolve_reference(what))
    names = notebooks or [name for name in WRITES if name != "02_train"]
    if "02_train" in names:
        raise ConfigError(f"{what} is a model without its run; notebooks 03 and 04 can be rendered")
    given = {"checkpoint": what, "outputs_dir": str(scratch / "outputs"), **overrides}
    parameters = {name: dict(given) for name in names}
    if OF_LENGTHS in parameters:
        parameters[OF_LENGTHS] = _evaluation_parameters(source, given)
        _restore_records(source, parameters[OF_LENGTHS])
    return REFERENCE / "html" / f"{source.name}.html", parameters


def _evaluation_parameters(source: Path, given: dict) -> dict:
    """Return what notebook 03 is given to show the predictions of a reference model. Raises: ConfigError."""
    path, otherwise = source / "evaluation" / "setting.json", "or render notebooks 04_memory_attention alone"
    if not path.is_file():
        raise ConfigError(f"{source} has no predictions at lengths by name; evaluate it, {otherwise}")
    setting = read_json(path)
    if setting["babi_path"] and not given.get("babi_path"):
        raise ConfigError(f"the predictions of {source.name} are on real bAbI; give babi_path, its folder, {otherwise}")
    of_samples = {name: value for name, value in setting.items() if value is not None and name != "segment_size"}
    lengths = [name for name in LENGTHS if (path.parent / f"{name}.csv").is_file()]
    return {**of_samples, "min_length": lengths[0], "max_length": lengths[-1], **given}


def _restore_records(source: Path, parameters: dict) -> None:
    """Put the predictions of a reference model, and how they were read, where notebook 03 looks for what is done."""
    import pandas as pd

    from rmtkit.experiment import evaluation_folder
    from rmtkit.generalization import keep_records, lengths_asked
    from rmtkit.reference import resolve_trained

    config, rows = resolve_trained(parameters), read_lengths(source / "evaluation")
    readings = {row["length"]: {name: row[name] for name in READ if name in row} for row in rows}
    for length in lengths_asked(config):
        path = source / "evaluation" / f"{length.name}.csv"
        if path.is_file():
            records = pd.read_csv(path, keep_default_na=False, na_values={"fact_depth": [""]})
            num_segments = -(-records["num_tokens"] // config.segment_size)
            records = records.assign(num_segments=num_segments, length=length.name)
            keep_records(config, evaluation_folder(config), length, records, readings.get(length.name, {}))


# ---------------------------------------------------------------------- the page


def execute(name: str, parameters: dict, folder: Path):
    """Run a notebook of the project with papermill in a folder and return it. Raises: ConfigError if it stops."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of fields outside of the parameters cell
    print(f"{name} ...", file=sys.stderr, flush=True)
    source = PROJECT / "notebooks" / f"{name}.ipynb"
    try:
        return papermill.execute_notebook(
            source, folder / source.name, parameters, progress_bar=False, execution_timeout=SECONDS_PER_CELL
        )
    except PapermillExecutionError as error:
        raise ConfigError(f"notebook {name} stopped: {error.ename}: {error.evalue}") from None


def render(notebooks: list, *, title: str) -> str:
    """Return executed notebooks as one HTML page that needs nothing else: text and outputs, no code.

    Images of other places, such as badges, are left out.
    """
    import nbformat
    from nbconvert import HTMLExporter

    cells = []
    for number, notebook in enumerate(notebooks):
        for cell in notebook.cells:
            if cell.cell_type == "markdown" or cell.get("outputs"):
                cell = nbformat.from_dict({**cell, "id": f"{number}-{cell.get('id', len(cells))}"})
                if cell.cell_type == "markdown":
                    cell.source = REMOTE_IMAGE.sub("", cell.source)
                cells.append(cell)
    merged = nbformat.v4.new_notebook(cells=cells, metadata={"title": title})
    no_prompts = {"exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(raw_template=TEMPLATE, exclude_input=True, embed_images=True, **no_prompts)
    return exporter.from_notebook_node(merged)[0]


def _without_places(page: str, options: dict) -> str:
    """Return the page without the places on this machine that its notebooks were given, or that the project lies in."""
    texts = {value: name for value, name in zip(options.values(), without_paths(options).values(), strict=True)}
    for value in sorted(texts, key=lambda value: len(str(value)), reverse=True):
        if texts[value] != value:
            page = page.replace(value, texts[value])
    return page.replace(f"{PROJECT}/", "")
