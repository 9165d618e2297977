"""The filter of a list: words that must all match, `!word` that must not, `field:word` for one field."""

from __future__ import annotations

from collections.abc import Mapping


def matches(query: str, fields: Mapping[str, str]) -> bool:
    """Whether a record, given as its fields' texts, passes. A field that does not exist matches nothing."""
    folded = {name: text.casefold() for name, text in fields.items()}
    everything = " ".join(folded.values())
    for term in query.casefold().split():
        is_negated = term.startswith("!") and len(term) > 1
        word = term[1:] if is_negated else term
        name, colon, value = word.partition(":")
        found = value in folded.get(name, "") and name in folded if colon else word in everything
        if found == is_negated:
            return False
    return True
