"""Board and alerts read what a run exports, in expressions that Prometheus understands."""

import json

import promql_parser
import pytest

from deploy.fleet.reporting.ray_metrics import EXPORTED, PREFIX
from tests.helpers.clusters.manifests import (
    BOARD,
    MONITORING,
    board_expressions,
    documents,
    metric_names,
    rule_expressions,
)

OF_RUNS = f"ray_{PREFIX}"
NAMES = {one.scraped for one in EXPORTED}
ALERTS = {"Stalled", "ActorsMissing", "LearnerPending", "ShardParked", "ReplayLost", "CheckpointOld"}


@pytest.mark.parametrize("expression", [*board_expressions(), *rule_expressions()])
def test_every_expression_parses_and_reads_metrics_that_a_run_exports(expression: str) -> None:
    promql_parser.parse(expression)
    names = metric_names(expression)
    assert names
    assert {name for name in names if name.startswith(OF_RUNS)} <= NAMES


def test_the_board_shows_everything_that_a_run_exports_in_five_rows() -> None:
    assert set().union(*map(metric_names, board_expressions())) >= NAMES
    board = json.loads(BOARD.read_text())
    rows = [panel["title"] for panel in board["panels"] if panel["type"] == "row"]
    assert rows == ["Progress", "Fleet", "Replay", "Learner", "Ray"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, f"{panel['title']} lies on another"
        taken |= cells


def test_every_alert_has_a_case_in_which_it_is_raised_and_one_in_which_it_is_not() -> None:
    (rules,) = documents(MONITORING / "rules.yml")
    (cases,) = documents(MONITORING / "rules.test.yml")
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert alerts == {f"Apexpert{name}" for name in ALERTS}
    looks = [look for case in cases["tests"] for look in case["alert_rule_test"]]
    assert {look["alertname"] for look in looks if look.get("exp_alerts")} == alerts
    assert {look["alertname"] for look in looks if not look.get("exp_alerts")} == alerts
