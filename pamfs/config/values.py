"""A checked configuration: records without behaviour.

To add an option of a tenant: a field of the record whose layer reads it, one line
where ``tenants.py`` reads that record, a row in docs/configuration.md (a test compares
them), and the code that uses it. No two records of a tenant have a field of one name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import ClassVar

from pamfs.config.tables import DEFAULT_BYTES, Auditing, Guarding, Prompting
from pamfs.model import Name, Target
from pamfs.naming.dialects import Dialect


class SourceKind(Enum):
    """Where an answer comes from."""

    PROMPT = "prompt"
    COMMAND = "command"
    FILE = "file"
    ENV = "env"
    KEYRING = "keyring"
    CREDENTIAL = "credential"  # systemd's LoadCredential=
    VALUE = "value"  # plain text; allowed for reasons, never for secrets


@dataclass(frozen=True, slots=True)
class AnswerSource:
    """One source of one answer; ``value`` is a path, a command line, a name."""

    kind: SourceKind
    value: str = ""


@dataclass(frozen=True, slots=True)
class KeySource:
    """The only keys that are ever offered: one file, or the agent's."""

    file: Path | None = None
    agent: bool = False
    passphrase: AnswerSource | None = None


class OtpPlace(Enum):
    """Where a one-time code is put on the wire."""

    USER = "user"
    KEYBOARD_INTERACTIVE = "keyboard-interactive"
    PASSWORD = "password"  # noqa: S105 - a place, not a secret
    NONE = "none"


class OtpWhen(Enum):
    """Whether a code that goes out unasked is always sent."""

    ALWAYS = "always"
    LEARN = "learn"  # not while the proxy was seen to need none


class HostKeyPolicy(Enum):
    """What is done about a proxy's host key."""

    ASK = "ask"
    STRICT = "strict"
    ACCEPT_NEW = "accept-new"
    PINNED = "pinned"


class Owner(Enum):
    """The owner that remote files appear to have."""

    ME = "me"
    REMOTE = "remote"


class Ahead(Enum):
    """What is prefetched for a program that walks a tree or copies many files."""

    OFF = "off"
    DIRECTORIES = "directories"
    FILES = "files"


class Quirk(Enum):
    """What a tenant's devices do that pamfs does not assume of any server.

    A name is added here, described in docs/configuration.md, and looked for where
    it matters (``quirks`` of ``SftpTree``).
    """

    # A second open for writing keeps what the file holds.
    SHARED_WRITES = "shared-writes"


class OldAlgorithm(Enum):
    """An SSH algorithm that is offered only where a tenant allows it by name.

    SHA-1 in key exchange, MAC or signature, CBC, and MD5: some old devices have no
    others.
    """

    DH_GROUP14_SHA1 = "diffie-hellman-group14-sha1"
    DH_GEX_SHA1 = "diffie-hellman-group-exchange-sha1"
    DH_GROUP1_SHA1 = "diffie-hellman-group1-sha1"
    SSH_RSA = "ssh-rsa"  # signatures with SHA-1, of the proxy's key and of one's own
    SSH_RSA_CERT = "ssh-rsa-cert-v01@openssh.com"
    SSH_DSS = "ssh-dss"
    AES256_CBC = "aes256-cbc"
    AES192_CBC = "aes192-cbc"
    AES128_CBC = "aes128-cbc"
    TRIPLE_DES_CBC = "3des-cbc"
    HMAC_SHA1_ETM = "hmac-sha1-etm@openssh.com"
    HMAC_SHA1 = "hmac-sha1"
    HMAC_SHA1_96 = "hmac-sha1-96"
    HMAC_MD5 = "hmac-md5"
    HMAC_MD5_96 = "hmac-md5-96"


class Symlinks(Enum):
    """How absolute symbolic links are shown."""

    CONTAIN = "contain"
    AS_IS = "as-is"


@dataclass(frozen=True, kw_only=True)
class ProviderConfig:
    """What the settings of every checkout provider have.

    With ``sends_details`` a request carries the reason of the login, ``ticket`` and
    ``duration_s``; without it nobody is asked for them.
    """

    sends_details: ClassVar[bool] = True

    ticket: AnswerSource | None = None
    duration_s: float | None = None


@dataclass(frozen=True)
class SeguraConfig(ProviderConfig):
    """A Segura vault that hands credentials out over REST; ``*_s`` are seconds.

    ``prefix`` is ``/iso`` up to 3.32 and ``/api`` since 3.33. ``tenant`` is needed
    if the vault is addressed by its IP address (facts/pam.md#segura-vault-token).
    """

    # The interface of an application has no reason and no ticket.
    sends_details: ClassVar[bool] = False

    url: str
    client_id: AnswerSource
    client_secret: AnswerSource
    prefix: str = "/api"
    tenant: str = ""
    ca_file: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    timeout_s: float = 10.0
    refresh_s: float = 300.0


@dataclass(frozen=True)
class HelperConfig(ProviderConfig):
    """A program of the site's choice that checks out and in (docs/checkout.md)."""

    command: str
    timeout_s: float = 30.0


# None: the proxy checks out by itself, and its session is the lease.
CheckoutConfig = SeguraConfig | HelperConfig | None


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """A target that ``ls`` shows, with what differs from its tenant."""

    name: Name
    target: Target
    root: bytes | None = None


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The proxy of a tenant: its address, and how it proves that it is the one.

    Read by ``transport.ssh``. ``host_key`` is the pinned fingerprint (``SHA256:...``),
    set exactly when ``host_keys`` is PINNED.
    """

    host: str
    port: int
    host_keys: HostKeyPolicy = HostKeyPolicy.ASK
    known_hosts: Path | None = None
    host_key: str | None = None
    old_algorithms: tuple[OldAlgorithm, ...] = ()
    keepalive_s: float = 10.0

    @property
    def address(self) -> str:
        """Return ``host:port``, as it is written into logs and keys."""
        return f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LoginConfig:
    """The operator's login: the user name, and what answers the proxy's questions.

    Read by ``sessions.login`` and ``sessions.account``. ``otp`` holds a seed unless its
    kind is PROMPT, which asks a person for the code itself. ``reasons`` are what a
    person chooses from.
    """

    dialect: Dialect
    operator: str
    password: AnswerSource | None = None
    key: KeySource | None = None
    otp: AnswerSource | None = None
    otp_in: OtpPlace = OtpPlace.NONE
    otp_when: OtpWhen = OtpWhen.ALWAYS
    reason: AnswerSource | None = None
    reasons: Sequence[str] = ()
    prompt_timeout_s: float = 120.0


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How long an attempt may take, a session stays, and a target cools down.

    Read by ``sessions.session``.
    """

    connect_timeout_s: float = 30.0
    login_timeout_s: float = 120.0
    cooldown_s: float = 30.0
    idle_close_s: float = 900.0
    reconnect_s: float = 60.0


@dataclass(frozen=True, slots=True)
class FilesConfig:
    """Which targets and files are shown, and how: read by ``vfs`` and the wires."""

    root: bytes = b"/"
    owner: Owner = Owner.ME
    symlinks: Symlinks = Symlinks.AS_IS
    only_listed: bool = False
    targets: tuple[TargetConfig, ...] = ()
    request_timeout_s: float = 60.0
    attr_timeout_s: float = 3.0
    ahead: Ahead = Ahead.FILES
    channels: int = 4
    quirks: frozenset[Quirk] = frozenset()


@dataclass(frozen=True, slots=True)
class TenantConfig:
    """One tenant; ``*_s`` are seconds. Each layer reads the record that is its own."""

    name: str
    proxy: ProxyConfig
    login: LoginConfig
    session: SessionConfig = field(default_factory=SessionConfig)
    files: FilesConfig = field(default_factory=FilesConfig)
    checkout: CheckoutConfig = None


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration file, checked."""

    path: Path
    tenants: dict[str, TenantConfig] = field(default_factory=dict)
    prompts: Prompting = field(default_factory=Prompting)
    guard: Guarding = field(default_factory=Guarding)
    audit: Auditing = field(default_factory=Auditing)
    cache_bytes: int = DEFAULT_BYTES
