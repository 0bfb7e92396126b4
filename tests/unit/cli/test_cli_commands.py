"""Commands with the library's entry points replaced: what they pass, print and return."""

from __future__ import annotations

import inspect
import io
import json
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from sample_composite import make_composite

import bestpixel_gpu
from bestpixel_gpu import simulate
from bestpixel_gpu.errors import IncompleteError, InputError, NoScenesError, OffsetWarning

pytest.importorskip("typer")
from typer.testing import CliRunner

from bestpixel_gpu.cli import console, demo, main
from bestpixel_gpu.cli.app import app

runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
BASE = ["composite", "--bbox", "7,44.6,7.2,44.8", "--datetime", "2024-06-01/2024-08-31"]


class Call:
    """Stands for `build_composite` or `explain`: keeps its arguments."""

    def __init__(self, result=None, error=None):
        self.result, self.error, self.arguments = result, error, None

    def __call__(self, *args, **kwargs):
        self.arguments = kwargs if not args else {"bbox": args[0], "datetime": args[1], **kwargs}
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
def call(monkeypatch):
    fake = Call(make_composite())
    monkeypatch.setattr(bestpixel_gpu, "build_composite", fake, raising=False)
    return fake


def run(*args):
    return runner.invoke(app, list(args))


@pytest.mark.parametrize("command", [[], ["composite"], ["explain"], ["monthly"], ["series"], ["demo"]])
def test_help_exists(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


def test_version():
    assert run("--version").stdout.strip() == bestpixel_gpu.__version__


def test_every_flag_of_spx_build_and_of_the_api_is_there():
    text = run("composite", "--help").output
    shown = set(re.findall(r"--[a-z][a-z-]*", text))
    ancestor = "bbox datetime resolution scout-factor top-k max-cloud-cover concurrency out-dir no-write"
    for flag in f"{ancestor} disk-cache endpoint".split():
        assert f"--{flag}" in shown
    from bestpixel_gpu.api import build_composite

    not_words = {"progress", "like", "geobox"}
    for name in set(inspect.signature(build_composite).parameters) - not_words:
        assert f"--{name.replace('_', '-')}" in shown


def test_defaults_are_those_of_the_api(call):
    from bestpixel_gpu.api import build_composite

    assert run(*BASE, "--no-write").exit_code == 0
    signature = inspect.signature(build_composite)
    bound = signature.bind(**call.arguments)
    asked = {"bbox": [7.0, 44.6, 7.2, 44.8], "datetime": "2024-06-01/2024-08-31"}
    for name, value in bound.arguments.items():
        assert value == asked.get(name, signature.parameters[name].default), name


@pytest.mark.parametrize(
    "box",
    [
        ["--bbox", "-3.6", "50.7", "-3.4", "50.8"],
        ["--bbox", "-3.6,50.7,-3.4,50.8"],
        ["--bbox=-3.6, 50.7, -3.4, 50.8"],
        ["--bbox", "-3.6 50.7 -3.4 50.8"],
    ],
)
def test_a_box_is_four_numbers_in_any_form(call, box):
    result = run("composite", *box, "--datetime", "2024-06", "--no-write")
    assert result.exit_code == 0, result.output
    assert call.arguments["bbox"] == [-3.6, 50.7, -3.4, 50.8]


def test_options_become_arguments(call, tmp_path):
    items = tmp_path / "items.json"
    items.write_text(json.dumps({"type": "FeatureCollection", "features": [{"id": "a", "assets": {}}]}))
    words = (
        "--resolution 10 --bands red,green --endpoint earth-search --stac-url http://127.0.0.1:1/v1 "
        "--top-k all --fill true --order nearest:2024-07-15 --max-cloud-cover 100 --offset 1000 "
        "--coverage-target 0.9 --min-k 1 --max-k 5 --crs EPSG:3857 --resampling nearest "
        "--mask-resampling nearest --device cpu --inflate safe --threads 2 --memory-limit 1.5GiB "
        "--concurrency 8 --timeout 60 --errors raise --max-failed 0 --scout-factor 4 "
        "--output-crs utm --band-quality --rule first --cloud-buffer 90 "
        "--windowed-fetch --emit-uncertainty"
    )
    result = run(*BASE, *words.split(), "--items", str(items), "--disk-cache", str(tmp_path), "--no-write")
    assert result.exit_code == 0, result.output
    assert call.arguments == {
        "bbox": [7.0, 44.6, 7.2, 44.8],
        "datetime": "2024-06-01/2024-08-31",
        "resolution": 10.0,
        "bands": ["red", "green"],
        "endpoint": "earth-search",
        "stac_url": "http://127.0.0.1:1/v1",
        "items": [{"id": "a", "assets": {}}],
        "top_k": None,
        "fill": True,
        "order": "nearest:2024-07-15",
        "max_cloud_cover": 100.0,
        "offset": 1000,
        "coverage_target": 0.9,
        "min_k": 1,
        "max_k": 5,
        "crs": "EPSG:3857",
        "output_crs": "utm",
        "band_quality": True,
        "rule": "first",
        "cloud_buffer": 90.0,
        "windowed_fetch": True,
        "emit_uncertainty": True,
        "resampling": "nearest",
        "mask_resampling": "nearest",
        "device": "cpu",
        "inflate": "safe",
        "threads": 2,
        "memory_limit": 3 << 29,
        "concurrency": 8,
        "timeout": 60.0,
        "errors": "raise",
        "max_failed": 0.0,
        "disk_cache": tmp_path,
        "scout_factor": 4,
        "progress": None,
    }


def test_given_items_need_no_dates(call, tmp_path):
    (tmp_path / "one.json").write_text(json.dumps({"id": "a", "assets": {}}))
    args = ["composite", "--bbox", "7,44,8,45", "--items", str(tmp_path / "one.json"), "--no-write"]
    assert run(*args).exit_code == 0
    assert call.arguments["datetime"] == "../.."
    assert call.arguments["items"] == [{"id": "a", "assets": {}}]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--top-k", "some"], "--top-k must be a whole number or 'all', got 'some'"),
        (["--fill", "much"], "--fill must be true, false or a share"),
        (["--offset", "-1e3"], "--offset must be a whole number or 'auto'"),
        (["--memory-limit", "2 apples"], "--memory-limit must be a size like 2GiB"),
        (["--memory-limit", "1ib"], "--memory-limit must be a size like 2GiB"),
        (["--bbox", "a,b,c,d"], "--bbox must be four numbers"),
        (["--items", "/nowhere/items.json"], "--items: cannot read /nowhere/items.json"),
    ],
)
def test_wrong_words_are_one_line_and_exit_2(call, args, message):
    result = run(*BASE, "--no-write", *args)
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert call.arguments is None


@pytest.mark.parametrize("text", ["{", "[1]", '{"type": "x"}', '{"features": 3}'])
def test_files_without_items_are_refused(call, tmp_path, text):
    (tmp_path / "items.json").write_text(text)
    result = run(*BASE, "--no-write", "--items", str(tmp_path / "items.json"))
    assert result.exit_code == 2
    assert "items.json" in result.stderr


def test_dates_must_be_given(call):
    result = run("composite", "--bbox", "7,44,8,45")
    assert (result.exit_code, call.arguments) == (2, None)
    assert "--datetime" in result.stderr


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InputError("resolution must be positive"), 2, "error: resolution must be positive\n"),
        (NoScenesError("nothing\nfound"), 1, "error: nothing found\n"),
        (IncompleteError("too much failed"), 1, "error: too much failed\n"),
        (TimeoutError(), 1, "error: TimeoutError\n"),
        (OSError("disk full"), 1, "error: disk full\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (ZeroDivisionError("oops"), 1, "error: unexpected ZeroDivisionError: oops (--debug shows where)\n"),
    ],
)
@pytest.mark.parametrize("command", ["composite", "explain"])
def test_errors_are_one_line_with_their_status(monkeypatch, command, error, status, text):
    name = "build_composite" if command == "composite" else "explain"
    monkeypatch.setattr(bestpixel_gpu, name, Call(error=error), raising=False)
    result = run(command, *BASE[1:])
    assert result.exit_code == status
    assert result.stderr == text
    assert result.stdout == ""


def test_debug_lets_the_traceback_through(call):
    call.error = InputError("wrong")
    result = run(*BASE, "--debug")
    assert result.exception is call.error


def test_our_warnings_are_one_line_and_others_are_silent(call, monkeypatch):
    def warns(**_):
        warnings.warn("item a: no baseline", OffsetWarning, stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return make_composite()

    monkeypatch.setattr(bestpixel_gpu, "build_composite", warns)
    shown = warnings.showwarning
    assert run(*BASE, "--no-write").stderr == "warning: item a: no baseline\n"
    assert warnings.showwarning is shown


def test_a_pipe_gets_one_json_line_and_the_files(call, tmp_path):
    pytest.importorskip("rasterio")
    result = run(*BASE, "--out-dir", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    (line,) = result.stdout.splitlines()
    told = json.loads(line)
    assert list(told)[:5] == ["grid", "scenes", "scored", "observations", "timing"]
    assert told["grid"]["epsg"] == 32631
    assert (told["scenes"], told["scored"], told["observations"], told["failed_scenes"]) == (4, 3, 2, 1)
    assert told["timing"] == {"total": 1.75, "compose": 1.5}
    assert sorted(told["files"]) == sorted(map(str, (tmp_path / "out").iterdir()))
    assert str(tmp_path / "out" / "red.tif") in told["files"]


def test_a_terminal_gets_the_report(call, tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    monkeypatch.setattr("bestpixel_gpu.cli.composite.wants_json", lambda asked: asked)
    shown = run(*BASE, "--out-dir", str(tmp_path / "all.tif"))
    assert "3 of 4 compete" in shown.stdout
    assert f"1 files in {tmp_path / 'all.tif'}" in shown.stdout
    told = run(*BASE, "--out-dir", str(tmp_path / "all.tif"), "--json")
    assert json.loads(told.stdout)["files"] == [str(tmp_path / "all.tif")]


def test_no_write_writes_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*BASE, "--no-write")
    assert json.loads(result.stdout)["files"] == []
    assert not list(tmp_path.iterdir())


def test_without_rasterio_it_stops_before_reading(call, monkeypatch):
    monkeypatch.setattr("bestpixel_gpu.result.files.find_spec", lambda name: None)
    result = run(*BASE)
    assert (result.exit_code, call.arguments) == (2, None)
    assert "pip install 'bestpixel-gpu[io]'" in result.stderr


def test_explain_prints_a_table_or_json(monkeypatch):
    report = make_composite().report

    class Explanation:
        scenes = report.scenes

        def to_dict(self):
            return {"total_bytes": 123, "bytes_by_band": {"red": 100}}

        def __str__(self):
            return "read 123 B"

    fake = Call(Explanation())
    monkeypatch.setattr(bestpixel_gpu, "explain", fake, raising=False)
    told = run("explain", *BASE[1:], "--bands", "red")
    assert json.loads(told.stdout) == {"total_bytes": 123, "bytes_by_band": {"red": 100}}
    assert fake.arguments["bands"] == ["red"]
    monkeypatch.setattr("bestpixel_gpu.cli.explain.wants_json", lambda asked: asked)
    shown = run("explain", *BASE[1:]).stdout
    assert "read 123 B" in shown
    assert "mask: 404 from example.test" in shown
    assert "2024-07-07" in shown


def test_progress_is_for_terminals_that_are_not_quiet(monkeypatch):
    with console.progress(quiet=False) as show:
        assert show is None  # pytest's stderr is no terminal

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with console.progress(quiet=True) as show:
        assert show is None
    with console.progress(quiet=False) as show:
        show("masks", 1, 4)
        show("masks", 4, 4)
        show("tiles", 2, 9)
    text = sys.stderr.getvalue()
    assert "masks" in text
    assert "4/4" in text
    assert "2/9" in text


def test_demo_serves_on_loopback_and_leaves_picture_and_files(call, tmp_path, monkeypatch):
    pytest.importorskip("rasterio")
    pytest.importorskip("PIL")
    seen, spec = {}, simulate.ArchiveSpec
    monkeypatch.setattr(simulate, "ArchiveSpec", lambda **asked: spec(**asked | {"size": 192, "dates": 1}))

    def build(bbox, datetime, **kwargs):
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(kwargs["stac_url"], timeout=10) as answer:
            seen["root"] = json.load(answer)
        seen["bbox"], seen["kwargs"] = bbox, kwargs
        return make_composite()

    bestpixel_gpu.build_composite = build
    result = run("demo", "--out-dir", str(tmp_path / "demo"), "--quiet")
    assert result.exit_code == 0, result.output
    assert seen["kwargs"]["stac_url"].startswith("http://127.0.0.1:")
    assert seen["root"]["type"] == "Catalog"
    west, south, east, north = seen["bbox"]
    assert west < east
    assert south < north
    assert {"picture.png", "red.tif", "stac-item.json"} <= {p.name for p in (tmp_path / "demo").iterdir()}
    assert str(tmp_path / "demo" / "picture.png") in result.stdout
    assert result.stderr == ""


@pytest.mark.slow
def test_demo_makes_a_picture_without_clouds(tmp_path):
    pytest.importorskip("rasterio")
    image = pytest.importorskip("PIL.Image")
    result = run("demo", "--out-dir", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "0 lost" in result.stderr
    with image.open(tmp_path / "picture.png") as picture:
        rgba = np.asarray(picture)
    seen = rgba[..., 3] > 0
    assert seen.mean() > 0.98
    assert (rgba[seen][:, :3].min(axis=1) > 230).mean() < 0.01  # clouds are white


def test_demo_says_what_to_install_for_what_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr("bestpixel_gpu.result.files.find_spec", lambda name: None)
    monkeypatch.setattr("bestpixel_gpu.result.picture.find_spec", lambda name: None)
    picture, cogs = demo.write(make_composite(), tmp_path)
    assert picture.startswith("picture  left out: ")
    assert "bestpixel-gpu[plot]" in picture
    assert "bestpixel-gpu[io]" in cogs
    assert not list(tmp_path.iterdir())


def test_without_the_extra_the_script_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(main, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main.main()
    assert stop.value.code == 2
    assert "pip install 'bestpixel-gpu[cli]'" in capsys.readouterr().err


def test_help_loads_nothing_heavy():
    code = (
        "import sys; sys.argv = ['bestpixel-gpu', 'composite', '--help']\n"
        "from bestpixel_gpu.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'numba', 'aiohttp', 'pyproj', 'xarray', 'rasterio', 'pystac_client'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_ctrl_c_ends_with_130_and_one_line():
    code = (
        "import os, signal, sys, threading, time, bestpixel_gpu\n"
        "def waits(**_):\n"
        "    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    time.sleep(30)\n"
        "bestpixel_gpu.build_composite = waits\n"
        f"sys.argv = ['bestpixel-gpu', *{BASE!r}, '--no-write']\n"
        "from bestpixel_gpu.cli.main import main\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")
