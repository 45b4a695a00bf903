"""Lengths by name: how many tokens and samples they mean, which problems fit, how records of them are grouped."""

import dataclasses

import pandas as pd
import pytest

from rmtkit.config import ConfigError, resolve
from rmtkit.experiment import evaluation_folder
from rmtkit.generalization import (
    count_fitting,
    depth_table,
    describe_lengths,
    evaluate_lengths,
    length_table,
    lengths_asked,
    reading_table,
    write_tables,
)
from rmtkit.lengths import LENGTHS, TOKENS, lengths_between
from rmtkit.memory import RMTForCausalLM


def asked(**parameters):
    return lengths_asked(resolve(parameters))


def test_lengths_are_the_benchmarks():
    assert LENGTHS == ("0k", "1k", "2k", "4k", "8k", "16k", "32k", "64k", "128k", "256k", "512k", "1M", "10M")
    assert lengths_between("0k", "4k") == ("0k", "1k", "2k", "4k") and lengths_between("4k", "1k") == ()
    assert [-(-TOKENS[name] // 512) for name in ("4k", "128k", "1M", "10M")] == [8, 256, 2048, 19532]


def test_lengths_asked_begin_with_min_length():
    assert [length.name for length in asked(max_length="4k", min_length="2k")] == ["2k", "4k"]


def test_lengths_asked_fill_whole_segments_but_for_the_answer():
    lengths = asked(max_length="10M", segment_size=512, answer_size=16)
    assert [length.size for length in lengths[:3]] == [None, 1008, 2032]
    assert (lengths[-1].num_segments, lengths[-1].size) == (19532, 19532 * 512 - 16)


def test_length_below_a_segment_is_a_part_of_it():
    (_, length) = asked(max_length="1k", segment_size=4096)
    assert (length.num_segments, length.size) == (1, 1008)


def test_samples_by_length_and_their_override():
    lengths = {length.name: length.num_samples for length in asked(max_length="10M")}
    assert [lengths[name] for name in ("0k", "128k", "256k", "1M", "10M")] == [500, 500, 100, 100, 20]
    assert {length.num_samples for length in asked(max_length="10M", num_samples=7)} == {7}


def test_lengths_in_segments_stay_as_they_are():
    lengths = asked(test_segments="2,4", test_samples=9)
    assert [(length.label, length.size, length.num_samples) for length in lengths] == [
        ("2 segments", 48, 9),
        ("4 segments", 112, 9),
    ]


@pytest.mark.parametrize(
    "parameters, message",
    [
        ({"max_length": "3k"}, "max_length is '3k'; allowed: 0k, 1k"),
        ({"max_length": "4k", "min_length": "3k"}, "min_length is '3k'; allowed: 0k, 1k"),
        ({"max_length": "4k", "min_length": "8k"}, "min_length 8k needs a max_length as long, not 4k"),
        ({"min_length": "1k"}, "min_length 1k needs a max_length as long, not None"),
        ({"num_samples": 5}, "num_samples counts samples of the lengths up to max_length"),
        ({"max_length": "1k", "background": "none"}, "facts alone, which is max_length 0k"),
        ({"max_length": "1k", "num_samples": 0}, "num_samples is 0; expected at least 1"),
    ],
)
def test_lengths_that_cannot_be_are_refused(parameters, message):
    with pytest.raises(ConfigError, match=message):
        resolve(parameters)


# ---------------------------------------------------------------------- evaluation


@pytest.fixture
def model(make_backbone, tokenizer):
    """A tiny random model with segments of 256 tokens."""
    backbone = make_backbone("llama", vocab_size=len(tokenizer), max_position_embeddings=512)
    return RMTForCausalLM.from_backbone(backbone, num_memory_tokens=2, segment_size=256).eval()


@pytest.fixture(autouse=True)
def few_problems(monkeypatch):
    """Tables look at fewer problems than usual."""
    monkeypatch.setattr("rmtkit.generalization.NUM_PROBLEMS", 60)


@pytest.fixture
def evaluated(model, make_builder, tokenizer, tmp_path):
    """A configuration with lengths 0k and 1k, a builder, the records of the model, and their folder."""
    config = resolve({"max_length": "1k", "num_samples": 3, "segment_size": 256, "answer_size": 16})
    builder = make_builder(answer_size=16)
    return config, builder, evaluate_lengths(config, model, tokenizer, builder, tmp_path), tmp_path


def test_records_name_their_length_and_are_kept(evaluated):
    config, builder, records, folder = evaluated
    assert records["length"].tolist() == ["0k"] * 3 + ["1k"] * 3
    assert (records["num_tokens"][:3] < 200).all() and (records["num_tokens"][3:] == 1008).all()
    again = evaluate_lengths(config, None, None, builder, folder)  # all from disk: no model is needed
    pd.testing.assert_frame_equal(again, records)


@pytest.mark.parametrize("said", ["gar\rden", "a\r\nb", 'a "quoted", one', "nan", ""])
def test_whatever_a_model_says_is_kept(said, model, make_builder, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("rmtkit.evaluation.answer", lambda model, batch, *_, **__: [said] * len(batch))
    config = resolve({"max_length": "0k", "num_samples": 3, "segment_size": 256, "answer_size": 16})
    records = evaluate_lengths(config, model, tokenizer, make_builder(answer_size=16), tmp_path)
    assert records["prediction"].tolist() == [said.replace("\r", "\n")] * 3


def test_lengths_from_min_length_on_have_the_same_records(evaluated, model, make_builder, tokenizer, tmp_path):
    config, _, records, _ = evaluated
    later = dataclasses.replace(config, min_length="1k")
    found = evaluate_lengths(later, model, tokenizer, make_builder(answer_size=16), tmp_path / "later")
    pd.testing.assert_frame_equal(found, records[3:].reset_index(drop=True))


def test_models_can_be_compared_by_validation_samples(evaluated, model, tokenizer):
    config, builder, records, folder = evaluated
    by_validation = dataclasses.replace(config, test_split="validation")
    found = evaluate_lengths(by_validation, model, tokenizer, builder, folder)
    told = [builder.sample("validation", index, size) for size in (None, 1008) for index in range(3)]
    assert set(found["split"]) == {"validation"} and set(records["split"]) == {"test"}
    assert found["target"].tolist() == [sample.question.answer for sample in told]
    assert found["num_tokens"].tolist() == [len(sample.prompt) for sample in told]
    assert {path.suffix for path in (folder / "validation").iterdir()} == {".csv", ".json"}
    pd.testing.assert_frame_equal(evaluate_lengths(config, None, None, builder, folder), records)  # the test's are kept


def test_evaluations_by_validation_samples_have_a_folder_of_their_own(tmp_path):
    config = resolve({"checkpoint": "reference:qa1", "outputs_dir": tmp_path})
    folder = evaluation_folder(dataclasses.replace(config, test_split="validation"))
    assert folder == tmp_path / "evaluations" / f"{evaluation_folder(config).name}-validation"


def test_lengths_that_hold_no_problem_are_refused(model, make_builder, tokenizer, tmp_path, monkeypatch):
    builder = make_builder()
    monkeypatch.setattr(builder, "num_fixed_tokens", lambda problem: 5000)
    config = resolve({"min_length": "1k", "max_length": "2k", "num_samples": 1})
    with pytest.raises(ConfigError, match="no test problem of qa1 fits 2k; give a longer max_length"):
        evaluate_lengths(config, model, tokenizer, builder, tmp_path)


def test_speed_and_memory_of_a_length_are_kept_with_it(evaluated):
    config, builder, records, folder = evaluated
    table = reading_table(config, folder)
    assert table["length"].tolist() == ["0k", "1k"] and table["num_tokens"].tolist() == [0, 1008]
    assert table["num_read"].tolist() == [records["num_tokens"][:3].sum(), 3 * 1008]
    assert (table["tokens_per_second"] > 0).all() and (table["peak_resident_mb"] > 50).all()
    assert table[["device", "dtype", "is_compiled", "batch_size"]].values.tolist() == [["cpu", "float32", False, 3]] * 2
    evaluate_lengths(config, None, None, builder, folder)  # from disk
    pd.testing.assert_frame_equal(reading_table(config, folder), table)


def test_speed_and_memory_that_were_not_measured_are_missing(evaluated):
    config, builder, _, folder = evaluated
    (path,) = (folder / "test").glob("1k-*.json")
    path.unlink()
    evaluate_lengths(config, None, None, builder, folder)
    assert path.is_file() and reading_table(config, folder)["length"].tolist() == ["0k"]
    assert reading_table(resolve({"max_length": "4k"}), folder).empty


def test_speed_and_memory_of_lengths_in_segments(model, make_builder, tokenizer, tmp_path):
    config = resolve({"test_segments": "2", "test_samples": 2, "segment_size": 256, "answer_size": 16})
    evaluate_lengths(config, model, tokenizer, make_builder(answer_size=16), tmp_path)
    (row,) = reading_table(config, tmp_path).to_dict("records")
    assert (row["length"], row["num_tokens"], row["num_read"]) == ("2 segments", 496, 992)


def test_weights_are_hashed_once_for_all_lengths(model, make_builder, tokenizer, tmp_path, monkeypatch):
    folders = []
    monkeypatch.setattr("rmtkit.generalization.weights_digest", lambda folder, grid: folders.append(folder) or "")
    config = resolve({"max_length": "2k", "num_samples": 1, "segment_size": 256, "checkpoint": tmp_path})
    evaluate_lengths(config, model, tokenizer, make_builder(answer_size=16), tmp_path)
    assert folders == [tmp_path]


def test_tables_have_a_row_a_length_with_characters_and_problems(evaluated):
    config, builder, records, folder = evaluated
    table = write_tables(config, records, builder, folder)
    assert table["length"].tolist() == ["0k", "1k"] and table["n"].tolist() == [3, 3]
    assert table["num_segments"].tolist() == [1, 4] and set(table["rule"]) == {"exact_match"}
    text = builder.tokenizer.decode(builder.sample("test", 0, 1008).prompt.tolist())
    assert table["num_characters"][1] == pytest.approx(len(text), rel=0.1)
    assert table[["num_fitting", "num_problems"]].values.tolist() == [[60, 60]] * 2
    assert len(pd.read_csv(folder / "accuracy_by_length.csv")) == 2


def test_count_fitting_counts_the_problems_that_fit(make_builder):
    builder = make_builder(task="qa2")
    problems = [builder.problems.problem("test", i) for i in range(60)]
    size = sorted(map(builder.num_fixed_tokens, problems))[29]
    counts = count_fitting(builder, [None, 1, size])
    assert counts["num_fitting"].tolist()[:2] == [60, 0] and 30 <= counts["num_fitting"][2] < 60


def test_length_that_no_problem_fits_is_left_out(model, make_builder, tokenizer, tmp_path, capsys):
    config = resolve({"max_length": "1k", "num_samples": 3, "segment_size": 1040, "answer_size": 1020})
    records = evaluate_lengths(config, model, tokenizer, make_builder(), tmp_path)
    assert set(records["length"]) == {"0k"}
    assert "1k: of 60 test problems 0 fit" in capsys.readouterr().err
    assert describe_lengths(lengths_asked(config), make_builder())["num_characters"].tolist()[1] == 0


def test_tables_of_lengths_are_in_the_order_of_the_lengths():
    rows = [(name, 0.1, True) for name in ("10M", "0k", "2k") for _ in range(2)]
    records = pd.DataFrame(rows, columns=["length", "fact_depth", "is_correct"])
    records = records.assign(task="qa1", rule="exact_match", num_segments=1, num_tokens=[9, 9, 1, 4, 5, 5])
    assert length_table(records)["num_tokens"].tolist() == [2, 5, 9]
    assert depth_table(records)["length"].tolist() == ["0k", "2k", "10M"]


def test_facts_alone_of_any_size_are_one_row_for_each_number_of_segments():
    rows = [("qa1", 1, 20, True), ("qa1", 1, 27, False), ("qa1", 2, 40, True), ("qa1", 2, 41, True)]
    records = pd.DataFrame(rows, columns=["task", "num_segments", "num_tokens", "is_correct"]).assign(
        rule="exact_match"
    )
    table = length_table(records)
    assert table[["num_segments", "num_tokens", "n", "accuracy"]].values.tolist() == [[1, 24, 2, 0.5], [2, 40, 2, 1.0]]
    assert list(table)[:5] == ["task", "num_segments", "num_tokens", "rule", "n"]
