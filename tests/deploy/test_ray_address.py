"""An address of a Ray at which none lets us in: one line, in time."""

import socket

import pytest
import ray

from deploy.fleet.errors import WrongFlag
from deploy.fleet.ray import cluster, probe


def test_what_answers_and_is_no_ray_is_told_of_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(probe, "ANSWER_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(
            WrongFlag, match=rf"^--ray-address {address}: no Ray there lets us in within 0\.2 s"
        ):
            cluster.connect(address)


def test_a_ray_that_turns_us_away_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(probe, "PROBE", "raise SystemExit(1)")
    with pytest.raises(WrongFlag, match=r"^--ray-address 127\.0\.0\.1:1: no Ray answers there$"):
        cluster.connect("127.0.0.1:1")
