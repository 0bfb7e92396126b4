"""The months' benchmark on a tiny archive: every way runs, and pictures that differ make it fail."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
# In processes of their own: its modules have names that other tests use too.
RUN = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import months
from peers import served

months.ARCHIVES["tiny"] = (["2023-07-02", "2024-07-02"], "--dates 2 --size 192 --dialect es --bands red,nir")
case, folder = months.Series("tiny", years=(2023, 2024), bands=("red", "nir")), Path(sys.argv[2]) / "tiny"
months.make_archive(folder)
with served(folder) as warm, served(folder) as place:
    for who in sys.argv[3].split(","):
        print(json.dumps(months.run_one(who, case, place, warm, "looked at")))
"""
MEASURE = """
import json, sys
from contextlib import nullcontext
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import months, tables

def run_apart(who, *rest, **more):
    same = {"cpu_s": 1.0 + months.WHO.index(who), "wall_s": 1.0, "rss_mib": 9, "bytes": 10**6, "requests": 5}
    return same | ({"pictures": ["x", who if who == sys.argv[2] else "y"]} if who in months.OURS else {})

months.make_archive = lambda folder: None
months.served = lambda folder: nullcontext()
months.run_apart = run_apart
found = months.measure(months.CASES[0], Path(), 2)
print("\\n".join(tables._months({"rounds": 2, "cases": [found]})))
"""


def run(script: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(BENCHMARKS), *args]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def figures(tmp_path: Path, *who: str) -> list[dict[str, Any]]:
    done = run(RUN, str(tmp_path), ",".join(who))
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.usefixtures("shared")
def test_our_ways_make_the_same_pictures(tmp_path: Path) -> None:
    first, *others = figures(tmp_path, "pipelined", "one by one", "iterated")
    assert len(set(first["pictures"])) == 2  # the two years differ
    assert [f["pictures"] for f in others] == [first["pictures"]] * 2
    assert first["cpu_s"] > 0
    assert first["bytes"] > 0
    assert first["output_bytes"] == others[0]["output_bytes"] > 0


@pytest.mark.usefixtures("shared")
@pytest.mark.skipif(importlib.util.find_spec("bestpixel") is None, reason="needs the ancestor (group bench)")
@pytest.mark.parametrize("who", ["ancestor's months", "ancestor one by one"])
def test_the_ancestor_makes_every_month(tmp_path: Path, who: str) -> None:
    (found,) = figures(tmp_path, who)  # alone: what it read stays cached in its process
    assert found["bytes"] > 0
    assert found["requests"] > 0


def test_ratios_compare_like_with_like() -> None:
    done = run(MEASURE, "nobody")
    assert done.returncode == 0, done.stderr
    assert "| pipelined / one by one | 0.500 | 1.000 | 1.000 | 1.000 |" in done.stdout
    assert "| pipelined / ancestor's months | 0.250 |" in done.stdout
    assert "| one by one / ancestor one by one | 0.400 |" in done.stdout


@pytest.mark.parametrize("who", ["one by one", "iterated"])
def test_pictures_that_differ_are_no_result(who: str) -> None:
    done = run(MEASURE, who)
    assert done.returncode != 0
    assert "our pictures are not the same in all ways" in done.stderr
