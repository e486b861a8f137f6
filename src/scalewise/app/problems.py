"""What a client is told when something cannot be: a status, one sentence, and the field it is about (RFC 9457)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

from scalewise.errors import (
    BudgetInfeasible,
    ImageError,
    InvalidRequest,
    ScalewiseError,
    UnsupportedScale,
    UnwritableOutput,
)

MEDIA_TYPE = "application/problem+json"


class Refused(ScalewiseError):
    """A request that gets `status` and `detail`, one sentence; `field` names the form field at fault, if one is.
    `retry_after`: seconds after which it may be asked again."""

    def __init__(self, status: int, detail: str, field: str | None = None, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.field, self.retry_after = status, sentence(detail), field, retry_after

    def as_dict(self) -> dict[str, Any]:
        """The JSON of the answer."""
        told = {"type": "about:blank", "title": title(self.status), "status": self.status, "detail": self.detail}
        return told if self.field is None else told | {"field": self.field}

    def body(self) -> bytes:
        return json.dumps(self.as_dict()).encode()

    def headers(self) -> list[tuple[bytes, bytes]]:
        named = [(b"content-type", MEDIA_TYPE.encode()), (b"cache-control", b"no-store")]
        if self.retry_after is not None:
            named.append((b"retry-after", str(self.retry_after).encode()))
        if self.status in (408, 413):  # the rest of the body is not waited for
            named.append((b"connection", b"close"))
        if self.status == 401:
            named.append((b"www-authenticate", b"Bearer"))
        return named


def title(status: int) -> str:
    """The phrase of an HTTP status."""
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Error"


def sentence(text: str) -> str:
    """One line, in which files of the server are named without their folders."""
    line = text.strip().splitlines()[0] if text.strip() else "that did not work"
    return re.sub(r"(?<![\w.])/(?:[^/\s']+/)+", "", line)


@contextmanager
def said_of(field: str | None = None) -> Iterator[None]:
    """Errors of the engine, as refusals that name the field at fault."""
    try:
        yield
    except (Refused, MemoryError):
        raise
    except BudgetInfeasible as error:
        raise Refused(422, str(error), "budget") from None
    except UnsupportedScale as error:
        raise Refused(422, str(error), field or "scale") from None
    except UnwritableOutput as error:
        raise Refused(422, unnamed(str(error)), "format") from None
    except (ImageError, OSError) as error:
        raise Refused(422, unnamed(str(error)), "file") from None
    except InvalidRequest as error:
        raise Refused(422, str(error), field) from None


def unnamed(text: str) -> str:
    """A file has no name here that its owner knows."""
    text = re.sub(r"^'[^']*input'", "the file", text)
    text = re.sub(r"'[^']*/(input|result)(\.\w+)?'", "the file", text)
    return text.replace(" unless max_pixels is raised", "")


__all__ = ["MEDIA_TYPE", "Refused", "said_of", "sentence", "title", "unnamed"]
