"""Diagnoses during training: they change nothing, reach the metrics and the folder, and tell their cost."""

import errno
import logging
import math
import random
import threading

import numpy as np
import pytest
import torch

from learner.diagnostics import diagnosis, diagnostics
from learner.diagnostics.diagnostics import Diagnostics
from learner.diagnostics.files import array_files, read_arrays
from learner.diagnostics.ranks import singular_values, srank
from learner.diagnostics.reference_statistics import reference_statistics
from learner.parity.golden_case import GoldenCase
from learner.parity.parity import build_step
from replay.types import Batch
from tests.helpers.learner.diagnosed import HEADS, SIZE, UPDATES, make_batch, make_step, train
from tests.helpers.learner.golden import STATISTICS


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("threads", "precision", "head"),
    [(1, "float32", "soft_moe"), (2, "bfloat16", "soft_moe"), (2, "float32", "top_k_moe")],
)
def test_training_is_the_same_bit_by_bit(tmp_path, threads, precision, head):
    runs = []
    for period in (0, 2):
        torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
        options = {"threads": threads, "precision": precision, **HEADS[head]}
        learner, step, sampler, published = train(tmp_path / str(period), period, **options)
        assert ("diagnostics/update" in learner.metrics()) == bool(period)
        tensors, document = step.state()
        state = {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}
        others = torch.get_rng_state().numpy().tobytes(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002
        drawn = [batch.observation.tobytes() for batch in sampler.batches]
        weights = [weights.parameters.tobytes() for weights in published]
        runs.append((state, document, others, drawn, weights, sampler.sum, torch.get_num_threads()))
        assert all(p.grad is None for p in step.online_network.parameters())
    assert runs[0] == runs[1]


def names_of(metrics):
    return {n.removeprefix("diagnostics/") for n in metrics if n.startswith("diagnostics/")}


@pytest.mark.parametrize("head", HEADS)
def test_every_head_has_its_metrics(tmp_path, head):
    learner, *_ = train(tmp_path, 3, **HEADS[head])
    metrics = learner.metrics()
    names = names_of(metrics)
    experts = 3 if head not in ("dense", "pooled") else 0
    for kind in ("dispatch_share", "combine_share", "expert_grad_norm"):
        assert {n for n in names if n.startswith(f"{kind}/")} == {f"{kind}/{e}" for e in range(experts)}
    assert ("combine_entropy" in names) == ("dispatch_entropy" in names) == bool(experts)
    assert ("dropped_token_share" in names) == (head == "top_k_moe")
    assert {"srank", "entk_rank", "entk_rows", "td_error_mean", "td_error_p90", "update", "seconds"} <= names
    assert {f"dormant_share/{layer}" for layer in ("encoder.0", "encoder.2", "head", "all")} <= names
    parts = {"encoder", "output"} if head == "pooled" else {"encoder", "head", "output"}
    for group in ("parameter_norm", "grad_norm", "update_norm"):
        assert {n for n in names if n.startswith(f"{group}/")} == {f"{group}/{part}" for part in parts}
    assert all(isinstance(metrics[f"diagnostics/{n}"], float) for n in names)
    assert all(math.isfinite(metrics[f"diagnostics/{n}"]) for n in names)
    for kind in ("dispatch_share", "combine_share"):
        shares = [metrics[f"diagnostics/{kind}/{e}"] for e in range(experts)]
        assert not shares or sum(shares) == pytest.approx(1.0)
    arrays = read_arrays(tmp_path, 6)
    assert (arrays["update"], arrays["env_steps"]) == (6, 10 + UPDATES)
    assert (arrays["entk"].shape, arrays["entk"].dtype) == ((SIZE, SIZE), np.float32)
    np.testing.assert_allclose(arrays["entk"], arrays["entk"].T, rtol=1e-4)
    assert arrays["combine_share"].shape == (experts,)


@pytest.mark.parametrize(("values", "loss"), [("c51", "huber"), ("quantile", "huber"), ("scalar", "squared")])
def test_a_diagnosis_is_of_the_network_after_the_update_and_the_target_before_it(
    tmp_path, monkeypatch, values, loss
):
    """Against the plain function, on the same rows; in a team of two, in bfloat16 training."""
    monkeypatch.setattr(diagnosis, "MAX_ROWS", 9)
    step = make_step(threads=2, precision="float32", values=values, loss=loss)
    batch = make_batch(np.random.default_rng(1))
    step.step(make_batch(np.random.default_rng(2)))
    before = {name: p.detach().clone() for name, p in step.online_network.named_parameters()}
    rows = np.random.default_rng(7).permutation(SIZE)[:9]
    data = step.to_device(Batch(**{n: getattr(batch, n)[rows] for n in Batch.__dataclass_fields__}))
    target, written = step.target(data), {}
    with Diagnostics(step, 7, folder=tmp_path, write=written.update).watch(7, 0, batch):
        result = step.step(batch)
    network = step.online_network
    arguments = (network, data.observation, data.action, target)
    for name, value in reference_statistics(*arguments, loss=loss).items():
        if not name.endswith("srank_0.0"):
            found = written[f"diagnostics/reference/{name}"]
            assert found == pytest.approx(value, rel=1e-4, abs=1e-6), name
    moved = {n: p.detach() - before[n] for n, p in network.named_parameters() if n.startswith("output.")}
    norm = torch.cat([change.flatten() for change in moved.values()]).norm().item()
    assert written["diagnostics/update_norm/output"] == pytest.approx(norm, rel=1e-4)
    assert norm > 0
    parts = [written[f"diagnostics/grad_norm/{part}"] for part in ("encoder", "head", "output")]
    assert math.hypot(*parts) == pytest.approx(result.grad_norm, rel=1e-4)
    assert math.hypot(*parts) > 0
    assert written["diagnostics/entk_rows"] == 9


@pytest.mark.parametrize(
    "network",
    [{"residual": True, "token_norm": True}, {"combine": "sum"}, {"head": "dense"}, {"head": "pooled"}],
)
def test_srank_is_of_the_inputs_of_the_output_layer(tmp_path, network):
    """Also where they are not what leaves the mixture, and what leaves it has rank 1."""
    step, written, seen = make_step(**network), {}, []
    step.online_network.output.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    if experts := getattr(step.online_network.head, "moe", None):
        with torch.no_grad():
            for parameter in experts.parameters():
                parameter.mul_(1e-6)
    batch = make_batch(np.random.default_rng(3))
    with Diagnostics(step, 1, folder=tmp_path, write=written.update).watch(1, 0, batch):
        step.step(batch)
    assert written["diagnostics/srank"] == srank(singular_values(seen[-1]))


def test_a_diagnosis_of_the_golden_case(tmp_path):
    """The way that training takes, counts exactly; `srank_0.0` depends on rounding."""
    case, written = GoldenCase.load(STATISTICS), {}
    step, batch = build_step(case)[0], case.batch()
    with Diagnostics(step, 1, folder=tmp_path, write=written.update).watch(1, 0, batch):
        result = step.step(batch)
    assert result.loss == pytest.approx(float(case.arrays["mean_td_loss"]), rel=1e-5)
    np.testing.assert_allclose(result.priorities, case.arrays["td_loss"], rtol=1e-5)
    for name, expected in case.section("statistics").items():
        found = written[f"diagnostics/reference/{name}"]
        if expected.dtype.kind == "i" and not name.endswith("srank_0.0"):
            assert found == expected, name
        elif expected.dtype.kind == "f":
            assert found == pytest.approx(float(expected), rel=1e-4), name
    assert written["diagnostics/entk_rank"] == 4.0
    diagonal = np.diagonal(read_arrays(tmp_path, 1)["entk"])
    assert diagonal.mean() == pytest.approx(80.73, rel=1e-3), "the kernel without the reference's outputs"


def test_only_the_updates_of_the_period_are_looked_at(tmp_path):
    step, batch, written = make_step(), make_batch(np.random.default_rng(1)), []
    watching = Diagnostics(step, 4, folder=tmp_path, write=lambda m: written.append(m["diagnostics/update"]))
    for update in range(1, 10):
        with watching.watch(update, 10 * update, batch):
            pass
    assert written == [4, 8]
    assert [path.name for path in array_files(tmp_path)] == ["update-000000004.npz", "update-000000008.npz"]
    for period, seen in ((0, batch), (1, make_batch(np.random.default_rng(0), size=1))):
        with Diagnostics(step, period, folder=tmp_path, write=written.append).watch(4, 0, seen):
            pass
    assert len(written) == 2, "0 is off, and one sample has no statistics"


def test_the_cost_is_a_metric_and_is_logged_once(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO, logger="learner.diagnostics.diagnostics")
    now = [100.0]
    monkeypatch.setattr(diagnostics.time, "monotonic", lambda: now[0])
    step, batch, written = make_step(), make_batch(np.random.default_rng(1)), []

    def slow(function, seconds):
        def slower(*args):
            now[0] += seconds
            return function(*args)

        return slower

    monkeypatch.setattr(diagnostics, "look_before", slow(diagnostics.look_before, 0.5))
    monkeypatch.setattr(diagnostics, "diagnose", slow(diagnostics.diagnose, 1.5))
    watching = Diagnostics(step, 2, folder=tmp_path, write=written.append)
    for update in range(1, 5):
        with watching.watch(update, 0, batch):
            now[0] += 9.0
    assert [metrics["diagnostics/seconds"] for metrics in written] == [2.0, 2.0]
    shares = [metrics["diagnostics/time_share"] for metrics in written]
    assert shares == pytest.approx([2 / 20, 4 / 40])
    assert all(metrics["diagnostics/seconds/entk"] > 0 for metrics in written)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "diagnostics: 2.00 s every 2 updates, 10.0 % of the time so far"
        " (--learner.diagnostics-period, 0 turns them off)"
    ]


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), OSError("no space left")])
@pytest.mark.parametrize("where", ["look_before", "diagnose"])
def test_a_diagnosis_that_fails_is_the_last_and_training_goes_on(tmp_path, monkeypatch, caplog, error, where):
    def fail(*args):
        raise error

    monkeypatch.setattr(diagnostics, where, fail)
    learner, *_ = train(tmp_path, 2)
    assert not names_of(learner.metrics())
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        f"diagnostics are off from now on: {error}"
    ]


def test_a_file_for_which_there_is_no_room_is_left_out_and_the_next_one_is_tried(
    tmp_path, monkeypatch, caplog
):
    plain = diagnostics.save_arrays

    def full_at_2(folder, update, arrays):
        if update == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        return plain(folder, update, arrays)

    monkeypatch.setattr(diagnostics, "save_arrays", full_at_2)
    step, batch, written = make_step(), make_batch(np.random.default_rng(1)), []
    watching = Diagnostics(step, 2, folder=tmp_path, write=lambda m: written.append(m["diagnostics/update"]))
    for update in range(1, 5):
        with watching.watch(update, 0, batch):
            pass
    assert written == [2, 4], "the metrics need no file"
    assert [path.name for path in array_files(tmp_path)] == ["update-000000004.npz"]
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "the arrays of the diagnosis of update 2 cannot be written: [Errno 28] No space left on device"
    ]


def test_an_error_of_the_update_itself_is_not_swallowed(tmp_path):
    watching = Diagnostics(make_step(), 1, folder=tmp_path, write=dict)
    batch = make_batch(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="of the update"), watching.watch(1, 0, batch):
        raise RuntimeError("of the update")


def test_the_team_does_the_work_each_with_its_share(tmp_path, monkeypatch):
    """The caller is one of the team, and no operator uses all cores by itself."""
    step, callers = make_step(threads=2), []
    plain = diagnosis.sample_gradients

    def noted(network, observation, *args, **options):
        callers.append((threading.get_ident(), len(observation)))
        assert torch.get_num_threads() == 1
        return plain(network, observation, *args, **options)

    monkeypatch.setattr(diagnosis, "sample_gradients", noted)
    with Diagnostics(step, 1, folder=tmp_path, write=dict).watch(1, 0, make_batch(np.random.default_rng(0))):
        pass
    assert sorted(rows for _, rows in callers) == [8, 8]
    assert len({caller for caller, _ in callers} | {threading.get_ident()}) == 2
