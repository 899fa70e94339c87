"""What the signer of one channel signs on a stream, vouchers above all, and telling who signed."""

from unhosted.market.channels import Deployment, SignedVoucher, Voucher
from unhosted.market.eip712 import channels_separator, hello_digest, voucher_digest
from unhosted.market.ids import Address, ChannelId, Signature
from unhosted.market.money import Micros
from unhosted.node.core.chain import Signer
from unhosted.node.shell.keys.signer import recover


class ChannelVouchers:
    def __init__(self, deployment: Deployment, of: ChannelId) -> None:
        self._separator, self._of = channels_separator(deployment), of

    def sign(self, signer: Signer, amount_micros: int) -> SignedVoucher:
        """The same bytes for the same amount, also after a crash."""
        voucher = Voucher(channel_id=self._of, amount_micros=Micros(amount_micros))
        return SignedVoucher(voucher=voucher, signature=signer.sign(voucher_digest(self._separator, voucher)))

    def signed_by(self, signed: SignedVoucher) -> Address | None:
        """Who signed it for this channel; None if nobody can have, or it is for another one."""
        if signed.voucher.channel_id != self._of:
            return None
        return recover(voucher_digest(self._separator, signed.voucher), signed.signature)

    def sign_hello(self, signer: Signer, contact: bytes) -> Signature:
        return signer.sign(hello_digest(self._separator, self._of, contact))

    def hello_by(self, contact: bytes, signature: Signature) -> Address | None:
        """Who opened a stream. All else of a channel can be read on the chain, by anybody."""
        return recover(hello_digest(self._separator, self._of, contact), signature)
