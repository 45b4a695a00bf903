"""Sentences that say what a table shows, with its numbers: nothing is claimed that is not computed.

Each function takes the tables of `rmtkit.analysis`, `probing`, `interventions` or `drift` and returns one sentence.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

MOST_NAMED = 6  # questions in a sentence


def _share(row: pd.Series, column: str = "accuracy") -> str:
    """Return "98.0 % (95.1-99.2, n=200)"."""
    low, high = (f"{100 * max(0.0, row[name]):.1f}" for name in ("low", "high"))
    return f"{100 * row[column]:.1f} % ({low}-{high}, n={int(row['n'])})"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def distances_finding(distances: pd.DataFrame, marks: dict[str, int]) -> str:
    """Say how far states lie apart after the last fact, one and two segments from each other, and across it.

    Args: distances: of `analysis.state_distances`;  marks: `recording.state_marks()`.
    """
    values, last = distances.to_numpy(), max(state for name, state in marks.items() if name != "question")
    end = len(distances) - 2  # the state before the segment with the question
    told = values[last : end + 1, last : end + 1]
    if len(told) < 3:
        return "After the last fact too few segments follow to tell whether memory stays as it is."
    one, two = (float(np.diagonal(told, lag).mean()) for lag in (1, 2))
    rhythm = "memory alternates between two forms" if one > 2 * two else "memory does not alternate"
    sentence = f"After the last fact, states two segments apart are {two:.1f} from each other and neighbours {one:.1f}"
    before = [state for state in range(1, last) if (state - end) % 2 == 0]
    if before:
        sentence += f", and states of the same parity from before it {values[before, end].mean():.1f} from the last one"
    return f"{sentence}: {rhythm} (one sample of {len(distances) - 1} segments)."


def mass_finding(summary: pd.DataFrame) -> str:
    """Say which head writes facts, beside an even spread. Args: summary: of `analysis.summarize_mass`."""
    facts = summary[summary["target"] == "facts"].sort_values("share", ascending=False)
    best, num_above = facts.iloc[0], int((facts["low"] > 2 * facts["baseline"]).sum())
    where = f"layer {int(best['layer'])}, head {int(best['head'])}"
    return (
        f"In segments with facts, the write slots of {where} give {_share(best, 'share')} of their attention to them, "
        f"where an even spread gives {100 * best['baseline']:.1f} %; {num_above} of {len(facts)} heads give more than "
        "twice the even share."
    )


def read_finding(table: pd.DataFrame) -> str:
    """Say what the answering position reads in its strongest head. Args: table: of `analysis.read_attention`."""
    last = table[table["position"] == table["position"].max()]
    by_head = last.groupby(["layer", "head"])["weight"].sum()
    layer, head = by_head.idxmax()
    of_head = last[(last["layer"] == layer) & (last["head"] == head)].set_index("slot")["weight"]
    return (
        f"The position that answers gives {100 * by_head.max():.0f} % of its attention in layer {layer}, head {head} "
        f"to memory, {100 * of_head.max():.0f} % to slot {of_head.idxmax()} alone (one sample)."
    )


def probe_finding(by_phase: pd.DataFrame) -> str:
    """Say how well memory can be read at once and at the greatest age. Args: of `probing.accuracy_by_age`, by phase."""
    same, other = (
        by_phase[by_phase["trained_on"] == f"{name} parity"].sort_values("age") for name in ("same", "other")
    )
    first, last, crossed = same.iloc[0], same.iloc[-1], other.iloc[0]
    return (
        f"A linear probe reads the answer from the first state after a fact in {_share(first)} of cases and "
        f"{int(last['age'])} segments later in {_share(last)}; the most frequent answer is right in "
        f"{100 * first['floor']:.1f} %. A probe of the other parity's states is right in {_share(crossed)}: "
        + (
            "the two forms of memory are different codes."
            if crossed["high"] < first["low"]
            else "at this n the two codes cannot be told apart."
        )
    )


def forgetting_finding(by_phase: pd.DataFrame) -> str:
    """Say whether the former answer can still be read. Args: `accuracy_by_age` of probes of `overwritten` answers."""
    rows = by_phase[by_phase["trained_on"] == "same parity"].sort_values("age")
    if rows.empty:
        return "No fact of these texts overwrites an answer: there is nothing to forget."
    first, last = rows.iloc[0], rows.iloc[-1]
    is_held = (rows["low"] > rows["floor"]).cumprod().astype(bool)  # from the beginning on, without a gap
    held = rows[is_held]["age"]
    verdict = f"beyond the floor up to age {int(held.max())}" if len(held) else "not beyond the floor, even at once"
    return (
        f"The answer that a fact overwrote is read in {_share(first)} of cases at age {int(first['age'])} (best guess "
        f"from the present answer: {100 * first['floor']:.1f} %) and in {_share(last)} at age {int(last['age'])} "
        f"({100 * last['floor']:.1f} %): {verdict}."
    )


def slots_finding(table: pd.DataFrame) -> str:
    """Say which slots the answer depends on. Args: table: of `interventions.ablate_slots`."""
    rows = table.set_index(["kept", "slot"])
    whole, none = rows.loc[("all", -1)], rows.loc[("none", -1)]
    without, alone = (rows.loc[kept] for kept in ("others", "slot"))
    needed = [str(slot) for slot in without.index[without["high"] < whole["low"]]]
    worst, best = without["accuracy"].idxmin(), alone["accuracy"].idxmax()
    which = f"slot {_listed(needed)} cannot be missed" if needed else "every single slot can be missed"
    return (
        f"With the whole memory {_share(whole)} of answers are right, without any slot {_share(none)}; {which}, slot "
        f"{worst} least ({_share(without.loc[worst])} without it), and slot {best} does most alone "
        f"({_share(alone.loc[best])})."
    )


def heads_finding(answering: pd.DataFrame, reading: pd.DataFrame) -> str:
    """Say which heads cannot be missed. Args: tables of `interventions.ablate_heads`, one for each phase."""
    parts = []
    for name, table in (("answering", answering), ("reading", reading)):
        whole, heads = table[table["layer"] < 0].iloc[0], table[table["layer"] >= 0]
        needed = heads[heads["high"] < whole["low"]].sort_values("accuracy")
        worst = heads.loc[heads["accuracy"].idxmin()]
        where = f"layer {int(worst['layer'])}, head {int(worst['head'])}"
        parts.append(
            f"while {name}, {len(needed)} of {len(heads)} heads cannot be missed (whole model {_share(whole)}), "
            f"{where} least ({_share(worst)} without it)"
        )
    return f"Silenced one at a time: {'; '.join(parts)}."


def swap_finding(shares: pd.DataFrame, by_question: pd.DataFrame) -> str:
    """Say whether the answer goes with the memory. Args: of `swap_shares`, plain and by question."""
    rows = shares[shares["answer"] == "other"].set_index("exchanged")
    own = shares[(shares["answer"] == "own") & (shares["exchanged"] == "everything")].iloc[0]
    sentence = (
        f"With the other sample's memory {_share(rows.loc['everything'], 'share')} of answers are that sample's, "
        f"{_share(own, 'share')} stay its own"
    )
    slots = by_question[(by_question["answer"] == "other") & by_question["exchanged"].str.startswith("slot")]
    best = slots.loc[slots.groupby("question")["share"].idxmax()]
    moved = best[best["low"] > 0.5].sort_values("question")[:MOST_NAMED]
    if moved.empty:
        return f"{sentence}; no single slot does that for half of the answers to a question."
    named = [f'{row["exchanged"]} for "{row["question"]}" ({_share(row, "share")})' for _, row in moved.iterrows()]
    return f"{sentence}; a single slot is enough: {_listed(named)}."


def drift_finding(summary: pd.DataFrame) -> str:
    """Say how far the state has moved at the end, and whether it answers. Args: summary: of `drift.summarize_drift`."""
    rows = summary[summary["lag"] > 1].sort_values("lag")
    last, first = rows.iloc[-1], summary.iloc[0]
    return (
        f"After {int(last['tokens']):,} tokens of background the state is {last['in_phase']:.2f} of the distance to "
        f"another text's state from where it was ({rows['in_phase'].iloc[0]:.2f} after {int(rows['tokens'].iloc[0]):,} "
        f"tokens); {_share(last)} of answers are right, {_share(first)} before."
    )
