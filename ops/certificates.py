"""Chirp's own authority, for development and for those who have none: it makes the certificates
that `mesh/tls.py` reads.

    authority.pem      the authority's certificate
    authority-key.pem  its private key: read by `chirp certs` alone, never by a server
    <name>/...         of each service and the gateway: see mesh/tls.py

Keys are ECDSA on P-256: Envoy's TLS takes no Ed25519. The authority may sign for names below
chirp.internal only, so that its key, should it get out, is good for nothing else.
"""

import datetime
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh import files, tls
from mesh.access import COMMAND_LINE
from mesh.settings import Settings

AUTHORITY_KEY_FILE = "authority-key.pem"
LOCK_FILE = "lock"
AUTHORITY_LIFETIME = datetime.timedelta(days=3650)
LIFETIME = datetime.timedelta(days=90)
RENEW_BEFORE = datetime.timedelta(days=30)  # so a month may pass without anybody looking
BACKDATED = datetime.timedelta(minutes=5)  # by so much another machine's clock may be behind

# Those who only call: their certificates serve nobody.
CLIENTS = (tls.GATEWAY, COMMAND_LINE)

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Authority:
    """Who signs."""

    certificate: x509.Certificate
    key: Key


def ensure(settings: Settings, *, rotate: bool = False) -> list[str]:
    """Makes the authority and the certificates that are missing, expire within RENEW_BEFORE or are
    another authority's; with `rotate`, all certificates. Returns whose it made. Processes that run
    take them up by themselves. Raises OSError where the folder cannot be written, or the
    authority's key is not here and something is to be signed."""
    folder = settings.certs
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with files.locked(folder / LOCK_FILE):
        if not (folder / tls.AUTHORITY_FILE).exists():
            _write_authority(folder, make_authority())
        trusted = (folder / tls.AUTHORITY_FILE).read_bytes()
        due = [name for name in tls.NAMES if rotate or not _is_good(settings, name, trusted)]
        if due:
            authority = read_authority(folder)
            for name in due:
                _write_identity(settings, name, trusted, issue(authority, name))
    return due


def expiries(settings: Settings) -> dict[str, datetime.datetime]:
    """Returns until when each certificate is good. Raises OSError where one is not there."""
    return {name: _certificate(settings, name).not_valid_after_utc for name in tls.NAMES}


def make_authority() -> Authority:
    """Returns a new authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Chirp development authority")])
    signing_only = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    below = x509.NameConstraints([x509.DNSName(tls.DOMAIN)], None)
    certificate = (
        _builder(name, name, key, AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(signing_only, critical=True)
        .add_extension(below, critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority, name: str, lifetime: datetime.timedelta = LIFETIME, *, dns: str = ""
) -> bytes:
    """Returns a new key and its certificate, as PEM, for one of NAMES or another DNS name. With a
    negative lifetime it has expired."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if name not in CLIENTS:
        uses.append(ExtendedKeyUsageOID.SERVER_AUTH)
    certificate = (
        _builder(subject, authority.certificate.subject, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(dns or tls.dns_name(name))]), critical=False
        )
        .sign(authority.key, hashes.SHA256())
    )
    return _pem(key) + certificate.public_bytes(serialization.Encoding.PEM)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: Key, lifetime: datetime.timedelta
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + min(lifetime, datetime.timedelta()) - BACKDATED)
        .not_valid_after(now + lifetime)
    )


def _is_good(settings: Settings, name: str, trusted: bytes) -> bool:
    try:
        certificate = _certificate(settings, name)
        believed = tls.authority_file(settings, name).read_bytes()
    except FileNotFoundError:
        return False
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return believed == trusted and left > RENEW_BEFORE


def _certificate(settings: Settings, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(tls.identity_file(settings, name).read_bytes())


def read_authority(folder: Path) -> Authority:
    """Returns the authority of a folder. Raises OSError where its key is not there."""
    certificate = x509.load_pem_x509_certificate((folder / tls.AUTHORITY_FILE).read_bytes())
    content = (folder / AUTHORITY_KEY_FILE).read_bytes()
    key = serialization.load_pem_private_key(content, password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey), "ours are on P-256"
    return Authority(certificate, key)


def _write_authority(folder: Path, authority: Authority) -> None:
    certificate = authority.certificate.public_bytes(serialization.Encoding.PEM)
    # Its key first: a crash between leaves a key that nobody believes.
    files.replace(folder / AUTHORITY_KEY_FILE, _pem(authority.key), 0o600)
    files.replace(folder / tls.AUTHORITY_FILE, certificate, 0o644)


def _write_identity(settings: Settings, name: str, trusted: bytes, identity: bytes) -> None:
    path = tls.identity_file(settings, name)
    path.parent.mkdir(exist_ok=True, mode=0o700)
    files.replace(tls.authority_file(settings, name), trusted, 0o644)
    files.replace(path, identity, 0o600)


def _pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
