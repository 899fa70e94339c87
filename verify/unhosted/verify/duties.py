"""Which answers a third-party checker has to read, and whether it did: drawn by a secret fixed beforehand.

A buyer draws for itself (`selection`). Who checks for others must show afterwards that it read all that fell
to it and nothing that it fancied, and that it read, instead of saying what others said.

1. At the start of an epoch a checker publishes a promise: the hash of a secret, and its rate.
2. A receipt is its duty exactly if H(secret, receipt, beacon) < rate * 2^256. The beacon is public randomness
   of after the receipt, where there is some: without it a seller that knows the secret could choose receipts
   that are nobody's duty.
3. Of each duty the checker commits to its result by a salted hash that has its name in it, before anybody
   opens one. When the first is opened, no commitment is taken any more: nothing can be copied.
4. At the end it opens secret and results. Anybody computes the duties anew; one that is missing, one too
   many, or a result that was not committed voids the whole epoch: none of its words counts.
5. Among the receipts are plants, whose truth is known to who planted them and opened after the results. A
   checker that does not run the model cannot tell them from others, and fails.

Results are integers; hashes are BLAKE3 over fields of fixed length or with their length before them.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

PPM = 1_000_000
HASH_BYTES = 32
SECRET_BYTES = 32
BEACON_BYTES_MAX = 64
CHECKER_BYTES_MAX = 64

RECEIPTS_MAX = 1 << 20
"""Of an epoch, duties or not: whoever follows a checker hashes each of them once."""

DUTIES_MAX = 1 << 14
"""Of one checker in one epoch: more than a machine reads in a day."""

CHECKERS_MAX = 256
"""Whose results one round takes."""

PLANTS_MIN = 16
"""Of each kind, before plants say anything of a checker."""

BAD_FOUND_MIN_PPM = 750_000
"""Of known-bad plants, those that must be convicted. One that reads all of them and catches 95 % passes with
99.9 %; one that reads half of them with 4 %."""

CONVICT_LOG10_MILLI = 6_000

LOG10_MILLI_MAX = 1 << 53
MARGINS_MLOGIT_MAX = 1 << 53

_PROMISE = b"unhosted/duty-promise/v1"
_DRAW = b"unhosted/duty-draw/v1"
_RESULT = b"unhosted/duty-result/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """Published before the epoch. checker: its peer id. commitment: `promised` of its secret."""

    checker: str
    epoch: int
    rate_ppm: int
    commitment: bytes

    def __post_init__(self) -> None:
        _check_place(self.checker, self.epoch)
        if not 0 < self.rate_ppm <= PPM:
            raise ValueError(f"rate of {self.rate_ppm} ppm: 1 to {PPM} are allowed")
        _check_size("commitment", self.commitment, HASH_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """What a checker found of one receipt. log10_e_milli: peak of E, thousandths of a decade. margins_mlogit:
    the sum of all margins. salt: secret until it is opened, so that nobody guesses the result from its
    hash."""

    receipt: bytes
    log10_e_milli: int
    margins_mlogit: int
    salt: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check_size("receipt", self.receipt, HASH_BYTES)
        _check_size("salt", self.salt, SECRET_BYTES)
        if abs(self.log10_e_milli) > LOG10_MILLI_MAX or not 0 <= self.margins_mlogit <= MARGINS_MLOGIT_MAX:
            raise ValueError(f"{self} is out of range")

    @property
    def convicts(self) -> bool:
        return self.log10_e_milli >= CONVICT_LOG10_MILLI


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A receipt of an epoch, by its hash, and the beacon of after it; empty where there is none."""

    receipt: bytes
    beacon: bytes = b""

    def __post_init__(self) -> None:
        _check_size("receipt", self.receipt, HASH_BYTES)
        if len(self.beacon) > BEACON_BYTES_MAX:
            raise ValueError(f"beacon of {len(self.beacon)} bytes, at most {BEACON_BYTES_MAX}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Commitments of checkers by receipt, and who has opened. Nobody commits after the first has opened."""

    epoch: int
    committed: Mapping[str, Mapping[bytes, bytes]] = field(default_factory=lambda: MappingProxyType({}))
    opened: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """faults: for people; an epoch with any is void. duties: as anybody computes them, sorted."""

    duties: tuple[bytes, ...]
    faults: tuple[str, ...]

    @property
    def is_void(self) -> bool:
        return bool(self.faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlantScore:
    """Of the plants among a checker's duties. accused: known-good ones that it convicts."""

    bad: int
    bad_found: int
    good: int
    accused: int

    @property
    def is_enough(self) -> bool:
        return self.bad >= PLANTS_MIN and self.good >= PLANTS_MIN

    @property
    def is_passed(self) -> bool:
        """A known-good one is convicted by chance in one of a million: none is let pass."""
        return not self.accused and self.bad_found * PPM >= self.bad * BAD_FOUND_MIN_PPM


def promised(secret: bytes, *, checker: str, epoch: int) -> bytes:
    """The commitment of a promise. secret: 32 fresh bytes that nobody else has."""
    _check_place(checker, epoch)
    _check_size("secret", secret, SECRET_BYTES)
    return _hash(_PROMISE, _place(checker, epoch), secret)


def is_duty(secret: bytes, seen: Seen, *, rate_ppm: int) -> bool:
    drawn = int.from_bytes(_hash(_DRAW, secret, seen.receipt, seen.beacon), "big")
    return drawn * PPM < rate_ppm << (8 * HASH_BYTES)


def duties(secret: bytes, receipts: Collection[Seen], *, rate_ppm: int) -> tuple[bytes, ...]:
    """Which receipts a secret draws, sorted. Raises: ValueError for more than are ever compared."""
    if len(receipts) > RECEIPTS_MAX:
        raise ValueError(f"{len(receipts)} receipts in an epoch, at most {RECEIPTS_MAX}")
    return tuple(sorted({seen.receipt for seen in receipts if is_duty(secret, seen, rate_ppm=rate_ppm)}))


def result_commitment(result: CheckResult, *, checker: str, epoch: int) -> bytes:
    """What is published of a result first. The name in it makes a copied commitment worth nothing."""
    _check_place(checker, epoch)
    numbers = b"".join(
        value.to_bytes(8, "big", signed=True) for value in (result.log10_e_milli, result.margins_mlogit)
    )
    return _hash(_RESULT, _place(checker, epoch), result.receipt, numbers, result.salt)


def with_commitment(state: Round, checker: str, receipt: bytes, commitment: bytes) -> Round:
    """Raises: ValueError for one that comes too late, for a second one on a receipt, or for too many."""
    if state.opened:
        raise ValueError(f"{checker} commits after results were opened: it may have copied them")
    mine = state.committed.get(checker, {})
    if receipt in mine:
        raise ValueError(f"{checker} commits to receipt {receipt.hex()[:8]} a second time")
    if len(mine) >= DUTIES_MAX or (checker not in state.committed and len(state.committed) >= CHECKERS_MAX):
        raise ValueError(f"more than {CHECKERS_MAX} checkers, or {DUTIES_MAX} results of one")
    _check_size("receipt", receipt, HASH_BYTES)
    _check_size("commitment", commitment, HASH_BYTES)
    both = {**state.committed, checker: MappingProxyType({**mine, receipt: commitment})}
    return replace(state, committed=MappingProxyType(both))


def with_opening(state: Round, checker: str) -> Round:
    """From now on nobody commits."""
    return replace(state, opened=state.opened | {checker})


def audit(
    promise: Promise,
    state: Round,
    *,
    secret: bytes,
    results: Sequence[CheckResult],
    receipts: Collection[Seen],
) -> Audit:
    """What anybody finds who follows a checker through an epoch, after it opened secret and results."""
    if state.epoch != promise.epoch:
        raise ValueError(f"a promise for epoch {promise.epoch}, a round of epoch {state.epoch}")
    if promised(secret, checker=promise.checker, epoch=promise.epoch) != promise.commitment:
        return Audit(duties=(), faults=("the secret is not the one that was promised",))
    drawn = duties(secret, receipts, rate_ppm=promise.rate_ppm)
    committed = state.committed.get(promise.checker, {})
    faults = [f"receipt {one.hex()[:8]} was a duty and not checked" for one in drawn if one not in committed]
    faults += [
        f"receipt {one.hex()[:8]} was checked and no duty" for one in committed if one not in set(drawn)
    ]
    opened = {result.receipt: result for result in results}
    if len(opened) != len(results):
        faults.append("two results are opened for one receipt")
    for receipt, commitment in committed.items():
        result = opened.pop(receipt, None)
        if result is None:
            faults.append(f"the result on receipt {receipt.hex()[:8]} was never opened")
        elif result_commitment(result, checker=promise.checker, epoch=promise.epoch) != commitment:
            faults.append(f"the result on receipt {receipt.hex()[:8]} is not the one committed to")
    faults += [f"the result on receipt {receipt.hex()[:8]} was never committed to" for receipt in opened]
    return Audit(duties=drawn, faults=tuple(faults))


def plant_score(results: Sequence[CheckResult], plants: Mapping[bytes, bool]) -> PlantScore:
    """plants: receipt to whether it is bad. Of an epoch that `audit` did not void, so each is among them."""
    told = [(plants[one.receipt], one.convicts) for one in results if one.receipt in plants]
    return PlantScore(
        bad=sum(is_bad for is_bad, _ in told),
        bad_found=sum(is_bad and convicts for is_bad, convicts in told),
        good=sum(not is_bad for is_bad, _ in told),
        accused=sum(convicts and not is_bad for is_bad, convicts in told),
    )


def _check_place(checker: str, epoch: int) -> None:
    size = len(checker.encode())
    if not 0 < size <= CHECKER_BYTES_MAX or not 0 <= epoch < 1 << 63:
        raise ValueError(
            f"checker of {size} bytes in epoch {epoch}: 1 to {CHECKER_BYTES_MAX} bytes are allowed"
        )


def _check_size(name: str, value: bytes, size: int) -> None:
    if len(value) != size:
        raise ValueError(f"{name} of {len(value)} bytes: {size} are needed")


def _place(checker: str, epoch: int) -> bytes:
    name = checker.encode()
    return bytes([len(name)]) + name + epoch.to_bytes(8, "big")


def _hash(domain: bytes, *parts: bytes) -> bytes:
    from blake3 import blake3

    return blake3(domain + b"".join(parts)).digest()
