"""Ray: the cluster, the supervisor, the roles it runs, and the weight store."""

from deploy.fleet.client import RunClient, connect, launch
from deploy.fleet.errors import FleetError

__all__ = ["FleetError", "RunClient", "connect", "launch"]
