"""Downloading a file so that a broken connection or a killed process costs only what was not yet received."""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO

from medexp.core.errors import DataError, MedexpError
from medexp.core.files import write_json

# Called with the bytes that are there and with all bytes, where the server says how many.
Progress = Callable[[int, int | None], None]
_BLOCK_BYTES = 2**18
_COMPLETE = 416  # what is asked for begins at the end of the file or behind it


@dataclass(frozen=True)
class ResumingDownloader:
    """A downloader for pooch that goes on where an earlier one stopped.

    What was received stands in `part`, beside which a small file keeps what the server says of its version. The rest
    is asked for on the condition that the version is still the same; where it is not, or where the server does not
    know parts, the file is received from its beginning.

    Attributes:
        part: File of what was received.
        progress: Told how far it is.
        attempts: How often a connection may break without anything having been received.
        timeout_s: How long the server may be silent.
    """

    part: Path
    progress: Progress
    attempts: int = 3
    timeout_s: float = 60.0

    def __call__(self, url: str, output_file: str, pooch: object) -> None:
        """Receive a file.

        Args:
            url: Where it is.
            output_file: Where pooch wants it, in the folder of `part`.
            pooch: Not used; part of pooch's signature.

        Raises:
            DataError: The server does not give the file, or the connection breaks again and again.
            MedexpError: The disk has no room for it.
        """
        failures = 0
        while True:
            before = self._received()
            try:
                self._receive(url)
                break
            except urllib.error.HTTPError as error:
                if error.code == _COMPLETE and before:
                    self.discard()  # of another version, or longer than it should be
                    continue
                raise DataError(f"{url} gives no file ({error.code} {error.reason}); {_later(self.part)}") from error
            except (ConnectionError, TimeoutError, HTTPException, urllib.error.URLError) as error:
                failures = 0 if self._received() > before else failures + 1
                if failures >= self.attempts:
                    raise DataError(f"the connection to {url} breaks ({error}); {_later(self.part)}") from error
        self._version_file.unlink(missing_ok=True)
        self.part.replace(output_file)

    def discard(self) -> None:
        """Forget what was received."""
        self.part.unlink(missing_ok=True)
        self._version_file.unlink(missing_ok=True)

    @property
    def _version_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.version")

    def _received(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _receive(self, url: str) -> None:
        """Receive the rest, or all of it; ConnectionError where it ends too early."""
        version = self._version()
        start = self._received() if version else 0
        headers = {"Range": f"bytes={start}-", "If-Range": version} if start and version else {}
        request = urllib.request.Request(
            url, headers={"User-Agent": "medexp", "Accept-Encoding": "identity", **headers}
        )
        with urllib.request.urlopen(request, timeout=self.timeout_s) as answer:
            start = start if answer.status == 206 else 0
            length = answer.headers.get("Content-Length")
            total = None if length is None else start + int(length)
            self._check_room(total, start)
            if not start:
                self._keep_version(answer)
            with self.part.open("ab" if start else "wb") as stream:
                done = self._copy(answer, stream, start, total)
        if total is not None and done < total:
            raise ConnectionError(f"it ended after {done:,} of {total:,} bytes")

    def _copy(self, answer: HTTPResponse, stream: IO[bytes], done: int, total: int | None) -> int:
        self.progress(done, total)
        while block := answer.read(_BLOCK_BYTES):
            stream.write(block)
            done += len(block)
            self.progress(done, total)
        return done

    def _check_room(self, total: int | None, start: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and total - start > free:
            raise MedexpError(
                f"{self.part.parent} needs room for {total - start:,} bytes, has {free:,}; free space, or choose "
                "another folder with --to"
            )

    def _version(self) -> str | None:
        try:
            version = json.loads(self._version_file.read_text())
        except (OSError, ValueError):
            return None
        return version if isinstance(version, str) else None

    def _keep_version(self, answer: HTTPResponse) -> None:
        """Keep what tells the version; without it, what is received cannot be gone on with."""
        tag = answer.headers.get("ETag", "W/")
        version = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag
        if version is None:
            self._version_file.unlink(missing_ok=True)
        else:
            write_json(self._version_file, version)


def _later(part: Path) -> str:
    return f"try again later, what was received is kept in {part}" if part.exists() else "try again later"
