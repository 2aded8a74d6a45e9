"""What a run claims for its folder before it starts: shards of the user's own, and where copies go."""

from deploy.replays.ownership import claim_new, claim_resumed
from deploy.run.config import Config
from deploy.run.folder import RunFolder
from deploy.run.identity import Identity
from deploy.storage.owner import claim_place


def prepare_new(folder: RunFolder) -> None:
    """Claim what a new run uses, and bring the weights that it begins with; raise ConfigError or RunError."""
    # Loaded again, because the folder has made up a name where none was given.
    config = folder.load_config()
    if config.run.init_from:
        # Imported here: it loads torch, which other runs need not wait for.
        from deploy.networks.first_weights import write_first_weights

        write_first_weights(config, folder)
    if config.run.checkpoints_to:
        claim_place(folder, config, new=True)
    if config.replay.urls:
        claim_new(config, folder)


def prepare_resumed(config: Config, folder: RunFolder, identity: Identity) -> None:
    """Claim what a run that resumes uses; raise ConfigError, or RunBusy when it was resumed elsewhere."""
    if config.run.checkpoints_to and (warning := claim_place(folder, config, new=False)):
        print(f"WARNING: {warning}", flush=True)
    if config.replay.urls:
        claim_resumed(config, folder, identity)
