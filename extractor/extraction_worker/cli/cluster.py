"""Commands for jobs in a cluster. They are the operator's, which is found by its name when one of them is called."""

from importlib import import_module
from typing import Any

import click

_COMMANDS = "extraction_operator.kubectl.commands"
_SHORT = {
    "watch": "Follow a job in a cluster to its end.",
    "logs": "Print the logs of a job in a cluster: what failed first, then the lead pod.",
    "cancel": "End a job in a cluster without a result; what is published already stays.",
    "retry": "Begin another attempt of a failed job in a cluster.",
    "suspend": "Stop the workers of a job in a cluster.",
    "resume": "Let a suspended job in a cluster go on.",
}


class _InCluster(click.Command):
    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Let the real command read its options; the context is its, and so is what is called then."""
        try:
            found = getattr(import_module(_COMMANDS), self.name or "")
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"`extraction {self.name}` needs the operator's part, and {error.name} isn't installed:"
                " pip install 'extraction-operator[kubectl]'"
            ) from None
        context: click.Context = found.make_context(info_name, args, parent, **extra)
        return context


COMMANDS: tuple[click.Command, ...] = tuple(_InCluster(name, short_help=text) for name, text in _SHORT.items())
