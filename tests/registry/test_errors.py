"""The error tree: stable codes, a hint for each, and the built-in that each refines."""

from __future__ import annotations

import pytest

from posttrain.registry import errors
from posttrain.registry.errors import RegistryError, Unmet

BUILTINS = (LookupError, ValueError, RuntimeError, OSError)


def tree(parent: type[RegistryError]) -> list[type[RegistryError]]:
    return [parent, *(child for sub in parent.__subclasses__() for child in tree(sub))]


def test_codes_are_unique_and_drawn_in_the_module() -> None:
    found = tree(RegistryError)
    assert len({kind.code for kind in found}) == len(found)
    assert errors.__doc__ is not None
    assert [kind.__name__ for kind in found if kind.__name__ not in errors.__doc__] == []


@pytest.mark.parametrize("kind", tree(RegistryError)[1:], ids=lambda kind: kind.__name__)
def test_each_has_a_hint_and_refines_a_builtin(kind: type[RegistryError]) -> None:
    assert kind.hint
    assert issubclass(kind, BUILTINS)


def test_an_unmet_precondition_names_its_items() -> None:
    item = Unmet("STALE", "gate-1", "the champion changed")
    error = errors.PromotionRefusedError("no", [item], "promotion-1")
    assert (error.items, error.promotion, str(error)) == ((item,), "promotion-1", "no")
    assert errors.InvalidArgumentError("bad", "model").field == "model"
