"""The process that owns a run started from Python: `python -m apexpert.owner`, by apexpert.runs alone.

It holds the connection to Ray, so that the user's process never has one: several runs can be owned at once,
and nothing that happens to a run's Ray happens to the user. It takes one request on its standard input,
answers on its standard output, and stops the run when a line follows or the input ends, as it does when the
user's process is gone. Another process of this kind asks a run that is at work to scale or to stop.
"""

import json
import sys
import threading
from typing import Any, TextIO

from apexpert.errors import ApexpertError, one_line
from deploy.cli.main import described
from deploy.cli.run.follow import follow
from deploy.fleet import operations
from deploy.fleet.client import RunClient
from deploy.run.checks import check
from deploy.run.config import from_json, hide_password
from deploy.run.folder import RunFolder
from deploy.run.preflight import preflight, with_ray_of_environment, with_urls_of_environment


class Parent:
    """Whether the user's process wants the run to stop, as `follow` asks for it."""

    def __init__(self) -> None:
        self.count = 0
        # A daemon, because the thread may still wait for a line when the run has ended.
        threading.Thread(target=self._listen, name="parent", daemon=True).start()

    def _listen(self) -> None:
        sys.stdin.readline()
        self.count = 1


def main() -> int:
    """Start or resume the run that is asked for, and stay with it until it ends."""
    request = json.loads(sys.stdin.readline())
    # Anything else printed, such as a warning about a shard, must not be taken for the answer.
    answers, sys.stdout = sys.stdout, sys.stderr
    try:
        if "ask" in request:
            _answer(answers, folder=_ask(**request), detached=True)
            return 0
        folder, client = _started(request)
    except (ApexpertError, OSError) as error:
        path = error.path if isinstance(error, ApexpertError) else None
        message = hide_password(one_line(described(error, "run")[0]))
        _answer(answers, error=type(error).__name__, message=message, path=path and str(path))
        return 1
    detach = folder.load_config().run.detach
    _answer(answers, folder=str(folder.path), detached=detach)
    if detach:
        # Only disconnects: a detached run keeps its Ray.
        client.close()
        return 0
    try:
        follow(client, lambda status: None, Parent(), say=lambda text: None)
        return 0
    except ApexpertError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        client.shutdown()


def _started(request: dict[str, Any]) -> tuple[RunFolder, RunClient]:
    if "config" in request:
        config = with_ray_of_environment(with_urls_of_environment(from_json(request["config"])))
        check(config)
        folder = operations.create(preflight(config))
        return folder, operations.start_new(folder)
    folder = RunFolder.open(request.pop("folder"))
    # `resume` checks the configuration by itself.
    return folder, operations.resume(folder, **request)


def _ask(ask: str, folder: str, **changes: Any) -> str:
    run = RunFolder.open(folder)
    if ask == "scale":
        operations.scale(run, **changes)
    else:
        operations.stop(run)
    return str(run.path)


def _answer(answers: TextIO, **answer: Any) -> None:
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    sys.exit(main())
