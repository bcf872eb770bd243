"""`pushsvc init`: write the configuration that a new installation begins with. It asks nothing."""

from __future__ import annotations

import shlex
import sys
from importlib.resources import files as resources
from pathlib import Path
from typing import Annotated

import typer

from .files import FileFailed, create_whole, write_whole

FIRST_APP = "shop"
"""The app of the example."""


def init(
    context: typer.Context,
    file: Annotated[
        Path | None, typer.Argument(help="The file to write; by default `--config`, or pushsvc.toml.", metavar="FILE")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a configuration with every key, its default and a comment, and name the next commands.

    An existing file is kept unless `--force` is given. Prints the path; the rest goes to standard error.
    """
    from ..settings.schema import NEW_FILE

    path: Path = file or context.obj.config or NEW_FILE
    content = resources("pushsvc.settings").joinpath("example.toml").read_bytes()
    if force:
        write_whole(path, content)
    elif path.exists() or path.is_symlink():
        raise FileFailed(f"{path} exists already: name another file, or replace it with --force")
    else:
        create_whole(path, content)
    print(path)
    print(_next(path), file=sys.stderr)


def _next(path: Path) -> str:
    """Return what to do next, as commands that can be copied."""
    return (
        f"\nEdit it: one section [apps.NAME] for each app, with its accounts at Apple and Google. Then:\n\n"
        f"  export PUSHSVC_CONFIG={shlex.quote(str(path.absolute()))}\n"
        f"  pushsvc check\n"
        f"  pushsvc keys new --app {FIRST_APP} --name web --scope push --scope devices\n"
        f"  pushsvc up"
    )
