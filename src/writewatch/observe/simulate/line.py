"""One line of a script, read word by word; what it cannot understand it refuses with the line's number and the mend."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Final, NoReturn

from writewatch.errors import UsageError

_BEFORE_COMMENT: Final = re.compile(r"""(?:"[^"]*"|'[^']*'|[^#"'])*""")


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words) or "none"


class Line:
    """The words of a line, taken from left to right.

    Args:
        number: Of the line, from 1.
        text: As written; comments begin with ``#``, a text in quotes is one word.

    Attributes:
        text: Without its comment.
    """

    def __init__(self, number: int, text: str) -> None:
        self.number = number
        found = _BEFORE_COMMENT.match(text)
        self.text = found[0].strip() if found else ""
        try:
            self._words = shlex.split(text, comments=True)
        except ValueError:
            self.refuse("a quotation is not closed; end it with the quote that it began with")

    def __bool__(self) -> bool:
        return bool(self._words)

    def refuse(self, sentence: str) -> NoReturn:
        """Raise ``UsageError`` with the line's number."""
        raise UsageError(f"line {self.number}: {sentence}")

    def peek(self, at: int = 0) -> str:
        """A word further on; empty where there is none."""
        return self._words[at] if at < len(self._words) else ""

    def take(self, what: str) -> str:
        """The next word. ``what`` completes "expected …" where the line has ended."""
        if not self._words:
            self.refuse(f"the line ends early; expected {what}")
        return self._words.pop(0)

    def accept(self, word: str) -> bool:
        """Whether the next word is this one; it is taken then."""
        if self.peek() != word:
            return False
        self._words.pop(0)
        return True

    def choose(self, what: str, choices: Mapping[str, int]) -> int:
        """The value of the next word."""
        word = self.take(f"{what}: {_listed(choices)}")
        if word not in choices:
            self.refuse_word(word, what, choices)
        return choices[word]

    def flags(self, what: str, choices: Mapping[str, int]) -> int:
        """All words to the end of the line, combined."""
        value = 0
        while self._words:
            value |= self.choose(what, choices)
        return value

    def refuse_word(self, word: str, what: str, known: Iterable[str]) -> NoReturn:
        """Refuse a word that is not one of those known, with the nearest, or all where none is near."""
        known = list(known)
        near = difflib.get_close_matches(word, known, 1)
        mend = f'did you mean "{near[0]}"?' if near else f"known: {_listed(known)}"
        self.refuse(f'"{word}" is no {what}; {mend}')

    def end(self) -> None:
        """Refuse what is left over."""
        if self._words:
            self.refuse(f'"{self._words[0]}" is one word too many; leave it out')
