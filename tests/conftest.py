"""Fixtures for every test: the shared samples, where they are."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:
    from bestpixel_gpu.simulate import LocalArchive

sys.path.insert(0, str(Path(__file__).resolve().parent))  # helper modules beside this file
hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no fault of the code
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real samples beside the repository; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("BESTPIXEL_SHARED", default))
    if not (folder / "data").is_dir():
        pytest.skip("needs the folder of real samples (shared/) beside the repository")
    return folder


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the default embedded archive."""
    from bestpixel_gpu.simulate import ArchiveSpec, build

    return build(ArchiveSpec(), tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def server(archive: Path) -> Iterator[LocalArchive]:
    """The default embedded archive, served; after each test it is calm again and counts from zero."""
    from bestpixel_gpu.simulate import serve

    with serve(archive) as local:
        yield local


@pytest.fixture(autouse=True)
def _calm(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if http := sys.modules.get("bestpixel_gpu.transfer.http"):
        http._STOOD.clear()
    if "server" in request.fixturenames:
        request.getfixturevalue("server").reset()
