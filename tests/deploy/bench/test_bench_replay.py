"""`apexpert bench replay` on small numbers: every part measures, and what was drawn is truly compared."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from deploy.bench.end_to_end import default_config
from deploy.bench.errors import BenchmarkError
from deploy.bench.replay import replay
from deploy.bench.replay.paced_writer import paced_writer
from deploy.bench.replay.parts import CHECK_EVERY, WARM_BATCHES, check_draws, sample
from deploy.bench.replay.recorded import Recording, record
from deploy.bench.replay.setup import Setup
from deploy.cli.bench import REPLAY_PARTS
from deploy.cli.main import main
from replay.items.priority_index import PriorityIndex
from replay.sampler import Sampler
from replay.segments.codec import encode
from replay.servers.embedded import EmbeddedServers
from replay.types import Batch
from tests.helpers.deadline import patient

CONFIG = default_config()
ITEMS = 1_000


@pytest.fixture(scope="module")
def recordings() -> dict[str, Recording]:
    games = ("ms_pacman", "breakout")
    return {game: record(game, CONFIG.environment, CONFIG.replay, steps=600) for game in games}


def test_every_part_measures_and_draws_are_those_recorded(recordings: dict[str, Recording]) -> None:
    lines: list[str] = []
    result = replay.run(
        CONFIG, items=ITEMS, seconds=0.05, repeats=1, recordings=recordings, report=lines.append
    )
    measured = {key for single in result["repeats"].values() for key in single[0]}
    assert set(replay.AT_LEAST) <= measured
    assert {"bytes_per_step_ms_pacman", "disk_bytes_per_step_breakout", "tail_steps_per_s"} <= measured
    assert {f"ready_seconds_{ITEMS}", f"restore_seconds_{ITEMS}", "tail_cost_percent"} <= measured
    # So short a stretch of tailing need not see a segment arrive.
    assert all(result[key] > 0 for key in measured if key == "tail_steps_per_s" or "tail_" not in key)
    assert tuple(result["repeats"]) == tuple(replay.PARTS) == REPLAY_PARTS
    assert len(lines) >= len(replay.PARTS)
    # Two samplers of the sample part, one each of tail and of both starts.
    assert result["transitions_checked"] >= 5 * 256
    assert result["transitions_drawn"] >= 2 * 256
    commands = result["commands"]
    # The owner's and the run's own keys are set as well.
    assert commands["insert"]["set"]["calls"] >= commands["insert"]["xadd"]["calls"] > 0
    assert commands["sample"]["getrange"]["calls"] > 0


@pytest.mark.parametrize("field", ["frames", "actions", "rewards", "terminated"])
def test_a_transition_that_is_not_the_recorded_one_is_found(
    recordings: dict[str, Recording], field: str
) -> None:
    """What is written comes from the recording; then the recording is changed in one field everywhere."""
    recording = recordings["ms_pacman"]
    segments = recording.segments
    changed = {
        env: replace(stream, **{field: 1 - getattr(stream, field).astype(np.int64)})
        for env, stream in recording.streams.items()
    }
    other = Recording("ms_pacman", changed, CONFIG.replay, CONFIG.environment.stack)
    other.__dict__["segments"] = segments
    setup = Setup(CONFIG, {"ms_pacman": other}, ITEMS, 0.01, lambda line: None)
    with pytest.raises(BenchmarkError, match="not what was recorded"):
        next(sample(setup))


@pytest.mark.parametrize("capacity", [1, 2, 8, 100, 4097])
def test_leaves_that_are_not_in_proportion_are_found(capacity: int) -> None:
    tree, random = PriorityIndex(capacity), np.random.default_rng(capacity)
    tree.load(random.exponential(size=capacity) + 1e-6, 1.0)
    points = random.random((3, 512))
    leaves = np.stack([tree.draw(row) for row in points])
    check_draws(tree, points, leaves)
    for wrong in ((leaves + 1) % capacity, leaves[::-1]) if capacity > 2 else ():
        with pytest.raises(BenchmarkError, match="not drawn in proportion"):
            check_draws(tree, points, wrong)


def test_which_batch_is_checked_is_left_to_chance(
    recordings: dict[str, Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The n-th batch after the warm-up, another n each time."""
    setup, drawn, checked = Setup(CONFIG, recordings, ITEMS, 1e-9, lambda line: None), [0], []
    real = Sampler.sample

    def counted(sampler: Sampler) -> Batch:
        drawn[0] += 1
        return real(sampler)

    monkeypatch.setattr(Sampler, "sample", counted)
    monkeypatch.setattr(Setup, "check", lambda *_: checked.append(drawn[0]))
    measurements = sample(setup)
    for _ in range(3):
        drawn[0] = 0
        next(measurements)
    places = [(count - WARM_BATCHES) % (CHECK_EVERY + WARM_BATCHES) for count in checked]
    assert len(places) == 6
    assert len(set(places)) > 3
    assert all(1 <= place <= CHECK_EVERY for place in places)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--parts", "insert", "everything"], "--parts must be of insert, sample"),
        (["--items", "10"], "--items must be 1000 or more"),
    ],
)
def test_wrong_flags_are_one_line(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "replay", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


def test_a_writer_that_waits_for_a_sampler_ends_when_it_is_no_longer_needed(
    recordings: dict[str, Recording], tmp_path: Path
) -> None:
    """Nobody polls here, so its first write would wait forever."""
    segment = recordings["ms_pacman"].segments[0]
    signature = recordings["ms_pacman"].signature
    encoded = [encode(segment, "r", signature)]
    ended = threading.Event()

    def write() -> None:
        with (
            EmbeddedServers(tmp_path, shards=1, append_fsync="no", maxmemory=2**26) as servers,
            paced_writer(servers.urls, "r", signature, encoded, 1e6),
        ):
            pass
        ended.set()

    threading.Thread(target=write, daemon=True).start()
    assert ended.wait(patient(60))
