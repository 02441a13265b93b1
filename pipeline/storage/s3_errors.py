"""What an error of boto3 means: nothing there, a user's mistake, or a store that is away. Used by `storage.s3`."""

from __future__ import annotations

import os
import re
import time
from typing import Any, NoReturn

from pipeline.errors import StorageUnavailable, UserError

NO_BUCKET = {"NoSuchBucket"}
ABSENT = {"NoSuchKey", "404", "NotFound"}
DENIED = {"AccessDenied", "403", "Forbidden", "AllAccessDisabled", "AccountProblem", "MethodNotAllowed"}
KEYS = {
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidToken",
    "TokenRefreshRequired",
    "InvalidClientTokenId",
}
TRANSIENT = {
    "RequestTimeout",
    "Throttling",
    "ThrottlingException",
    "TooManyRequestsException",
    "SlowDown",
    "429",
    "OperationAborted",
    "ConditionalRequestConflict",  # two conditional writes at once
}
CHANGED = {"PreconditionFailed", "412"}
UNSUPPORTED = {"NotImplemented", "501"}
REGION = {"PermanentRedirect", "AuthorizationHeaderMalformed", "301", "IllegalLocationConstraintException"}
REGION |= {"TemporaryRedirect", "InvalidRegion"}
CLOCK = {"RequestTimeTooSkewed", "RequestExpired"}


class Absent(Exception):
    """There is no such key (the bucket exists)."""


class Changed(Exception):
    """The condition of a request does not hold: the object is there already, or another version of it."""


class Unsupported(Exception):
    """The store does not know what the request asks for."""


def explain(error: Exception, uri: str, done: str, bucket_only: bool = False) -> NoReturn:
    """Raise what an error of boto3 means.

    Raises:
        Absent, Changed, Unsupported, UserError, StorageUnavailable; anything else as it is.
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto

    if isinstance(error, Boto3Error) and isinstance(error.__context__, Exception):
        error = error.__context__  # s3transfer wraps the error of a part
    if isinstance(error, boto.ClientError):
        answer = error.response
        code = str(answer.get("Error", {}).get("Code", ""))
        status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in NO_BUCKET or (bucket_only and code in ABSENT):
            raise UserError(f"There is no bucket {'/'.join(uri.split('/')[:3])}.") from error
        if code in ABSENT:
            raise Absent(uri) from error
        if code in CHANGED or status == 412:
            raise Changed(uri) from error
        if code in UNSUPPORTED:
            raise Unsupported(f"{uri} cannot be {done}: the store does not know this request.") from error
        if code in KEYS:
            raise UserError(
                f"{uri} cannot be {done}: the AWS credentials are not valid ({code}). Renew them."
            ) from error
        if code in REGION:
            raise UserError(f"{uri} lies in another region: {_region(answer)} ({code}).") from error
        if code in CLOCK:
            raise UserError(
                f"{uri} cannot be {done}: the clock of this machine and that of the store differ ({code}). Set this "
                f"machine's clock, which says {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())} UTC."
            ) from error
        if code in DENIED or status == 403:
            raise UserError(
                f"{uri} cannot be {done}: access denied ({code}). Use credentials that have the right to it."
            ) from error
        if 400 <= status < 500 and code not in TRANSIENT:
            text = answer.get("Error", {}).get("Message", "")
            raise UserError(f"{uri} cannot be {done}: the store refuses ({code or status}: {text}).") from error
        raise StorageUnavailable(
            f"{uri} cannot be {done}: the store answers {code or status} again and again."
        ) from error
    credentials = (
        boto.NoCredentialsError,
        boto.PartialCredentialsError,
        boto.CredentialRetrievalError,
        boto.TokenRetrievalError,
        boto.SSOTokenLoadError,
        boto.UnauthorizedSSOTokenError,
        boto.NoAuthTokenError,
        boto.MetadataRetrievalError,
        boto.InfiniteLoopConfigError,
        boto.InvalidConfigError,
        boto.RefreshWithMFAUnsupportedError,
        boto.ProfileNotFound,
    )
    if isinstance(error, credentials):
        raise UserError(
            f"{uri} cannot be {done}: no AWS credentials ({error}). Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or give the machine a role."
        ) from error
    text = " ".join(str(error).split())
    if isinstance(error, boto.ParamValidationError):
        raise UserError(f"{uri} is not a proper s3:// URI: {text}") from error
    if isinstance(error, boto.SSLError):
        raise UserError(
            f"{uri} cannot be {done}: no secure connection ({text}). Where the store's certificate is of an authority "
            "of your own, set AWS_CA_BUNDLE to its file; where the store has none, the endpoint is http://..."
        ) from error
    away = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, boto.ReadTimeoutError)
    if isinstance(error, (*away, boto.ChecksumError, boto.FlexibleChecksumError, ConnectionError, TimeoutError)):
        raise StorageUnavailable(f"{uri} cannot be {done}: {text}") from error
    if isinstance(error, boto.BotoCoreError):  # what the settings lead to: no endpoint, no S3 behind it
        raise UserError(
            f"{uri} cannot be {done} with these AWS settings: {text}. See AWS_ENDPOINT_URL, AWS_REGION and the profile."
        ) from error
    raise error


def _region(answer: Any) -> str:
    """What to do, from what the store says and what was set."""
    error, headers = answer.get("Error", {}), answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    named = re.search(r"expecting '([\w-]+)'", str(error.get("Message", "")))
    wanted = error.get("Region") or headers.get("x-amz-bucket-region") or (named and named[1])
    used = next((f"{n} is {os.environ[n]}" for n in ("AWS_REGION", "AWS_DEFAULT_REGION") if os.environ.get(n)), None)
    wanted = wanted or "... to that of the bucket"
    if used:
        return f"set AWS_REGION={wanted}; now {used}"
    return f"set AWS_REGION={wanted}; now it is not set, and the region of the profile or us-east-1 is taken"
