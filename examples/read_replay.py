"""Draw batches from the replay of a run, live or finished, and count what it holds.

python examples/read_replay.py RUN
"""

import sys

import apexpert


def main(run: str) -> None:
    """Print one batch's shapes, and the transitions and rewards that the replay holds."""
    with apexpert.open_replay(run) as replay:
        batch = replay.sample(32)
        print(f"{replay.size:,} transitions in {run}")
        print("observation", batch.observation.shape, batch.observation.dtype)
        print("mean reward of the batch", batch.reward.mean())
        rewards = [float(segment.rewards[: segment.num_items].sum()) for segment in replay.segments()]
        print(f"{len(rewards):,} segments, {sum(rewards):g} points in all")


if __name__ == "__main__":
    main(*sys.argv[1:])
