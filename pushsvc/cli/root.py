"""The root of the command line: its options and its handling of errors."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PushsvcError, StoreUnavailable
from . import COMMANDS
from .lazy import LazyCommand, lazy_group
from .process import PARTS, print_message
from .state import State


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"pushsvc {version('pushsvc')}")
        raise typer.Exit


def _root(
    context: typer.Context,
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", envvar="PUSHSVC_CONFIG", help="The configuration, a TOML file.", metavar="FILE"),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Self-hosted push notifications: HTTP in, APNs and FCM out, nothing lost."""
    context.obj.config = config
    context.obj.seeks = context.invoked_subcommand not in PARTS


def run(arguments: Sequence[str], *, alone: bool = False) -> int:
    """Run one command line and return its exit code; see `pushsvc.cli.main`. `alone`: see `State`."""
    if fault := unreadable(arguments):
        print_message(f"pushsvc: {fault}")
        return 2
    root = lazy_group(
        _root, {name: LazyCommand(name, target, summary, __package__) for name, (target, summary) in COMMANDS.items()}
    )

    def act() -> None:
        sys.exit(root.main(list(arguments), prog_name="pushsvc", obj=State(alone=alone), standalone_mode=False))

    return reported(act)


def reported(act: Callable[[], object]) -> int:
    """Do what a command does, print an expected error and return the exit code."""
    try:
        act()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except typer.TyperException as error:
        usage = io.StringIO()
        error.show(usage)  # type: ignore[attr-defined]  # of a class of typer that it does not export
        print_message(usage.getvalue())
        return error.exit_code
    except (PushsvcError, BaseExceptionGroup) as error:
        # Of tasks that ran side by side several have failed. What is not ours is a bug, and then the whole is shown.
        leaves = list(_leaves(error))
        if not all(isinstance(leaf, PushsvcError) for leaf in leaves):
            raise
        for text in dict.fromkeys(map(_text_of, leaves)):
            print_message(f"pushsvc: {text}")
        return 1
    return 0


def _text_of(error: BaseException) -> str:
    fix = error.fix if isinstance(error, StoreUnavailable) else ""
    return f"{error} ({fix})" if fix else str(error)


def unreadable(arguments: Sequence[str]) -> str:
    """Return what is wrong with arguments that the locale cannot decode, or an empty text.

    Python passes such bytes on as surrogates, which neither JSON nor a terminal accepts.
    """
    for place, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            locale = sys.getfilesystemencoding()
            return f"argument {place} cannot be read as {locale}: " + (
                "it is not UTF-8" if locale == "utf-8" else "set LC_ALL=C.UTF-8, or PYTHONUTF8=1"
            )
    for name in sorted(os.environ):
        if name.upper().startswith("PUSHSVC"):
            try:
                os.environ[name].encode()
            except UnicodeEncodeError:
                return f"the environment variable {name!a} cannot be read as {sys.getfilesystemencoding()}"
    return ""


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error
