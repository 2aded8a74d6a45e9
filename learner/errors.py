"""Everything that the learner raises.

LearnerError            the run cannot continue as it is; the message says what to do or where to look
  CheckpointError       a checkpoint is broken or belongs to another network
  CheckpointNotWritten  a run's last checkpoint could not be written; the earlier ones are intact
"""

from apexpert.errors import ApexpertError


class LearnerError(ApexpertError):
    """Root of every error that the learner raises."""


class CheckpointError(LearnerError):
    """A checkpoint is broken (missing, truncated or changed files) or belongs to another network."""


class CheckpointNotWritten(LearnerError):
    """The last checkpoint could not be written, as on a disk that stays full; the earlier ones are intact."""
