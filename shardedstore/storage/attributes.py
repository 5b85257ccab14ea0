"""Attributes of the objects that a job writes for its shards: storage class, tags, encryption and checksums.

They are set on shards only. The config and the ledger are written as the bucket decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from shardedstore.errors import UsageError
from shardedstore.notices import Notice
from shardedstore.storage.obstore_version import has_obstore
from shardedstore.storage.options import scheme_of
from shardedstore.storage.urls import is_remote

ARCHIVES = ("glacier", "deep_archive", "archive")  # classes whose objects must be restored before they can be read
_OF_CLOUD = {  # the attributes that obstore can set
    "s3": ("storage_class", "tags", "metadata", "encryption", "kms_key", "bucket_key", "checksum"),
    "gs": ("storage_class", "metadata"),
    "az": ("storage_class", "tags", "metadata"),
}
_OTHERWISE = {  # the ways to reach the same in another way
    "acl": "use a policy of the bucket, or its setting of object ownership",
    "tags": "use metadata, or a folder of its own for rules of the bucket",
    "encryption": "set the default key or the encryption scope of the bucket",
    "kms_key": "set the default key or the encryption scope of the bucket",
    "bucket_key": "leave it out, as only S3 has it",
    "checksum": "leave it out, as each shard's CRC-32 is in the ledger",
}
_CLOUDS = {"s3": "S3", "gs": "Google Cloud Storage", "az": "Azure"}
MOST_TAGS = 10


def parse_pairs(texts: list[str]) -> dict[str, str]:
    """Return pairs of the form KEY=VALUE.

    >>> parse_pairs(["project=era5"])
    {'project': 'era5'}
    """
    pairs = [text.partition("=") for text in texts]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise UsageError(f"{name!r} has no value: write it as KEY=VALUE, like project=era5")
    return {name: value for name, _, value in pairs}


class ObjectAttributes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Attributes of the objects that a job writes for its shards.

    The config and the ledger do not get them, so that they can always be read.

    Parameters
    ----------
    storage_class : str, optional
        The storage class, such as ``"STANDARD_IA"`` for S3 or ``"NEARLINE"`` for Google; the access tier for Azure, such as
        ``"Cool"``.
    tags : mapping of str to str
        Tags of S3, or index tags of Azure, for rules of the bucket and for billing.
    metadata : mapping of str to str
        Metadata of your own.
    encryption : str, optional
        The encryption of S3: ``"AES256"``, ``"aws:kms"`` or ``"aws:kms:dsse"``.
    kms_key : str, optional
        The ID or the ARN of the key for ``"aws:kms"``.
    bucket_key : bool, optional
        Whether S3 uses a key of the bucket, which saves requests to the key service.
    checksum : str, optional
        The checksum that S3 verifies and keeps: ``"sha256"`` or ``"crc64nvme"``.
    acl : str, optional
        Always refused, as obstore can't set it; the message names other ways.

    Examples
    --------
    >>> from shardedstore import ObjectAttributes
    >>> ObjectAttributes(storage_class="STANDARD_IA", tags={"project": "era5"}).storage_class
    'STANDARD_IA'
    """

    storage_class: Annotated[
        str | None,
        Meta(
            description="The storage class of shards, such as STANDARD_IA; the access tier of Azure.",
            extra={"metavar": "CLASS"},
        ),
    ] = None
    tags: Annotated[
        dict[str, str],
        Meta(
            description="Give shards this tag.",
            extra={"option": "--tag", "metavar": "KEY=VALUE", "parse": parse_pairs},
        ),
    ] = {}
    metadata: Annotated[
        dict[str, str],
        Meta(
            description="Give shards this metadata.",
            extra={"option": "--object-metadata", "metavar": "KEY=VALUE", "parse": parse_pairs},
        ),
    ] = {}
    encryption: Annotated[
        Literal["AES256", "aws:kms", "aws:kms:dsse"] | None, Meta(description="The encryption of shards by S3.")
    ] = None
    kms_key: Annotated[
        str | None,
        Meta(description="The ID or the ARN of the key for --encryption aws:kms.", extra={"metavar": "KEY"}),
    ] = None
    bucket_key: Annotated[bool | None, Meta(description="Encrypt with a key of the bucket, which saves requests.")] = (
        None
    )
    checksum: Annotated[
        Literal["sha256", "crc64nvme"] | None, Meta(description="The checksum of shards that S3 verifies and keeps.")
    ] = None
    acl: Annotated[str | None, Meta(description="Not supported.", extra={"option": None})] = None

    def check(self, url: str) -> None:
        """Check that the object store of a URL can set the attributes.

        Parameters
        ----------
        url : str
            The destination.

        Raises
        ------
        UsageError
            If it can't, or if they contradict each other. The message names another way.
        """
        given = [name for name in self.__struct_fields__ if getattr(self, name) not in (None, {})]
        if given and not is_remote(url):
            raise UsageError(f"{url!r} is a local path, whose files have no {_shown(given[0])}: leave it out")
        scheme = scheme_of(url)
        for name in given:
            if name not in _OF_CLOUD.get(scheme, ()):
                raise UsageError(
                    f"{_shown(name)} can't be set on objects of {_CLOUDS.get(scheme, scheme)} ({url!r}): "
                    f"{_OTHERWISE.get(name, 'leave it out')}"
                )
        if self.storage_class and not has_obstore(0, 10):
            raise UsageError("a storage class needs obstore 0.10 or newer: install it with pip install -U obstore")
        if (self.kms_key or self.bucket_key is not None) and self.encryption not in ("aws:kms", "aws:kms:dsse"):
            raise UsageError("a kms_key or bucket_key needs encryption='aws:kms' (or 'aws:kms:dsse'): add it")
        if len(self.tags) > MOST_TAGS:
            raise UsageError(f"an object can have {MOST_TAGS} tags, but {len(self.tags)} were given: leave some out")

    def notices(self) -> Iterator[Notice]:
        """Yield warnings about the result.

        Yields
        ------
        Notice
            A warning.
        """
        if (self.storage_class or "").lower() in ARCHIVES:
            yield Notice(
                f"objects of the storage class {self.storage_class} must be restored before they can be read, so neither the "
                "result nor a later verify or changed run can open them until then"
            )

    def for_parts(self) -> ObjectAttributes:
        """Return the attributes of objects that are read again and removed soon: all but the storage class.

        Returns
        -------
        ObjectAttributes
            The attributes.

        Examples
        --------
        >>> ObjectAttributes(storage_class="GLACIER", encryption="aws:kms").for_parts().client_options()
        {'server_side_encryption': 'aws:kms'}
        """
        return msgspec.structs.replace(self, storage_class=None)

    def client_options(self) -> dict[str, Any]:
        """Return the attributes that obstore sets by the client.

        Returns
        -------
        dict
            The attributes by obstore's names.
        """
        names = {"encryption": "server_side_encryption", "kms_key": "sse_kms_key_id"}
        names |= {"bucket_key": "sse_bucket_key_enabled", "checksum": "checksum_algorithm"}
        found = {ours: getattr(self, name) for name, ours in names.items()}
        return {name: value for name, value in found.items() if value is not None}

    def put_options(self) -> dict[str, Any]:
        """Return the attributes that obstore sets by the request.

        Returns
        -------
        dict
            Keywords of obstore's `put`.
        """
        attributes = {**self.metadata, **({"Storage-Class": self.storage_class} if self.storage_class else {})}
        return {
            **({"attributes": attributes} if attributes else {}),
            **({"tags": self.tags} if self.tags else {}),
        }


def _shown(name: str) -> str:
    plural = ("tags", "metadata", "encryption")
    return "an ACL" if name == "acl" else name if name in plural else f"a {name.replace('_', ' ')}"


NO_ATTRIBUTES = ObjectAttributes()
_current: ContextVar[ObjectAttributes] = ContextVar("shardedstore-attributes", default=NO_ATTRIBUTES)


@contextmanager
def attributes_of_objects(attributes: ObjectAttributes) -> Iterator[None]:
    """Give the objects that this thread writes in the block these attributes."""
    token = _current.set(attributes)
    try:
        yield
    finally:
        _current.reset(token)


def current_attributes() -> ObjectAttributes:
    """Return the attributes for the objects that this thread writes now.

    >>> with attributes_of_objects(ObjectAttributes(tags={"a": "b"})):
    ...     current_attributes().put_options()
    {'tags': {'a': 'b'}}
    """
    return _current.get()
