"""Where Python looks for modules: our packages before PYTHONPATH, the user's current folder last.

Either may hold a `models/` of its own, which must not be taken for ours. The current folder is searched for
`--environment.env module:callable`, but may hold, say, a `select.py` that must not shadow the real one.
"""

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[2])
"""The folder that holds models/, replay/, actors/, learner/ and deploy/."""


def users_folders() -> tuple[str, ...]:
    """Return absolute folders of the caller's own modules: PYTHONPATH, the script's, the current one."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return tuple(str(Path(folder).absolute()) for folder in [*filter(None, given), *_script_folder(), "."])


def _script_folder() -> Iterator[str]:
    """Yield the folder of `python some/script.py`; nothing for a console script, a module or a notebook."""
    script = Path(getattr(sys.modules["__main__"], "__file__", None) or "")
    # Not everything below ROOT is ours: a user's script may lie there, such as one of examples/.
    is_ours = Path(ROOT) in script.absolute().parents and script.parent.name in ("cli", "apexpert")
    if script.suffix == ".py" and script.name != "__main__.py" and not is_ours:
        yield str(script.parent)


def search_also(folders: Iterable[str]) -> None:
    """Search `folders` too, after everything that is already searched."""
    sys.path += [folder for folder in dict.fromkeys(folders) if folder not in sys.path]


def python_path() -> str:
    """Return PYTHONPATH for processes that import our packages: ours, then its previous value."""
    return os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
