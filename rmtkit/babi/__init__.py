"""bAbI question answering (Weston et al. 2015, arXiv 1502.05698): generated stories and the official files."""

from rmtkit.babi.generation import LABELS, TASKS, generate_problem, generate_story
from rmtkit.babi.reading import (
    RECORDED_TASKS,
    BabiFormatError,
    has_space_before_tab,
    parse_stories,
    read_stories,
    write_stories,
)
from rmtkit.babi.source import SPLITS, GeneratedProblems, RecordedProblems
from rmtkit.babi.story import Problem, Question, Story, problems

__all__ = [
    "LABELS",
    "RECORDED_TASKS",
    "SPLITS",
    "TASKS",
    "BabiFormatError",
    "GeneratedProblems",
    "Problem",
    "Question",
    "RecordedProblems",
    "Story",
    "generate_problem",
    "generate_story",
    "has_space_before_tab",
    "parse_stories",
    "problems",
    "read_stories",
    "write_stories",
]
