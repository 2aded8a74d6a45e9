"""What the fleet raises."""


class FleetError(Exception):
    """Ray, the supervisor or a role cannot do what was asked; the message is one line for the user."""
