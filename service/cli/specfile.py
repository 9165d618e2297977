"""A job spec's YAML: read with the line of every option, so that what is wrong is named as an editor names it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Final

import click
import yaml

from posttrain.service.cli.exits import Exit
from posttrain.service.cli.text import clean, one_line
from posttrain.service.client.specs import HINT, Path, Problem, check_spec, path_text

MAX_BYTES: Final = 1 << 20
MAX_NODES: Final = 20_000  # aliases can make a small file huge
MAX_SHOWN: Final = 100
KINDS_SHOWN: Final = {"int": "number", "float": "number", "timestamp": "date; in quotes it is a text"}
_PLAIN_TAGS: Final = {"tag:yaml.org,2002:seq", "tag:yaml.org,2002:map"}
_STEP = re.compile(r"\.?([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]")


class SpecFileError(click.ClickException):
    """A spec that cannot be used; each problem on a line of its own, `FILE:LINE: option: what`."""

    exit_code = Exit.USAGE

    def __init__(self, lines: list[str]) -> None:
        super().__init__("\n".join([*lines, f"hint: {HINT}"]))

    def show(self, file: Any = None) -> None:
        click.echo(clean(self.format_message()), file=file, err=file is None)


@dataclass
class SpecFile:
    """A spec as written, and where each option stands."""

    source: str
    plain: dict[str, Any] = field(default_factory=dict)
    lines: dict[Path, int] = field(default_factory=dict)
    is_override: bool = False
    _assigned: dict[Path, str] = field(default_factory=dict)
    _made: dict[Path, str] = field(default_factory=dict)

    def checked(self) -> dict[str, Any]:
        """The whole spec, defaults included.

        Raises:
            SpecFileError: naming each option that is wrong and its line.
        """
        full, problems = check_spec(self.plain)
        if problems:
            raise self.error([_with_member(self.plain, problem) for problem in problems])
        return full

    def error(self, problems: list[Problem]) -> SpecFileError:
        return SpecFileError([f"{self.where(path)}: {path_text(path)}: {text}" for path, text in problems])

    def where(self, path: Path) -> str:
        """FILE:LINE of an option, or of the nearest one around it; the --set that gave it, or those given below it."""
        for length in range(len(path), 0, -1):
            given = self._assigned.get(path[:length]) or self._made.get(path[:length])
            if given:
                return given
        below = [given for other, given in self._assigned.items() if other[: len(path)] == path]
        also = f", with {' '.join(below)}" if below and path else ""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.at(self.lines[path[:length]]) + also
        return self.source + also

    def at(self, line: int) -> str:
        """FILE:LINE; an override is one line."""
        return self.source if self.is_override else f"{self.source}:{line}"

    def set(self, assignment: str) -> None:
        """Applies `a.b[0].c=VALUE`; VALUE is read as YAML.

        Another `type` makes an option another choice: what the file says of the former one goes.

        Raises:
            SpecFileError: the assignment or its path makes no sense.
        """
        key, equals, text = assignment.partition("=")
        path = parse_path(key.strip())
        given = f"--set {one_line(assignment)[:MAX_SHOWN].rstrip()}"
        if not equals or not path:
            raise SpecFileError([f"{given}: expected OPTION=VALUE, as in optimizer.learning_rate=1e-4"])
        value = _read_text(text, SpecFile(given, is_override=True))
        place: Any = self.plain
        for index, (step, following) in enumerate(zip(path, [*path[1:], None], strict=True)):
            is_last = following is None
            if isinstance(place, dict) and isinstance(step, str):
                if is_last:
                    if step == "type" and place.get("type", value) != value:
                        self._forget(place, path[:-1])
                    place[step] = value
                else:
                    if step not in place:
                        self._made[path[: index + 1]] = given
                    place = place.setdefault(step, [] if isinstance(following, int) else {})
            elif isinstance(place, list) and isinstance(step, int) and step <= len(place):
                if step == len(place):
                    self._made[path[: index + 1]] = given
                    place.append({})
                if is_last:
                    place[step] = value
                else:
                    place = place[step]
            else:
                raise SpecFileError([f"{given}: {path_text(path)} leads nowhere in this spec"])
        self._assigned[path] = given

    def _forget(self, choice: dict[str, Any], path: Path) -> None:
        """Drops the options of a choice that stand in the file, not those that came from the command line."""
        if any(path[:length] in self._assigned for length in range(1, len(path) + 1)):
            return
        kept = {other[len(path)] for other in self._assigned if other[: len(path)] == path and len(other) > len(path)}
        for name in choice.keys() - kept:
            del choice[name]


def _with_member(plain: dict[str, Any], problem: Problem) -> Problem:
    """The same; of an option that another member of a tagged choice has, where it belongs."""
    from posttrain.engine.spec import KINDS
    from posttrain.service.cli.template import alternatives

    kind = str(plain.get("kind"))
    name, *rest = map(str, problem.path or ("kind",))
    chosen = plain.get(name)
    if kind not in KINDS or name not in KINDS[kind].model_fields or not isinstance(chosen, dict):
        return problem
    members = alternatives(KINDS[kind].model_fields[name])
    if "type" not in chosen:
        options, said = sorted(chosen), f"{problem.description}; "
    elif str(chosen["type"]) in members and rest and rest[0] not in members[str(chosen["type"])].model_fields:
        options, said = rest[:1], ""
    else:
        return problem
    for option in options:
        tags = [tag for tag, member in members.items() if option in member.model_fields]
        if tags:
            told = f"{option} is an option of {name} type {' or '.join(tags)}: set {name}.type={tags[0]} as well"
            return Problem(problem.path, said + told)
    return problem


def read_spec(data: bytes, source: str) -> SpecFile:
    """Parses a spec's YAML; whether the options are right is `checked`'s business.

    Raises:
        SpecFileError: not UTF-8, not YAML, not a mapping, or a key that stands there twice.
    """
    if len(data) > MAX_BYTES:
        raise SpecFileError([f"{source}: {len(data)} bytes; a spec has at most {MAX_BYTES}"])
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SpecFileError([f"{source}: byte {error.start} is not UTF-8"]) from error
    spec = SpecFile(source)
    plain = _read_text(text, spec)
    if plain is None:
        plain = {}
    if not isinstance(plain, dict):
        raise SpecFileError([f"{source}:1: expected options (NAME: VALUE), not a {type(plain).__name__}"])
    spec.plain = plain
    return spec


def _read_text(text: str, spec: SpecFile) -> Any:
    """A YAML text as plain values, the lines of which are noted in `spec`; None if there is none.

    Raises:
        SpecFileError: as `read_spec`.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            return _Reader(loader, spec).read(node, ()) if node is not None else None
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise SpecFileError([f"{spec.at(mark.line + 1 if mark else 1)}: {error.problem or error.context}"]) from error
    except yaml.YAMLError as error:
        raise SpecFileError([f"{spec.source}: {error}"]) from error
    except RecursionError as error:
        raise SpecFileError([f"{spec.source}: brackets or lists are nested too deeply for a spec"]) from error


class _Reader:
    """Nodes to plain values; safe tags only."""

    def __init__(self, loader: Any, spec: SpecFile) -> None:
        self._loader = loader
        self._spec = spec
        self._nodes = 0

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._nodes += 1
        line = node.start_mark.line + 1
        if self._nodes > MAX_NODES or len(path) > 50:
            raise SpecFileError([f"{self._spec.at(line)}: too large or too deep for a spec"])
        self._spec.lines.setdefault(path, line)
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            raise SpecFileError([f"{self._spec.at(line)}: tags ({clean(node.tag)}) have no place in a spec"])
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node, line)
        plain: dict[Any, Any] = {}
        for key_node, value_node in node.value:
            key, key_line = self._key(key_node), key_node.start_mark.line + 1
            if key in plain:
                first = self._spec.lines[(*path, key)]
                where = path_text((*path, key))
                raise SpecFileError(
                    [f"{self._spec.at(key_line)}: {where}: it stands there twice (first in line {first})"]
                )
            self._spec.lines[(*path, key)] = key_line
            plain[key] = self.read(value_node, (*path, key))
        return plain

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise SpecFileError([f"{self._spec.at(node.start_mark.line + 1)}: an option's name is a plain word"])
        return str(node.value)

    def _scalar(self, node: yaml.Node, line: int) -> Any:
        """A plain value: text that looks like a number or a date has to be one."""
        try:
            value = self._loader.construct_object(node, deep=True)
        except (ValueError, LookupError, AttributeError, OverflowError):  # what PyYAML raises of !!int x, !!bool x, ...
            value = None
        if (value is None and not node.tag.endswith(":null")) or (isinstance(value, int) and value.bit_length() > 128):
            kind = node.tag.rpartition(":")[2]
            shown = one_line(node.value)[:MAX_SHOWN]
            raise SpecFileError([f"{self._spec.at(line)}: {shown!r} is no usable {KINDS_SHOWN.get(kind, kind)}"])
        return value


def parse_path(text: str) -> Path:
    """`data[0].dataset` as its steps; empty if it is no path."""
    steps: list[str | int] = []
    position = 0
    while position < len(text):
        match = _STEP.match(text, position)
        if match is None:
            return ()
        steps.append(match[1] if match[1] is not None else int(match[2]))
        position = match.end()
    return tuple(steps)
