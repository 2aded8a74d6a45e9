import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.helpers.deadline import PATIENCE

ODD = "-a[b] *?'\"\\ %d:#é"

if TYPE_CHECKING:
    from tests.helpers.runs.commands import Trained
    from tests.helpers.runs.homeless import Homeless


def pytest_configure() -> None:
    """Signals as a terminal gives them, also where the suite runs in the background of a script.

    There Ctrl-C is ignored, which commands that tests start would take over, and keep to.
    """
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
    # A Ray that the shell names is nobody's to train on here.
    os.environ.pop("RAY_ADDRESS", None)


def pytest_itemcollected(item: pytest.Item) -> None:
    """The deadline of each whole test, too, is as patient as those inside it."""
    item.add_marker(pytest.mark.timeout(PATIENCE * float(item.config.getini("timeout"))))


@pytest.fixture(scope="session")
def shared_ray() -> Iterator[str]:
    """One Ray for all tests of this process, which is connected to it; gives its address."""
    import ray

    from deploy.fleet.ray import cluster

    local = cluster.start_local()
    cluster.connect(local.address, local)
    yield local.address
    ray.shutdown()
    local.end()


@pytest.fixture
def homeless() -> Iterator["Homeless"]:
    """A user without a home or leave to write to the packages; below folders that everybody may enter."""
    from tests.helpers.runs.homeless import Homeless

    with tempfile.TemporaryDirectory(prefix="apexpert-homeless-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        yield Homeless(Path(folder))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> "Trained":
    """A run that `apexpert train` has brought to its end; to be copied before it is changed."""
    from tests.helpers.runs.commands import train

    # No character of a path may matter: the tests that copy this run show it, too.
    folder = tmp_path_factory.mktemp("trained") / ODD
    folder.mkdir()
    return train(folder)
