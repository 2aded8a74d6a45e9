"""Errors of a user's own code, an environment's or a network's, in one line with their file and line.

Also finds a folder of the user's own that has the name of one of our packages: Python takes one of the two,
and what is in the other is then missing.
"""

import functools
import importlib.util
import sys
import sysconfig
import traceback
from pathlib import Path

from apexpert.errors import ApexpertError, one_line

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("apexpert", "models", "replay", "actors", "learner", "deploy")
"""Our packages, all in ROOT."""


class HiddenPackage(ApexpertError):
    """A module or folder of the user's own is found where one of our packages should be."""


def explained(error: BaseException, module: str = "") -> str:
    """Return in one line what was raised, and in which file and line of the user's code.

    `module` is the user's, which the error may be about; empty for none.
    """
    if isinstance(error, SyntaxError):
        # Its text has the line, but of the file only the name.
        return f"{type(error).__name__}: {error.msg}{_place(error.filename, error.lineno)}"
    line = f"{type(error).__name__}: {one_line(error)}".removesuffix(": ")
    missing = error.name if isinstance(error, ImportError) else None
    return line + place_of(error) + _hidden_by_ours(missing or module)


def place_of(error: BaseException) -> str:
    """Return ` (FILE, line N)` of the user's code that an error passed through last; empty without any."""
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_users(frame.filename)]
    return _place(places[-1].filename, places[-1].lineno) if places else ""


def search_ours_first() -> None:
    """Let no folder of PYTHONPATH, nor the current one, come before ours."""
    if sys.path[:1] != [str(ROOT)]:
        sys.path.insert(0, str(ROOT))


@functools.cache
def check_packages() -> None:
    """Raise HiddenPackage if Python finds a package of ours elsewhere, as beside the script that it runs."""
    for package in PACKAGES[1:]:
        spec = importlib.util.find_spec(package)
        found = (
            [] if spec is None else [*filter(None, [spec.origin]), *(spec.submodule_search_locations or [])]
        )
        if found and ROOT not in Path(found[0]).resolve().parents:
            own = Path(found[0])
            own = own.parent if own.name == "__init__.py" else own
            raise HiddenPackage(
                f"{own} hides the package {package!r} of Apexpert in {ROOT}: give yours another name",
                path=own,
            )


def _hidden_by_ours(module: str) -> str:
    """Return which file or folder of the user's own our package of that name hides; "" for none."""
    package = module.partition(".")[0]
    if package not in PACKAGES:
        return ""
    for folder in sys.path:
        for own in (Path(folder, package), Path(folder, f"{package}.py")):
            if own.exists() and own.resolve().parent != ROOT:
                return (
                    f"; the package {package!r} of Apexpert hides {own.absolute()}: give yours another name"
                )
    return ""


def _place(file: str | None, line: int | None) -> str:
    return f" ({file}, line {line})" if file else ""


def _is_users(file: str) -> bool:
    """Whether the file is neither ours nor of Python or an installed library."""
    path = Path(file).resolve()
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
    ours = {ROOT / package for package in PACKAGES}
    # A compiled extension names files that are not there, such as numpy/random/mtrand.pyx.
    return path.is_file() and not (ours | libraries) & set(path.parents)
