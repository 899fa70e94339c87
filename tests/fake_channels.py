"""The rules of `Channels` and of the token in plain Python: what `fake_chain` runs, and simulations may.

Names, order of checks and values of errors are the contract's, so that a caller cannot tell them apart;
tests/node/chain/chain_contract.py holds both to that. Not here: contract wallets (ERC-1271), hostile tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from unhosted.market.channels import DELAY_S_MAX, DELAY_S_MIN, ChannelConfig, Deployment, Voucher, channel_id
from unhosted.market.eip712 import (
    TokenDomain,
    allocate_digest,
    channels_separator,
    close_digest,
    deposit_nonce,
    permit_digest,
    receive_digest,
    request_close_digest,
    voucher_digest,
)
from unhosted.market.ids import ZERO_ADDRESS, Address, ChannelId, Digest
from unhosted.market.money import AMOUNT_MICROS_MAX, Micros
from unhosted.market.months import month_of
from unhosted.node.core.chain import AccountFacts, ChannelFacts

Recover = Callable[[Digest, bytes], Address | None]
Said = list[tuple[str, dict[str, object]]]

EMPTY_ACCOUNT = AccountFacts(free_micros=0, operator=ZERO_ADDRESS, limit_micros=0, used_micros=0, month=0)
EMPTY_CHANNEL = ChannelFacts(deposit_micros=0, claimed_micros=0, close_at_unix_s=0, is_closed=False)


class Reverted(Exception):
    """A contract's error: its name and its values in the ABI's order and under its names."""

    def __init__(self, error: str, **values: object) -> None:
        super().__init__(error)
        self.error = error
        self.values = values


@dataclass(slots=True, kw_only=True)
class Token:
    """USDC: the part of it that channels touch."""

    domain: TokenDomain
    balances: dict[Address, int] = field(default_factory=dict)
    allowances: dict[tuple[Address, Address], int] = field(default_factory=dict)
    nonces: dict[Address, int] = field(default_factory=dict)
    used: set[tuple[Address, bytes]] = field(default_factory=set)
    blacklisted: set[Address] = field(default_factory=set)
    is_paused: bool = False

    def move(self, source: Address, to: Address, value: int) -> None:
        if source in self.blacklisted or to in self.blacklisted:
            raise _said("Blacklistable: account is blacklisted")
        if value > self.balances.get(source, 0):
            raise _said("ERC20: transfer amount exceeds balance")
        self.balances[source] = self.balances.get(source, 0) - value
        self.balances[to] = self.balances.get(to, 0) + value

    def transfer(self, sender: Address, to: Address, value: int) -> None:
        self._check_live(sender)
        self.move(sender, to, value)

    def transfer_from(self, sender: Address, source: Address, to: Address, value: int) -> None:
        self._check_live(sender)
        allowed = self.allowances.get((source, sender), 0)
        if value > allowed:
            raise _said("ERC20: transfer amount exceeds allowance")
        self.move(source, to, value)
        self.allowances[source, sender] = allowed - value

    def approve(self, sender: Address, spender: Address, value: int) -> None:
        if self.is_paused:
            raise _said("Pausable: paused")
        self.allowances[sender, spender] = value

    def _check_live(self, sender: Address) -> None:
        if self.is_paused:
            raise _said("Pausable: paused")
        if sender in self.blacklisted:
            raise _said("Blacklistable: account is blacklisted")


@dataclass(slots=True, kw_only=True)
class Channels:
    """The contract's storage and functions. A function is all or nothing only in the hands of `fake_chain`,
    which runs it on a copy. recover: who signed a digest, or None."""

    at: Deployment
    token: Token
    recover: Recover
    accounts: dict[Address, AccountFacts] = field(default_factory=dict)
    channels: dict[ChannelId, ChannelFacts] = field(default_factory=dict)
    credits: dict[Address, int] = field(default_factory=dict)
    said: Said = field(default_factory=list)
    now_unix_s: int = 0

    def account(self, payer: Address) -> AccountFacts:
        return self.accounts.get(payer, EMPTY_ACCOUNT)

    def channel(self, number: ChannelId) -> ChannelFacts:
        return self.channels.get(number, EMPTY_CHANNEL)

    def deposit(self, sender: Address, value: int) -> None:
        self.token.transfer_from(self.at.contract, sender, self.at.contract, value)
        self._credit(sender, value)

    def deposit_with_permit(self, sender: Address, value: int, deadline: int, sig: bytes) -> None:
        nonce = self.token.nonces.get(sender, 0)
        permit = permit_digest(
            self.token.domain,
            owner=sender,
            spender=self.at.contract,
            value_micros=value,
            nonce=nonce,
            deadline_unix_s=min(deadline, (1 << 40) - 1),
        )
        if not self.token.is_paused and deadline >= self.now_unix_s and self.recover(permit, sig) == sender:
            self.token.nonces[sender] = nonce + 1
            self.token.allowances[sender, self.at.contract] = value
        self.deposit(sender, value)

    def deposit_with_authorization(
        self, payer: Address, values: Mapping[str, int], *, operator: Address, salt: bytes, sig: bytes
    ) -> None:
        """values: value, valid_after, valid_before and limit."""
        nonce = deposit_nonce(operator, limit_micros=values["limit"], salt=salt)
        token, here = self.token, self.at.contract
        if token.is_paused:
            raise _said("Pausable: paused")
        if self.now_unix_s <= values["valid_after"]:
            raise _said("FiatTokenV2: authorization is not yet valid")
        if self.now_unix_s >= values["valid_before"]:
            raise _said("FiatTokenV2: authorization is expired")
        if (payer, nonce) in token.used:
            raise _said("FiatTokenV2: authorization is used or canceled")
        signed = receive_digest(
            token.domain,
            payer=payer,
            payee=here,
            value_micros=values["value"],
            valid_after_unix_s=values["valid_after"],
            valid_before_unix_s=values["valid_before"],
            nonce=nonce,
        )
        if len(sig) != 65:
            raise _said("ECRecover: invalid signature length")
        if self.recover(signed, sig) != payer:
            raise _said("FiatTokenV2: invalid signature")
        token.used.add((payer, nonce))
        token.move(payer, here, values["value"])
        self._credit(payer, values["value"])
        if operator != ZERO_ADDRESS:
            self.set_operator(payer, operator, values["limit"])

    def set_operator(self, sender: Address, operator: Address, limit: int) -> None:
        self.accounts[sender] = replace(self.account(sender), operator=operator, limit_micros=limit)
        self._say("OperatorSet", payer=sender, operator=operator, limit=limit)

    def withdraw(self, sender: Address, value: int) -> None:
        self._spend(sender, value)
        self._say("Withdrawn", payer=sender, value=value)
        self.token.transfer(self.at.contract, sender, value)

    def allocate(
        self, sender: Address, config: ChannelConfig, total: int, valid_before: int, sig: bytes
    ) -> None:
        self._check_payee(config)
        number = channel_id(self.at, config)
        channel = self.channel(number)
        if channel.is_closed:
            raise Reverted("ChannelIsClosed", id=number)
        if channel.close_at_unix_s:
            raise Reverted("ChannelIsClosing", id=number, closeAt=channel.close_at_unix_s)
        if total <= channel.deposit_micros:
            raise Reverted("NotIncreasing", total=total, deposit=channel.deposit_micros)
        value = total - channel.deposit_micros
        if sender != config.payer:
            signed = allocate_digest(
                channels_separator(self.at), number, total_micros=total, valid_before_unix_s=valid_before
            )
            if self._is_by_operator(config.payer, number, signed, valid_before, sig):
                self._use_limit(config.payer, value)
        self._spend(config.payer, value)
        self.channels[number] = replace(channel, deposit_micros=total)
        self._say(
            "Allocated",
            id=number,
            payer=config.payer,
            payee=config.payee,
            signer=config.signer,
            delay=config.delay_s,
            salt=config.salt,
            total=total,
        )

    def claim(self, payee: Address, rows: list[tuple[ChannelConfig, int, bytes]], pay_out: bool) -> None:
        total = closed = 0
        for config, amount, sig in rows:
            if config.payee != payee:
                raise Reverted("NotAllowed", payee=payee, rowPayee=config.payee)
            number = channel_id(self.at, config)
            channel = self.channel(number)
            if channel.is_closed:
                closed += 1
            elif amount > channel.claimed_micros:
                self._check_voucher(channel, number, config.signer, amount, sig)
                self.channels[number] = replace(channel, claimed_micros=amount)
                total += amount - channel.claimed_micros
                self._say("Claimed", id=number, amount=amount)
        if rows and closed == len(rows):
            raise Reverted("ChannelIsClosed", id=channel_id(self.at, rows[0][0]))
        self.credits[payee] = self.credits.get(payee, 0) + total
        if pay_out:
            self.payout(payee)

    def payout(self, payee: Address) -> None:
        value = self.credits.pop(payee, 0)
        if value:
            self._say("Paid", payee=payee, value=value)
            self.token.transfer(self.at.contract, payee, value)

    def close(
        self, sender: Address, config: ChannelConfig, amount: int, voucher_sig: bytes, payee_sig: bytes
    ) -> None:
        number = channel_id(self.at, config)
        channel = self._open(number)
        if sender != config.payee:
            signed = close_digest(channels_separator(self.at), number, amount_micros=amount)
            self._check_signer(config.payee, number, signed, payee_sig)
        if amount > channel.claimed_micros:
            self._check_voucher(channel, number, config.signer, amount, voucher_sig)
            self.credits[config.payee] = self.credits.get(config.payee, 0) + amount - channel.claimed_micros
            channel = replace(channel, claimed_micros=amount)
        self._finish(number, channel, config.payer)

    def request_close(self, sender: Address, config: ChannelConfig, valid_before: int, sig: bytes) -> None:
        number = channel_id(self.at, config)
        channel = self._open(number)
        if channel.close_at_unix_s:
            raise Reverted("ChannelIsClosing", id=number, closeAt=channel.close_at_unix_s)
        if sender not in (config.payer, self.account(config.payer).operator):
            signed = request_close_digest(
                channels_separator(self.at), number, valid_before_unix_s=valid_before
            )
            self._is_by_operator(config.payer, number, signed, valid_before, sig)
        close_at = self.now_unix_s + config.delay_s
        self.channels[number] = replace(channel, close_at_unix_s=close_at)
        self._say("CloseRequested", id=number, payee=config.payee, closeAt=close_at)

    def finalize_close(self, config: ChannelConfig) -> None:
        number = channel_id(self.at, config)
        channel = self._open(number)
        if not channel.close_at_unix_s or self.now_unix_s < channel.close_at_unix_s:
            raise Reverted("NotReady", closeAt=channel.close_at_unix_s, timestamp=self.now_unix_s)
        self._finish(number, channel, config.payer)

    def _say(self, name: str, **values: object) -> None:
        self.said.append((name, values))

    def _credit(self, payer: Address, value: int) -> None:
        account = self.account(payer)
        room = AMOUNT_MICROS_MAX - account.free_micros
        if value > room:
            raise Reverted("OverMaximum", value=value, maximum=room)
        self.accounts[payer] = replace(account, free_micros=account.free_micros + value)
        self._say("Deposited", payer=payer, value=value)

    def _spend(self, payer: Address, value: int) -> None:
        account = self.account(payer)
        if value > account.free_micros:
            raise Reverted("OverFree", value=value, free=account.free_micros)
        self.accounts[payer] = replace(account, free_micros=account.free_micros - value)

    def _use_limit(self, payer: Address, value: int) -> None:
        account = self.account(payer)
        month = month_of(self.now_unix_s)
        used = account.used_micros if account.month == month else 0
        left = max(0, account.limit_micros - used)
        if value > left:
            raise Reverted("OverLimit", value=value, left=left)
        self.accounts[payer] = replace(account, used_micros=used + value, month=month)

    def _open(self, number: ChannelId) -> ChannelFacts:
        channel = self.channel(number)
        if channel.is_closed:
            raise Reverted("ChannelIsClosed", id=number)
        if not channel.deposit_micros:
            raise Reverted("ChannelIsNotOpen", id=number)
        return channel

    def _finish(self, number: ChannelId, channel: ChannelFacts, payer: Address) -> None:
        refund = channel.deposit_micros - channel.claimed_micros
        self.channels[number] = replace(channel, is_closed=True)
        account = self.account(payer)
        self.accounts[payer] = replace(account, free_micros=account.free_micros + refund)
        self._say("Closed", id=number, claimed=channel.claimed_micros, refund=refund)

    def _check_payee(self, config: ChannelConfig) -> None:
        is_ours = config.payee in (self.at.contract, self.token.domain.contract)
        if is_ours or not DELAY_S_MIN <= config.delay_s <= DELAY_S_MAX:
            words = (config.payer, config.signer, config.payee, config.delay_s, config.salt)
            raise Reverted("BadConfig", cfg=words)

    def _check_voucher(
        self, channel: ChannelFacts, number: ChannelId, signer: Address, amount: int, sig: bytes
    ) -> None:
        if amount > channel.deposit_micros:
            raise Reverted("OverDeposit", id=number, amount=amount, deposit=channel.deposit_micros)
        voucher = Voucher(channel_id=number, amount_micros=Micros(amount))
        recovered = self.recover(voucher_digest(channels_separator(self.at), voucher), sig)
        if recovered != signer:
            raise Reverted("BadSig", id=number, expected=signer, recovered=recovered or ZERO_ADDRESS)

    def _is_by_operator(
        self, payer: Address, number: ChannelId, signed: Digest, valid_before: int, sig: bytes
    ) -> bool:
        if self.now_unix_s > valid_before:
            raise Reverted("Expired", validBefore=valid_before, timestamp=self.now_unix_s)
        recovered = self.recover(signed, sig)
        if recovered is not None and recovered == self.account(payer).operator:
            return True
        self._check_signer(payer, number, signed, sig)
        return False

    def _check_signer(self, account: Address, number: ChannelId, signed: Digest, sig: bytes) -> None:
        recovered = self.recover(signed, sig)
        if recovered is None or recovered != account:
            raise Reverted("BadSig", id=number, expected=account, recovered=recovered or ZERO_ADDRESS)


def _said(reason: str) -> Reverted:
    return Reverted("Error", reason=reason)
