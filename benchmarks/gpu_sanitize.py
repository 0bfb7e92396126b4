"""Every kernel under NVIDIA's compute-sanitizer, at small sizes.

    python benchmarks/gpu_sanitize.py [--tools memcheck racecheck synccheck] [--device N] [--print]

Runs ``benchmarks/gpu_check.py --only sanitize-subset`` once for each tool; of kernels for several types
of samples it launches those for uint16. compute-sanitizer comes with the CUDA toolkit. The exit status is
0 when every tool found nothing and every byte was right. No GPU has run this yet.

racecheck is expected to report ``inflate_parallel.cu``, where matches hand bytes to one another in shared
memory by a fence and a bitmap, without a barrier: that is meant, all else it names is not.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CHECK = Path(__file__).resolve().with_name("gpu_check.py")
TOOLS = {"memcheck": [], "racecheck": ["--racecheck-report", "all"], "synccheck": []}
"""Options of each tool."""
FOUND = 86
"""Exit status of compute-sanitizer where it found something."""


def sanitizer() -> str:
    """Path of compute-sanitizer; its bare name where it is not found."""
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    places = [str(Path(root, "bin")) for root in roots if root]
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer", path=os.pathsep.join(places)
    )
    return found or "compute-sanitizer"


def command(tool: str, device: int, seconds: float) -> list[str]:
    """One tool's run."""
    watch = [sanitizer(), "--tool", tool, *TOOLS[tool], "--error-exitcode", str(FOUND), "--print-limit", "20"]
    check = [str(CHECK), "--only", "sanitize-subset", "--device", str(device), "--seconds", f"{seconds:g}"]
    return [*watch, sys.executable, *check]


def main() -> int:
    """Run the tools one after the other; the number of those that were not content."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=900, help="of each tool")
    parser.add_argument("--print", action="store_true", help="only say what would be run")
    options = parser.parse_args()
    results = {}
    for tool in options.tools:
        words = command(tool, options.device, options.seconds)
        print(shlex.join(words), flush=True)
        if not options.print:
            results[tool] = _run(words, options.seconds)
    for tool, result in results.items():
        print(f"{tool}: {result or 'nothing found'}", flush=True)
    return sum(bool(result) for result in results.values())


def _run(words: list[str], seconds: float) -> str:
    """What was wrong with a run, nothing where it was well."""
    try:
        status = subprocess.run(words, check=False, timeout=1.5 * seconds).returncode
    except FileNotFoundError:
        return "compute-sanitizer is not installed: it comes with the CUDA toolkit"
    except subprocess.TimeoutExpired:
        return f"not done within {1.5 * seconds:.0f} s"
    return "" if status == 0 else "see its reports above" if status == FOUND else f"exit status {status}"


if __name__ == "__main__":
    sys.exit(main())
