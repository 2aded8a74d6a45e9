"""A trained network as one file: all that is needed to play, and nothing else of the run that trained it.

A safetensors file of the online network's parameters (float32). Its metadata hold format, version and one
JSON document: the run's configuration, the network's shape, and how long it was trained.
"""

import importlib.resources
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from apexpert import durable
from deploy.run.config import Config, ConfigError, from_json, to_json, without_places
from deploy.run.folder import RunFolder
from learner.checkpoint import Checkpoint, network_tensors, with_prefix
from learner.checkpoint_files import owned
from learner.checkpoint_names import name_of, number_of
from learner.checkpoint_writer import Snapshot

FORMAT, VERSION, SUFFIX = "apexpert-model", 1, ".safetensors"
BUNDLED = "bundled:"
KEPT = ("network", "observation_shape", "num_actions", "env_steps", "weights_version")
"""Fields of a checkpoint's document that are needed to play, or that a report mentions."""


@dataclass(frozen=True)
class Model:
    """A trained network and how it plays."""

    config: Config
    """Configuration of the run that trained it."""
    checkpoint: Checkpoint
    """Contains at least the online network's tensors."""


def save_model(model: Model, path: Path) -> None:
    """Write the file atomically; raise OSError when that fails."""
    checkpoint = model.checkpoint
    # The file may be passed on: it must not name folders or servers of the machine that trained it.
    config = without_places(model.config)
    document = {"config": to_json(config), "update": checkpoint.update}
    document |= {key: checkpoint.document[key] for key in KEPT}
    metadata = {"format": FORMAT, "version": str(VERSION), "document": json.dumps(document)}
    tensors = {name: owned(t) for name, t in network_tensors(checkpoint.tensors, "online").items()}
    durable.replace(path, save(tensors, metadata))


def keep_network(folder: RunFolder, config: Config, snapshot: Snapshot) -> None:
    """Write the network of a snapshot of the learner into the run's folder of networks; raise OSError."""
    folder.networks.mkdir(exist_ok=True)
    path = folder.networks / f"{name_of(snapshot.update)}{SUFFIX}"
    tensors = {name: torch.as_tensor(value) for name, value in snapshot.tensors.items()}
    save_model(
        Model(config, Checkpoint(path, snapshot.update, snapshot.document, tensors, time.time())), path
    )


def kept_networks(folder: RunFolder) -> list[Path]:
    """Return the files of `keep_network`, by update."""
    return sorted(folder.networks.glob(f"update-*{SUFFIX}"), key=number_of_file)


def number_of_file(path: Path) -> int:
    """Return the update of a file of `keep_network`."""
    return number_of(path.with_suffix(""))


def load_model(path: Path) -> Model:
    """Read a model file; raise ConfigError, in one line, if it is none or of a later version."""
    try:
        path.open("rb").close()  # Raises the system's error, which safetensors does not report.
        written = path.stat().st_mtime
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: {getattr(error, 'strerror', None) or 'not a safetensors file'}") from None
    document = _document(path, metadata)
    try:
        config = from_json(document.pop("config"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    update = int(document["update"])
    return Model(config, Checkpoint(path, update, document, with_prefix(tensors, "online"), written))


def _document(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    version = metadata.get("version", "")
    if metadata.get("format") != FORMAT or not version.isdigit():
        raise ConfigError(f"{path}: not a model that apexpert export has written")
    if int(version) > VERSION:
        raise ConfigError(f"{path}: a model of format {version}; this version reads up to {VERSION}")
    try:
        document: dict[str, Any] = json.loads(metadata["document"])
        missing = {"config", "update", *KEPT} - set(document)
    except (KeyError, ValueError, TypeError):
        raise ConfigError(f"{path}: its document is no JSON object") from None
    if missing:
        raise ConfigError(f"{path}: its document has no {sorted(missing)[0]}")
    return document


def bundled_models() -> dict[str, Path]:
    """Return the models that come with the package, by name."""
    folder = Path(str(importlib.resources.files("deploy"))) / "bundled"
    return {path.stem: path for path in sorted(folder.glob(f"*{SUFFIX}"))}
