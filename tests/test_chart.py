"""The chart renders with real Helm, and what it renders is valid Kubernetes of the oldest, a middle and the newest version."""

import json
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from loadtests.schedule import NOTES_SPEC, SPEC
from node.settings import NodeSettings
from parallax.replication.spec import ARROW_TYPES
from parallax.settings import CommonSettings
from parallax.tables_file import parse_tables
from parallax.version import VERSION
from tests.chart import AT, CHART, COLUMN_TYPES, KINDS, OWNED, contents, schema, settable
from tests.custom_kinds import CUSTOM_KINDS
from tests.helm import Refused, helms, lint, notes, render
from tests.random_values import random_values

CI = sorted((CHART / "ci").glob("*-values.yaml"))
VERSIONS = ["1.30", "1.33", "1.37"]
ROOT = CHART.parent
METRIC = re.compile(r"parallax_(?:node|coordinator)_\w+")


def check(objects: list[dict[str, Any]], versions: list[str]) -> None:
    """Validate every object strictly: no kind is skipped, no field unknown; and no two of a kind have one name."""
    names = [(made["kind"], made["metadata"]["name"]) for made in objects]
    assert len(set(names)) == len(names)
    for made in objects:
        assert len(made["metadata"]["name"]) <= 63
        custom = CUSTOM_KINDS.get(f"{made['apiVersion']}/{made['kind']}")
        if custom is not None:
            jsonschema.validate(made, custom)
            continue
        for version in versions:
            kubernetes_validate.validate(made, version, strict=True)


def only(objects: list[dict[str, Any]], kind: str, ending: str = "") -> dict[str, Any]:
    """Return the one object of a kind whose name ends so."""
    (found,) = [made for made in objects if made["kind"] == kind and made["metadata"]["name"].endswith(ending)]
    return found


def environment(workload: dict[str, Any]) -> dict[str, Any]:
    """Return the variables of a workload's first container; no name stands there twice."""
    listed = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    assert len({entry["name"] for entry in listed}) == len(listed)
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in listed}


@pytest.mark.parametrize("values", CI, ids=lambda path: path.stem)
def test_every_example_renders_valid_objects_with_either_helm(values: Path) -> None:
    made = {}
    for version, helm in helms().items():
        lint(helm, values.read_text())
        made[version] = render(helm, values.read_text())
        for one in made[version]:
            if one["kind"] == "Secret" and one["metadata"]["name"].endswith("-valkey"):
                one["stringData"] = dict.fromkeys(one["stringData"], "made at random")
    assert made["3"] == made["4"]
    assert {"Deployment", "Service", "ConfigMap"} <= {one["kind"] for one in made["4"]}
    check(made["4"], VERSIONS)


def test_an_invalid_object_and_an_unknown_kind_are_found() -> None:
    service = only(render(helms()["4"], "{}"), "Service", "-valkey")
    check([service], ["1.37"])
    with pytest.raises(kubernetes_validate.ValidationError):
        check([service | {"spec": service["spec"] | {"unknown": 1}}], ["1.37"])
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check([service | {"apiVersion": "example.org/v1", "kind": "Thing"}], ["1.37"])


def test_what_is_written_in_several_places_agrees() -> None:
    """To mend it: python -m tests.chart."""
    for path, text in contents().items():
        assert path.read_text() == text, path.name
    assert (CHART / "files" / "demo-tables.yaml").read_text() == (ROOT / "parallax" / "demo" / "tables.yaml").read_text()
    assert parse_tables((CHART / "files" / "load-tables.yaml").read_bytes(), "load-tables.yaml") == [SPEC, NOTES_SPEC]
    assert set(COLUMN_TYPES.split()) == set(ARROW_TYPES)
    assert yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"] == VERSION


def test_every_setting_of_the_programs_can_be_set() -> None:
    """One by one, with a value that is not the default: it arrives as that value, in the service that has it."""
    everything = {path: {field.name: _other(field) for field in settable(kind)} for path, kind in AT.items()}
    values: dict[str, Any] = {"settings": everything["settings"]}
    for path in ("node", "coordinator"):
        values[path] = {"settings": everything[f"{path}.settings"]}
    objects = render(helms()["4"], yaml.safe_dump(values))
    for service, kind in (("node", "NodeSettings"), ("coordinator", "CoordinatorSettings")):
        found = environment(only(objects, "Deployment", f"-{service}"))
        for name, value in (everything["settings"] | everything[f"{service}.settings"]).items():
            assert type(value)(_read(found[f"PARALLAX_{name.upper()}"], value)) == value, name
        declared = {field.name for field in settable(kind)} | {field.name for field in settable("CommonSettings")}
        rest = {name for name in KINDS[kind].__dataclass_fields__ if name not in declared}
        assert rest - set(OWNED) == {name for name in rest if name.startswith(("redis_", "auth_"))} - set(OWNED)


def _other(field: Any) -> Any:
    if isinstance(field.default, bool):
        return not field.default
    if isinstance(field.default, str):
        return {"log_level": "debug", "log_format": "json"}.get(field.name, "other")
    high = field.metadata["high"]
    return field.default + 1 if high is None or field.default + 1 <= high else field.default - 1


def _read(text: str, like: Any) -> Any:
    return text == "true" if isinstance(like, bool) else text


def test_redis_is_where_the_values_say() -> None:
    """Each setting of Redis and of tokens has a value, and comes from a Secret if it is one."""
    values = """
valkey: {enabled: false}
externalRedis:
  url: rediss+sentinel://a:26379/s/0
  username: u
  password: p
  sentinelUsername: su
  sentinelPassword: sp
  tls: {existingSecret: certificates, certKey: tls.crt, keyKey: tls.key}
auth: {algorithms: [HS256, ES256], secret: 0123456789abcdef0123456789abcdef, jwks: /etc/parallax/jwks/k, jwksConfigMap: k,
       audience: a, issuer: i, cookie: c, defaultRead: [r], defaultWrite: [w]}
"""
    objects = render(helms()["4"], values)
    secret = only(objects, "Secret", "-redis")["stringData"]
    found = environment(only(objects, "Deployment", "-node"))
    for name, expected in {"URL": "rediss+sentinel://a:26379/s/0", "USERNAME": "u", "PASSWORD": "p"}.items():
        assert secret[found[f"PARALLAX_REDIS_{name}"]["secretKeyRef"]["key"]] == expected
    for name, expected in {"SENTINEL_USERNAME": "su", "SENTINEL_PASSWORD": "sp"}.items():
        assert secret[found[f"PARALLAX_REDIS_{name}"]["secretKeyRef"]["key"]] == expected
    assert found["PARALLAX_REDIS_KEY_FILE"] == "/etc/parallax/redis-tls/tls.key"
    assert found["PARALLAX_REDIS_CA_FILE"] == "/etc/parallax/redis-tls/ca.crt"
    owned = {
        f"PARALLAX_{name.upper()}" for name in NodeSettings.__dataclass_fields__ if name.startswith(("redis_", "auth_"))
    }
    assert owned <= set(found)
    assert owned & set(environment(only(objects, "Deployment", "-coordinator"))) == {
        f"PARALLAX_{name.upper()}" for name in CommonSettings.__dataclass_fields__ if name.startswith("redis_")
    }


def test_the_tables_are_those_that_a_coordinator_reads() -> None:
    production = (CHART / "ci" / "production-values.yaml").read_text()
    data = only(render(helms()["4"], production), "ConfigMap", "-tables")["data"]["tables.yaml"]
    assert [spec.name for spec in parse_tables(data.encode(), "values")] == ["flights", "orders"]
    data = only(render(helms()["4"], "demo: {enabled: true}"), "ConfigMap", "-tables")["data"]["tables.yaml"]
    assert {spec.name for spec in parse_tables(data.encode(), "values")} == {"flights", "events"}


def test_an_autoscaler_owns_the_number_of_nodes() -> None:
    for name in ("hpa", "keda"):
        values = {
            "autoscaling": {
                name: {"enabled": True, "prometheusAddress": "http://p"} if name == "keda" else {"enabled": True}
            }
        }
        node = only(render(helms()["4"], yaml.safe_dump(values)), "Deployment", "-node")
        assert "replicas" not in node["spec"]


@pytest.mark.parametrize("drain", [0, 10, 45.5])
def test_a_pod_has_time_to_leave(drain: float) -> None:
    values = {"node": {"preStopSeconds": 7, "settings": {"drain_seconds": drain}}}
    spec = only(render(helms()["4"], yaml.safe_dump(values)), "Deployment", "-node")["spec"]["template"]["spec"]
    assert spec["containers"][0]["lifecycle"]["preStop"] == {"sleep": {"seconds": 7}}
    assert 7 + drain + 15 <= spec["terminationGracePeriodSeconds"] <= 7 + drain + 30


def test_pods_keep_the_restricted_standard() -> None:
    objects = render(helms()["4"], "demo: {enabled: true}")
    pods = [made["spec"]["template"]["spec"] for made in objects if made["kind"] in ("Deployment", "StatefulSet")]
    pods += [made["spec"] for made in objects if made["kind"] == "Pod"]
    assert len(pods) == 5
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"cpu", "memory"} == set(container["resources"]["requests"])


def test_the_checksums_change_what_they_should() -> None:
    def annotations(values: str, ending: str) -> dict[str, str]:
        made = only(render(helms()["4"], values), "Deployment", ending)
        return made["spec"]["template"]["metadata"]["annotations"]

    table = "tables: {t: {schema: {n: integer}, limit: 5}}"
    assert annotations("{}", "-coordinator") == annotations("{}", "-coordinator")  # though the password is random
    assert annotations("{}", "-coordinator") != annotations(table, "-coordinator")
    assert annotations("{}", "-node") == annotations(table, "-node")
    assert annotations("{}", "-node") != annotations("valkey: {auth: {password: other}}", "-node")


def test_alerts_and_dashboard_use_metrics_that_there_are() -> None:
    documented = dict(
        re.findall(
            r"^\| `(parallax_(?:node|coordinator)_\w+)` \| (\w+) \|", (ROOT / "docs" / "operations.md").read_text(), re.M
        )
    )
    endings = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
    exposed = {name + ending for name, kind in documented.items() for ending in endings[kind]}
    objects = render(helms()["4"], (CHART / "ci" / "production-values.yaml").read_text())
    board = json.loads(only(objects, "ConfigMap", "-dashboard")["data"]["parallax.json"])
    queries = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    used_there = {name for query in queries for name in METRIC.findall(query)}
    rules = only(objects, "PrometheusRule")["spec"]["groups"][0]["rules"]
    used = used_there | {name for rule in rules for name in METRIC.findall(rule["expr"])}
    assert used <= exposed
    assert {re.sub("_(total|bucket|sum|count)$", "", name) for name in used_there} == set(documented)
    assert all(
        "{{ $labels" not in rule["annotations"]["summary"] or "by (table)" in rule["expr"] or "pod" in rule["expr"]
        for rule in rules
    )


@pytest.mark.parametrize(("kind", "workload_kind"), [("serviceMonitor", "Service"), ("podMonitor", "Deployment")])
def test_nodes_and_coordinators_are_scraped_each_once(kind: str, workload_kind: str) -> None:
    objects = render(helms()["4"], f"metrics: {{{kind}: {{enabled: true}}}}")
    monitor = only(objects, kind[0].upper() + kind[1:])["spec"]
    (endpoint,) = monitor.get("endpoints") or monitor["podMetricsEndpoints"]
    (wanted,) = monitor["selector"]["matchExpressions"]
    found = []
    for made in objects:
        if made["kind"] != workload_kind:
            continue
        metadata = made["metadata"] if workload_kind == "Service" else made["spec"]["template"]["metadata"]
        labels = metadata["labels"]
        if monitor["selector"]["matchLabels"].items() <= labels.items() and labels[wanted["key"]] in wanted["values"]:
            spec = made["spec"]
            ports = spec["ports"] if workload_kind == "Service" else spec["template"]["spec"]["containers"][0]["ports"]
            found += [port.get("port", port.get("containerPort")) for port in ports if port["name"] == endpoint["port"]]
            selector = spec["selector"] if workload_kind == "Service" else spec["selector"]["matchLabels"]
            found.append(selector["app.kubernetes.io/component"])
    assert sorted(map(str, found)) == ["8081", "8091", "coordinator", "node"]


@pytest.mark.parametrize("values", ["nameOverride: 'no'", "fullnameOverride: 'off'\nnameOverride: 'yes'"])
def test_names_that_yaml_takes_for_something_else(values: str) -> None:
    more = "ingress: {enabled: true, hosts: [a.b]}\nmetrics: {podMonitor: {enabled: true}, prometheusRule: {enabled: true}}"
    check(render(helms()["4"], f"{values}\n{more}"), ["1.37"])


@pytest.mark.parametrize("values", ["demo: {enabled: true}", *(path.read_text() for path in CI)])
def test_the_notes_name_what_there_is(values: str) -> None:
    """The pods and Services in them exist, and the row to publish fits its table."""
    said, objects = notes(helms()["4"], values), render(helms()["4"], values, namespace="default")
    names = {(made["kind"].lower(), made["metadata"]["name"]) for made in objects}
    assert set(re.findall(r"(deployment|service)/([\w-]+)", said)) <= names
    data = yaml.safe_load(only(objects, "ConfigMap", "-tables")["data"]["tables.yaml"])["tables"]
    published = re.search(r'"parallax:{(\w+)}:in" "\*" format json data\' <<< \'(.*)\'', said)
    assert bool(published) == bool(data and any(kind == "statefulset" for kind, _ in names))
    if published:
        (row,) = json.loads(published.group(2))
        assert row
        assert set(row) <= set(data[published.group(1)]["schema"])
        assert re.search(r"exec -i (\S+)-0 ", said).group(1) in {name for kind, name in names if kind == "statefulset"}


def test_names_that_look_like_numbers_stay_texts() -> None:
    """Of a release, an account, a Secret and its key."""
    values = "{serviceAccount: {name: '8'}, valkey: {auth: {existingSecret: '1e3', passwordKey: '7'}}}"
    check(render(helms()["4"], values, release="42"), ["1.33"])


REFUSED = {
    "node: {extraEnv: [{name: A, value: b}, {name: A, value: c}]}": "node.extraEnv has A twice",
    "coordinator: {extraEnv: [{name: PARALLAX_BIND, value: b}]}": "write it below coordinator.settings",
    "valkey: {enabled: false}": "there is no Redis",
    "externalRedis: {url: 'redis://a'}": "set valkey.enabled=false",
    "autoscaling: {hpa: {enabled: true}, keda: {enabled: true, prometheusAddress: 'http://p'}}": "both enabled",
    "autoscaling: {hpa: {enabled: true, minReplicas: 9, maxReplicas: 3}}": "minReplicas is above maxReplicas",
    "metrics: {serviceMonitor: {enabled: true}, podMonitor: {enabled: true}}": "counted twice",
    "auth: {secret: 0123456789abcdef0123456789abcdef}": "nobody would need a token",
    "auth: {algorithms: [HS256], audience: a, issuer: i}": "set auth.existingSecret.name or auth.secret",
    "auth: {algorithms: [RS256], audience: a, issuer: i}": "set auth.jwks",
    "auth: {algorithms: [none]}": "algorithms",
    "demo: {enabled: true}\ntables: {flights: {schema: {n: integer}, limit: 5}}": "rename tables.flights",
    "httpRoute: {enabled: true}": "needs httpRoute.parentRefs",
    "ingress: {enabled: true}": "needs ingress.hosts",
    "nodes: {replicas: 3}": "nodes",
    "node: {settings: {frame_msec: 3}}": "frame_msec",
    "node: {settings: {frame_ms: 0}}": "frame_ms",
    "node: {replicas: three}": "replicas",
    "tables: {t: {schema: {n: int}}}": "schema",
    "externalRedis: {url: 'http://a'}": "url",
}


@pytest.mark.parametrize("values", REFUSED)
def test_what_does_not_fit_is_refused_readably(values: str) -> None:
    with pytest.raises(Refused, match=re.escape(REFUSED[values])) as refused:
        render(helms()["4"], values)
    assert len(str(refused.value)) < 700


def test_random_values_render_valid_objects() -> None:
    _render_random(6, ["1.33"])


@pytest.mark.deep
@pytest.mark.timeout(3600)
def test_many_random_values_render_valid_objects() -> None:
    _render_random(300, VERSIONS)


def _render_random(examples: int, versions: list[str]) -> None:
    """What the schema allows either renders valid objects, or is refused in a sentence of the chart's own; not all of it is."""
    rendered = 0

    @settings(max_examples=examples, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(random_values(schema()))
    def try_one(values: dict[str, Any]) -> None:
        nonlocal rendered
        try:
            objects = render(helms()["4"], json.dumps(values))
        except Refused as refused:
            if not refused.is_our_own:
                raise
            return
        rendered += 1
        check(objects, versions)
        for made in objects:
            if made["kind"] == "Deployment":
                environment(made)

    try_one()
    assert rendered >= examples // 10


@settings(max_examples=10, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(schema()["properties"])), st.sampled_from([-1, 1.5, [[]], "a,b c"]))
def test_random_invalid_values_are_refused_by_name(name: str, value: Any) -> None:
    part = schema()["properties"][name]
    if jsonschema.Draft7Validator(part).is_valid(value):
        return
    with pytest.raises(Refused, match=name):
        render(helms()["4"], json.dumps({name: value}))


@pytest.mark.skipif(
    sys.platform == "linux" and platform.machine() != "x86_64", reason="there is no hadolint for this machine"
)
def test_the_dockerfile_is_spotless() -> None:
    done = subprocess.run(
        [shutil.which("hadolint") or Path(sys.executable).with_name("hadolint"), ROOT / "Dockerfile"],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_takes_from_the_lock_file_what_the_services_need(tmp_path: Path) -> None:
    """And all of it is there; what only tests need is not."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"install": [{"metadata": {"name": name}} for name in ("PyYAML", "perspective_python")]}))
    done = subprocess.run([sys.executable, ROOT / ".ci" / "image-lock", report], capture_output=True, text=True)
    assert re.findall(r"^([\w-]+)==\S+", done.stdout, re.MULTILINE) == ["perspective-python", "pyyaml"]
    assert done.stdout.count("--hash=sha256:") > 10
    report.write_text(json.dumps({"install": [{"metadata": {"name": "absent"}}]}))
    done = subprocess.run([sys.executable, ROOT / ".ci" / "image-lock", report], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "requirements.lock lacks absent\n")
