"""Operations on a run, for the command line and for Python: create, launch, scale, stop."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from actors.config import MOST_ACTORS, Actors, is_actor_count
from deploy.fleet.client import RunClient, connect, end_leftovers, launch
from deploy.fleet.errors import FleetError, WrongFlag
from deploy.fleet.run_state import FleetState
from deploy.replays.ownership import claim_added, release_new
from deploy.run.checks import check
from deploy.run.config import Config, ConfigError, saved_in, with_shard, with_values
from deploy.run.errors import RunError
from deploy.run.folder import STATUS, RunFolder
from deploy.run.preflight import check_urls, named_urls, preflight, ray_of_today, with_urls_of_today
from deploy.run.states import FINAL_STATES, LOST
from deploy.run.status import check_live, check_not_renamed, read_status
from deploy.storage.beginning import prepare_new, prepare_resumed
from replay.errors import ReplayError

STOP_SECONDS = 300.0
ENV_STEPS = "progress/env_steps"
RESUME_FLAGS = ("--total-env-steps", "--max-hours", "--until-return", "--ray-address", "--runs-dir")
"""Flags of `apexpert resume` by which it replaces saved values."""


def create(config: Config) -> RunFolder:
    """Create the folder of a new run and claim its shards; ConfigError or RunError leave no folder."""
    folder = RunFolder.create(config)
    try:
        prepare_new(folder)
    except BaseException:
        folder.unmake()
        raise
    return folder


def start_new(folder: RunFolder, waiting: Callable[[str], object] = lambda why: None) -> RunClient:
    """Start the run of a folder just created; the client returned answers. `waiting`: see `launch`.

    Raises FleetError, or ConfigError for a flag that does not fit the Ray found, which removes the folder.
    """
    config = folder.load_config()
    try:
        with naming_the_log(folder, launches=True), folder.starting():
            return launch(config, folder, resume=False, waiting=waiting)
    except WrongFlag as error:
        release_new(config)
        folder.unmake()
        raise ConfigError(str(error)) from None


def resume(
    folder: RunFolder,
    *,
    total_env_steps: int = 0,
    max_hours: float | None = None,
    until_return: float | None = None,
    num_actors: Actors = 0,
    ray_address: str = "",
    failover: bool = True,
    urls: tuple[str, ...] = (),
    detach: bool = False,
    announce: Callable[[Config], object] = lambda config: None,
    waiting: Callable[[str], object] = lambda why: None,
) -> RunClient:
    """Resume the run; 0, None, True, "" and () keep its own values. `announce` receives its configuration.

    A resume that fails, or is interrupted, restores the previous configuration. Raises ConfigError,
    FleetError, RunBusy.
    """
    with folder.starting():
        with folder.lock():
            # A copy by hard links must not append to the original's files (decision 0019).
            folder.unshare()
            before = folder.load_config()
            config = _with_new_end(folder, before, total_env_steps, max_hours, until_return)
            own_flags = RESUME_FLAGS + (("--actors.num-actors",) if num_actors else ())
            with saved_in(folder.config_path, own_flags):
                config = with_values(config, run__failover=config.run.failover and failover)
                config = with_urls_of_today(config, urls)
                config = _resumed_config(config, folder, num_actors, ray_address, detach)
            identity = folder.drawn_identity()
            # Claim before the identity is written: a refused folder may be the original after all, on a
            # file system that was mounted anew (decision 0019).
            prepare_resumed(config, folder, identity)
            folder.settle(identity)
            folder.save_config(config)
            if num_actors:
                FleetState(folder).ask(num_actors)
        try:
            announce(config)
            with naming_the_log(folder, launches=True):
                return launch(config, folder, resume=True, waiting=waiting)
        except BaseException as error:
            folder.save_config(before)
            if isinstance(error, WrongFlag):
                with saved_in(folder.config_path, RESUME_FLAGS):
                    raise ConfigError(str(error)) from None
            raise


def _with_new_end(
    folder: RunFolder,
    config: Config,
    total_env_steps: int,
    max_hours: float | None,
    until_return: float | None,
) -> Config:
    """Return the configuration with the ends given; raise ConfigError if nothing is left to do then."""
    status = folder.read_json(STATUS, {})
    finished, done = status.get("state") == "finished", int(status.get("metrics", {}).get(ENV_STEPS, 0))
    before, total = config.run, total_env_steps or config.run.total_env_steps
    ends = (
        before.max_hours if max_hours is None else max_hours,
        before.until_return if until_return is None else until_return,
    )
    # A message at the end of a finished run says which of its other ends it has reached.
    early = str(status.get("message") or "") if finished and done < before.total_env_steps else ""
    if early and ends == (before.max_hours, before.until_return):
        raise ConfigError(f"the run is finished already: {early}; give a larger one")
    if finished and not early and total <= before.total_env_steps:
        raise ConfigError(f"--total-env-steps {total}: the run is finished already; give a larger number")
    if total_env_steps and total < done:
        raise ConfigError(f"--total-env-steps {total}: the run has made {done} already; give a larger number")
    return with_values(config, run__total_env_steps=total, run__max_hours=ends[0], run__until_return=ends[1])


def _resumed_config(
    config: Config, folder: RunFolder, num_actors: Actors, ray_address: str, detach: bool
) -> Config:
    """Return the configuration with `resume`'s other changes, checked; raise ConfigError."""
    config = with_values(
        config,
        # The folder may have been moved since its configuration was saved.
        run__runs_dir=str(folder.path.parent),
        run__ray_address=ray_of_today(ray_address, config),
        run__detach=detach,
        actors__num_actors=num_actors or config.actors.num_actors,
    )
    check(config)
    return preflight(config, resumes=True)


def scale(
    folder: RunFolder,
    *,
    num_actors: Actors | None = None,
    num_shards: int | None = None,
    add_urls: tuple[str, ...] = (),
) -> list[str]:
    """Ask a running run for another number of actors, or for more shards; return what was asked for.

    Raises ConfigError for an impossible request, RunError when the run is not at work, FleetError without an
    answer.
    """
    config = folder.load_config()
    _check_scale(folder, config, num_actors, num_shards, add_urls)
    with saved_in(folder.config_path, {"--shards", "--add-urls"}):
        wanted, added = _with_more_shards(config, num_shards, add_urls)
    check_not_renamed(folder)
    check_live(folder)
    asked = []
    with connected(folder) as client:
        # Claim after the checks, and for a run that is there: a claim stays on the servers, since a run that
        # does not answer in time may use them all the same.
        if added:
            with _naming("--add-urls"):
                claim_added(config, folder, added)
        if num_actors is not None:
            client.scale(num_actors)
            asked.append(f"{num_actors} actors")
        if wanted != config:
            client.add_shards(wanted.replay.shards, added)
            asked.append(f"{len(wanted.replay.urls) or wanted.replay.shards} shards")
    return asked


def _check_scale(
    folder: RunFolder, config: Config, actors: Actors | None, shards: int | None, add_urls: tuple[str, ...]
) -> None:
    if actors is None and shards is None and not add_urls:
        raise ConfigError("--actors, --shards or --add-urls: say what to change (apexpert scale --help)")
    if actors is not None and not is_actor_count(actors):
        allowed = f"must be 1 to {MOST_ACTORS}, auto, or auto:MIN-MAX with such numbers"
        raise ConfigError(f"--actors {actors}: {allowed}; to end the run: apexpert stop")
    if config.run.lockstep and actors not in (None, 1):
        raise ConfigError(f"--actors {actors}: must be 1, because {folder.name} runs in lockstep")
    if config.run.lockstep and (shards is not None or add_urls):
        raise ConfigError(f"--shards, --add-urls: not while it runs, because {folder.name} runs in lockstep")


def _with_more_shards(
    config: Config, shards: int | None, add_urls: tuple[str, ...]
) -> tuple[Config, tuple[str, ...]]:
    """Return the configuration to reach, and new URLs; raise ConfigError for what cannot be added."""
    replay = config.replay
    if shards is not None:
        if replay.urls:
            raise ConfigError(f"--shards {shards}: the run has servers of your own: --add-urls adds one")
        if shards <= replay.shards:
            raise ConfigError(f"--shards {shards}: must be more than the {replay.shards} that the run has")
        config = with_values(config, replay__shards=shards)
        with _naming("--shards", "--replay.shards"):
            check(config)
    added: tuple[str, ...] = ()
    if add_urls:
        if not replay.urls:
            raise ConfigError("--add-urls: the run has embedded servers: --shards adds one")
        with _naming("--add-urls"):
            added = named_urls(add_urls)
            for url in added:
                config = with_shard(config, url)
            check(config)
            check_urls(added)
            # Once more together: a new URL may be another name of a server that the run has.
            check_urls(config.replay.urls, all_needed=False)
    check(config)
    return config, added


def stop(folder: RunFolder, tell: Callable[[str], object] = lambda text: None) -> dict[str, Any]:
    """Ask a run to stop and wait until it has; return its last status. Leaves a run that has ended alone.

    A run that does not answer is ended through its Ray, whereupon its learner saves. `tell` receives
    progress messages. Raises RunError or FleetError when it can neither be asked nor ended.
    """
    status = read_status(folder)
    if status["state"] in FINAL_STATES:
        return status
    check_not_renamed(folder)
    try:
        # Inside the `try`: a run without a sign of life may have left a Ray to be ended.
        check_live(folder)
        with connected(folder) as client:
            client.stop()
            tell("stopping")
        return _wait_for_end(folder)
    except (RunError, FleetError) as error:
        return _end_what_is_left(folder, error, tell)


def _wait_for_end(folder: RunFolder) -> dict[str, Any]:
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        status = read_status(folder)
        if status["state"] in FINAL_STATES | {LOST}:
            return status
        time.sleep(0.2)
    raise FleetError(f"{folder.name} has not stopped after {STOP_SECONDS:.0f} s; see {folder.log_path}")


def _end_what_is_left(folder: RunFolder, error: Exception, tell: Callable[[str], object]) -> dict[str, Any]:
    """End the Ray left by a run that does not answer; if there is none, raise `error`."""
    with naming_the_log(folder):
        ended = end_leftovers(folder)
    if not ended:
        raise error
    tell(f"it did not answer ({error}); its processes were told to end")
    deadline = time.monotonic() + STOP_SECONDS
    while folder.is_at_work() and time.monotonic() < deadline:
        time.sleep(0.2)
    final = read_status(folder)
    if final["state"] not in FINAL_STATES:
        raise FleetError(f"{folder.name}: its processes were told to end; it is {final['state']}")
    return final


@contextlib.contextmanager
def connected(folder: RunFolder) -> Iterator[RunClient]:
    """Yield the client of a running run and close it at the end; raise FleetError."""
    with naming_the_log(folder):
        client = connect(folder)
        try:
            yield client
        finally:
            client.close()


@contextlib.contextmanager
def naming_the_log(folder: RunFolder, *, launches: bool = False) -> Iterator[None]:
    """Make errors of fleet and replay name the run and its log; a WrongFlag of a launch stays as it is."""
    try:
        yield
    except (FleetError, ReplayError) as error:
        if isinstance(error, WrongFlag) and launches:
            raise
        message = f"run {folder.name}: {error}; see {folder.log_path}"
        raise FleetError(message, path=folder.log_path) from error


@contextlib.contextmanager
def _naming(flag: str, setting: str = "--replay.urls") -> Iterator[None]:
    """Make errors about a setting name the flag that gave it, instead of the flag of `train`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace(setting, flag)) from None
