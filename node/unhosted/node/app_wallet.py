"""The wallet as commands use it: keys of this node, its chain, its books. The door to `shell` for them.

Every function that asks the chain raises `Refused` and nothing else: an endpoint that fails is said to be
one, and never looks like a lack of money.
"""

import os
from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from unhosted.market.ids import Address, address_text, parse_address
from unhosted.node.config import Config
from unhosted.node.config_values import is_like_key
from unhosted.node.core.chain import CallReverted, ChainUnavailable
from unhosted.node.core.errors import Refused

if TYPE_CHECKING:  # the chain's code takes a while to import, and `wallet new` needs none of it
    from unhosted.node.shell.chain.adapter import WebChain
    from unhosted.node.shell.chain.chains import ChainEntry
    from unhosted.node.shell.keys.signer import KeySigner
    from unhosted.node.shell.keys.sources import KeySettings, Prompt
    from unhosted.node.shell.wallet.deposits import DepositFiles


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    address: str
    path: str


async def new_key(config: Config, password: str, *, keystore: Path | None = None) -> NewKey:
    """Draw a key into a new file, encrypted. Raises: Refused if the file exists or the password is short."""
    import trio

    from unhosted.node.shell.keys import keystore as files

    path = keystore or key_settings(config).keystore
    address = await trio.to_thread.run_sync(files.create, path, password)
    return NewKey(address=address_text(address), path=str(path))


def check_new_key(config: Config, *, keystore: Path | None = None) -> Path:
    """Where a new key would go. Raises: Refused if there is one: before anybody thinks of a password."""
    from unhosted.node.shell.keys.keystore import exists_already

    path = keystore or key_settings(config).keystore
    if path.exists():
        raise exists_already(path)
    return path


def check_new_password(password: str) -> None:
    """Raises: Refused with the rule."""
    from unhosted.node.shell.keys.keystore import check_new_password as check

    check(password)


def password_from(path: Path) -> str:
    """The line of a password file. Raises: Refused."""
    from unhosted.node.shell.keys.sources import read_password

    return read_password(path)


def hide_keys() -> None:
    """From here on no log line and no traceback of this process shows a key."""
    from unhosted.node.shell.keys.log_filter import install

    install()


def key_settings(config: Config) -> "KeySettings":
    from unhosted.node.shell.keys.sources import KeySettings

    named, password_file = config.wallet_keystore, config.wallet_password_file
    return KeySettings(
        keystore=Path(named).expanduser() if named else config.paths.wallet_file,
        is_keystore_named=bool(named),
        password_file=Path(password_file).expanduser() if password_file else None,
    )


def chain_entry(config: Config) -> "ChainEntry":
    """The chain of the settings. Raises: Refused that names those there are."""
    from unhosted.node.shell.chain.chains import chain_by_name

    return chain_by_name(config.chain_name)


def check_acknowledged(config: Config) -> None:
    """Raises: Refused unless it is a test chain, or the user took the risk of contracts without an audit."""
    entry = chain_entry(config)
    if not entry.is_test and not config.wallet_accept_unaudited_contracts:
        raise Refused(
            "not_supported",
            f"{entry.title} is real money, and nobody outside the project has audited the contracts: try "
            "`--chain base-sepolia` or `unhosted devnet` first. Whoever accepts the risk, of at most "
            "wallet.max-total-deposit-usd: `unhosted config set wallet.accept-unaudited-contracts true`",
            field="wallet.accept-unaudited-contracts",
        )


@dataclass(slots=True, kw_only=True)
class WalletKeys:
    """This node's own keys, unlocked when they are needed first, and at most once.

    prompt: None where nobody can be asked.
    """

    config: Config
    chain_id: int
    environ: MutableMapping[str, str] = field(default_factory=lambda: os.environ, repr=False)
    prompt: "Prompt | None" = None
    _operator: "KeySigner | None" = field(default=None, repr=False)

    async def operator(self) -> "KeySigner":
        """Raises: Refused (wallet_missing, wallet_locked, key_refused)."""
        from unhosted.node.shell.keys.sources import load_operator

        if self._operator is None:
            self._operator = await load_operator(
                key_settings(self.config), chain_id=self.chain_id, environ=self.environ, prompt=self.prompt
            )
        return self._operator

    async def operator_address(self) -> Address:
        """Without the password where the key's file says it."""
        from unhosted.node.shell.keys import keystore
        from unhosted.node.shell.keys.sources import OPERATOR_VARIABLE

        settings = key_settings(self.config)
        is_raw = OPERATOR_VARIABLE in self.environ and not settings.is_keystore_named
        if self._operator is None and not is_raw:
            stated = keystore.read(settings.keystore).address
            if stated is not None:
                return stated
        return (await self.operator()).address

    def development_owner(self) -> "KeySigner | None":
        """The owner's key, which lies open on the local chain alone."""
        from unhosted.node.shell.keys.sources import OWNER_VARIABLE, load_raw

        return load_raw(OWNER_VARIABLE, chain_id=self.chain_id, environ=self.environ)


def owner_address(config: Config, given: str | None = None) -> Address:
    """Whose USDC pays. Raises: Refused that says where to name it, or that everybody has its key."""
    from unhosted.node.shell.keys.published import LOCAL_CHAIN_ID, is_published_address

    text = given or config.wallet_owner
    if not text:
        raise Refused(
            "wallet_missing",
            "no owner is named: the address whose USDC pays, and whose key stays off this node; "
            "`unhosted config set wallet.owner 0x…`, or --owner",
            field="wallet.owner",
        )
    if is_like_key(text):
        raise Refused(
            "key_refused",
            "--owner takes an address, and what was given looks like a private key: it was shown to every "
            "user of this machine and is in the shell's history, so move its money and use it no more",
            field="owner",
        )
    try:
        owner = parse_address(text)
    except ValueError as error:
        raise Refused("invalid_request", f"--owner: {error}", field="owner") from None
    if chain_entry(config).chain_id != LOCAL_CHAIN_ID and is_published_address(owner):
        raise Refused(
            "key_refused", f"the key of {text} is published: whatever it gets is taken at once; use another"
        )
    return owner


def deposit_files(config: Config) -> "DepositFiles":
    from unhosted.node.shell.wallet.deposits import DepositFiles

    return DepositFiles(config.paths.deposits_dir)


@asynccontextmanager
async def wallet_chain(config: Config) -> "AsyncIterator[WebChain]":
    """The chain of the settings, checked to be it, for as long as the context lasts.

    Raises: Refused (offline, chain_unavailable, chain_mismatch), also out of the block; invalid_request for
    what the contract does not take.
    """
    if config.offline:
        raise Refused("offline", "the chain is outside this machine and --offline forbids it: leave that out")
    try:
        async with _open_chain(config) as chain:
            yield chain
    except (ChainUnavailable, CallReverted, BaseExceptionGroup) as error:
        found = _chain_fault(error)
        if found is None:
            raise
        if isinstance(found, CallReverted):
            raise Refused(
                "invalid_request", f"the chain does not take it: {found}; look with `unhosted wallet show`"
            ) from None
        raise Refused("chain_unavailable", str(found)) from None


@asynccontextmanager
async def _open_chain(config: Config) -> "AsyncIterator[WebChain]":
    from unhosted.node.shell.chain.adapter import open_chain

    entry = chain_entry(config)
    path = config.paths.transactions_file
    async with open_chain(entry, config.chain_rpc_urls, journal_path=path) as chain:
        yield chain


def _chain_fault(error: BaseException) -> ChainUnavailable | CallReverted | None:
    """What the endpoints or the contract did, if that is all that went wrong. An endpoint's fault says
    nothing about funds."""
    if isinstance(error, BaseExceptionGroup):
        matching, rest = error.split((ChainUnavailable, CallReverted))
        return _chain_fault(error.exceptions[0]) if matching is not None and rest is None else None
    return error if isinstance(error, ChainUnavailable | CallReverted) else None
