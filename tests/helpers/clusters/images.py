"""Images built from nothing that a registry would have to give: on a Debian unpacked here, by buildah."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests.helpers.clusters.debian import programs
from tests.helpers.deadline import patient
from tests.helpers.root import ROOT

SUITE = "bookworm"
INCLUDED = "python3,python3-venv,ca-certificates"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SECONDS = 1800


class Images:
    """Images in a store of their own below `folder`, which `remove` empties."""

    def __init__(self, folder: Path) -> None:
        programs("buildah", "debootstrap")
        self._folder = folder
        self._storage = [f"--root={folder}/store", f"--runroot={folder}/run", "--storage-driver=overlay"]

    def buildah(self, *words: str | Path) -> str:
        """What a command of buildah prints; AssertionError when it fails."""
        return _done("buildah", *self._storage, *words)

    def base(self, name: str) -> None:
        """Make the image that others are built on: Debian with a Python, and this machine's certificates."""
        root = self._folder / "base"
        _done("debootstrap", "--variant=minbase", f"--include={INCLUDED}", SUITE, root)
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
        container = self.buildah("from", "scratch").strip()
        self.buildah("copy", container, root, "/")
        for setting in (f"PATH={PATH}", f"SSL_CERT_FILE={CERTIFICATES}", *_pip_settings()):
            self.buildah("config", "--env", setting, container)
        self.buildah("commit", "--quiet", "--rm", container, name)
        shutil.rmtree(root)

    def build(self, name: str, dockerfile: Path, **arguments: str) -> None:
        """Build an image from the project's folder; pip finds the packages that this machine's pip finds."""
        words = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        words += [f"--volume={path}:{path}:ro" for path in _local_packages()]
        self.buildah("bud", "--isolation=chroot", "--pull-never", *words, "-f", dockerfile, "-t", name, ROOT)

    def run(self, image: str, *words: str) -> str:
        """What a command prints in a new container of the image, as the image's user."""
        container = self.buildah("from", "--pull-never", image).strip()
        return self.buildah("run", "--isolation=chroot", container, "--", *words)

    def remove(self) -> None:
        """Remove all containers and images: their files are mounted, and no folder to be unlinked."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


def _pip_settings() -> list[str]:
    """This user's settings of pip, as variables."""
    settings = {}
    for line in _done(sys.executable, "-m", "pip", "config", "list").splitlines():
        # `global.find-links='/folder'`, or `:env:.find-links='/folder'` for a variable.
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2].upper().replace("-", "_")] = shlex.split(value)[0]
    return [f"PIP_{name}={value}" for name, value in settings.items()]


def _local_packages() -> set[Path]:
    """Folders and files of this machine among pip's settings."""
    words = [word for setting in _pip_settings() for word in setting.partition("=")[2].split()]
    # An index names files beside its own folder.
    paths = [Path(word[7:]).parent if word.startswith("file://") else Path(word) for word in words]
    return {path for path in paths if path.is_absolute() and path.exists()}


def _done(*words: str | Path) -> str:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=patient(SECONDS), check=False
    )
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout
