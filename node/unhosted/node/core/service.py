"""The node as its entry points see it: HTTP and the CLI speak these words and know nothing below them."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from unhosted.node.core.inference import (
    Constraint,
    Embeddings,
    FinishReason,
    LoadedModel,
    Priority,
    TokenLogprob,
    Usage,
)
from unhosted.node.core.peering import ModelFacts, PeerStatus
from unhosted.verify.params import SamplingParams

Radius = Literal["local", "trusted", "public"]
Ring = Literal["local", "trusted", "public"]
ToolChoice = Literal["auto", "none", "required"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call that the model asks for. arguments: JSON text, as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn. role: system, developer, user, assistant or tool (call_id says which call it answers)."""

    role: str
    content: str = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function the model may call. parameters: its JSON schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderChoice:
    """Whom the client wants: names or ids of peers, "local" for this machine. order: first ones first.

    allow: nobody else, where it is not None. ignore: never these.
    """

    order: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()


ANY_PROVIDER = ProviderChoice()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What every kind of generation shares. n: how many samples, which share one prefill.

    radius: how far the request may go; None means as far as the node's own setting. flow: whom it is for, in
    the client's own words; flows share an engine fairly.
    """

    sampling: SamplingParams = field(default_factory=SamplingParams)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    n: int = 1
    ignore_eos: bool = False
    use_prefix_cache: bool = True
    constraint: Constraint | None = None
    radius: Radius | None = None
    provider: ProviderChoice = ANY_PROVIDER
    flow: str = ""
    priority: Priority = Priority.OWN


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """tool_choice: auto, none, required, or a tool's name with `forced_tool`."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    forced_tool: str | None = None
    parallel_tool_calls: bool = True
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionRequest:
    """Plain continuation of a prompt, text or token ids; no chat template."""

    model: str
    prompt: str | tuple[int, ...]
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """The first delta of a call carries call_id and name; arguments are to be appended."""

    index: int
    call_id: str | None = None
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta:
    """What one step gave one choice; finish and usage stand on that choice's last delta alone."""

    choice: int = 0
    text: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: FinishReason | Literal["tool_calls"] | None = None
    stop_text: str | None = None
    usage: Usage | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who answered, in which ring and why, and the cost. Ring and reason are known before the first token.

    passed_over: who was not asked, or failed before the first token, and why, one line each. resumed_on: who
    went on with the answer after a failure in mid-stream, in order; known when the answer ends.
    """

    ring: Ring
    served_by: str
    reason: str
    cost_micros: int = 0
    receipt: str | None = None
    check: str = "not-needed"
    passed_over: tuple[str, ...] = ()
    resumed_on: tuple[str, ...] = ()


class AnswerStream(Protocol):
    """An accepted request. Iterate it to the end, or leave its context to cancel."""

    @property
    def provenance(self) -> Provenance: ...

    @property
    def model(self) -> str: ...

    def __aiter__(self) -> AsyncIterator[AnswerDelta]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEntry:
    """A model in the store, as `list` and /v1/models show it."""

    name: str
    aliases: tuple[str, ...]
    size_bytes: int
    blake3: str
    architecture: str
    parameters: int | None
    quantization: str
    context_tokens: int
    licence: str | None
    source: str
    created_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingView:
    """A pairing under way, as both screens show it. code: short, for the same network;
    address_code: with the addresses and the peer id in it, for elsewhere and for the QR; both are on the side
    that offers alone.

    state: waiting (for the other side), confirm (both codes agree: this user is to look at `other_name` and
    say yes), confirmed (the other's user is asked), paired, failed (reason says why and what to do next).
    """

    pairing_id: str
    state: Literal["waiting", "confirm", "confirmed", "paired", "failed"]
    code: str | None
    address_code: str | None
    expires_in_s: int
    tries_left: int
    other_peer: str | None
    other_name: str | None
    reason: str


class WalletPage(Protocol):
    """Deposits that wait for the owner's signature. Each is JSON-ready: `core.funding.to_json` with
    `is_signed` in place of the signature."""

    async def waiting(self) -> Sequence[Mapping[str, object]]:
        """Oldest first."""
        ...

    async def sign(self, deposit_id: str, signature: bytes) -> Mapping[str, object]:
        """Take the owner's signature, once it is right. Raises: Refused."""
        ...


class ChecksPage(Protocol):
    """What was paid for, and whether it was what was sold. Each mapping is JSON-ready."""

    async def receipts(
        self, *, limit: int, before: int | None = None, seller: str | None = None
    ) -> Sequence[Mapping[str, object]]:
        """Newest first; `before`: those with a smaller number. seller: as `sellers` takes it."""
        ...

    async def receipt(self, wanted: str) -> Mapping[str, object]:
        """wanted: a receipt's hash or a request's id in hex, or enough of its start. Raises: Refused."""
        ...

    async def sellers(self, seller: str | None = None) -> Sequence[Mapping[str, object]]:
        """What is known of each seller and model. seller: a peer id, or enough of its start or end.

        Raises: Refused, where it names none or several.
        """
        ...

    async def check(self, seller: str | None = None, *, wait: bool = False) -> Mapping[str, object]:
        """Read again what was not, drawn or not. wait: until it is done. Raises: Refused."""
        ...

    async def ask_peer(self, peer: str, file: str, *, evidence: str) -> Mapping[str, object]:
        """Have a paired peer read evidence again, for its signed word. peer: an id, a part of one, or a name.

        evidence: hash of the file that the user agreed to show it, in hex. Raises: Refused.
        """
        ...

    async def forgive(self, seller: str) -> Mapping[str, object]:
        """Start again with a seller and all its models, as if nothing was known of them. Raises: Refused."""
        ...


class Node(Protocol):
    """The program's one service object; `unhosted.node.app` builds it."""

    @property
    def name(self) -> str: ...

    @property
    def offline(self) -> bool: ...

    @property
    def wallet(self) -> WalletPage: ...

    @property
    def checks(self) -> ChecksPage: ...

    def open_chat(self, request: ChatRequest) -> AbstractAsyncContextManager[AnswerStream]:
        """Raises Refused on entering; see `Engines.open_stream`."""
        ...

    def open_completion(self, request: CompletionRequest) -> AbstractAsyncContextManager[AnswerStream]: ...

    async def embed(
        self,
        model: str,
        inputs: Sequence[str | tuple[int, ...]],
        *,
        radius: Radius | None = None,
        provider: ProviderChoice = ANY_PROVIDER,
    ) -> Embeddings:
        """radius and provider: as in `Options`."""
        ...

    async def count_tokens(self, request: ChatRequest) -> int: ...

    def models(self) -> tuple[ModelEntry, ...]:
        """Those on this machine."""
        ...

    def peer_models(self) -> tuple[tuple[ModelFacts, tuple[str, ...]], ...]:
        """Models that only reachable paired peers have, each with the names of those that have it."""
        ...

    async def pull(
        self, model: str, progress: Callable[[Mapping[str, object]], None], *, name: str | None = None
    ) -> ModelEntry:
        """Fetch a model into the store, as `name` if one is given. progress: told `PullProgress`, JSON-ready.

        Cancelled, it keeps what has arrived for the next time. Raises: Refused.
        """
        ...

    def loaded(self) -> tuple[LoadedModel, ...]: ...

    async def load(self, model: str) -> LoadedModel: ...

    async def unload(self, model: str) -> bool: ...

    def status(self) -> Mapping[str, object]:
        """JSON-ready: version, uptime_s, offline, refused_connections, rings, models, queue."""
        ...

    def metrics(self) -> str:
        """Prometheus text exposition, OpenTelemetry GenAI names."""
        ...

    def peers(self) -> tuple[PeerStatus, ...]:
        """Paired peers first, then those that were only seen on this network."""
        ...

    async def offer_pairing(self) -> PairingView:
        """Make a one-time code that another machine may use. Raises: Refused (offline, not_supported)."""
        ...

    async def join_pairing(self, code: str) -> PairingView:
        """Use a code that another machine shows. Raises: Refused, also for a text that is no code."""
        ...

    def pairing(self, pairing_id: str) -> PairingView: ...

    async def confirm_pairing(self, pairing_id: str, *, accept: bool) -> PairingView:
        """This side's user has seen the other's name and says yes or no."""
        ...

    async def cancel_pairing(self, pairing_id: str) -> None: ...

    async def unpair(self, peer: str) -> PeerStatus:
        """peer: an id, the start of one, or a name that is unambiguous. Takes effect at once, there too."""
        ...

    async def allow_peer(self, peer: str, changes: Mapping[str, object]) -> PeerStatus:
        """Change capabilities: fields of `Capabilities` by name. Raises: Refused that names the field."""
        ...

    async def wait_change(self, after: int) -> int:
        """The number of the newest change of peers or pairings, as soon as it is above `after`.

        The first is 1, so that 0 gives at once the number of now.
        """
        ...

    async def set_draining(self, draining: bool) -> None:
        """Draining: requests under way end, no new ones are taken from peers."""
        ...

    async def ready(self) -> tuple[bool, str]:
        """Whether a request could be answered now, and why not."""
        ...
