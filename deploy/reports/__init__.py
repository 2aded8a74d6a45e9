"""Curves, statistics and videos, and the data files they ship."""

import os

from replay.segments.cache_folder import private_folder, users_folder

# Before matplotlib looks for fonts: without a home, it and fontconfig would search and complain every time.
if "MPLCONFIGDIR" not in os.environ and users_folder("XDG_CONFIG_HOME", "~/.config") is None:
    os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")
if users_folder("XDG_CACHE_HOME", "~/.cache") is None:
    os.environ["XDG_CACHE_HOME"] = str(private_folder())
