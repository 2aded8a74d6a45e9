"""Print DQN cases (.npz) by the reference's own networks, target, loss and training step; see README.md.

    python print_dqn_cases.py FOLDER                    write the cases of NEW beside this file
    python print_dqn_cases.py FOLDER --check CASE.npz   recompute a case from its inputs print its error

FOLDER holds the package `dopamine`. Needs JAX, flax, optax, chex, gin-config and absl-py: what the agent's
file imports for acting and replay is replaced by stubs, and nothing of it is run.
"""

import argparse
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from print_value_cases import Watch

HERE = Path(__file__).parent
NOT_RUN = (
    "tensorflow",
    "tensorflow_probability",
    "tensorflow_probability.substrates",
    "dopamine.discrete_domains",
    "dopamine.jax.replay_memory",
)
MODULES = {
    "agent": "dopamine.labs.moes.agents.dqn_moe_agent",
    "networks": "dopamine.labs.moes.architectures.networks",
    "dqn_agent": "dopamine.jax.agents.dqn.dqn_agent",
}
INPUTS = ("state", "next_state", "action", "reward", "terminal", "loss_weight")
NETWORKS = ("params", "target_params")
ADAM_STEPS = 3
NEW = {
    "dqn_impala_softmoe4_mse": ("dqn_impala_softmoe4", [1.0, -1.5, 0.0, 0.0]),
    "dqn_nature_softmoe2_mse": ("dqn_nature_softmoe2", [0.0, -1.5, 2.0, 0.0]),
}
"""The case whose inputs and parameters are taken, and what is added to its rewards."""
WIDE = "dqn_impala_baseline_wide4_mse"
Case = dict[str, Any]


def reference(folder: Path) -> Any:
    """The reference's modules, as they are in the folder."""
    sys.path.insert(0, str(folder))
    sys.modules.update({name: MagicMock() for name in NOT_RUN})
    jax.config.update("jax_default_matmul_precision", "highest")
    return SimpleNamespace(**{name: importlib.import_module(path) for name, path in MODULES.items()})


def read(path: Path) -> Case:
    """The arrays of a case, its options as a dict, and both networks' parameters as trees in float32."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    case: Case = {"meta": json.loads(arrays.pop("meta").tobytes())}
    for section in NETWORKS:
        names = [name for name in arrays if name.startswith(f"{section}/")]
        tree = {tuple(name.split("/")[1:]): arrays.pop(name).astype(np.float32) for name in names}
        case[section] = unflatten_dict(tree)
    return case | arrays


def write(path: Path, case: Case) -> None:
    """The inverse of `read`; the parameters are exact in float16."""
    arrays = {name: array for name, array in case.items() if name not in ("meta", *NETWORKS)}
    arrays["meta"] = np.frombuffer(json.dumps(case["meta"]).encode(), np.uint8)
    for section in NETWORKS:
        for name, array in flatten_dict(case[section], sep="/").items():
            arrays[f"{section}/{name}"] = np.asarray(array, np.float16)
    np.savez_compressed(path, **arrays)


def network_of(ref: Any, meta: dict[str, Any]) -> Any:
    """The reference's network with the options of `meta` that it has."""
    kind = {"IMPALA": ref.networks.ImpalaMoE, "CNN": ref.networks.NatureDQNMoE}[meta.get("encoder", "IMPALA")]
    known = set(kind.__dataclass_fields__) - {"name", "parent"}
    return kind(**{name: value for name, value in meta.items() if name in known})


def train(ref: Any, case: Case, rows: Any, params: Any, optimizer: Any, state: Any) -> Any:
    """The reference's training step on these rows of the batch."""
    batch = [case[name][rows] for name in ("state", "action", "next_state", "reward", "terminal")]
    meta = case["meta"]
    network, target_params = network_of(ref, meta), case["target_params"]
    gamma, loss_type = meta["cumulative_gamma"], meta.get("loss_type", "huber")
    key = jax.random.PRNGKey(0)  # Nothing here is noisy.
    return ref.agent.train(
        network, params, target_params, optimizer, state, *batch, gamma, key, False, False, loss_type
    )


def weighted(ref: Any, case: Case, params: Any) -> tuple[Any, Any, Any]:
    """Losses (B,), mean of weight times loss, and its gradient.

    The reference's DQN takes the plain mean: a row twice in a batch gives its own loss and gradient.
    """
    size = len(case["reward"])
    rows = [train(ref, case, np.array([i, i]), params, Watch(), None) for i in range(size)]
    losses = jnp.stack([row["td_loss"] for row in rows])
    share = case["loss_weight"] / size
    gradients = [row["optimizer_state"] for row in rows]
    mean = jax.tree.map(lambda *leaves: sum(w * g for w, g in zip(share, leaves, strict=True)), *gradients)
    return losses, (share * losses).sum(), mean


def outputs(ref: Any, case: Case, params: Any, name: str = "state") -> Any:
    """Compute what the network returns on the case's states."""
    network, key = network_of(ref, case["meta"]), jax.random.PRNGKey(0)
    return jax.vmap(lambda state: network.apply(params, state, key=key))(case[name])


def target_of(ref: Any, case: Case) -> Any:
    """The reference's target (B,)."""
    network = network_of(ref, case["meta"])

    def judge(state: Any, key: Any) -> Any:
        return network.apply(case["target_params"], state, key=key)

    batch = [case[name] for name in ("next_state", "reward", "terminal")]
    return ref.agent.target_q(judge, *batch, case["meta"]["cumulative_gamma"], jax.random.PRNGKey(0))


def adam(ref: Any, meta: dict[str, Any]) -> Any:
    """The reference's optimizer."""
    return ref.dqn_agent.create_optimizer("adam", meta["learning_rate"], eps=meta["adam_eps"])


def after_adam(ref: Any, case: Case) -> Any:
    """`q_values` after three steps; as the target network stands still, so does the target."""
    optimizer, params = adam(ref, case["meta"]), case["params"]
    state = optimizer.init(params)
    for _ in range(ADAM_STEPS):
        updates, state = optimizer.update(weighted(ref, case, params)[2], state, params=params)
        params = optax.apply_updates(params, updates)
    return outputs(ref, case, params).q_values


def whole_batch(ref: Any, case: Case) -> Case:
    """The mean loss and `q_values` after three plain training steps, for a case whose weights are all 1."""
    optimizer, params = adam(ref, case["meta"]), case["params"]
    state, losses = optimizer.init(params), []
    for _ in range(ADAM_STEPS):
        found = train(ref, case, slice(None), params, optimizer, state)
        params, state = found["online_params"], found["optimizer_state"]
        losses.append(found["td_loss"])
    after = outputs(ref, case, params).q_values
    return {"mean_loss": losses[0], "q_values_after_3_adam_steps": after}


def numbers(ref: Any, case: Case) -> Case:
    """All that a case holds besides its inputs."""
    output = outputs(ref, case, case["params"])
    found = {"q_values": output.q_values}
    if hasattr(output, "moe_out"):
        moe = output.moe_out
        found |= {"moe_values": moe.values, "experts_hidden": moe.experts_hidden}
        found["router_probabilities"] = moe.router_out.probabilities
    losses, mean, gradient = weighted(ref, case, case["params"])
    found |= {"target": target_of(ref, case), "loss": losses, "mean_loss": mean}
    found["q_values_after_3_adam_steps"] = after_adam(ref, case)
    for name, leaf in flatten_dict(gradient, sep="/").items():
        array = np.asarray(leaf, np.float64)
        found |= {f"grad_norm/{name}": np.linalg.norm(array), f"grad_mean/{name}": array.mean()}
    return {name: np.asarray(array) for name, array in found.items()}


def squared_case(source: str, name: str, added: list[float]) -> Case:
    """The source's inputs with the squared loss, and with rewards that put two errors beyond 1."""
    case = {part: array for part, array in read(HERE / f"{source}.npz").items() if _is_input(part)}
    case["meta"] |= {"name": name, "loss_type": "mse"}
    return case | {"reward": case["reward"] + np.array(added, np.float32)}


def _is_input(part: str) -> bool:
    return part in ("meta", *INPUTS, *NETWORKS)


def wide_case(ref: Any) -> Case:
    """A dense baseline with a hidden layer of 4 times 6 units; no weights, as in the reference's DQN."""
    case = squared_case("dqn_impala_baseline", WIDE, [0.0, -2.0, 2.0, 0.0])
    case["meta"] |= {"expert_hidden_units": 6, "num_experts": 4, "scale_hidden_layer": True}
    case["action"] = np.array([0, 2, 1, 0], np.int32)
    case["terminal"] = np.array([0.0, 1.0, 0.0, 0.0], np.float32)
    case["loss_weight"] = np.ones(4, np.float32)
    random = np.random.default_rng(2402)
    return case | {section: parameters(ref, case, random) for section in NETWORKS}


def parameters(ref: Any, case: Case, random: np.random.Generator) -> Any:
    """The reference's starting values, with biases that are not zero, rounded to float16."""
    network, key = network_of(ref, case["meta"]), jax.random.PRNGKey(int(random.integers(2**31)))
    start = flatten_dict(network.init(key, case["state"][0], key=key), sep="/")
    drawn = {
        name: random.normal(0, 0.06, leaf.shape) if name.endswith("bias") else np.asarray(leaf)
        for name, leaf in start.items()
    }
    rounded = {name: leaf.astype(np.float16).astype(np.float32) for name, leaf in drawn.items()}
    return unflatten_dict(rounded, sep="/")


def differences(case: Case, found: Case) -> Case:
    """Largest absolute difference of every array of the case; of gradients relative to the largest one."""
    off = {}
    for name, array in found.items():
        section = name.partition("/")[0]
        of_a_kind = [case[key] for key in found if key.startswith(f"{section}/")]
        scale = max(np.abs(of_a_kind)) if of_a_kind else 1.0
        error = float(np.abs(array - case[name]).max() / scale)
        off[section] = max(off.get(section, 0.0), error)
    return off


def check(ref: Any, path: Path) -> None:
    """Print one JSON line: how far a case is from what the reference gives for its inputs."""
    case = read(path)
    found = numbers(ref, case)
    expected = {name for name in case if not _is_input(name)}
    line: Case = {"case": path.stem, "missing": sorted(expected ^ set(found))}
    line["off"] = differences(case, {name: found[name] for name in expected & set(found)})
    if (case["loss_weight"] == 1.0).all():
        line["off_whole_batch"] = differences(case, whole_batch(ref, case))
    print(json.dumps(line), flush=True)


def main() -> None:
    """Write the new cases, or check some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", type=Path, nargs="+", default=[])
    arguments = parser.parse_args()
    ref = reference(arguments.folder)
    for path in arguments.check:
        check(ref, path)
    if not arguments.check:
        cases = [squared_case(source, name, added) for name, (source, added) in NEW.items()]
        for case in [*cases, wide_case(ref)]:
            write(HERE / f"{case['meta']['name']}.npz", case | numbers(ref, case))


if __name__ == "__main__":
    main()
