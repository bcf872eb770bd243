"""The files of the console.

All have one hash in their path, that of all of them together: a browser may keep them without asking again, and they
still name one another by relative paths. So the modules run as they are, without a build.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from msgspec import Struct

FOLDER: Final = Path(__file__).parents[2] / "console"
STATIC: Final = "/console/static"
_SHELL: Final = "index.html"
_TYPES: Final = {
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}


@dataclass(frozen=True)
class File:
    """A file."""

    media: str
    body: bytes

    @cached_property
    def packed(self) -> bytes:
        """The file compressed, which takes some milliseconds at the first use."""
        return gzip.compress(self.body, mtime=0)


class Files(Struct, frozen=True):
    """All files of one state of the folder."""

    version: str
    """The hash of all of them."""
    shell: bytes
    """The page that loads the others."""
    by_path: dict[str, File]


class Folder:
    """The files of a folder, which are read again when one of them has changed: a page is changed by saving a file."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._seen: list[tuple[str, int]] = []
        self._files: Files | None = None

    def read(self) -> Files:
        """Return the files as they are now. Reads the disk."""
        found = sorted(path for path in self._folder.rglob("*") if path.is_file())
        seen = [(str(path), path.stat().st_mtime_ns) for path in found]
        if self._files is None or seen != self._seen:
            self._files, self._seen = self._load(found), seen
        return self._files

    @property
    def last(self) -> Files:
        """The files as they were read last. Reads the disk where they never were."""
        return self._files or self.read()

    def _load(self, found: list[Path]) -> Files:
        bodies = {path.relative_to(self._folder).as_posix(): path.read_bytes() for path in found}
        shell = bodies.pop(_SHELL)
        digest = hashlib.sha256()
        for name, body in bodies.items():
            digest.update(f"{name}\0{len(body)}\0".encode() + body)
        version = digest.hexdigest()[:16]
        return Files(
            version,
            shell.replace(b"{{static}}", f"{STATIC}/{version}".encode()),
            {
                name: File(media, body)
                for name, body in bodies.items()
                if (media := _TYPES.get(Path(name).suffix)) is not None
            },
        )
