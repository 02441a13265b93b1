"""The one configuration of S3: endpoint, region, credentials, certificates, checksums, as every AWS tool finds them."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from pipeline.credentials import check_secrets
from pipeline.errors import UserError
from pipeline.s3_errors import ABSENT, NO_BUCKET, REGION, explain

PROBE_ATTEMPTS = 4  # of the first look at a bucket: a dead endpoint is reported after some seconds
ATTEMPTS = 10  # of one request, by botocore ("standard" mode: pauses grow to 20 s)
THREADS = 8  # parts of one file on their way at once


@lru_cache(maxsize=2)
def _client(attempts: int) -> Any:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        retries={"mode": "standard", "max_attempts": attempts},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=4 * THREADS,
    )
    check_secrets("AWS_")
    try:
        # boto3 itself reads AWS_DEFAULT_REGION only; every other tool of AWS, and its services, AWS_REGION.
        session = boto3.Session(region_name=os.environ.get("AWS_REGION") or None)
        client = session.client("s3", config=config)
        if is_aws(client.meta.endpoint_url) or "AWS_REQUEST_CHECKSUM_CALCULATION" in os.environ:
            return client
        # Older stores refuse the checksums that newer versions of boto3 add by themselves.
        plain: Any = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
        return session.client("s3", config=config.merge(Config(**plain)))
    except (BotoCoreError, ValueError, OSError) as error:  # no such profile, an endpoint that is no URL, no CA file
        raise UserError(
            f"The AWS settings of this machine cannot be used: {' '.join(str(error).split())}. Look at AWS_PROFILE, "
            "AWS_ENDPOINT_URL, AWS_CA_BUNDLE and ~/.aws/config."
        ) from error


def is_aws(endpoint: str) -> bool:
    """Whether an endpoint is Amazon's own."""
    return urlsplit(endpoint).netloc.rstrip("/").endswith((".amazonaws.com", ".amazonaws.com.cn"))


@lru_cache(maxsize=64)
def client(bucket: str) -> Any:
    """A client for a bucket that was seen to be there: a dead endpoint is found in seconds, not after all retries.

    Raises:
        UserError: no such bucket, no credentials, a region or endpoint that is wrong.
    """
    from botocore.exceptions import ClientError

    try:
        _client(PROBE_ATTEMPTS).head_bucket(Bucket=bucket)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        # A role may read objects and not look at the bucket; one that is throttled is there.
        if code in ABSENT | NO_BUCKET | REGION:
            explain(error, f"s3://{bucket}", "reached", bucket_only=True)
    except Exception as error:
        explain(error, f"s3://{bucket}", "reached")
    return _client(ATTEMPTS)
