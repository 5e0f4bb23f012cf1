"""The error for a mistake that the user can correct.

Every command prints it as one line on standard error and exits with status 2; see
`search.cli.parser.command`.
"""


class UserError(ValueError):
    """A request cannot be met; the message names the rule, the value received and the way out.

    The message is a single line and never contains a password.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return `text` as one line that a terminal can show, with line ends, escape sequences and
    undecodable bytes escaped; a file name may hold any of them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
