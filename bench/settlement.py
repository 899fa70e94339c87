"""What settlement costs: `python -m bench.settlement`; gas on a local chain, and dollars from it.

Gas is the chain's, not this machine's: the figures do not vary, and both engines of `devnet` give the same.
"""

import sys
import time
from dataclasses import dataclass, field

from bench.common import Report, parser, save
from tests.devchain import DevChain, dev_chain
from unhosted.market.channels import ChannelConfig, SignedVoucher, Voucher, channel_id
from unhosted.market.eip712 import (
    allocate_digest,
    channels_separator,
    deposit_nonce,
    keccak256,
    receive_digest,
    voucher_digest,
)
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import MICROS_PER_USD, Micros
from unhosted.node.core.chain import Call, ClaimRow
from unhosted.node.shell.chain import calls
from unhosted.node.shell.devnet.engines import choose_engine
from unhosted.node.shell.keys.signer import KeySigner

ROWS = 100
"""Of the large batch: as many as one claim may have."""

GAS_PRICES_GWEI = (0.002, 0.01, 0.05)
"""Base's least base fee, a busy day, five times that. Its fee for layer 1 comes on top: about USD 0.0001."""

ETH_USD = 3_000
CLAIMS_OF_A_CHANNEL = 4
"""Times a seller claims on a channel of USD 1 in its life, in batches, before the close."""

GAS_MAX = 16_000_000
FOR_EVER = 2**39
ALLOCATION = Micros(MICROS_PER_USD)


@dataclass
class Bench:
    """A buyer without ETH, its operator, and a seller who sends everything."""

    chain: DevChain
    gas: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.buyer = KeySigner(self.chain.account("buyer").key)
        self.operator = KeySigner(self.chain.account("operator").key)
        self.seller = self.chain.account("seller").address
        self.at = self.chain.channels
        self.separator = channels_separator(self.at)

    def send(self, name: str, call: Call) -> int:
        receipt = self.chain.send(sender=self.seller, to=call.to, data=call.data, gas=GAS_MAX)
        self.gas[name] = int(receipt["gasUsed"], 16)
        return self.gas[name]

    def config(self, number: int) -> ChannelConfig:
        payer: Address = self.buyer.address
        salt = keccak256(number.to_bytes(32, "big"))  # as costly as a drawn one: its bytes are not zero
        return ChannelConfig(
            payer=payer, signer=self.operator.address, payee=self.seller, delay_s=86_400, salt=salt
        )

    def deposit(self, value_micros: int, salt: bytes) -> Call:
        nonce = deposit_nonce(self.operator.address, limit_micros=value_micros, salt=salt)
        signature = self.buyer.sign(
            receive_digest(
                self.chain.token,
                payer=self.buyer.address,
                payee=self.at.contract,
                value_micros=value_micros,
                valid_after_unix_s=0,
                valid_before_unix_s=FOR_EVER,
                nonce=nonce,
            )
        )
        authorization = calls.DepositAuthorization(
            payer=self.buyer.address,
            value_micros=value_micros,
            valid_after_unix_s=0,
            valid_before_unix_s=FOR_EVER,
            operator=self.operator.address,
            limit_micros=value_micros,
            salt=salt,
            signature=signature,
        )
        return calls.deposit_with_authorization(self.at, authorization)

    def allocate(self, number: int) -> Call:
        config = self.config(number)
        signature = self.operator.sign(
            allocate_digest(
                self.separator,
                channel_id(self.at, config),
                total_micros=ALLOCATION,
                valid_before_unix_s=FOR_EVER,
            )
        )
        return calls.allocate(
            self.at,
            config,
            total_micros=ALLOCATION,
            valid_before_unix_s=FOR_EVER,
            signature=signature,
        )

    def row(self, number: int, amount_micros: int) -> ClaimRow:
        config = self.config(number)
        identity: ChannelId = channel_id(self.at, config)
        voucher = Voucher(channel_id=identity, amount_micros=Micros(amount_micros))
        signature = self.operator.sign(voucher_digest(self.separator, voucher))
        return ClaimRow(config=config, voucher=SignedVoucher(voucher=voucher, signature=signature))

    def measure(self) -> None:
        """A buyer's and a seller's life, each transaction's gas under its name.

        Somebody else deposited before: the first deposit that ever comes to a contract costs 17,100 more.
        """
        other = self.chain.account("second_seller").address
        for call in (
            calls.approve(self.chain.token, self.at.contract, value_micros=1),
            calls.deposit(self.at, value_micros=1),
        ):
            self.chain.send(sender=other, to=call.to, data=call.data)
        first = calls.multicall(
            self.at, [self.deposit(300 * MICROS_PER_USD, b"\1" * 32), self.allocate(0)], purpose="open"
        )
        self.send("deposit and open", first)
        for number in range(1, ROWS):
            self.send("allocate", self.allocate(number))
        rows = [self.row(number, 250_000) for number in range(ROWS)]
        self.send("claim of one row, paid out", calls.claim(self.at, self.seller, rows[:1], payout=True))
        again = [self.row(number, 500_000) for number in range(ROWS)]
        self.send(f"claim of {ROWS} rows", calls.claim(self.at, self.seller, again, payout=False))
        self.send("payout", calls.payout(self.at, self.seller))
        final = self.row(0, 900_000)
        close = calls.close(self.at, final.config, amount_micros=900_000, voucher=final.voucher.signature)
        self.send("cooperative close", close)


def run(report: Report) -> None:
    started = time.monotonic()
    with dev_chain(choose_engine("auto")) as chain:
        bench = Bench(chain)
        bench.measure()
    row_gas = bench.gas[f"claim of {ROWS} rows"] // ROWS
    shown = {**bench.gas, f"one row in a batch of {ROWS}": row_gas}
    life = bench.gas["allocate"] + CLAIMS_OF_A_CHANNEL * row_gas + bench.gas["cooperative close"]
    shown[f"a channel's life: allocate, {CLAIMS_OF_A_CHANNEL} rows, close"] = life
    report.title(f"Gas on TestUSDC, and USD at ETH {ETH_USD:,} USD")
    header = ["transaction", "gas", *(f"{price} gwei" for price in GAS_PRICES_GWEI)]
    rows = [
        [name, f"{gas:,}", *(f"{_usd(gas, price):.4f}" for price in GAS_PRICES_GWEI)]
        for name, gas in shown.items()
    ]
    report.table(header, rows)
    share = 100 * _usd(life, 0.01) / (ALLOCATION / MICROS_PER_USD)
    report.note(
        f"Settlement of a channel of USD 1 at 0.01 gwei: {share:.2f} % of it. The genuine token costs about"
        f" 10,000 gas more at a deposit and 4,000 at a payout. ({time.monotonic() - started:.0f} s)"
    )
    report.measurements["settlement_gas"] = shown


def _usd(gas: int, gwei: float) -> float:
    return gas * gwei * 1e-9 * ETH_USD


def main() -> int:
    options = parser("Gas and cost of settlement.").parse_args()
    report = Report()
    run(report)
    save(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
