"""Messages name the problem and the next step, in the words of the API or the command; finished jobs exit with 0."""

import errno
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import obstore
import pytest
import zarr
from click.testing import CliRunner
from helpers_jobs import environment

from shardedstore import Guards, ShardedStore, UsageError, cli
from shardedstore.cli.common import failures
from shardedstore.cli.exit_codes import ExitCode, exit_code_of
from shardedstore.errors import ShardError
from shardedstore.storage.blobs import object_store
from shardedstore.storage.client_keywords import keywords
from shardedstore.storage.errors import cause_of, code_of, explain, systemic
from shardedstore.storage.options import take_options
from shardedstore.storage.publish import published
from shardedstore.text import one_line
from shardedstore.transforms import ToZip


@pytest.fixture
def source(tmp_path):
    array = zarr.create_array(tmp_path / "source.zarr", shape=(4,), chunks=(2,), dtype="i4")
    array[:] = np.arange(4)
    return tmp_path / "source.zarr"


def command(*arguments):
    return CliRunner().invoke(cli.main, list(map(str, arguments)))


@pytest.mark.few(1)
@pytest.mark.parametrize(("what", "stdout"), [("convert", "closed pipe"), ("info", "/dev/full")])
def test_who_reads_standard_output_does_not_change_the_exit_code(source, tmp_path, what, stdout):
    command("convert", source, tmp_path / "out", "--to", "zip", "--workers", 1)
    rest = [source, tmp_path / "out", "--to", "zip", "--workers", "1"] if what == "convert" else [tmp_path / "out"]
    if stdout == "/dev/full":
        target = os.open(stdout, os.O_WRONLY)
    else:
        reading, target = os.pipe()
        os.close(reading)
    ran = subprocess.run(
        [sys.executable, "-m", "shardedstore", what, *map(str, rest)],
        stdout=target, stderr=subprocess.PIPE, env=environment(), text=True, timeout=120, check=False,
    )  # fmt: skip
    os.close(target)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert ("standard output can't be written to" in ran.stderr) == (stdout == "/dev/full")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("endpont=https://host", "did you mean endpoint?"),
        ("aws_regin=x", "did you mean region?"),
        ("timeot=30s", "did you mean timeout?"),
        ("storage_class=x", "is not a known option: use one of account_name, "),
        ("secret_access_key=x", "may be secret"),
        ("aws_session_token=x", "may be secret"),
        ("account_key=x", "may be secret"),
    ],
)
def test_options_that_are_not_known(source, option, message):
    ran = command("convert", source, "s3://bucket/out", "--to", "zip", "--storage", option, "--dry-run")
    assert (ran.exit_code, message in ran.stderr) == (2, True), ran.stderr
    assert ("may be secret" in ran.stderr) == (message == "may be secret")


@pytest.mark.parametrize(
    "given", [{"allow_invalid_certificates": True}, {"timeout": 30}, {"http1_only": True}, {"timeout": "30s"}]
)
def test_options_of_the_client_are_taken(given, monkeypatch):
    for name in ("AWS_ALLOW_HTTP", "AWS_PROXY_URL"):
        monkeypatch.delenv(name, raising=False)
    url = f"s3://bucket-of-{next(iter(given))}/x"
    object_store(url, take_options(url, given))
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    client = keywords(url, take_options(url, given))["client_options"]
    assert client.keys() == {"allow_http", *given}  # other options come from the environment


def test_an_option_that_obstore_does_not_know_is_suggested():
    with pytest.raises(UsageError, match=r"'endpont': did you mean 'endpoint'\?"):
        ShardedStore.partition("s3://bucket/y", storage_options={"endpont": "x"})


@pytest.fixture
def damaged(tmp_path):
    (tmp_path / "damaged.zarr").mkdir()
    (tmp_path / "damaged.zarr/zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    return tmp_path / "damaged.zarr"


@pytest.mark.parametrize(
    "arguments",
    [
        ("info", "DAMAGED"),
        ("ls", "DAMAGED"),
        ("suggest", "DAMAGED"),
        ("verify", "SOURCE", "--against", "DAMAGED"),
        ("verify", "DAMAGED", "--against", "SOURCE"),
        ("diff", "SOURCE", "DAMAGED"),
        ("diff", "DAMAGED", "SOURCE"),
        ("convert", "DAMAGED", "OUT", "--to", "zip"),
        ("unpack", "DAMAGED", "OUT"),
        ("export", "DAMAGED", "OUT", "--to", "kerchunk"),
    ],
    ids=" ".join,
)
def test_damaged_metadata_are_those_of_one_zarr(source, damaged, tmp_path, arguments):
    places = {"SOURCE": source, "DAMAGED": damaged, "OUT": tmp_path / "out"}
    ran = command(*(places.get(one, one) for one in arguments))
    assert ran.exit_code == 2
    assert f"error: '{damaged}': 'zarr.json' is not valid Zarr metadata (it has no 'shape')" in ran.stderr


def test_a_missing_zarr_is_named_and_not_the_other(source, tmp_path):
    for arguments in (("diff", source), ("verify", source, "--against")):
        ran = command(*arguments, tmp_path / "missing.zarr")
        assert ran.exit_code == 2
        assert ran.stderr.startswith(f"error: '{tmp_path}/missing.zarr' can't be read")


XML = '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{}</Code><Message>{}</Message><RequestId>tx00</RequestId></Error>'


@pytest.fixture
def refusing():
    """A server that refuses all requests, with an answer that a test sets."""

    class Handler(BaseHTTPRequestHandler):
        answer = XML.format("AccessDenied", "Access Denied.")

        def do_GET(self):
            body = type(self).answer.encode()
            self.send_response(403)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_POST = do_GET  # noqa: N815 (names of the library)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield Handler, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("code", "text", "message"),
    [
        ("AccessDenied", "Access Denied.", "access is denied"),
        (
            "RequestTimeTooSkewed",
            "The difference between the request time and now is too large.",
            "the clock of this machine",
        ),
        ("AuthenticationFailed", "Request date header too old", "the clock of this machine"),
    ],
)
def test_refusals_of_a_server_are_one_sentence(refusing, code, text, message):
    handler, endpoint = refusing
    handler.answer = XML.format(code, text)
    store = object_store(f"s3://{code.lower()}/x", take_options("s3://x", {"endpoint": endpoint, "anonymous": True}))

    def write():
        with obstore.open_writer(store, "key", buffer_size=1 << 10) as writer:
            writer.write(b"0" * (6 << 20))

    for work in (lambda: obstore.get(store, "key"), lambda: obstore.put(store, "key", b"", use_multipart=False), write):
        with pytest.raises(Exception, match="403") as raised:
            work()
        for told in (explain(raised.value), cause_of(raised.value), systemic(raised.value)):
            assert message in told
            assert "<" not in told


def test_markup_is_taken_out_of_errors_of_others():
    assert cause_of(ValueError(f"403 Forbidden: {XML}")) == "ValueError: 403 Forbidden"


@pytest.mark.parametrize("sign", ["invalid peer certificate: UnknownIssuer", "InvalidCertificate(\\n Expired )"])
def test_a_certificate_that_is_not_trusted_is_reported(sign):
    error = OSError(
        f"Generic S3 error: Error performing GET https://host/a in 2s\n\nDebug source: kind: Connect {sign}"
    )
    assert "the server's certificate is not trusted: name the file of its authority's certificate" in explain(error)
    assert (code_of(error), exit_code_of(error)) == ("untrusted-certificate", ExitCode.UNUSABLE)


def test_a_scheme_that_is_not_allowed_is_no_temporary_error(use_environment):
    use_environment({"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    ran = CliRunner().invoke(cli.main, ["info", "s3://b/a.zarr"])
    assert ran.exit_code == ExitCode.UNUSABLE
    assert "http:// is not allowed: name an endpoint with https://, or set --storage allow_http=" in ran.stderr


@pytest.mark.parametrize(("code", "is_named"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EIO, False)])
def test_a_full_disk_is_reported_with_the_path(tmp_path, code, is_named):
    path = str(tmp_path / "a.zip")
    with pytest.raises(OSError, match=os.strerror(code)) as raised, published(path):
        raise OSError(code, os.strerror(code))
    assert (path in str(raised.value)) == is_named


def test_tls_without_certificates(source, tmp_path):
    ran = command("convert", source, tmp_path / "out", "--to", "zip", "--scheduler", "tls://127.0.0.1:1")
    assert (ran.exit_code, "needs certificates, but none are configured here" in ran.stderr) == (2, True), ran.stderr


def test_failures_of_one_cause_are_one_line():
    errors = [ShardError(f"t[{i}]", f"CorruptError: the source of 't[{i}]' changed") for i in range(13)]
    lines = list(failures([*errors, ShardError("u", "OSError: no")]))
    assert lines == [
        "shard 't[0]' failed: CorruptError: the source of 't[0]' changed [failed] (and so did 't[1]', 't[2]', 't[3]', 't[4]', 't[5]' and 7 more)",
        "shard 'u' failed: OSError: no [failed]",
    ]


@pytest.mark.parametrize(
    ("python", "words"),
    [
        (
            "run the same job again, and it goes on from there",
            "run the same command again, and it goes on from there",
        ),
        (
            "name another destination, or set overwrite=True, which",
            "name another destination, or set --overwrite, which",
        ),
        ("run the job again with the same arguments: it makes", "run the same command again: it makes"),
        ("leave the array out with exclude=", "leave the array out with --exclude"),
        (
            "verify it with level='exists', or with against=source",
            "verify it with --level exists, or with --against SOURCE",
        ),
        ("Make that group, or say consolidated=False", "Make that group, or say --no-consolidated"),
        ("put MigrateV3() (--v3) before ToZip, or", "put --v3, or"),
    ],
)
def test_the_command_line_has_words_of_its_own(python, words):
    assert one_line(ValueError(python)) == words


def test_shards_that_are_made_again_are_no_more_than_those_that_are_made(tmp_path):
    array = zarr.create_array(tmp_path / "source.zarr", shape=(24,), chunks=(2,), dtype="i4")
    array[:] = 1
    store = ShardedStore.partition(tmp_path / "source.zarr", {"": (4,)})
    store.map_shards(ToZip(tmp_path / "out"))
    array.resize((3,))
    smaller = ShardedStore.partition(tmp_path / "source.zarr", {"": (4,)})
    result = smaller.map_shards(ToZip(tmp_path / "out"), guards=Guards(shrink=False))
    assert result.summary.changed <= result.summary.done <= 2
