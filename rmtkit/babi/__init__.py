"""bAbI question answering (Weston et al. 2015, arXiv 1502.05698): generated stories and the official files."""

from rmtkit.babi.generation import LABELS, generate_problem, generate_story
from rmtkit.babi.reading import (
    BabiFormatError,
    has_space_before_tab,
    parse_stories,
    read_stories,
    write_stories,
)
from rmtkit.babi.source import SPLITS, GeneratedProblems, MixedProblems, RecordedProblems
from rmtkit.babi.story import Problem, Question, Story, problems
from rmtkit.babi.tasks import LEARNABLE, ORIGINAL, TASKS, Variation

__all__ = [
    "LABELS",
    "LEARNABLE",
    "ORIGINAL",
    "SPLITS",
    "TASKS",
    "BabiFormatError",
    "GeneratedProblems",
    "MixedProblems",
    "Problem",
    "Question",
    "RecordedProblems",
    "Story",
    "Variation",
    "generate_problem",
    "generate_story",
    "has_space_before_tab",
    "parse_stories",
    "problems",
    "read_stories",
    "write_stories",
]
