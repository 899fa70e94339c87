"""What a signed request says of the sampler, word for word: from the engine's parameters to the bytes that
the buyer signs, and back. One meaning has one encoding, so that a checker years later draws by one rule.

The seed is not among them: it is a field of the request itself.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

from unhosted.market.cbor import CborError, decode, encode
from unhosted.market.faults import Reason, RemoteFault
from unhosted.market.fields import Fields, built, malformed
from unhosted.market.requests import SAMPLING_BYTES_MAX, SAMPLING_DEPTH_MAX, SAMPLING_ITEMS_MAX
from unhosted.market.roots import TOKEN_ID_MAX
from unhosted.node.core.inference import Constraint
from unhosted.verify.params import LOGIT_BIAS_ENTRIES_MAX, TOP_K_MAX, SamplingParams

SAMPLER = "gumbel-v1"
SAMPLER_CHARS_MAX = 40
STOPS_MAX = 32
STOP_CHARS_MAX = 256
SOURCE_CHARS_MAX = 65_536
"""Of a grammar or a schema: the request is signed and kept with it. Usual tools have a tenth of it."""

REPEAT_LAST_MAX = 4_096

REPEAT_PENALTY_CHECKED_MIN = 0.8
"""Below 1 it divides the logits of what was said before, and with them the noise between two engines: by 0.1,
ten times as much, which would look like a cheat. Stakes are such that half as much again convicts nobody."""

ConstraintKind = Literal["json_schema", "json_object", "gbnf"]
KINDS: tuple[str, ...] = get_args(ConstraintKind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """All that decides which token follows, and when the answer ends. params: with the request's seed."""

    params: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    constraint: Constraint | None = None
    ignore_eos: bool = False


def encode_sampling(sampling: Sampling) -> bytes:
    """Canonical CBOR; numbers that are reals stand as floats, exactly. A top_k of 0 stands as what it means.

    Raises: ValueError above a bound.
    """
    data = encode(_words(sampling))
    try:
        decode_sampling(data, seed=sampling.params.seed)
    except RemoteFault as fault:
        raise ValueError(f"these sampling parameters cannot be signed: {fault.message}") from None
    return data


def decode_sampling(data: bytes, *, seed: bytes) -> Sampling:
    """The one meaning of `data`, with the request's seed.

    Raises: RemoteFault, also for bytes that are not the encoding of what they mean, such as a map with a word
    that this version does not know.
    """
    try:
        words = decode(
            data, bytes_max=SAMPLING_BYTES_MAX, depth_max=SAMPLING_DEPTH_MAX, items_max=SAMPLING_ITEMS_MAX
        )
    except CborError as error:
        raise malformed(f"sampling: {error}") from None
    fields = Fields(words, "sampling")
    if (sampler := fields.text("sampler", chars_max=SAMPLER_CHARS_MAX)) != SAMPLER:
        raise RemoteFault(Reason.WRONG_TERMS, f"sampler {sampler!r}: only {SAMPLER} is known here")
    sampling = Sampling(
        params=_params(fields, seed),
        stop=_stops(fields),
        constraint=_constraint(words["constraint"]) if fields.has("constraint") else None,
        ignore_eos=fields.flag("ignore_eos"),
    )
    if encode(_words(sampling)) != data:
        raise malformed("sampling: words that are not known here")
    return sampling


def check_verifiable(sampling: Sampling) -> RemoteFault | None:
    """What a checker could not judge, or only badly, and a seller for money therefore does not take.

    Survivors are at most TOP_K_MAX by the sampler itself. Going on after the end of the text is refused:
    what a model says there is noise, for which nobody measured what is honest. So is a penalty that makes
    the noise of logits larger than any that was measured.
    """
    if sampling.ignore_eos:
        return RemoteFault(Reason.WRONG_TERMS, "ignore_eos: an answer that cannot end cannot be checked")
    if (penalty := sampling.params.repeat_penalty) < REPEAT_PENALTY_CHECKED_MIN:
        return RemoteFault(
            Reason.WRONG_TERMS,
            f"repeat_penalty: {penalty:g} is below {REPEAT_PENALTY_CHECKED_MIN:g}, where rounding grows so"
            " much that an answer cannot be checked",
        )
    return None


def _params(fields: Fields, seed: bytes) -> SamplingParams:
    bias: list[tuple[int, float]] = []
    for pair in fields.items("bias", most=LOGIT_BIAS_ENTRIES_MAX):
        if type(pair) is not list or [type(one) for one in pair] != [int, float]:
            raise fields.wrong("bias", "every entry must be a token id and a float")
        bias.append((pair[0], pair[1]))
    ids = [token_id for token_id, _ in bias]
    if ids != sorted(set(ids)) or any(not 0 <= one <= TOKEN_ID_MAX for one in ids):
        raise fields.wrong("bias", f"token ids must ascend, 0 to {TOKEN_ID_MAX}")
    return built(
        lambda: SamplingParams(
            temperature=fields.number("temperature"),
            top_k=fields.uint("top_k", least=1, most=TOP_K_MAX),
            top_p=fields.number("top_p"),
            min_p=fields.number("min_p"),
            repeat_penalty=fields.number("repeat"),
            repeat_last_tokens=fields.uint("repeat_last", most=REPEAT_LAST_MAX),
            frequency_penalty=fields.number("frequency"),
            presence_penalty=fields.number("presence"),
            logit_bias=tuple(bias),
            seed=seed,
        )
    )


def _stops(fields: Fields) -> tuple[str, ...]:
    stops = fields.items("stop", most=STOPS_MAX)
    if any(type(one) is not str or not 1 <= len(one) <= STOP_CHARS_MAX for one in stops):
        raise fields.wrong("stop", f"every entry must be a text of 1 to {STOP_CHARS_MAX} characters")
    return tuple(stops)


def _constraint(words: object) -> Constraint:
    fields = Fields(words, "sampling.constraint")
    return Constraint(
        kind=cast(ConstraintKind, fields.word("kind", among=KINDS)),
        source=_text(fields, words, "source", SOURCE_CHARS_MAX),
        trigger=_text(fields, words, "trigger", STOP_CHARS_MAX) if fields.has("trigger") else None,
    )


def _text(fields: Fields, words: Any, key: str, chars_max: int) -> str:
    """Any characters, unlike `Fields.text`: grammars have lines."""
    text = words.get(key)
    if type(text) is not str or len(text) > chars_max:
        raise fields.wrong(key, f"must be a text of at most {chars_max} characters")
    return text


def _words(sampling: Sampling) -> dict[str, Any]:
    params, constraint = sampling.params, sampling.constraint
    words: dict[str, Any] = {
        "sampler": SAMPLER,
        "temperature": float(params.temperature),
        "top_k": params.top_k or TOP_K_MAX,
        "top_p": float(params.top_p),
        "min_p": float(params.min_p),
        "repeat": float(params.repeat_penalty),
        "repeat_last": params.repeat_last_tokens,
        "frequency": float(params.frequency_penalty),
        "presence": float(params.presence_penalty),
        "bias": [[token_id, float(bias)] for token_id, bias in params.logit_bias],
        "stop": list(sampling.stop),
        "ignore_eos": sampling.ignore_eos,
    }
    if constraint is not None:
        words["constraint"] = {"kind": constraint.kind, "source": constraint.source}
        if constraint.trigger is not None:
            words["constraint"]["trigger"] = constraint.trigger
    return words
