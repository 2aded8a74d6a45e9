"""Curves, statistics and videos, and the data files they ship."""

import os

from replay.cache_folder import private_folder, users_folder

# Before matplotlib is imported: without a home it looks for its fonts again in every process, and says so.
if "MPLCONFIGDIR" not in os.environ and users_folder("XDG_CONFIG_HOME", "~/.config") is None:
    os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")
