"""Our wording of the 20 tasks: what the facts say and what is wanted, two worked examples, the form of the answer.

The wording of the benchmark's authors is theirs; `rmtkit.llm.harness` reads it where lm_eval is installed. Examples
are stories of the bAbI kind, the second of each task with sentences of a made-up background in between.
"""

from __future__ import annotations

from typing import NamedTuple


class Example(NamedTuple):
    """A worked example: the text, what is asked, the answer."""

    context: str
    question: str
    answer: str


class Wording(NamedTuple):
    """What a prompt says of one task."""

    instruction: str
    answer_format: str
    examples: tuple[Example, ...]


HIDDEN = "You will read a text in which a few short sentences state facts; the rest of the text does not matter."
ONE_WORD = "Answer with one word and nothing else"
A_PLACE = f"{ONE_WORD}: the name of the place."
YES_OR_NO = f"{ONE_WORD}: yes or no."
LATEST_PLACE = "Say where the person in the question is now; of several places, the latest counts."
CARRIED = "A thing moves with the person who carries it, and stays where it is put down."


def _wording(facts_and_wish: str, answer_format: str, *examples: tuple[str, str, str]) -> Wording:
    return Wording(f"{HIDDEN} {facts_and_wish}", answer_format, tuple(Example(*example) for example in examples))


WORDING = {
    "qa1": _wording(
        f"The facts tell where people go. {LATEST_PLACE}",
        A_PLACE,
        (
            "Sandra moved to the office. John went to the garden. Sandra journeyed to the kitchen.",
            "Where is Sandra?",
            "kitchen",
        ),
        (
            "The lamps along the harbour were lit before six. Daniel travelled to the bathroom. Nobody could say who "
            "had painted the old sign. John went back to the hallway.",
            "Where is Daniel?",
            "bathroom",
        ),
    ),
    "qa2": _wording(
        f"The facts tell where people go, and which things they take and put down. {CARRIED} Say where the thing in "
        "the question is now.",
        A_PLACE,
        ("Mary took the apple. John moved to the kitchen. Mary went to the hallway.", "Where is the apple?", "hallway"),
        (
            "John picked up the football. The ferry was late that evening, as it often was. John journeyed to the "
            "garden. John dropped the football there. It smelled of rain and of wet leaves. John went to the office.",
            "Where is the football?",
            "garden",
        ),
    ),
    "qa3": _wording(
        f"The facts tell where people go, and which things they take and put down. {CARRIED} Say in which place the "
        "thing was just before it came to the place that the question names.",
        A_PLACE,
        (
            "Daniel got the milk. Daniel went to the office. Daniel moved to the bathroom.",
            "Where was the milk before the bathroom?",
            "office",
        ),
        (
            "Sandra travelled to the kitchen. Sandra grabbed the apple there. A clerk counted the coins twice and "
            "wrote the sum in his book. Sandra journeyed to the bedroom. Sandra went to the garden. Sandra left the "
            "apple there.",
            "Where was the apple before the garden?",
            "bedroom",
        ),
    ),
    "qa4": _wording(
        "The facts tell on which side of one place another one lies. What is north of a place has that place to its "
        "south, and what is east of it has it to its west. Say which place the question asks for.",
        A_PLACE,
        (
            "The office is north of the hallway. The garden is south of the hallway.",
            "What is north of the hallway?",
            "office",
        ),
        (
            "The bathroom is east of the kitchen. Most of the letters had never been opened. The bedroom is west of "
            "the kitchen.",
            "What is the kitchen east of?",
            "bedroom",
        ),
    ),
    "qa5": _wording(
        "The facts tell who takes a thing and who gives it to whom. Say which person or which thing the question asks "
        "for; if more than one gift fits, the latest counts.",
        f"{ONE_WORD}: the name of the person or of the thing.",
        (
            "Jeff took the milk there. Jeff handed the milk to Mary. Mary went to the office.",
            "Who received the milk?",
            "Mary",
        ),
        (
            "Bill got the apple. The road climbs slowly through fields of barley. Bill gave the apple to Fred. Fred "
            "passed the apple to Jeff.",
            "What did Fred give to Jeff?",
            "apple",
        ),
    ),
    "qa6": _wording(
        "The facts tell where people go. Say whether the person is now in the place that the question names; of "
        "several places, the latest counts.",
        YES_OR_NO,
        (
            "Mary journeyed to the garden. John moved to the hallway. Mary went to the office.",
            "Is Mary in the garden?",
            "no",
        ),
        (
            "The clock in the tower had stopped years ago. Sandra went to the kitchen. Sandra took the milk there.",
            "Is Sandra in the kitchen?",
            "yes",
        ),
    ),
    "qa7": _wording(
        "The facts tell which things people take, put down, and give to one another. Count the things that the person "
        "in the question has at the end.",
        f"{ONE_WORD}: none, one, two or three.",
        (
            "Daniel took the apple. Daniel got the milk there. Daniel moved to the hallway.",
            "How many objects is Daniel carrying?",
            "two",
        ),
        (
            "Mary picked up the football. Snow lay on the roofs until the middle of March. Mary gave the football to "
            "John.",
            "How many objects is Mary carrying?",
            "none",
        ),
    ),
    "qa8": _wording(
        "The facts tell which things people take, put down, and give to one another. Name the things that the person "
        "in the question has at the end, in the order in which they were taken.",
        "Answer with the names of the things and nothing else, commas without spaces between them (as in milk,apple); "
        "if there is none, answer nothing.",
        (
            "John got the milk. John took the apple there. John went to the garden.",
            "What is John carrying?",
            "milk,apple",
        ),
        (
            "Sandra grabbed the football. Travellers praised the inn for its bread and its quiet rooms. Sandra "
            "discarded the football.",
            "What is Sandra carrying?",
            "nothing",
        ),
    ),
    "qa9": _wording(
        "The facts tell where people go, where they are, and where they are not. Say whether the person is now in the "
        "place that the question names; the latest fact about the person counts.",
        YES_OR_NO,
        (
            "Mary went to the office. John moved to the bathroom. Mary is no longer in the office.",
            "Is Mary in the office?",
            "no",
        ),
        (
            "Daniel moved to the kitchen. The orchestra played on while the guests looked for their coats. Sandra is "
            "not in the garden.",
            "Is Daniel in the kitchen?",
            "yes",
        ),
    ),
    "qa10": _wording(
        "The facts tell where people go, where they are, or in which of two places they are. Say whether the person is "
        "now in the place that the question names: maybe, if it is one of two. The latest fact of the person counts.",
        f"{ONE_WORD}: yes, no or maybe.",
        ("Fred is either in the park or the office. Bill went to the school.", "Is Fred in the office?", "maybe"),
        (
            "Julie moved to the kitchen. Her letters came every week until the winter. Julie journeyed to the cinema.",
            "Is Julie in the kitchen?",
            "no",
        ),
    ),
    "qa11": _wording(
        f"The facts tell where people go; he or she is the person whom the fact before names. {LATEST_PLACE}",
        A_PLACE,
        ("John went to the office. Then he journeyed to the bedroom.", "Where is John?", "bedroom"),
        (
            "Sandra moved to the hallway. Afterwards she travelled to the kitchen. A long silence followed, and then "
            "everyone spoke at once. Daniel went to the bathroom. Following that he moved to the garden.",
            "Where is Sandra?",
            "kitchen",
        ),
    ),
    "qa12": _wording(
        f"The facts tell where two people go together. {LATEST_PLACE}",
        A_PLACE,
        ("Mary and John went to the garden. Daniel and Mary moved to the office.", "Where is John?", "garden"),
        (
            "Sandra and Daniel travelled to the bedroom. The miller kept bees and sold their honey at the market. John "
            "and Sandra went back to the hallway.",
            "Where is Sandra?",
            "hallway",
        ),
    ),
    "qa13": _wording(
        f"The facts tell where two people go together; they are the two whom the fact before names. {LATEST_PLACE}",
        A_PLACE,
        ("John and Sandra moved to the kitchen. Then they went to the hallway.", "Where is Sandra?", "hallway"),
        (
            "Daniel and Mary journeyed to the office. After that they travelled to the garden. On the table lay a map "
            "with half of its names rubbed out. Mary and John went to the bathroom. Afterwards they moved to the "
            "bedroom.",
            "Where is Daniel?",
            "garden",
        ),
    ),
    "qa14": _wording(
        "The facts tell where people went and when, in any order: first comes yesterday, then this morning, this "
        "afternoon and this evening. Say in which place the person was just before the place that the question names.",
        A_PLACE,
        (
            "Yesterday Fred went to the park. This morning Fred moved to the school.",
            "Where was Fred before the school?",
            "park",
        ),
        (
            "This afternoon Mary journeyed to the cinema. The bridge was rebuilt in stone after the flood. Mary went "
            "to the kitchen this morning. Yesterday Mary travelled to the office.",
            "Where was Mary before the cinema?",
            "kitchen",
        ),
    ),
    "qa15": _wording(
        "The facts tell which animal someone is, and which animals are afraid of which. Say which animal the one in "
        "the question is afraid of.",
        f"{ONE_WORD}: the animal in the singular, such as mouse.",
        ("Wolves are afraid of mice. Sheep are afraid of cats. Emily is a sheep.", "What is emily afraid of?", "cat"),
        (
            "Jessica is a mouse. The recipe asks for two eggs and a little salt. Mice are afraid of wolves. Gertrude "
            "is a cat.",
            "What is jessica afraid of?",
            "wolf",
        ),
    ),
    "qa16": _wording(
        "The facts tell which animal someone is, and which color someone has. Say which color the one in the question "
        "has: that of another who is the same animal. Of several such, the one counts whose animal is told last.",
        f"{ONE_WORD}: the color.",
        ("Lily is a swan. Greg is a lion. Greg is white. Brian is a lion.", "What color is Brian?", "white"),
        (
            "Julius is a frog. Julius is gray. The shutters were closed against the noon heat. Bernhard is a rhino. "
            "Lily is a frog.",
            "What color is Lily?",
            "gray",
        ),
    ),
    "qa17": _wording(
        "The facts tell how shapes lie to each other: above, below, to the left, to the right. Say whether what the "
        "question asks follows from them.",
        YES_OR_NO,
        (
            "The red square is above the triangle. The triangle is above the blue square.",
            "Is the red square above the blue square?",
            "yes",
        ),
        (
            "The pink rectangle is to the left of the red sphere. A dog barked somewhere behind the warehouse. The red "
            "sphere is below the triangle.",
            "Is the pink rectangle above the triangle?",
            "no",
        ),
    ),
    "qa18": _wording(
        "The facts tell which things are bigger than others or fit inside them; what fits inside a thing is smaller. "
        "Say whether what the question asks follows from them.",
        YES_OR_NO,
        (
            "The chocolate fits inside the chest. The chest fits inside the container.",
            "Does the chocolate fit in the container?",
            "yes",
        ),
        (
            "The suitcase is bigger than the box of chocolates. The gardener had gone home long before sunset. The box "
            "is bigger than the suitcase.",
            "Is the box of chocolates bigger than the box?",
            "no",
        ),
    ),
    "qa19": _wording(
        "The facts tell on which side of one place another one lies. Find the way of two steps from the first place in "
        "the question to the second.",
        "Answer with the directions of the two steps and nothing else: the first letter of each (n, s, e or w), and a "
        "comma without a space between them, as in s,w.",
        (
            "The kitchen is north of the hallway. The office is east of the kitchen.",
            "How do you go from the hallway to the office?",
            "n,e",
        ),
        (
            "The garden is south of the bedroom. Two candles were enough to read by. The bathroom is south of the "
            "garden. The hallway is west of the bedroom.",
            "How do you go from the bathroom to the bedroom?",
            "n,n",
        ),
    ),
    "qa20": _wording(
        "The facts tell how people feel, where they go, and what they take. The hungry and the thirsty go to the "
        "kitchen, the bored to the garden, the tired to the bedroom. Say where the person will go, or how the person "
        "feels if the question asks why.",
        f"{ONE_WORD}: the name of the place or the feeling.",
        ("Sumit is bored. Jason is hungry.", "Where will sumit go?", "garden"),
        (
            "Yann is tired. The last tram left the square at midnight. Yann journeyed to the bedroom.",
            "Why did yann go to the bedroom?",
            "tired",
        ),
    ),
}
