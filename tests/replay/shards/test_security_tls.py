"""`rediss://`: replay over TLS with a CA of one's own, and what is said when certificates do not fit."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replay.errors import ShardError
from replay.servers.configuration import users
from replay.shards.shard import Shard
from replay.types import SegmentIdentity
from tests.helpers.deadline import patient
from tests.helpers.replay.samplers import ingest_all, new_run
from tests.helpers.shards.servers import shared_urls
from tests.helpers.shards.tls import Authority, a_free_port, tls_proxy, tls_server

SERVER_ON_PATH = shutil.which("redis-server") or shutil.which("valkey-server")
PASSWORD = "S3cret"
ONE = SegmentIdentity(0, 0, 1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made by the openssl program, which is not here")
    return Authority(tmp_path_factory.mktemp("tls") / "authority")


@pytest.fixture(scope="module")
def place(authority: Authority) -> Iterator[str]:
    """`user:password@host:port` of a real server behind a proxy that speaks TLS."""
    user, _, path = shared_urls()[0].partition("://")[2].partition("@")
    with tls_proxy(authority, path) as port:
        yield f"{user}@127.0.0.1:{port}"


def evicted_over(url: str) -> int:
    """Write, read, draw, evict; items that left."""
    run = new_run([url], capacity=60)
    run.fill(0, 100, actor=0)
    sampler = run.sampler(store_bytes=0)
    ingest_all(sampler)
    run.check(sampler, sampler.sample())
    assert all(shard.address.startswith("rediss://127.0.0.1:") for shard in run.shards)
    return sampler.counters.evicted


def test_replay_over_tls_with_a_ca_of_ones_own(place: str, authority: Authority) -> None:
    assert evicted_over(f"rediss://{place}/0?ssl_ca_certs={authority.certificate}") > 0


@pytest.mark.skipif(SERVER_ON_PATH is None, reason="no redis-server or valkey-server on PATH")
def test_replay_on_a_server_that_speaks_tls_itself(authority: Authority, tmp_path: Path) -> None:
    assert SERVER_ON_PATH is not None
    with tls_server(SERVER_ON_PATH, authority, tmp_path, "\n".join(users(PASSWORD))) as port:
        url = f"rediss://apexpert:{PASSWORD}@127.0.0.1:{port}?ssl_ca_certs={authority.certificate}"
        assert evicted_over(url) > 0


def refusal(url: str) -> str:
    """Return what a shard says at once, in one line without the password."""
    began = time.monotonic()
    with pytest.raises(ShardError) as caught:
        Shard(url, run="r", index=0, retry_seconds=patient(20.0)).ping()
    text = str(caught.value)
    assert time.monotonic() - began < patient(10)
    assert "\n" not in text
    assert PASSWORD not in text
    return text


def test_certificates_that_do_not_fit_are_told_at_once(
    place: str, authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other")
    (tmp_path / "empty.pem").write_text("")
    address = f"rediss://apexpert:{PASSWORD}@" + place.rpartition("@")[2]
    assert "its certificate is not trusted; name the file of its CA" in refusal(address)
    assert "is not trusted" in refusal(f"{address}?ssl_ca_certs={other.certificate}")
    named = address.replace("127.0.0.1", "localhost")  # the certificate is of 127.0.0.1 only
    assert "is not trusted" in refusal(f"{named}?ssl_ca_certs={authority.certificate}")
    for file in ("nowhere.pem", "empty.pem"):
        text = refusal(f"{address}?ssl_ca_certs={tmp_path / file}")
        assert "ssl_ca_certs" in text
        assert "cannot be read" in text


def test_a_servers_clients_have_certificates_too(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path / "other")
    user, _, path = shared_urls()[0].partition("://")[2].partition("@")
    with tls_proxy(authority, path, asks_clients=True) as port:
        url = f"rediss://{user}@127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}"

        def with_client(certificate: Path, key: Path) -> str:
            return f"{url}&ssl_certfile={certificate}&ssl_keyfile={key}"

        assert evicted_over(with_client(*authority.client)) > 0
        for mistaken in (url, with_client(*other.client)):
            assert "it does not take the client's certificate, or asks for one" in refusal(mistaken)
        assert "do not belong together" in refusal(with_client(authority.client[0], other.client[1]))
        assert "cannot be read" in refusal(with_client(authority.client[0], tmp_path / "no.key"))


def test_nothing_there_is_tried_again_as_without_tls(authority: Authority) -> None:
    url = f"rediss://127.0.0.1:{a_free_port()}?ssl_ca_certs={authority.certificate}"
    with pytest.raises(ShardError, match=r"cannot be reached for 0\.3 s"):
        Shard(url, run="r", index=0, retry_seconds=0.3).ping()
