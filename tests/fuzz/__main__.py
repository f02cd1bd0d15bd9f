"""Fuzz both directions with atheris, side by side: `python -m tests.fuzz [--seconds 60]`, or until Ctrl-C.

`python -m tests.fuzz request|response [options of libFuzzer]` runs one of them. It begins with the corpus in this
folder; what is found goes to findings/ beside it, as does the grown corpus. A finding that is understood becomes a file
of the corpus, which the tests replay without a fuzzer.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
FINDINGS = HERE / "findings"
NAMES = ("request", "response")


def fuzz(name: str, options: list[str]) -> None:
    """Does not return."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is missing: pip install -e '.[test,fuzz]' (Linux, CPython 3.11 to 3.13)")
    grown = FINDINGS / f"{name}-corpus"
    grown.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["bgproxy.wire", "bgproxy.dataplane"]):
        target = importlib.import_module(f"tests.fuzz.{name}").target
    defaults = [f"-dict={HERE / 'http.dict'}", f"-artifact_prefix={FINDINGS}/{name}-", "-max_len=1200", "-timeout=10"]
    atheris.Setup([sys.argv[0], *defaults, *options, str(grown), str(HERE / "corpus" / name)], target)
    atheris.Fuzz()


def fuzz_all(seconds: int) -> int:
    """0 where nothing was found; 0 seconds is for ever."""
    FINDINGS.mkdir(exist_ok=True)
    running = []
    for name in NAMES:
        log = FINDINGS / f"{name}.log"
        command = [sys.executable, "-m", "tests.fuzz", name, f"-max_total_time={seconds}", "-print_final_stats=1"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, cwd=HERE.parent.parent)
        running.append((name, log, process))
    found = 0
    try:
        for name, log, process in running:
            failed = process.wait() != 0
            found += failed
            print(f"{name}: {'FOUND SOMETHING' if failed else 'nothing found'}\n{_summary(log, whole=failed)}")
    except KeyboardInterrupt:  # the fuzzers get it as well, and end
        for name, log, process in running:
            process.wait()
            print(f"{name}: ended\n{_summary(log, whole=False)}")
    return 1 if found else 0


def _summary(log: Path, *, whole: bool) -> str:
    lines = log.read_text(errors="replace").splitlines()
    if whole:
        return "\n".join(lines[-60:])
    progress = [line for line in lines if line.startswith("#")][-1:]
    return "\n".join(progress + [line for line in lines if "number_of_executed_units" in line])


def main() -> int:
    if sys.argv[1:2] and sys.argv[1] in NAMES:
        fuzz(sys.argv[1], sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=0, help="for each direction; 0, the default, is until Ctrl-C")
    return fuzz_all(parser.parse_args().seconds)


if __name__ == "__main__":
    sys.exit(main())
