"""Runs the fuzz targets: `make fuzz SECONDS=3600`.

Each is the core, with ASan and UBSan, under libFuzzer of Debian's clang; all run at once, for as
long as is asked. A corpus stays in build/fuzz/corpus, so that the next run begins where this one
ended. An input that breaks a law ends the run: mend it, and keep the input in
tests/fuzz/vectors/<target>/, which every run begins with.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from build import CORE, ROOT
from tests.fuzz.seeds import write

TARGETS = ("certificate", "text", "policy", "journal")
WORK = ROOT / "build" / "fuzz"
FLAGS = ["-std=c11", "-g", "-O1", "-fsanitize=address,undefined"]
FLAGS += ["-fno-sanitize-recover=undefined", "-Wall", "-Wextra", "-Werror"]
LONGEST_INPUT = 8192  # bytes


def build() -> None:
    """The core once, and with it each target."""
    include = f"-I{ROOT / 'module/core'}"
    objects = [WORK / f"{Path(path).stem}.o" for path in CORE]
    core = ["clang", *FLAGS, "-fsanitize=fuzzer-no-link", "-c", include, *CORE]
    subprocess.run(core, cwd=WORK, check=True)
    for target in TARGETS:
        main = ROOT / "tests/fuzz" / f"{target}.c"
        link = ["-fsanitize=fuzzer", include, "-o", WORK / target, main, *objects]
        subprocess.run(["clang", *FLAGS, *link, "-lcrypto", "-lpthread"], check=True)


def fuzzer(target: str, seconds: int, memory: str) -> "subprocess.Popen[bytes]":
    corpus = WORK / "corpus" / target
    corpus.mkdir(parents=True, exist_ok=True)
    begin = [WORK / "seeds" / target, ROOT / "tests/fuzz/vectors" / target]
    options = [f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}", "-print_final_stats=1"]
    options += ["-timeout=60", f"-artifact_prefix={WORK}/{target}-"]
    folders = [str(folder) for folder in (corpus, *begin) if folder.exists()]
    with (WORK / f"{target}.log").open("wb") as log:
        order = [WORK / target, *options, *folders]
        return subprocess.Popen(order, stdout=log, stderr=log, env={**os.environ, "TMPDIR": memory})


def told(target: str) -> str:
    """The last state of a run: coverage, executions."""
    lines = (WORK / f"{target}.log").read_text(errors="replace").splitlines()
    states = (line.split("corp:")[0] for line in reversed(lines) if "cov:" in line)
    return next(states, "nothing ran")


def run(seconds: int) -> list[str]:
    """Builds all targets and runs each for so long. Returns what ended badly, and its log."""
    WORK.mkdir(parents=True, exist_ok=True)
    build()
    write(WORK / "seeds")
    with TemporaryDirectory(dir="/dev/shm", prefix="certauth-fuzz-") as memory:
        fuzzers = {target: fuzzer(target, seconds, memory) for target in TARGETS}
        ended = {target: each.wait() for target, each in fuzzers.items()}
    return [f"{target}: see {WORK / target}.log" for target, code in ended.items() if code]


def main() -> None:
    parser = argparse.ArgumentParser(description="Runs the fuzz targets of the core, all at once.")
    parser.add_argument("--seconds", type=int, default=60, help="for how long")
    bad = run(parser.parse_args().seconds)
    for target in TARGETS:
        print(f"{target}: {told(target)}")
    sys.exit("\n".join(bad) or 0)


if __name__ == "__main__":
    main()
