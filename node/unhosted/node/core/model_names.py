"""Which file a model's name means, where this machine and its peers may mean different ones.

This machine's store goes first; a name that it does not know is looked up at the peers. A name that means
different files there means the one that most peers have; the answer says so.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from unhosted.node.core.errors import Refused

HASH_PREFIX_MIN = 8
"""Characters of a hash that are taken for one, as for `unhosted show`."""

NAMES_SHOWN = 5


class Named(Protocol):
    """`ModelFacts` and `ModelEntry` both are."""

    @property
    def name(self) -> str: ...

    @property
    def aliases(self) -> tuple[str, ...]: ...

    @property
    def blake3(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """name: as whoever has it calls it. reason: for people, empty when there was nothing to choose."""

    name: str
    blake3: str
    is_local: bool
    reason: str = ""


def resolve_model(
    name: str, *, local: Iterable[Named], peers: Sequence[tuple[str, Iterable[Named]]]
) -> ResolvedModel:
    """What `name` means: a name, an alias, or `b3:` and the start of a hash. peers: (name, its models).

    Raises: Refused: model_not_found, which names what there is.
    """
    here = {model.blake3: model for model in local if is_called(model, name)}
    if here:
        found = next(iter(here.values()))
        return ResolvedModel(name=found.name, blake3=found.blake3, is_local=True)
    by_file: dict[str, Named] = {}
    owners: Counter[str] = Counter()
    for _, models in peers:
        for file in {model.blake3: model for model in models if is_called(model, name)}.values():
            by_file.setdefault(file.blake3, file)
            owners[file.blake3] += 1
    if not owners:
        raise _not_found(name, peers)
    # Most peers first; then the lower hash, so that every machine in the house decides alike.
    blake3 = min(owners, key=lambda one: (-owners[one], one))
    reason = ""
    if len(owners) > 1:
        reason = (
            f"peers have {len(owners)} files called {name}; taken: b3:{blake3[:HASH_PREFIX_MIN]}, "
            f"which {owners[blake3]} of them have"
        )
    return ResolvedModel(name=by_file[blake3].name, blake3=blake3, is_local=False, reason=reason)


def is_called(model: Named, name: str) -> bool:
    """Whether a model goes by that name. Case matters in nobody's memory, so it does not here."""
    if name.startswith("b3:"):
        prefix = name[3:].lower()
        return len(prefix) >= HASH_PREFIX_MIN and model.blake3.startswith(prefix)
    folded = name.casefold()
    return model.name.casefold() == folded or any(alias.casefold() == folded for alias in model.aliases)


def _not_found(name: str, peers: Sequence[tuple[str, Iterable[Named]]]) -> Refused:
    lines = []
    for peer, models in peers[:NAMES_SHOWN]:
        names = [model.name for model in models]
        shown = ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")
        lines.append(f"{peer} has {shown or 'no model'}")
    at_peers = f"; {'; '.join(lines)}" if lines else ", and no paired peer is connected"
    return Refused(
        "model_not_found",
        f"model {name!r} is not on this machine{at_peers}; next: unhosted pull {name}",
        field="model",
    )
