"""The help of commands: text of the terminal's width, options in panels, and examples at the end."""

from __future__ import annotations

import inspect
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


class Command(TyperCommand):
    """A command whose `epilog` holds examples, one per line."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from rich.console import Console
        from rich.panel import Panel
        from rich.text import Text

        examples, self.epilog = inspect.cleandoc(self.epilog or ""), None
        paragraphs = inspect.cleandoc(self.help or "").split("\n\n")
        self.help = "\n\n".join(" ".join(paragraph.split()).replace("[", r"\[") for paragraph in paragraphs)
        _hide_python(self.get_params(ctx))
        super().format_help(ctx, formatter)
        Console().print(Panel(Text(examples), title="Examples", title_align="left", border_style="dim"))


class Group(TyperGroup):
    """The program, with its commands."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        _hide_python(self.get_params(ctx))
        super().format_help(ctx, formatter)


def _hide_python(parameters: list[Any]) -> None:
    """Hide types and defaults of Python, as of arguments and of --help. Options say by their metavar what they take."""
    for parameter in parameters:
        if parameter.default is None:
            parameter.show_default = False  # some versions of typer show [default: None]
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # noqa: ARG005
        elif parameter.metavar is None:
            parameter.metavar = ""


def add_command(app: typer.Typer, name: str, function: Any, *, examples: str) -> None:
    """Add a command with `examples`, one per line, for the end of its help."""
    app.command(name, cls=Command, epilog=examples)(function)
