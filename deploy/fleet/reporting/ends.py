"""Ends of a run before its last env step: a limit of hours, or a return that is good enough."""

from deploy.run.config import Config

SECONDS_AN_HOUR = 3600.0


def end_reached(config: Config, seconds: float, greedy_return: float | None) -> str:
    """Return which end is reached, by its flag, or an empty string.

    `seconds` is the time of all legs; `greedy_return` the mean return of the last 100 nearly greedy episodes,
    None while there are fewer.
    """
    hours, wanted = config.run.max_hours, config.run.until_return
    # 0 is no limit of hours; without one, the return to reach is beyond every game (1e15).
    if hours and seconds >= hours * SECONDS_AN_HOUR:
        return f"--max-hours {hours:g} is reached"
    if greedy_return is not None and greedy_return >= wanted:
        had = f"{greedy_return:.2f} in the last 100 nearly greedy episodes"
        return f"--until-return {wanted:g} is reached: {had}"
    return ""
