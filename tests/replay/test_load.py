"""The load tool at a small size, and that docs/scaling.md says what its results give."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks import scaling
from tests.helpers.shards import many_writers, owner_looks
from tests.helpers.shards.many_writers import Load


@pytest.mark.parametrize("owner", [False, True])
def test_a_small_load_is_written_as_asked(owner: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_writers, "PREPARED_STEPS", 1_200)
    load = Load(10, 320.0, 1.0, processes=2, shards=2, owner=owner, games=("pong",))
    result = many_writers.run(load)
    assert result["segments"] == 50
    assert result["steps"] == 3_200
    # Writers, and the measuring connection or the owner's.
    assert all(10 <= connections <= 14 for connections in result["connections_a_shard"])
    commits = result["commands"]["xadd"]["a_segment"]
    assert commits == pytest.approx(1.0)
    assert result["server_bytes_a_step"] > 50
    if owner:
        assert 0 < result["owner"]["steps"] <= 3_200
        assert result["owner"]["cpu_us_a_step"] > 0


def test_the_owners_looks_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner_looks, "LOOKS", 20)
    look = owner_looks.measure(3, tmp_path / "replay")
    assert look["shards"] == 3
    assert look["cpu_us"] > 0
    assert look["wall_us"] > 0


def test_the_documents_tables_are_what_the_script_makes() -> None:
    document = scaling.DOCUMENT.read_text()
    assert scaling.written(document) == document


def test_the_arithmetic_by_hand() -> None:
    costs = scaling.Constants(
        server_us=200.0,
        writer_us=700.0,
        owner_us=10.0,
        look_us=20.0,
        commands=10.0,
        net_in=40_000.0,
        net_out=30_000.0,
        server_bytes=600.0,
        disk_bytes=800.0,
        connection_bytes=20_000.0,
    )
    # 1,280 actors at 50 steps/s are 64,000 steps/s or 1,000 segments/s, 500 on each of 2 shards.
    row: dict[str, Any] = dict(zip("abcdefghijkl", scaling.scenario(costs, 2, 1_280), strict=True))
    assert list(row.values()) == [
        "2", "1,280", "64,000", "1,280", "2,560", "5,000", "10%", "20.00, 15.00", "25.60", "3.03", "**64%**",
        "0.1%",
    ]  # fmt: skip
    # A look at 1,000 shards takes 20 ms: 5 of them a second.
    assert scaling.scenario(costs, 1_000, 1_280)[-1] == "10.0%"
    owner, server, network, clients = scaling.limits(costs)
    assert owner[1:] == ["60,000 in all", "1,200 in all"]
    assert server[1:] == ["192,000 a shard", "3,840 a shard"]
    assert network[1] == "2,000,000 a shard"
    assert clients[2] == "10,000 in all"
