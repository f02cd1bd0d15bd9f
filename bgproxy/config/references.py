"""`${VAR}` and `${file:PATH}` inside values, and how a file is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from bgproxy.config.problems import Wrong

_MAX_SECRET = 64 * 1024  # bytes
_REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)(\}?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def has_reference(text: str) -> bool:
    return "${" in text


def reads_a_file(text: str) -> bool:
    """Does it hold something that may be a secret? Then the result is not to be quoted."""
    return "${file:" in text


def expand(text: str, env: Mapping[str, str], directory: Path) -> str:
    """`${VAR}` and `${file:PATH}` replaced, `$${` made `${`. Wrong says which one cannot be.

    A path is relative to `directory`, the one the configuration is in. One line break at the end of a file is dropped.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] == "$${":
            return "${"
        name, closed = match[1], match[2]
        if not closed:
            raise Wrong(f"{text!r}: '${{' has no '}}'", expected="${VAR} or ${file:PATH}; a literal ${ is written $${")
        if name.startswith("file:"):
            return _secret(directory, name.removeprefix("file:"))
        if not _NAME.fullmatch(name):
            raise Wrong(
                f"{match[0]!r} is not a reference", expected="${VAR} or ${file:PATH}; a literal ${ is written $${"
            )
        if name not in env:
            raise Wrong(f"the environment variable {name} is not set", expected="it to hold the value")
        return env[name]

    return _REFERENCE.sub(replace, text)


def _secret(directory: Path, name: str) -> str:
    path = directory / name
    try:
        if not name:
            raise ValueError("the path is missing")
        return read_bytes(path, _MAX_SECRET).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Wrong(f"{str(path)!r}: the file is not UTF-8", expected="a text file") from None
    except ValueError as error:
        raise Wrong(f"{str(path)!r}: {error}", expected="a file that holds the value") from None


def read_bytes(path: Path, limit: int) -> bytes:
    """ValueError is the half sentence that says why the file cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise ValueError("there is no such file") from None
    except IsADirectoryError:
        raise ValueError("this is a directory") from None
    except PermissionError:
        raise ValueError("this user may not read the file") from None
    except OSError as error:
        raise ValueError(f"the file cannot be read ({error.strerror})") from None
    if len(data) > limit:
        raise ValueError(f"the file is larger than {limit} bytes")
    return data
