"""Prometheus itself says of the chart's alerts when they go off, and reads every query of its dashboard."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart import CHART
from tests.helm import helms, render
from tests.test_chart import only

pytestmark = pytest.mark.deep

MINUTES = 40
WHERE = 'namespace="viewers",pod="parallax-{}-1"'
NODE, COORDINATOR = WHERE.format("node"), WHERE.format("coordinator")
HEALTHY = {
    f"parallax_node_sessions{{{NODE}}}": "10+0x",
    f"parallax_node_full_refusals_total{{{NODE}}}": "3+0x",
    f'parallax_node_verdicts_total{{{NODE},table="t",verdict="tie"}}': "0+0x",
    f'parallax_node_verdicts_total{{{NODE},table="t",verdict="minority"}}': "0+0x",
    f'parallax_node_verdicts_total{{{NODE},table="t",verdict="equal"}}': "0+1x",
    f"parallax_node_quarantined{{{NODE}}}": "0+0x",
    f"parallax_coordinator_leader{{{COORDINATOR}}}": "1+0x",
    f'parallax_coordinator_backlog_seconds{{{COORDINATOR},table="t"}}': "0.01+0x",
    f'parallax_node_silence_seconds{{{NODE},table="t"}}': "1+0x",
    f'parallax_node_lag_seconds{{{NODE},table="t"}}': "0.1+0x",
    f'parallax_node_stage_seconds_bucket{{{NODE},table="t",stage="received",le="0.1"}}': "0+10x",
    f'parallax_node_stage_seconds_bucket{{{NODE},table="t",stage="received",le="5.0"}}': "0+10x",
    f'parallax_node_stage_seconds_bucket{{{NODE},table="t",stage="received",le="+Inf"}}': "0+10x",
    f'parallax_coordinator_lost_total{{{COORDINATOR},table="t"}}': "0+0x",
    f"parallax_node_event_loop_busy_seconds_total{{{NODE}}}": "0+5x",
    f"parallax_node_slow_closes_total{{{NODE}}}": "0+0x",
}
"""Samples of a fleet that is well, one every 15 s."""


@dataclass(frozen=True)
class Trouble:
    """What samples say while an alert is due, and the labels that it then has besides its severity."""

    series: dict[str, str | None]
    """Instead of those of a healthy fleet; None: there is no such series."""
    labels: dict[str, str] = field(default_factory=dict)


TABLE, POD = {"table": "t"}, {"pod": "parallax-node-1"}
TROUBLES = {
    "ParallaxDown": Trouble({"parallax_node_sessions": None}, {"namespace": "viewers"}),
    "ParallaxFull": Trouble({"parallax_node_full_refusals_total": "0+1x"}),
    "ParallaxReplicasDiffer": Trouble({'verdict="tie"': "0+0x60 1+0x"}, TABLE),
    "ParallaxReplicaWasWrong": Trouble({'verdict="minority"': "0+0x60 1+0x"}, TABLE),
    "ParallaxQuarantine": Trouble({"parallax_node_quarantined": "1+0x"}),
    "ParallaxNoLeader": Trouble({"parallax_coordinator_leader": "0+0x"}),
    "ParallaxBacklog": Trouble({"parallax_coordinator_backlog_seconds": "0+15x"}, TABLE),
    "ParallaxStale": Trouble({"parallax_node_silence_seconds": "0+15x"}, TABLE | POD),
    "ParallaxBehind": Trouble({"parallax_node_lag_seconds": "0+1x"}, TABLE | POD),
    "ParallaxSlowUpdates": Trouble({'le="0.1"': "0+0x"}, TABLE | {"stage": "received"}),
    "ParallaxLostRecords": Trouble({"parallax_coordinator_lost_total": "0+0x60 5+0x"}, TABLE),
    "ParallaxBusy": Trouble({"parallax_node_event_loop_busy_seconds_total": "0+14x"}, {"namespace": "viewers"} | POD),
    "ParallaxSlowViewers": Trouble({"parallax_node_slow_closes_total": "0+3x"}),
}


@pytest.fixture(scope="module")
def promtool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of Prometheus's tool; where there is none, it comes out of Debian's package, which is not installed."""
    if (found := shutil.which("promtool")) is not None:
        return Path(found)
    if shutil.which("apt-get") is None:
        pytest.skip("there is no promtool here, and no Debian to take it from")
    directory = tmp_path_factory.mktemp("prometheus")
    fetch = ["apt-get", "-o", "APT::Sandbox::User=root", "download", "prometheus"]
    if subprocess.run(fetch, cwd=directory, capture_output=True).returncode:
        subprocess.run(["apt-get", "update"], check=True, capture_output=True)
        subprocess.run(fetch, cwd=directory, check=True, capture_output=True)
    (package,) = directory.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", package, directory], check=True)
    return directory / "usr" / "bin" / "promtool"


@pytest.fixture(scope="module")
def objects() -> list[dict[str, Any]]:
    """Return what the chart renders with all of its monitoring."""
    return render(helms()["4"], (CHART / "ci" / "production-values.yaml").read_text())


@pytest.fixture(scope="module")
def rules(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the alerts."""
    found: list[dict[str, Any]] = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    return found


def told(promtool: Path, *argv: str | Path) -> str:
    """Return what promtool says, which must be content."""
    done = subprocess.run([promtool, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def expected(rule: dict[str, Any], labels: dict[str, str]) -> dict[str, Any]:
    """Return an alert that goes off, as promtool wants to hear of it: with its texts filled in."""
    texts = {
        name: re.sub(r"{{ \$labels\.(\w+) }}", lambda found: labels[found[1]], text)
        for name, text in rule["annotations"].items()
    }
    return {"exp_labels": rule["labels"] | labels, "exp_annotations": texts}


def test_every_alert_goes_off_when_it_should_and_no_other_one(
    promtool: Path, rules: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert [rule["alert"] for rule in rules] == list(TROUBLES)
    count = MINUTES * 4
    by_name = {rule["alert"]: rule for rule in rules}
    cases = []
    for name, trouble in {"": Trouble({}), **TROUBLES}.items():
        series = dict(HEALTHY)
        for part, values in trouble.series.items():
            (key,) = [one for one in series if part in one]
            series[key] = values or "_x"
        due = {name: [expected(by_name[name], trouble.labels)]} if name else {}
        cases.append(
            {
                "name": name or "a fleet that is well",
                "interval": "15s",
                "input_series": [{"series": key, "values": f"{values}{count}"} for key, values in series.items()],
                "alert_rule_test": [
                    {"eval_time": "20m", "alertname": alert, "exp_alerts": due.get(alert, [])} for alert in TROUBLES
                ],
            }
        )
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "parallax", "rules": rules}]}))
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": cases}))
    told(promtool, "test", "rules", tmp_path / "tests.yaml")


def test_prometheus_reads_the_alerts_and_every_query_of_the_dashboard(
    promtool: Path, rules: list[dict[str, Any]], objects: list[dict[str, Any]], tmp_path: Path
) -> None:
    board = json.loads(only(objects, "ConfigMap", "-dashboard")["data"]["parallax.json"])
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    recorded = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    groups = [{"name": "alerts", "rules": rules}, {"name": "dashboard", "rules": recorded}]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    assert f"SUCCESS: {len(rules) + len(queries)} rules found" in told(promtool, "check", "rules", tmp_path / "rules.yaml")
