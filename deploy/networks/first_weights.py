"""The weights that a new run begins with (`--init-from`): copied into its folder when it is made."""

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from deploy.networks.model_file import Model, load_model, save_model
from deploy.networks.trained import Trained, open_trained
from deploy.run.config import Config, ConfigError
from deploy.run.folder import RunFolder
from learner.checkpoint import network_tensors
from models.config import NetworkConfig, with_current_names

WITHOUT_EFFECT = ("initializer", "sparsity", "sparsify", "sparsity_distribution")
"""Fields that change no weight's shape or meaning: how weights began, and which are to be zero."""


def write_first_weights(config: Config, folder: RunFolder) -> None:
    """Copy the weights that `run.init_from` names into a new run's folder, if it names any.

    Raises ConfigError, in one line, when there are none, or when they are of another network.
    """
    name = config.run.init_from
    if not name:
        return
    from actors.environments import describe_environment

    trained = open_trained(name, config.run.runs_dir, best=False)
    spec = describe_environment(config.environment)
    shape = list(spec.observation_shape(config.environment.stack))
    if why := misfit(trained, config.network, shape, spec.num_actions):
        raise ConfigError(f"--init-from {name}: {why}")
    save_model(Model(trained.config, trained.checkpoint), folder.first_weights)


def misfit(trained: Trained, network: NetworkConfig, shape: list[int], num_actions: int) -> str:
    """Return what of a trained network does not fit this one, with both values; empty if it fits."""
    document = trained.checkpoint.document
    known = {field.name for field in dataclasses.fields(NetworkConfig)}
    saved = {name: x for name, x in with_current_names(document["network"]).items() if name in known}
    theirs, ours = dataclasses.asdict(NetworkConfig(**saved)), dataclasses.asdict(network)
    differ = {
        f"--network.{name.replace('_', '-')}": (theirs[name], ours[name])
        for name in ours
        if name not in WITHOUT_EFFECT and theirs[name] != ours[name]
    }
    if document["num_actions"] != num_actions:
        differ["the number of actions"] = (document["num_actions"], num_actions)
    if list(document["observation_shape"]) != shape:
        differ["the observation's shape"] = (document["observation_shape"], shape)
    return ", ".join(f"{what} is {there}, here {here}" for what, (there, here) in differ.items())


def load_first_weights(folder: RunFolder) -> Mapping[str, Tensor]:
    """Return the weights in a run's folder by parameter name; raise ConfigError when they are damaged."""
    return network_tensors(load_model(folder.first_weights).checkpoint.tensors, "online")
