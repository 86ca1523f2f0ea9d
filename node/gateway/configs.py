"""What the engine says of a view's configuration before a view is made of it."""

from typing import TYPE_CHECKING, Any

from node.gateway import expressions, messages, safety
from parallax.wire import SERVER_ERROR, Refused

if TYPE_CHECKING:
    from node.gateway.hosted import Hosted

DESCRIBE = 41


async def describe_safely(hosted: "Hosted", config: Any) -> Any:
    """Return what the engine says of a configuration; what it would not survive is said in the same way: a `Description`.

    Raises:
        StaleGeneration: the table was dropped or changed its shape.
        Refused: it says nothing of it.
    """
    found = await _describe(hosted, safety.only_expressions(config.expressions))
    if found.expression_errors:
        return found
    try:
        safety.check_config(config, hosted.spec, found.expression_schema)
    except Refused as refused:
        found.config_error = str(refused)
        return found
    return await _describe(hosted, config)


async def validate(hosted: "Hosted", texts: Any) -> Any:
    """Return what clients up to 5.5 want to know of expressions: `ValidatedExpressions`.

    Raises:
        StaleGeneration, Refused: as above.
    """
    found = await _describe(hosted, safety.only_expressions(texts))
    if found.config_error:
        raise Refused(found.config_error)
    validated = messages.new("ValidatedExpressions")
    validated.expression_alias.update(texts)
    validated.expression_schema.update(found.expression_schema)
    for name, problem in found.expression_errors.items():
        validated.errors[name].CopyFrom(problem)
    return validated


async def check(hosted: "Hosted", config: Any) -> None:
    """Check a view's configuration, and complete it, as `safety.check_config` does.

    Raises:
        StaleGeneration: as above.
        Refused: the engine would not survive it, or an expression is wrong.
    """
    made = await expression_types(hosted, config)
    safety.check_config(config, hosted.spec, made)


async def expression_types(hosted: "Hosted", config: Any) -> Any:
    """Return the types of a configuration's expressions, by name.

    Raises:
        StaleGeneration, Refused: as above.
    """
    if not config.expressions:
        return {}
    found = await _describe(hosted, safety.only_expressions(config.expressions))
    for name, problem in found.expression_errors.items():
        raise Refused(f"expression {name!r}: {problem.error_message}")
    return found.expression_schema


async def _describe(hosted: "Hosted", config: Any) -> Any:
    limits = hosted.settings
    expressions.check(
        config.expressions,
        most=limits.max_expressions,
        longest=limits.max_expression_length,
        allow_loops=limits.allow_loops,
    )
    hosted.interned.admit(config.expressions)
    message = messages.new("Describe")
    message.config.CopyFrom(config)
    answer = await hosted.read(hosted.answers, DESCRIBE, messages.encode(message))
    if answer.number == SERVER_ERROR:
        raise Refused("the engine cannot read this configuration")
    return messages.parse("Description", answer.body)
