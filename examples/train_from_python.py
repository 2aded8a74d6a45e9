"""Start a run from Python, watch it, and use what it learned.

python examples/train_from_python.py [ENV_STEPS]
"""

import sys

import apexpert


def main(total_env_steps: int = 20_000) -> None:
    """Train Pong with the laptop preset for a while, and print how it went."""
    config = apexpert.preset("laptop", game="Pong", seed=1, total_env_steps=total_env_steps)
    with apexpert.train(config) as run:
        print("started", run.name, "in", run.path)
        status = run.wait(show=progress)
    print(status["state"], "after", status["metrics"]["progress/seconds"], "seconds")
    network = apexpert.load_network(str(run.path))
    print(sum(parameter.numel() for parameter in network.parameters()), "parameters")


def progress(status: dict) -> None:
    """Print one line, which the next one replaces."""
    done = int(status["metrics"].get("progress/env_steps", 0))
    print(f"\r{status['state']}: {done:,} of {status['total_env_steps']:,} env steps", end="", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
