"""A limiter of round numbers."""

from replay.owner.limiter import Limiter

SEGMENT = 8
"""Items of each segment that asks for leave."""


def limiter(
    min_size: int = 100,
    samples_per_insert: float = 8.0,
    batch_size: int = 32,
    error_buffer: float = 200.0,
    total_env_steps: int | None = None,
) -> Limiter:
    return Limiter(
        min_size=min_size,
        samples_per_insert=samples_per_insert,
        batch_size=batch_size,
        error_buffer=error_buffer,
        total_env_steps=total_env_steps,
    )
