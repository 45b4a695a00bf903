"""The token view of attention: right weights, escaped texts, and the explorer with and without a front end."""

import re
from html import unescape

import pytest
import torch
from model_types import make_decoder

from rmtkit import explore_memory
from rmtkit.analysis import record
from rmtkit.explore_memory import View
from rmtkit.interventions import memory_samples
from rmtkit.memory import RMTForCausalLM

MEMORY, SEGMENT = 3, 64


@pytest.fixture(scope="module")
def recording(make_builder, tokenizer):
    backbone = make_decoder("llama", vocab_size=300, max_position_embeddings=128)
    model = RMTForCausalLM.from_backbone(backbone, num_memory_tokens=MEMORY, segment_size=SEGMENT).eval()
    sample = memory_samples(make_builder(), 300, SEGMENT, 1)[0]
    return record(model, sample, tokenizer)


@pytest.fixture(scope="module")
def view(recording):
    return explore_memory.strongest_view(recording)


def spans(page):
    """Return (weight, style, text) of each token."""
    found = re.findall(r'<span title="([^"]*)" style="([^"]*)">([^<]*)</span>', page)
    return [(float(weight), style, unescape(text)) for weight, style, text in found]


def test_strongest_view_is_the_slot_that_attends_most_to_the_supporting_fact(recording, view):
    start, end = recording.sample.fact_spans[recording.sample.question.supporting[-1]].tolist()
    first = view.segment * SEGMENT
    assert view.segment in recording.fact_segments(recording.sample.question.supporting[-1])
    columns = slice(MEMORY + max(0, start - first), MEMORY + min(SEGMENT, end - first))
    sums = recording.attention(view.segment)[:, :, -MEMORY:, columns].sum(dim=-1)
    assert sums[view.layer, view.head, view.slot] == sums.max()


@pytest.mark.parametrize("direction", ["write", "read"])
def test_render_tokens_has_each_token_with_its_weight(direction, recording, view):
    view = View(view.segment, 1, 0, 2, direction)
    tokens = spans(explore_memory.render_tokens(explore_memory.segment_attention(recording, view), view))
    weights = recording.attention(view.segment)[1, 0]
    expected = weights[-1, MEMORY:-MEMORY] if direction == "write" else weights[MEMORY:-MEMORY, 2]
    torch.testing.assert_close(torch.tensor([weight for weight, *_ in tokens]), expected, atol=6e-4, rtol=0)
    start, end = recording.bounds(view.segment)
    decode = recording.tokenizer.decode
    assert [text for *_, text in tokens] == [decode([int(i)]) for i in recording.sample.prompt[start:end]]


def test_render_tokens_is_darkest_at_the_largest_weight_and_marks_facts(recording, view):
    tokens = spans(explore_memory.render_tokens(explore_memory.segment_attention(recording, view), view))
    darkness = [float(found[1]) if (found := re.search(r",(0\.\d+)\)", style)) else 0 for _, style, _ in tokens]
    weights = [weight for weight, *_ in tokens]
    assert darkness[weights.index(max(weights))] == max(darkness) == 0.9
    marked = "".join(text for _, style, text in tokens if explore_memory.KINDS["fact"] in style)
    assert any(fact in marked for fact in recording.sample.problem.facts)


def test_render_tokens_escapes_every_text(recording, view):
    table = explore_memory.segment_attention(recording, view).assign(token="<script>alert('&')</script>")
    page = explore_memory.render_tokens(table, view)
    assert "<script" not in page and "&lt;script&gt;alert(&#x27;&amp;&#x27;)" in page


def test_render_attention_needs_nothing_from_elsewhere_and_stays_small(recording, view):
    page = explore_memory.render_attention(recording, view)
    assert "http" not in page and "<script" not in page and 'src="data:image/png;base64,' in page
    assert len(page) < 200_000


def test_segment_attention_names_what_is_there(recording, view):
    for wrong, message in (
        (View(view.segment, 2, 0, 0), "layer is 2; there are 0 to 1"),
        (View(view.segment, 0, 0, -1), "slot is -1; there are 0 to 2"),
        (View(view.segment, 0, 0, 0, "both"), "allowed: write, read"),
        (View(77, 0, 0, 0), "segment 77 is not recorded"),
    ):
        with pytest.raises(ValueError, match=message):
            explore_memory.segment_attention(recording, wrong)


def test_explore_attention_without_a_front_end_is_the_strongest_view(recording, view, monkeypatch):
    monkeypatch.setenv("CI", "1")
    shown = explore_memory.explore_attention(recording)
    assert shown.data == explore_memory.render_attention(recording, view)


def test_explore_attention_follows_its_controls_without_output_capture(recording, view):
    ipywidgets = pytest.importorskip("ipywidgets")
    explorer = explore_memory.explore_attention(recording, interactive=True)
    *controls, page = explorer.children
    by_name = {control.description: control for control in controls}
    assert page.value == explore_memory.render_attention(recording, view)
    last = max(recording.attentions)
    for name, value in {"segment": last, "layer": 1 - view.layer, "slot": 2, "direction": "read"}.items():
        by_name[name].value = value
    chosen = View(last, 1 - view.layer, view.head, 2, "read")
    assert page.value == explore_memory.render_attention(recording, chosen)
    assert not any(isinstance(widget, ipywidgets.Output) for widget in explorer.children)
    assert by_name["layer"].max == 1 and by_name["slot"].max == MEMORY - 1
