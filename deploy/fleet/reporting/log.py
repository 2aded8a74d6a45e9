"""The run's log: every process of a run appends its lines to log.txt."""

import logging
import sys
from pathlib import Path

from deploy.run.config import hide_password


class _Discreet(logging.Formatter):
    """Hides passwords in URLs, wherever in a record (or in a traceback's last line) they are."""

    def format(self, record: logging.LogRecord) -> str:
        return hide_password(super().format(record))


def log_to(path: Path, role: str) -> None:
    """Send this process's log records of level INFO and above to `path`, each line naming `role`.

    On a node without access to the run's folder they go to standard error, which is Ray's log there.
    """
    handler: logging.Handler
    if path.parent.is_dir():
        # Opened for appending, so that lines of several processes do not overwrite each other.
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Discreet(f"%(asctime)s {role} %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in ("numba", "ray", "matplotlib", "jax"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
