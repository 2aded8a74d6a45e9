"""Certificates made on the spot, and a Redis that speaks TLS: by itself, or behind a proxy."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.helpers.deadline import until


class Authority:
    """A certificate authority of its own, with certificates for 127.0.0.1 and a client; PEMs in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "ca.pem"
        self.server = (folder / "server.pem", folder / "server.key")
        self.client = (folder / "client.pem", folder / "client.key")
        folder.mkdir()
        key = folder / "ca.key"
        new_key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
        _openssl(f"{new_key} -keyout {key} -out {self.certificate} -subj /CN=test-authority")
        _openssl(
            f"{new_key} -keyout {self.server[1]} -out {self.server[0]} -subj /CN=test-server"
            f" -addext subjectAltName=IP:127.0.0.1 -CA {self.certificate} -CAkey {key}"
        )
        _openssl(
            f"{new_key} -keyout {self.client[1]} -out {self.client[0]} -subj /CN=test-client"
            f" -CA {self.certificate} -CAkey {key}"
        )


def _openssl(arguments: str) -> None:
    subprocess.run(["openssl", *arguments.split()], check=True, capture_output=True)


def a_free_port() -> int:
    """A port of 127.0.0.1 that nothing uses."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def tls_proxy(authority: Authority, path: str, *, asks_clients: bool = False) -> Iterator[int]:
    """A port of 127.0.0.1 that speaks TLS and hands everything on to the server on the socket `path`.

    With `asks_clients` it takes only those with a certificate of the authority.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.server)
    if asks_clients:
        context.load_verify_locations(authority.certificate)
        context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as door:

        def serve() -> None:
            with suppress(OSError):  # the door is closed: the end
                while True:
                    threading.Thread(target=attend, args=(door.accept()[0],), daemon=True).start()

        def attend(plain: socket.socket) -> None:
            with (
                suppress(OSError),
                context.wrap_socket(plain, server_side=True) as outer,
                socket.socket(socket.AF_UNIX) as inner,
            ):
                inner.connect(path)
                _carry_between(outer, inner)

        threading.Thread(target=serve, daemon=True).start()
        yield int(door.getsockname()[1])
        door.shutdown(socket.SHUT_RDWR)


def _carry_between(outer: ssl.SSLSocket, inner: socket.socket) -> None:
    """Both ways until one side ends; by polling, as an SSL object is not for two threads at once."""
    outer.settimeout(0.001)
    inner.settimeout(0.001)
    while True:
        for source, target in ((outer, inner), (inner, outer)):
            try:
                data = source.recv(1 << 16)
            except TimeoutError:
                continue
            if not data:
                return
            target.settimeout(10.0)
            target.sendall(data)
            target.settimeout(0.001)


@contextmanager
def tls_server(program: str, authority: Authority, folder: Path, settings: str) -> Iterator[int]:
    """A server that speaks TLS on a port of 127.0.0.1 and nothing else; skips where it was built without.

    `settings` go to its configuration.
    """
    port = a_free_port()
    certificate, key = authority.server
    (folder / "tls.conf").write_text(
        f"port 0\ntls-port {port}\nbind 127.0.0.1\ntls-cert-file {certificate}\ntls-key-file {key}\n"
        f'tls-ca-cert-file {authority.certificate}\ntls-auth-clients no\ndir {folder}\nsave ""\n{settings}\n'
    )
    process = subprocess.Popen([program, str(folder / "tls.conf")], stdout=subprocess.DEVNULL)
    try:
        until(lambda: _listens(port) or process.poll() is not None, "the server")
        if process.poll() is not None:
            pytest.skip(f"{program} was built without TLS")
        yield port
    finally:
        process.terminate()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
