"""Who is told to be the limit of a run, and when."""

import pytest

from deploy.fleet.elastic.bottleneck import Bottleneck
from deploy.fleet.elastic.policy import Shares

STARVED = Shares(held_back=0.0, learner_waits=0.30, env_steps_per_s=700.0, looks=1)
HELD = Shares(held_back=0.60, learner_waits=0.0, env_steps_per_s=700.0, looks=1)
EVEN = Shares(held_back=0.1, learner_waits=0.01, env_steps_per_s=700.0, looks=1)
BOTH = Shares(held_back=0.5, learner_waits=0.5, env_steps_per_s=700.0, looks=1)


def news(bottleneck: Bottleneck, shares: Shares) -> str:
    return bottleneck.news(shares, actors=4, more="buy more")


def test_what_the_actors_feed_and_could_feed():
    assert news(Bottleneck(update_period=4), STARVED) == (
        "the actors, not the learner, are the limit: 700 env steps/s of 4 feed 175.0 updates/s, and the"
        " learner waits 30 % of the time; buy more"
    )
    assert news(Bottleneck(update_period=4), HELD) == (
        "the learner, not the actors, is the limit: 4 could feed 437.5 updates/s, it makes 175.0, and they"
        " wait 60 % of the time"
    )


def test_once_per_change():
    bottleneck = Bottleneck(update_period=4)
    told = [
        news(bottleneck, shares)[:10] for shares in (EVEN, STARVED, STARVED, EVEN, BOTH, STARVED, HELD, HELD)
    ]
    assert told == ["", "the actors", "", "", "", "", "the learne", ""]
    assert news(bottleneck, STARVED)


@pytest.mark.parametrize("shares", [EVEN, BOTH])
def test_nothing_is_said_where_neither_or_both_wait(shares):
    assert news(Bottleneck(4), shares) == ""


def test_nothing_is_said_of_no_actors():
    bottleneck = Bottleneck(4)
    assert bottleneck.news(STARVED, actors=0, more="") == ""
    assert news(bottleneck, STARVED)
