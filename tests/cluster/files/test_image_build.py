"""The image is really built, on a Debian that is unpacked here, and what is in it works as its user."""

from collections.abc import Iterator

import pytest

import apexpert
from tests.helpers.clusters.images import Images
from tests.helpers.clusters.manifests import CLUSTERS, ray_cluster
from tests.helpers.deadline import patient

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(patient(3600))]

BASE, IMAGE = "localhost/apexpert-base", "localhost/apexpert"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The image, built."""
    images = Images(tmp_path_factory.mktemp("images"))
    images.base(BASE)
    images.build(IMAGE, CLUSTERS / "docker" / "Dockerfile", BASE=BASE)
    yield images
    images.remove()


def test_the_image_has_what_each_node_needs_and_runs_as_nobody_of_importance(images: Images) -> None:
    assert images.run(IMAGE, "id", "-u").strip() == "1000"
    assert apexpert.__version__ in images.run(IMAGE, "apexpert", "--version")
    assert ray_cluster()["rayVersion"] in images.run(IMAGE, "ray", "--version")
    for program in ("bash", "wget", "rsync"):
        assert images.run(IMAGE, "which", program).startswith("/")
    # Of ray[default] and the object stores; a package of the `dev` extra is not there.
    images.run(IMAGE, "python", "-c", "import aiohttp, fsspec, opentelemetry.sdk.metrics, torch")
    with pytest.raises(AssertionError, match="No module named 'hypothesis'"):
        images.run(IMAGE, "python", "-c", "import hypothesis")


def test_its_user_can_train_in_it_and_write_where_runs_go(images: Images) -> None:
    assert "this machine can train" in images.run(IMAGE, "apexpert", "doctor")
    images.run(IMAGE, "touch", "/runs/x", "/home/apexpert/x")
