"""What a subcommand raises to end with one line and an exit code."""


class UsageError(Exception):
    """A command line that cannot be understood, exit code 2; the message is one line."""


class CommandFailed(Exception):
    """What was asked for could not be done, exit code 1; the message is one line."""
