"""Every error and warning of the package, in one tree.

Catch :class:`BestPixelError` for all of them, or a branch::

    BestPixelError
      InputError (ValueError)          an argument is wrong; raised before any request
      CatalogError                     the catalogue could not be searched or understood
        NoScenesError                  the search found nothing usable
      SourceError (OSError)            bytes could not be read
        AuthError                      the server refused the request's credentials
        MissingError (FileNotFoundError)  the file is not there
        StalledError (TimeoutError)    a wait passed its limit
      FormatError (ValueError)         not a TIFF this package reads; names the feature
        CorruptTileError               a tile's bytes do not decode to what the header promises
      DeviceError (RuntimeError)       the requested device cannot be used
      MemoryLimitError (MemoryError)   the request cannot fit ``memory_limit``; names sizes that would
      IncompleteError                  more failed than the caller allows; holds the report

Messages are one line: what was wrong, what was expected, what to do. They never hold the query
part of a URL, where signing tokens live.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit


def without_query(url: str) -> str:
    """``url`` without its query and fragment, so that no token is ever shown."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class BestPixelError(Exception):
    """Base of every error raised by this package."""


class InputError(BestPixelError, ValueError):
    """An argument cannot be used. Raised before any request is made."""


class CatalogError(BestPixelError):
    """A catalogue could not be searched, or an item lacks what a composite needs."""


class NoScenesError(CatalogError):
    """No usable scene: the message says what was searched and how to widen it."""


class SourceError(BestPixelError, OSError):
    """Bytes could not be read.

    Attributes
    ----------
    url : str
        Address without its query.
    status : int or None
        HTTP status of the last attempt, where there was an answer.
    attempts : int
        How often it was tried.
    """

    def __init__(self, message: str, *, url: str = "", status: int | None = None, attempts: int = 1) -> None:
        super().__init__(message)
        self.url = without_query(url)
        self.status = status
        self.attempts = attempts

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), self.url, self.status, self.attempts)


def _rebuild(kind: type[SourceError], text: str, url: str, status: int | None, n: int) -> SourceError:
    return kind(text, url=url, status=status, attempts=n)


class AuthError(SourceError):
    """The server refused the credentials (401, 403 or 409) even after signing afresh."""


class MissingError(SourceError, FileNotFoundError):
    """The file is not there (404 or 410, or no such path)."""


class StalledError(SourceError, TimeoutError):
    """A wait passed its limit."""


class FormatError(BestPixelError, ValueError):
    """Not a TIFF this package reads; the message names the feature or the damage."""


class CorruptTileError(FormatError):
    """A tile's bytes do not decode to what the header promises."""


class DeviceError(BestPixelError, RuntimeError):
    """The requested device cannot be used; the message says why and what to install."""


class MemoryLimitError(BestPixelError, MemoryError):
    """The request cannot fit ``memory_limit``; the message gives sizes that would."""


class IncompleteError(BestPixelError):
    """More failed than the caller allows.

    Attributes
    ----------
    report : object
        The report so far, with every failure.
    """

    def __init__(self, message: str, report: object = None) -> None:
        super().__init__(message)
        self.report = report


class BestPixelWarning(UserWarning):
    """Base of every warning of this package."""


class PartialResultWarning(BestPixelWarning):
    """Something was lost and the next best observation stands in its place."""


class OffsetWarning(BestPixelWarning):
    """The radiometric offset of a scene could not be decided from its metadata."""
