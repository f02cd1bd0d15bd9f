"""What every benchmark stands on: tools, processes, cores, and what the kernel says a process has used.

Everything started here listens on 127.0.0.1, keeps its files in one temporary directory and is ended by its own id.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import FrameType

ROOT = Path(__file__).resolve().parent.parent
START_TIMEOUT_S = 20.0
STOP_TIMEOUT_S = 10.0
_SYSTEM_PATH = f"{os.environ.get('PATH', os.defpath)}{os.pathsep}/usr/sbin{os.pathsep}/sbin"


class RigError(Exception):
    """The measurement cannot be made; the message says why and what to do."""


def tool(name: str) -> str:
    """Absolute path of an installed program."""
    path = shutil.which(name, path=_SYSTEM_PATH)
    if path is None:
        raise RigError(f"{name} is not installed; on Debian or Ubuntu: apt-get install {name}")
    return path


def ensure_installed(names: Sequence[str]) -> None:
    """Install what is missing from the distribution's packages; RigError where that is not possible."""
    missing = [name for name in names if shutil.which(name, path=_SYSTEM_PATH) is None]
    if missing:
        install(*missing)


def install(*missing: str) -> None:
    """From the distribution's packages, as root or with sudo."""
    if shutil.which("apt-get") is None:
        raise RigError(f"{', '.join(missing)} missing and there is no apt-get here: install them and run again")
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    # RUNLEVEL=1 keeps the packages from starting a system-wide nginx on port 80.
    environment = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    as_root = [] if os.geteuid() == 0 else ["sudo"]
    say(f"installing {', '.join(missing)} from the distribution's packages")
    for step in (["apt-get", "update"], command):
        done = subprocess.run([*as_root, *environment, *step], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RigError(f"{' '.join(command)} failed:\n{done.stderr.strip()[-2000:]}")


def has_distribution_python() -> bool:
    """Is there a system interpreter that is new enough, and another one than this?"""
    check = "import sys; sys.exit(sys.version_info < (3, 11))"
    system = Path("/usr/bin/python3")
    return system.exists() and subprocess.run([str(system), "-c", check], check=False).returncode == 0


def distribution_python() -> str:
    """The distribution's python3 in an environment of its own beside this file, with the project in it."""
    system = Path("/usr/bin/python3")
    if not has_distribution_python():
        raise RigError("/usr/bin/python3 is not Python 3.11 or newer: leave it out with --peers nginx,haproxy,bgproxy")
    environment = ROOT / "benchmarks" / ".venv-distribution"
    python = environment / "bin" / "python"
    if subprocess.run([str(system), "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        install("python3-venv")
    say(f"an environment for {system} in {environment.relative_to(ROOT)}")
    for step in (
        [str(system), "-m", "venv", str(environment)],
        [str(python), "-m", "pip", "install", "-q", "-e", str(ROOT)],
    ):
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RigError(f"{' '.join(step)} failed:\n{(done.stderr or done.stdout).strip()[-2000:]}")
    return str(python)


def say(text: str) -> None:
    """Progress goes to standard error: standard output is the table alone."""
    print(text, file=sys.stderr, flush=True)


# --- cores -----------------------------------------------------------------------------------------------------------


def two_cores() -> tuple[int, int]:
    """(load generator and upstream, proxy); the same core twice on a machine that has only one."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        say("only one core: the proxy shares it with its load, expect noise")
    return cores[0], cores[min(1, len(cores) - 1)]


def pinned(core: int, command: Sequence[str]) -> list[str]:
    return [tool("taskset"), "-c", str(core), *command]


# --- processes -------------------------------------------------------------------------------------------------------


def end_on_sigterm() -> None:
    """Turn SIGTERM into an exception, so that every `finally` ends its processes."""

    def leave(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + signum)

    signal.signal(signal.SIGTERM, leave)


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own, with its output in `log`; gone when the block is left."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True, cwd=ROOT
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)  # its session: children that outlived it
    except ProcessLookupError:
        pass
    process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, what: str) -> None:
    """Poll `ready`; RigError with the end of the log when the process ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not ready():
        if process.poll() is not None:
            raise RigError(f"{what} ended with exit code {process.returncode} at start:\n{_tail(log)}")
        if time.monotonic() > deadline:
            raise RigError(f"{what} was not ready within {START_TIMEOUT_S:.0f} s:\n{_tail(log)}")
        time.sleep(0.02)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else ""


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def workspace() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bgproxy-bench-", ignore_cleanup_errors=True) as name:
        yield Path(name)


def raise_file_limit(wanted: int) -> None:
    """Open files, for this process and what it starts; RigError where the hard limit is too low."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise RigError(f"{wanted} open files are needed and the hard limit is {hard}: raise it with ulimit -Hn")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


# --- what the kernel knows -------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """Ids of the direct children, oldest first."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # ended between listing and reading
        if int(fields[1]) == pid:
            found.append(int(stat.parent.name))
    return sorted(found)


def cpu_ns(pids: Sequence[int]) -> int:
    """Nanoseconds that all threads of these processes have run, from the scheduler's own account."""
    total = 0
    for pid in pids:
        tasks = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
        if not tasks:
            raise RigError(f"process {pid} is gone, or this kernel has no /proc/PID/task/*/schedstat")
        total += sum(int(task.read_text().split()[0]) for task in tasks)
    return total


def busy_ns(cores: Sequence[int]) -> int:
    """Nanoseconds that cores were not idle, whoever used them (a hypervisor, too); in steps of a clock tick."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in {f"cpu{core}" for core in cores}:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def waited_for_ns() -> int:
    """CPU nanoseconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int((used.ru_utime + used.ru_stime) * 1e9)


def rss_bytes(pid: int) -> int:
    """Resident memory, counted page by page: VmRSS may lag behind by some hundred KB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) * 1024
    raise RigError(f"no Rss in /proc/{pid}/smaps_rollup")


def reset_peak_rss(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_rss_bytes(pid: int) -> int:
    """The highest resident memory since the last reset."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RigError(f"no VmHWM in /proc/{pid}/status")


def machine() -> str:
    """CPU model, cores and kernel, for the line under a table."""
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    release = os.uname()
    return f"{models[0] if models else release.machine}, {os.cpu_count()} cores, {release.sysname} {release.release}"


def first_line(command: Sequence[str]) -> str:
    """The first line a program prints about its version."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().partition("\n")[0]
