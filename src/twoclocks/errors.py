"""This file knows how bad input is refused: one sentence (what, expected, got, what to do), exit code 2."""


class InputError(ValueError):
    """Input that cannot be used. Its message is one plain sentence for the person who gave it."""


def nearest(word: str, known: list[str]) -> str:
    """Return " Did you mean 'x'?" for the known word closest to `word`, or the list of known words.

    >>> nearest("modular-adition", ["modular-addition"])
    " Did you mean 'modular-addition'?"
    """
    from difflib import get_close_matches  # costs 8 ms, and is needed only when something is refused

    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else f" Known: {', '.join(known)}."
