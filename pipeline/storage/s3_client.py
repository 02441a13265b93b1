"""The one S3 client of a process: what every AWS tool takes its settings from, and what is wrong with them.

Endpoint, region, certificates, addressing, checksums, proxy and credentials of every kind (keys, profiles with roles, a
process, web identity, the container's or the machine's role; renewed while a job runs) come from the environment and
the profile, as boto3 reads them. Used by `storage.s3` alone; a worker builds its own, and none is ever pickled.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any

from pipeline.errors import UserError
from pipeline.redact import check_secrets
from pipeline.storage.s3_errors import ABSENT, CLOCK, KEYS, NO_BUCKET, REGION, explain

PROBE_ATTEMPTS = 4  # of the first look at a bucket: a dead endpoint is reported after some seconds
ATTEMPTS = 10  # of one request, by botocore ("standard" mode: pauses grow to 20 s)
CONNECTIONS = 32
CERTIFICATES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")  # the first that is set
CHECKSUMS = ("request_checksum_calculation", "response_checksum_validation")


@lru_cache(maxsize=1)
def _session() -> Any:
    """Credentials and profile, which all clients of a process share: asked for once, and renewed when they expire."""
    import boto3

    # boto3 itself reads AWS_DEFAULT_REGION alone; all other AWS tools read AWS_REGION first.
    return boto3.Session(region_name=os.environ.get("AWS_REGION") or None)


def forget() -> None:
    """Take the settings anew: for tests, and whoever changes them while a process runs."""
    for cached in (_session, connect, client):
        cached.cache_clear()


@lru_cache(maxsize=2)
def connect(attempts: int) -> Any:
    """A client that tries each request `attempts` times.

    Raises:
        UserError: settings that boto3 cannot use.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    check_secrets("AWS_")
    config = Config(
        retries={"mode": "standard", "max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
    )
    try:
        session = _session()
        profile = session._session.get_scoped_config()
        options: dict[str, Any] = {"verify": _certificates(profile.get("ca_bundle"))}
        client = session.client("s3", config=config, **options)
        plain = {n: "when_required" for n in CHECKSUMS if not (os.environ.get(f"AWS_{n.upper()}") or profile.get(n))}
        if plain and not is_aws(client.meta.endpoint_url):
            # The newer checksums are AWS's own: many stores refuse them, or count their frame to the object.
            client = session.client("s3", config=config.merge(Config(**plain)), **options)
        return client
    except (BotoCoreError, ValueError) as error:  # a profile that does not exist, an endpoint that is no URL
        raise UserError(
            f"The AWS settings of this machine cannot be used: {' '.join(str(error).split())}. They come from the "
            "variables AWS_* and the files ~/.aws/config and ~/.aws/credentials; an endpoint is http(s)://HOST[:PORT]."
        ) from error


def is_aws(endpoint: str) -> bool:
    return endpoint.rstrip("/").endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _certificates(profile: str | None) -> str | None:
    """The file or folder of the certificates to trust; None: the usual ones."""
    for name, value in (*((n, os.environ.get(n)) for n in CERTIFICATES[:1]), ("ca_bundle of the profile", profile)):
        if value:
            return _existing(name, value)
    return next((_existing(n, os.environ[n]) for n in CERTIFICATES[1:] if os.environ.get(n)), None)


def _existing(name: str, value: str) -> str:
    path = os.path.expanduser(value)
    if not os.access(path, os.R_OK):
        raise UserError(f"{name} names certificates that cannot be read: {value}.")
    return path


@lru_cache(maxsize=64)
def client(bucket: str) -> Any:
    """A client for a bucket that was seen to be there: a dead endpoint is found in seconds, not after all retries.

    Raises:
        UserError: no such bucket, no credentials, a region or endpoint that is wrong.
    """
    from botocore.exceptions import ClientError

    probe = connect(PROBE_ATTEMPTS)
    uri = f"s3://{bucket}"
    try:
        probe.head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        # A role may read objects and not look at the bucket; one that is throttled is there.
        if code in ABSENT | NO_BUCKET:
            explain(error, uri, "reached", bucket_only=True)
        if code in ("400", "403", "301"):
            _say_why(probe, bucket)
    except Exception as error:
        explain(error, uri, "reached")
    return connect(ATTEMPTS)


def _say_why(probe: Any, bucket: str) -> None:
    """Ask for what a refused HEAD, which has no body, cannot say."""
    from botocore.exceptions import ClientError

    try:
        probe.list_objects_v2(Bucket=bucket, MaxKeys=1)
    except ClientError as error:
        if str(error.response.get("Error", {}).get("Code", "")) in KEYS | REGION | CLOCK:
            explain(error, f"s3://{bucket}", "reached")
    except Exception as error:
        explain(error, f"s3://{bucket}", "reached")
