"""Logs in to a proxy over the wire of the target (today: SFTP over SSH), as configured.

    WireLogins(Wires(bridge, nursery), prompter=build_chain(...), codes=Codes(...))

``login.secrets`` holds the secrets and decides about each try; the wire's ``Dialer``
runs the protocol. Law: what a cancelled login has opened is closed, and no secret
outlives the login.
"""

from __future__ import annotations

import trio

from pamfs.errors import LoginError
from pamfs.sessions.account.codes import Codes
from pamfs.sessions.account.turn import Account
from pamfs.sessions.answers import Answers
from pamfs.sessions.attempt import Attempt, Limit, Link
from pamfs.sessions.login.secrets import LoginSecrets
from pamfs.sessions.prompts import Prompter
from pamfs.transport.base import LoginTry
from pamfs.transport.wires import Dialer, WireLink, Wires


class WireLogins:
    """Makes the logins of a mount, each over the wire of its target."""

    def __init__(self, wires: Wires, *, prompter: Prompter, codes: Codes) -> None:
        self._wires = wires
        self._answers = Answers(prompter)
        self._codes = codes

    async def pardon(self, account: Account) -> None:
        """Forget the refusals of ``account`` that are on disk."""
        self._note_former(account)
        await self._codes.ledger.pardon(account.key)

    def begin(self, attempt: Attempt, account: Account) -> WireLogin:
        """Return a login that has done nothing yet; raise if no wire serves it."""
        wire = self._wires.of(attempt.target)
        self._note_former(account)
        login_secrets = LoginSecrets(attempt, self._answers, self._codes, account)
        dialer = wire.begin(attempt.tenant, attempt.target)
        has_host_key = wire.has_host_key
        return WireLogin(attempt, login_secrets, dialer, has_host_key=has_host_key)

    def _note_former(self, account: Account) -> None:
        self._codes.ledger.note_former(account.key, account.former_keys)


class WireLogin:
    """One attempt; a ``steps.ProxyLogin``."""

    def __init__(
        self,
        attempt: Attempt,
        login_secrets: LoginSecrets,
        dialer: Dialer,
        *,
        has_host_key: bool,
    ) -> None:
        self._attempt = attempt
        self._secrets = login_secrets
        self._dialer = dialer
        self.has_host_key = has_host_key

    async def load_keys(self) -> None:
        """Load the keys of the wire; ask for a passphrase if needed."""
        await self._dialer.load_keys(self._secrets.passphrase)

    async def obtain_secrets(self) -> None:
        """Get the password and the code that are sent before the server asks."""
        await self._secrets.check_back_off()
        await self._prepare()

    async def _prepare(self) -> None:
        await self._secrets.prepare_password()
        await self._secrets.prepare_code()
        await self._secrets.begin()

    async def dial(self) -> Link:
        """Dial, log in, and open the file channel.

        Retry with a new code if ``policy`` allows it.
        """
        wire_link = await self._dial_until_settled()
        self._forget()
        link = Link(wire_link.tree, wire_link.host_key, wire_link.wait_lost)
        link.on_close(wire_link.close)
        link.on_close(self._forget_codes)
        return link

    async def _forget_codes(self) -> None:
        self._secrets.forget_codes()

    async def close(self) -> None:
        """Drop every secret, the sent codes included; there is no connection."""
        try:
            with trio.CancelScope(shield=True):
                await self._secrets.end()
        finally:
            self._forget()
            self._secrets.forget_codes()

    def _forget(self) -> None:
        self._secrets.forget()
        self._dialer.forget()

    async def _dial_until_settled(self) -> WireLink:
        while True:
            try:
                link = await self._dial_once()
            except LoginError as exc:
                error = await self._secrets.refused(exc)
                if error is not None:
                    raise error from None
                await self._prepare_again(exc)
            else:
                # The login succeeded: noting that must not undo it.
                with trio.CancelScope(shield=True):
                    await self._secrets.accepted()
                return link

    async def _prepare_again(self, refusal: LoginError) -> None:
        try:
            await self._prepare()
        except LoginError:
            # The refusal counts, whatever stopped the second answer.
            raise self._secrets.explain(refusal) from None

    async def _dial_once(self) -> WireLink:
        self._attempt.deadline.use(Limit.CONNECT)
        secrets = self._secrets
        one = LoginTry(
            user_name=secrets.user_name(),
            is_name_secret=secrets.has_code_in_name,
            responder=secrets,
            scrub=secrets.scrub,
            on_answered=self._attempt.answered,
        )
        return await self._dialer.open(one)
