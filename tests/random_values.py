"""Random values that a JSON schema allows, as far as the chart's schema goes. Objects of Kubernetes stay empty: they are its to check."""

import re
from typing import Any

from hypothesis import strategies as st

from tests.chart import FREE

UNTOUCHED = ("affinity", "ecurityContext", "extraObjects", "extraConfig", "valueFrom")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("é\n'\"{}"), max_size=20)


def random_values(part: dict[str, Any], path: str = "") -> st.SearchStrategy[Any]:
    """Return a strategy of what a part of the schema allows; each property of an object is there or not."""
    if "enum" in part:
        return st.sampled_from(part["enum"])
    kind = part["type"][0] if isinstance(part["type"], list) else part["type"]
    if kind == "boolean":
        return st.booleans()
    if kind == "integer":
        return st.integers(part.get("minimum", 0), part.get("maximum", 10_000_000_000))
    if kind == "number":
        low = part.get("minimum", part.get("exclusiveMinimum", 0))
        floats = st.floats(low, part.get("maximum", 1e9), exclude_min="exclusiveMinimum" in part)
        return floats.map(lambda number: float(f"{number:.6g}")).filter(
            lambda number: (number >= low and number != 0) or low == 0
        )
    if kind == "string":
        return _texts(part)
    if kind == "array":
        if path in FREE or path.endswith(UNTOUCHED):
            return st.just([])
        items = random_values(part["items"], path)
        unique = repr if part.get("uniqueItems") else None
        return st.lists(items, min_size=part.get("minItems", 0), max_size=2, unique_by=unique)
    if path.endswith(UNTOUCHED):
        return st.just({})
    if "properties" in part:
        made = {name: random_values(inner, f"{path}.{name}".lstrip(".")) for name, inner in part["properties"].items()}
        required = {name: made.pop(name) for name in part.get("required", ()) if name in made}
        return st.fixed_dictionaries(required, optional=made)
    if not isinstance(part.get("additionalProperties"), dict):
        return st.just({})
    names = _texts({"type": "string", **part.get("propertyNames", {})}).filter(bool)
    inner = random_values(part["additionalProperties"], path)
    return st.dictionaries(names, inner, min_size=part.get("minProperties", 0), max_size=2)


def _texts(part: dict[str, Any]) -> st.SearchStrategy[str]:
    longest = part.get("maxLength", 60)
    if "pattern" not in part:
        return TEXT.filter(lambda text: len(text) >= part.get("minLength", 0))
    texts = st.from_regex(
        re.compile(part["pattern"], re.ASCII),
        fullmatch=True,
        alphabet=st.characters(codec="ascii", categories=("L", "N", "P", "S", "Zs")),
    )
    return texts.map(lambda text: text.removesuffix("\n")).filter(
        lambda text: part.get("minLength", 0) <= len(text) <= longest and re.search(part["pattern"], text) is not None
    )
