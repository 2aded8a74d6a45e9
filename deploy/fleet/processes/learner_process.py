"""The learner's own process: `python -m deploy.fleet.processes.learner_process`, started by LearnerLink.

Ray does not know this process: it outlives the worker that started it for as long as its last checkpoint
takes. It ends by itself, with a checkpoint, on SIGTERM and when that worker is gone, whether Ray and the
shards are there or not. A learner that has not restored yet has nothing to save and ends at once.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from types import FrameType
from typing import IO, TYPE_CHECKING, Any

from deploy.fleet.farewell import TERMINATED_SECONDS, TRIED_SECONDS, has_ended, write_farewell
from deploy.fleet.processes.role import LEARNER_PATIENCE_SECONDS, Assignment, Report, Role
from deploy.fleet.processes.sendable import sendable
from deploy.run.checks import without_passwords
from deploy.run.config import to_json
from learner.checkpoint_names import name_of

if TYPE_CHECKING:
    from deploy.storage.uploader import Uploader
    from learner.checkpoint import CheckpointStore
    from learner.checkpoint_writer import Snapshot
    from learner.learner import Learner
    from models.arrays import Weights
    from replay.sampler import Sampler

logger = logging.getLogger(__name__)

SWITCH_SECONDS = 0.0002
"""How long the team's other threads may wait for the learner's own thread, which draws the next batch first,
before they get the interpreter. With Python's default of 5 ms they stood still for the whole draw."""
TERMINATED = "SIGTERM"
ENDING_SECONDS = 1.0
"""A Ray told to end together with this process has ended after this long."""
ALONE_SECONDS = 100.0
"""A process that nobody needs any more and that is not done after this long ends itself."""


class LearnerProcess(Role):
    """The run's learner, with the sampler as the only owner of the shards."""

    def __init__(
        self,
        assignment: Assignment,
        dead: set[tuple[int, int]],
        newest_version: int,
        ray_pid: int,
        connection: Connection,
    ) -> None:
        """`newest_version`: the weight store's; a restarted learner numbers its weights above it.

        `ray_pid`: the raylet's process on this node.
        """
        super().__init__(assignment, "learner", LEARNER_PATIENCE_SECONDS)
        self._dead, self._newest_version, self._connection = dead, newest_version, connection
        self._learner: Learner | None = None
        self._uploads: Uploader | None = None
        self._sending = threading.Lock()
        self._ended = False
        self._ray_pid = ray_pid
        self._held: IO[str] | None = None
        self.alone = ""
        """Why nobody needs this process any more, in words; empty while somebody does."""

    def run(self) -> str:
        """Build, restore and learn; return `finished`, or `stopped` if told to, both with a checkpoint."""
        import torch

        from deploy.storage.uploader import uploader_of
        from learner.checkpoint import CheckpointStore

        torch.set_num_threads(self._config.learner.cpu_threads)
        torch.set_flush_denormal(True)  # As in ThreadTeam, but also for threads inside operators.
        sys.setswitchinterval(SWITCH_SECONDS)
        checkpoints = CheckpointStore(
            self.folder.checkpoints, self._config.learner.keep_checkpoints, note=self._note
        )
        # A previous learner may be about to save its last checkpoint: wait for the lock until it has.
        self._held = checkpoints.hold()
        self._uploads = uploader_of(self.folder, self._config, checkpoints, self._note)
        with contextlib.closing(self._sampler()) as sampler:
            learner = self._build(checkpoints, sampler)
            self._begin(learner, checkpoints)
            # Actors that stayed alive accept only weights newer than what they have.
            learner.weights_version = max(learner.weights_version, self._newest_version)
            self._learner = learner
            learner.batches.mark_dead(self._dead)
            self._start_using(learner.batches.add_shard)
            outcome = learner.run(self.should_stop)
        # Now that the shards are let go: the end may wait for a slow place.
        if self._uploads is not None:
            self._uploads.finish()
        return outcome

    def _begin(self, learner: "Learner", checkpoints: "CheckpointStore") -> None:
        """Restore the newest checkpoint, or begin with the weights that `--init-from` has named."""
        if learner.restore() is None and learner.updates == 0 and self.folder.first_weights.exists():
            from deploy.networks.first_weights import load_first_weights

            learner.begin_with(load_first_weights(self.folder))
            self._note(f"begins with the weights of {self._config.run.init_from}")
        # One that a run before could not copy to the end.
        if self._uploads is not None and (paths := checkpoints.paths()):
            self._uploads.submit(paths[0])

    def heartbeat(self) -> Report:
        """Return the learner's numbers."""
        report = self._report(self._learner)
        if self._uploads is not None and report["ready"]:
            report["metrics"] |= self._uploads.metrics()
        return report

    def save(self) -> None:
        """Write a checkpoint as soon as possible; one that has not restored has nothing new to save."""
        if self._learner is not None:
            self._learner.ask_to_save()

    def mark_dead(self, incarnations: set[tuple[int, int]]) -> None:
        """Release the allowance of incarnations that will not write again."""
        if self._learner is None:
            self._dead = self._dead | incarnations
        else:
            self._learner.batches.mark_dead(incarnations)

    def leave(self, why: str) -> None:
        """End because nobody needs this process any more: with a checkpoint, or at once if unrestored."""
        self.alone = self.alone or why
        if self._ended:
            return
        if self._learner is None:
            logger.info("%s: ends without a checkpoint", why)
            threading.Thread(target=self._leave_unrestored).start()
            return
        logger.warning("%s: saving and ending", why)
        for shard in self._opened:  # In lockstep, shards would be waited for longer than there is time.
            shard.retry_seconds = min(shard.retry_seconds, LEARNER_PATIENCE_SECONDS)
        self.stop()

    def _leave_unrestored(self) -> None:
        """End a process that has nothing to save; in a thread, because a signal handler must not block."""
        with contextlib.suppress(OSError), self.folder.last_words():
            if has_ended(self._ray_pid, ENDING_SECONDS):
                self.say_farewell(None)
        os._exit(0)

    def listen(self) -> None:
        """Answer calls until the other side is gone."""
        try:
            while True:
                number, method, arguments = self._connection.recv()
                self._send(("answer", number, self._answer(method, arguments)))
        except (EOFError, OSError):
            self.leave("Ray has ended")
            time.sleep(ALONE_SECONDS)
            os._exit(1)

    def _answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        try:
            return getattr(self, method)(*arguments)
        except Exception:  # This thread must survive: through it the process notices that it is alone.
            logger.exception("%s failed", method)
            return None

    def tell_end(self, outcome: str, error: Exception | None) -> None:
        """Send the last message: how `run` ended."""
        self._ended = True
        with contextlib.suppress(OSError):
            self._send(("end", outcome, error, self.heartbeat()))

    def say_farewell(self, error: Exception | None) -> None:
        """Write the run's last status, if nobody else will."""
        metrics = self.heartbeat()["metrics"]
        seconds = TERMINATED_SECONDS if self.alone == TERMINATED else TRIED_SECONDS
        write_farewell(
            self.folder, metrics, self.alone, error, self._ray_pid, self._has_successor, seconds=seconds
        )

    def _has_successor(self) -> bool:
        has_let_go = self._held is not None and self._held.closed
        return has_let_go and self.folder.is_saved_to()

    def let_go(self) -> None:
        """Allow another learner to save checkpoints from now on."""
        if self._held is not None:
            self._held.close()

    def _publish(self, weights: "Weights") -> None:
        with contextlib.suppress(OSError):  # The receiver is gone: `listen` has noticed as well.
            self._send(("weights", weights.version, weights.env_steps, weights.updates), weights.parameters)

    def _send(self, message: tuple[Any, ...], data: Any = None) -> None:
        with self._sending:
            self._connection.send(message)
            if data is not None:
                self._connection.send_bytes(memoryview(data).cast("B"))

    def _sampler(self) -> "Sampler":
        from replay.sampler import Sampler

        config = self._config
        return Sampler(
            config.replay,
            self._shards(),
            run=config.run.name,
            signature=self._signature(),
            batch_size=config.learner.batch_size,
            samples_per_insert=config.samples_per_insert,
            total_env_steps=config.run.total_env_steps,
            seed=config.run.seed,
        )

    def _build(self, checkpoints: Any, sampler: "Sampler") -> "Learner":
        from learner.batches import BatchSource
        from learner.learner import Learner
        from learner.update.precision import missing_gpu
        from learner.update.train_step import TrainStep

        config, signature = self._config, self._signature()
        if missing := missing_gpu(config.learner.device):
            self._note(missing)
        shapes: Any = {"num_actions": signature.num_actions, "observation_shape": signature.observation_shape}
        train_step = TrainStep(
            config.network, config.learner, **shapes, seed=config.run.seed, note=self._note
        )
        return Learner(
            config.learner,
            config.network,
            batches=BatchSource(
                config.learner,
                sampler,
                min_size=config.replay.min_size,
                total_env_steps=config.run.total_env_steps,
                lockstep=config.run.lockstep,
            ),
            train_step=train_step,
            publish=self._publish,
            checkpoints=checkpoints,
            run_document=to_json(without_passwords(config)),
            note=self._note,
            saved=self._saved,
        )

    def _saved(self, snapshot: "Snapshot") -> None:
        if self._uploads is not None:
            self._uploads.submit(self.folder.checkpoints / name_of(snapshot.update))
        self._keep_network(snapshot)

    def _keep_network(self, snapshot: "Snapshot") -> None:
        """Write the network of every `keep_every`-th update as a file that stays."""
        every = self._config.learner.keep_every
        if every and snapshot.update % every == 0:
            from deploy.networks.model_file import keep_network

            keep_network(self.folder, self._config, snapshot)


def run(process: LearnerProcess) -> None:
    """Learn to the end and report it; if its Ray has gone meanwhile, write the run's last status here."""

    def on_sigterm(_number: int, _frame: FrameType | None) -> None:
        process.leave(TERMINATED)

    signal.signal(signal.SIGTERM, on_sigterm)
    threading.Thread(target=process.listen, name="listen", daemon=True).start()
    outcome, error = "", None
    try:
        outcome = process.run()
    except Exception as caught:
        logger.exception("the learner failed")
        error = caught
    process.tell_end(outcome, sendable(error))
    if process.alone:
        with contextlib.suppress(OSError), process.folder.last_words():
            # Let go first: `_has_successor` sees another learner by the lock that it then holds.
            process.let_go()
            process.say_farewell(error)


def main() -> None:
    """Leave the parent, receive the assignment from the connection, and learn."""
    connection = Connection(int(sys.argv[2]))
    # Without a parent in Ray, this process is not killed with Ray's worker (decision 0024).
    if os.fork():
        os._exit(0)
    assignment, dead, newest_version, ray_pid = connection.recv()
    run(LearnerProcess(assignment, dead, newest_version, ray_pid, connection))
    logging.shutdown()
    os._exit(0)  # Nothing is left to do, and other libraries' threads may not end.


if __name__ == "__main__":
    main()
