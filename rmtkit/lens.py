"""A sample under the lens, as static HTML: facts coloured in the haystack, borders of segments, a ruler of positions.

Styles are inline, every text is escaped, nothing is fetched; what a browser of samples shows is the same HTML. Segments
are counted from 0, as everywhere in the analysis.

Axis letters: t tokens.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from rmtkit.analysis import question_ends
from rmtkit.babilong import Sample

MARKS = {  # background colour and CSS of each kind of text; all are colour-blind safe and differ in weight too
    "supporting fact": "background:#ffd27f;color:#000;font-weight:bold;",
    "fact": "background:#cfe6ff;color:#000;",
    "question": "background:#c9ecd0;color:#000;text-decoration:underline;",
    "answer": "border:1px solid #888;padding:0 3px;font-weight:bold;",
    "answer of the model": "border:1px dashed #888;padding:0 3px;",
}
TICKS = {  # of the ruler: top and height in em, width in px, colour; kinds differ in height, too
    "question": (0.5, 1.3, 4, "#3a9a55"),
    "fact": (0.75, 0.8, 3, "#3d7fc1"),
    "supporting fact": (0.2, 1.6, 4, "#c46a00"),
}
STYLE = "max-width:60em;line-height:1.6;white-space:pre-wrap;overflow-wrap:anywhere;"
BORDER = "border-left:2px solid #a33ea1;color:#a33ea1;font-size:70%;vertical-align:super;padding:0 2px 0 1px;"
LEAST_HIDDEN = 24  # tokens: to say that fewer are left out takes as much room as they do
MAX_STRIPES = 64  # segments that the ruler tells apart


@dataclass(frozen=True)
class Piece:
    """A part of a prompt: tokens [start, end) of one kind."""

    kind: str  # background, fact, supporting fact, question
    start: int
    end: int


def render_sample(sample: Sample, tokenizer, *, segment_size: int | None = None, max_tokens: int = 800,
                  prediction: str | None = None, is_correct: bool = False) -> str:  # fmt: skip
    """Return a sample as HTML: facts, question and answer marked, borders of segments, a ruler; background shortened.

    Args: segment_size: tokens between two borders; None: no borders;
          max_tokens: of background to show, shared evenly by its pieces; each keeps its two ends;
          prediction: what a model has answered, shown beside the answer;  is_correct: whether that is right.
    """
    pieces = cut_sample(sample, tokenizer)
    room = max(8, max_tokens // max(1, sum(piece.kind == "background" for piece in pieces)))
    body = "".join(_render_piece(sample, piece, tokenizer, room, segment_size) for piece in pieces)
    answer = _mark("answer", sample.question.answer)
    if prediction is not None:
        answer += f" the model: {_mark('answer of the model', prediction)} ({'right' if is_correct else 'wrong'})"
    ruler = render_ruler(pieces, segment_size)
    return f'{_title(sample, segment_size)}{ruler}<div style="{STYLE}">{body} &rarr; {answer}</div>'


def cut_sample(sample: Sample, tokenizer) -> list[Piece]:
    """Cut the prompt into pieces of one kind, in order; together they are the prompt."""
    head, tail = question_ends(sample, tokenizer)
    kinds = ["supporting fact" if k in sample.question.supporting else "fact" for k in range(len(sample.fact_spans))]
    facts = zip(kinds, *sample.fact_spans.T.tolist(), strict=True)
    pieces, done = [], 0
    for kind, start, end in (("question", 0, head), *facts, ("question", tail, len(sample.prompt))):
        pieces += [Piece("background", done, start), Piece(kind, start, end)]
        done = end
    return [piece for piece in pieces if piece.end > piece.start]


def _title(sample: Sample, segment_size: int | None) -> str:
    size, facts = len(sample.prompt), len(sample.problem.facts)
    segments = f" in {-(-size // segment_size):,} segments of {segment_size}" if segment_size else ""
    name = f"{sample.problem.task}, {sample.split} sample {sample.index}"
    legend = " ".join(_mark(kind, kind) for kind in ("supporting fact", "fact", "question"))
    border = f' <span style="{BORDER}">3</span>segment 3 begins' if segment_size else ""
    return f"<p><b>{html.escape(name)}: {size:,} tokens{segments}, {facts} facts</b>&ensp;{legend}{border}</p>"


# ---------------------------------------------------------------------- text


def _render_piece(sample: Sample, piece: Piece, tokenizer, room: int, segment_size: int | None) -> str:
    """Return a piece as HTML; of a long background its two ends, and how many tokens are between them."""
    if piece.kind != "background":
        text = _render_text(sample, piece.start, piece.end, tokenizer, segment_size)
        space = " " * text.startswith(" ")
        return f'{space}<span title="{piece.kind}" style="{MARKS[piece.kind]}">{text.removeprefix(" ")}</span>'
    if piece.end - piece.start <= room + LEAST_HIDDEN:
        return _render_text(sample, piece.start, piece.end, tokenizer, segment_size)
    start, end = piece.start + room // 2, piece.end - room // 2
    left = _render_text(sample, piece.start, start, tokenizer, segment_size)
    right = _render_text(sample, end, piece.end, tokenizer, segment_size)
    return f"{left} <i>&hellip; {_hidden(start, end, segment_size)} &hellip;</i> {right}"


def _render_text(sample: Sample, start: int, end: int, tokenizer, segment_size: int | None) -> str:
    """Return the escaped text of tokens [start, end) with the borders of the segments that begin there."""
    ids = sample.prompt[start:end].tolist()
    text, parts, done = tokenizer.decode(ids), [], 0
    for place in _borders(start, end, segment_size):
        cut = len(tokenizer.decode(ids[: place - start]).rstrip("\ufffd"))  # a character may be cut in two by a border
        number = place // segment_size
        border = f'<span title="segment {number} begins at token {place:,}" style="{BORDER}">{number}</span>'
        parts += [html.escape(text[done:cut]), border]
        done = cut
    return "".join([*parts, html.escape(text[done:])])


def _borders(start: int, end: int, segment_size: int | None) -> range:
    """Return where segments begin among tokens [start, end)."""
    return range(-(-start // segment_size) * segment_size, end, segment_size) if segment_size else range(0)


def _hidden(start: int, end: int, segment_size: int | None) -> str:
    numbers = [place // segment_size for place in _borders(start, end, segment_size)]
    span = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}" if numbers else ""
    begins = f"; segment{'s' * (len(numbers) > 1)} {span} begin{'s' * (len(numbers) == 1)} there" if numbers else ""
    return f"{end - start:,} tokens of background{begins}"


def _mark(kind: str, text: str) -> str:
    return f'<span title="{kind}" style="{MARKS[kind]}">{html.escape(text)}</span>'


# ---------------------------------------------------------------------- ruler


def render_ruler(pieces: list[Piece], segment_size: int | None = None) -> str:
    """Return a bar from the first token to the last: ticks where facts and question begin, segments as stripes."""
    size = pieces[-1].end
    track = _box(0, 100, 0.75, 0.8, "#e4e4e4")
    borders = _borders(0, size, segment_size)
    if len(borders) <= MAX_STRIPES:
        stripes = [(place, min(place + segment_size, size)) for place in borders[1::2]]
        track += "".join(_box(100 * a / size, 100 * (b - a) / size, 0.75, 0.8, "#cfcfcf") for a, b in stripes)
    ticks = [_tick(piece, size, segment_size) for kind in TICKS for piece in pieces if piece.kind == kind]
    labels = [_label(quarter, size) for quarter in range(5)]
    shape = "position:relative;height:4.2em;max-width:60em;margin:0 0 0.6em 0;"
    return f'<div style="{shape}">{track}{"".join(ticks)}{"".join(labels)}</div>'


def _box(left: float, width: float, top: float, height: float, colour: str) -> str:
    place = f"position:absolute;left:{left:.2f}%;width:{width:.2f}%;top:{top}em;height:{height}em;"
    return f'<div style="{place}background:{colour};"></div>'


def _tick(piece: Piece, size: int, segment_size: int | None) -> str:
    top, height, width, colour = TICKS[piece.kind]
    share = 100 * piece.start / size
    segment = f", segment {piece.start // segment_size}" if segment_size else ""
    title = f"{piece.kind} at token {piece.start:,} ({share:.0f} %{segment})"
    place = f"position:absolute;left:{share:.2f}%;top:{top}em;height:{height}em;width:{width}px;background:{colour};"
    return f'<div title="{title}" style="{place}"></div>'


def _label(quarter: int, size: int) -> str:
    align, left = (("left", "0"), *[("center", f"{25 * quarter - 10}%")] * 3, ("right", "80%"))[quarter]
    text = f"{25 * quarter} %<br>{'token ' * (quarter == 0)}{quarter * size // 4:,}"
    place = f"position:absolute;left:{left};width:20%;top:2.4em;text-align:{align};font-size:80%;line-height:1.25;"
    return f'<div style="{place}">{text}</div>'
