"""Files of the leaderboard: what is written, what comes back, how the authors' are read, what is refused."""

import json

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llm_rows import TASKS, cell, counts, frame

from rmtkit.llm import leaderboard
from rmtkit.llm.leaderboard import read_leaderboard_files, write_leaderboard_files
from rmtkit.llm.prompts import PromptStyle
from rmtkit.llm.tables import accuracy_table
from rmtkit.parameters import ConfigError

STYLE = PromptStyle(prompts="rmtkit", instruction=True, examples=True, post_prompt=True, chat_template=False)
NAME = "instruction_yes_examples_yes_post_prompt_yes_chat_template_no"


def test_files_are_where_and_what_the_benchmark_has(tmp_path):
    rows = frame(cell("qa1", "4k", right=1, wrong=1, too_long=1))
    written = write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, data="babilong")
    path = tmp_path / "babilong_evals" / "org" / "name" / f"qa1_4k_{NAME}.csv"
    assert written.to_dict("records") == [
        {"task": "qa1", "length": "4k", "n": 3, "failed": 1, "file": path.relative_to(tmp_path).as_posix()}
    ]
    assert path.read_text(encoding="utf-8").splitlines() == [
        ",target,output,question", "0,garden,In the garden.,Where is Mary? ", "1,garden,kitchen,Where is Mary? ",
        "2,garden,,Where is Mary? ",
    ]  # fmt: skip
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert about["failures"] == {"2": "too_long"} and about["generate_kwargs"]["max_new_tokens"] == 20
    assert "{context}" in about["prompt"]["template"] and "{question}" in about["prompt"]["template"]
    assert about["prompt"]["chat_template"] is False and about["data"] == "babilong"
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name, path.with_suffix(".json").name]


def test_name_of_a_file_says_what_the_prompt_had():
    style = PromptStyle(prompts="rmtkit", instruction=False, examples=True, post_prompt=False, chat_template=True,
                        system_prompt="Be brief.")  # fmt: skip
    name = leaderboard.style_name(style)
    assert name == "instruction_no_examples_yes_post_prompt_no_chat_template_yes_system_prompt_yes"


ODD = ["\r", "a\r\nb\n", '"', "a,b", "\0", "NA", "", " x ", "\u2028", "7"]


@settings(max_examples=15, deadline=None)
@example(outputs=ODD, rule="substring")
@given(st.lists(st.text(), min_size=1, max_size=4), st.sampled_from(["babilong_labels", "substring", "exact_match"]))
def test_predictions_come_back_as_they_were(tmp_path_factory, outputs, rule):
    rows = frame(cell(right=len(outputs), timeout=1)).assign(rule=rule)
    rows["output"] = [*outputs, ""]
    folder = tmp_path_factory.mktemp("evals")
    write_leaderboard_files(rows, folder, model="org/name", style=STYLE, allow_partial=True)
    read = read_leaderboard_files(folder, rule=rule)
    assert read["output"].tolist() == rows["output"].tolist()
    assert read["failure"].tolist() == [None] * len(outputs) + ["timeout"]
    assert read[["target", "question", "index"]].equals(rows[["target", "question", "index"]])


def test_files_read_back_count_the_same(tmp_path):
    rows = frame(
        *(cell(task, length, right=3, wrong=4, refused=2, empty=1) for task in TASKS for length in ("0k", "1M"))
    )
    rows = rows.assign(rule="substring")
    write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE)
    read_rows = read_leaderboard_files(tmp_path, rule="substring")
    for of in ("asked", "answered"):
        table, read = (accuracy_table(each, of=of) for each in (rows, read_rows))
        pd.testing.assert_frame_equal(table.assign(model="org/name"), read)


@pytest.mark.parametrize("below", ["", "babilong_evals", "babilong_evals/org", "babilong_evals/org/name"])
def test_model_is_named_alike_from_whatever_folder_is_read(tmp_path, below):
    write_leaderboard_files(frame(cell(right=1)), tmp_path, model="org/name", style=STYLE)
    assert read_leaderboard_files(tmp_path / below)["model"].tolist() == ["org/name"]


def test_authors_files_are_read_and_scored_by_our_rules(tmp_path):
    folder = tmp_path / "RAG_Llama-3"
    folder.mkdir()
    text = ("Unnamed: 0,target,output,question\n"
            '0,kitchen,"Answer: Mary is in the kitchen.\n\nQuestion: Where is John?\nAnswer: garden",Where is Mary? \n'
            "1,none,nan,Where is Mary? \n2,garden,kitchen or garden,Where is Mary? \n")  # fmt: skip
    old = "instruction_yes_examples_yes_post_prompt_yes"  # as until June 2024
    (folder / f"qa1_10M_{old}.csv").write_text(text)
    (folder / f"qa1_10M_{old} copy.csv").write_text(text)
    read = read_leaderboard_files(tmp_path)
    assert read["is_correct"].tolist() == [True, False, False]
    assert read["target"].tolist()[1] == "none" and read["output"].tolist()[1] == "nan"
    assert set(read["model"]) == {"RAG_Llama-3"} and set(read["length"]) == {"10M"} and read["failure"].isna().all()
    assert read_leaderboard_files(tmp_path, rule="substring")["is_correct"].tolist() == [True, False, True]


def test_several_styles_of_a_model_are_several_models(tmp_path):
    for style in (STYLE, PromptStyle(prompts="plain", instruction=False, examples=False, post_prompt=False,
                                     chat_template=False)):  # fmt: skip
        write_leaderboard_files(frame(cell(right=1)), tmp_path, model="org/name", style=style)
    read = read_leaderboard_files(tmp_path)
    assert read["model"].nunique() == 2 and all("instruction" in name for name in read["model"])
    assert counts(accuracy_table(read)) == [[1, 1, 0]] * 2


@pytest.mark.parametrize(
    "rows, options, message",
    [(frame(cell(right=3), cell("qa2", right=2)), {}, "qa2 at 0k has 2 samples of 3"),
     (frame(cell(right=3)), {"num_samples": 100}, "has 3 samples of 100"),
     (frame(cell(right=3), cell("qa2", right=2)), {"num_samples": {("qa2", "0k"): 5}}, "2 samples of 5"),
     (frame(cell(right=3))[1:], {}, "has 2 samples of 2|has 2 samples"),
     (frame(cell(right=3, rate_limit=2)), {}, r"2 of 5 samples without an answer \(rate_limit\)")],
)  # fmt: skip
def test_unfinished_cells_are_refused_and_nothing_is_written(tmp_path, rows, options, message):
    with pytest.raises(ValueError, match=message):
        write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, **options)
    assert list(tmp_path.iterdir()) == []
    write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, **options, allow_partial=True)
    assert len(read_leaderboard_files(tmp_path)) == len(rows)


def test_whole_cells_may_differ_in_size_if_that_is_said(tmp_path):
    rows = frame(cell(right=3), cell("qa2", right=2))
    sizes = {("qa1", "0k"): 3, ("qa2", "0k"): 2}
    assert len(write_leaderboard_files(rows, tmp_path, model="org/name", style=STYLE, num_samples=sizes)) == 2


@pytest.mark.parametrize(
    "rows, model, message",
    [(frame(cell(right=1)), "name", "organisation/name"), (frame(cell(right=1)), "../name", "organisation/name"),
     (frame(cell(right=1)), "org/../name", "organisation/name"),
     (frame(cell(right=1), cell(right=1, model="N")), "org/name", "of M, N; give those of one model"),
     (frame(cell("../qa1", right=1)), "org/name", "no task '../qa1'"),
     (frame(cell(length="64", right=1)), "org/name", "at length '64'")],
)  # fmt: skip
def test_what_the_leaderboard_has_no_place_for_is_refused(tmp_path, rows, model, message):
    with pytest.raises(ValueError, match=message):
        write_leaderboard_files(rows, tmp_path, model=model, style=STYLE)
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match="has no predictions of the leaderboard's layout"):
        read_leaderboard_files(tmp_path)
    (tmp_path / f"qa1_0k_{NAME}.csv").write_text(",target,output\n0,garden,garden\n")
    with pytest.raises(ValueError, match="no column question"):
        read_leaderboard_files(tmp_path)
    with pytest.raises(ValueError, match="scoring rule 'guess' does not exist"):
        read_leaderboard_files(tmp_path, rule="guess")


@pytest.mark.parametrize(
    "name, wanted",
    [("SmolLM2-135M", "local/SmolLM2-135M"), ("org/model", "org/model"), ("reference:qa1", "local/reference-qa1"),
     ("/a/b/run 1", "a-b/run 1"), ("..", "local/model")],
)  # fmt: skip
def test_leaderboard_name_is_one_that_can_be_written(tmp_path, name, wanted):
    found = leaderboard.leaderboard_name(name)
    assert found == wanted and leaderboard.MODEL.fullmatch(found)


def test_evaluated_finds_the_model_among_those_it_was_compared_with(tmp_path):
    style = {"prompts": "rmtkit", "instruction": True, "examples": False, "post_prompt": True, "chat_template": True,
             "system_prompt": None}  # fmt: skip
    answering = {"max_answer_tokens": 16}
    records = [("last_named", {"retrieval": None}), ("M + 5", {**answering, "retrieval": "5"}),
               ("M", {**answering, "retrieval": None})]  # fmt: skip
    (tmp_path / "predictions").mkdir()
    for number, (model, what) in enumerate(records):
        record = {"model": model, "task": "qa1", "length": "4k", "num_asked": 7,
                  "what": {**what, "prompts": style, "source": "babilong"}}  # fmt: skip
        (tmp_path / "predictions" / f"{number}.json").write_text(json.dumps(record))
    (tmp_path / "config.json").write_text(json.dumps({"model": "M"}))
    found = leaderboard.evaluated(tmp_path)
    wanted = {"name": "M", "style": PromptStyle(**style), "num_samples": {("qa1", "4k"): 7}, "data": "babilong"}
    assert found == {**wanted, "generate_kwargs": leaderboard.GREEDY | {"max_new_tokens": 16}}
    assert leaderboard.evaluated(tmp_path, "M + 5")["name"] == "M + 5"
    with pytest.raises(ConfigError, match="no predictions of 'N'; there are those of: last_named, M [+] 5, M"):
        leaderboard.evaluated(tmp_path, "N")
