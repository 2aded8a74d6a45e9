"""Runs the atheris harnesses one after the other and writes what they did as JSON.

atheris is no dependency of the project: make an environment with it beside the project's, and run
`PYTHONPATH=.:.venv/lib/python3.11/site-packages ENVIRONMENT/bin/python -m tests.fuzz.run --minutes 15`.
Inputs that lead to new code are kept in .fuzz/, for the next run to start from; so are those that fail.
"""

import argparse
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

HARNESSES = ("fuzz_segment", "fuzz_log", "fuzz_blocks", "fuzz_ranges")
MEMORY_MB = 4096
"""Of the fuzzer's process, which grows by some 93 bytes an execution under atheris; the code's own memory is
bounded by the hypothesis tests.
"""
STATISTICS = re.compile(r"#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)/\S+ .*?exec/s: (\d+) rss: (\d+)Mb")


def fuzz(harness: str, seconds: int, folder: Path) -> dict[str, Any]:
    """Run one harness; `findings` are its last lines when it found something, else empty."""
    corpus = folder / harness
    corpus.mkdir(parents=True, exist_ok=True)
    flags = [
        f"-max_total_time={seconds}",
        f"-rss_limit_mb={MEMORY_MB}",
        "-max_len=1024",
        "-print_final_stats=1",
    ]
    command = [
        sys.executable,
        "-m",
        f"tests.fuzz.{harness}",
        str(corpus),
        f"-artifact_prefix={corpus}-",
        *flags,
    ]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = STATISTICS.findall(done.stderr)
    executions, coverage, features, inputs, rate, rss = map(int, found[-1]) if found else (0,) * 6
    return {
        "harness": harness,
        "seconds": seconds,
        "executions": executions,
        "executions_per_s": rate,
        "coverage_edges": coverage,
        "features": features,
        "corpus_inputs": inputs,
        "peak_rss_mb": rss,
        "rss_limit_mb": MEMORY_MB,
        "exit": done.returncode,
        "findings": [] if done.returncode == 0 else (done.stdout + done.stderr).splitlines()[-40:],
    }


def main() -> int:
    """Fuzz, print and write the results; 1 when anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=15.0, help="of each harness")
    parser.add_argument("--harnesses", nargs="+", choices=HARNESSES, default=HARNESSES)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"))
    options = parser.parse_args()
    results = [fuzz(harness, int(60 * options.minutes), options.corpus) for harness in options.harnesses]
    document = {"atheris": version("atheris"), "python": sys.version.split()[0], "harnesses": results}
    text = json.dumps(document, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")
    return int(any(result["exit"] for result in results))


if __name__ == "__main__":
    sys.exit(main())
