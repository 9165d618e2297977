"""JSON answers: `json_schema`."""

from __future__ import annotations

import json
from typing import Any

from posttrain.engine.checkers.calls import strict_json
from posttrain.engine.checkers.judgement import Judgement, Target, right, wrong
from posttrain.engine.data.patterns import UncheckableError


def json_schema(answer: str, target: Target) -> Judgement:
    """Right if the whole answer is one JSON value that is valid under `schema`: an object, or the same as JSON text.

    Checked in bounded work, see `engine/data/schemas.py`; what would take more is wrong. `format` is not looked at.

    Raises:
        UncheckableError: the schema is none, or cannot be checked in bounded work.
    """
    from posttrain.engine.data.schemas import (
        Budget,
        first_error,
        tried_validator,
    )  # jsonschema takes a tenth of a second

    validator = tried_validator(json.dumps(_schema_of(target["schema"]), sort_keys=True))
    try:
        value = strict_json(answer.strip())
    except ValueError:
        return wrong("not JSON")
    try:
        found = first_error(validator, value, Budget())
    except UncheckableError:
        return wrong("takes too much to check")
    return right() if found is None else wrong("not by the schema")


def _schema_of(given: Any) -> dict[str, Any]:
    try:
        schema = strict_json(given) if isinstance(given, str) else given
    except ValueError as error:
        raise UncheckableError(f"the schema is no JSON: {error}") from None
    if not isinstance(schema, dict):
        raise UncheckableError("the schema must be an object")
    return schema
