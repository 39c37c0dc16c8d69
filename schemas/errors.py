"""The exception whose message is written for users, and the check for unknown names."""

from collections.abc import Collection
from difflib import get_close_matches


class IndusCotError(Exception):
    """A mistake of the user or invalid data.

    The text is the complete message: what is wrong, where (file, row, field) and what to do.
    The command line prints it without a traceback and exits with code 1.
    """


def did_you_mean(name: str, known: Collection[str]) -> str:
    """Return ``; did you mean NAME?`` with the closest known name, or an empty string if none is close."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def check_name(parameter: str, name: str, known: Collection[str]) -> None:
    """Raise unless ``name`` is one of the ``known`` names.

    Args:
        parameter: Parameter or field that holds the name, for the message.
        name: The name to check.
        known: All valid names.

    Raises:
        IndusCotError: the name is unknown; the message lists the valid names and the closest one.
    """
    if name not in known:
        hint = did_you_mean(name, known)
        raise IndusCotError(f"{parameter}: no {name!r}; there are {', '.join(sorted(known))}{hint}")
