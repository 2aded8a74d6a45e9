"""Print values.json: losses and targets of small cases by the reference's own functions; see README.md.

    python print_value_cases.py FOLDER > values.json

FOLDER holds `dopamine/jax`. Needs JAX and optax alone: of the agents' files, which import TensorFlow as well,
the functions named below are run and nothing else.
"""

import ast
import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

GAMMA = 0.970299


class Output(NamedTuple):
    """Output of the reference's networks, as far as the functions read it."""

    q_values: Any
    logits: Any


class Table:
    """A network of nothing but its outputs: the parameters are one (A, Z) table a row, states are one-hot."""

    @staticmethod
    def apply(parameters: Any, state: Any) -> Output:
        """Row `state` of the table."""
        quantiles = jnp.tensordot(state, parameters, 1)
        return Output(quantiles.mean(axis=1), quantiles)


class Watch(NamedTuple):
    """An optimizer that moves nothing and gives the gradient back as its state."""

    def update(self, gradient: Any, state: Any, params: Any) -> tuple[Any, Any]:
        """Updates of zero, and the gradient."""
        return jax.tree.map(jnp.zeros_like, params), gradient


def functions_of(path: Path, *names: str) -> SimpleNamespace:
    """Run these functions of a file as they stand there."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    losses = {} if path.stem == "losses" else {"losses": functions_of(LOSSES, "huber_loss", "mse_loss")}
    scope: dict[str, Any] = {"functools": functools, "jax": jax, "jnp": jnp, "optax": optax, **losses}
    exec(compile(tree, path, "exec"), scope)
    return SimpleNamespace(**{name: scope[name] for name in names})


def batch(random: np.random.Generator, rows: int, actions: int, quantiles: int, scale: float) -> Any:
    """Tables of both networks and the rest of a batch; values of `scale` 0 are small whole numbers."""
    shape = (rows, actions, quantiles)
    tables = random.normal(0, scale, (2, *shape)) if scale else random.integers(-2, 3, (2, *shape))
    return SimpleNamespace(
        online=tables[0].astype(np.float32),
        target=tables[1].astype(np.float32),
        action=random.integers(0, actions, rows),
        reward=random.integers(-1, 2, rows).astype(np.float32),
        terminal=(np.arange(rows) % 2).astype(np.uint8),
        gamma=GAMMA if scale else 1.0,
    )


def document(b: Any, **found: Any) -> dict[str, Any]:
    """Make the document of one case."""
    arrays = vars(b) | found
    return {name: np.asarray(array).tolist() for name, array in arrays.items()}


def quantile_case(b: Any) -> dict[str, Any]:
    """Target, losses, priorities and gradient of quantile regression."""
    rows, _, quantiles = b.online.shape
    agent = functions_of(AGENTS / "quantile/quantile_agent.py", "target_distribution", "train")
    states = jnp.eye(rows)
    judge = functools.partial(Table.apply, b.target)
    target = agent.target_distribution(judge, states, b.reward, b.terminal, b.gamma)
    batch = (states, b.action, states, b.reward, b.terminal)
    gradient, _, loss, mean = agent.train(
        Table, b.online, b.target, Watch(), None, *batch, 1.0, quantiles, b.gamma
    )
    priorities = jnp.sqrt(loss + 1e-10)
    return document(b, target_quantiles=target, loss=loss, mean_loss=mean, priorities=priorities) | {
        "gradient": np.asarray(gradient).tolist()
    }


def scalar_case(b: Any, loss_type: str) -> dict[str, Any]:
    """Target, losses and gradient of scalar values: of tables (B, A, 1)."""
    agent = functions_of(AGENTS / "dqn/dqn_agent.py", "target_q", "train")
    states = jnp.eye(len(b.online))
    target = agent.target_q(functools.partial(Table.apply, b.target), states, b.reward, b.terminal, b.gamma)
    batch = (states, b.action, states, b.reward, b.terminal)
    gradient, _, mean = agent.train(Table, b.online, b.target, Watch(), None, *batch, b.gamma, loss_type)
    chosen = b.online[np.arange(len(b.action)), b.action, 0]
    of_a_sample = getattr(functions_of(LOSSES, "huber_loss", "mse_loss"), f"{loss_type}_loss")
    losses = jax.vmap(of_a_sample)(target, chosen)
    return document(b, target_values=target, loss=losses, mean_loss=mean, gradient=gradient) | {
        "loss_type": loss_type
    }


def main() -> None:
    """Print all cases."""
    random = np.random.default_rng(10044)
    sizes = [(4, 3, 5, 2.0), (3, 3, 4, 0.0), (2, 3, 3, 0.3)]
    quantile = [quantile_case(batch(random, *size)) for size in sizes]
    scalar = [
        scalar_case(batch(random, 4, 3, 1, scale), loss_type)
        for scale in (2.0, 0.0)
        for loss_type in ("huber", "mse")
    ]
    print(json.dumps({"quantile": quantile, "scalar": scalar}))


if __name__ == "__main__":
    AGENTS = Path(sys.argv[1]) / "dopamine/jax/agents"
    LOSSES = AGENTS.parent / "losses.py"
    main()
