"""Play an Atari game with a trained network in a Gymnasium loop of your own.

python examples/play_in_gymnasium.py RUN [STEPS], where RUN is a run, an exported file or a bundled model
"""

import sys

from ale_py.vector_env import AtariVectorEnv

import apexpert


def main(name: str, steps: int = 1_000) -> None:
    """Play two games at once for that many env steps, and print the points made."""
    policy = apexpert.load_policy(name)
    game = policy.config.environment
    envs = AtariVectorEnv(
        game.game,
        num_envs=2,
        frameskip=game.frame_skip,
        stack_num=game.stack,
        repeat_action_probability=game.repeat_action_probability,
        noop_max=game.noop_max,
        use_fire_reset=False,
        reward_clipping=False,
    )
    observations, _ = envs.reset(seed=1)
    points = 0.0
    for _ in range(steps):
        observations, rewards, _, _, _ = envs.step(policy(observations))
        points += float(rewards.sum())
    envs.close()
    print(f"{points:g} points in {steps:,} steps of 2 games of {game.game}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
