"""Each side of a job uses credentials of its own, from profiles and prefixed variables, also on other processes."""

import json
import time

import pytest
from click.testing import CliRunner
from distributed import Client, LocalCluster
from helpers_jobs import blocks_at
from servers import GUEST, READER, upload

from shardedstore.cli import main
from shardedstore.jobs.executors.credentials import credentials_on
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.options import take_options

pytestmark = pytest.mark.usefixtures("no_credentials")


def profiles(tmp_path, monkeypatch, **identities):
    lines = [
        f"[{name}]\naws_access_key_id = {one.key}\naws_secret_access_key = {one.secret}\n"
        for name, one in identities.items()
    ]
    (tmp_path / "credentials").write_text("\n".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")


def test_a_command_reads_with_one_profile_and_writes_with_variables_of_the_other_side(
    s3_server, tmp_path, monkeypatch, use_environment
):
    blocks_at(tmp_path / "source.zarr", 3)
    source, out = s3_server.folder("tests", "by-side"), s3_server.folder("guests", "by-side")
    files = {str(p.relative_to(tmp_path)): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    upload(source.client, files)
    settings = s3_server.environment()
    use_environment({name: value for name, value in settings.items() if "KEY" not in name})
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-nobody")
    profiles(tmp_path, monkeypatch, reading=READER)
    monkeypatch.setenv("SHARDEDSTORE_DESTINATION_AWS_ACCESS_KEY_ID", GUEST.key)
    monkeypatch.setenv("SHARDEDSTORE_DESTINATION_AWS_SECRET_ACCESS_KEY", GUEST.secret)
    monkeypatch.chdir(tmp_path)
    call = ["convert", f"{source.url}/source.zarr", out.url, "--to", "zip", "--source-profile", "reading"]
    call += ["--shards", "a=1", "--workers", "1"]
    ran = CliRunner().invoke(main, call)
    assert ran.exit_code == 0, ran.stderr
    verify = ["verify", out.url, "--against", f"{source.url}/source.zarr", "--source-profile", "reading", "--json"]
    compared = CliRunner().invoke(main, [*verify, "--workers", "1"])
    assert json.loads(compared.stdout)["ok"], compared.stderr
    for stored in ("shardedstore.json", ".shardedstore/job-1.json"):
        text = bytes(out.client.get(stored).bytes())
        assert not any(word in text for word in (b"reading", READER.key.encode(), GUEST.secret.encode()))
    denied = CliRunner().invoke(main, [*call, "--profile", "reading"])
    assert (denied.exit_code, "access is denied" in denied.stderr) == (2, True), denied.stderr


def test_keys_that_expire_are_given_to_workers_again(tmp_path, monkeypatch, use_environment):
    pytest.importorskip("botocore")
    use_environment({})
    monkeypatch.setattr("shardedstore.jobs.executors.credentials.RENEW_SECONDS", 0.2)
    url, stored = "s3://bucket/renewed", tmp_path / "credentials"
    text = "[night]\naws_access_key_id = {}\naws_secret_access_key = s\naws_session_token = t\n"
    stored.write_text(text.format("first"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(stored))
    monkeypatch.setenv("AWS_CONFIG_FILE", "/none")
    options = take_options(url, {"profile": "night"})

    def key():
        found = keywords(url, options).get("credential_provider")
        return None if found is None else found()["access_key_id"]

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        client.run(lambda: __import__("os").environ.update(AWS_SHARED_CREDENTIALS_FILE="/none"))
        with credentials_on(client, [url]):
            assert set(client.run(key).values()) == {"first"}
            stored.write_text(text.format("second"))
            deadline = time.monotonic() + 60
            while set(client.run(key).values()) != {"second"}:
                assert time.monotonic() < deadline, "the worker still has the first key"
        assert set(client.run(key).values()) == {None}
