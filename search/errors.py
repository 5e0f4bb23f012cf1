"""The error that a user can cause and mend.

Every command prints it as one line on standard error and exits with status 2; see
`search.cli.options.command`.
"""


class UserError(ValueError):
    """What was asked cannot be done; the message holds the rule, the value received, the way out.

    The message is one line and never holds a password.
    """
