"""Storage options by obstore's names and by fsspec's."""

import pytest

from shardedstore import UsageError
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.grants import revoke
from shardedstore.storage.options import FSSPEC_NAMES, Options, is_public, take_options

pytestmark = pytest.mark.usefixtures("no_credentials")

SAME = {
    "s3 keys": (
        "s3://a/b",
        {"key": "id", "secret": "s", "token": "t"},
        {"access_key_id": "id", "secret_access_key": "s", "session_token": "t"},
    ),
    "s3 server": (
        "s3://a/b",
        {"client_kwargs": {"endpoint_url": "https://q", "region_name": "eu"}},
        {"endpoint": "https://q", "region": "eu"},
    ),
    "s3 anonymous": ("s3://a/b", {"anon": True, "asynchronous": False, "token": None}, {"skip_signature": True}),
    "s3a": ("s3a://a/b", {"endpoint_url": "https://q/"}, {"aws_endpoint": "https://q"}),
    "gs anonymous": ("gs://a/b", {"token": "anon"}, "anonymous"),
    "az": (
        "az://a/b",
        {"account_name": "me", "account_key": "k", "sas_token": "t"},
        {"azure_storage_account_name": "me", "account_key": "k", "sas_key": "t"},
    ),
    "abfs": ("abfs://a/b", {"sas_token": "t"}, {"sas_key": "t"}),
}


@pytest.mark.parametrize("name", SAME)
def test_names_of_fsspec_mean_the_same(name):
    url, of_fsspec, of_obstore = SAME[name]
    given = keywords(url, take_options(url, of_fsspec))
    revoke("")
    assert given == keywords(url, take_options(url, of_obstore)) != {}


def test_names_can_be_mixed():
    options = take_options("s3://a", {"key": "id", "secret_access_key": "s", "region": "eu", "anon": False})
    assert options == Options(region="eu")
    assert keywords("s3://a", options) == {"access_key_id": "id", "secret_access_key": "s", "region": "eu"}


def test_a_name_of_another_provider_stays():
    """Only S3 has a session token with the name `token`; obstore refuses it for other stores."""
    assert keywords("gs://a", take_options("gs://a", {"token": "/home/me/key.json"})) == {"token": "/home/me/key.json"}


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"key": "one", "access_key_id": "two"}, "access_key_id twice, with different values, as 'key' and 'access_key_id'"),
        ({"endpoint": "https://a", "endpoint_url": "https://b"}, "endpoint twice"),
        ({"endpoint_url": "https://a", "client_kwargs": {"endpoint_url": "https://b"}}, "endpoint twice"),
        ({"anon": True, "skip_signature": False}, "anonymous twice"),
        ({"AWS_REGION": "a", "region": "b"}, "region twice, with different values, as 'AWS_REGION' and 'region'"),
    ],
    ids=str,
)  # fmt: skip
def test_two_values_for_one_option_are_refused(given, named):
    with pytest.raises(UsageError, match=named) as refused:
        take_options("s3://a", given)
    assert "one" not in str(refused.value).replace("leave one out", "")


def test_equal_values_are_taken():
    assert take_options("s3://a", {"region": "eu", "region_name": "eu"}) == Options(region="eu")


def test_which_names_are_public():
    assert {name for names in FSSPEC_NAMES.values() for name in names if is_public(name)} == {
        "account_name",
        "anon",
        "endpoint_url",
        "region_name",
        "requester_pays",
    }
