"""``monthly`` and ``series``: what they pass on, write, print and return."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sample_composite import make_composite, make_report

import bestpixel_gpu
from bestpixel_gpu.errors import InputError, NoScenesError
from bestpixel_gpu.result.period import FailedPeriod, Period

pytest.importorskip("typer")
from typer.testing import CliRunner

from bestpixel_gpu.cli.app import app

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
BASE = ["--bbox", "7,44.6,7.2,44.8"]
MONTHLY = ["monthly", *BASE, "--years", "2024", "--months", "6-8"]
SERIES = ["series", *BASE, "--datetime", "2024-06-01/2024-08-31"]


def run(*args: str) -> Any:
    return runner.invoke(app, list(args))


def month(n: int) -> Period:
    return Period(datetime(2024, n, 1, tzinfo=UTC), datetime(2024, n + 1, 1, tzinfo=UTC))


def result(n: int) -> Any:
    if n == 7:
        return FailedPeriod(month(n), NoScenesError("nothing\nfound"), make_report())
    return make_composite(period=month(n))


class Call:
    """Stands for the iterators: keeps its arguments, and how far it was asked."""

    def __init__(self, *results: Any, error: Exception | None = None) -> None:
        self.results, self.error, self.asked = results, error, 0
        self.arguments: dict[str, Any] | None = None

    def __call__(self, **kwargs: Any) -> Iterator[Any]:
        self.arguments = kwargs
        if self.error is not None:
            raise self.error
        return self._results()

    def _results(self) -> Iterator[Any]:
        for one in self.results:
            self.asked += 1
            yield one


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Call]:
    def stand_in(*results: Any, error: Exception | None = None) -> Call:
        fake = Call(*results, error=error)
        for name in ("iter_monthly_composites", "iter_composites"):
            monkeypatch.setattr(bestpixel_gpu, name, fake, raising=False)
        return fake

    return stand_in


@pytest.mark.parametrize("command", ["monthly", "series"])
def test_every_argument_of_a_composite_is_there(command: str) -> None:
    shown = set(re.findall(r"--[a-z][a-z-]*", run(command, "--help").output))
    entry = bestpixel_gpu.iter_monthly_composites if command == "monthly" else bestpixel_gpu.iter_composites
    of_one = set(re.findall(r"--[a-z][a-z-]*", run("composite", "--help").output)) - {"--datetime"}
    assert of_one <= shown
    assert {"--aod-by-day", "--aod-max", "--reject-unknown"} <= shown
    assert ("--datetime" in shown) == ("datetime" in inspect.signature(entry).parameters)


def test_months_and_gate_become_arguments(call: Callable[..., Call], tmp_path: Path) -> None:
    fake = call(result(6))
    (tmp_path / "aod.csv").write_text("day,aod\n2024-06-01,0.25\n2024-06-02,\n\n")
    words = ["--aod-by-day", str(tmp_path / "aod.csv"), "--aod-max", "0.3", "--reject-unknown", "--no-write"]
    done = run("monthly", *BASE, "--years", "2019-2021,2024", "--months", "6, 8", *words)
    assert done.exit_code == 0, done.output
    asked = fake.arguments
    assert asked is not None
    assert (asked["years"], asked["months"]) == ([2019, 2020, 2021, 2024], [6, 8])
    assert asked["aod_by_day"]["2024-06-01"] == 0.25
    assert asked["aod_by_day"]["2024-06-02"] != asked["aod_by_day"]["2024-06-02"]  # not a number: unknown
    assert (asked["aod_max"], asked["reject_unknown"]) == (0.3, True)
    assert asked["bbox"] == [7.0, 44.6, 7.2, 44.8]
    assert "datetime" not in asked


def test_a_span_and_its_slices_become_arguments(call: Callable[..., Call], tmp_path: Path) -> None:
    fake = call(result(6))
    (tmp_path / "aod.json").write_text('{"2024-06-01": 0.25}')
    args = ["--period", "P10D", "--aod-by-day", str(tmp_path / "aod.json"), "--top-k", "all", "--no-write"]
    assert run(*SERIES, *args).exit_code == 0
    asked = fake.arguments
    assert asked is not None
    assert (asked["datetime"], asked["period"]) == ("2024-06-01/2024-08-31", "P10D")
    assert (asked["aod_by_day"], asked["top_k"]) == ({"2024-06-01": 0.25}, None)


@pytest.mark.parametrize("command", [MONTHLY, SERIES])
def test_defaults_are_those_of_the_api(call: Callable[..., Call], command: list[str]) -> None:
    entry = bestpixel_gpu.iter_monthly_composites
    if command is SERIES:
        entry = bestpixel_gpu.iter_composites
    signature = inspect.signature(entry)
    fake = call(result(6))
    assert run(*command, "--no-write").exit_code == 0
    assert fake.arguments is not None
    for name, value in signature.bind(**fake.arguments).arguments.items():
        default = signature.parameters[name].default
        if default is not inspect.Parameter.empty and name != "period":
            assert value == default, name


def test_each_period_gets_a_folder_and_a_line(call: Callable[..., Call], tmp_path: Path) -> None:
    pytest.importorskip("rasterio")
    call(result(6), result(7), result(8))
    done = run(*MONTHLY, "--out-dir", str(tmp_path))
    assert done.exit_code == 0, done.output
    june, july, august = map(json.loads, done.stdout.splitlines())
    assert (june["period"], june["datetime"]) == ("2024-06", "2024-06-01/2024-06-30")
    assert str(tmp_path / "2024-06" / "red.tif") in june["files"]
    assert july == {
        "period": "2024-07",
        "datetime": "2024-07-01/2024-07-31",
        "error": "nothing found",
        "kind": "NoScenesError",
    }
    assert "error" not in august
    assert sorted(p.name for p in tmp_path.iterdir()) == ["2024-06", "2024-08"]
    assert done.stderr == "warning: 2024-07: nothing found\n"


def test_a_terminal_gets_words(
    call: Callable[..., Call], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("rasterio")
    call(result(6), result(7))
    monkeypatch.setattr("bestpixel_gpu.cli.series.wants_json", lambda asked: asked)
    first, last = run(*MONTHLY, "--out-dir", str(tmp_path)).stdout.splitlines()
    assert first.startswith("2024-06  3 scenes, 150 empty pixels, ")
    assert last == f"1 composites in {tmp_path}, 1 periods without one"


def test_no_composite_at_all_is_a_failure(call: Callable[..., Call]) -> None:
    call(result(7))
    done = run(*SERIES, "--no-write")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"] == "nothing found"


@pytest.mark.parametrize("command", [MONTHLY, SERIES])
def test_wrong_arguments_are_one_line(call: Callable[..., Call], command: list[str]) -> None:
    call(error=InputError("period 'P0D' is no time at all"))
    done = run(*command, "--no-write")
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: period 'P0D' is no time at all\n"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([*MONTHLY[:-1], "summer"], "--months must be whole numbers like 6-8"),
        ([*MONTHLY, "--aod-by-day", "/nowhere/aod.json"], "--aod-by-day: cannot read /nowhere/aod.json"),
        (["series", *BASE], "no dates"),
    ],
)
def test_wrong_words_are_one_line(call: Callable[..., Call], args: list[str], message: str) -> None:
    fake = call(result(6))
    done = run(*args, "--no-write")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {message}")
    assert fake.arguments is None


TABLES = [
    b"{", b"2024-06-01;0.2", b"2024-06-01,thick", b"[1]\n[2]", b"[1]", b"day,aod", b"{}", b"", b"day;aod\xff",
]  # fmt: skip


@pytest.mark.parametrize("text", TABLES, ids=repr)
def test_tables_that_are_none(call: Callable[..., Call], tmp_path: Path, text: bytes) -> None:
    call(result(6))
    (tmp_path / "aod").write_bytes(text)
    done = run(*MONTHLY, "--no-write", "--aod-by-day", str(tmp_path / "aod"))
    assert done.exit_code == 2
    assert "is neither a JSON object nor CSV" in done.stderr


def test_without_rasterio_it_stops_before_reading(
    call: Callable[..., Call], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = call(result(6))
    monkeypatch.setattr("bestpixel_gpu.result.files.find_spec", lambda name: None)
    done = run(*MONTHLY)
    assert (done.exit_code, fake.arguments) == (2, None)


def test_a_whole_run_from_the_command_line(server: Any, tmp_path: Path) -> None:
    from whole_run import HOME

    pytest.importorskip("rasterio")
    box = ",".join(map(str, server.bbox_of(HOME)))
    done = run(
        "monthly", "--bbox", box, "--years", "2024", "--months", "6,7", "--resolution", "60",
        "--bands", "red", "--endpoint", "pc", "--stac-url", server.stac_url("pc"), "--device", "cpu",
        "--out-dir", str(tmp_path),
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    june, july = map(json.loads, done.stdout.splitlines())
    assert june["kind"] == "NoScenesError"
    assert july["scored"] >= 6
    assert (tmp_path / "2024-07" / "red.tif").is_file()
