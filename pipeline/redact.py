"""No credential leaves the process in a text: what is written to files, logs and MLflow goes through here."""

from __future__ import annotations

import base64
import html
import json
import os
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import quote, quote_plus

from pipeline.errors import UserError

# Variables that hold a secret, besides every other one whose name says so.
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
_SECRET_VARIABLE = re.compile(
    r"(?i)(secret|password|passwd|token|api_?key|access_?key|credential)(?!.*(_id|file|path|uri|dir|mode)$)"
)
URI_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)
SHORTEST_SECRET = 8  # a shorter value ("test") is no secret, and masking it would spoil ordinary words
LEAK = 6  # so many characters of a secret in a row are masked

# user:password@ up to the last @ before the path; or with slashes in the password, as AWS's keys have them, where what
# follows the colon is no port.
_USER_INFO = re.compile(r"""(://)(?:[^/\s'"]*|[^/\s'"@:]+:(?!\d{1,5}(?:[/?#]|$))[^\s'"@]*)@""")
_SECRET_QUERY = re.compile(r"(?i)([?&](?:x-amz-[\w-]+|[\w-]*(?:signature|token|secret|password|key)|sig)=)[^&\s'\"]+")
_SECRET_OPTION = re.compile(
    r"(?i)(?<![\w-])(-*[\w.-]*(?:secret|password|passwd|token|api[_-]?key|access[_-]?key)[\w-]*)(=|\s+|:\s*)(\S+)"
)
_SECRET_NAME = re.compile(r"(?i)(secret|password|passwd|token|api[_-]?key|access[_-]?key|credential)")


def secrets() -> dict[str, str]:
    """The secrets of this process's environment by variable, passwords in the URIs of others among them."""
    found = {n: v for n, v in os.environ.items() if n in SECRET_VARIABLES or _SECRET_VARIABLE.search(n)}
    for name in URI_VARIABLES:
        user, _, password = os.environ.get(name, "").rpartition("@")[0].rpartition("://")[2].partition(":")
        if password or user:
            found[f"the password in {name}"] = password or user
    return {name: value for name, value in found.items() if len(value.strip()) >= SHORTEST_SECRET}


def check_secrets(*prefixes: str) -> None:
    """Refuse secrets with white space around them, as files and `echo` leave it: no server takes them.

    Args:
        prefixes: of the variables that are about to be used.

    Raises:
        UserError: naming the variable.
    """
    for name, value in os.environ.items():
        secret = name in SECRET_VARIABLES or name == "AWS_ACCESS_KEY_ID" or _SECRET_VARIABLE.search(name)
        if name.startswith(prefixes) and secret and value != value.strip(_AROUND):
            raise UserError(
                f"{name} has white space or quotes around its value (a line break at its end, perhaps, as `echo` or a "
                "file with CRLF leaves it). Set it without."
            )


_AROUND = " \t\r\n\v\f\0\ufeff\u00a0'\""


def mask_uris(text: str) -> str:
    """`text` with user:password@ and signed parts of URIs, and every form of the environment's secrets, as ***."""
    return _SECRET_QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", _mask_pieces(text)))


def _mask_pieces(text: str) -> str:
    pieces = _pieces(tuple(sorted(set(secrets().values()))))
    if not pieces or len(text) < LEAK:
        return text
    kept: list[str] = []
    end = 0  # of what is masked so far
    for at in range(len(text) - LEAK + 1):
        if text[at : at + LEAK] in pieces:
            if at > end or not kept:
                kept += [text[end:at], "***"]
            end = at + LEAK
    return "".join([*kept, text[end:]])


@lru_cache(maxsize=8)
def _pieces(values: tuple[str, ...]) -> frozenset[str]:
    """All runs of `LEAK` characters of the forms in which secrets turn up in texts."""
    forms = {form for value in values for form in _forms(value)}
    return frozenset(form[i : i + LEAK] for form in forms for i in range(len(form) - LEAK + 1))


def _forms(secret: str) -> Iterator[str]:
    """A secret as it is, in code, JSON, a shell, HTML, a URL, hexadecimal and base64 (at any place there)."""
    data = secret.encode("utf-8", "surrogateescape")
    yield from (secret, repr(secret), repr(data), json.dumps(secret), json.dumps(secret, ensure_ascii=False))
    yield from (shlex.quote(secret), html.escape(secret), secret.encode("unicode_escape").decode())
    for quoted in (quote(data, safe=""), quote(data), quote_plus(data)):
        yield quoted
        yield re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), quoted)
    yield from (data.hex(), data.hex().upper())
    for before in range(3):  # what stands before it shifts its base64, "user:" in basic authentication
        text = base64.b64encode(b"\0" * before + data).decode()
        inside = text[4 if before else 0 :].rstrip("=")
        whole = inside if len(data) % 3 == (3 - before) % 3 else inside[:-1]
        yield from (whole, whole.replace("+", "-").replace("/", "_"))


def mask_credentials(text: str) -> str:
    """`mask_uris`, and the values of secret-sounding options (--api-key X, TOKEN=X) as ***: for command lines."""
    return _SECRET_OPTION.sub(r"\1\2***", mask_uris(text))


def mask_value(name: str, value: Any) -> str:
    """The text of parameter or tag `name`; nothing of it is left when the name itself says that it is a secret."""
    return "***" if _SECRET_NAME.search(name) and value else mask_uris(str(value))


def mask_all(value: Any) -> Any:
    """Plain JSON values with every text in them masked (`mask_uris`)."""
    if isinstance(value, dict):
        return {name: mask_all(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask_all(inner) for inner in value]
    return mask_uris(value) if isinstance(value, str) else value
