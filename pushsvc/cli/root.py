"""The root of the command line: its options and its handling of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PushsvcError, StoreUnavailable
from . import COMMANDS
from .lazy import LazyCommand, lazy_group
from .process import PARTS
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
        print(f"pushsvc: {fault}", file=sys.stderr)
        return 2
    root = lazy_group(
        _root, {name: LazyCommand(name, target, told, __package__) for name, (target, told) in COMMANDS.items()}
    )
    return reported(lambda: root.main(list(arguments), prog_name="pushsvc", obj=State(alone=alone)))


def reported(act: Callable[[], object]) -> int:
    """Do what a command does, print an expected error and return the exit code."""
    try:
        act()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return 130
    except StoreUnavailable as error:
        print(f"pushsvc: {error}" + (f" ({error.fix})" if error.fix else ""), file=sys.stderr)
        return 1
    except PushsvcError as error:
        print(f"pushsvc: {error}", file=sys.stderr)
        return 1
    except BaseExceptionGroup as group:
        # Tasks that ran side by side failed. Anything that is not ours is a bug, and then the whole is shown.
        leaves = list(_leaves(group))
        if not all(isinstance(leaf, PushsvcError) for leaf in leaves):
            raise
        for text in dict.fromkeys(str(leaf) for leaf in leaves):
            print(f"pushsvc: {text}", file=sys.stderr)
        return 1
    return 0


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


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
