"""Schemas of the kinds that are not Kubernetes's own, as far as the chart uses them: what is not here is an error."""

from typing import Any

TEXT = {"type": "string", "minLength": 1}
NUMBER = {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = {
    "type": "object",
    "required": ["name", "namespace", "labels"],
    "additionalProperties": False,
    "properties": {"name": TEXT, "namespace": TEXT, "labels": TEXTS, "annotations": TEXTS},
}
SELECTOR = {
    "type": "object",
    "required": ["matchLabels"],
    "properties": {
        "matchLabels": TEXTS,
        "matchExpressions": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["key", "operator"],
                "properties": {"key": TEXT, "operator": TEXT, "values": {"type": "array", "items": TEXT}},
                "additionalProperties": False,
            },
        },
    },
    "additionalProperties": False,
}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}


def closed(required: list[str], **properties: Any) -> dict[str, Any]:
    """Return the schema of an object with these fields and no others."""
    return {"type": "object", "required": required, "additionalProperties": False, "properties": properties}


def listed(of: Any) -> dict[str, Any]:
    """Return the schema of a list with at least one entry."""
    return {"type": "array", "minItems": 1, "items": of}


def _kind(spec: Any) -> dict[str, Any]:
    return closed(["apiVersion", "kind", "metadata", "spec"], apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)


_ENDPOINT = closed(["port", "path"], port=TEXT, path=TEXT, interval=DURATION)
_TARGET = closed(["name"], apiVersion=TEXT, kind=TEXT, name=TEXT)
_GATEWAY_DURATION = {"type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$"}

CUSTOM_KINDS = {
    "gateway.networking.k8s.io/v1/HTTPRoute": _kind(
        closed(
            ["parentRefs", "rules"],
            parentRefs=listed(
                closed(
                    ["name"], name=TEXT, namespace=TEXT, sectionName=TEXT, port=NUMBER, kind=TEXT, group={"type": "string"}
                )
            ),
            hostnames=listed(TEXT),
            rules=listed(
                closed(
                    ["backendRefs"],
                    matches=listed(
                        closed(["path"], path=closed(["type", "value"], type={"enum": ["PathPrefix"]}, value=TEXT))
                    ),
                    filters=listed({"type": "object", "required": ["type"]}),
                    backendRefs=listed(closed(["name", "port"], name=TEXT, port=NUMBER)),
                    timeouts=closed([], request=_GATEWAY_DURATION, backendRequest=_GATEWAY_DURATION),
                )
            ),
        )
    ),
    "keda.sh/v1alpha1/ScaledObject": _kind(
        closed(
            ["scaleTargetRef", "triggers"],
            scaleTargetRef=_TARGET,
            minReplicaCount=NUMBER,
            maxReplicaCount=NUMBER,
            advanced=closed([], horizontalPodAutoscalerConfig=closed([], behavior={"type": "object"})),
            triggers=listed(
                closed(["type", "metadata"], type={"enum": ["prometheus", "cpu"]}, metricType=TEXT, metadata=TEXTS)
            ),
        )
    ),
    "monitoring.coreos.com/v1/ServiceMonitor": _kind(
        closed(["selector", "endpoints"], selector=SELECTOR, endpoints=listed(_ENDPOINT))
    ),
    "monitoring.coreos.com/v1/PodMonitor": _kind(
        closed(["selector", "podMetricsEndpoints"], selector=SELECTOR, podMetricsEndpoints=listed(_ENDPOINT))
    ),
    "monitoring.coreos.com/v1/PrometheusRule": _kind(
        closed(
            ["groups"],
            groups=listed(
                closed(
                    ["name", "rules"],
                    name=TEXT,
                    rules=listed(
                        closed(["alert", "expr"], alert=TEXT, expr=TEXT, labels=TEXTS, annotations=TEXTS)
                        | {
                            "properties": {
                                "alert": TEXT,
                                "expr": TEXT,
                                "for": DURATION,
                                "labels": TEXTS,
                                "annotations": TEXTS,
                            }
                        }
                    ),
                )
            ),
        )
    ),
}
