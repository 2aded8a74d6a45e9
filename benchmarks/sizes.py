"""Find what is too large to live in: `python benchmarks/sizes.py`, exit code 1 if anything is.

At most 12 files in a folder, 300 lines in a file, 50 in a function and 20 methods in a class.
Tests may have longer functions: one that follows a run is one story.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("apexpert", "models", "replay", "actors", "learner", "deploy", "tests", "benchmarks")
FILES, LINES, METHODS, FUNCTION_LINES = 12, 300, 20, 50

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def too_large() -> Iterator[str]:
    """List each thing that is too large, a line for each."""
    for folder in sorted({path.parent for name in FOLDERS for path in (ROOT / name).rglob("*.py")}):
        modules = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
        name = folder.relative_to(ROOT)
        if len(modules) > FILES:
            yield f"{name}: {len(modules)} files (at most {FILES})"
        for path in modules:
            yield from _in_file(path)


def _in_file(path: Path) -> Iterator[str]:
    text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
    lines = text.count("\n")
    if lines > LINES:
        yield f"{name}: {lines} lines (at most {LINES})"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, FUNCTION) and name.parts[0] != "tests":
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{name}: function {node.name} has {length} lines (at most {FUNCTION_LINES})"
        if isinstance(node, ast.ClassDef):
            methods = sum(isinstance(part, FUNCTION) for part in node.body)
            if methods > METHODS:
                yield f"{name}: class {node.name} has {methods} methods (at most {METHODS})"


if __name__ == "__main__":
    found = list(too_large())
    print("\n".join(found) or "nothing is too large")
    sys.exit(bool(found))
