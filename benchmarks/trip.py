"""The files of ours that an env step passes on its way into a batch: `python benchmarks/trip.py`.

One actor plays, a writer stores its segments on embedded servers, the sampler takes them in and draws a
batch. A profiler's hook notes the file of every function of ours that is called in between, once everything
is set up; the networks (models/) are left out. Exit code 1 if there are more than docs/architecture.md names.
"""

import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from actors.actor import Actor
from actors.environments import describe_environment
from deploy.bench.replay.local_replay import RUN, make_actor, signature_of
from deploy.run.config import with_values
from deploy.run.presets import LAPTOP
from replay.sampler import Sampler
from replay.servers.embedded import EmbeddedServers
from replay.shards.connect import connect_shards

ROOT = Path(__file__).resolve().parent.parent
PACKAGES, MOST = ("actors", "replay", "learner"), 37
BATCH = 32


def act(actor: Actor, is_over: threading.Event, ready: threading.Event, note: Any) -> None:
    """Step the actor; note the files from the first step after `ready` on."""
    while not is_over.is_set():
        if ready.is_set():
            sys.setprofile(note)
        actor.step()


def draw(sampler: Sampler) -> None:
    """Draw a batch as soon as the sampler may."""
    while not sampler.can_sample():
        sampler.ingest()
    sampler.sample()


def main() -> int:
    """Print the files, in the order in which they are first entered."""
    config = with_values(LAPTOP, environment__game="pong", replay__min_size=64, actors__envs_per_actor=2)
    spec = describe_environment(config.environment)
    signature = signature_of(config, spec)
    files: dict[str, None] = {}
    ready = threading.Event()

    def note(frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(ROOT)):
            path = Path(name).relative_to(ROOT)
            if path.parts[0] in PACKAGES:
                files.setdefault(str(path))

    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServers(folder, shards=2, append_fsync="everysec", maxmemory=2**27) as servers,
    ):
        sampler = Sampler(
            config.replay,
            connect_shards(servers.urls, run=RUN),
            run=RUN,
            signature=signature,
            batch_size=BATCH,
            samples_per_insert=1.0,
            seed=0,
        )
        sampler.ingest()
        actor, _ = make_actor(config, connect_shards(servers.urls, run=RUN), spec)
        is_over = threading.Event()
        # The actor has a thread of its own, as it waits for what the sampler allows.
        acting = threading.Thread(target=act, args=(actor, is_over, ready, note), daemon=True)
        acting.start()
        # The first batch opens connections and checks signatures; the trip is that of a later step.
        draw(sampler)
        ready.set()
        sys.setprofile(note)
        # A batch pays for as many inserts: segments that the actor began since are drawn in the end.
        for _ in range(8 * config.replay.segment_steps // BATCH):
            draw(sampler)
        sys.setprofile(None)
        found = list(files)
        is_over.set()
        sampler.mark_dead([(0, 0)])
    print("\n".join(found))
    print(f"{len(found)} files (at most {MOST})")
    return int(len(found) > MOST)


if __name__ == "__main__":
    sys.exit(main())
