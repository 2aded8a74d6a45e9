"""Curves, statistics and videos, and the data files they ship."""

import os

from replay.segments.cache_folder import private_folder, users_folder

# Set before matplotlib is imported: without folders to keep what they find, matplotlib and
# fontconfig search for fonts, and complain, at every start.
if "MPLCONFIGDIR" not in os.environ and users_folder("XDG_CONFIG_HOME", "~/.config") is None:
    os.environ["MPLCONFIGDIR"] = str(private_folder() / "matplotlib")
if users_folder("XDG_CACHE_HOME", "~/.cache") is None:
    os.environ["XDG_CACHE_HOME"] = str(private_folder())
