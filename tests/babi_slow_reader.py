"""A slow reader of the stories of tasks 1 to 5, which knows none of the generators' code."""

import re

OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}
SENTENCES = {
    "go": re.compile(r"(?P<who>\w+) (?:went|journeyed|travelled|moved|went back) to the (?P<place>\w+)\."),
    "get": re.compile(r"(?P<who>\w+) (?:picked up|grabbed|got|took) the (?P<what>\w+)(?: there)?\."),
    "drop": re.compile(r"(?P<who>\w+) (?:put down|dropped|discarded|left) the (?P<what>\w+)(?: there)?\."),
    "give": re.compile(r"(?P<who>\w+) (?:gave|handed|passed) the (?P<what>\w+) to (?P<to>\w+)\."),
    "map": re.compile(r"The (?P<place>\w+) is (?P<side>\w+) of the (?P<mark>\w+)\."),
}


def read_fact(sentence):
    """The kind of a sentence, and its words by role."""
    found = [(kind, match) for kind, form in SENTENCES.items() if (match := form.fullmatch(sentence))]
    assert len(found) == 1, sentence
    return found[0][0], found[0][1].groupdict()


class Reader:
    """A slow solver: lives through the sentences one by one and knows nothing of how they were made."""

    def __init__(self, facts):
        self.place, self.holder, self.been, self.gifts, self.sides = {}, {}, {}, [], {}
        for fact in facts:
            kind, words = read_fact(fact)
            getattr(self, f"see_{kind}")(**words)

    def see_go(self, who, place):
        self.place[who] = place
        for what, holder in self.holder.items():
            if holder == who:
                self.been.setdefault(what, []).append(place)

    def see_get(self, who, what):
        self.holder[what] = who

    def see_drop(self, who, what):
        self.holder[what] = None
        if who in self.place and self.been.get(what, [None])[-1] != self.place[who]:
            self.been.setdefault(what, []).append(self.place[who])

    def see_give(self, who, what, to):
        self.holder[what] = to
        self.gifts.insert(0, (who, what, to))  # the latest first

    def see_map(self, place, side, mark):
        self.sides[side, mark] = place
        self.sides[OPPOSITE[side], place] = mark

    def answer(self, question):
        for form, solve in (
            (r"Where is (\w+)\?", lambda who: self.place[who]),
            (r"Where is the (\w+)\?", lambda what: self.place.get(self.holder[what]) or self.been[what][-1]),
            (r"Where was the (\w+) before the (\w+)\?", self.place_before),
            (r"What is (\w+) of the (\w+)\?", lambda side, mark: self.sides[side, mark]),
            (r"What is the (\w+) (\w+) of\?", lambda mark, side: self.sides[OPPOSITE[side], mark]),
            (r"What did (\w+) give to (\w+)\?", lambda p, q: next(g[1] for g in self.gifts if g[::2] == (p, q))),
            (r"Who gave the (\w+) to (\w+)\?", lambda o, q: next(g[0] for g in self.gifts if g[1:] == (o, q))),
            (r"Who gave the (\w+)\?", lambda o: next(g[0] for g in self.gifts if g[1] == o)),
            (r"Who received the (\w+)\?", lambda o: next(g[2] for g in self.gifts if g[1] == o)),
            (r"Who did (\w+) give the (\w+) to\?", lambda p, o: next(g[2] for g in self.gifts if g[:2] == (p, o))),
        ):
            if match := re.fullmatch(form, question):
                return solve(*match.groups())
        raise AssertionError(f"no such question: {question}")

    def place_before(self, what, place):
        been = self.been[what]
        last = max(i for i, other in enumerate(been) if other == place)
        return been[last - 1]
