"""Explain and classify errors of storage: one sentence for users, a code for each cause, and whether a retry can help.

obstore's messages contain pages of debugging output, and signed URLs. `explain` returns one sentence without secrets.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError

from shardedstore.errors import CorruptError, MoveError, SourceChangedError, TemporaryError

SKEWED = {"RequestTimeTooSkewed", "RequestExpired", "Skewed"}

# Signs of an error, and their meaning. The first match is used.
_MEANINGS = (
    (
        {"NoCredentials"},
        "no credentials were found: give them in the environment or as storage_options; for public data say 'anonymous'",
    ),
    ({"MissingAccount"}, "no account was named: set AZURE_STORAGE_ACCOUNT_NAME, or the storage option account_name"),
    (
        SKEWED,
        "the clock of this machine differs too much from the server's: correct it, and run this again",
    ),
    (
        {"Untrusted"},
        "the server's certificate is not trusted: name the file of its authority's certificate with the storage option root_certificate",
    ),
    ({"NoSuchBucket", "ContainerNotFound"}, "there is no such bucket or container: check its name, or create it first"),
    (
        {
            "401", "AuthenticationFailed", "AuthorizationFailure", "ExpiredToken", "InvalidAccessKey",
            "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch", "TokenRefreshRequired",
        },
        "the credentials are not accepted: check the key, and whether it has expired",
    ),
    ({"InvalidObjectState", "BlobArchived"}, "the object is in an archive: restore it in the object store, and run this again"),
    ({"403"}, "access is denied: check the credentials and their permissions"),
    ({"404"}, "no object has this name: check the name and the bucket"),
    ({"409", "412"}, "the object exists already, or was changed by someone else: look at it and try again"),
    (
        {"301", "BareRedirect", "AuthorizationHeaderMalformed", "PermanentRedirect"},
        "the bucket is in another region: set AWS_REGION, or the storage option region",
    ),
    ({"408", "429", "500", "502", "503", "504"}, "the server is too busy or out of order: try again later"),
    ({"507"}, "the server is full: make room there"),
    (
        {"RangeNotSupported"},
        "the server does not send parts of a file, which are needed to read a zip: download it, and name the file",
    ),
    (
        {"MissingContentLength"},
        "the server does not send the length of its replies, so a truncated reply could not be detected: ask its owner",
    ),
    ({"BadScheme"}, "http:// is not allowed: name an endpoint with https://, or set the storage option allow_http"),
    ({"Connect"}, "the server can't be reached: check the endpoint and the network"),
    ({"Timeout"}, "the server did not answer in time: check the network, and try again"),
    ({"HttpError"}, "the connection was lost: try again"),
)  # fmt: skip

_OF_WRITER = re.compile(r"(?s).*Error performing [A-Z]+ https?://")

_MARKUP = re.compile(r"[: ]*<\?xml.*", re.DOTALL)  # servers add XML to their replies

_TOLD = {  # signs that only the wording of an error shows
    "Untrusted": r"(?i)InvalidCertificate|UnknownIssuer|invalid peer certificate|self.signed certificate|certificate verify failed",
    "Skewed": r"(?i)request date header too old|difference between the request time and",
}


def is_of_object_store(error: BaseException) -> bool:
    """Tell whether obstore raised an error.

    obstore also uses some of Python's own exception classes. Errors of its writer are an OSError without a number and
    without debugging output.

    >>> is_of_object_store(OSError("Generic S3 error: Error performing PUT http://host/a in 2s - status code: 503"))
    True
    """
    text = str(error)
    is_worded = isinstance(error, OSError) and _OF_WRITER.match(text) is not None
    return isinstance(error, BaseError) or "\n\nDebug source:" in text or is_worded


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error mentions, or None.

    >>> status_of(ValueError("Server returned non-2xx status code: 403 Forbidden"))
    403
    """
    found = _first(r"status code: (\d{3})", str(error))
    return int(found) if found else None


def explain(error: BaseException) -> str:
    """Return one sentence about an error: the cause, the remedy and the request.

    The sentence has no secrets and no debugging output. For an error of another origin than an object store, it is the
    first line of its message.

    >>> explain(PermissionError(13, "Permission denied", "/data"))
    "[Errno 13] Permission denied: '/data'"
    """
    text, _, debugging = str(error).partition("\n\nDebug source:")
    if not is_of_object_store(error):
        return _MARKUP.sub("", text).partition("\n")[0] or type(error).__name__
    asked = re.search(r"Error performing ([A-Z]+) (\S+)", text)
    request = "" if asked is None else f"{asked[1]} {_public(asked[2])}"
    status = _first(r"status code: (\d{3})", text)
    code = _first(r"<Code>(\w+)</Code>", text)
    reason = code or _first(r'(?:message|error): "([^"]+)"', debugging)
    signs = signs_of(error)
    meaning = next((meaning for some, meaning in _MEANINGS if some & signs), None)
    if meaning is None:
        meaning = _public(_first(r"<Message>([^<\n]+)", text) or _MARKUP.sub("", text).partition("\n")[0])
    details = ", ".join(filter(None, (request, f"{status} {reason}".strip())))
    return f"{meaning} ({details})" if details else meaning


def signs_of(error: BaseException) -> set[str]:
    """Return the signs that tell the meaning of an object store's error.

    Signs are the HTTP status, the server's error code and kinds of errors in obstore's debugging output.

    >>> sorted(signs_of(OSError("Generic S3 error: Error performing PUT http://host/a in 2s - status code: 507")))
    ['', '507']
    """
    text, _, debugging = str(error).partition("\n\nDebug source:")
    request = _first(r"Error performing [A-Z]+ (\S+)", text)
    if re.search(r"//(169\.254\.|metadata\.)", request):  # clouds serve credentials to virtual machines there
        return {"NoCredentials"}
    found = {_first(r"status code: (\d{3})", text), _first(r"<Code>(\w+)</Code>", text)}
    found |= set(re.findall(r"\b(?:kind|source|inner): (\w+)", debugging))
    found |= {sign for sign, pattern in _TOLD.items() if re.search(pattern, str(error))}
    return found | {"HttpError"} if "HttpError {" in debugging else found


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _public(url: str) -> str:
    """Remove queries and user names from the URLs in a text, because they can hold secrets.

    >>> _public("GET https://me:word@host/a/b?sig=secret failed")
    'GET https://host/a/b failed'
    """
    return re.sub(r"(?<=://)[^/@\s]*@", "", re.sub(r"\?\S*", "", url))


REFUSED = (*range(400, 408), 507)  # HTTP statuses of requests that the server will refuse again

DENIED = {
    "401", "403", "AccessDenied", "AuthenticationFailed", "AuthorizationFailure", "ExpiredToken", "InvalidAccessKey",
    "InvalidAccessKeyId", "InvalidToken", "NoCredentials", "SignatureDoesNotMatch", "TokenRefreshRequired",
}  # fmt: skip

NO_SPACE = ("no-space", "there is no space left: make room")

UNTRUSTED = (
    "untrusted-certificate",
    "the server's certificate is not trusted: set the storage option root_certificate",
)

PERMANENT = {"BadScheme", "Untrusted"}  # signs of errors without an HTTP status that a retry does not mend

_DENIED_HERE = ("access-denied", "access is denied: give this user the permission")

_DENIED_THERE = ("access-denied", "access is denied: renew or correct the credentials, or their permissions")

SYSTEMIC = {  # codes and remedies of causes that affect all shards, by errno
    errno.ENOSPC: NO_SPACE,
    errno.EDQUOT: ("quota", "the quota is used up: make room, or have it raised"),
    errno.EROFS: ("read-only", "the file system is read-only: mount it for writing, or name another destination"),
    errno.EACCES: _DENIED_HERE,
    errno.EPERM: _DENIED_HERE,
}

TRANSIENT = {errno.EAGAIN, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENETDOWN, errno.EHOSTUNREACH}


def is_transient(error: BaseException) -> bool:
    """Tell whether an error, or one of its causes, may go away: a network error, a time-out, a busy disk.

    Damaged data does not go away, whatever its cause.

    >>> is_transient(TimeoutError()), is_transient(ValueError()), is_transient(OSError(errno.ENOSPC, "full"))
    (True, False, False)
    """
    return not isinstance(error, CorruptError) and any(map(_is_transient, chain_of(error)))


def systemic(error: BaseException) -> str:
    """Return the remedy for an error that affects all shards; "" for any other error.

    >>> systemic(OSError(errno.ENOSPC, "full"))
    'there is no space left: make room'
    """
    return _systemic(error)[1]


def code_of(error: BaseException) -> str:
    """Return the code of an error that failed a shard, one of `errors.CODES`.

    >>> (
    ...     code_of(OSError(errno.ENOSPC, "full")),
    ...     code_of(CorruptError("bad")),
    ...     code_of(TimeoutError()),
    ...     code_of(KeyError(1)),
    ... )
    ('no-space', 'corrupt', 'temporary', 'failed')
    """
    code = _systemic(error)[0]
    if code:
        return code
    for one in chain_of(error):
        if isinstance(one, CorruptError):
            return one.code if isinstance(one, MoveError | SourceChangedError) else "corrupt"
    return "temporary" if is_transient(error) else "failed"


def _systemic(error: BaseException) -> tuple[str, str]:
    """Return the code and remedy of an error that affects all shards; two empty strings for others."""
    return next(filter(None, map(_systemic_one, chain_of(error))), ("", ""))


def _systemic_one(error: BaseException) -> tuple[str, str] | None:
    if is_of_object_store(error) or isinstance(error, BaseError):
        signs = signs_of(error)
        if signs & SKEWED:
            return "clock-skew", "the clock of this machine differs too much from the server's: correct it"
        if isinstance(error, UnauthenticatedError | PermissionDeniedError) or signs & DENIED:
            return _DENIED_THERE
        if "Untrusted" in signs:
            return UNTRUSTED
        return NO_SPACE if "507" in signs else None
    return SYSTEMIC.get(error.errno or 0) if isinstance(error, OSError) else None


def lacks_credentials(error: BaseException) -> bool:
    """Tell whether an error, or one of its causes, means that no credentials were found."""
    return any("NoCredentials" in signs_of(one) for one in chain_of(error) if is_of_object_store(one))


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and its causes, as its traceback shows them."""
    seen = set[int]()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, TemporaryError):
        return True
    if isinstance(error, OSError) and not is_of_object_store(error):
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in TRANSIENT
    if not isinstance(error, GenericError | OSError) or status_of(error) in REFUSED:
        return False
    return not (is_of_object_store(error) and signs_of(error) & PERMANENT)


def cause_of(error: BaseException) -> str:
    """Return the type and message of an error."""
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    text = explain(error) if is_of_object_store(error) or "<?xml" in str(error) else str(error)
    return f"{type(error).__name__}: {text}{notes}"
