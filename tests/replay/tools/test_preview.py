"""Transitions drawn without a sampler are the ones that the brute force makes, in proportion to priority."""

from collections import Counter

import numpy as np
import pytest

from replay.tools.inventory import take_inventory
from replay.tools.preview import draw_transitions, item_masses
from tests.helpers.replay.samplers import new_run
from tests.helpers.replay.stored_runs import filled, stored_shards
from tests.helpers.shards.commands import unlink
from tests.helpers.shards.servers import shared_urls


@pytest.fixture(scope="module")
def urls() -> list[str]:
    return shared_urls()[:2]


def test_they_are_what_was_played(urls: list[str]) -> None:
    run = filled(urls)
    inventory = take_inventory(stored_shards(run))
    masses = item_masses(inventory, {}, newest=2.5)
    drawn = draw_transitions(
        stored_shards(run), inventory, masses, run.config, run=run.name, stack=4, count=300, seed=1
    )
    assert len(drawn) == 300
    for transition in drawn:
        items = {item.step: item for item in run.items[transition.identity]}
        item = items[transition.step]
        assert np.array_equal(transition.observation, item.observation)
        assert np.array_equal(transition.next_observation, item.next_observation)
        assert (transition.action, transition.steps) == (item.action, item.num_window_steps)
        assert transition.reward == item.reward
        assert transition.discount == item.discount
        assert transition.mass == 2.5
        assert transition.probability == pytest.approx(1 / inventory.items)


def test_in_proportion_to_priority(urls: list[str]) -> None:
    run = filled(urls)
    inventory = take_inventory(stored_shards(run))
    chosen, damaged = list(run.segments)[3], next(iter(run.segments))
    count = run.segments[chosen].num_items
    known = {
        chosen: np.full(count, inventory.items / count),
        damaged: np.full(run.segments[damaged].num_items, np.nan),
    }
    masses = item_masses(inventory, known)
    drawn = draw_transitions(
        stored_shards(run), inventory, masses, run.config, run=run.name, stack=4, count=400, seed=1
    )
    found = Counter(transition.identity for transition in drawn)
    assert found[chosen] == pytest.approx(400 * inventory.items / masses.sum(), abs=2)
    assert found[damaged] == 0


def test_gone_segments_are_left_out_and_nothing_is_an_error(urls: list[str]) -> None:
    run = filled(urls)
    shards, inventory = stored_shards(run), take_inventory(stored_shards(run))
    unlink(run.shards[0], [identity for identity, shard in run.shard_of.items() if shard == 0])
    masses = item_masses(inventory, {})
    drawn = draw_transitions(shards, inventory, masses, run.config, run=run.name, stack=4, count=50, seed=1)
    assert {run.shard_of[transition.identity] for transition in drawn} == {1}
    shards = stored_shards(new_run(urls))
    nothing = take_inventory(shards)
    with pytest.raises(ValueError, match="no items"):
        draw_transitions(shards, nothing, np.empty(0), run.config, run="x", stack=4, count=1, seed=1)
