"""The `apexpert` command: finds our packages, whatever the user has of their names, and runs.

The installed script searches PYTHONPATH first, and `python -m apexpert` the current folder: either may hold a
`deploy` of the user's own, so that the script enters here, by the one name that is nobody else's.
"""

import sys

from apexpert.users_code import search_ours_first


def main() -> int:
    """Run the process's command line; return the exit code."""
    search_ours_first()
    from deploy.cli.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
