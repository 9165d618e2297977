"""IFEval's 25 verifiable instructions (arXiv:2311.07911), offline, seedless and total: a prompt counts when all its
instructions hold.

The behaviour follows the published checkers as lm-eval ships them (tests compare the two). Where those need downloaded
data or draw random numbers, this differs on purpose: sentences are split by rules here (theirs: nltk punkt), language
is judged by `languages` (theirs: langdetect, unseeded, and undetectable counts as followed), a `letter` that is not a
letter is counted as itself (theirs: replaced by a random letter), and a missing argument is an error (theirs: a random
value).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from posttrain.evals.scorers import languages

Arguments = Mapping[str, Any]

_ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "sr", "jr", "st", "vs", "etc", "inc", "ltd", "co", "corp", "dept", "est", "fig",
    "no", "vol", "e.g", "i.e", "u.s", "u.k", "a.m", "p.m", "ph.d",
})  # fmt: skip
_SENTENCE_END = re.compile(r"""([.!?]+)(["'”’)\]]*)(\s+|$)""")
_CONTRACTION = re.compile(r"(?i)(n't|'(?:s|m|d|ll|re|ve))$")
_TOKEN = re.compile(r"[^\s(){}\[\]<>,;:!?\"“”]+")


def _compare(count: int, relation: str, threshold: int) -> bool:
    if relation == "less than":
        return count < threshold
    if relation == "at least":
        return count >= threshold
    raise ValueError(f"unknown relation {relation!r}")


def _find(pattern: str, text: str) -> int:
    """Occurrences of a keyword.

    Keywords are regular expressions in the original; one that is not valid is taken literally.
    """
    try:
        return len(re.findall(pattern, text, flags=re.IGNORECASE))
    except re.error:
        return len(re.findall(re.escape(pattern), text, flags=re.IGNORECASE))


def count_sentences(text: str) -> int:
    """Sentences: ended by .

    ! or ?, a full stop only before a capital, a digit or a quote and not after an abbreviation.
    """
    text = text.strip()
    count, start = 0, 0
    for match in _SENTENCE_END.finditer(text):
        following = text[match.end() : match.end() + 1]
        if match[1] == "." and following:
            words = text[start : match.start()].split()
            word = words[-1].lower().lstrip("(\"'“") if words else ""
            is_initial = len(word) == 1 and word.isalpha() and word != "i"
            if word in _ABBREVIATIONS or is_initial or following.islower():
                continue
        if match[1].startswith("..") and following.islower():
            continue
        if text[start : match.start()].strip():
            count += 1
        start = match.end()
    return count + bool(text[start:].strip())


def _capital_words(text: str) -> int:
    count = 0
    for raw in _TOKEN.findall(text.replace("--", " ").replace("’", "'")):
        word = raw.strip("'*`").rstrip(".") or raw
        count += sum(part.isupper() for part in _CONTRACTION.split(word))
    return count


def _keywords(text: str, args: Arguments) -> bool:
    return all(_find(keyword, text) for keyword in args["keywords"])


def _frequency(text: str, args: Arguments) -> bool:
    return _compare(_find(args["keyword"].strip(), text), args["relation"], args["frequency"])


def _forbidden(text: str, args: Arguments) -> bool:
    return not any(_find(rf"\b{word}\b", text) for word in args["forbidden_words"])


def _letters(text: str, args: Arguments) -> bool:
    return _compare(text.lower().count(args["letter"].strip().lower()), args["let_relation"], args["let_frequency"])


def _language(text: str, args: Arguments) -> bool:
    return bool(languages.detect(text) == args["language"])


def _sentences(text: str, args: Arguments) -> bool:
    return _compare(count_sentences(text), args["relation"], args["num_sentences"])


def _words(text: str, args: Arguments) -> bool:
    return _compare(len(re.findall(r"\w+", text)), args["relation"], args["num_words"])


def _paragraphs(text: str, args: Arguments) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    if not all(parts[1:-1]):
        return False
    return bool(sum(map(bool, parts)) == args["num_paragraphs"])


def _first_word(text: str, args: Arguments) -> bool:
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    nth = args["nth_paragraph"]
    if not 1 <= nth <= count or not parts[nth - 1].strip():
        return False
    word = parts[nth - 1].split()[0].lstrip("'").lstrip('"')
    word = re.split(r"[.,?!'\"]", word)[0].lower()
    return bool(count == args["num_paragraphs"] and word == args["first_word"].lower())


def _placeholders(text: str, args: Arguments) -> bool:
    return bool(len(re.findall(r"\[.*?\]", text)) >= args["num_placeholders"])


def _postscript(text: str, args: Arguments) -> bool:
    marker = args["postscript_marker"].strip()
    known = {"P.P.S": r"\s*p\.\s?p\.\s?s.*$", "P.S.": r"\s*p\.\s?s\..*$"}
    return _find(f"(?m){known.get(marker, rf'{re.escape(marker.lower())}.*$')}", text.lower()) > 0


def _bullets(text: str, args: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^\*].*$", text, flags=re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, flags=re.MULTILINE)
    return len(stars) + len(dashes) == int(args["num_bullets"])


def _constrained(text: str, _: Arguments) -> bool:
    return any(option in text for option in ("My answer is yes.", "My answer is no.", "My answer is maybe."))


def _highlights(text: str, args: Arguments) -> bool:
    single = [part for part in re.findall(r"\*[^\n\*]*\*", text) if part.strip("*").strip()]
    double = [
        part for part in re.findall(r"\*\*[^\n\*]*\*\*", text) if part.removeprefix("**").removesuffix("**").strip()
    ]
    return bool(len(single) + len(double) >= args["num_highlights"])


def _sections(text: str, args: Arguments) -> bool:
    splitter = re.escape(args["section_spliter"].strip())
    return bool(len(re.split(rf"\s?{splitter}\s?\d+\s?", text)) - 1 >= args["num_sections"])


def _json(text: str, _: Arguments) -> bool:
    text = text.strip()
    for fence in ("```json", "```Json", "```JSON", "```"):
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, _: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    if not all(parts[1:-1]):
        return False
    full = [part for part in parts if part]
    return len(full) == 2 and full[0] != full[1]


def _repeat(text: str, args: Arguments) -> bool:
    return text.strip().lower().startswith(args["prompt_to_repeat"].strip().lower())


def _end(text: str, args: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(args["end_phrase"].strip().lower())


def _capitals(text: str, args: Arguments) -> bool:
    return _compare(_capital_words(text), args["capital_relation"], args["capital_frequency"])


def _upper(text: str, _: Arguments) -> bool:
    return text.isupper() and languages.detect(text) == "en"


def _lower(text: str, _: Arguments) -> bool:
    return text.islower() and languages.detect(text) == "en"


def _no_comma(text: str, _: Arguments) -> bool:
    return "," not in text


def _quotation(text: str, _: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


INSTRUCTIONS: dict[str, Callable[[str, Arguments], bool]] = {
    "keywords:existence": _keywords,
    "keywords:frequency": _frequency,
    "keywords:forbidden_words": _forbidden,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": _words,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeat,
    "startend:end_checker": _end,
    "startend:quotation": _quotation,
    "change_case:capital_word_frequency": _capitals,
    "change_case:english_capital": _upper,
    "change_case:english_lowercase": _lower,
    "punctuation:no_comma": _no_comma,
}


def follows(answer: str, instruction: str, arguments: Arguments) -> bool:
    """Whether one instruction holds. An empty answer follows nothing.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: an unknown instruction, or arguments that do not fit it.
    """
    check = INSTRUCTIONS[instruction]
    return bool(answer.strip()) and check(
        answer, {name: value for name, value in arguments.items() if value is not None}
    )
