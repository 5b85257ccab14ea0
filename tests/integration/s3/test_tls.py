"""An S3 server whose certificate an authority of our own has issued."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from tls import authority, tls_front

from shardedstore import ShardedStore, ShardedStoreError
from shardedstore.cli import main
from shardedstore.transforms import ToZip

pytestmark = pytest.mark.usefixtures("no_credentials")
DATA = np.arange(8)


@pytest.fixture(scope="module")
def secured(s3_server, tmp_path_factory):
    """The server behind TLS, and the file of the authority's certificate."""
    issuer, path = authority(tmp_path_factory.mktemp("tls"), "ours")
    with tls_front(s3_server.endpoint, issuer) as endpoint:
        yield replace(s3_server, endpoint=endpoint), path


@pytest.fixture
def out(request, s3_server, secured, use_environment, tmp_path):
    zarr.create_group(tmp_path / "a.zarr").create_array("x", data=DATA, chunks=(2,))
    settings = secured[0].environment()
    del settings["AWS_ALLOW_HTTP"]
    use_environment(settings)
    return s3_server.folder("tests", f"tls/{request.node.name}").url


def source(tmp_path):
    return ShardedStore.partition(tmp_path / "a.zarr", {"x": (4,)})


def read(url, **options):
    return zarr.open_group(ShardedStore.load(url, **options), mode="r")["x"][:]


@pytest.mark.parametrize("name", ["root_certificate", "ca_bundle"])
@pytest.mark.parametrize("given", [str, lambda path: path.read_bytes()], ids=["path", "PEM"])
def test_certificates_of_storage_options(name, given, out, secured, tmp_path):
    options = {name: given(secured[1])}
    source(tmp_path).map_shards(ToZip(out, storage_options=options))
    np.testing.assert_array_equal(read(out, storage_options=options), DATA)


def test_certificates_of_the_environment(out, secured, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", str(secured[1]))
    source(tmp_path).map_shards(ToZip(out))
    np.testing.assert_array_equal(read(out), DATA)


def test_certificates_of_a_profile(out, secured, tmp_path, monkeypatch, use_environment):
    settings = secured[0].environment()
    use_environment({"AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "false"})
    (tmp_path / "config").write_text(
        f"[default]\nregion = us-east-1\nendpoint_url = {secured[0].endpoint}\nca_bundle = {secured[1]}\n"
        f"aws_access_key_id = {settings['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {settings['AWS_SECRET_ACCESS_KEY']}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/none")
    source(tmp_path).map_shards(ToZip(out))
    np.testing.assert_array_equal(read(out), DATA)


def test_workers_get_certificates_of_storage_options(workers, out, secured, tmp_path):
    settings = secured[0].environment()
    options = {
        "endpoint": secured[0].endpoint,
        "access_key_id": settings["AWS_ACCESS_KEY_ID"],
        "secret_access_key": settings["AWS_SECRET_ACCESS_KEY"],
        "region": "us-east-1",
        "virtual_hosted_style_request": False,
        "root_certificate": str(secured[1]),
    }
    new = source(tmp_path).map_shards(ToZip(out, storage_options=options))
    assert new.verify(source(tmp_path)).ok
    np.testing.assert_array_equal(read(out, storage_options=options), DATA)


@pytest.mark.parametrize("case", ["none", "of another authority"])
def test_a_certificate_that_is_not_trusted_is_told_with_the_next_step(case, out, tmp_path):
    options = {"retry_config": {"max_retries": 0}}
    if case != "none":
        options["root_certificate"] = str(authority(tmp_path, "theirs")[1])
    with pytest.raises(ShardedStoreError, match=r"certificate is not trusted: .*the storage option root_certificate"):
        source(tmp_path).map_shards(ToZip(out, storage_options=options))
    with pytest.raises(ShardedStoreError, match=r"certificate is not trusted"):
        ShardedStore.load(out, storage_options=options)


def test_the_command_line(out, secured, tmp_path):
    call = ["convert", str(tmp_path / "a.zarr"), out, "--to", "zip", "--workers", "1"]
    option = f"root_certificate={secured[1]}"
    ran = CliRunner().invoke(main, [*call, "--storage", option])
    assert ran.exit_code == 0, ran.stderr
    verify = ["verify", out, "--against", str(tmp_path / "a.zarr"), "--storage", option, "--json", "--workers", "1"]
    compared = CliRunner().invoke(main, verify)
    assert json.loads(compared.stdout)["ok"], compared.stderr
