"""Runs the pods of rendered manifests as processes of this machine: their own commands, variables, files, ports, probes and ends.

What a cluster gives is imitated here: each port that a container declares becomes a free port of the loopback, and so
does each Service, which passes connections on to the ready pod with the fewest. Wherever a declared port, the name of a Service or
a mounted path stands in a command, a variable or a file, the local one takes its place. Nothing here knows what the pods are.
"""

import asyncio
import base64
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tornado.httpclient import AsyncHTTPClient, HTTPError

from parallax.demo.ports import choose_ports
from parallax.tasks import Tasks
from tests.processes import HOST, PATIENCE, Process, until

LEAVING_SECONDS = 1.0  # what a cluster takes to tell its load balancers that a pod leaves
PROBE_SECONDS = 0.3


def free_port() -> int:
    """Return a port that nobody uses."""
    return choose_ports({"port": 0})["port"]


@dataclass(eq=False)
class Pod:
    """One pod with one container."""

    name: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    process: Process
    ports: dict[int, int]  # as declared -> here
    shell: list[str]  # what runs a command as in the container
    environment: dict[str, str]
    rewrite: list[tuple[str, str]]
    is_ready: bool = False
    is_leaving: bool = False
    connections: int = 0
    failures: list[str] = field(default_factory=list)  # of its liveness probe; and if it had to be killed
    probed: set[str] = field(default_factory=set)  # kinds of probes that were green

    @property
    def container(self) -> Mapping[str, Any]:
        """The container's declaration."""
        first: Mapping[str, Any] = self.spec["containers"][0]
        return first

    def port(self, declared: int | str) -> int:
        """Return the local port for a port's number or name."""
        named = {entry.get("name"): entry["containerPort"] for entry in self.container.get("ports", ())}
        return self.ports[named.get(declared, declared)]


class Service:
    """A Service's port: a socket that passes connections on to ready pods."""

    def __init__(self, cluster: "PodCluster", selector: Mapping[str, str], target: int | str) -> None:
        self._cluster, self._selector, self._target = cluster, selector, target
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = free_port()
        self.refused = 0  # connections for which there was no pod, or one that did not take it

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._serve, HOST, self.port)

    async def close(self) -> None:
        """Stop listening, and cut what is there."""
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

        async def are_gone() -> bool:
            return not self._writers

        await until(are_gone, 10, "all connections are closed")

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            pod = min(self._cluster.endpoints(self._selector), key=lambda pod: pod.connections)
            from_pod, to_pod = await asyncio.open_connection(HOST, pod.port(self._target))
        except (OSError, ValueError):
            self.refused += 1
            writer.close()
            return
        pod.connections += 1
        self._writers |= {writer, to_pod}
        try:
            await asyncio.gather(_pass_on(reader, to_pod), _pass_on(from_pod, writer))
            for end in (writer, to_pod):
                with suppress(OSError):
                    await end.wait_closed()
        finally:
            pod.connections -= 1
            self._writers -= {writer, to_pod}


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


class PodCluster:
    """The objects of a release, running. `programs` says where each image's programs are: part of its name -> directory."""

    def __init__(self, directory: Path, objects: Sequence[Mapping[str, Any]], programs: Mapping[str, Path]) -> None:
        self.directory, self.programs = directory, programs
        self.objects = {(made["kind"], made["metadata"]["name"]): made for made in objects}
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self.services: dict[tuple[str, int], Service] = {}
        self._probes: dict[Pod, asyncio.Task[None]] = {}
        self._tasks = Tasks()
        self._made = 0

    def of_kind(self, kind: str) -> list[Mapping[str, Any]]:
        """Return the objects of a kind."""
        return [made for (its, _), made in self.objects.items() if its == kind]

    def endpoints(self, selector: Mapping[str, str]) -> list[Pod]:
        """Return the ready pods that have these labels."""
        return [pod for pod in self.pods if pod.is_ready and selector.items() <= pod.labels.items()]

    # Start and end ---------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every Service and every pod of Deployments and StatefulSets, and wait until all are ready."""
        for made in self.of_kind("Service"):
            if made["spec"].get("clusterIP") == "None":
                continue
            for port in made["spec"]["ports"]:
                service = Service(self, made["spec"]["selector"], port["targetPort"])
                self.services[made["metadata"]["name"], port["port"]] = service
                await service.start()
        for made in [*self.of_kind("StatefulSet"), *self.of_kind("Deployment")]:
            for _ in range(made["spec"].get("replicas", 1)):
                self.launch(made)
        for pod in self.pods:
            await self.ready(pod)

    def launch(self, workload: Mapping[str, Any]) -> Pod:
        """Start one more pod of a workload, and its probes."""
        template = workload["spec"]["template"]
        pod = self._make(workload["metadata"]["name"], template["metadata"]["labels"], template["spec"])
        self.pods.append(pod)
        pod.process.start()
        self._probes[pod] = self._tasks.start(self._probe(pod), name=f"probes of {pod.name}")
        return pod

    async def ready(self, pod: Pod, seconds: float = 60) -> None:
        """Wait until a pod is ready."""

        async def is_ready() -> bool:
            assert pod.process.pid
            return pod.is_ready

        await until(is_ready, seconds, f"{pod.name} is ready")

    async def leave(self, pod: Pod) -> None:
        """Let a pod go as a cluster does: preStop and, a moment later, out of its Services; SIGTERM; SIGKILL after the grace period."""
        pod.is_leaving = True
        began = time.monotonic()
        sleep = pod.container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        out = self._tasks.start(self._withdraw(pod), name=f"{pod.name} leaves")
        await asyncio.sleep(sleep)
        try:
            left = pod.spec.get("terminationGracePeriodSeconds", 30) - (time.monotonic() - began)
            code = await pod.process.terminate(max(left, 0) / PATIENCE)
            if code not in (0, -15):
                pod.failures.append(f"exit code {code}")
        except AssertionError:
            pod.failures.append("did not end within its grace period")
            await pod.process.kill()
        await out
        self._probes.pop(pod).cancel()
        self.pods.remove(pod)
        self.gone.append(pod)

    async def _withdraw(self, pod: Pod) -> None:
        await asyncio.sleep(LEAVING_SECONDS)
        pod.is_ready = False

    async def roll(self, name: str) -> None:
        """Replace a Deployment's pods one by one, a new one first."""
        workload = self.objects["Deployment", name]
        for old in [pod for pod in self.pods if workload["spec"]["selector"]["matchLabels"].items() <= pod.labels.items()]:
            await self.ready(self.launch(workload))
            await self.leave(old)

    async def run(self, made: Mapping[str, Any], seconds: float = 90) -> tuple[int, str]:
        """Run a pod to its end, and return its exit code and what it said."""
        pod = self._make(made["metadata"]["name"], made["metadata"]["labels"], made["spec"])
        pod.process.start()
        return await pod.process.ended(seconds), pod.process.tail()

    async def close(self) -> None:
        """End everything at once."""
        await self._tasks.close()
        for pod in self.pods:
            pod.process.destroy()
        for service in self.services.values():
            await service.close()

    def logs(self) -> str:
        """Return the ends of all outputs."""
        return "\n".join(pod.process.tail(25) for pod in [*self.gone, *self.pods])

    # What a pod is made of -------------------------------------------------------------------------------------------

    def _make(self, name: str, labels: Mapping[str, str], spec: Mapping[str, Any]) -> Pod:
        self._made += 1
        name = f"{name}-{self._made}"
        home = self.directory / name
        home.mkdir()
        (container,) = spec["containers"]
        ports = {entry["containerPort"]: free_port() for entry in container.get("ports", ())}
        rewrite = [
            (rf"(?<![\w.-]){re.escape(service)}:{port}(?!\d)", f"{HOST}:{made.port}")
            for (service, port), made in self.services.items()
        ]
        mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", ())}
        rewrite += [(rf"(?<![\w.]){re.escape(path)}(?![\w-])", str(home / volume)) for volume, path in mounts.items()]
        rewrite += [(rf"(?<![\w.:/-]){declared}(?![\w.])", str(here)) for declared, here in ports.items()]
        for volume in spec.get("volumes", ()):
            self._fill(home / volume["name"], volume, rewrite)
        for volume in mounts:
            (home / volume).mkdir(exist_ok=True)
        bin_directory = next(path for part, path in self.programs.items() if part in container["image"])
        environment: dict[str, str] = {}
        for entry in container.get("env", ()):
            environment[entry["name"]] = _rewritten(self._value(entry), rewrite)
        shell = ["/usr/bin/env", "-i", f"PATH={bin_directory}:/usr/bin:/bin", f"HOSTNAME={name}"]
        shell += [f"{key}={value}" for key, value in environment.items()]
        command = [
            _rewritten(re.sub(r"\$\((\w+)\)", lambda match: environment[match.group(1)], part), rewrite)
            for part in [*container["command"], *container.get("args", ())]
        ]
        process = Process(name, [*shell, *command], self.directory)
        return Pod(name, labels, spec, process, ports, shell, environment, rewrite)

    def _value(self, entry: Mapping[str, Any]) -> str:
        if "value" in entry:
            return str(entry["value"])
        wanted = entry["valueFrom"]["secretKeyRef"]
        return self._contents("Secret", wanted["name"])[wanted["key"]]

    def _contents(self, kind: str, name: str) -> dict[str, str]:
        made = self.objects[kind, name]
        coded = made.get("data", {}) if kind == "Secret" else {}
        plain = made.get("stringData", {}) if kind == "Secret" else made.get("data", {})
        return dict(plain) | {key: base64.b64decode(value).decode() for key, value in coded.items()}

    def _fill(self, directory: Path, volume: Mapping[str, Any], rewrite: list[tuple[str, str]]) -> None:
        directory.mkdir()
        for kind, key, source in (("ConfigMap", "name", "configMap"), ("Secret", "secretName", "secret")):
            if source in volume:
                for name, text in self._contents(kind, volume[source][key]).items():
                    (directory / name).write_text(_rewritten(text, rewrite))

    # Probes ----------------------------------------------------------------------------------------------------------

    async def _probe(self, pod: Pod) -> None:
        """Ask the startup probe until it is green, then the other two for as long as the pod runs."""
        probes = {
            kind: pod.container[kind]
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            if kind in pod.container
        }
        startup = probes.pop("startupProbe", None)
        if startup:

            async def is_green() -> bool:
                return await self._is_green(pod, startup)

            await until(is_green, startup["failureThreshold"] * startup["periodSeconds"], f"{pod.name} has started")
            pod.probed.add("startupProbe")
        reds = 0
        while True:
            for kind, probe in probes.items():
                green = await self._is_green(pod, probe)
                pod.probed |= {kind} if green else set()
                if kind == "readinessProbe" and not (pod.is_leaving and not pod.is_ready):
                    pod.is_ready = green
                elif kind == "livenessProbe" and not pod.is_leaving:
                    reds = 0 if green else reds + 1
                    if reds >= probe.get("failureThreshold", 3):
                        pod.failures.append("liveness")
            if "readinessProbe" not in probes:
                pod.is_ready = not pod.is_leaving
            await asyncio.sleep(PROBE_SECONDS)

    async def _is_green(self, pod: Pod, probe: Mapping[str, Any]) -> bool:
        seconds = probe.get("timeoutSeconds", 1) * PATIENCE
        try:
            if "httpGet" in probe:
                url = f"http://{HOST}:{pod.port(probe['httpGet']['port'])}{probe['httpGet']['path']}"
                answer = await AsyncHTTPClient().fetch(url, raise_error=False, request_timeout=seconds)
                return 200 <= answer.code < 400
            if "tcpSocket" in probe:
                _, writer = await asyncio.open_connection(HOST, pod.port(probe["tcpSocket"]["port"]))
                writer.close()
                return True
            command = [*pod.shell, *(_rewritten(part, pod.rewrite) for part in probe["exec"]["command"])]
            silent = asyncio.subprocess.DEVNULL
            asked = await asyncio.create_subprocess_exec(*command, stdin=silent, stdout=silent, stderr=silent)
            return await asyncio.wait_for(asked.wait(), seconds) == 0
        except (OSError, HTTPError, TimeoutError):
            return False


def _rewritten(text: str, rewrite: Sequence[tuple[str, str]]) -> str:
    """Replace what matches, all in one go: what was put there is not looked at again."""
    if not rewrite:
        return text
    every = "|".join(f"(?P<p{number}>{pattern})" for number, (pattern, _) in enumerate(rewrite))
    return re.sub(every, lambda match: rewrite[int(str(match.lastgroup)[1:])][1], text)
