"""Apexpert from Python: train and steer runs, read their replay, load what they trained.

    import apexpert

    with apexpert.open_replay("my-run") as replay:
        batch = replay.sample(32)

Every name is imported when it is first used, so that `import apexpert` needs neither torch nor Ray.
"""

import importlib
from typing import TYPE_CHECKING, Any

# For type checkers, which cannot follow `__getattr__`; nothing here runs (decision 0028).
if TYPE_CHECKING:
    from apexpert.configuration import Config, preset
    from apexpert.errors import ApexpertError
    from apexpert.networks import load_network, load_policy
    from apexpert.replay_service import ReplaySampler, ReplayWriter, serve_replay
    from apexpert.replays import ReplayReader, open_replay
    from apexpert.runs import Run, open_run, train
    from models.config import NetworkConfig
    from models.q_network import build_network
    from replay.config import ReplayConfig
    from replay.types import Batch, Segment

_MODULES = {
    "apexpert.configuration": ("Config", "preset"),
    "apexpert.errors": ("ApexpertError",),
    "apexpert.networks": ("load_network", "load_policy"),
    "apexpert.replay_service": ("ReplaySampler", "ReplayWriter", "serve_replay"),
    "apexpert.replays": ("ReplayReader", "open_replay"),
    "apexpert.runs": ("Run", "open_run", "train"),
    "models.config": ("NetworkConfig",),
    "models.q_network": ("build_network",),
    "replay.config": ("ReplayConfig",),
    "replay.types": ("Batch", "Segment"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

# Written out, because type checkers do not evaluate `sorted(_MODULE_OF)`.
__all__ = [
    "ApexpertError",
    "Batch",
    "Config",
    "NetworkConfig",
    "ReplayConfig",
    "ReplayReader",
    "ReplaySampler",
    "ReplayWriter",
    "Run",
    "Segment",
    "build_network",
    "load_network",
    "load_policy",
    "open_replay",
    "open_run",
    "preset",
    "serve_replay",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'apexpert' has no attribute {name!r}")
    # Imported here, so that `import apexpert` alone stays free of cost.
    from apexpert.users_code import check_packages

    check_packages()
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
