"""`apexpert replay` and what it answers; the servers of a stored run."""

import json
from typing import Any

import pytest

from deploy.cli.main import main
from deploy.run.folder import RunFolder
from replay.servers.embedded import EmbeddedServers
from replay.types import Signature

SIGNATURE = Signature(frame_shape=(84, 84), stack=1, n_step=3, num_actions=4)
SHARDS = 2


def servers_of(folder: RunFolder) -> EmbeddedServers:
    return EmbeddedServers(folder.replay, shards=SHARDS, append_fsync="everysec", maxmemory=2**27)


def call(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[int, str, str]:
    code = main(["replay", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def look(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    code, out, err = call(capsys, *argv, "--json")
    assert code == 0, err
    document: dict[str, Any] = json.loads(out)
    return document
