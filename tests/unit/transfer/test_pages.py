"""Fresh memory: zero, one's own, and in large pages only where those are cheap."""

import os

import numpy as np
import pytest

from bestpixel_gpu.transfer.pages import FEW_PAGES, LARGE_PAGE, LargePages, fresh_pages


@pytest.mark.parametrize(
    "size", [1, LARGE_PAGE - 1, LARGE_PAGE, 5 * LARGE_PAGE // 2 - 1, 5 * LARGE_PAGE // 2]
)
def test_fresh_pages_are_zero_and_writable(size):
    memory = fresh_pages(size)
    assert (memory.size, memory.dtype, memory.any()) == (size, np.uint8, False)
    memory[:] = 1
    if size >= LARGE_PAGE:
        assert memory.ctypes.data % LARGE_PAGE == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
@pytest.mark.filterwarnings("ignore:This process")
def test_a_child_has_fresh_pages_of_its_own():
    memory = fresh_pages(2 * LARGE_PAGE)
    child = os.fork()
    if not child:
        memory[:] = 1
        os._exit(0)
    os.waitpid(child, 0)
    assert not memory.any()


def test_too_much_is_a_memory_error():
    with pytest.raises(MemoryError, match="no memory for"):
        fresh_pages(1 << 60)


@pytest.mark.parametrize(
    ("told", "many"), [(None, True), ("", True), ("9\n", False), ("11\n", True), ("4294967295\n", True)]
)
def test_large_pages_where_free_ones_are_not_handed_back(tmp_path, told, many):
    file = tmp_path / "page_reporting_order"
    if told is not None:
        file.write_text(told)
    pages = LargePages(file)
    assert pages.wanted(FEW_PAGES // 2)
    assert pages.wanted(FEW_PAGES) is many
    assert pages.wanted(FEW_PAGES // 2), "a few are mostly there"
    assert pages.wanted(LARGE_PAGE) is many
