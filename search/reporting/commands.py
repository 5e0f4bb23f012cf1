"""Commands to go on with, written so that a shell runs them as they stand."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Writes commands on the database of the present command."""

    variable: str = ""
    """An assignment that names the database where its URL has a password, which is masked: other
    users can see a process's options."""
    option: str = ""
    """The option that names any other database than the default one."""

    def line(self, module: str, *words: str) -> str:
        """Return `python -m MODULE` with these words, which are already quoted for a shell."""
        return " ".join(filter(None, [self.variable, f"python -m {module}", *words, self.option]))
