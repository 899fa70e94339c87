"""How fast one core signs and checks vouchers: `python -m bench.vouchers`; a few seconds."""

import os
import statistics
import sys
import time
from collections.abc import Callable

from bench.common import Report, parser, save
from unhosted.market.channels import ChainId, Deployment, Voucher
from unhosted.market.eip712 import channels_separator, voucher_digest
from unhosted.market.ids import Address, ChannelId
from unhosted.market.money import Micros
from unhosted.node.shell.keys.signer import KeySigner, recover

VOUCHERS = 4_000
"""Of one round: half a second, long enough that the clock does not matter."""


def run(report: Report, *, rounds: int) -> None:
    """The production functions, digest included, one after another on one core."""
    separator = channels_separator(Deployment(chain_id=ChainId(8453), contract=Address(b"\x11" * 20)))
    signer = KeySigner(os.urandom(32))
    channel = ChannelId(os.urandom(32))
    vouchers = [Voucher(channel_id=channel, amount_micros=Micros(700 * n)) for n in range(1, VOUCHERS + 1)]
    signatures = [signer.sign(voucher_digest(separator, voucher)) for voucher in vouchers]

    def sign_all() -> None:
        for voucher in vouchers:
            signer.sign(voucher_digest(separator, voucher))

    def check_all() -> None:
        for voucher, signature in zip(vouchers, signatures, strict=True):
            if recover(voucher_digest(separator, voucher), signature) != signer.address:
                raise AssertionError("a voucher was signed by somebody else")

    works: dict[str, Callable[[], None]] = {"sign": sign_all, "verify": check_all}
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            rates[name].append(VOUCHERS / (time.perf_counter() - started))
    report.title("Vouchers per second on one core (EIP-712 digest and secp256k1)")
    rows = [
        [name, f"{statistics.median(found):,.0f}", f"{min(found):,.0f}–{max(found):,.0f}"]
        for name, found in rates.items()
    ]
    report.table(["", "vouchers/s", "range"], rows)
    report.measurements["vouchers"] = rates


def main() -> int:
    options = parser("Vouchers signed and checked per second.").parse_args()
    report = Report()
    report.machine()
    run(report, rounds=options.rounds)
    save(report, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
