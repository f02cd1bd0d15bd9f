"""An operator's own error pages: a folder, read once, whole, and checked before anything starts.

Workers get the text with their settings, so that no request ever waits for a disk and no later change of the folder
can break what is being served.
"""

from __future__ import annotations

import stat
from pathlib import Path

from bgproxy.config.problems import Problems
from bgproxy.config.references import read_bytes
from bgproxy.core.error_pages import MAX_ALL, MAX_FILE, Template, kind_of

KEY = ("server", "error_pages")
COMPLAINTS = 8  # said one by one


def read_error_pages(directory: Path, problems: Problems) -> dict[str, str]:
    """File name → text. Everything that is not a usable page is a problem that names its file.

    Names that begin with a dot are left alone: they belong to editors, version control and Kubernetes.
    """
    try:
        files = sorted(path for path in directory.iterdir() if not path.name.startswith("."))
    except OSError as error:
        problems.add(KEY, f"{str(directory)!r}: {_why(error)}; expected a directory with error pages")
        return {}
    if not files:
        problems.add(KEY, f"{str(directory)!r}: there is no page in it; expected one like error.html or 502.json")
    pages: dict[str, str] = {}
    complaints = []
    for path in files:
        try:
            pages[path.name] = _read(path)
        except ValueError as error:
            complaints.append(f"{path.name!r}: {error}")  # not the path: a long one would leave no room for the rest
    if len(complaints) > COMPLAINTS:  # most likely it is another directory than was meant
        complaints[COMPLAINTS:] = [f"{str(directory)!r}: {len(complaints) - COMPLAINTS} more files are not usable"]
    size = sum(len(text.encode()) for text in pages.values())
    if size > MAX_ALL:
        complaints.append(f"{str(directory)!r}: {size} bytes in all; expected at most {MAX_ALL}")
    for complaint in complaints:
        problems.add(KEY, complaint)
    return pages


def _read(path: Path) -> str:
    """ValueError is the half sentence that says what is wrong with the page."""
    kind = kind_of(path.name)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited for
            raise ValueError("this is not a file; expected a page")
    except OSError:
        pass  # said better where it is read
    try:
        text = read_bytes(path, MAX_FILE).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: the byte 0x{error.object[error.start]:02x} is not UTF-8; expected a page in UTF-8"
        ) from None
    Template(kind, text)
    return text


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such directory"
    if isinstance(error, NotADirectoryError):
        return "this is not a directory"
    if isinstance(error, PermissionError):
        return "this user may not read the directory"
    return f"the directory cannot be read ({error.strerror})"
