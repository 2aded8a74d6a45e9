"""Ray: the cluster, the supervisor, the roles it runs, and the weight store.

Names are imported when first used, because the learner's own process has no use for Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.fleet.client import RunClient, connect, end_leftovers, launch
    from deploy.fleet.errors import FleetError

__all__ = ["FleetError", "RunClient", "connect", "end_leftovers", "launch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "errors" if name == "FleetError" else "client"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
