"""The one exception a user is meant to read."""


class IndusCotError(Exception):
    """A user's mistake or a fault of their data.

    Its text is the whole message: what is wrong, where (file, row, field) and what to do.
    The command line prints it without a traceback and exits with code 1.
    """
