"""What the signer of one channel signs on a stream, vouchers above all, and telling who signed."""

from unhosted.market.channel_events import StateReceived
from unhosted.market.channels import Deployment, SignedVoucher, Voucher
from unhosted.market.eip712 import channels_separator, hello_digest, voucher_digest
from unhosted.market.ids import Address, ChannelId, Signature
from unhosted.market.messages import ChannelState
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

    def state_event(self, state: ChannelState) -> StateReceived:
        """What a seller states at a contact. Its voucher is checked against our own channel; a signature of
        anybody else counts for nothing."""
        shown = state.voucher
        return StateReceived(
            contact=state.contact if state.channel_id == self._of else b"",
            voucher_micros=0 if shown is None else shown.voucher.amount_micros,
            voucher_signer=None if shown is None else self.signed_by(shown),
            due_micros=state.due_micros,
            sequence=state.sequence,
            credit_micros=state.credit_micros,
        )
