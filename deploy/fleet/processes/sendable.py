"""Errors on their way to another process: as they are where they can be, else as one line of text."""

import pickle

from apexpert.users_code import explained, place_of

OURS = ("builtins", "learner", "replay", "actors", "models", "deploy")
"""Packages whose errors the other side can unpickle."""


def sendable(error: Exception | None) -> Exception | None:
    """Return an error as it is, or its text if the other side may not know or cannot unpickle its class.

    An error that passed through a user's code becomes text with its file and line, which do not travel.
    """
    try:
        package = type(error).__module__.partition(".")[0]
        if error is None or (package in OURS and not place_of(error)):
            pickle.loads(pickle.dumps(error))
            return error
    except Exception:  # An exception's own class may raise anything there.
        pass
    return None if error is None else RuntimeError(explained(error))
