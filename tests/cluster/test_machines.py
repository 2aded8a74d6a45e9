"""The machines that the other tests of this folder use are machines: apart from each other and from here."""

import sys
from pathlib import Path

import psutil
import pytest

from tests.helpers.cluster.network import Network, left_over
from tests.helpers.deadline import until

pytestmark = pytest.mark.cluster

LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 7000)) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"here")
        connection.close()
"""
ASK = """
import socket, sys
with socket.create_connection((sys.argv[1], 7000), float(sys.argv[2])) as connection:
    print(connection.recv(4).decode(), end="")
"""
LOCK = """
import fcntl, sys, time
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("locked", flush=True)
time.sleep(600)
"""


def test_machines_have_their_own_address_processes_names_and_storage(network: Network) -> None:
    one, two = network.machine(), network.machine(shared=False)
    with one.popen(sys.executable, "-c", LISTEN, one.address):
        until(lambda: one.run(sys.executable, "-c", ASK, one.address, "5").stdout == "here", "a listener", 30)
        assert two.python(ASK, one.address, "5") == "here"
        here = {each.address for addresses in psutil.net_if_addrs().values() for each in addresses}
        assert one.address not in here
        one.cut()
        assert two.run(sys.executable, "-c", ASK, one.address, "1").returncode != 0
        one.mend()
        until(
            lambda: two.run(sys.executable, "-c", ASK, one.address, "2").stdout == "here", "a mended link", 30
        )
    names = [machine.run("hostname").stdout.strip() for machine in (one, two)]
    assert names == ["m1", "m2"]
    for path in ("/tmp/mine", "/dev/shm/mine", str(network.shared / "ours")):
        one.python(f"open({path!r}, 'w').write('x')")
    seen = [
        two.run("ls", path).returncode for path in ("/tmp/mine", "/dev/shm/mine", network.shared / "ours")
    ]
    assert 0 not in seen
    assert (network.shared / "ours").exists()
    assert not Path("/tmp/mine").exists()
    boots = {machine.run("cat", "/proc/sys/kernel/random/boot_id").stdout for machine in (one, two)}
    assert len(boots) == 2


def test_shared_storage_has_locks_across_machines_and_a_killed_machine_frees_them(network: Network) -> None:
    one, two = network.machine(), network.machine()
    path = str(network.shared / "lock")
    with one.popen(sys.executable, "-c", LOCK, path) as holder:
        holder.prints("locked")
        assert "BlockingIOError" in two.run(sys.executable, "-c", LOCK, path).stderr
        one.kill()
        assert not one.alive
        with two.popen(sys.executable, "-c", LOCK, path) as next_holder:
            next_holder.prints("locked")


def test_a_ray_over_machines_and_nothing_is_left(network: Network) -> None:
    head, node = network.machine("head"), network.machine("node")
    address = head.start_ray(head=True, num_cpus=0)
    node.start_ray(address=address, num_cpus=1, num_gpus=1, resources={"learner": 1})
    code = "import ray, sys; ray.init(sys.argv[1], logging_level='ERROR'); print(ray.cluster_resources())"
    said = head.python(code, address)
    assert "'GPU': 1.0" in said
    assert "'learner': 1.0" in said
    assert len(node.node_id()) == 56
    network.end()
    assert left_over(network.folder) == []
