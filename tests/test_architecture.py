"""The arrows of the design: who imports whom, what is imported at the top, how long a module is."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rmtkit

PACKAGE = Path(rmtkit.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {  # unit -> the units of rmtkit that it may import, at any place
    "babi": {"babi"},
    "parameters": set(),
    "lengths": set(),
    "config": {"config", "lengths", "parameters"},
    "runs": {"config", "runs"},
    "background": {"background"},
    "babilong": {"babi", "background"},
    "scoring": {"babi"},
    "public": {"config"},
    "formats": {"public"},
    "memory": {"memory", "config"},
    "precision": set(),
    "optimization": {"precision"},
    "intervals": set(),
}
WITHOUT_TORCH = (
    "babi", "background", "babilong", "config", "runs", "scoring", "public", "formats", "export", "lengths",
    "reference", "intervals",
)  # fmt: skip
DATA_SIDE = ("babi", "background", "babilong", "scoring", "public", "formats")
NOT_BELOW = {"explore", "explore_memory", "cli", "__main__"}  # nothing else imports them


def unit_of(file):
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(tree, file):
    """Yield the full names of all modules that a tree imports, relative ones resolved."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = file.relative_to(PACKAGE.parent).parts[: -node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def units_imported(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = [name.split(".") for name in imported_modules(tree, file) if name.startswith("rmtkit.")]
    units = {unit_of(path) for path in FILES}
    return {parts[1] for parts in names if parts[1] in units}


def test_imported_modules_resolves_every_form():
    text = "import rmtkit.runs\nfrom rmtkit import babi\nfrom .segments import x\nfrom ..config import y"
    found = set(imported_modules(ast.parse(text), PACKAGE / "memory" / "modeling.py"))
    assert {"rmtkit.runs", "rmtkit.babi", "rmtkit.memory.segments", "rmtkit.config"} <= found


@pytest.mark.parametrize("unit", ALLOWED)
def test_unit_imports_only_what_the_design_allows(unit):
    files = [file for file in FILES if unit_of(file) == unit]
    assert files
    for file in files:
        assert units_imported(file) <= ALLOWED[unit], file.name


def test_data_side_never_reaches_the_memory():
    reached, waiting = set(), set(DATA_SIDE)
    while waiting:
        unit = waiting.pop()
        reached.add(unit)
        waiting |= set().union(*(units_imported(file) for file in FILES if unit_of(file) == unit)) - reached
    assert "memory" not in reached and "training" not in reached


def test_nothing_imports_the_front_ends():
    for file in FILES:
        if unit_of(file) not in NOT_BELOW:
            assert not units_imported(file) & NOT_BELOW, file.name


@pytest.mark.parametrize("unit", WITHOUT_TORCH)
def test_unit_is_imported_without_torch(unit):
    code = f"import sys, rmtkit.{unit}; print([name for name in ('torch', 'transformers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_units_import_each_other_in_one_direction():
    arrows = {}
    for file in FILES:
        arrows.setdefault(unit_of(file), set()).update(units_imported(file) - {unit_of(file)})
    while leaves := [unit for unit, below in arrows.items() if not below & set(arrows)]:
        for leaf in leaves:
            del arrows[leaf]
    assert arrows == {}, "a circle of imports"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_module_has_at_most_400_lines(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400
