from __future__ import annotations

import json
import warnings

import numba
import numpy as np
import pyproj
import pytest
from sample_composite import make_report

import bestpixel_gpu
from bestpixel_gpu.errors import OffsetWarning, PartialResultWarning
from bestpixel_gpu.result.report import Failure, Report, SceneRecord


def test_versions_are_those_that_run():
    versions = Report.begin({}, "cpu", 1).versions
    assert versions["bestpixel_gpu"] == bestpixel_gpu.__version__
    assert versions["numpy"] == np.__version__
    assert versions["numba"] == numba.__version__
    assert versions["proj"] == pyproj.proj_version_str


def test_json_keeps_every_field_and_the_counts():
    report = make_report()
    back = json.loads(report.to_json())
    assert back["counts"] == {"found": 4, "used": 3, "selected": 2, "dropped": 0, "failed": 1}
    assert back["scenes"][0]["offset_reason"] == "s2:processing_baseline 05.10"
    assert back["failures"] == [
        {
            "item": "S2A_31TGK_20240702",
            "asset": "B04",
            "tile": 7,
            "status": 503,
            "attempts": 4,
            "message": "503 from example.test/B04.tif",
        }
    ]
    assert back["request"] == {"bbox": [6.0, 44.0, 6.1, 44.1], "top_k": 3}
    assert set(Report.__slots__) | {"counts", "extra_reads"} == set(back)


def test_a_scene_is_found_by_id_and_the_used_one_before_its_twin():
    report = make_report()
    twin = SceneRecord(report.scenes[1].id, "", "", "", status="dropped", reason="older baseline")
    report.scenes.insert(0, twin)
    assert report.scene(twin.id) is report.scenes[2]
    report.scene(twin.id).pixels_won = 5
    assert report.scenes[2].pixels_won == 5
    with pytest.raises(KeyError):
        report.scene("nowhere")


def test_text_names_losses_and_scenes_in_rank_order():
    report = make_report()
    report.scenes[0].rank, report.scenes[2].rank = 2, 0
    text = str(report)
    assert "3 of 4 compete, 2 selected, 0 dropped, 1 failed" in text
    assert "40 wanted, 1 lost" in text
    assert "5.0 MiB in 61 requests, 3 retries" in text
    assert "1.75 (search 0.25, paint 1.50)" in text
    assert "mask: 404 from example.test" in text
    assert text.index("S2A_31TGK_20240712") < text.index("S2A_31TGK_20240707  ")


def test_long_lists_are_cut_and_the_rest_counted():
    report = make_report()
    report.failures = [Failure("item", "B02", n, None, 5, "reset") for n in range(200)]
    report.scenes = [SceneRecord(f"scene{n}", "", "", "", rank=n) for n in range(60)]
    text = str(report)
    assert len(text.splitlines()) < 45
    assert "195 more" in text
    assert "40 more" in text


def test_html_is_escaped():
    html = make_report()._repr_html_()
    assert "S2B_&lt;lost&gt;" in html
    assert "<lost>" not in html


def test_offset_warnings_are_all_kept_and_raised_once():
    report = Report()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        report.warn_offset("item a: no baseline")
        report.warn_offset("item b: no baseline")
    assert [w.category for w in seen] == [OffsetWarning]
    assert report.warnings == ["item a: no baseline", "item b: no baseline"]
    assert report.undecided_offsets == 2


def test_a_partial_result_warns_and_a_whole_one_does_not():
    with pytest.warns(PartialResultWarning, match="1 tiles and 1 scenes"):
        make_report().warn_if_partial()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Report().warn_if_partial()


FACTS = {"device": "NVIDIA <H200>", "driver": "13.0", "device_streams": 40, "host_streams": 4, "gb_s": {}}


def test_the_device_tells_what_it_did_in_this_run():
    report = make_report()
    report.device, report.device_note = "cuda:0", "why it is not another"
    now = {**FACTS, "device_streams": 340, "host_streams": 16, "gb_s": {"block": {"host": 0.5}}}
    report.note_device(FACTS, now)
    kept = {**now, "device_streams": 300, "host_streams": 12}
    assert json.loads(report.to_json())["device_facts"] == kept
    shown = "cuda:0, NVIDIA <H200>, host inflated 12 of 312 streams, 2 threads (why it is not another)"
    assert shown in str(report)
    assert "NVIDIA &lt;H200&gt;" in report._repr_html_()
    report.note_device(now, {**now, "device_streams": 400})
    assert "cuda:0, NVIDIA <H200>, 2 threads" in str(report), "a host that did nothing is not told of"


def test_a_device_without_facts_is_its_name():
    report = make_report()
    report.note_device({}, {})
    assert "cpu, 2 threads\n" in str(report)


def test_an_empty_report_can_be_shown():
    assert "0 of 0 compete" in str(Report())
    assert "<table>" in Report()._repr_html_()
