"""The error that a user can cause and mend.

Every command prints it as one line on standard error and exits with status 2; see
`search.cli.parser.command`.
"""


class UserError(ValueError):
    """What was asked cannot be done; the message holds the rule, the value received, the way out.

    The message is one line and never holds a password.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return `text` in one line, and as a terminal can show it: a file's name may hold line ends,
    escape sequences, and bytes that are no characters."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
