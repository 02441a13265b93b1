"""No credential leaves the process in a text: what is written to files, logs and MLflow goes through here."""

from __future__ import annotations

import os
import re
from typing import Any

# Wherever the value of one of these turns up, in whatever form of text, it is a credential.
SECRET_VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "DATABRICKS_TOKEN",
    "HF_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
)
SHORTEST_SECRET = 8  # a shorter value ("test") is no secret, and masking it would spoil ordinary words

# user:password@ up to the last @ before the path; or with slashes in the password, as AWS's keys have them, where what
# follows the colon is no port.
_USER_INFO = re.compile(r"""(://)(?:[^/\s'"]*|[^/\s'"@:]+:(?!\d{1,5}(?:[/?#]|$))[^\s'"@]*)@""")
_SECRET_QUERY = re.compile(r"(?i)([?&](?:x-amz-[\w-]+|[\w-]*(?:signature|token|secret|password|key)|sig)=)[^&\s'\"]+")
_SECRET_OPTION = re.compile(
    r"(?i)(?<![\w-])(-*[\w.-]*(?:secret|password|passwd|token|api[_-]?key|access[_-]?key)[\w-]*)(=|\s+|:\s*)(\S+)"
)
_SECRET_NAME = re.compile(r"(?i)(secret|password|passwd|token|api[_-]?key|access[_-]?key|credential)")


def mask_uris(text: str) -> str:
    """`text` with user:password@ and signed query parts of URIs, and the values of `SECRET_VARIABLES`, as ***."""
    for name in SECRET_VARIABLES:
        secret = os.environ.get(name, "")
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _SECRET_QUERY.sub(r"\1***", _USER_INFO.sub(r"\1***@", text))


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
