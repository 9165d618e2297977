"""IFEval's checkers against lm-eval's on generated texts, and by hand where lm-eval's cannot run offline."""

from __future__ import annotations

import json
import random
import sys
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posttrain.evals.scorers import ifeval, languages

PIECES = [
    "The quick fox", "jumps over", "a lazy dog", "HELLO", "WORLD", "DON'T", "it's", ".", "!", "?", ",", "\n", "\n\n",
    "***", "******", "* item\n", "- item\n", "*bold*", "**very bold**", "<<Title>>", "[name]", "[address]", "P.S. bye",
    "P.P.S bye", "Section 1", "SECTION 2", "My answer is yes.", '"', "```json", '{"a": 1}', "```", "ending", "first",
    "word",
    "keyword", "Any other questions?", "eeeee", "tttt", " ", "Paragraph", "1", "2", "<<>>", "**", "*",
]  # fmt: skip

CASES: list[tuple[str, dict[str, Any]]] = [
    ("keywords:existence", {"keywords": ["keyword", "fox"]}),
    ("keywords:frequency", {"keyword": "fox", "frequency": 2, "relation": "at least"}),
    ("keywords:frequency", {"keyword": "word", "frequency": 3, "relation": "less than"}),
    ("keywords:forbidden_words", {"forbidden_words": ["dog", "end"]}),
    ("keywords:letter_frequency", {"letter": "e", "let_frequency": 9, "let_relation": "at least"}),
    ("keywords:letter_frequency", {"letter": "T", "let_frequency": 5, "let_relation": "less than"}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 1}),
    ("length_constraints:number_words", {"num_words": 20, "relation": "at least"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "first"}),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 1, "nth_paragraph": 1, "first_word": "hello"}),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}),
    ("detectable_format:constrained_response", {}),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 1}),
    ("detectable_format:json_format", {}),
    ("detectable_format:title", {}),
    ("combination:two_responses", {}),
    ("combination:repeat_prompt", {"prompt_to_repeat": "The quick fox"}),
    ("startend:end_checker", {"end_phrase": "Any other questions?"}),
    ("startend:quotation", {}),
    ("punctuation:no_comma", {}),
]


@pytest.fixture(scope="module")
def reference() -> Any:
    """lm-eval's checkers. Stand-ins take the place of two packages that it does not install, and of a download at
    import: language and sentences are not compared.
    """
    nltk = pytest.importorskip("nltk")
    immutable = types.ModuleType("immutabledict")
    immutable.immutabledict = dict  # type: ignore[attr-defined]
    stand_in = types.ModuleType("langdetect")
    stand_in.detect = lambda text: "en"  # type: ignore[attr-defined]
    stand_in.LangDetectException = ValueError  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "langdetect", stand_in)
        patch.setitem(sys.modules, "immutabledict", immutable)
        patch.setattr(nltk.data, "find", lambda *_, **__: "")
        patch.setattr(nltk, "download", lambda *_, **__: True)
        from lm_eval.tasks.ifeval import instructions_registry

        yield instructions_registry.INSTRUCTION_DICT


def theirs(reference: Any, instruction: str, arguments: dict[str, Any], text: str) -> bool:
    checker = reference[instruction](instruction)
    checker.build_description(**arguments)
    return bool(text.strip()) and bool(checker.check_following(text))


def random_text(rng: random.Random) -> str:
    return " ".join(rng.choice(PIECES) for _ in range(rng.randint(1, 14))).replace(" \n", "\n").replace("\n ", "\n")


def test_all_instructions_of_the_benchmark_are_there(reference: Any) -> None:
    assert set(ifeval.INSTRUCTIONS) == set(reference)
    assert len(ifeval.INSTRUCTIONS) == 25


@pytest.mark.parametrize(("instruction", "arguments"), CASES)
def test_agrees_with_lm_eval(reference: Any, instruction: str, arguments: dict[str, Any]) -> None:
    rng = random.Random(f"{instruction}{arguments}")
    texts = [random_text(rng) for _ in range(1500)]
    texts += [
        "The quick fox\n\nfirst, we see", "HELLO there", '{"a": [1, 2]}', "```json\n[1]\n```", "a ****** b", '"quoted"',
        "one *** two", "*** a *** b ***", "My answer is no.", "P.P.S. x", "x. Any other questions?",
        "Section 1 a Section 2 b",
    ]  # fmt: skip
    results = [ifeval.follows(text, instruction, arguments) for text in texts]
    expected = [theirs(reference, instruction, arguments, text) for text in texts]
    different = [text for text, ours, other in zip(texts, results, expected, strict=True) if ours != other]
    assert not different, different[:3]
    assert {True, False} == set(expected), "the texts do not try both outcomes"


def test_capital_words_agree_with_the_tokenizer_that_lm_eval_uses() -> None:
    nltk_tokenize = pytest.importorskip("nltk.tokenize")
    tokenizer = nltk_tokenize.NLTKWordTokenizer()
    texts = [
        "HELLO World, this IS it.", "DON'T STOP!", "IT'S A TEST", "NASA's ROCKET", "U.S. ARMY", "AND/OR",
        "WELL-KNOWN Thing",
        "", "no capitals at all", "(ABC) [DEF] {GHI}", 'SHE SAID "NO".', "A1 B2 33", "END. START",
    ]  # fmt: skip
    for text in texts:
        expected = sum(token.isupper() for token in tokenizer.tokenize(text))
        assert ifeval._capital_words(text) == expected, text


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 0),
        ("No stop", 1),
        ("One. Two. Three.", 3),
        ("Dr. Smith went home. He slept!", 2),
        ("Is it? Yes! It is.", 3),
        ("It costs 3.50 dollars. Cheap.", 2),
        ("He paused... then went on.", 1),
        ('She said "Go." Then she left.', 2),
        ("The U.S. economy grew, e.g. in 2020. Good.", 2),
        ("Line one.\nLine two.", 2),
    ],
)
def test_sentences(text: str, count: int) -> None:
    assert ifeval.count_sentences(text) == count


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("en", "The weather is nice and we are going to the park with our friends."),
        ("de", "Das ist ein schöner Tag und wir gehen nicht nach Hause."),
        ("fi", "Hän on täällä ja me olemme iloisia, mutta se ei ole helppoa."),
        ("sw", "Watu wengi katika nchi hii ni wema sana na wanapenda kusaidia."),
        ("it", "Oggi è una bella giornata e non andiamo a casa con gli amici."),
        ("pt", "Hoje é um bom dia e nós não vamos para casa porque faz sol."),
        ("vi", "Hôm nay là một ngày đẹp và chúng tôi đi chơi."),
        ("ru", "Это хороший день, и мы идём домой."),
        ("bg", "Това е хубав ден и ние ще отидем на разходка."),
        ("ar", "هذا يوم جميل ونحن في المنزل مع الأصدقاء."),
        ("fa", "این یک روز خوب است و ما به خانه می‌رویم."),
        ("ur", "یہ ایک اچھا دن ہے اور ہم گھر میں ہیں۔"),
        ("hi", "यह एक अच्छा दिन है और हम बाहर जा रहे हैं।"),
        ("mr", "हा एक चांगला दिवस आहे आणि आम्ही बाहेर जात आहोत."),
        ("ne", "यो राम्रो दिन हो र हामी बाहिर जाँदैछौं।"),
        ("bn", "আজ একটি সুন্দর দিন।"),
        ("pa", "ਅੱਜ ਚੰਗਾ ਦਿਨ ਹੈ।"),
        ("gu", "આજે સારો દિવસ છે."),
        ("ta", "இன்று நல்ல நாள்."),
        ("te", "ఈ రోజు మంచి రోజు."),
        ("kn", "ಇಂದು ಒಳ್ಳೆಯ ದಿನ."),
        ("th", "วันนี้เป็นวันที่ดี"),
        ("ko", "오늘은 좋은 날입니다."),
        ("", "123 !? 🙂"),
    ],
)
def test_languages(language: str, text: str) -> None:
    assert languages.detect(text) == language


def test_text_in_another_language_is_not_english() -> None:
    assert not ifeval.follows("das ist nicht gut und wir gehen nach hause", "change_case:english_lowercase", {})
    assert ifeval.follows("this is good and we go home", "change_case:english_lowercase", {})
    assert ifeval.follows("THIS IS GOOD", "change_case:english_capital", {})
    assert not ifeval.follows("12345", "change_case:english_capital", {})


@given(text=st.text(max_size=300), index=st.integers(0, len(CASES) - 1))
@settings(max_examples=400, deadline=None)
def test_no_text_makes_a_checker_raise(text: str, index: int) -> None:
    instruction, arguments = CASES[index]
    assert isinstance(ifeval.follows(text, instruction, arguments), bool)
    assert isinstance(
        ifeval.follows(text, "length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}), bool
    )
    assert isinstance(ifeval.follows(text, "language:response_language", {"language": "de"}), bool)


def test_deeply_nested_json_is_not_an_error() -> None:
    assert ifeval.follows("[" * 100_000, "detectable_format:json_format", {}) is False
    assert json.loads("[1]") == [1]
