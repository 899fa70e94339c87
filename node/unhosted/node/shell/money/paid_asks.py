"""What a buyer asks for on a paid stream: how it is signed, and what the seller looks at before it works.

The buyer signs with its peer identity, not with the channel's key: the body names that key, so whoever holds
the body checks it without chain or channel, and the key for money signs nothing but money. The channel is
bound all the same: its id is in the terms, and only its signer opens a stream for it (`hello`). Two promises
rest on the receipt, which names the body's hash: the buyer cannot change seed, prompt or sampler afterwards,
and the seller cannot deny what it was asked. The third, that a seller cannot put a request into a buyer's
mouth, rests on this signature.
"""

import time
from collections.abc import Callable

import trio

from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.ids import ChannelId, ModelHash, PeerText
from unhosted.market.requests import (
    NO_QUOTE,
    Request,
    check_standing,
    encode_request,
    request_bytes_to_sign,
)
from unhosted.market.roots import ids_root
from unhosted.market.signed import Signed
from unhosted.market.terms import Terms
from unhosted.node.core.errors import Refused
from unhosted.node.core.sampling_words import Sampling, check_verifiable, decode_sampling, encode_sampling
from unhosted.node.shell.money.paid_jobs import Sale
from unhosted.node.shell.money.paid_wire import WorkAsked
from unhosted.node.shell.peers.identity import Identity, verify

IDS_AT_ONCE_MAX = 8_192
"""Token ids whose root is computed between two messages: a millisecond. More are a thread's work."""


class Asking:
    """Makes one buyer's signed requests to one seller. seller: its peer id."""

    def __init__(
        self, identity: Identity, seller: str, *, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self._identity, self._seller, self._clock_ns = identity, seller, clock_ns

    async def prepare(
        self, terms: Terms, *, prompt_ids: tuple[int, ...], model: ModelHash, sampling: Sampling, salt: bytes
    ) -> Callable[[int], WorkAsked]:
        """The request but for its number on the channel, which is known when it is its turn.

        Raises: Refused for what cannot be signed, or would be refused.
        """
        if (fault := check_verifiable(sampling)) is not None:
            raise Refused("invalid_request", f"{fault.message}; leave it out, or ask a machine of your own")
        try:
            words = encode_sampling(sampling)
            root = await _prompt_root(prompt_ids, salt)
        except ValueError as error:
            raise Refused("invalid_request", str(error)) from None

        def make(sequence: int) -> WorkAsked:
            request = Request(
                buyer=PeerText(self._identity.peer),
                seller=PeerText(self._seller),
                quote=NO_QUOTE,
                model=model,
                terms=terms,
                prompt_root=root,
                sampling=words,
                seed=sampling.params.seed,
                channel_sequence=sequence,
                sent_unix_s=self._clock_ns() // 1_000_000_000,
            )
            body = encode_request(request)
            signature = self._identity.sign(request_bytes_to_sign(body))
            signed = Signed(body=body, signature=signature)
            return WorkAsked(signed=signed, request=request, salt=salt, prompt_ids=prompt_ids)

        return make


def check_ask(ask: WorkAsked, *, buyer: str, channel_id: ChannelId, sale: Sale) -> RemoteFault | None:
    """What is wrong with a request at its coming. buyer: the peer at the other end of the stream."""
    request = ask.request
    fault = check_standing(
        request,
        buyer=buyer,
        seller=sale.seller,
        channel_id=channel_id,
        model=sale.model,
        price=sale.price,
    )
    if fault is not None:
        return fault
    try:
        is_signed = verify(request.buyer, request_bytes_to_sign(ask.signed.body), ask.signed.signature)
    except ValueError:
        is_signed = False  # a peer id by its form, and no key
    if not is_signed:
        return RemoteFault(Reason.WRONG_SIGNATURE, "a request that its buyer did not sign")
    try:
        return check_verifiable(decode_sampling(request.sampling, seed=request.seed))
    except RemoteFault as wrong:
        return wrong


async def check_prompt(ask: WorkAsked) -> RemoteFault | None:
    """Whether the ids that came are those that were signed; looked at when they are paid for."""
    if await _prompt_root(ask.prompt_ids, ask.salt) == ask.request.prompt_root:
        return None
    return RemoteFault(Reason.WRONG_TERMS, "the prompt is not the one whose root was signed")


def sampling_of(ask: WorkAsked) -> Sampling:
    """As the request says, with its seed. Raises: RemoteFault, which `check_ask` returned before."""
    return decode_sampling(ask.request.sampling, seed=ask.request.seed)


async def _prompt_root(ids: tuple[int, ...], salt: bytes) -> bytes:
    """Raises: ValueError."""
    if len(ids) <= IDS_AT_ONCE_MAX:
        return ids_root("prompt", ids, salt=salt)
    return await trio.to_thread.run_sync(lambda: ids_root("prompt", ids, salt=salt))
