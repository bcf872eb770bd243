"""Commands whose modules are imported when they run, so that `pushsvc --help` does not load the SDKs.

Help and usage errors are plain text: rich would more than double the time until they show, and would take `[..]` in a
help text for markup. `--config` is an option of the root and of every command, because users write it in both places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup
from typer.main import get_command


class PlainCommand(TyperCommand):
    """A command whose usage line shows arguments as they are typed: `ID`, not typer's `{ID}`. Of its options no number
    is infinite or NaN, which is within all bounds."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [piece.removeprefix("{").removesuffix("}") for piece in super().collect_usage_pieces(ctx)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest: list[str] = super().parse_args(ctx, args)
        for option in self.params:
            value = ctx.params.get(option.name)
            if isinstance(value, float) and not math.isfinite(value):
                raise typer.BadParameter(f"{option.opts[0]}: expected a finite number, not {value}", ctx)
        return rest


class LazyCommand(TyperCommand):
    """Represents the command `target` (`module:function`, the module relative to `package`) until it is called."""

    def __init__(self, name: str, target: str, text: str, package: str) -> None:
        super().__init__(name, help=text)
        self._target = target
        self._package = package

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the real command, in place of this one."""
        return self.load().make_context(info_name, args, parent=parent, **extra)

    def load(self) -> Any:
        """Import and return the real command."""
        module, _, attribute = self._target.partition(":")
        target = getattr(import_module(f".{module}", self._package), attribute)
        if isinstance(target, typer.Typer):
            for each in target.registered_commands:
                each.cls = PlainCommand
            command = get_command(target)
        else:
            app = typer.Typer(add_completion=False, rich_markup_mode=None)
            app.command(self.name, cls=PlainCommand)(target)
            command = get_command(app)
        _finish(command)
        return command


def lazy_group(callback: Callable[..., None], commands: Mapping[str, LazyCommand]) -> TyperGroup:
    """Return the root command: its options from `callback`, its commands loaded when called."""
    app = typer.Typer(
        no_args_is_help=True, rich_markup_mode=None, context_settings={"help_option_names": ["-h", "--help"]}
    )
    app.callback()(callback)
    root = get_command(app)
    assert isinstance(root, TyperGroup), "a Typer with a callback is a group"
    root.commands.update(commands)
    return root


def _shown_sort(param: Any, ctx: Any) -> str:
    """Return what help shows beside an option, for its value. An argument has its name."""
    if isinstance(param, TyperArgument):
        return ""
    text: str = type(param).display_type_rich(param, ctx)
    return _SORTS.get(text, text)


def _take_config(context: typer.Context, value: Path | None) -> Path | None:
    if value is not None:
        context.obj.config = value
    return value


def _template(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="The configuration, a TOML file.",
            metavar="FILE",
            expose_value=False,
            callback=_take_config,
        ),
    ] = None,
) -> None:
    """Provide the `--config` option that every command gets. Never called."""


_SORTS: Final = {
    "<int>": "N",
    "<int range>": "N",
    "<float>": "N",
    "<float range>": "N",
    "<path>": "PATH",
    "<str>": "TEXT",
}
"""What help shows for the values of options, by what typer shows."""


def _finish(command: Any) -> None:
    """Add the option `--config` to a command or to those of a group, and let their help show no types of Python."""
    if isinstance(command, TyperGroup):
        for inner in command.commands.values():
            _finish(inner)
        return
    for param in command.params:
        param.display_type_rich = partial(_shown_sort, param)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(_template)
    command.params.extend(option for option in get_command(app).params if option.name == "config")
