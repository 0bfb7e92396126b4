"""The public entry points for many periods: months of years, slices of a span, any list of dates."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from inspect import Parameter
from typing import TYPE_CHECKING, Any

from bestpixel_gpu.api import build_composite, checked

if TYPE_CHECKING:
    from bestpixel_gpu.compositing.series import SeriesRequest
    from bestpixel_gpu.result.composite import Composite
    from bestpixel_gpu.result.period import FailedPeriod


def build_monthly_composites(*args: Any, **kwargs: Any) -> list[Composite | FailedPeriod]:
    """One composite for every month of every year, sorted by time.

    The arguments are those of :func:`build_composite`, without `datetime` and with the following.
    Months are searched and read while others are painted, as many at once as `memory_limit` has
    room for (it covers all composites of the list); each month's pixels are those of a call of its
    own.

    Parameters
    ----------
    years, months : list of int
        After `bbox`. Every month (1..12) of every year, each once.
    aod_by_day : mapping of "YYYY-MM-DD" -> number, optional
    aod_max : float, optional
        With both, a scene competes only if the aerosol optical depth of its day (UTC) is at most
        `aod_max`. A day that is not in the table, or whose value is None or NaN, is unknown.
    reject_unknown : bool
        Scenes of unknown days do not compete either.
    timeout : float, optional
        Seconds for the whole call.

    Returns
    -------
    list of Composite or FailedPeriod
        With keys ``year``, ``month`` and ``period`` beside all others. A month without a composite
        (no scene, too much failed, ...) is a :class:`FailedPeriod` with its ``error``.

    Raises
    ------
    InputError, MemoryLimitError
        Before any request.
    BestPixelError
        The first month's error, if no month has a composite.
    """
    asked = _monthly(args, kwargs, collected=True)
    from bestpixel_gpu.compositing.series import collect
    from bestpixel_gpu.transfer.loop import run_sync

    return run_sync(collect(asked), timeout=asked.request.timeout)


async def build_monthly_composites_async(*args: Any, **kwargs: Any) -> list[Composite | FailedPeriod]:
    """Await :func:`build_monthly_composites` on the running loop."""
    asked = _monthly(args, kwargs, collected=True)
    from bestpixel_gpu.compositing.series import collect
    from bestpixel_gpu.transfer.loop import limited

    return await limited(collect(asked), asked.request.timeout)


def iter_monthly_composites(*args: Any, **kwargs: Any) -> Iterator[Composite | FailedPeriod]:
    """Iterate over what :func:`build_monthly_composites` returns, for any number of years.

    The next months are made while the caller works on one; few are there at one time, and
    `memory_limit` covers these and the one that the caller holds. `timeout` is for each wait.
    Arguments are checked in the call, work begins with the first month.
    """
    return _iterated(_monthly(args, kwargs, collected=False))


def iter_monthly_composites_async(*args: Any, **kwargs: Any) -> AsyncIterator[Composite | FailedPeriod]:
    """Iterate over :func:`iter_monthly_composites` with ``async for``."""
    return _iterated_async(_monthly(args, kwargs, collected=False))


def iter_composites(*args: Any, **kwargs: Any) -> Iterator[Composite | FailedPeriod]:
    """Iterate over the composites of any periods, as :func:`iter_monthly_composites` does over months.

    Parameters
    ----------
    datetime : str or list
        After `bbox`. A span of dates, or the periods themselves, in any order; they may overlap.
        Each is text as for :func:`build_composite` (``"2024-06-01/2024-06-15"``, ``"2024-06"``,
        ``"P30D/2024-07-15"``: the thirty days that end with a day) or a pair of dates or times.
    period : str, optional
        ISO 8601 duration that slices the span: ``"P10D"``, ``"P1M"``, ``"P3M"``, ``"P1Y"``. Slices
        are counted from the start of the span, the last one ends with it.
    """
    return _iterated(_general(args, kwargs))


def iter_composites_async(*args: Any, **kwargs: Any) -> AsyncIterator[Composite | FailedPeriod]:
    """Iterate over :func:`iter_composites` with ``async for``."""
    return _iterated_async(_general(args, kwargs))


# ---- arguments ----


def _signature(*when: Parameter) -> inspect.Signature:
    """That of ``build_composite``, other dates, and the gate before what the ancestor has last."""
    gate = {"aod_by_day": None, "aod_max": None, "reject_unknown": False}
    own: list[Parameter] = []
    for name, parameter in inspect.signature(build_composite).parameters.items():
        if name == "emit_uncertainty":
            own += [Parameter(n, Parameter.POSITIONAL_OR_KEYWORD, default=v) for n, v in gate.items()]
        own += when if name == "datetime" else (parameter,)
    return inspect.Signature(own)


_MONTHS = _signature(*(Parameter(n, Parameter.POSITIONAL_OR_KEYWORD) for n in ("years", "months")))
_PERIODS = _signature(
    Parameter("datetime", Parameter.POSITIONAL_OR_KEYWORD),
    Parameter("period", Parameter.POSITIONAL_OR_KEYWORD, default=None),
)
_SIGNATURES: dict[Callable[..., Any], inspect.Signature] = dict.fromkeys(
    (
        build_monthly_composites,
        build_monthly_composites_async,
        iter_monthly_composites,
        iter_monthly_composites_async,
    ),
    _MONTHS,
) | dict.fromkeys((iter_composites, iter_composites_async), _PERIODS)
for _entry, _own in _SIGNATURES.items():
    setattr(_entry, "__signature__", _own)  # noqa: B010  (mypy knows no such attribute)


def _monthly(args: tuple[Any, ...], kwargs: dict[str, Any], *, collected: bool) -> SeriesRequest:
    from bestpixel_gpu.compositing.periods import months_of

    call = _arguments(_MONTHS, args, kwargs)
    return _asked(call, months_of(call.pop("years"), call.pop("months")), collected)


def _general(args: tuple[Any, ...], kwargs: dict[str, Any]) -> SeriesRequest:
    from bestpixel_gpu.compositing.periods import periods_of

    call = _arguments(_PERIODS, args, kwargs)
    return _asked(call, periods_of(call.pop("datetime"), call.pop("period")), False)


def _arguments(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    call = signature.bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def _asked(call: dict[str, Any], periods: list[Any], collected: bool) -> SeriesRequest:
    """The series of a call's arguments, checked before anything is sent anywhere."""
    from bestpixel_gpu.compositing.periods import day_gate
    from bestpixel_gpu.compositing.series import SeriesRequest
    from bestpixel_gpu.result.period import Period

    gate = day_gate(*(call.pop(name) for name in ("aod_by_day", "aod_max", "reject_unknown")))
    span = Period(min(p.start for p in periods), max(p.end for p in periods))
    request = checked(call | {"datetime": span.dates})
    return SeriesRequest(request=request, periods=tuple(periods), gate=gate, collected=collected)


# ---- iterators ----


def _iterated(asked: SeriesRequest) -> Iterator[Composite | FailedPeriod]:
    """Results one by one; what is under way goes on on the background loop between two of them."""
    from bestpixel_gpu.compositing.series import Series
    from bestpixel_gpu.transfer.loop import run_sync

    series = Series(asked)
    try:
        run_sync(series.open())
        while (found := run_sync(series.next(), timeout=asked.request.timeout)) is not None:
            yield found
            del found  # the caller's now
    finally:
        if not sys.is_finalizing():  # then the loop's thread is gone, and whoever waited for it would hang
            run_sync(series.close())


async def _iterated_async(asked: SeriesRequest) -> AsyncIterator[Composite | FailedPeriod]:
    from bestpixel_gpu.compositing.series import Series
    from bestpixel_gpu.transfer.loop import limited

    async with Series(asked) as series:
        while (found := await limited(series.next(), asked.request.timeout)) is not None:
            yield found
            del found
