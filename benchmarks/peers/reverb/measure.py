"""Measures dm-reverb's insert and sample on recorded frames, in its own environment; prints one JSON line.

The items are those of the replay: one n-step transition for each env step, with stacks of 4 frames. Reverb
stores each frame once, in compressed chunks, and an item is the trajectory of the 4 + n frames that it needs:
both stacks are views of it. Before an episode come 3 zero frames, after it n - 1 copies of its last frame, so
that every step starts an item. Server and client are processes of their own, as the replay's are.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import portpicker
import reverb
import tensorflow as tf

TABLE = "replay"
STACK = 4
WARM_BATCHES = 5


def main() -> None:
    """Tries every chunk length, and with each every number of sampling workers; the best ones count."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--recording", required=True, help="npz file that compare.py wrote")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--n-step", type=int, default=3)
    parser.add_argument("--chunk-lengths", type=int, nargs="+", default=[0, 1, 7], help="0: tuned by Reverb")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    arguments = parser.parse_args()
    games = load(arguments.recording)
    inserts: dict[str, float] = {}
    samples: dict[str, float] = {}
    memory: dict[str, float] = {}
    for length in arguments.chunk_lengths:
        name = f"chunks of {length}" if length else "tuned chunks"
        with served(games, arguments.n_step) as (address, pid):
            before = resident_bytes(pid)
            items, seconds = insert(
                reverb.Client(address), games, arguments.n_step, length, arguments.seconds
            )
            inserts[name] = items / seconds
            memory[name] = (resident_bytes(pid) - before) / items
            for workers in arguments.workers:
                samples[f"{name}, {workers} workers"] = sample(address, arguments, workers)
    result = {
        "insert_steps_per_s": max(inserts.values()),
        "sample_per_s": max(samples.values()),
        "bytes_per_step": min(memory.values()),
        "inserts": inserts,
        "samples": samples,
        "bytes": memory,
        "versions": {name: version(name) for name in ("dm-reverb", "tensorflow-cpu", "numpy")},
    }
    print(json.dumps(result))


def load(path: str) -> list[list[dict[str, np.ndarray]]]:
    """Of each game, its environments' streams."""
    streams: dict[tuple[int, int], dict[str, np.ndarray]] = {}
    with np.load(path) as file:
        for name in file.files:
            game, env, field = name.split("/")
            streams.setdefault((int(game), int(env)), {})[field] = file[name]
    games = sorted({game for game, _ in streams})
    return [[stream for (of, _), stream in sorted(streams.items()) if of == game] for game in games]


def steps_of(stream: Mapping[str, np.ndarray], n_step: int) -> Iterator[tuple[dict[str, Any], bool, bool]]:
    """Make the steps to append, and say of each whether an item ends there and whether the episode does.

    Appended is a frame with what came after it; an item is the last 4 + n frames, so the first comes n frames
    after an episode's first one.
    """
    zero = np.zeros_like(stream["frames"][0])
    none = (np.int32(0), np.float32(0.0), np.bool_(False))
    count = len(stream["actions"])
    for step in range(count):
        newest = int(stream["newest"][step])
        row = (np.int32(stream["actions"][step]), stream["rewards"][step], stream["terminated"][step])
        began = step - int(newest - stream["first"][step])
        if step == began:
            for _ in range(STACK - 1):
                yield row_of(zero, *none), False, False
        yield row_of(stream["frames"][newest], *row), step - began >= n_step, False
        if step + 1 == count or stream["first"][step + 1] != stream["first"][step]:
            length = step - began + 1
            for late in range(n_step):
                wanted = length + late >= n_step
                yield row_of(stream["frames"][newest + 1], *none), wanted, late == n_step - 1


def row_of(frame: np.ndarray, action: np.int32, reward: np.float32, terminated: np.bool_) -> dict[str, Any]:
    """Make the row that is appended as one step."""
    return {"frame": frame, "action": action, "reward": reward, "terminated": terminated}


def insert(
    client: reverb.Client,
    games: Sequence[Sequence[Mapping[str, np.ndarray]]],
    n_step: int,
    length: int,
    least: float,
) -> tuple[int, float]:
    """Items inserted and acknowledged, and the seconds it took; all games the same often.

    What is appended is prepared beforehand, as little as that is: the time is Reverb's.
    """
    items, spent = 0, 0.0
    prepared = [[list(steps_of(stream, n_step)) for stream in streams] for streams in games]
    while spent < least:
        for streams in prepared:
            for steps in streams:
                with client.trajectory_writer(num_keep_alive_refs=STACK + n_step) as writer:
                    for column in ("frame", "action", "reward", "terminated"):
                        writer.configure(
                            (column,), num_keep_alive_refs=STACK + n_step, max_chunk_length=length or None
                        )
                    start = time.perf_counter()
                    items += write(writer, steps, n_step)
                    spent += time.perf_counter() - start
    return items, spent


def write(
    writer: reverb.TrajectoryWriter, steps: Sequence[tuple[dict[str, Any], bool, bool]], n_step: int
) -> int:
    """Append one stream's steps with their items, and wait until the server has them all."""
    items = 0
    for data, is_item, ends in steps:
        writer.append(data)
        if is_item:
            history = writer.history
            trajectory = {
                "frame": history["frame"][-STACK - n_step :],
                "action": history["action"][-n_step - 1 : -n_step],
                "reward": history["reward"][-n_step - 1 : -1],
                "terminated": history["terminated"][-n_step - 1 : -1],
            }
            writer.create_item(TABLE, 1.0, trajectory)
            items += 1
        if ends:
            writer.end_episode(clear_buffers=True)
    writer.flush()
    return items


def sample(address: str, arguments: argparse.Namespace, workers: int) -> float:
    """Transitions a second, in batches, as NumPy arrays: stacks are views of the trajectories' frames."""
    dataset = reverb.TrajectoryDataset.from_table_signature(
        server_address=address,
        table=TABLE,
        max_in_flight_samples_per_worker=2 * arguments.batch,
        num_workers_per_iterator=workers,
    )
    batches = dataset.batch(arguments.batch, drop_remainder=True).prefetch(2).as_numpy_iterator()
    for _ in range(WARM_BATCHES):
        next(batches)
    done, start = 0, time.perf_counter()
    while (elapsed := time.perf_counter() - start) < arguments.seconds:
        frames = next(batches).data["frame"]
        observation, next_observation = frames[:, :STACK], frames[:, -STACK:]
        assert observation.shape == next_observation.shape == (arguments.batch, STACK, *frames.shape[2:])
        done += arguments.batch
    return done / elapsed


@contextlib.contextmanager
def served(games: Sequence[Sequence[Mapping[str, np.ndarray]]], n_step: int) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of its own process."""
    port = portpicker.pick_unused_port()
    height, width = games[0][0]["frames"].shape[1:]
    signature = {
        "frame": ((STACK + n_step, height, width), "uint8"),
        "action": ((1,), "int32"),
        "reward": ((n_step,), "float32"),
        "terminated": ((n_step,), "bool"),
    }
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=serve, args=(port, signature, ready), daemon=True)
    process.start()
    try:
        if not ready.wait(120):
            raise SystemExit("the Reverb server did not start")
        yield f"localhost:{port}", process.pid or 0
    finally:
        process.terminate()
        process.join()


def serve(port: int, signature: dict[str, tuple[tuple[int, ...], str]], ready: Any) -> None:
    """A server with one prioritized table."""
    table = reverb.Table(
        name=TABLE,
        sampler=reverb.selectors.Prioritized(0.5),
        remover=reverb.selectors.Fifo(),
        max_size=200_000,
        rate_limiter=reverb.rate_limiters.MinSize(1),
        signature={name: tf.TensorSpec(shape, kind) for name, (shape, kind) in signature.items()},
    )
    server = reverb.Server(tables=[table], port=port)
    ready.set()
    server.wait()


def resident_bytes(pid: int) -> int:
    """Memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
