"""A job spec as a plain dict (YAML, JSON, a form): checked against spec.py before anything is sent, then a message.

The whole spec is sent, defaults included: what was checked is what runs.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from posttrain.service.client.errors import ClientError
from posttrain.service.convert import choice_of
from posttrain.service.convert import spec_to_proto as convert_spec
from posttrain.service.proto import spec_pb2

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Path = tuple[str | int, ...]
HINT = "`posttrain init KIND` writes a spec with all options and their meaning"


class Problem(NamedTuple):
    """One thing that is wrong with a spec: where, as its author wrote it, and what."""

    path: Path
    description: str


def check_spec(plain: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The spec with all defaults, or what is wrong with it."""
    from pydantic import ValidationError

    from posttrain.engine.spec import parse_spec

    try:
        return parse_spec(dict(plain)).model_dump(mode="json"), []
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=True)
        return {}, [_problem(item) for item in found]


def spec_to_proto(plain: Mapping[str, Any]) -> spec_pb2.JobSpec:
    """The message of a spec.

    Raises:
        ClientError: INVALID_ARGUMENT, naming each field that is wrong.
    """
    full, problems = check_spec(plain)
    if problems:
        fields = [(path_text(problem.path), problem.description) for problem in problems]
        raise ClientError(
            "INVALID_ARGUMENT", "BAD_SPEC", "; ".join(f"{path}: {text}" for path, text in fields), fields, hint=HINT
        )
    return convert_spec(full)


def path_text(path: Path) -> str:
    """A path as people write it: `data[0].dataset`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "spec"


def _problem(item: ErrorDetails) -> Problem:
    path, options = _locate(item["loc"])
    kind, context = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        close = difflib.get_close_matches(str(path[-1]), options, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}?" if close else known_text(options)
        return Problem(path, f"no such option; {guess}")
    if kind == "missing":
        return Problem(path, "this option is needed")
    if kind in {"union_tag_not_found", "union_tag_invalid"}:
        tag, given = str(context["discriminator"]).strip("'"), item.get("input")
        where = (*path, tag) if isinstance(given, Mapping) and tag in given else path
        return Problem(where or (tag,), f"say which: {tag}: {' | '.join(options)}{_closest(given, tag, options)}")
    given = item.get("input")
    if kind in {"model_attributes_type", "model_type", "dict_type"}:
        return Problem(path, f"expected a mapping of options, not {given!r:.60}; {known_text(options)}")
    if kind == "string_pattern_mismatch":
        return Problem(path, f"{given!r:.80} is not {_pattern_text(str(context['pattern']))}")
    shown = f" (it is {given!r})" if isinstance(given, str | int | float | bool) and len(str(given)) <= 60 else ""
    return Problem(path, f"{item['msg'][:1].lower()}{item['msg'][1:]}{shown}")


def known_text(options: Sequence[str]) -> str:
    return f"the options here: {', '.join(options)}"


def _pattern_text(pattern: str) -> str:
    from posttrain.engine import spec

    texts = {
        spec.NAME_PATTERN: "a name: lower-case letters, digits, '.', '_' and '-', at most 63",
        spec.REF_PATTERN: "a reference: NAME@NUMBER or, for models, NAME@ALIAS",
    }
    return texts.get(pattern, f"of the form {pattern}")


def _closest(given: Any, tag: str, options: Sequence[str]) -> str:
    written = given.get(tag) if isinstance(given, Mapping) else None
    close = difflib.get_close_matches(str(written), options, n=1) if written is not None else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _locate(location: Sequence[str | int]) -> tuple[Path, list[str]]:
    """A pydantic location without the tags that it inserts, and the names that are known at its last step."""
    path: Path = ()
    descriptor: Any = spec_pb2.JobSpec.DESCRIPTOR
    known: list[str] = []
    tag = ""
    for part in location:
        if descriptor is not None and choice_of(descriptor) and part in descriptor.fields_by_name:
            tag = choice_of(descriptor)
            descriptor = descriptor.fields_by_name[part].message_type
            continue
        path = (*path, part)
        if isinstance(part, int):
            continue
        if descriptor is not None:
            known = [*([tag] if tag else []), *descriptor.fields_by_name]
            field = descriptor.fields_by_name.get(part)
            descriptor = field.message_type if field is not None else None
        tag = ""
    if descriptor is not None and choice_of(descriptor):
        known = list(descriptor.fields_by_name)
    return path, known
