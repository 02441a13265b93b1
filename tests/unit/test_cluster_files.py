"""The files of cluster/: they pass the schemas that exist, agree with each other and with the lock, and the commands in
them exist."""

from __future__ import annotations

import re
import subprocess
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PINS = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if "==" in line)
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
AWS = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
SETTINGS = list(yaml.safe_load_all((CLUSTER / "kuberay-settings.yaml").read_text()))
RAYCLUSTER = yaml.safe_load((CLUSTER / "kuberay-cluster.yaml").read_text())
RAYJOB = yaml.safe_load((CLUSTER / "kuberay-train.yaml").read_text())
GROUPS = [RAYCLUSTER["spec"]["headGroupSpec"], *RAYCLUSTER["spec"]["workerGroupSpecs"]]
PODS = [group["template"]["spec"] for group in GROUPS]
CONFIG_MAP = next(doc for doc in SETTINGS if doc["kind"] == "ConfigMap")["data"]

# The fields that KubeRay's API reference lists (v1.6); its definitions embed a megabyte of pod schema and stay outside.
KUBERAY_FIELDS = {
    "cluster": "authOptions autoscalerOptions enableInTreeAutoscaling gcsFaultToleranceOptions headGroupSpec "
    "headServiceAnnotations managedBy rayVersion suspend workerGroupSpecs",
    "autoscalerOptions": "env envFrom idleTimeoutSeconds image imagePullPolicy resources securityContext upscalingMode "
    "version volumeMounts",
    "head": "enableIngress headService rayStartParams serviceType template",
    "worker": "groupName maxReplicas minReplicas numOfHosts rayStartParams replicas scaleStrategy suspend template",
    "job": "activeDeadlineSeconds backoffLimit clusterSelector deletionStrategy entrypoint entrypointNumCpus "
    "entrypointNumGpus entrypointResources jobId managedBy metadata rayClusterSpec runtimeEnvYAML "
    "shutdownAfterJobFinishes submissionMode submitterConfig submitterPodTemplate suspend ttlSecondsAfterFinished",
}


def in_bytes(quantity: str) -> int:
    """A Kubernetes quantity of memory; we write them in Gi."""
    return int(quantity.removesuffix("Gi")) * 2**30


def test_aws_passes_rays_schema_and_installs_nothing() -> None:
    config = prepare_config(AWS)
    validate_config(config)
    assert not config["setup_commands"] + config["head_setup_commands"] + config["worker_setup_commands"]
    for key in ("initialization_commands", "head_start_ray_commands", "worker_start_ray_commands"):
        for command in config[key]:
            subprocess.run(["bash", "-n", "-c", f"({command})"], check=True)


@pytest.mark.slow
def test_rays_ec2_code_starts_every_machine_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a simulated EC2: spot but for the head, with a role and protected metadata; jobs are told the sum."""
    import boto3
    from moto import mock_aws
    from ray.autoscaler import tags
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    monkeypatch.setenv("HOME", str(tmp_path))  # a key pair is written to ~/.ssh
    monkeypatch.setenv("AWS_DEFAULT_REGION", AWS["provider"]["region"])
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        for role in ("cfr-icl-head", "cfr-icl-worker"):
            boto3.client("iam").create_instance_profile(InstanceProfileName=role)
        image = boto3.client("ec2").describe_images()["Images"][0]["ImageId"]
        config = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(AWS))
        types = config["available_node_types"]
        for node_type in types.values():
            node_type["node_config"]["ImageId"] = image
        ready = bootstrap_aws(config)
        provider = AWSNodeProvider(ready["provider"], ready["cluster_name"])
        for name, node_type in ready["available_node_types"].items():
            marks = {tags.TAG_RAY_NODE_NAME: name, tags.TAG_RAY_USER_NODE_TYPE: name}
            marks |= {tags.TAG_RAY_NODE_KIND: "worker", tags.TAG_RAY_LAUNCH_CONFIG: "x"}
            provider.create_node(node_type["node_config"], {**marks, tags.TAG_RAY_NODE_STATUS: "uninitialized"}, 1)
        started = [i for r in boto3.client("ec2").describe_instances()["Reservations"] for i in r["Instances"]]
    machines = {tag["Value"]: i for i in started for tag in i["Tags"] if tag["Key"] == tags.TAG_RAY_USER_NODE_TYPE}
    assert {name: i.get("InstanceLifecycle") for name, i in machines.items()} == {
        "head": None,
        "gpu": "spot",
        "cpu": "spot",
    }
    for name, machine in machines.items():
        assert machine["IamInstanceProfile"]["Arn"].endswith("head" if name == "head" else "worker")
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
    assert types["head"]["resources"]["CPU"] == 0
    most = {
        kind: sum(types[name]["max_workers"] * types[name]["resources"].get(kind, 0) for name in ("gpu", "cpu"))
        for kind in ("CPU", "GPU")
    }
    assert f"--env CFR_ICL_GROWS_TO=CPU={most['CPU']},GPU={most['GPU']}" in AWS["docker"]["run_options"]
    assert AWS["max_workers"] == types["gpu"]["max_workers"] + types["cpu"]["max_workers"]


def test_kubernetes_objects_pass_its_schemas() -> None:
    templates = [group["template"] for group in GROUPS]
    pods = [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"}, "template": t} for t in templates]
    for document in [*SETTINGS, *pods]:
        kubernetes_validate.validate(document, "1.37", strict=True)


def test_kuberay_objects_have_only_fields_it_knows() -> None:
    spec = RAYCLUSTER["spec"]
    assert RAYJOB["spec"]["rayClusterSpec"] == spec, "the two files describe the same cluster"
    assert {(doc["apiVersion"], doc["kind"]) for doc in (RAYCLUSTER, RAYJOB)} == {
        ("ray.io/v1", "RayCluster"),
        ("ray.io/v1", "RayJob"),
    }
    for kind, thing in [
        ("cluster", spec),
        ("autoscalerOptions", spec["autoscalerOptions"]),
        ("head", spec["headGroupSpec"]),
        *(("worker", group) for group in spec["workerGroupSpecs"]),
        ("job", RAYJOB["spec"]),
    ]:
        assert set(thing) <= set(KUBERAY_FIELDS[kind].split()), kind
    for group in GROUPS:
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    assert yaml.safe_load(RAYJOB["spec"]["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "100"


def test_pods_are_whole_and_not_root() -> None:
    names = {(doc["kind"], doc["metadata"]["name"]) for doc in SETTINGS}
    for group, pod in zip(GROUPS, PODS, strict=True):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert ("ServiceAccount", pod["serviceAccountName"]) in names
        assert ("ConfigMap", container["envFrom"][0]["configMapRef"]["name"]) in names
        assert pod["terminationGracePeriodSeconds"] > int(CONFIG_MAP["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        volumes = {volume["name"]: volume["emptyDir"] for volume in pod["volumes"]}
        mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        store, shared = int(group["rayStartParams"]["object-store-memory"]), in_bytes(mounts["/dev/shm"]["sizeLimit"])
        assert mounts["/dev/shm"]["medium"] == "Memory"
        assert store < shared < in_bytes(container["resources"]["limits"]["memory"]) / 2
    assert GROUPS[0]["rayStartParams"]["num-cpus"] == "0"
    limits = [(g["maxReplicas"], p["containers"][0]["resources"]["limits"]) for g, p in zip(GROUPS[1:], PODS[1:])]
    cpus = sum(most * int(has["cpu"]) for most, has in limits)
    gpus = sum(most * int(has.get("nvidia.com/gpu", 0)) for most, has in limits)
    assert CONFIG_MAP["CFR_ICL_GROWS_TO"] == f"CPU={cpus},GPU={gpus}"


def images(thing: Any) -> Iterator[tuple[str, bool]]:
    """(image, whether it is for a GPU) of everything below that names one."""
    if isinstance(thing, dict):
        for key, value in thing.items():
            if key in ("image", "worker_image", "cpu_image", "gpu_image") and isinstance(value, str):
                yield value, key == "gpu_image" or "nvidia.com/gpu" in thing.get("resources", {}).get("limits", {})
            yield from images(value)
    elif isinstance(thing, list):
        for value in thing:
            yield from images(value)


def test_versions_are_those_of_the_project_and_the_lock() -> None:
    assert RAYCLUSTER["spec"]["rayVersion"] == PINS["ray"]
    found = [image for document in [AWS["metadata"], *SETTINGS, RAYCLUSTER, RAYJOB] for image in images(document)]
    assert len(found) == 2 + 1 + 3 + 3
    for image, gpu in found:
        assert image.endswith(f"/cfr-icl:{VERSION}-{'gpu' if gpu else 'cpu'}"), image
    texts = (CLUSTER / "README.md").read_text() + (CLUSTER / "Dockerfile").read_text()
    assert set(re.findall(r"cfr-icl:([\w.]+)-[cg]pu", texts)) == {VERSION}
    assert AWS["docker"]["image"].endswith("-cpu")
    assert AWS["available_node_types"]["gpu"]["docker"]["worker_image"].endswith("-gpu")


def test_the_image_is_pinned_not_root_and_copies_what_exists() -> None:
    lines = re.sub(r"\\\n", "", (CLUSTER / "Dockerfile").read_text()).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    users = [rest for word, rest in steps if word == "USER"]
    assert users == ["1000:1000"] and [word for word, _ in steps].index("USER") == len(steps) - 2
    assert re.search(r"^ARG PYTHON_IMAGE=python:3\.11\.\d+-slim-\w+$", "\n".join(lines), re.M)
    sent = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = [source for word, rest in steps if word == "COPY" for source in rest.split()[:-1]]
    assert sorted(copied) == sorted(sent)
    assert all((ROOT / source).exists() for source in copied)
    assert "--constraint requirements.lock" in "\n".join(lines)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split(r"[\[=<>~ ]", need)[0] for need in project["dependencies"]} <= set(PINS)


def test_no_keys_in_the_files() -> None:
    for path in CLUSTER.iterdir():
        if path.is_file() and path.name != "local.sh":
            assert not re.search(r"(?i)access_key|secret_key|AKIA", path.read_text()), path.name


def test_what_a_job_uploads_is_small(tmp_path: Path) -> None:
    package = tmp_path / "package.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    parts = zipfile.ZipFile(package).infolist()
    names = [part.filename for part in parts]
    assert {name.split("/")[0] for name in names} == {"jobs", "pipeline"}
    assert {"jobs/train.py", "pipeline/engine/connect.py"} <= set(names)
    models = sum(part.compress_size for part in parts if part.filename.startswith("pipeline/weights/small/"))
    assert 0 < models < 4_000_000  # a job names the packaged model too
    assert package.stat().st_size - models < 2_000_000
