"""Prometheus itself: its rules against their cases, and the board against a real Ray that exports a run."""

import json
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.fleet.reporting.ray_metrics import EXPORTED, Exported
from tests.helpers.cluster.machine import Machine
from tests.helpers.cluster.network import Network, networks
from tests.helpers.clusters.debian import programs
from tests.helpers.clusters.manifests import (
    MONITORING,
    board_expressions,
    documents,
    metric_names,
    rule_expressions,
)
from tests.helpers.deadline import patient, until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(patient(1200))]

PORT = 8080
# A supervisor's reports: every number a run exports, over and over; counters grow.
REPORT = """
import sys, time
import ray
from deploy.fleet.reporting.ray_metrics import EXPORTED, RayMetrics

ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)

@ray.remote(num_cpus=0)
class Reporter:
    def run(self):
        metrics = RayMetrics("mspacman", "MsPacman")
        for count in range(1, 100_000):
            metrics.export({one.metric: float(count) for one in EXPORTED})
            time.sleep(0.5)

reporter = Reporter.remote()
waiting = ray.util.placement_group([{"GPU": 1}])
print("reporting", flush=True)
ray.get(reporter.run.remote())
"""
ASK = """
import sys, urllib.request
for url in sys.argv[1:]:
    print(urllib.request.urlopen(url, timeout=60).read().decode().strip())
"""
NEEDS_A_GPU = {"ray_node_gpus_utilization"}
PENDING = 'ray_placement_groups{State=~"PENDING|RESCHEDULING"}'


def promtool(*words: str) -> None:
    programs("promtool", packages="prometheus")
    done = subprocess.run(["promtool", *words], capture_output=True, text=True, cwd=MONITORING, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", "prometheus.yml")


def test_each_alert_is_raised_when_it_should_be_and_not_otherwise() -> None:
    promtool("test", "rules", "rules.test.yml")


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        ("sum by (run, game) (rate(ray_apexpert_updates_total[10m])) > 0", "vector(0) > 0"),
        ("0.9 * max", "1.0 * max"),
        ("PENDING|RESCHEDULING", "RESCHEDULING"),
        ("for: 2m", "for: 0m"),
        ("min by (run, game) (min_over", "min by (run, game, WorkerId) (min_over"),
        ("> 3600", "> 4200"),
    ],
)
def test_the_cases_see_a_wrong_rule(rule: str, wrong: str, tmp_path: Path) -> None:
    programs("promtool", packages="prometheus")
    text = (MONITORING / "rules.yml").read_text()
    assert text.count(rule) == 1
    (tmp_path / "rules.yml").write_text(text.replace(rule, wrong))
    shutil.copy(MONITORING / "rules.test.yml", tmp_path)
    done = subprocess.run(["promtool", "test", "rules", "rules.test.yml"], cwd=tmp_path, check=False)
    assert done.returncode != 0


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Scraped"]:
    """A Prometheus that reads a Ray on which a run's numbers are reported."""
    programs("prometheus")
    with networks() as network:
        yield from _scraped(network, tmp_path_factory.mktemp("prometheus"))


class Scraped:
    """A Prometheus at work on a machine."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    def asked(self, *paths: str) -> list[dict[str, Any]]:
        """The answers of its interface."""
        urls = [f"http://{self._machine.address}:9090/api/v1/{path}" for path in paths]
        answers = [json.loads(line) for line in self._machine.python(ASK, *urls).splitlines()]
        assert all(answer["status"] == "success" for answer in answers), answers
        return [answer["data"] for answer in answers]

    def without_answer(self, *expressions: str) -> set[str]:
        """Those of the expressions that have no series now."""
        answers = self.asked(*(f"query?query={urllib.parse.quote(each)}" for each in expressions))
        return {each for each, answer in zip(expressions, answers, strict=True) if not answer["result"]}


def _scraped(network: Network, folder: Path) -> Iterator[Scraped]:
    machine = network.machine()
    address = machine.start_ray(head=True, num_cpus=1, flags=(f"--metrics-export-port={PORT}",))
    (config,) = documents(MONITORING / "prometheus.yml")
    (job,) = config["scrape_configs"]
    # The same file without Ray's list of nodes, which the dashboard writes.
    job |= {"static_configs": [{"targets": [f"{machine.address}:{PORT}"]}], "file_sd_configs": []}
    config["global"]["scrape_interval"] = "2s"
    configuration = network.shared / "prometheus.yml"
    configuration.write_text(yaml.safe_dump(config))
    shutil.copy(MONITORING / "rules.yml", network.shared)
    flags = [f"--config.file={configuration}", f"--storage.tsdb.path={machine.disk}/tsdb"]
    with (
        machine.popen(sys.executable, "-c", REPORT, address) as reporter,
        machine.popen("prometheus", *flags, f"--web.listen-address={machine.address}:9090") as server,
    ):
        reporter.prints("reporting")
        server.prints("Server is ready")
        scraped = Scraped(machine)
        last = "count_over_time(ray_apexpert_updates_total[5m]) > 5", "ray_node_cpu_utilization", PENDING
        until(lambda: not scraped.without_answer(*last), "rates, and what Ray collects rarely", 240, pause=1)
        yield scraped


def test_every_number_that_a_run_exports_is_scraped_with_its_tags(scraped: Scraped) -> None:
    assert scraped.without_answer(*map(series, EXPORTED)) == set()


def series(one: Exported) -> str:
    tags = {"run": "mspacman", "game": "MsPacman"} | dict(one.tags)
    return f"{one.scraped}{{{','.join(f'{name}={value!r}' for name, value in tags.items())}}}"


def test_every_expression_of_the_board_has_an_answer(scraped: Scraped) -> None:
    without = scraped.without_answer(*board_expressions())
    assert set().union(*map(metric_names, without)) == NEEDS_A_GPU


def test_the_rules_are_loaded_and_look_at_metrics_that_are_there(scraped: Scraped) -> None:
    (answer,) = scraped.asked("rules")
    rules = [rule for group in answer["groups"] for rule in group["rules"]]
    assert len(rules) == len(rule_expressions())
    assert [rule for rule in rules if rule["health"] == "err"] == []
    assert scraped.without_answer(*set().union(*map(metric_names, rule_expressions()))) == set()
