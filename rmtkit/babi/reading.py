"""The official bAbI text files (v1.2, tasks 1 to 20): read, checked and written.

1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? <tab>bathroom<tab>1

Lines are numbered within a story, questions too; the last column names the lines of the supporting facts.
"""

from __future__ import annotations

import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from rmtkit.babi.story import Question, Story
from rmtkit.babi.tasks import TASKS

FILE_SPLITS = ("train", "valid", "test")  # "valid" exists in the folder en-valid-10k only
ENGLISH = "en-10k"  # the folder that is meant, of those in the archive
# A script data set that `datasets` no longer loads; the official archive lies beside the script and is all we take.
HUB_REPO, HUB_FILE = "facebook/babi_qa", "data/tasks_1-20_v1-2.tar.gz"
HUB_REVISION = "c3a3cbe182082989f185604306ef269739a31bf2"
TASKS_WITH_SPACE = {f"qa{number}" for number in (1, 2, 3, *range(5, 15))}  # a space between ? and tab


class BabiFormatError(ValueError):
    """A file that is not in the bAbI format: FILE:LINE: what is wrong, and what was expected."""


class MissingStoriesError(ValueError):
    """A folder or archive without a file of the task and split."""


def read_stories(path: str | os.PathLike, task: str, split: str = "test") -> list[Story]:
    """Read all stories of one task.

    Args:   path: a folder with qaN_*_SPLIT.txt in it or in en-10k below it (which goes first), the archive
            tasks_1-20_v1-2 (.zip or .tar.gz), one .txt file (`split` is then ignored), or "hub": the archive is fetched
            from the Hugging Face hub, once.
            task: "qa1" .. "qa20";  split: "train", "valid" or "test".
    Raises: ValueError if the task or split is unknown, the file is missing, or the hub cannot be reached;
            BabiFormatError if the file is malformed.
    """
    if task not in TASKS:
        raise ValueError(f"task {task!r} does not exist; the tasks are {', '.join(TASKS)}")
    if split not in FILE_SPLITS:
        raise ValueError(f"split {split!r} does not exist; a file is of split {', '.join(FILE_SPLITS)}")
    text, source = _find(path, task, split)
    return parse_stories(_lines(text, source), task, source)


def has_stories(path: str | os.PathLike, task: str, split: str) -> bool:
    """Return whether there is a file of a task and split where `read_stories` would look for it."""
    try:
        _find(path, task, split)
    except MissingStoriesError:
        return False
    return True


def has_space_before_tab(task: str) -> bool:
    """Return whether the official files of a task have a space between the question and the tab."""
    return task in TASKS_WITH_SPACE


def parse_stories(lines: Iterable[str], task: str, source: str) -> list[Story]:
    """Make stories of the lines of a file.

    Args:   lines: without line ends;  source: what to call the file in an error.
    Raises: BabiFormatError with the source and the line number.
    """
    stories: list[_StoryLines] = []
    for number, line in enumerate(lines, start=1):
        label, _, text = line.partition(" ")
        try:
            if label == "1":
                stories.append(_StoryLines())
            elif not stories or label != str(stories[-1].num_lines + 1):
                raise BabiFormatError(_wrong_number(label, stories))
            stories[-1].add(text)
        except BabiFormatError as error:
            raise BabiFormatError(f"{source}:{number}: {error}") from None
    return [Story(task, tuple(story.facts), tuple(story.questions)) for story in stories]


def write_stories(stories: Iterable[Story], path: str | os.PathLike) -> None:
    """Write stories in the official format, byte for byte as the official files are.

    The file appears under its name only when it is complete.
    """
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for story in stories:
                file.writelines(line + "\n" for line in _format(story))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class _StoryLines:
    """A story while its lines are being read."""

    def __init__(self):
        self.num_lines = 0
        self.facts: list[str] = []
        self.questions: list[Question] = []
        self._index_of_line: dict[str, int] = {}  # number of a fact's line -> index of the fact

    def add(self, text: str) -> None:
        """Take the next line, without its number."""
        self.num_lines += 1
        if "\t" in text:
            self.questions.append(self._question(text.split("\t")))
        elif not text.strip():
            raise BabiFormatError("the line is empty, expected a fact or a question after the number")
        elif text.rstrip().endswith("?"):
            raise BabiFormatError("a question without a tab, expected QUESTION<tab>ANSWER<tab>SUPPORTING LINES")
        else:
            self._index_of_line[str(self.num_lines)] = len(self.facts)
            self.facts.append(text)

    def _question(self, columns: Sequence[str]) -> Question:
        if len(columns) != 3:
            raise BabiFormatError(f"{len(columns)} columns, expected 3: QUESTION<tab>ANSWER<tab>SUPPORTING LINES")
        text, answer, support = (column.strip() for column in columns)
        if not (text and answer and support):
            raise BabiFormatError("an empty column, expected QUESTION<tab>ANSWER<tab>SUPPORTING LINES")
        unknown = [line for line in support.split() if line not in self._index_of_line]
        if unknown:
            raise BabiFormatError(f"supporting line {unknown[0]!r}, expected the number of a fact told before")
        return Question(text, answer, len(self.facts), tuple(self._index_of_line[line] for line in support.split()))


def _wrong_number(label: str, stories: Sequence[_StoryLines]) -> str:
    expected = f"{stories[-1].num_lines + 1}, or 1 for a new story" if stories else "1"
    return f"the line begins with {label[:20]!r}, expected {expected}"


def _format(story: Story) -> list[str]:
    """The lines of a story."""
    gap = " \t" if has_space_before_tab(story.task) else "\t"
    lines: list[str] = []
    line_of_fact: list[int] = []

    def tell_until(num_facts: int) -> None:
        for fact in story.facts[len(line_of_fact) : num_facts]:
            lines.append(f"{len(lines) + 1} {fact}")
            line_of_fact.append(len(lines))

    for q in story.questions:
        tell_until(q.num_facts)
        support = " ".join(str(line_of_fact[i]) for i in q.supporting)
        lines.append(f"{len(lines) + 1} {q.text}{gap}{q.answer}\t{support}")
    tell_until(len(story.facts))
    return lines


def _lines(text: bytes, source: str) -> list[str]:
    try:
        lines = text.decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise BabiFormatError(f"{source}:{line}: byte 0x{text[error.start]:02x}, expected UTF-8 text") from None
    return lines[:-1] if lines[-1] == "" else lines


def _find(path: str | os.PathLike, task: str, split: str) -> tuple[bytes, str]:
    """The content of the file that is meant, and what to call it in an error."""
    path = _download() if path == "hub" else Path(path).expanduser()
    wanted = re.compile(rf"{task}(_.*)?_{split}\.txt")
    if path.is_dir():
        folders = (path / ENGLISH, path / "tasks_1-20_v1-2" / ENGLISH, path)
        files = [file for folder in folders for file in sorted(folder.glob("*.txt")) if wanted.fullmatch(file.name)]
        if files:
            return files[0].read_bytes(), str(files[0])
    elif path.suffix == ".txt" and path.is_file():
        named = re.match(r"qa\d+(?=_)", path.name)
        if named and named[0] != task:
            raise ValueError(f"{str(path)!r} is of task {named[0]!r}, expected a file of {task!r}")
        return path.read_bytes(), str(path)
    elif path.is_file():
        content = _read_member(path, wanted)
        if content is not None:
            return content, f"{path}:{ENGLISH}/{task}_*_{split}.txt"
    raise MissingStoriesError(
        f"no {task}_*_{split}.txt in {str(path)!r} (looked in the folder, in {ENGLISH}/ below it, or in {ENGLISH}/ of "
        f"the archive); give a folder or archive of bAbI v1.2 as babi_path, or use generated stories"
    )


def _read_member(archive: Path, wanted: re.Pattern) -> bytes | None:
    """The content of the file wanted in a zip or tar archive, None if it holds none."""

    def is_wanted(name: str) -> bool:
        member = PurePosixPath(name)
        return member.parent.name == ENGLISH and wanted.fullmatch(member.name) is not None

    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            return next((file.read(name) for name in file.namelist() if is_wanted(name)), None)
    if tarfile.is_tarfile(archive):
        with tarfile.open(archive) as file:
            return next((file.extractfile(member).read() for member in file if is_wanted(member.name)), None)
    raise ValueError(f"{str(archive)!r} is no folder, .txt file, zip or tar archive")


def _download() -> Path:
    """Fetch the official archive from the hub, or find it in the hub's cache."""
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(HUB_REPO, HUB_FILE, repo_type="dataset", revision=HUB_REVISION))
    except Exception as error:  # the client has dozens of ways to say that it got nothing, some of its own libraries'
        raise ValueError(
            f"{HUB_FILE} of the hub's {HUB_REPO} cannot be fetched ({type(error).__name__}); offline, use generated "
            f"stories, or give a folder or zip of bAbI v1.2 as babi_path"
        ) from error
