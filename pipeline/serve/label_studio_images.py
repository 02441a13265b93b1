"""Where the image of a Label Studio task is taken from: the server's folder, or the one Label Studio it was told of.

A request never decides which host is asked. What it names is compared with the names of the folder, or is a path of
Label Studio's own for images, asked at the address that the server was started with.
"""

from __future__ import annotations

import base64
import posixpath
import re
import threading
import time
from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

import requests

from pipeline.errors import UserError, describe
from pipeline.serve.annotator import Annotator
from pipeline.serve.pictures import MAX_BYTES, Kept, Picture, read_picture
from pipeline.serve.refusal import Refused

CLOUDS = ("s3", "gs", "azure-blob")
OWN_PATHS = re.compile(
    r"/data/(upload|local-files)/.*|/storage-data/uploaded/?|/(tasks|projects)/\d+/(resolve|presign)/?"
)
"""Paths of Label Studio that give images."""
FRESH_SECONDS = 60.0  # after which an image is looked for again
SECONDS = 60.0  # that Label Studio may take for one image
UNKNOWN_PLACE = "The task does not say where its image lies in a way that is known here: /data/..., a path or a URL."
FETCHED = "Label Studio (--label-studio-url)"


class LabelStudio:
    """The Label Studio that images may be fetched from."""

    def __init__(self, url: str, token: str = "") -> None:
        """`url`: as browsers open it; `token`: of one of its users, the new kind (a JWT) or the legacy one.

        Raises:
            UserError: no such address.
        """
        try:
            parts = urlsplit(url.strip())
        except ValueError:  # half an IPv6 address
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise UserError(f"--label-studio-url is an address such as http://localhost:8080, not {parts.hostname!r}.")
        self.origin, self._prefix = _origin(url), parts.path.rstrip("/")
        self._token, self._access = token, ""

    def path(self, reference: str, task: int) -> str | None:
        """The path and query to ask for an image, None of one that does not lie at this Label Studio."""
        parts = _split(reference)
        if parts.scheme in CLOUDS:
            coded = base64.urlsafe_b64encode(reference.encode()).decode()
            return f"{self._prefix}/tasks/{task}/resolve/?fileuri={coded}"
        if (parts.scheme or parts.netloc) and _origin(reference) != self.origin:
            return None
        path = parts.path.removeprefix(self._prefix)
        if not OWN_PATHS.fullmatch(path) or {".", ".."} & set(re.split(r"[/\\]", unquote(path))):
            return None
        return f"{self._prefix}{path}{'?' if parts.query else ''}{parts.query}"

    def fetch(self, path: str) -> bytes:
        """The bytes of an image; `path`: of `path`.

        Raises:
            Refused: not there (404), not for this token (403), too large (413), or no answer (503).
        """
        for again in (False, True):
            if again or (not self._access and self._token.count(".") == 2):
                self._access = self._renewed()
            with self._ask("GET", path) as answer:
                if answer.status_code == 401 and self._access and not again:
                    continue  # an access token lives for minutes
                return _body(answer)
        raise AssertionError("the second answer is returned or refused")

    def _renewed(self) -> str:
        """An access token for the token of the new kind."""
        with self._ask("POST", f"{self._prefix}/api/token/refresh/", {"refresh": self._token}) as answer:
            if answer.status_code != 200:
                raise Refused(403, f"{FETCHED} does not take the token of --label-studio-token-file: make a new one.")
            try:
                return str(answer.json()["access"])
            except (requests.RequestException, KeyError, TypeError) as error:
                raise Refused(503, f"{FETCHED} answers in a way that is not known: is it a Label Studio?") from error

    def _ask(self, method: str, path: str, data: dict[str, str] | None = None) -> requests.Response:
        def sign(request: requests.PreparedRequest) -> requests.PreparedRequest:  # an `auth`: netrc is not asked
            if self._token and data is None:
                kind, token = ("Bearer", self._access) if self._access else ("Token", self._token)
                request.headers["Authorization"] = f"{kind} {token}"
            return request

        try:
            return requests.request(
                method, self.origin + path, json=data, auth=sign, timeout=(5, 30), stream=True, allow_redirects=False
            )
        except requests.RequestException as error:
            raise Refused(503, f"{FETCHED} does not answer ({type(error).__name__}): is it running?") from error


def _split(reference: str) -> SplitResult:
    """Raises: Refused: no path and no URL (422)."""
    try:
        return urlsplit(reference)
    except ValueError as error:
        raise Refused(422, UNKNOWN_PLACE) from error


def _origin(url: str) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        port = None
    return f"{parts.scheme}://{host}:{port}"


def _body(answer: requests.Response) -> bytes:
    status = answer.status_code
    if 300 <= status < 400:
        raise Refused(
            403,
            f"{FETCHED} sends elsewhere for the image, which is not followed: give --images, or let its storage "
            "connection proxy files in place of pre-signed URLs.",
        )
    if status in (401, 403):
        raise Refused(403, f"{FETCHED} does not give the image ({status}): --label-studio-token-file needs a token.")
    if status != 200:
        raise Refused(404 if status == 404 else 503, f"{FETCHED} has no such image (it answers {status}).")
    data, start = bytearray(), time.monotonic()
    try:
        for chunk in answer.iter_content(1 << 18):
            data += chunk
            if len(data) > MAX_BYTES:
                raise Refused(413, f"The image has more than {MAX_BYTES // 2**20} MiB: shrink it.")
            if time.monotonic() - start > SECONDS:
                raise Refused(503, f"{FETCHED} takes more than {SECONDS:.0f} s for an image.")
    except requests.RequestException as error:
        raise Refused(503, f"{FETCHED} broke off ({describe(error, 100)}): try again.") from error
    return bytes(data)


def image_path(reference: str) -> tuple[str, bool]:
    """The path in what a task says of its image, and whether Label Studio named the file itself (an upload).

    Raises:
        Refused: it says no path (422).
    """
    parts = _split(reference)
    path, query = unquote(parts.path), parse_qs(parts.query)
    inner = query.get("d") if path.rstrip("/").endswith("/data/local-files") else query.get("filepath")
    path = inner[-1] if inner else path
    names = [name for name in path.split("/") if name not in ("", ".")]
    if not names or ".." in names or parts.scheme == "data":
        raise Refused(422, UNKNOWN_PLACE)
    uploaded = re.search(r"(^|/)upload/\d+/[^/]+$", path) is not None
    return (names[-1], True) if uploaded else ("/".join(names), False)


def folder_name(reference: str, uri: str, names: Iterable[str]) -> str:
    """The one image of a folder (at `uri`) that a task means.

    Of an upload it is the one with that file name; else the one whose whole path ends with the path in the task.

    Raises:
        Refused: none (404) or several (409).
    """
    path, uploaded = image_path(reference)
    if uploaded:  # 1a2b3c4d-name.jpg, with what Django keeps of the name
        kept = re.sub(r"^[0-9a-f]{8}-", "", path)
        found = [name for name in names if kept == _as_django(posixpath.basename(name))]
    else:
        found = [name for name in names if f"/{uri.rstrip('/')}/{name}".endswith(f"/{path}")]
    if len(found) == 1:
        return found[0]
    if found:
        raise Refused(
            409, f"{len(found)} images of --images could be {path!r}: start the server with --label-studio-url."
        )
    raise Refused(404, f"--images has no image {path!r}: start the server with the folder that Label Studio shows.")


def _as_django(name: str) -> str:
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


class TaskImages:
    """The images of Label Studio's tasks. Threads may share it."""

    def __init__(self, annotator: Annotator, studio: LabelStudio | None) -> None:
        self._clicker, self._folder, self._studio = annotator.clicker, annotator.folder, studio
        self._seen: Kept[tuple[str, int], tuple[str, float]] = Kept(10_000, lambda _: 1)
        self._lock = threading.Lock()

    def picture(self, reference: str, task: int) -> Picture:
        """The image of a task; `reference`: what the task says of where it lies.

        Raises:
            Refused: it may not or cannot be read; see `LabelStudio.fetch`, `folder_name`, `Folder.read` and
                `read_picture`.
        """
        if known := self._known(reference, task):
            return known
        with self._lock:  # several clicks on a new image fetch it once
            if known := self._known(reference, task):
                return known
            picture = read_picture(self._read(reference, task))
            self._clicker.show(picture)
            self._seen.put((reference, task), (picture.sha, time.monotonic()))
            return picture

    def _known(self, reference: str, task: int) -> Picture | None:
        seen = self._seen.get((reference, task))
        fresh = seen is not None and time.monotonic() - seen[1] < FRESH_SECONDS
        return self._clicker.picture(seen[0]) if seen and fresh else None

    def _read(self, reference: str, task: int) -> bytes:
        """An image in cloud storage is looked for in the folder first, any other one at Label Studio."""
        path = self._studio.path(reference, task) if self._studio else None
        if self._studio and path and not (self._folder and urlsplit(reference).scheme in CLOUDS):
            return self._studio.fetch(path)
        if self._folder:
            return self._folder.read(folder_name(reference, self._folder.uri, self._folder.names()))
        if self._studio:
            raise Refused(
                403, f"The task's image does not lie at {FETCHED}, and no other place is asked: give --images."
            )
        raise Refused(
            404, "Start the server with --images or --label-studio-url, so that it finds Label Studio's images."
        )
