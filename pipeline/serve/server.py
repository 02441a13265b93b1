"""The annotator's server: checked before anything starts, and served until it is told to stop."""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import BackpressureConfig, ProxyLocation
from ray.serve.schema import LoggingConfig

from pipeline import storage
from pipeline.config.evaluation import GPU_BATCH
from pipeline.config.serving import ServeConfig
from pipeline.engine import stop
from pipeline.engine.device import on_gpu
from pipeline.engine.preflight import check_everywhere, require
from pipeline.errors import Unavailable, UserError, describe
from pipeline.serve.app import App, RemoteClerk, Replica, load, start_clerk
from pipeline.serve.guard import is_loopback, served_names
from pipeline.serve.label_studio_images import LabelStudio
from pipeline.serve.refusal import Refused

ONGOING = 64  # requests in a replica at a time, further ones wait
QUEUED = 256  # requests that wait


@dataclass(frozen=True)
class Checked:
    """A server that can be started.

    Attributes:
        token: that clients must send, "" for none.
        studio_token: that this server sends to Label Studio, "" for none.
    """

    config: ServeConfig
    token: str = field(repr=False)
    studio_token: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """What a browser opens."""
        config = self.config
        host = "localhost" if config.host in ("0.0.0.0", "::") else config.host
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{config.port}/{f'#token={self.token}' if self.token else ''}"


def check(config: ServeConfig) -> Checked:
    """Check a server without starting anything.

    Raises:
        UserError: no such checkpoint, folder or token, a crop that does not fit, a port that is in use, or no address
            of a Label Studio.
    """
    if config.images and not storage.is_folder(storage.absolute(config.images)):
        raise UserError(f"There is no folder of images {storage.absolute(config.images)} (--images).")
    token = read_token(config)
    studio_token = read_word(config.label_studio_token_file, "--label-studio-token-file")
    if config.label_studio_url:
        LabelStudio(config.label_studio_url)
    check_port(config.host, config.port)
    load(config, "cpu")
    return Checked(config, token, studio_token)


def read_token(config: ServeConfig) -> str:
    """The token of --token-file; without it a new one where others can reach the server, else none."""
    if not config.token_file:
        return "" if is_loopback(config.host) else secrets.token_urlsafe(24)
    return read_word(config.token_file, "--token-file")


def read_word(uri: str, option: str) -> str:
    """The token in a file, "" without one.

    Raises:
        UserError: no such file, or no token in it.
    """
    if not uri:
        return ""
    word = storage.read_bytes(storage.absolute(uri)).decode("utf-8", "replace").strip()
    if len(word) < 16 or not word.isascii() or any(c.isspace() for c in word):
        raise UserError(f"{option} {uri} must hold one word of at least 16 letters and digits.")
    return word


def check_port(host: str, port: int) -> None:
    """Raises: UserError: nothing can listen there."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UserError(f"--host {host} is no address of this machine.") from error
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            raise UserError(
                f"{host}:{port} cannot be listened on ({text}): choose another --port or --host."
            ) from error


@contextlib.contextmanager
def served(checked: Checked) -> Iterator[str]:
    """Serve on the connected cluster while this is open; gives the URL.

    Raises:
        UserError: another server runs on the cluster, or it has too few CPUs or GPUs.
        Unavailable: Ray Serve did not start.
    """
    config = checked.config
    gpu = on_gpu(config.device, False)
    require(config.replicas, config.replicas * config.gpu if gpu else 0, f"A server of {config.replicas} replica(s)")
    with contextlib.suppress(ValueError):
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
        raise UserError("The cluster runs Ray Serve already, which has one address for all: end it, or use another.")
    check_everywhere([config.images] if config.images else [], config.out)
    names = served_names(config.host, config.names)
    replica = Replica(
        config, gpu, config.batch_size or (GPU_BATCH if gpu else 1), names, checked.token, checked.studio_token
    )
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    clerk = start_clerk(config.out)
    quiet = LoggingConfig(enable_access_log=False)
    try:
        _start(config, quiet)
        app = App.options(  # pyright: ignore[reportAttributeAccessIssue]
            num_replicas=config.replicas,
            ray_actor_options={"num_cpus": 1, "num_gpus": config.gpu if gpu else 0},
            max_ongoing_requests=ONGOING,
            max_queued_requests=QUEUED,
            backpressure_config=BackpressureConfig(status_code=429, retry_after_s=1),
            max_constructor_retry_count=3,
            logging_config=quiet,
        )
        serve.run(app.bind(replica), name="annotator", route_prefix="/")
        yield checked.url
    finally:
        try:
            serve.shutdown()
        finally:  # what was saved is written, whatever becomes of the rest
            ray.get(clerk.close.remote())
            ray.kill(clerk)


def _start(config: ServeConfig, quiet: LoggingConfig) -> None:
    """Start Ray Serve.

    Raises:
        Unavailable: it does not start, as on a machine that is too busy to do it in time.
    """
    try:
        serve.start(
            proxy_location=ProxyLocation.HeadOnly,
            http_options={"host": config.host, "port": config.port},
            logging_config=quiet,
        )
    except (RayError, RuntimeError, TimeoutError) as error:
        raise Unavailable(f"Ray Serve did not start ({describe(error)}): start the server again.") from error


def run(checked: Checked) -> None:
    """Serve until a signal ends it."""
    ended = threading.Event()
    with served(checked) as url, stop.stoppable(ended.set):
        print(f"Annotator: {url}", flush=True)
        print("Ctrl-C ends it.", flush=True)
        while not ended.wait(1.0):
            with contextlib.suppress(Refused):  # the actor is being started again
                for line in RemoteClerk().told():
                    print(line, flush=True)
