"""The one exception that a user is meant to read, and the words for an unknown name."""

from collections.abc import Collection
from difflib import get_close_matches


class IndusCotError(Exception):
    """A user's mistake or a fault of their data.

    Its text is the whole message: what is wrong, where (file, row, field) and what to do.
    The command line prints it without a traceback and exits with code 1.
    """


def did_you_mean(name: str, known: Collection[str]) -> str:
    """``; did you mean NAME?`` with the closest known name, or nothing where none is close."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_name(parameter: str, name: str, known: Collection[str]) -> None:
    """Raise unless ``name`` is one of the ``known`` names.

    Args:
        parameter: Which parameter or field holds the name, for the message.
        name: The name.
        known: Every name that the table of such things has.

    Raises:
        IndusCotError: the name is unknown; the message lists the known ones and the closest.
    """
    if name not in known:
        hint = did_you_mean(name, known)
        raise IndusCotError(f"{parameter}: no {name!r}; there are {', '.join(sorted(known))}{hint}")
