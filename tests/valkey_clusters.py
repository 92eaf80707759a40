"""A real Valkey Cluster of primaries for tests, and TLS in front of Valkeys."""

import asyncio
import datetime
import ipaddress
import ssl
import tempfile
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import redis.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from redis.crc import key_slot

from ops import embedded
from tests.valkeys import PASSWORD, OwnValkey

FORM_TIMEOUT_S = 20.0
SLOTS = 16_384


class OwnCluster:
    """Three primaries, each with a third of the slots; empty when it starts."""

    def __init__(self, folder: Path, *, announced: bool = False) -> None:
        """`announced`: it tells clients other ports than it listens on, for `tls_front`."""
        self._folder = folder
        self.fronts: dict[int, int] = {}
        self.nodes: list[OwnValkey] = []
        self.buses: list[int] = []
        for _ in range(3):
            self._add(announced=announced)

    def _add(self, *, announced: bool = False) -> OwnValkey:
        bus = embedded.free_port()
        settings = {
            "cluster-enabled": "yes",
            "cluster-config-file": "nodes.conf",
            "cluster-node-timeout": "500",
            "cluster-port": str(bus),
            "primaryauth": PASSWORD,
            "cluster-announce-ip": "127.0.0.1",
            # A lost node's slots are lost; those of the others must not be.
            "cluster-require-full-coverage": "no",
        }
        if announced:
            settings["cluster-announce-port"] = str(embedded.free_port())
        node = OwnValkey(self._folder / str(len(self.nodes)), settings)
        if announced:
            self.fronts[int(settings["cluster-announce-port"])] = node.port
        self.nodes.append(node)
        self.buses.append(bus)
        return node

    @property
    def url(self) -> str:
        """A URL by which a client finds it."""
        return self.nodes[0].url.replace("redis:", "redis+cluster:")

    async def start(self) -> None:
        """Starts the nodes, and waits until they agree."""
        for number, node in enumerate(self.nodes):
            await node.start()
            first, last = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            await node.command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            await node.command("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node, bus in zip(self.nodes[1:], self.buses[1:], strict=True):
            await self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        await self.until_agreed()

    async def add_replica(self, primary: OwnValkey) -> None:
        """Adds a node that has what a primary has; waits until it does."""
        replica = self._add()
        await replica.start()
        await self.nodes[0].command("CLUSTER", "MEET", "127.0.0.1", replica.port, self.buses[-1])
        await self.until_agreed()
        await replica.command("CLUSTER", "REPLICATE", await self.id_of(primary))
        deadline = time.monotonic() + FORM_TIMEOUT_S
        while b"master_link_status:up" not in await replica.command("INFO", "replication"):
            assert time.monotonic() < deadline, "the replica does not follow"
            await asyncio.sleep(0.02)

    async def until_agreed(self) -> None:
        """Waits until each node knows of all slots, and of all nodes that they are well."""
        deadline = time.monotonic() + FORM_TIMEOUT_S
        for node in self.nodes:
            wanted = (
                b"cluster_state:ok",
                b"cluster_slots_ok:16384",
                f"cluster_known_nodes:{len(self.nodes)}".encode(),
            )
            while True:
                told = await node.command("CLUSTER", "INFO")
                if all(each in told for each in wanted):
                    break
                assert time.monotonic() < deadline, "the cluster does not form"
                await asyncio.sleep(0.02)

    async def id_of(self, node: OwnValkey) -> str:
        """The id by which the nodes know one of them."""
        return (await node.command("CLUSTER", "MYID")).decode()

    async def begin_move(self, slot: int, source: OwnValkey, target: OwnValkey) -> None:
        """From here on, keys of the slot may be in both."""
        source_id, target_id = await self.id_of(source), await self.id_of(target)
        await target.command("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)

    async def move_keys(self, slot: int, source: OwnValkey, target: OwnValkey) -> None:
        """Moves the keys of a slot, one by one."""
        for key in await source.command("CLUSTER", "GETKEYSINSLOT", slot, 10_000):
            await source.command(
                "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "AUTH", PASSWORD, "KEYS", key
            )

    async def half_move(self, tag: str) -> None:
        """Leaves `{tag}:kept`, 2, where it is, and moves `{tag}:moved`, 1."""
        slot, (source, target) = key_slot(tag.encode()), self.pair_of(f"{{{tag}}}")
        await source.command("INCRBY", f"{{{tag}}}:moved", 1)
        await self.begin_move(slot, source, target)
        await self.move_keys(slot, source, target)
        # A key that is new to a slot on the move is made by the target.
        await source.command("CLUSTER", "SETSLOT", slot, "STABLE")
        await source.command("INCRBY", f"{{{tag}}}:kept", 2)
        await source.command("CLUSTER", "SETSLOT", slot, "MIGRATING", await self.id_of(target))

    async def end_move(self, slot: int, target: OwnValkey) -> None:
        """The target owns the slot, and all nodes know."""
        target_id = await self.id_of(target)
        for node in (target, *(node for node in self.nodes if node is not target)):
            with suppress(redis.exceptions.ConnectionError):
                await node.command("CLUSTER", "SETSLOT", slot, "NODE", target_id)

    async def move_all(self, source_number: int, target: OwnValkey) -> None:
        """Gives a node's slots to another one at once (atomic migration); waits until all know."""
        source = self.nodes[source_number]
        first, last = SLOTS * source_number // 3, SLOTS * (source_number + 1) // 3 - 1
        await source.command(
            "CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", await self.id_of(target)
        )
        owner = (await self.id_of(target)).encode()
        deadline = time.monotonic() + FORM_TIMEOUT_S
        for node in self.nodes:
            while True:
                shown = await node.command("CLUSTER", "SLOTS")
                if all(start > last or end < first or of[2] == owner for start, end, of in shown):
                    break
                assert time.monotonic() < deadline, "the slots do not move"
                await asyncio.sleep(0.02)

    def node_of(self, key: str) -> OwnValkey:
        """The node that a key lies in before any slot has moved."""
        return next(
            node
            for number, node in enumerate(self.nodes)
            if key_slot(key.encode()) < SLOTS * (number + 1) // 3
        )

    def pair_of(self, key: str) -> tuple[OwnValkey, OwnValkey]:
        """The node of a key, and another one."""
        source = self.node_of(key)
        return source, next(node for node in self.nodes if node is not source)

    def stop(self) -> None:
        """As a crash."""
        for node in self.nodes:
            node.stop()


@asynccontextmanager
async def own_cluster(*, announced: bool = False) -> AsyncGenerator[OwnCluster]:
    """Runs a cluster."""
    with tempfile.TemporaryDirectory(prefix="chirp-cluster-") as folder:
        cluster = OwnCluster(Path(folder), announced=announced)
        try:
            await cluster.start()
            yield cluster
        finally:
            cluster.stop()


def key_on(node_number: int, name: str = "key") -> str:
    """Returns a key that one of the three nodes owns."""
    numbers = range(10_000)
    return next(
        key
        for key in (f"{name}:{number}" for number in numbers)
        if key_slot(key.encode()) * 3 // SLOTS == node_number
    )


def make_certificates(folder: Path, address: str = "127.0.0.1") -> tuple[Path, Path]:
    """Makes an authority, and a certificate of it for an address; returns the authority's file and
    the one with the certificate and its key."""
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority_name, name = (
        x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, each)])
        for each in ("Chirp's tests", "valkey")
    )
    authority = (
        x509.CertificateBuilder(authority_name, authority_name, authority_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    certificate = (
        x509.CertificateBuilder(authority_name, name, key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]),
            critical=False,
        )
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    authority_file, server_file = folder / "authority.pem", folder / "server.pem"
    authority_file.write_bytes(authority.public_bytes(pem))
    server_file.write_bytes(
        certificate.public_bytes(pem)
        + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return authority_file, server_file


@asynccontextmanager
async def tls_front(ports: Mapping[int, int], certificate: Path) -> AsyncGenerator[None]:
    """Ends TLS on ports before Valkeys on others: the wheel's Valkey is built without it."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    passing: set[asyncio.Task[None]] = set()

    async def serve(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        passing.add(task)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # either side hung up, or the test is over
        finally:
            passing.discard(task)
            writer.transport.abort()

    async with AsyncExitStack() as stack:
        for front, behind in ports.items():
            server = await asyncio.start_server(
                lambda reader, writer, port=behind: serve(port, reader, writer),
                "127.0.0.1",
                front,
                ssl=tls,
            )
            stack.callback(server.close)
        try:
            yield
        finally:
            for task in list(passing):
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    finally:
        writer.transport.abort() if writer.get_extra_info("sslcontext") is None else writer.close()
