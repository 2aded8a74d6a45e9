"""Where the files of a run's embedded servers are: in its folder, or on another disk."""

from pathlib import Path

from deploy.run.config import Config
from deploy.run.folder import RunFolder


def replay_folder(folder: RunFolder, config: Config) -> Path:
    """Return the folder of the embedded servers' files.

    Below `replay.folder` each run's folder has one of its own, named by its id: a copy of a run gets a new
    id when it is resumed, and so never shares the original's files (decisions 0019 and 0037).
    """
    if not config.replay.folder:
        return folder.replay
    identity = folder.identity
    # A copy that was not resumed yet has nothing there.
    return Path(config.replay.folder) / f"{config.run.name}-{identity.id if identity else 'copy'}"
