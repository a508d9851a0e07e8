"""The terminal proxy: SSH towards the operator, and the questions of its login.

``ProxyServer`` translates asyncssh's callbacks into calls of ``Gate``, which decides
without a network (``pamfs.lab.policy``). It never sees the device: a file session is
handed to ``Route``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import asyncssh
from asyncssh.constants import DISC_BY_APPLICATION, DISC_TOO_MANY_CONNECTIONS

from pamfs.lab.policy import (
    BusyError,
    Gate,
    LabSession,
    Outcome,
    UserNameError,
    Verdict,
    parse_login,
)
from pamfs.lab.route import Premises, Route

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pamfs.lab.route import OperatorSide

Challenge = bool | tuple[str, str, str, list[tuple[str, bool]]]


class ProxyServer(asyncssh.SSHServer):
    """One connection of an operator."""

    def __init__(self, premises: Premises) -> None:
        self._premises = premises
        self._conn: asyncssh.SSHServerConnection | None = None
        self._gate: Gate | None = None
        self._session: LabSession | None = None
        self._route: Route | None = None
        self._farewell = ""
        self._reason = ""

    # Connection

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        """Note the connection, and listen for proofs of a key."""
        self._conn = conn
        host, port = conn.get_extra_info("peername")[:2]
        self._premises.audit.write("connection", peer=f"{host}:{port}")
        self._listen_for_proofs(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        """Give everything back."""
        if self._route is not None:
            self._route.close()
        if self._session is not None:
            self._premises.vault.let_out(self._session)
            why = self._reason or (str(exc) if exc else "the operator left")
            self._note("session_closed", reason=why)

    def cut(self, reason: str, code: int = DISC_BY_APPLICATION) -> None:
        """End the connection from the PAM's side (codes: RFC 4253 section 11.1).

        Some clients, asyncssh among them, show no reason with BY_APPLICATION.
        """
        self._reason = reason
        if self._conn is not None:
            self._conn.disconnect(code, reason)

    # Authentication

    def begin_auth(self, username: str) -> bool:
        """Parse the user name; each login needs authentication."""
        try:
            self._gate = Gate(self._premises.vault, parse_login(username))
        except UserNameError as exc:
            self._gate = None
            self._premises.audit.write("auth_failed", why=f"user name: {exc}")
        return True

    def password_auth_supported(self) -> bool:
        """Say whether a password may be tried now."""
        return self._gate is None or self._gate.offers("password")

    def kbdint_auth_supported(self) -> bool:
        """Say whether keyboard-interactive may be tried now."""
        return self._gate is not None and self._gate.offers("keyboard-interactive")

    def public_key_auth_supported(self) -> bool:
        """Say whether a key may be tried now."""
        return self._gate is not None and self._gate.offers("publickey")

    def validate_password(self, username: str, password: str) -> bool:
        """Check a password, and the code that may be behind it."""
        del username
        if self._gate is None:
            return False
        return self._settled(self._gate.give_password(password))

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        """Say whether ``key`` is one of the operator's; its proof comes later."""
        del username
        if self._gate is None or self._gate.operator is None:
            return False
        return any(
            asyncssh.import_public_key(line).public_data == key.public_data
            for line in self._gate.operator.spec.authorized_keys
        )

    def get_kbdint_challenge(
        self, username: str, lang: str, submethods: str
    ) -> Challenge:
        """Ask for what is missing."""
        del username, lang, submethods
        return self._next_challenge()

    def validate_kbdint_response(
        self, username: str, responses: Sequence[str]
    ) -> Challenge:
        """Take one answer; ask on, let in or refuse."""
        del username
        if self._gate is None or len(responses) != 1:
            return False
        outcome = self._gate.give_answer(responses[0])
        if outcome.verdict is Verdict.GO_ON:
            return self._next_challenge()
        return self._settled(outcome)

    def auth_completed(self) -> None:
        """Note the operator; close the connection of one who is refused."""
        if self._gate is None:
            return
        self._note("auth_ok", methods=self._gate.methods)
        if self._farewell:
            self.cut(self._farewell, DISC_TOO_MANY_CONNECTIONS)

    def _listen_for_proofs(self, conn: asyncssh.SSHServerConnection) -> None:
        """Go on after a proven key; asyncssh only asks whether a key is known."""
        validate = conn.validate_public_key

        async def proven(
            username: str, key_data: bytes, msg: bytes, signature: bytes
        ) -> bool:
            valid = await validate(username, key_data, msg, signature)
            if not (valid and msg and self._gate is not None):
                return valid
            return self._settled(self._gate.give_key())

        conn.validate_public_key = proven  # type: ignore[method-assign]  # no hook

    def _next_challenge(self) -> Challenge:
        ask = self._gate.asks() if self._gate is not None else None
        if ask is None:
            return False
        return "", "", "", [(ask.value, ask.name == "REASON")]

    def _settled(self, outcome: Outcome) -> bool:
        """Return whether the authentication is complete; tell what is not."""
        if outcome.verdict is Verdict.LET_IN:
            self._admit()
            return True
        if self._conn is None:
            return False
        if outcome.verdict is Verdict.GO_ON:
            # A partial success (RFC 4252 section 5.1): go on elsewhere.
            self._conn.send_userauth_failure(partial_success=True)
            return False
        if outcome.notice:
            self._conn.send_auth_banner(outcome.notice)
        self._note("auth_failed", why=outcome.why)
        if outcome.has_locked:
            self._note("locked")
        return False

    def _admit(self) -> None:
        gate, vault = self._gate, self._premises.vault
        if gate is None or gate.operator is None or self._conn is None:
            return
        if gate.credential is not None:
            try:
                self._session = vault.let_in(gate.operator, gate.credential, self.cut)
                self._session.reason_given = gate.reason
            except BusyError as exc:
                self._farewell = f"The credential {exc} is in use in another session"
                self._conn.send_auth_banner(f"{self._farewell}.\r\n")
                self._note("refused", why="in use")
        self._route = Route(self._premises, gate, self._session, self.cut)

    # Channels

    def session_requested(self) -> OperatorSide | bool:
        """Give a channel a session, or refuse one too many."""
        if self._route is None:
            return False
        return self._route.offer() or False

    def _note(self, event: str, **facts: str | list[str]) -> None:
        gate = self._gate
        if gate is None:
            return
        self._premises.audit.write(
            event,
            operator=gate.login.operator,
            tenant=gate.tenant,
            target=str(gate.credential or gate.login.wanted or ""),
            session=self._session.number if self._session else None,
            **facts,
        )
