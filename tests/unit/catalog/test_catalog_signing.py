"""Tokens: which addresses, when fetched, when renewed, how often."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from bestpixel_gpu.catalog.signing import KEY_HEADER, SasSigner, container_of, needs_token
from bestpixel_gpu.errors import CatalogError, StalledError

ROOT = "https://planetarycomputer.microsoft.com/api/stac/v1"
SAS = "https://planetarycomputer.microsoft.com/api/sas/v1/token"
HREF = "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/T/x.tif"


class Service:
    """A token service with a clock of its own."""

    def __init__(self, life: float = 2700.0) -> None:
        self.now = 1_700_000_000.0
        self.life = life
        self.asked: list[tuple[str, dict[str, str] | None]] = []
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    def clock(self) -> float:
        return self.now

    async def fetch(self, url: str, headers: Mapping[str, str] | None = None) -> Any:
        self.asked.append((url, None if headers is None else dict(headers)))
        number = len(self.asked)
        await asyncio.sleep(0)
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        end = datetime.fromtimestamp(self.now + self.life, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"msft:expiry": end, "token": f"st=a%3A&se=b&sp=rl&sig=n{number}%2B%3D"}

    def signer(self, root: str = ROOT) -> SasSigner:
        return SasSigner(root, self.fetch, clock=self.clock, tokens={})


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PC_SDK_SUBSCRIPTION_KEY", raising=False)


def test_fix_08_token_per_container_appended_as_it_came() -> None:
    service = Service()

    async def run() -> None:
        signer = service.signer()
        assert await signer.sign(HREF) == f"{HREF}?st=a%3A&se=b&sp=rl&sig=n1%2B%3D"
        assert await signer.sign(f"{HREF}?v=1") == f"{HREF}?v=1&st=a%3A&se=b&sp=rl&sig=n1%2B%3D"
        await signer.sign("https://sentinel2l2a01.blob.core.windows.net/other/x.tif")

    asyncio.run(run())
    assert [u for u, _ in service.asked] == [
        f"{SAS}/sentinel2l2a01/sentinel2-l2",
        f"{SAS}/sentinel2l2a01/other",
    ]


@pytest.mark.parametrize(
    "href",
    [
        "https://ai4edatasetspublicassets.blob.core.windows.net/c/x.tif",
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/x/y.tif",
        "https://planetarycomputer.microsoft.com/api/data/v1/item/tilejson.json",
        f"{HREF}?st=1",
        f"{HREF}?a=b&se=2026-01-01T00%3A00%3A00Z",
        f"{HREF}?sp=rl",
        "https://blob.core.windows.net.evil.example/c/x.tif",
        "https://evil.example/blob/account/container/x.tif",
        "/blob/account/container/x.tif",
        "file:///blob/account/container/x.tif",
    ],
)
def test_fix_08_what_needs_no_token_stays_as_it_is(href: str) -> None:
    service = Service()
    assert not needs_token(href)
    assert asyncio.run(service.signer().sign(href)) == href
    assert asyncio.run(service.signer().renew(href)) == href
    assert service.asked == []


@pytest.mark.parametrize(("life", "good_for"), [(2700.0, 2400.0), (600.0, 300.0), (100.0, 50.0), (2.0, 1.0)])
def test_renewed_five_minutes_before_its_end_or_at_half_of_a_short_life(life: float, good_for: float) -> None:
    service = Service(life)

    async def run() -> None:
        signer = service.signer()
        first = await signer.sign(HREF)
        service.now += good_for - 0.1
        assert await signer.sign(HREF) == first
        service.now += 0.2
        assert await signer.sign(HREF) != first

    asyncio.run(run())
    assert len(service.asked) == 2


def test_one_fetch_for_all_who_wait() -> None:
    service = Service()

    async def run() -> None:
        signer = service.signer()
        assert len(set(await asyncio.gather(*(signer.sign(HREF) for _ in range(50))))) == 1
        assert len(service.asked) == 1
        service.now += 60  # the server refuses it now: fifty reads come back at once
        fresh = await asyncio.gather(*(signer.renew(HREF) for _ in range(50)))
        assert set(fresh) == {f"{HREF}?st=a%3A&se=b&sp=rl&sig=n2%2B%3D"}
        assert await signer.sign(HREF) == fresh[0]
        assert len(service.asked) == 2
        service.now += 60
        await signer.renew(HREF)
        assert len(service.asked) == 3

    asyncio.run(run())


def test_a_cancelled_waiter_takes_nothing_from_the_others() -> None:
    service = Service()

    async def run() -> None:
        service.gate = asyncio.Event()
        signer = service.signer()
        first, second = (asyncio.create_task(signer.sign(HREF)) for _ in range(2))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.sleep(0.01)
        service.gate.set()
        assert (await second).startswith(HREF)
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())


def test_a_failed_renewal_keeps_a_token_that_still_serves() -> None:
    service = Service()

    async def run() -> None:
        signer = service.signer()
        first = await signer.sign(HREF)
        service.error = StalledError("the token service takes too long")
        service.now += 2450
        assert await signer.sign(HREF) == first
        assert await signer.sign(HREF) == first
        assert len(service.asked) == 2  # not asked again at once
        with pytest.raises(StalledError):  # but one that was refused does not serve
            await signer.renew(HREF)
        service.now += 300  # past its end
        with pytest.raises(StalledError):
            await signer.sign(HREF)

    asyncio.run(run())


def test_a_failure_is_told_to_all_and_not_repeated_at_once() -> None:
    service = Service()
    service.error = StalledError("the token service takes too long")

    async def run() -> None:
        signer = service.signer()
        results = await asyncio.gather(*(signer.sign(HREF) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(r, StalledError) for r in results)
        assert len(service.asked) == 1
        service.error = None
        service.now += 11
        assert (await signer.sign(HREF)).startswith(HREF)

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"token": "a"}, {"token": "a", "msft:expiry": "soon"}, {"msft:expiry": "2030-01-01T00:00:00Z"}],
)
def test_an_answer_without_a_token_is_an_error(answer: Any) -> None:
    async def fetch(url: str) -> Any:
        return answer

    with pytest.raises(CatalogError, match="no token"):
        asyncio.run(SasSigner(ROOT, fetch, tokens={}).sign(HREF))


def test_subscription_key_goes_to_the_planetary_computer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "k")
    service = Service()
    asyncio.run(service.signer().sign(HREF))
    root = "http://127.0.0.1:8000/pc/api/stac/v1"
    asyncio.run(service.signer(root).sign("http://127.0.0.1:8000/blob/acc/con/x.tif"))
    assert [h for _, h in service.asked] == [{KEY_HEADER: "k"}, None]


def test_embedded_archive_has_its_own_tokens() -> None:
    service = Service()
    root = "http://127.0.0.1:8000/pc/api/stac/v1"

    async def run() -> None:
        signer = service.signer(root + "/")
        signed = await signer.sign("http://127.0.0.1:8000/blob/acc/con/a/x.tif")
        assert signed.startswith("http://127.0.0.1:8000/blob/acc/con/a/x.tif?st=")
        await signer.sign("http://localhost:8000/blob/acc/con/a/y.tif")
        await signer.sign(HREF)  # a real file in a local catalogue
        other = "http://127.0.0.1:9000/blob/acc/con/a/x.tif"
        assert await signer.sign(other) == other
        assert await service.signer(ROOT).sign(other) == other

    asyncio.run(run())
    assert [u for u, _ in service.asked] == [
        "http://127.0.0.1:8000/pc/api/sas/v1/token/acc/con",
        f"{SAS}/sentinel2l2a01/sentinel2-l2",
    ]


def test_containers_are_named_by_host_and_path() -> None:
    found = container_of("https://SENTINEL2L2A01.blob.core.windows.net/sentinel2-l2/x.tif")
    assert found is not None
    assert (found.account, found.name, found.local) == ("sentinel2l2a01", "sentinel2-l2", False)
