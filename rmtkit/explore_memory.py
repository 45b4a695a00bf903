"""Looking at the attention of one recorded sample: a segment's tokens, coloured by their weight for a memory slot.

The explorer is thin: `render_attention` makes self-contained HTML of a view, a figure inside, and without a live front
end the view that shows most is all that is shown.

Axis letters: m memory tokens, s segment tokens, l layers, h heads.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from rmtkit.analysis import Recording, write_attention
from rmtkit.explore import is_interactive
from rmtkit.plotting import as_png, plot_segment_attention

DIRECTIONS = {"write": "what the write slot takes from the tokens", "read": "what the tokens take from the read slot"}
BOX = "max-width:60em;line-height:2;white-space:pre-wrap;overflow-wrap:anywhere;background:#fff;color:#000;padding:4px;"
KINDS = {  # how the tokens of a fact and of the question are marked, whatever their colour
    "fact": "border-bottom:3px solid #d55e00;",
    "question": "border-bottom:3px dotted #000;",
    "text": "",
}


@dataclass(frozen=True, slots=True)
class View:
    """What is looked at: one memory slot in one head, all counted from 0; direction: one of `DIRECTIONS`."""

    segment: int
    layer: int
    head: int
    slot: int
    direction: str = "write"


def strongest_view(recording: Recording) -> View:
    """Return the view of the write slot that attends most to the last supporting fact."""
    fact = max(recording.sample.question.supporting, default=len(recording.sample.fact_spans) - 1)
    table = write_attention(recording, fact)
    places = ["segment", "layer", "head", "slot"]
    best = table[table["is_fact"]].groupby(places)["weight"].sum().idxmax()
    return View(*(int(number) for number in best))


def segment_attention(recording: Recording, view: View) -> pd.DataFrame:
    """Return how all slots attend to the tokens of a segment, and these to them, in one head.

    Returns: a row per direction, slot and position in the prompt: weight, token, kind ("fact", "question", "text").
    Raises:  ValueError for a view that was not recorded or is not there.
    """
    weights, m = recording.attention(view.segment), recording.num_memory_tokens
    sizes = {"layer": weights.shape[0], "head": weights.shape[1], "slot": m}
    for name, size in sizes.items():
        if not 0 <= getattr(view, name) < size:
            raise ValueError(f"{name} is {getattr(view, name)}; there are 0 to {size - 1}")
    if view.direction not in DIRECTIONS:
        raise ValueError(f"direction is {view.direction!r}; allowed: {', '.join(DIRECTIONS)}")
    of_head, positions = weights[view.layer, view.head].numpy(), np.arange(*recording.bounds(view.segment))
    maps = {"write": of_head[-m:, m:-m], "read": of_head[m:-m, :m].T}  # (m, s) both
    index = pd.MultiIndex.from_product([range(m), positions], names=["slot", "position"])
    tables = [pd.DataFrame({"weight": values.reshape(-1)}, index=index).reset_index().assign(direction=name)
              for name, values in maps.items()]  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    ids = recording.sample.prompt
    texts = {p: recording.tokenizer.decode([int(ids[p])]) for p in positions.tolist()}
    kinds = {p: _kind(recording, p) for p in positions.tolist()}
    return table.assign(token=table["position"].map(texts), kind=table["position"].map(kinds))


def _kind(recording: Recording, position: int) -> str:
    if any(start <= position < end for start, end in recording.sample.fact_spans.tolist()):
        return "fact"
    return "question" if position >= recording.question_start else "text"


# ---------------------------------------------------------------------- HTML


def render_tokens(table: pd.DataFrame, view: View) -> str:
    """Return the tokens of a segment as HTML, darker the more weight they have; it needs nothing from elsewhere.

    Args: table: of `segment_attention`.
    """
    rows = table[(table["slot"] == view.slot) & (table["direction"] == view.direction)]
    largest, total = rows["weight"].max(), rows["weight"].sum()
    body = "".join(
        _token(row.token, row.weight, row.weight / max(largest, 1e-12), row.kind)
        for row in rows.itertuples(index=False)
    )
    together = f"; all tokens together: {total:.3f}" if view.direction == "write" else ""
    title = (
        f"segment {view.segment}, layer {view.layer}, head {view.head}, slot {view.slot}: {DIRECTIONS[view.direction]}"
    )
    marks = " ".join(f'<span style="{KINDS[kind]}">{kind}</span>' for kind in ("fact", "question"))
    return f'<div style="{BOX}"><b>{html.escape(title)}</b> (darkest: {largest:.3f}{together}) {marks}\n{body}</div>'


def _token(text: str, weight: float, share: float, kind: str) -> str:
    """Return one token; share is its weight as a part of the largest, 0..1."""
    style = KINDS[kind]
    if share >= 0.02:
        style += f"background:rgba(0,90,160,{0.9 * share:.2f});" + ("color:#fff;" if share > 0.5 else "")
    return f'<span title="{weight:.3f}" style="{style}">{html.escape(text)}</span>'


def render_attention(recording: Recording, view: View) -> str:
    """Return a view as self-contained HTML: all slots of the head as a figure, and the tokens for the chosen slot."""
    table = segment_attention(recording, view)
    image = base64.b64encode(as_png(plot_segment_attention(table), dpi=80)).decode()
    return f'<img alt="attention of all slots" src="data:image/png;base64,{image}"><br>{render_tokens(table, view)}'


# ---------------------------------------------------------------------- the explorer


def explore_attention(recording: Recording, *, interactive: bool | None = None):
    """Return sliders above the attention of a sample, or the strongest view as HTML if no live front end is there.

    Args: interactive: build the widgets or not; None: `rmtkit.explore.is_interactive()`.
    """
    view = strongest_view(recording)
    if not (is_interactive() if interactive is None else interactive):
        from IPython.display import HTML

        return HTML(render_attention(recording, view))
    return _explorer(lambda chosen: render_attention(recording, chosen), recording, view)


def _explorer(render: Callable[[View], str], recording: Recording, first: View):
    """Return controls above an HTML view; core widgets without Output, alike in ipywidgets 7 and 8."""
    import ipywidgets

    num_layers, num_heads = recording.attention(first.segment).shape[:2]
    sizes = {"layer": num_layers, "head": num_heads, "slot": recording.num_memory_tokens}
    controls = {"segment": ipywidgets.SelectionSlider(options=sorted(recording.attentions), value=first.segment,
                                                      description="segment", continuous_update=False)}  # fmt: skip
    for name, size in sizes.items():
        controls[name] = ipywidgets.IntSlider(
            value=getattr(first, name), min=0, max=size - 1, description=name, continuous_update=False
        )
    options = [("write: slots to tokens", "write"), ("read: tokens to slots", "read")]
    controls["direction"] = ipywidgets.Dropdown(options=options, value=first.direction, description="direction")
    page = ipywidgets.HTML(render(first))

    def show(_change) -> None:
        page.value = render(View(**{name: control.value for name, control in controls.items()}))

    for control in controls.values():
        control.observe(show, names="value")
    return ipywidgets.VBox([*controls.values(), page])
