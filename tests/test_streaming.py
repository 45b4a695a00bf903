"""Fast reading: the same memory, whatever is cut ahead, kept on the way, copied to another precision."""

import time

import numpy as np
import pytest
import torch
from torch._dynamo.backends.common import aot_autograd

from rmtkit.background import TokenPieces, TokenRows
from rmtkit.bench.measurement import in_new_process
from rmtkit.precision import evaluation_dtype
from rmtkit.snapshots import Part, Snapshot
from rmtkit.streaming import Reader, ahead, fast_copy, flops_per_segment, keep_freed_memory, writer

CPU = torch.device("cpu")


class Killed(Exception):
    pass


@pytest.fixture
def rows(make_tokens):
    """Three prompts, read up to their token 203: forty segments of 5 and one of 3."""
    return TokenRows(list(make_tokens(3, 207).numpy().astype(np.uint16)), 203)


def memory_of(model, rows):
    return model.read(torch.from_numpy(np.asarray(rows).astype(np.int64)))


# ---------------------------------------------------------------- reading


def test_reader_returns_the_memory_of_read(make_model, rows):
    model = make_model()
    torch.testing.assert_close(Reader(model).read(rows), memory_of(model, rows), rtol=0, atol=0)


def test_reader_of_no_tokens_returns_none(make_model, make_tokens):
    assert Reader(make_model()).read(TokenRows(list(make_tokens(2, 4).numpy()), 0)) is None


def test_reader_reports_every_token(make_model, rows):
    reports = []
    Reader(make_model(), on_tokens=lambda *counts: reports.append(counts)).read(rows)
    assert sum(read for read, _ in reports) == 3 * 203 and sum(saved for _, saved in reports) == 0
    assert len(reports) > 40  # on the way, not at the end


def test_reader_without_a_compiler_says_so_and_reads_on(make_model, rows, monkeypatch, capsys):
    monkeypatch.setattr("rmtkit.streaming.which", lambda name: None)
    model = make_model()
    reader = Reader(model)
    assert not reader.compile(3)
    assert "without torch.compile: no C++ compiler" in capsys.readouterr().err
    torch.testing.assert_close(reader.read(rows), memory_of(model, rows))


def test_reader_says_when_compiling_fails(make_model, rows, monkeypatch, capsys):
    def fail(*arguments):
        raise RuntimeError("broken\nat length")

    monkeypatch.setattr("torch.compile", lambda function, **options: fail)
    reader = Reader(make_model())
    assert not reader.compile(3)
    assert capsys.readouterr().err == "reading without torch.compile, which failed: broken\n"
    assert reader.read(rows).shape == (3, 3, 16)


def test_reader_uses_the_compiled_step_for_full_segments_of_its_batch_only(make_model, rows, make_tokens, monkeypatch):
    shapes = []

    def compiled(function, **options):
        return lambda segment, state: shapes.append(tuple(segment.shape)) or function(segment, state)

    monkeypatch.setattr("torch.compile", compiled)
    model = make_model()
    reader = Reader(model)
    assert reader.compile(3) and shapes == [(3, 5)]
    torch.testing.assert_close(reader.read(rows), memory_of(model, rows))
    assert shapes == [(3, 5)] * 41  # once to compile, forty full segments
    reader.read(TokenRows(list(make_tokens(2, 30).numpy()), 20))
    assert len(shapes) == 41


def page_faults_of_steps() -> list[int] | None:
    """Return how many pages each of four steps with 96 MiB takes from the system; None if that cannot be known."""
    if not keep_freed_memory():
        return None
    import resource

    faults = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [torch.zeros(6 * 2**20) for _ in range(4)]  # 24 MiB each
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        del held
    return faults


def test_memory_that_a_step_frees_is_there_for_the_next_one():
    faults = in_new_process(page_faults_of_steps)
    if faults is None:
        pytest.skip("not glibc")
    assert faults[-1] < 500  # of 24,576 pages; the second step may still take some


# ---------------------------------------------------------------- going on where it was


def read_killed(model, rows, snapshot, num_segments, names=None):
    """Read until so many segments are read, then stop."""
    count = 0

    def on_tokens(num_read, num_saved):
        nonlocal count
        count += num_read > 0
        if count > num_segments:
            raise Killed

    with pytest.raises(Killed):
        Reader(model, on_tokens=on_tokens, snapshot=snapshot).read(rows, names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reader_goes_on_from_a_snapshot_bit_for_bit(make_model, rows, tmp_path, dtype):
    model, reports = fast_copy(make_model(), dtype), []
    snapshot = Snapshot(tmp_path / "state.safetensors", "key", seconds=0)
    read_killed(model, rows, snapshot, 20)
    reader = Reader(model, on_tokens=lambda *counts: reports.append(counts), snapshot=snapshot)
    torch.testing.assert_close(reader.read(rows), Reader(model).read(rows), rtol=0, atol=0)
    assert sum(saved for _, saved in reports) == 3 * 20 * 5
    assert sum(read for read, _ in reports) == 3 * (203 - 20 * 5)


@pytest.mark.parametrize("change", ["key", "names", "length", "damage"])
def test_reader_does_not_use_a_snapshot_of_something_else(make_model, rows, tmp_path, change):
    model, path = make_model(), tmp_path / "state.safetensors"
    read_killed(model, rows, Snapshot(path, "key", seconds=0), 20, names=[1, 2, 3])
    if change == "damage":
        path.write_bytes(path.read_bytes()[:20])
    if change == "length":
        rows = TokenRows(rows._texts, 202)
    reports = []
    reader = Reader(
        model,
        on_tokens=lambda *counts: reports.append(counts),
        snapshot=Snapshot(path, "other" if change == "key" else "key"),
    )
    found = reader.read(rows, [1, 2, 4] if change == "names" else [1, 2, 3])
    torch.testing.assert_close(found, memory_of(model, rows), rtol=0, atol=0)
    assert sum(saved for _, saved in reports) == 0


def test_snapshot_writes_as_seldom_as_asked(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("rmtkit.snapshots.time.monotonic", lambda: clock[0])
    snapshot, written = Snapshot(tmp_path / "x.safetensors", None, seconds=60), []
    for clock[0] in (30.0, 61.0, 100.0, 122.0):
        snapshot.keep("a", torch.zeros(1, 2, 3), int(clock[0]))
        written.append(Snapshot(snapshot.path, None).load("a")[1])
    assert written == [0, 61, 61, 122]


def test_part_leaves_out_a_line_that_was_cut_off(tmp_path):
    part = Part(tmp_path / "part.jsonl", {"a": 1})
    part.restart([])
    part.append([{"index": 0, "depth": float("nan")}])
    part.append([{"index": 1, "depth": 0.25}])
    with part.path.open("a") as file:
        file.write('[{"index": 2')
    found = Part(part.path, {"a": 1}).read()
    assert [batch[0]["index"] for batch in found] == [0, 1] and found[1][0]["depth"] == 0.25
    assert Part(part.path, {"a": 2}).read() == []


# ---------------------------------------------------------------- another precision


def test_fast_copy_leaves_the_model_as_it_is(make_model, rows):
    model = make_model("qwen3")
    before, attention = memory_of(model, rows), model.backbone.config._attn_implementation
    fast = fast_copy(model, torch.bfloat16)
    assert {weight.dtype for weight in fast.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert model.backbone.config._attn_implementation == attention and all(w.requires_grad for w in model.parameters())
    torch.testing.assert_close(memory_of(model, rows), before, rtol=0, atol=0)


def test_fast_copy_keeps_the_rotary_frequencies_exact(make_model):
    buffers = [fast_copy(make_model("qwen3"), dtype).buffers() for dtype in (torch.bfloat16, torch.float32)]
    for rounded, exact in zip(*buffers, strict=True):
        torch.testing.assert_close(rounded, exact, rtol=0, atol=0)


def test_fast_copy_is_the_model_where_nothing_has_to_be_changed(make_model):
    model, half = make_model(), make_model(attention="eager").bfloat16()
    assert fast_copy(model, torch.float32) is model and fast_copy(half, torch.bfloat16) is half


def test_fast_copy_of_bfloat16_weights_has_plain_attention_and_float32_is_possible(make_model):
    model = make_model().bfloat16()
    fast, exact = fast_copy(model, torch.bfloat16), fast_copy(model, torch.float32)
    assert fast.backbone.config._attn_implementation == "eager" and fast.memory.dtype is torch.bfloat16
    assert exact.memory.dtype is torch.float32 and model.backbone.config._attn_implementation == "sdpa"


def test_fast_copy_reads_as_the_model_within_its_rounding(make_model, make_tokens):
    model = make_model("llama", segment_size=20)
    rows = TokenRows(list(make_tokens(4, 20).numpy()), 20)
    found = Reader(fast_copy(model, torch.bfloat16)).read(rows)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), memory_of(model, rows), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("has, expected", [(True, torch.bfloat16), (False, torch.float32)])
def test_evaluation_dtype_is_bfloat16_where_the_processor_has_it(monkeypatch, has, expected):
    monkeypatch.setattr("rmtkit.precision.has_bfloat16", lambda: has)
    assert evaluation_dtype("auto", CPU) == expected
    assert evaluation_dtype("float32", CPU) == torch.float32


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_writer_writes_the_same_memory_with_the_same_weights(make_model, make_tokens, name, attention):
    model = make_model(name, attention=attention)
    narrow = writer(model)
    assert narrow is not model and narrow.memory is model.memory
    assert {id(p) for p in narrow.parameters()} == {id(p) for p in model.parameters()}
    tokens = make_tokens(3, 13)  # three segments: random weights make much of a rounding
    torch.testing.assert_close(narrow.read(tokens), model.read(tokens))
    last = model.backbone.get_decoder().layers[-1]
    calls = []
    last.mlp.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape[1]))
    writer(model).step(torch.ones(2, 5, dtype=torch.long))
    assert calls[-1] == model.config.num_memory_tokens


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_writer_leaves_other_decoders_as_they_are(make_model, name):
    model = make_model(name)
    assert writer(model) is model and writer(make_model("llama", num_memory_tokens=0)).config.num_memory_tokens == 0


def test_writer_is_not_used_where_it_would_write_another_memory(make_model, monkeypatch):
    model = make_model("qwen3")
    monkeypatch.setattr("rmtkit.streaming.WritingLayer.forward", lambda self, hidden, **_: 1.1 * hidden)
    assert writer(model) is model


def test_compiled_reader_leaves_out_what_nobody_reads(make_model, make_tokens, monkeypatch):
    graphs, compiled = [], torch.compile

    def keep(graph, inputs):
        graphs.append(graph)
        return graph

    backend = aot_autograd(fw_compiler=keep, inference_compiler=keep)
    monkeypatch.setattr("torch.compile", lambda function, **_: compiled(function, dynamic=False, backend=backend))
    model = make_model("llama")
    reader = Reader(model)
    assert reader.flops_per_segment() == flops_per_segment(model, 5)
    assert reader.compile(3) and len(graphs) == 1
    products = [node for node in graphs[0].graph.nodes if node.target is torch.ops.aten.mm.default]
    num_rows = [node.meta["val"].shape[0] for node in products]  # all positions of three samples, or their write slots
    assert num_rows.count(3 * 11) == 7 + 2 and num_rows.count(3 * 3) == len(num_rows) - 9 == 5
    assert reader.flops_per_segment() == flops_per_segment(model, 5, only_writing=True)
    tokens = make_tokens(3, 13)  # two full segments: random weights make much of a rounding
    torch.testing.assert_close(reader.read(TokenRows(list(tokens.numpy()), 13)), model.read(tokens))
    assert len(graphs) == 1  # what was compiled is what is used


def test_flops_per_segment_counts_layers_and_attention(make_model):
    model = make_model("llama", segment_size=5)  # 2 layers of width 16, 2 heads of 8, 1 of keys, 32 between
    weights = 2 * (16 * 16 * 2 + 16 * 8 * 2 + 3 * 16 * 32)
    positions = 5 + 2 * 3
    everything = positions * (2 * weights + 4 * positions * 16 * 2)
    assert flops_per_segment(model, 5) == everything
    spared = 8 * (2 * (16 * 16 * 2 + 3 * 16 * 32) + 4 * positions * 16)
    assert flops_per_segment(model, 5, only_writing=True) == everything - spared


# ---------------------------------------------------------------- tokens that are copied late


@pytest.fixture
def pieces():
    """Pieces of 0 to 6 tokens, and the same as one array."""
    arrays = [np.arange(10 * i, 10 * i + size, dtype=np.uint16) for i, size in enumerate([3, 0, 6, 1, 0, 4])]
    return TokenPieces(arrays), np.concatenate(arrays)


def test_token_pieces_slice_as_an_array(pieces):
    lazy, array = pieces
    for start in (None, *range(-16, 17)):
        for stop in (None, *range(-16, 17)):
            found = lazy[start:stop]
            assert found.dtype == array.dtype and found.tolist() == array[start:stop].tolist()
    assert lazy[::-2].tolist() == array[::-2].tolist()


def test_token_pieces_are_indexed_and_converted_as_an_array(pieces):
    lazy, array = pieces
    assert len(lazy) == len(array) and lazy.shape == array.shape and lazy.tolist() == array.tolist()
    assert [lazy[i] for i in range(-14, 14)] == [array[i] for i in range(-14, 14)]
    assert np.append(lazy, 7).tolist() == [*array.tolist(), 7]
    with pytest.raises(IndexError):
        lazy[14]


def test_token_pieces_share_the_memory_of_their_pieces():
    array = np.arange(1000)
    views = TokenPieces([array[:400], array[600:]]).cut(300, 500)
    assert all(np.shares_memory(view, array) for view in views)
    assert np.concatenate(views).tolist() == [*range(300, 400), *range(600, 700)]


def test_token_rows_copy_a_slice_of_each_text(pieces):
    lazy, array = pieces
    rows = TokenRows([lazy, array], 12)
    assert rows.shape == (2, 12) and np.asarray(rows).tolist() == [array[:12].tolist()] * 2
    assert rows[:, 5:100].tolist() == [array[5:12].tolist()] * 2


@pytest.mark.parametrize("layout, num_tokens", [("spaced", 150), ("spaced", 3000), ("authors", 400)])
def test_long_prompts_are_views_with_the_same_tokens(make_builder, monkeypatch, layout, num_tokens):
    builder = make_builder(layout=layout, answer_size=40)
    whole = [builder.sample("test", index, num_tokens) for index in range(5)]
    monkeypatch.setattr("rmtkit.babilong.LAZY_TOKENS", 100)
    for sample in whole:
        lazy = builder.sample("test", sample.index, num_tokens)
        assert isinstance(lazy.prompt, TokenPieces) and lazy.prompt.dtype == sample.prompt.dtype
        assert lazy.prompt.tolist() == sample.prompt.tolist() == slow_prompt(builder, sample, num_tokens)
        assert lazy.fact_spans.tolist() == sample.fact_spans.tolist()


def slow_prompt(builder, sample, num_tokens):
    """Put facts into background the obvious way: token by token, at the places that the sample names."""
    head, tail = builder.question_ends(sample.problem)
    told = {
        int(start): builder._encode(f) for (start, _), f in zip(sample.fact_spans, sample.problem.facts, strict=True)
    }
    beyond = len(head) + len(tail) if builder.layout == "authors" else 0
    num_background = num_tokens - builder.num_fixed_tokens(sample.problem)
    rng = np.random.default_rng([builder.seed, 2, sample.index])
    background = iter(builder.background.passage("test", num_background, rng)[0].tolist())
    tokens = head.tolist()
    while len(tokens) < num_tokens + beyond - len(tail):
        tokens += told[len(tokens)].tolist() if len(tokens) in told else [next(background)]
    return tokens + tail.tolist()


def test_passage_views_are_the_passage_and_no_copy(make_builder):
    background = make_builder().background
    views, starts = background.passage_views("test", 2000, np.random.default_rng(0))
    tokens, expected = background.passage("test", 2000, np.random.default_rng(0))
    assert np.concatenate(views).tolist() == tokens.tolist() and starts.tolist() == expected.tolist()
    assert all(np.shares_memory(view, background._tokens) for view in views)


# ---------------------------------------------------------------- working ahead


def test_ahead_yields_the_same_items_and_passes_errors_on():
    assert list(ahead(iter(range(5)))) == [0, 1, 2, 3, 4]
    with pytest.raises(ZeroDivisionError):
        list(ahead(1 // (2 - i) for i in range(3)))


def test_ahead_makes_one_item_while_the_last_is_used():
    made = []
    items = ahead(made.append(i) or i for i in range(4))
    next(items)
    deadline = time.monotonic() + 10
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert made == [0, 1]
    items.close()
