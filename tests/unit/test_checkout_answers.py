"""What vaults and helpers say, in every documented shape and in none."""

from __future__ import annotations

import errno
import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pamfs.errors import UnreachableError
from pamfs.model import json_object
from pamfs.sessions.checkout.base import Busy, Denied, Lease, Pending
from pamfs.sessions.checkout.helper import instant_of, read_answer
from pamfs.sessions.checkout.segura_api import (
    CredentialRow,
    VaultRefusal,
    credentials_of,
    decode,
    devices_of,
    expiry_of,
    id_of,
    refusal_of,
    services_of,
)
from tests.fakes.tenants import WEB01

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "response",
                    "exception",
                    "credential",
                    "credentials",
                    "device",
                    "devices",
                    "connectivities",
                    "expiration_time",
                    "id",
                    "username",
                    "hostname",
                    "message",
                    "code",
                    "status",
                    "expires_at",
                    "until",
                ]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=12), JSON, max_size=4) | JSON.filter(
    lambda value: isinstance(value, dict)
)


@given(st.binary(max_size=200))
def test_no_bytes_are_too_strange_to_decode(text: bytes) -> None:
    for reader in (decode, json_object):
        found = reader(text)
        assert found is None or isinstance(found, dict)


@given(OBJECTS, st.integers(100, 599))
def test_no_object_is_too_strange_to_read(body: dict[str, object], status: int) -> None:
    for row in credentials_of(body):
        assert row.id
        assert row.name
        assert row.hostname
    assert all(0 < port < 65536 for _, port in services_of(body))
    assert isinstance(devices_of(body), dict)
    assert isinstance(id_of(body), str)
    assert isinstance(expiry_of(body), float | None)
    refusal = refusal_of(status, body)
    assert refusal is not None or status < 400
    if refusal:
        assert refusal.error("it").code in errno.errorcode


@given(OBJECTS)
def test_no_answer_of_a_helper_is_too_strange_to_read(body: dict[str, object]) -> None:
    answer = read_answer(WEB01, body)
    assert answer is None or isinstance(answer, Lease | Pending | Busy | Denied)


def test_a_secret_is_dropped_while_it_is_decoded() -> None:
    text = b'{"credential": {"id": "5", "password": "s3cr3t", "content": "s3cr3t"}}'
    body = decode(text)
    assert body == {"credential": {"id": "5"}}


def test_deeply_nested_answers_are_no_answers() -> None:
    assert decode(b"[" * 100_000) is None
    assert json_object(b'{"a":' * 100_000) is None


def test_rows_of_both_releases_are_read() -> None:
    new = {
        "id": "39",
        "identifier": "018fcedb",
        "username": "x@gmail.com",
        "hostname": "w2016",
        "type": "SSH Key",
        "automatic_change": False,
    }
    old = {"id": 40, "tag": "t", "username": "root", "hostname": "db", "domain": "corp"}
    incomplete = {"id": "41", "username": "root", "hostname": None}
    body = {"credentials": [new, old, incomplete, "noise"]}
    assert credentials_of(body) == [
        CredentialRow("39", "x@gmail.com", "w2016", is_key=True),
        CredentialRow("40", "root", "db", "corp"),
    ]


@pytest.mark.parametrize(
    ("text", "services"),
    [
        ("HTTP:80,SSH:22,MySQL:65535", [("http", 80), ("ssh", 22), ("mysql", 65535)]),
        (" SSH : 2222 ", [("ssh", 2222)]),
        ("SSH:0,SSH:70000,:22,SSH", []),
        ("", []),
    ],
)
def test_connectivities_are_services(
    text: str, services: list[tuple[str, int]]
) -> None:
    assert services_of({"device": {"connectivities": text}}) == services


def test_an_expiration_is_read_with_and_without_a_zone() -> None:
    def read(text: object) -> float | None:
        return expiry_of({"credential": {"expiration_time": text}})

    zoned = datetime(2021, 1, 16, 20, 31, 39, tzinfo=UTC).timestamp()
    assert read("2021-01-16T17:31:39-03:00") == zoned
    local = datetime(2021, 1, 16, 17, 31, 39).astimezone().timestamp()
    assert read("2021-01-16T17:31:39") == local
    assert read("soon") is None
    assert read(None) is None


def refused(text: str, status: int = 400, code: object = None) -> VaultRefusal:
    body: dict[str, object] = {"response": {"error": True, "message": text}}
    if code is not None:
        body["exception"] = {"code": code, "message": text, "detail": None}
    found = refusal_of(status, json.loads(json.dumps(body)))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (refused("1002: Session not found", code=1002), errno.ESTALE),
        (refused("1004: Missing hostname", code="1004"), errno.EINVAL),
        (refused("1007: Credential not found"), errno.ENOENT),
        (refused("1009: no access", code=1009), errno.EACCES),
        (refused("1017: inactive", code=1017), errno.EACCES),
        (refused("1039: no permission", code=1039), errno.EPERM),
        (refused("1043: already active", code=1043), errno.EEXIST),
        (
            refused("You are not authorized to access this resource.", 500),
            errno.EACCES,
        ),
        (refused("Unexpected error.", 500), errno.EIO),
        (refused("Client authentication failed.", 401), errno.EACCES),
        (refused("Request timed out.", 500), errno.EHOSTUNREACH),
        (refused("", 503), errno.EHOSTUNREACH),
        (refused("slow down", 429), errno.EHOSTUNREACH),
    ],
)
def test_each_documented_error_has_its_errno(refusal: VaultRefusal, code: int) -> None:
    assert refusal.error("it").code == code


def test_a_gateways_own_words_are_heard() -> None:
    refusal = refusal_of(404, {"message": "No route matched with those values."})
    assert refusal is not None
    assert "No route matched" in str(refusal.error("it"))
    no_json = refusal_of(502, None)
    assert no_json is not None
    assert isinstance(no_json.error("it"), UnreachableError)


def test_an_error_in_an_answer_of_status_200_is_an_error() -> None:
    body = {"response": {"status": 200, "erro": True, "mensagem": "1009: nada"}}
    refusal = refusal_of(200, body)
    assert refusal is not None
    assert refusal.number == 1009


@pytest.mark.parametrize(
    ("text", "is_busy", "is_waiting"),
    [
        ("The credential is in custody of another user: bob", True, False),
        ("The access request is waiting for approval", False, True),
        ("The credential is not in the user custody", False, False),
        ("You do not have access to this credential", False, False),
    ],
)
def test_busy_and_waiting_are_told_apart_by_their_words(
    text: str, is_busy: bool, is_waiting: bool
) -> None:
    refusal = refused(text)
    assert (refusal.is_busy, refusal.is_waiting) == (is_busy, is_waiting)
    assert refusal.holder == ("bob" if is_busy else "")


def test_what_a_vault_says_cannot_move_the_cursor() -> None:
    assert "\x1b" not in refused("\x1b[2Jgone").text


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        (1700000000, 1700000000.0),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14T23:13:20+01:00", 1700000000.0),
        ("2023-11-14T22:13:20", None),
        (float("inf"), None),
        (-1, None),
        (True, None),
        ([], None),
    ],
)
def test_a_helpers_instants_are_numbers_or_have_a_zone(
    value: object, instant: float | None
) -> None:
    assert instant_of(value) == instant


def test_each_answer_of_the_contract_is_understood() -> None:
    def read(**reply: object) -> object:
        return read_answer(WEB01, reply)

    assert read(status="granted", id=7, renewable=True) == Lease(
        WEB01, "7", None, is_renewable=True
    )
    assert read(status="granted", id="7", expires_at=5) == Lease(WEB01, "7", 5.0)
    assert read(status="granted", id="7", expires_at="soon") is None
    assert read(status="pending", id="9") == Pending("9")
    assert read(status="pending", id="9", waits_for="bob") == Pending("9", "bob")
    assert read(status="pending") is None
    assert read(status="busy") == Busy()
    assert read(status="busy", holder="eve", until=5) == Busy("eve", 5.0)
    assert read(status="denied", why="no\x1b[2J") == Denied("no [2J")
    assert read(status="GRANTED", id="7") is None
