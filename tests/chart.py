"""What is written of the chart's values in several places, made from one: `python -m tests.chart` rewrites all of them.

The settings in values.yaml's comments and in values.schema.json come from the programs' dataclasses, the types of other values
from values.yaml itself and from RULES, and the README from values.yaml's comments.
"""

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from coordinator.settings import CoordinatorSettings
from node.settings import NodeSettings
from parallax.settings import CommonSettings

CHART = Path(__file__).resolve().parents[1] / "helm"
KINDS: dict[str, type[CommonSettings]] = {
    kind.__name__: kind for kind in (CommonSettings, NodeSettings, CoordinatorSettings)
}
AT = {"settings": "CommonSettings", "node.settings": "NodeSettings", "coordinator.settings": "CoordinatorSettings"}

OWNED = {
    **dict.fromkeys(("port", "internal_port", "bind", "tables"), "the chart's own"),
    "node_id": "the pod's name",
    "prefix": "prefix",
    "allowed_origins": "node.allowedOrigins",
}
"""Settings that have a value of another name, besides those of Redis (externalRedis) and of tokens (auth)."""

TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECTS = {"type": "array", "items": {"type": "object"}}
NAME = {"type": "string", "maxLength": 63, "pattern": "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$"}
QUANTITY = {"type": ["string", "integer"], "pattern": "^[0-9]+([.][0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"}
AMOUNTS = {
    "type": "object",
    "additionalProperties": False,
    "properties": {name: QUANTITY for name in ("cpu", "memory", "ephemeral-storage")},
}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
PATTERNS = {"type": "array", "items": {"type": "string", "pattern": "^[^,]+$"}}
HOST = r"^([*][.])?[a-z0-9]([a-z0-9-]*[a-z0-9])?([.][a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
LABELS = {
    "type": "object",
    "propertyNames": {"pattern": r"^([a-z0-9]([a-z0-9.-]{0,60}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,60}[A-Za-z0-9])?$"},
    "additionalProperties": {"type": "string", "maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"},
}
ANNOTATIONS = {**TEXTS, "propertyNames": LABELS["propertyNames"]}
COLUMN_TYPES = "string integer float boolean date datetime int8 int16 int32 int64 uint8 uint16 uint32 uint64 float32 float64"

RULES: dict[str, dict[str, Any]] = {
    "tables": {
        "type": "object",
        "propertyNames": {"pattern": "^[A-Za-z_][A-Za-z0-9_.-]{0,99}$"},
        "additionalProperties": {
            "type": "object",
            "required": ["schema"],
            "additionalProperties": False,
            "properties": {
                "schema": {"type": "object", "minProperties": 1, "additionalProperties": {"enum": COLUMN_TYPES.split()}},
                "index": {"type": "string"},
                **{name: {"type": "integer", "minimum": 1} for name in ("limit", "max_rows", "max_bytes")},
                "writes": {"enum": ["deny", "forward"]},
            },
        },
    },
    "prefix": {"type": "string", "minLength": 1, "maxLength": 100, "pattern": "^[A-Za-z0-9_.:-]+$"},
    "loadTest.workers": {"type": "integer", "minimum": 0, "maximum": 1000},
    "loadTest.shape": {"enum": ["steady", "ladder", "spike", "soak"]},
    "loadTest.peak": {"type": "integer", "minimum": 1, "maximum": 1000000},
    "loadTest.rate": {"type": "number", "exclusiveMinimum": 0, "maximum": 10000},
    "loadTest.seconds": {"type": "integer", "minimum": 1, "maximum": 86400},
    "loadTest.extraArgs": {"type": "array", "items": {"type": "string", "pattern": "^--[a-z][a-z-]*=.+$"}},
    "loadTest.tokenSecret.name": NAME,
    "demo.speed": {"type": "number", "exclusiveMinimum": 0, "maximum": 10000},
    "*.resources": {
        "type": "object",
        "additionalProperties": False,
        "properties": {"requests": AMOUNTS, "limits": AMOUNTS},
    },
    "*.replicas": {"type": "integer", "minimum": 0, "maximum": 1000},
    "node.preStopSeconds": {"type": "integer", "minimum": 0, "maximum": 300},
    "*.podLabels": LABELS,
    "*.labels": LABELS,
    "commonLabels": LABELS,
    "*.podAnnotations": ANNOTATIONS,
    "*.annotations": ANNOTATIONS,
    "commonAnnotations": ANNOTATIONS,
    "*.nodeSelector": LABELS,
    "*.affinity": {"type": "object"},
    "*.extraEnv": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*$"},
                "value": {"type": "string"},
                "valueFrom": {"type": "object"},
            },
        },
    },
    "*.tolerations": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "key": {"type": "string"},
                "operator": {"enum": ["Equal", "Exists"]},
                "value": {"type": "string"},
                "effect": {"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
                "tolerationSeconds": {"type": "integer", "minimum": 0},
            },
        },
    },
    "node.allowedOrigins": {"type": "array", "items": {"type": "string", "pattern": "^([*]|https?://[^/,]+)$"}},
    "image.pullSecrets": {"type": "array", "items": NAME},
    "*.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "*.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "*.tag": {"type": "string", "pattern": "^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"},
    "*.repository": {"type": "string", "pattern": "^[a-z0-9]([a-z0-9/._-]*[a-z0-9])?$"},
    "valkey.auth.existingSecret": NAME,
    "externalRedis.tls.existingSecret": NAME,
    "*.existingSecret.name": NAME,
    "tests.tokenSecret.name": NAME,
    "auth.jwksConfigMap": NAME,
    "serviceAccount.name": NAME,
    "*.priorityClassName": NAME,
    "*.storageClass": NAME,
    "*.className": NAME,
    "nameOverride": {"type": "string", "pattern": "^([a-z]([a-z0-9-]*[a-z0-9])?)?$"},
    "fullnameOverride": {"type": "string", "pattern": "^([a-z]([a-z0-9-]*[a-z0-9])?)?$"},
    "valkey.auth.passwordKey": {"type": "string", "pattern": "^[A-Za-z0-9._-]+$"},
    "valkey.auth.password": {"type": "string", "pattern": "^[^\\s\"'\\\\]*$"},
    "valkey.persistence.size": {"type": "string", "pattern": QUANTITY["pattern"]},
    "valkey.maxmemory": {"type": "string", "pattern": "^([0-9]+(b|k|kb|m|mb|g|gb)?)?$"},
    "externalRedis.url": {"type": "string", "pattern": "^((rediss?([+](sentinel|cluster))?|unix)://.+)?$"},
    "auth.algorithms": {"type": "array", "uniqueItems": True, "items": {"enum": ["HS256", "RS256", "ES256"]}},
    "auth.secret": {"type": "string", "pattern": "^(.{32,})?$"},
    "auth.existingSecret.key": {"type": "string", "minLength": 1},
    "auth.jwks": {"type": "string", "pattern": "^(https://[^/].*|/.+)?$"},
    "auth.jwksSeconds": {"type": "number", "minimum": 0.1, "maximum": 3600},
    "auth.leewaySeconds": {"type": "number", "minimum": 0, "maximum": 300},
    "auth.cookie": {"type": "string", "pattern": "^[A-Za-z0-9_.-]*$"},
    "auth.defaultRead": PATTERNS,
    "auth.defaultWrite": PATTERNS,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "service.port": PORT,
    "*.path": {"type": "string", "pattern": "^/[A-Za-z0-9/_.-]*$"},
    "ingress.pathType": {"enum": ["Prefix", "Exact", "ImplementationSpecific"]},
    "ingress.hosts": {"type": "array", "items": {"type": "string", "maxLength": 253, "pattern": f"^$|{HOST}"}},
    "ingress.tls": {
        "type": "array",
        "items": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"hosts": {"type": "array", "items": {"type": "string"}}, "secretName": NAME},
        },
    },
    "httpRoute.parentRefs": {
        "type": "array",
        "items": {
            "type": "object",
            "required": ["name"],
            "additionalProperties": False,
            "properties": {
                "name": {**NAME, "minLength": 1},
                "sectionName": {**NAME, "minLength": 1},
                "namespace": {**NAME, "minLength": 1},
                "port": PORT,
                "kind": {"type": "string", "pattern": "^[A-Z][A-Za-z]*$"},
                "group": {"type": "string"},
            },
        },
    },
    "httpRoute.hostnames": {"type": "array", "items": {"type": "string", "maxLength": 253, "pattern": HOST}},
    "httpRoute.timeouts": {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"} for name in ("request", "backendRequest")
        },
    },
    "*.minReplicas": {"type": "integer", "minimum": 1},
    "*.maxReplicas": {"type": "integer", "minimum": 1},
    "*.targetCPUPercent": {"type": "integer", "minimum": 0, "maximum": 1000},
    "*.scaleDownSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
    "autoscaling.keda.sessionsPerPod": {"type": "integer", "minimum": 1},
    "autoscaling.keda.prometheusAddress": {"type": "string", "pattern": "^(https?://.+)?$"},
    "networkPolicy.redisPorts": {"type": "array", "minItems": 1, "items": PORT},
    "metrics.interval": {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"},
    "podSecurityContext": {"type": "object"},
    "securityContext": {"type": "object"},
    "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
}
FREE = {"node.extraEnvFrom", "coordinator.extraEnvFrom", "networkPolicy.extraEgress", "metrics.prometheusRule.extraRules"}
FREE |= {f"networkPolicy.{name}" for name in ("viewersFrom", "monitoringFrom", "publishersFrom", "redisTo")}
FREE |= {"httpRoute.filters"}
FREE |= {
    f"{pod}.{name}"
    for pod in ("node", "coordinator")
    for name in ("extraVolumes", "extraVolumeMounts", "extraContainers", "initContainers")
}
"""Lists of objects of Kubernetes, which are checked there."""


def settable(kind: str) -> list[Any]:
    """Return the fields of a dataclass of settings that can be set below its `settings:`, each in one place only."""
    common = {field.name for field in fields(CommonSettings)}
    return [
        field
        for field in fields(KINDS[kind])
        if field.name not in OWNED
        and not field.name.startswith(("redis_", "auth_"))
        and (kind == "CommonSettings" or field.name not in common)
    ]


def _setting_schema(field: Any) -> dict[str, Any]:
    kinds = {bool: "boolean", int: "integer", float: "number", str: "string"}
    schema = {"type": kinds[type(field.default)], "description": field.metadata["doc"]}
    for key, bound in (("minimum", "low"), ("maximum", "high")):
        if field.metadata[bound] is not None:
            schema[key] = field.metadata[bound]
    if field.name in ("log_level", "log_format"):
        schema["enum"] = ["debug", "info", "warning", "error"] if field.name == "log_level" else ["text", "json"]
    return schema


def _schema_of(value: Any, path: str) -> dict[str, Any]:
    if path in AT:
        properties = {field.name: _setting_schema(field) for field in settable(AT[path])}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if path in FREE:
        return OBJECTS
    parts = path.split(".")
    for rule in (path, *("*." + ".".join(parts[n:]) for n in range(1, len(parts)))):
        if rule in RULES:
            return RULES[rule]
    if isinstance(value, dict) and value:
        properties = {name: _schema_of(inner, f"{path}.{name}".lstrip(".")) for name, inner in value.items()}
        return {"type": "object", "additionalProperties": False, "properties": properties}
    if isinstance(value, bool):
        return {"type": "boolean"}
    if isinstance(value, int):
        return {"type": "integer", "minimum": 0}
    if isinstance(value, str):
        return {"type": "string"}
    raise ValueError(f"say in RULES what {path} may be")


def schema() -> dict[str, Any]:
    """Return values.schema.json."""
    top = _schema_of(yaml.safe_load(values_text()), "")
    top["properties"]["global"] = {"type": "object", "description": "What Helm gives to all charts"}
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Values of the chart parallax", **top}


def values_text() -> str:
    """Return values.yaml with the settings of the programs in its comments."""

    def listed(match: re.Match[str]) -> str:
        indent, kind = match.group(1), match.group(2)
        lines = [
            f"{indent}#   {field.name}: {json.dumps(field.default)}  # {field.metadata['doc']}\n" for field in settable(kind)
        ]
        return f"{indent}# SETTINGS {kind}\n{''.join(lines)}"

    text = (CHART / "values.yaml").read_text()
    return re.sub(r"^( *)# SETTINGS (\w+)\n(?:\1#   .*\n)*", listed, text, flags=re.MULTILINE)


def _rows(value: Any, path: str, texts: dict[str, str]) -> list[str]:
    if isinstance(value, dict) and value and not path.endswith(("resources", "ecurityContext", "labels")) and path not in AT:
        rows = [f"| `{path}` | | {texts[path]} |"] if path in texts else []
        return rows + [row for name, inner in value.items() for row in _rows(inner, f"{path}.{name}".lstrip("."), texts)]
    return [f"| `{path}` | `{json.dumps(value)}` | {texts.get(path, '')} |"]


def _texts() -> dict[str, str]:
    """Return what values.yaml's comments say, by the path of the value below them."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("#") and comment and not stripped.startswith(("# SETTINGS", "#   ")):
            comment.append(stripped.removeprefix("# "))
        elif match := re.match(r"( *)([\w-]+):", line):
            stack = [entry for entry in stack if entry[0] < len(match.group(1))] + [(len(match.group(1)), match.group(2))]
            if comment:
                found[".".join(name for _, name in stack)] = " ".join(comment).replace("|", "\\|")
            comment = []
    return found


def readme() -> str:
    """Return the chart's README."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = _rows(values, "", _texts())
    return f"""# The chart of Parallax

[Parallax](../README.md) on Kubernetes 1.30 or newer, with Helm 3.17 or newer, or 4. Build the image first, and put it where
your cluster finds it:

```
docker build -t registry.example/parallax:0.1.0 .
docker push registry.example/parallax:0.1.0
helm install parallax ./helm --set image.registry=registry.example --set demo.enabled=true
```

What it then says tells how to look at it. [docs/operations.md](../docs/operations.md#on-kubernetes) has more: which ingress,
scaling, upgrades, alerts. Examples of values are in [ci/](ci).

## What scanners find

checkov has nothing to say of it but this, which is on purpose:

| finding | why |
|---|---|
| no limit of processor time (CKV_K8S_11) | a throttled node is late for all its viewers at once |
| secrets as environment variables (CKV_K8S_35) | the programs read them there; no process of another user shares the container |
| tags instead of digests, pulled if absent (CKV_K8S_43, CKV_K8S_15) | `image.digest`, `valkey.image.digest` and `pullPolicy` are yours to set |
| no probes of the demo, of the load test and of the test's pod (CKV_K8S_8, CKV_K8S_9) | none serves anybody |
| no HEALTHCHECK in the image, a base without digest (CKV_DOCKER_2, CKV_DOCKER_7) | two services share it, and Kubernetes asks them itself; `--build-arg BASE=...@sha256:...` pins the base |

## Values

Below `settings`, `node.settings` and `coordinator.settings` stands every setting of the programs that has no value of its own;
[values.yaml](values.yaml) lists them.

| value | default | what it is for |
|---|---|---|
{chr(10).join(rows)}
"""


def contents() -> dict[Path, str]:
    """Return the files that are made, and what they shall hold."""
    return {
        CHART / "values.yaml": values_text(),
        CHART / "values.schema.json": json.dumps(schema(), indent=2) + "\n",
        CHART / "README.md": readme(),
    }


if __name__ == "__main__":
    for path, text in contents().items():
        path.write_text(text)
