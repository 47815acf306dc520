"""Pictures of a bucket, on a real server of S3's protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.crawl.bucket import BucketSource
from cli.crawl.items import MAX_BYTES, Reason, SourceFailed
from cli.crawl.journal import Journal
from tests.cli.test_crawl import crawled
from tests.cli.web import Remembering, png

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="cards")
    yield client
    client.close()
    server.stop()


async def test_a_bucket_is_read_with_its_captions(bucket: Any, tmp_path: Path) -> None:
    for key, data in {
        "deck/a.png": png("red"),
        "deck/a.txt": b"a red card",
        "deck/b.png": png("green"),
        "deck/b.png.json": json.dumps({"text": "a green card"}).encode(),
        "deck/large.png": png("blue").ljust(5000),
        "deck/none.jpg": b"nothing",
        "other/c.png": png("white"),
    }.items():
        bucket.put_object(Bucket="cards", Key=key, Body=data)
    server, journal = Remembering(), Journal(tmp_path / "journal")
    source = BucketSource("s3://cards/deck/", 4_000)
    summary = await crawled(source, server, journal)
    assert {origin: caption for _, caption, origin in server.received} == {
        "s3://cards/deck/a.png": "a red card",
        "s3://cards/deck/b.png": "a green card",
    }
    assert summary.left_out == {Reason.BYTES: 1, Reason.FORMAT: 1}
    journal.close(finished=False)
    # As after a kill. One object was replaced meanwhile.
    bucket.put_object(Bucket="cards", Key="deck/b.png", Body=png("black"))
    again = Journal(tmp_path / "journal")
    summary = await crawled(source, server, again)
    assert (summary.added, summary.known) == (1, 1)
    assert server.received[-1][0] == png("black")
    again.close(finished=True)
    await source.close()


async def test_a_bucket_that_denies_or_is_none_is_told(bucket: Any) -> None:
    source = BucketSource("s3://nowhere", MAX_BYTES)
    with pytest.raises(SourceFailed, match="s3://nowhere: NoSuchBucket"):
        await source.list()
    await source.close()
    with pytest.raises(SourceFailed, match="names no bucket"):
        BucketSource("s3://", MAX_BYTES)


async def test_an_object_that_is_denied_stops_no_other(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    for key in ("a.png", "b.png"):
        bucket.put_object(Bucket="cards", Key=f"denied/{key}", Body=png("red" if key == "a.png" else "blue"))
    source, server = BucketSource("s3://cards/denied/", MAX_BYTES), Remembering()
    read = source._client.get_object

    def get_object(**what: Any) -> Any:  # the server of the tests denies nothing
        if what["Key"] == "denied/a.png":
            raise ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")
        return read(**what)

    monkeypatch.setattr(source._client, "get_object", get_object)
    summary = await crawled(source, server)
    assert (summary.added, summary.left_out) == (1, {Reason.DENIED: 1})
    await source.close()
