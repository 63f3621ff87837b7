"""What two questions must share for one answer, where vectors hardly tell them apart.

In: texts. Out: numbers, negations, names, and the words that carry meaning; whether those of two
questions fit. It says no to much that means the same, for a wrong answer costs more than a call.
Knows function words of English, German, French and Spanish; of other languages every word counts.
"""

from __future__ import annotations

import re

from headrace.core.frozen import frozen

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ENDS = frozenset(".!?:\n")
_NEGATION_TEXT = (
    "not no none never nor neither without cannot except off nicht kein keine keinen keiner keines "
    "nie ohne außer pas jamais sans aucun aucune nunca sin ningún ninguna non mai senza nessun "
    "não sem niet geen zonder nooit"
)
_FUNCTION_TEXT = (
    "a an the of in on at to for from with by as into about over than then and or but if so is are "
    "was were be been being am do does did done has have had can could may might shall should will "
    "would must i you he she it we they me my your his her its our their this that these those "
    "there here what which who whom whose when where why how "
    "der die das den dem des ein eine einen einem einer und oder ist sind war wird werden kann "
    "können ich sie es wir mein meine meinen meiner ihr ihre was welche welcher wer wann wo wie "
    "warum im auf an zu zum zur von für mit nach bei "
    "le la les l un une des du de et ou est sont que quoi qui quel quelle quand où comment "
    "pourquoi je vous mon ma mes votre vos dans sur pour avec à au aux faire pouvez puis il "
    "el los las una unos del y o son qué cuál cuándo dónde cómo puedo mi mis su sus en con por para"
)
# With them people ask, whatever they ask for.
_ASKING_TEXT = (
    "way tell explain describe give please possible best summary working meaning mean get got make "
    "need know take"
)
_NEGATIONS = frozenset(_NEGATION_TEXT.split())
_WITHOUT_MEANING = frozenset(f"{_FUNCTION_TEXT} {_ASKING_TEXT}".split())


@frozen
class Marks:
    """Of a question. `words` carry its meaning, in their order."""

    numbers: tuple[str, ...]
    num_negations: int
    names: tuple[str, ...]
    words: tuple[str, ...]

    def fits(self, other: Marks) -> bool:
        """Whether the two may mean the same.

        One may have words that the other has not, but not each of them: that is another object.
        The same words in another order are another direction.
        """
        if (self.numbers, self.num_negations, self.names) != (
            *(other.numbers, other.num_negations, other.names),
        ):
            return False
        mine, yours = set(self.words), set(other.words)
        if mine == yours:
            return self.words == other.words
        return mine <= yours or yours <= mine


def read_marks(text: str) -> Marks:
    """Those of a question."""
    num_negations = 0
    names: list[str] = []
    words: list[str] = []
    for match in _WORD.finditer(text):
        word = match.group()
        lower = word.lower().replace("’", "'")
        is_negation = lower in _NEGATIONS or lower.endswith("n't")
        num_negations += is_negation
        lower = lower.removesuffix("'s")
        before = text[: match.start()].rstrip(" \t\"'([")
        is_first = not before or before[-1] in _ENDS
        if word[0].isupper() and not is_first and word != "I":
            names.append(lower)
        if not is_negation and lower not in _WITHOUT_MEANING:
            words.append(_singular(lower))
    return Marks(tuple(_NUMBER.findall(text)), num_negations, tuple(names), tuple(words))


def _singular(word: str) -> str:
    has_plural = len(word) > 3 and word.endswith("s") and not word.endswith("ss")
    return word[:-1] if has_plural else word
