"""The replay by itself: a process that writes, one that samples, and Redis servers between them.

python examples/replay_service.py [TRANSITIONS]; neither Ray nor torch is needed
"""

import multiprocessing
import sys
import tempfile
import time

import numpy as np

import apexpert

FRAME_SHAPE, NUM_ACTIONS, EPISODE_STEPS = (84, 84), 4, 200
RULES = apexpert.ReplayConfig(min_size=1_000, capacity=50_000, n_step=3)
SHAPES = {"frame_shape": FRAME_SHAPE, "num_actions": NUM_ACTIONS, "config": RULES}


def write(urls: tuple[str, ...], transitions: int) -> None:
    """Store random play; waits whenever the sampler has not drawn enough yet."""
    random = np.random.default_rng(1)
    with apexpert.ReplayWriter(urls, **SHAPES) as writer:
        for step in range(transitions):
            if step % EPISODE_STEPS == 0:
                writer.reset(random.integers(256, size=FRAME_SHAPE, dtype=np.uint8))
            writer.append(
                action=int(random.integers(NUM_ACTIONS)),
                reward=float(random.random() < 0.1),
                next_frame=random.integers(256, size=FRAME_SHAPE, dtype=np.uint8),
                terminated=step % EPISODE_STEPS == EPISODE_STEPS - 1,
                truncated=False,
            )


def main(transitions: int = 5_000) -> None:
    """Draw 8 samples for each transition written, in batches of 32, until all were written and used."""
    with tempfile.TemporaryDirectory() as folder, apexpert.serve_replay(folder, shards=2) as urls:
        process = multiprocessing.get_context("spawn").Process(
            target=write, args=(urls, transitions), daemon=True
        )
        process.start()
        with apexpert.ReplaySampler(urls, **SHAPES, batch_size=32, samples_per_insert=8.0) as sampler:
            batches = 0
            while process.is_alive() or sampler.can_sample():
                if not sampler.ingest():
                    time.sleep(0.001)
                while sampler.can_sample():
                    batch = sampler.sample()
                    sampler.update_priorities(batch, 0.1 + np.abs(batch.reward))
                    batches += 1
            process.join()
            sampler.ingest()
            print(f"{sampler.size:,} transitions, {batches:,} batches of {len(batch.action)}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
