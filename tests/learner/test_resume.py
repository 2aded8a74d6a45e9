"""A run that was stopped and resumed, in new objects on the same Redis shards, is the run that never stopped.

Real shards, the production sampler and train step on the CPU; the actors are paused: their data is all
written before the first batch.
"""

import dataclasses
import logging
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from learner.batches import BatchSource
from learner.checkpoint import CheckpointStore
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.update.train_step import TrainStep
from models.config import NetworkConfig
from replay.config import ReplayConfig
from replay.sampler import Sampler
from replay.servers.embedded import EmbeddedServers
from replay.shards.shard import Shard
from replay.types import Segment, SegmentIdentity, Signature
from replay.writer import Writer

NETWORK = NetworkConfig(
    encoder="nature", padding="valid", num_experts=2, expert_hidden_units=16, noisy=True, num_atoms=11
)
LEARNER = LearnerConfig(
    batch_size=8,
    update_period=1,
    target_update_period=5,
    final_learning_rate=1e-6,
    publish_period=4,
    checkpoint_period=1000,
    device="cpu",
)
REPLAY = ReplayConfig(capacity=10_000, min_size=100, n_step=3, error_buffer=8 * 400.0)
SIGNATURE = Signature(frame_shape=(84, 84), stack=4, n_step=3, num_actions=3)
RUN, ITEMS, SEGMENT_STEPS = "resume-test", 240, 20
TOTAL = 2 * ITEMS
"""The run is stopped half way down its learning rate."""
STOP_AT, END_AT = 12, 24


@dataclasses.dataclass
class Recorder:
    """Record of what a run drew and published, in order."""

    draws: list
    versions: list


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny batches gain nothing from more, and other tests may be at work on the other cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def urls(tmp_path_factory):
    servers = EmbeddedServers(
        tmp_path_factory.mktemp("replay"), shards=2, append_fsync="everysec", maxmemory=64 * 2**20
    )
    yield servers.start()
    servers.stop()


def make_segment(seq: int) -> Segment:
    rng = np.random.default_rng([7, seq])
    no = np.zeros(SEGMENT_STEPS, bool)
    end = no.copy()
    end[-1] = seq % 2 == 0
    return Segment(
        identity=SegmentIdentity(0, 0, seq),
        env_slot=0,
        first_step=0,
        num_items=SEGMENT_STEPS,
        lead=0,
        frames=rng.integers(0, 256, (SEGMENT_STEPS + 1, 84, 84), dtype=np.uint8),
        actions=rng.integers(0, 3, SEGMENT_STEPS).astype(np.int32),
        rewards=rng.normal(size=SEGMENT_STEPS).astype(np.float32),
        terminated=end,
        truncated=no,
        life_lost=no,
    )


def open_shards(urls) -> list[Shard]:
    return [Shard(url, run=RUN, index=index) for index, url in enumerate(urls)]


def make_learner(urls, folder: Path, *, total=TOTAL, keep=5) -> tuple[Learner, Recorder, Sampler, TrainStep]:
    """New objects throughout, as in a new process."""
    torch.manual_seed(0)
    sampler = Sampler(
        REPLAY,
        open_shards(urls),
        run=RUN,
        signature=SIGNATURE,
        batch_size=LEARNER.batch_size,
        samples_per_insert=LEARNER.batch_size / LEARNER.update_period,
        total_env_steps=total,
        seed=3,
    )
    train_step = TrainStep(
        NETWORK, LEARNER, num_actions=3, observation_shape=(4, 84, 84), seed=5, device="cpu"
    )
    recorder = Recorder([], [])
    learner = Learner(
        LEARNER,
        NETWORK,
        batches=BatchSource(LEARNER, sampler, min_size=REPLAY.min_size, total_env_steps=total),
        train_step=train_step,
        publish=lambda weights: recorder.versions.append(weights.version),
        checkpoints=CheckpointStore(folder / "checkpoints", keep),
        run_document={},
    )
    draw = sampler.sample

    def recorded():
        batch = draw()
        recorder.draws.append(batch)
        return batch

    sampler.sample = recorded
    return learner, recorder, sampler, train_step


@pytest.fixture(scope="module")
def filled(urls):
    """Shards that hold all of the run's data, written by a Writer under a sampler's allowance."""
    _, _, sampler, _ = make_learner(urls, Path("unused"))
    shards = open_shards(urls)

    def write() -> None:
        for first_shard in range(2):
            writer = Writer(shards, run=RUN, signature=SIGNATURE, first_shard=first_shard)
            for seq in range(first_shard, ITEMS // SEGMENT_STEPS, 2):
                writer.write(make_segment(seq))

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        sampler.ingest()
        thread.join(0.005)
    while sampler.inserted < ITEMS:
        sampler.ingest()
    return urls


@pytest.fixture(scope="module")
def stopped(filled, tmp_path_factory):
    """A run of STOP_AT updates that was stopped, its folder, and what it drew."""
    folder = tmp_path_factory.mktemp("stopped")
    learner, recorder, *_ = make_learner(filled, folder)
    assert learner.run(lambda: learner.updates >= STOP_AT) == "stopped"
    return folder, recorder


@pytest.fixture(scope="module")
def unbroken(filled, tmp_path_factory):
    """The run that never stops before END_AT."""
    run = make_learner(filled, tmp_path_factory.mktemp("unbroken"))
    run[0].run(lambda: run[0].updates >= END_AT)
    return run


def state_of(sampler: Sampler, train_step: TrainStep) -> dict[str, np.ndarray]:
    tensors, document = train_step.state()
    sampler_document, arrays = sampler.state()
    state = {name: tensor.detach().cpu().numpy() for name, tensor in tensors.items()} | arrays
    state["documents"] = np.array(repr((document, sampler_document)))
    return state


def assert_same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        assert np.array_equal(ours[name], value), name


def test_a_resumed_run_is_bit_identical_to_one_that_never_stopped(filled, stopped, unbroken, tmp_path):
    folder, before = stopped
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    learner, after, sampler, train_step = make_learner(filled, tmp_path)
    report = learner.restore()
    assert report.exact
    assert (report.items, report.dropped) == (ITEMS, 0)
    assert learner.updates == STOP_AT
    learner.run(lambda: learner.updates >= END_AT)
    _, all_draws, other_sampler, other_step = unbroken
    assert len(before.draws) == STOP_AT + 1  # one was drawn ahead, and is in the checkpoint
    assert len(all_draws.draws) == END_AT + 1
    for ours, theirs in zip(before.draws + after.draws, all_draws.draws, strict=True):
        for field in dataclasses.fields(theirs):
            assert np.array_equal(getattr(ours, field.name), getattr(theirs, field.name)), field.name
    assert_same(state_of(sampler, train_step), state_of(other_sampler, other_step))


def test_versions_go_on_after_a_resume(filled, stopped, tmp_path):
    folder, before = stopped
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    learner, after, *_ = make_learner(filled, tmp_path)
    learner.restore()
    learner.run(lambda: learner.updates >= STOP_AT + 4)
    assert before.versions == [0, 1, 2, 3]
    assert after.versions == [4, 5]


def test_optimizer_and_target_are_part_of_it(filled, stopped, unbroken, tmp_path):
    """The comparison can fail: a checkpoint without the optimizer's moments does not continue alike."""
    folder, _ = stopped
    store = CheckpointStore(folder / "checkpoints")
    whole = store.load_newest()
    optimizer = [name for name in whole.tensors if name.startswith("optimizer/")]
    targets = [name for name in whole.tensors if name.startswith("target/")]
    assert any(whole.tensors[name].abs().sum() > 0 for name in optimizer)
    assert any(
        not torch.equal(whole.tensors[name], whole.tensors[name.replace("target/", "online/")])
        for name in targets
    )
    forgotten = {
        name: torch.zeros_like(tensor) if name in optimizer and tensor.dim() else tensor
        for name, tensor in whole.tensors.items()
    }
    CheckpointStore(tmp_path / "checkpoints").save(STOP_AT, forgotten, whole.document)
    learner, _, _, train_step = make_learner(filled, tmp_path)
    learner.restore()
    learner.run(lambda: learner.updates >= END_AT)
    assert not np.array_equal(train_step.parameters(), unbroken[3].parameters())


@pytest.mark.parametrize("file", ["tensors.safetensors", "document.json", "manifest.json"])
def test_a_flipped_byte_in_the_newest_falls_back_to_the_one_before(filled, tmp_path, caplog, file):
    learner, *_ = make_learner(filled, tmp_path)
    learner.run(lambda: learner.updates >= 2)
    learner.run(lambda: learner.updates >= 4)
    newest = tmp_path / "checkpoints" / "update-000000004" / file
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 0x10
    newest.write_bytes(data)
    again, *_ = make_learner(filled, tmp_path)
    with caplog.at_level(logging.WARNING):
        assert again.restore().exact
    assert again.updates == 2
    assert "update-000000004" in caplog.text
    again.run(lambda: again.updates >= 4)
    assert CheckpointStore(tmp_path / "checkpoints").load_newest().update == 4


def test_a_run_to_its_end_has_exact_samples_per_insert(filled, tmp_path):
    learner, _, sampler, _ = make_learner(filled, tmp_path, total=ITEMS)
    assert learner.run(lambda: False) == "finished"
    assert sampler.inserted == ITEMS
    assert sampler.sampled == (ITEMS - REPLAY.min_size) * 8
    assert sampler.metrics()["replay/samples_per_insert"] == 8.0
    resumed, _, sampler, _ = make_learner(filled, tmp_path, total=ITEMS)
    assert resumed.restore().exact
    assert resumed.run(lambda: False) == "finished"
    assert sampler.sampled == (ITEMS - REPLAY.min_size) * 8
