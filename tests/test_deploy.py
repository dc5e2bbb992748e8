"""What a cluster is told: checked as far as that goes without one, and the balancer run for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kubernetes_validate import validate  # type: ignore[import-untyped]

from tests.doubles import chat_policy, unused_port
from tests.gateway_world import gateway
from toolorch_integrations.testing import ScriptedPolicy
from toolorch_integrations.versions import CONVERSATION_HEADER, conversation

FOLDER = Path(__file__).parents[1] / "serving" / "deploy"
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


def resources() -> list[dict[str, Any]]:
    return [item for file in sorted((FOLDER / "kubernetes").glob("*.yaml")) for item in yaml.safe_load_all(file.open())]


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return read


@contextmanager
def balancer(folder: Path, *replicas: str) -> Iterator[str]:
    """Run nginx with the shipped configuration in front of replicas on loopback; yield its base URL."""
    if NGINX is None:
        pytest.skip("nginx is missing: make install-system")
    port = unused_port()
    text = (FOLDER / "config" / "nginx.conf").read_text()
    for number, url in enumerate(replicas):
        text = text.replace(f"policy-{number}:8000", httpx.URL(url).netloc.decode())
    text = text.replace("listen 8000;", f"listen 127.0.0.1:{port};")
    # Its folders are root's, and it must not become a daemon; all else is as shipped.
    temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy"))
    temporary += "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ("fastcgi", "uwsgi", "scgi"))
    text = text.replace("http {", f"http {{ {temporary}", 1)
    file = folder / "nginx.conf"
    file.write_text(f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/log;\n{text}")
    with subprocess.Popen([NGINX, "-c", str(file), "-e", str(folder / "log")]) as process:
        try:
            for _ in range(200):
                try:
                    httpx.get(f"http://127.0.0.1:{port}/balancer/health").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.02)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()


def test_every_resource_fits_kubernetes_own_schema() -> None:
    found = resources()
    assert {item["kind"] for item in found} >= {"StatefulSet", "Deployment", "Service", "NetworkPolicy"}
    for item in found:
        validate(item, "1.34", strict=True)


def test_what_resources_name_is_there() -> None:
    found = resources()
    services = {item["metadata"]["name"] for item in found if item["kind"] == "Service"}
    workloads = [item for item in found if item["kind"] in ("StatefulSet", "Deployment")]
    labels = [item["spec"]["template"]["metadata"]["labels"]["app"] for item in workloads]
    for item in found:
        if item["kind"] == "Service":
            assert item["spec"]["selector"]["app"] in labels
        if item["kind"] == "StatefulSet":
            assert item["spec"]["serviceName"] in services
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    listed = [
        *kustomization["resources"],
        *(file for made in kustomization["configMapGenerator"] for file in made["files"]),
    ]
    assert all((FOLDER / file).is_file() for file in listed)
    assert sorted(file.name for file in (FOLDER / "kubernetes").iterdir()) == sorted(
        Path(file).name for file in kustomization["resources"]
    )
    maps = {made["name"] for made in kustomization["configMapGenerator"]}
    mounted = {
        volume["configMap"]["name"]
        for item in workloads
        for volume in item["spec"]["template"]["spec"].get("volumes", ())
        if "configMap" in volume
    }
    assert mounted == maps


def test_the_balancer_knows_each_replica_by_an_address_that_stays() -> None:
    names = re.findall(r"^ +server ([\w.-]+):8000", (FOLDER / "config" / "nginx.conf").read_text(), re.MULTILINE)
    found = resources()
    policy = next(item for item in found if item["kind"] == "StatefulSet" and item["metadata"]["name"] == "policy")
    assert names == [f"policy-{number}" for number in range(policy["spec"]["replicas"])]
    for name in names:
        service = next(item for item in found if item["kind"] == "Service" and item["metadata"]["name"] == name)
        assert service["spec"].get("clusterIP") != "None"  # nginx asks for it once: a headless one moves with its pod
        assert service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"] == name
        assert "ipv4_address" in compose()["services"][name]["networks"]["default"]
    policy_section = tomllib.loads((FOLDER / "config" / "gateway.toml").read_text())["policy"]
    assert policy_section["replicas"] == [f"http://{name}:8000/v1" for name in names]


def test_a_promotion_reaches_the_balancer_and_each_replica_and_so_do_gateways() -> None:
    let_in = {
        item["metadata"]["name"]: {
            source["podSelector"]["matchLabels"]["app"] for source in item["spec"]["ingress"][0]["from"]
        }
        for item in resources()
        if item["kind"] == "NetworkPolicy"
    }
    assert let_in["balancer"] == {"gateway", "promotion"}
    assert let_in["policy"] == {"balancer", "gateway", "promotion"}


def test_a_client_keeps_to_one_gateway() -> None:
    gateway = next(item for item in resources() if item["kind"] == "Service" and item["metadata"]["name"] == "gateway")
    assert gateway["spec"]["sessionAffinity"] == "ClientIP"


def test_nobody_scrapes_metrics_without_a_key() -> None:
    workloads = [item for item in resources() if item["kind"] in ("StatefulSet", "Deployment")]
    annotations = [item["spec"]["template"]["metadata"].get("annotations", {}) for item in workloads]
    assert not any(name.startswith("prometheus.io/") for found in annotations for name in found)


def test_compose_mounts_what_is_there_and_names_each_variable() -> None:
    services = compose()["services"]
    for service in services.values():
        for volume in service.get("volumes", ()):
            if volume.startswith("./"):
                assert (FOLDER / volume.partition(":")[0]).is_file()
        depends = service.get("depends_on", {})
        assert set(depends) <= set(services)
        assert all(
            "healthcheck" in services[name] for name, on in depends.items() if on["condition"] == "service_healthy"
        )
    wanted = set(re.findall(r"\$\{(\w+)", (FOLDER / "compose.yaml").read_text()))
    example = (FOLDER / "environment.example").read_text()
    assert wanted == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_the_gateways_configuration_is_valid(tmp_path: Path) -> None:
    # Its catalogue is looked for where the image has it.
    text = (FOLDER / "config" / "gateway.toml").read_text().replace("/etc/toolorch", str(FOLDER / "config"))
    file = tmp_path / "gateway.toml"
    file.write_text(text)
    variables = re.findall(r"^(\w+)=", (FOLDER / "environment.example").read_text(), re.MULTILINE)
    command = [sys.executable, "-c", "from toolorch_integrations.cli import app; app()"]
    command += ["serve", "gateway", str(file), "--check"]
    done = subprocess.run(
        command,
        env={**os.environ, **{name: f"http://{name.lower()}" for name in variables}},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_gateways_start_while_the_policy_still_loads(tmp_path: Path) -> None:
    policy = tomllib.loads((FOLDER / "config" / "gateway.toml").read_text())["policy"]
    arguments = compose()["x-policy"]["command"]
    assert f"--served-model-name={policy['model']}" in arguments
    nobody = f"http://127.0.0.1:{unused_port()}/v1"
    with gateway(tmp_path, policy={**policy, "url": nobody, "replicas": [nobody]}) as app:
        assert app.state.versions is not None
        assert app.state.versions.refresh().current == policy["model"]


def test_both_run_the_policy_with_the_same_flags_which_exact_capture_needs() -> None:
    policies = [item for item in resources() if item["metadata"]["name"] == "policy" and item["kind"] == "StatefulSet"]
    arguments = policies[0]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments == compose()["x-policy"]["command"]
    assert {"--logprobs-mode=processed_logprobs", "--generation-config=vllm"} <= set(arguments)


def test_the_images_file_is_clean() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([str(hadolint), str(FOLDER / "Containerfile")], capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if " info" not in line and "info[0m" not in line]
    assert found == []


def test_a_conversation_stays_on_one_replica_and_many_use_both(tmp_path: Path) -> None:
    with (
        ScriptedPolicy(["One."]) as first,
        ScriptedPolicy(["Two."]) as second,
        balancer(tmp_path, first.url, second.url) as url,
    ):
        policy = chat_policy(first, base_url=url)
        for number in range(24):
            with conversation(f"c-{number}"):
                for _ in range(3):
                    policy.invoke("Hello")
    seen = [[sent[CONVERSATION_HEADER] for sent in replica.headers] for replica in (first, second)]
    assert len(seen[0]) + len(seen[1]) == 72
    assert not set(seen[0]) & set(seen[1])
    assert min(len(set(part)) for part in seen) > 4


def test_a_replica_that_is_down_is_passed_over(tmp_path: Path) -> None:
    down = f"http://127.0.0.1:{unused_port()}/v1"
    with ScriptedPolicy(["Here."]) as up, balancer(tmp_path, up.url, down) as url:
        policy = chat_policy(up, base_url=url)
        for number in range(8):
            with conversation(f"c-{number}"):
                assert policy.invoke("Hello").text == "Here."
    assert len(up.requests) == 8


def test_streams_pass_the_balancer_piece_by_piece(tmp_path: Path) -> None:
    with ScriptedPolicy(["A long answer in many pieces."]) as policy, balancer(tmp_path, policy.url, policy.url) as url:
        pieces = list(chat_policy(policy, base_url=url).stream("Hello"))
    assert len(pieces) > 2
    assert "".join(piece.text for piece in pieces) == "A long answer in many pieces."
