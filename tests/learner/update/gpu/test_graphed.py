"""A captured update, on a CPU: the memory that a GPU replays on, and the numbers that come out."""

import numpy as np
import pytest
import torch

from learner.update.gpu.graphed import FlatBatch, GraphedUpdate
from models.config import NetworkConfig
from tests.helpers.learner.train_steps import NETWORK, SHAPE, make_batch, make_step

ARMS = {
    "soft moe": NETWORK,
    "dense, noisy": NetworkConfig(encoder="nature", padding="valid", head="dense", noisy=True, num_atoms=11),
    "top 1, balanced": NetworkConfig(
        encoder="nature",
        padding="valid",
        head="top_k_moe",
        expert_hidden_units=8,
        values="scalar",
        load_loss_weight=0.1,
    ),
    "impala, quantiles": NetworkConfig(
        encoder="impala",
        encoder_width_scale=0.25,
        expert_hidden_units=8,
        values="quantile",
        num_quantiles=7,
        noise_per="row",
        noisy=True,
    ),
}


def graphed(step, rows=4):
    return GraphedUpdate(step, step.generators, rows=rows, observation_shape=SHAPE)


@pytest.mark.parametrize("arm", ARMS)
@pytest.mark.parametrize("double", [False, True])
def test_it_is_the_update_of_a_single_thread_bit_by_bit(arm, double):
    options = {"network": ARMS[arm], "cpus": 1, "double": double, "learning_rate": 1e-2}
    plain, replayed = make_step(**options), make_step(**options)
    program = graphed(replayed)
    for seed in range(4):
        batch = make_batch(seed)
        # In a member's setting, because the norm's last bits depend on the number of threads.
        result = replayed.team.alone(lambda batch=batch: program.launch(batch).take())
        expected = plain.step(batch)
        np.testing.assert_array_equal(result.priorities, expected.priorities)
        assert (result.loss, result.q_mean, result.grad_norm) == (
            expected.loss,
            expected.q_mean,
            expected.grad_norm,
        )
    np.testing.assert_array_equal(replayed.parameters(), plain.parameters())


def test_every_launch_reads_its_inputs_and_writes_its_whole_result():
    """Whatever an earlier one has left in memory that a graph would use again."""
    step, plain = make_step(cpus=1), make_step(cpus=1)
    program = graphed(step)
    for seed in range(3):
        batch = make_batch(seed)
        program._packed.fill_(torch.nan)
        program._inputs.memory.fill_(255)
        for lane in program._lanes:
            lane.result.fill_(torch.nan)
        np.testing.assert_array_equal(program.launch(batch).take().priorities, plain.step(batch).priorities)


def test_two_updates_may_be_launched_before_the_first_is_taken():
    step, plain = make_step(cpus=1), make_step(cpus=1)
    program = graphed(step)
    batches = [make_batch(seed) for seed in range(4)]
    launched = program.launch(batches[0])
    for batch, following in zip(batches, [*batches[1:], None], strict=True):
        then = program.launch(following) if following is not None else launched
        np.testing.assert_array_equal(launched.take().priorities, plain.step(batch).priorities)
        launched = then


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_changes_no_weight(what):
    step = make_step(cpus=1)
    program, batch = graphed(step), make_batch(1)
    if what == "loss":
        batch.importance_weight[0] = np.inf
    else:
        hold = step.sparsity.hold
        step.sparsity.hold = lambda flat: (hold(flat), flat[:1].fill_(torch.inf))
    before, moments = step.parameters(), step.optimizer.state(step.online_network)
    result = program.launch(batch).take()
    assert not (np.isfinite(result.loss) and np.isfinite(result.grad_norm))
    assert np.isfinite(result.loss) == (what == "gradient")
    np.testing.assert_array_equal(step.parameters(), before)
    after = step.optimizer.state(step.online_network)
    assert all(torch.equal(after[name], tensor) for name, tensor in moments.items())


def test_columns_share_one_piece_of_memory_and_keep_their_types():
    flat, batch = FlatBatch(4, SHAPE, torch.device("cpu")), make_batch(3)
    flat.fill(batch)
    copied = FlatBatch(4, SHAPE, torch.device("cpu"))
    copied.memory.copy_(flat.memory)
    for name, column in copied.columns._asdict().items():
        assert column.is_contiguous()
        np.testing.assert_array_equal(column.numpy(), getattr(batch, name))


def test_a_batch_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"observation has shape \(5, 2, 44, 44\), not \(4, 2, 44, 44\)"):
        graphed(make_step(cpus=1)).launch(make_batch(size=5))
