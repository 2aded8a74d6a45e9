"""The network in a checkpoint, and the policy that acts by it."""

from actors.policy import Policy
from deploy.run.config import Config
from learner.checkpoint import Checkpoint, network_tensors
from models.arrays import Weights, flatten
from models.config import NetworkConfig, with_current_names
from models.q_network import QNetwork, build_network


def network_of(checkpoint: Checkpoint) -> QNetwork:
    """Return the online network of a checkpoint, float32."""
    document = checkpoint.document
    shape: tuple[int, int, int] = tuple(document["observation_shape"])
    # A checkpoint of an earlier version has other names for some fields.
    network = NetworkConfig(**with_current_names(document["network"]))
    online = build_network(network, int(document["num_actions"]), observation_shape=shape)
    online.load_state_dict(network_tensors(checkpoint.tensors, "online"))
    return online


def policy_of(config: Config, checkpoint: Checkpoint, *, seed: int | None = None) -> Policy:
    """Return a policy that acts by the online network of a checkpoint; `seed` None takes the run's."""
    document = checkpoint.document
    online = network_of(checkpoint)
    policy = Policy(
        online.config,
        observation_shape=online.observation_shape,
        num_actions=online.num_actions,
        precision=config.actors.precision,
        seed=config.run.seed if seed is None else seed,
    )
    version, env_steps, updates = (int(document[key]) for key in ("weights_version", "env_steps", "update"))
    policy.load(Weights(version, flatten(online), env_steps, updates))
    return policy
