"""Which language a text is in, for the languages that IFEval asks for: by script, then by function words. Deterministic
and offline.

A script that one language owns here decides alone (Thai, Hangul, Kannada, Gurmukhi, Telugu, Gujarati, Bengali, Tamil).
Languages that share a script are told apart by their commonest function words and by letters that only one of them
writes. It is a heuristic: on short texts without function words it answers the script's default, and a text without
letters is in no language.
"""

from __future__ import annotations

import re
import unicodedata

# First code point and last of each script's main blocks.
_SCRIPTS: dict[str, tuple[tuple[int, int], ...]] = {
    "latin": ((0x41, 0x5A), (0x61, 0x7A), (0xC0, 0x24F), (0x1E00, 0x1EFF)),
    "cyrillic": ((0x400, 0x52F),),
    "arabic": ((0x600, 0x6FF), (0x750, 0x77F), (0xFB50, 0xFDFF), (0xFE70, 0xFEFF)),
    "devanagari": ((0x900, 0x97F),),
    "bengali": ((0x980, 0x9FF),),
    "gurmukhi": ((0xA00, 0xA7F),),
    "gujarati": ((0xA80, 0xAFF),),
    "tamil": ((0xB80, 0xBFF),),
    "telugu": ((0xC00, 0xC7F),),
    "kannada": ((0xC80, 0xCFF),),
    "thai": ((0xE00, 0xE7F),),
    "hangul": ((0x1100, 0x11FF), (0x3130, 0x318F), (0xAC00, 0xD7A3)),
    "kana": ((0x3040, 0x30FF),),
    "han": ((0x3400, 0x4DBF), (0x4E00, 0x9FFF)),
    "greek": ((0x370, 0x3FF),),
    "hebrew": ((0x590, 0x5FF),),
}

_OWNED = {
    "bengali": "bn",
    "gurmukhi": "pa",
    "gujarati": "gu",
    "tamil": "ta",
    "telugu": "te",
    "kannada": "kn",
    "thai": "th",
    "hangul": "ko",
    "kana": "ja",
    "han": "zh",
    "greek": "el",
    "hebrew": "he",
}

# The first language of a script is its default. Words are lower case, in NFC.
_WORDS: dict[str, dict[str, str]] = {
    "latin": {
        "en": "the and of to in is that it for was with as on are this be by not or have from you at an but they we",
        "de": "der die und das ist nicht ein eine zu den mit von für auf im dem sich auch es wir ich sie wie aus bei",
        "it": "il la di che e è per un una non sono con del della in le lo gli nel più come anche questo si dei ha",
        "pt": "o a de que e não um uma os para com do da em no na por mais como se dos das ao você são é às seu sua",
        "es": "el la de que y en los un una por con no las para se del al lo como más su es pero sus le ha este sí son",
        "fr": "le la les de des et est un une que pour dans en du il pas sur au ce qui avec ne se par plus vous je",
        "fi": "ja on ei se että hän ovat oli mutta joka kun niin kuin tai myös sen hänen voi olla ole tämä me minä",
        "sw": "na ya wa ni kwa katika la za kuwa hii hiyo yake cha kama pia hilo wake yangu lakini watu sana kila",
        "vi": "và của là có không được cho các một những trong này với người khi để đã từ như tôi bạn đến cũng về sẽ",
        "nl": "de het een en van is dat niet op te in voor met zijn aan er ook maar om hij ze wij deze door naar",
    },
    "cyrillic": {
        "ru": "и в не на я что с это как по но он она они мы из у за вы так же от то для его бы все ее был о к",
        "bg": "и на да се за от не е в са с по че това като ще който която които към или си ни ви беше има много бъде",
    },
    "arabic": {
        "ar": "في من على أن إلى التي الذي هذا هذه كان عن مع لا ما هو هي لم قد كل بعد ذلك بين كما أو ولا وهو إن",
        "fa": "و در به از که این را با است برای آن یک خود تا کرد بر هم نیز شده می های اما یا شما من ما بود باشد",
        "ur": "کے کی میں ہے کا اور سے کو نے ہیں یہ پر کہ ہو وہ ایک بھی نہیں اس کر ان جو تو تھا گیا لئے ہوں آپ",
    },
    "devanagari": {
        "hi": "के है में की को और का से यह हैं पर ने भी नहीं एक हो इस कि जो कर तो लिए था वह अपने साथ हम आप",
        "mr": "आहे आणि या च्या मध्ये ते हे ती तो आहेत एक नाही साठी करून होते त्या म्हणून की मी आपण असे केले तर आपल्या",
        "ne": "छ र को मा हो छन् लाई यो पनि गर्न भएको एक हरू ले बाट गरेको हुन्छ तथा थियो भने तपाईं हामी मेरो गर्नुहोस् छैन",
    },
}

# Letters that only one of the languages of a script writes.
_LETTERS: dict[str, str] = {
    "de": "ßäöü",
    "vi": "ăđơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ",
    "pt": "ãõ",
    "fr": "çœêëûîï",
    "es": "ñ¿¡",
    "ru": "ыэё",
    "fa": "پچژگ",
    "ur": "ٹڈڑںےہھ",
    "mr": "ळ",
}

_SETS = {script: {code: frozenset(words.split()) for code, words in table.items()} for script, table in _WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+(?:[\u0900-\u0963\u200c\u200d]*[^\W\d_]*)*")


def _script(char: str) -> str:
    point = ord(char)
    for name, blocks in _SCRIPTS.items():
        if any(first <= point <= last for first, last in blocks):
            return name
    return ""


def detect(text: str) -> str:
    """The ISO 639-1 code of the language that most of the text is in; empty without letters."""
    text = unicodedata.normalize("NFC", text).lower()
    counts: dict[str, int] = {}
    for char in text:
        if char.isalpha():
            script = _script(char)
            counts[script] = counts.get(script, 0) + 1
    counts.pop("", None)
    if not counts:
        return ""
    script = max(sorted(counts), key=lambda name: counts[name])
    if script == "han" and counts.get("kana"):
        script = "kana"
    if script in _OWNED:
        return _OWNED[script]
    words = _WORD.findall(text)
    scores: dict[str, float] = {}
    for code, known in _SETS[script].items():
        letters = sum(text.count(letter) for letter in _LETTERS.get(code, ""))
        scores[code] = sum(word in known for word in words) + 0.5 * letters
    if script == "latin" and "ä" in text and not any(letter in text for letter in "üß"):
        scores["de"] -= 0.5 * (text.count("ä") + text.count("ö"))  # Finnish writes these two as well
    best = max(scores.values())
    return next(code for code, score in scores.items() if score == best)
