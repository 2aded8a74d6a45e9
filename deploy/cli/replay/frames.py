"""`apexpert replay --frames`: transitions drawn by the newest checkpoint's masses, as a picture."""

from pathlib import Path

from deploy.cli.errors import CommandFailed
from deploy.replays.source import Source
from deploy.reports.contact_sheet import action_names, draw_contact_sheet
from replay.config import ReplayConfig
from replay.tools.inventory import checkpoint_masses, take_inventory
from replay.tools.preview import draw_transitions, item_masses


def draw_frames(source: Source, target: Path, *, num_frames: int, seed: int) -> Path:
    """Draw `num_frames` transitions into `target`; raise CommandFailed when there are none.

    Without a checkpoint all are equally likely; items newer than it enter with the largest mass so far,
    as in the sampler. Without a run's folder, stack and n-step come from the data itself, and gamma is 0.99.
    """
    config, inventory = source.config(), take_inventory(source.shards)
    # A shard where neither a writer nor an owner has been yet has no signature.
    signature = next((s for shard in source.shards if (s := shard.signature()) is not None), None)
    if signature is None or not inventory.items:
        raise CommandFailed(f"{source.run}: there are no transitions to draw")
    checkpoint = source.checkpoint()
    known, newest = {}, 1.0
    if checkpoint is not None:
        known = checkpoint_masses(checkpoint.arrays("sampler"))
        newest = float(checkpoint.document["sampler"]["table"]["max_mass"])
    rules = ReplayConfig(n_step=signature.n_step) if config is None else config.replay
    drawn = draw_transitions(
        source.shards,
        inventory,
        item_masses(inventory, known, newest),
        rules,
        run=source.run,
        stack=signature.stack if config is None else config.environment.stack,
        count=num_frames,
        seed=seed,
    )
    if not drawn:
        raise CommandFailed(
            f"{source.run}: none of the {num_frames} transitions drawn can be read; see --verify"
        )
    masses = f"masses of {checkpoint.path.name}" if checkpoint else "no checkpoint: all alike"
    title = f"{source.run}: {len(drawn)} of {inventory.items:,} transitions, {masses}"
    names = action_names(None if config is None else config.environment, signature.num_actions)
    return draw_contact_sheet(drawn, names, target, title=title)
