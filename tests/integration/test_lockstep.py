"""`--lockstep`: two runs with one seed are the same, bit for bit, through all processes."""

import torch

from learner.checkpoint import Checkpoint, CheckpointStore
from tests.helpers.deadline import patient
from tests.helpers.runs.catch_runs import metric


def lockstep_run(start_run, name: str) -> Checkpoint:
    client, folder = start_run(
        run__name=name,
        run__lockstep=True,
        run__total_env_steps=440,
        replay__min_size=200,
        replay__segment_steps=8,
        actors__envs_per_actor=1,
    )
    status = client.wait_finished(patient(120))
    client.shutdown()
    assert status["state"] == "finished", status["message"]
    checkpoint = CheckpointStore(folder.checkpoints).load_newest()
    assert checkpoint is not None
    assert metric(status, "progress/updates") == checkpoint.update > 50
    assert metric(status, "progress/env_steps") == checkpoint.document["env_steps"] >= 440
    return checkpoint


def test_two_lockstep_runs_are_bit_identical(start_run):
    # Names of one length: a segment holds its run's name, and a checkpoint the segments' bytes.
    one, other = lockstep_run(start_run, "first"), lockstep_run(start_run, "again")
    assert one.update == other.update
    assert one.tensors.keys() == other.tensors.keys()
    assert [n for n in one.tensors if not torch.equal(one.tensors[n], other.tensors[n])] == []
