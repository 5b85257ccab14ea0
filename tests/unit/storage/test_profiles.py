"""Credentials from AWS profiles, and from environment variables for one side of a job."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from shardedstore import UsageError
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.grants import granted
from shardedstore.storage.options import NONE, Options, take_options
from shardedstore.storage.profiles import Profile, environment_profile
from shardedstore.storage.sides import side_options

pytestmark = pytest.mark.usefixtures("no_credentials")
URL = "s3://bucket/out"
CREDENTIALS = """
[default]
aws_access_key_id = id-default
aws_secret_access_key = secret-default

[night]
aws_access_key_id = id-night
aws_secret_access_key = secret-night
aws_session_token = token-night
"""
CONFIG = """
[default]
region = eu-north-1

[profile night]
region = eu-west-3
services = lab

[profile other]
region = us-east-1

[profile tool]
credential_process = {python} {tool}
endpoint_url = https://tool.example.org
ca_bundle = {bundle}

[services lab]
s3 =
  endpoint_url = https://lab.example.org:9000
"""
TOOL = """import json, sys
print(json.dumps({{"Version": 1, "AccessKeyId": "id-tool", "SecretAccessKey": "secret-tool", "SessionToken": "t", "Expiration": "{until}"}}))
"""


@pytest.fixture
def files(tmp_path, monkeypatch, use_environment):
    """The files of profiles; no other settings of AWS are in the environment."""
    use_environment({})
    tool, bundle = tmp_path / "tool.py", tmp_path / "ca.pem"
    tool.write_text(TOOL.format(until=(datetime.now(UTC) + timedelta(hours=1)).isoformat()))
    bundle.write_text("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "credentials").write_text(CREDENTIALS)
    (tmp_path / "config").write_text(CONFIG.format(python=sys.executable, tool=tool, bundle=bundle))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


def key_of(url, options=NONE):
    """The access key that a client of a URL would use."""
    found = keywords(url, options)
    return found["credential_provider"]()["access_key_id"] if "credential_provider" in found else None


def test_a_profile_gives_keys_a_region_and_an_endpoint(files):
    options = take_options(URL, {"profile": "night"})
    assert options == Options(endpoint="https://lab.example.org:9000", region="eu-west-3")
    assert keywords(URL, options)["credential_provider"]() == {
        "access_key_id": "id-night",
        "secret_access_key": "secret-night",
        "token": "token-night",
        "expires_at": pytest.approx(datetime.now(UTC) + timedelta(minutes=10), abs=timedelta(seconds=30)),
    }
    assert take_options(URL, {"profile": "night", "region": "here"}).region == "here"


def test_another_program_gives_the_keys_of_a_profile(files):
    pytest.importorskip("botocore")
    options = take_options(URL, {"profile": "tool"})
    assert (options.endpoint, key_of(URL, options)) == ("https://tool.example.org", "id-tool")
    assert b"BEGIN CERTIFICATE" in keywords(URL, options)["client_options"]["root_certificate"]


def test_workers_get_keys_and_not_the_name_of_a_profile(files):
    take_options(URL, {"profile": "night"})
    (given,) = granted([URL]).values()
    assert given["credential_provider"]()["access_key_id"] == "id-night"
    assert "secret" not in repr(given)


def test_keys_that_change_in_the_file_are_read_again(files):
    options = take_options(URL, {"profile": "night"})
    client = keywords(URL, options)["credential_provider"]
    (files / "credentials").write_text(CREDENTIALS.replace("id-night", "id-renewed"))
    assert client()["access_key_id"] == "id-renewed"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Profile("default")),
        ({"AWS_PROFILE": "night"}, Profile("night")),
        ({"AWS_PROFILE": "night", "AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}, Profile("night")),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": "/x"}, None),
        ({"AWS_PROFILE": "night", "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "s"}, None),
        ({"AWS_SHARED_CREDENTIALS_FILE": "/none", "AWS_CONFIG_FILE": "/none"}, None),
    ],
    ids=str,
)
def test_the_profile_of_the_environment(files, monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_profile() == expected
    assert key_of(URL) == (expected and f"id-{expected.name}")
    assert key_of(URL, Options(anonymous=True)) is None
    assert key_of("gs://bucket/out") is None


def test_the_environment_wins_over_the_region_of_its_profile(files, monkeypatch):
    monkeypatch.setenv("AWS_PROFILE", "night")
    assert keywords(URL, NONE)["endpoint"] == "https://lab.example.org:9000"
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://mine.example.org")
    assert "endpoint" not in keywords(URL, NONE)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"profile": "nigt"}, r"there is no AWS profile 'nigt' in .*: its profiles are: default, night, other, tool"),
        ({"profile": "other"}, r"'other' has no credentials in .*: run aws configure --profile other"),
        ({"profile": "night", "key": "id"}, r"the profile 'night', and also 'key': leave one out"),
        ({"profile": "night", "aws_profile": "tool"}, "and another profile: leave one out"),
        ({"ca_bundle": "/none.pem"}, r"the certificates at '/none.pem' can't be read: No such file"),
    ],
    ids=str,
)
def test_profiles_that_can_not_be_used(files, given, message):
    with pytest.raises(UsageError, match=message):
        take_options(URL, given)


def test_a_profile_is_for_s3_only(files):
    with pytest.raises(UsageError, match="name a profile, which is for s3:// only"):
        take_options("gs://bucket/out", {"profile": "night"})


def test_a_missing_library_is_named(files, monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore", None)
    (files / "config").write_text("[profile single]\nsso_session = corp\n")
    with pytest.raises(
        UsageError, match=r"'single' gets its credentials by .* needs botocore: install shardedstore\[aws\]"
    ):
        take_options(URL, {"profile": "single"})


def test_single_sign_on_that_has_ended_says_how_to_log_in(files):
    pytest.importorskip("botocore")
    config = "[profile ended]\nsso_session = corp\nsso_account_id = 1\nsso_role_name = r\n"
    config += "[sso-session corp]\nsso_start_url = https://127.0.0.1:1\nsso_region = eu-west-3\n"
    (files / "config").write_text(config)
    with pytest.raises(UsageError, match=r"gives no credentials .*run aws sso login --profile ended"):
        take_options(URL, {"profile": "ended"})


def test_a_file_that_is_not_valid_is_named_without_its_content(files):
    (files / "credentials").write_text("[night]\naws_secret_access_key secret-night\n")
    with pytest.raises(UsageError, match=r"credentials' is not a valid file of AWS profiles") as refused:
        take_options(URL, {"profile": "night"})
    assert "secret-night" not in str(refused.value)


def test_a_token_of_the_environment_is_not_sent_with_other_keys(files, monkeypatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-another")
    options = take_options(URL, {"access_key_id": "mine", "secret_access_key": "s"})
    assert keywords(URL, options)["credential_provider"]()["token"] is None


SIDES = {
    "SHARDEDSTORE_SOURCE_AWS_ACCESS_KEY_ID": "id",
    "SHARDEDSTORE_SOURCE_AWS_SECRET_ACCESS_KEY": "s",
    "SHARDEDSTORE_SOURCE_AWS_REGION": "eu",
    "SHARDEDSTORE_DESTINATION_GOOGLE_SERVICE_ACCOUNT": "/key.json",
}
KEYS = {"aws_access_key_id": "id", "aws_secret_access_key": "s"}


@pytest.mark.parametrize(
    ("side", "url", "given", "profile", "expected"),
    [
        ("source", "s3://a/b", None, None, {**KEYS, "aws_region": "eu"}),
        ("source", "s3a://a/b", {"region": "us"}, None, {**KEYS, "region": "us"}),
        ("source", "s3://a/b", None, "night", {"aws_region": "eu", "profile": "night"}),
        ("source", "s3://a/b", {"key": "x", "secret": "y"}, None, {"aws_region": "eu", "key": "x", "secret": "y"}),
        ("source", "s3://a/b", {"anon": True}, None, {"aws_region": "eu", "anon": True}),
        ("source", "s3://a/b", "anonymous", None, "anonymous"),
        ("source", "/data/a", None, None, None),
        ("source", "https://host/a", {}, None, None),
        ("destination", "s3://a/b", None, None, None),
        ("destination", "gs://a/b", None, None, {"google_service_account": "/key.json"}),
    ],
)
def test_variables_of_one_side(side, url, given, profile, expected):
    assert side_options(side, url, given, profile, SIDES) == expected


def test_a_variable_of_a_side_may_name_a_profile(files):
    environ = {"SHARDEDSTORE_DESTINATION_AWS_PROFILE": "night"}
    options = take_options(URL, side_options("destination", URL, environ=environ))
    assert key_of(URL, options) == "id-night"


@pytest.mark.parametrize(
    ("url", "profile", "environ", "message"),
    [
        (
            "s3://a",
            None,
            {"SHARDEDSTORE_SOURCE_KEY": "s3cret"},
            "SHARDEDSTORE_SOURCE_KEY is not known: .* such as AWS_",
        ),
        ("/data", "night", {}, "a profile was given for '/data', which is a local path"),
    ],
)
def test_sides_that_can_not_be_used(url, profile, environ, message):
    with pytest.raises(UsageError, match=message) as refused:
        side_options("source", url, None, profile, environ)
    assert "s3cret" not in json.dumps(str(refused.value))
