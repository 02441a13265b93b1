"""No form of a secret leaves in a text: six characters of one in a row are too many."""

from __future__ import annotations

import base64
import html
import json
import os
import shlex
import string
from collections.abc import Callable
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.main import main
from pipeline.errors import UserError
from pipeline.redact import (
    LEAK,
    SECRET_VARIABLES,
    check_secrets,
    mask_all,
    mask_credentials,
    mask_uris,
    mask_value,
)
from pipeline.tracking.mlflow_client import text_of

# As generators of tokens make them; and with everything that needs a quotation somewhere.
TOKENS = st.text(string.ascii_letters + string.digits + "+/=_-", min_size=8, max_size=60)
ODD = st.text(string.ascii_letters + string.digits + "\"'\\ %&<>?#\u00e9\n\t", min_size=8, max_size=40).filter(
    lambda s: len(s.strip()) >= 8
)
FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": repr,
    "bytes": lambda s: repr(s.encode()),
    "json": json.dumps,
    "unicode": lambda s: json.dumps(s, ensure_ascii=False),
    "shell": shlex.quote,
    "html": html.escape,
    "quoted": quote,
    "wholly quoted": lambda s: quote(s, safe=""),
    "form": quote_plus,
    "lower case quoted": lambda s: quote(s, safe="").replace("%2F", "%2f").replace("%2B", "%2b"),
    "hexadecimal": lambda s: s.encode().hex(),
    "base64": lambda s: base64.b64encode(s.encode()).decode(),
    "urlsafe base64": lambda s: base64.urlsafe_b64encode(s.encode()).decode(),
    "basic": lambda s: base64.b64encode(f"user:{s}".encode()).decode(),
    "basic of another": lambda s: base64.b64encode(f"me:{s}".encode()).decode(),
    "stripped": str.strip,
    "a part": lambda s: s[: len(s) // 2 + 3],
}
VARIABLES = (*SECRET_VARIABLES, "MY_API_KEY", "STORE_PASSWORD", "GITLAB_ACCESS_TOKEN")


def leaks(text: str, form: str) -> list[str]:
    return [form[i : i + LEAK] for i in range(len(form) - LEAK + 1) if form[i : i + LEAK] in text]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(VARIABLES), st.sampled_from(sorted(FORMS)), st.one_of(TOKENS, ODD))
def test_every_form_of_every_secret(variable: str, form: str, secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, secret)
        shown = FORMS[form](secret)
        text = f"cannot reach it: Invalid header value {shown}, tried 3 times"
        for masked in (
            mask_uris(text),
            mask_credentials(text),
            mask_value("reason", text),
            text_of("reason", text),
            json.dumps(mask_all({"a": [text]})),
        ):
            inside = shown.strip("\"'")[{"basic": 7, "basic of another": 4}.get(form, 0) :]
            known = leaks("cannot reach it: Invalid header value , tried 3 times", inside)
            assert [leak for leak in leaks(masked, inside) if leak not in known] == [], masked


@given(TOKENS)
def test_passwords_in_addresses(secret: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTPS_PROXY", f"http://me:{quote(secret, safe='')}@proxy:3128")
        assert leaks(mask_uris(f"ProxyError({quote(secret, safe='')!r})"), quote(secret, safe="")) == []


def test_a_traceback_of_a_job(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    secret = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzX"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)

    def job(args: list[str]) -> None:
        raise ValueError(f"Invalid header value {secret.encode()!r}")

    with pytest.raises(SystemExit):
        main(job)
    said = capsys.readouterr().err
    assert "Traceback" in said and leaks(said, secret) == []


def test_ordinary_texts_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYzX")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/home/me/token-of-ray")
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/secrets/token")
    text = "error: s3://bucket/runs/first cannot be read: access denied; /home/me/token-of-ray, AKIAIOSFODNN7EXAMPLE"
    assert mask_uris(text) == text


@pytest.mark.parametrize(
    "value", ["secret-value\n", " secret-value", "secret-value\r\n", "'secret-value'", "\ufeffsecret-value"]
)
@pytest.mark.parametrize("variable", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "MLFLOW_TRACKING_TOKEN"])
def test_what_stands_around_a_secret_is_refused_by_name(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in os.environ if n.startswith(("AWS_", "MLFLOW_"))]:
        monkeypatch.delenv(name)
    check_secrets("AWS_", "MLFLOW_")
    monkeypatch.setenv(variable, value)
    with pytest.raises(UserError) as caught:
        check_secrets("AWS_", "MLFLOW_")
    assert variable in str(caught.value) and "x-value" not in str(caught.value)
