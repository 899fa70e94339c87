"""A seller's channels and vouchers for tests, with keys that sign."""

from collections.abc import Callable

from tests.node.chain.stage import OPERATOR, OWNER, SELLER
from unhosted.market.channels import (
    ChainId,
    ChannelConfig,
    Deployment,
    SignedVoucher,
    Voucher,
    channel_id,
)
from unhosted.market.eip712 import bonds_separator, channels_separator, voucher_digest
from unhosted.market.ids import Address, ChannelId, ModelHash, RequestId
from unhosted.market.money import Micros
from unhosted.market.receipts import (
    Receipt,
    ReceiptHash,
    Response,
    SignedReceipt,
    encode_response,
    receipt_digest,
    response_hash,
)
from unhosted.market.requests import RequestHash
from unhosted.node.core.chain import ChannelFacts

AT = Deployment(chain_id=ChainId(31337), contract=Address(b"\x22" * 20))
DAY_S = 86_400


def config_of(number: int = 1, *, delay_s: int = DAY_S) -> ChannelConfig:
    return ChannelConfig(
        payer=OWNER.address,
        signer=OPERATOR.address,
        payee=SELLER.address,
        delay_s=delay_s,
        salt=number.to_bytes(32, "big"),
    )


def id_of(number: int = 1) -> ChannelId:
    return channel_id(AT, config_of(number))


def request_id(number: int) -> RequestId:
    return RequestId(number.to_bytes(32, "big"))


def facts(
    deposit_micros: int = 1_000_000,
    *,
    claimed_micros: int = 0,
    close_at_unix_s: int = 0,
    is_closed: bool = False,
) -> ChannelFacts:
    return ChannelFacts(
        deposit_micros=deposit_micros,
        claimed_micros=claimed_micros,
        close_at_unix_s=close_at_unix_s,
        is_closed=is_closed,
    )


def voucher(
    amount_micros: int, config: ChannelConfig | None = None, *, number: int = 1, at: Deployment = AT
) -> SignedVoucher:
    of = channel_id(at, config or config_of(number))
    unsigned = Voucher(channel_id=of, amount_micros=Micros(amount_micros))
    signature = OPERATOR.sign(voucher_digest(channels_separator(at), unsigned))
    return SignedVoucher(voucher=unsigned, signature=signature)


def receipt_maker(
    request: RequestId, amount_micros: int, *, number: int = 1
) -> Callable[[ReceiptHash], SignedReceipt]:
    """Signs a receipt over the amount that follows the channel's last one."""

    def make(previous: ReceiptHash) -> SignedReceipt:
        body = encode_response(
            Response(output_root=bytes(32), finish="stop", engine=bytes(32), check="exact", previous=previous)
        )
        receipt = Receipt(
            request_id=request,
            channel_id=id_of(number),
            model=ModelHash(bytes(32)),
            request_hash=RequestHash(bytes(32)),
            response_hash=response_hash(body),
            tokens_in=1,
            tokens_out=1,
            amount_micros=Micros(amount_micros),
        )
        signature = SELLER.sign(receipt_digest(bonds_separator(AT), receipt))
        return SignedReceipt(receipt=receipt, response=body, signature=signature)

    return make
