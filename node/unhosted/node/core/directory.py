"""Where peers may be, when to dial them, and why one is not connected, in words for people.

What is heard on a network (mDNS) is a hint, never a proof: it gives addresses to try, and the connection
proves who answers. So the table is built to lose little to a liar: a host is heard for a bounded number of
strangers, a peer has a bounded number of hints beside the addresses that proved right before, and paired
peers are in the table whatever others say.

A sight is what one host says of one peer; it is forgotten `SIGHT_NS` after it was last heard. Paired peers
are dialled at once when they are first seen or their address changes, with growing pauses while they do not
answer, and at once again when this machine's own networks change. Of two peers that see each other at the
same moment the one with the smaller id dials first.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import assert_never

from unhosted.node.core.addresses import ADDRESS_CHARS_MAX, KnownAddress, is_dialable, parse_address
from unhosted.node.core.directory_events import (
    AddressesTold,
    BookRead,
    ClockTicked,
    Dial,
    DialFailed,
    DialSucceeded,
    Effect,
    Event,
    NetworksChanged,
    NoteAddress,
    PeerHeard,
    PeerLeft,
)
from unhosted.node.core.directory_state import (
    ADDRESSES_PER_SIGHT_MAX,
    DIALS_MAX,
    FRESH_PAUSE_NS,
    KNOWN_PER_PEER_MAX,
    PAUSE_FIRST_NS,
    PAUSE_MAX_NS,
    PAUSE_SEEN_MAX_NS,
    POLITE_NS,
    REASON_CHARS_MAX,
    SIGHT_NS,
    SIGHTS_PER_PEER_MAX,
    STRANGERS_MAX,
    STRANGERS_PER_HOST_MAX,
    Directory,
    Record,
    Sight,
    check_integrity,
    dial_addresses,
    is_relayed,
)
from unhosted.node.core.peering import Connection, PeerId


def step(state: Directory, event: Event, now_ns: int) -> tuple[Directory, tuple[Effect, ...]]:
    """The directory after `event`, and what is to be done. now_ns: of a clock that never goes back."""
    effects: tuple[Effect, ...] = ()
    match event:
        case PeerHeard():
            state = _heard(state, event, now_ns)
        case PeerLeft(peer=peer, host=host):
            state = _change(state, peer, lambda record: _without_host(record, host))
        case BookRead():
            state = _book_read(state, event, now_ns)
        case AddressesTold(peer=peer, addresses=addresses):
            state = _change(state, peer, lambda record: _learned(record, addresses, now_ns))
        case DialSucceeded(peer=peer):
            state = _change(state, peer, lambda record: _succeeded(record, now_ns))
        case DialFailed():
            state = _change(state, event.peer, lambda record: _failed(record, event, now_ns))
        case NetworksChanged(networks=networks):
            for peer in tuple(state.records):
                state = _change(state, peer, lambda record: _on_networks(record, networks, now_ns))
        case ClockTicked():
            state, effects = _ticked(state, event, now_ns)
        case _:
            assert_never(event)
    check_integrity(state)
    return state, effects


def _change(state: Directory, peer: PeerId, change: Callable[[Record], Record]) -> Directory:
    """With one record changed, or gone if nothing is left of it."""
    record = state.records.get(peer)
    if record is None:
        return state
    changed = change(record)
    records = dict(state.records)
    if changed.paired is None and not changed.sights:
        del records[peer]
    else:
        records[peer] = changed
    return replace(state, records=records)


def _heard(state: Directory, event: PeerHeard, now_ns: int) -> Directory:
    addresses = tuple(dict.fromkeys(filter(is_dialable, event.addresses)))[:ADDRESSES_PER_SIGHT_MAX]
    if event.peer == state.own or not addresses or event.lifetime_ns <= 0:
        return state
    record = state.records.get(event.peer) or Record(peer=event.peer)
    is_new_stranger = record.paired is None and all(sight.host != event.host for sight in record.sights)
    if is_new_stranger and _strangers_of(state, event.host) >= STRANGERS_PER_HOST_MAX:
        return state
    if event.peer not in state.records:
        state = _with_room(state, event.host)
    sight = Sight(
        host=event.host,
        network=event.network,
        name=event.name,
        version=event.version,
        addresses=addresses,
        heard_at_ns=now_ns,
        ends_at_ns=now_ns + min(event.lifetime_ns, SIGHT_NS),
    )
    before = dial_addresses(record)
    others = tuple(other for other in record.sights if other.host != event.host)
    record = replace(record, sights=(sight, *others[: SIGHTS_PER_PEER_MAX - 1]))
    if record.paired is not None and set(dial_addresses(record)) - set(before):
        record = _fresh(record, state.own, now_ns)
    return replace(state, records={**state.records, event.peer: record})


def _strangers_of(state: Directory, host: str) -> int:
    return sum(
        record.paired is None and any(sight.host == host for sight in record.sights)
        for record in state.records.values()
    )


def _with_room(state: Directory, host: str) -> Directory:
    """With a place for one more stranger: the host with the most of them loses what it said longest ago."""
    strangers = [record for record in state.records.values() if record.paired is None]
    if len(strangers) < STRANGERS_MAX:
        return state
    counts: dict[str, int] = {host: 1}
    for record in strangers:
        for sight in record.sights:
            counts[sight.host] = counts.get(sight.host, 0) + 1
    loser = min(
        strangers,
        key=lambda record: (
            -max(counts[sight.host] for sight in record.sights),
            max(sight.heard_at_ns for sight in record.sights),
            record.peer,
        ),
    )
    records = dict(state.records)
    del records[loser.peer]
    return replace(state, records=records)


def _on_networks(record: Record, networks: frozenset[str], now_ns: int) -> Record:
    return replace(
        record,
        sights=tuple(sight for sight in record.sights if sight.network in networks),
        failures=0,
        next_try_at_ns=min(now_ns, record.next_try_at_ns),
    )


def _without_host(record: Record, host: str) -> Record:
    return replace(record, sights=tuple(sight for sight in record.sights if sight.host != host))


def _book_read(state: Directory, event: BookRead, now_ns: int) -> Directory:
    records = {
        peer: replace(record, paired=None, known=(), is_dialing=False, why_failed="", failures=0)
        for peer, record in state.records.items()
        if record.sights
    }
    for paired, addresses in event.peers:
        if paired.peer == state.own:
            continue
        before = state.records.get(paired.peer) or Record(peer=paired.peer, next_try_at_ns=now_ns)
        record = replace(before, paired=paired)
        if before.paired is None:
            record = _fresh(record, "", now_ns)
        records[paired.peer] = _learned(record, addresses, now_ns)
    strangers = [peer for peer, record in records.items() if record.paired is None]
    for peer in strangers[STRANGERS_MAX:]:  # many were unpaired at once
        del records[peer]
    return replace(state, records=records)


def _learned(record: Record, addresses: tuple[KnownAddress, ...], now_ns: int) -> Record:
    """With addresses that are to be tried at once if they are new."""
    told = _with_known(record, addresses)
    is_new = {entry.address for entry in told.known} - {entry.address for entry in record.known}
    return _fresh(told, "", now_ns) if is_new else told


def _with_known(record: Record, addresses: tuple[KnownAddress, ...]) -> Record:
    if record.paired is None:
        return record
    newest: dict[str, KnownAddress] = {}
    for entry in (*addresses, *record.known):
        if 0 < len(entry.address) <= ADDRESS_CHARS_MAX:
            best = newest.get(entry.address)
            if best is None or entry.unix_s > best.unix_s:
                newest[entry.address] = entry
    known = sorted(newest.values(), key=lambda entry: (-entry.unix_s, entry.address))
    return replace(record, known=tuple(known[:KNOWN_PER_PEER_MAX]))


def _fresh(record: Record, own: PeerId, now_ns: int) -> Record:
    """There is something new to try. own: this machine's id, to let the smaller one go first; or empty."""
    at_ns = now_ns if own <= record.peer else now_ns + POLITE_NS
    if record.tried_at_ns is not None:
        at_ns = max(at_ns, record.tried_at_ns + FRESH_PAUSE_NS)
        at_ns = min(at_ns, max(record.next_try_at_ns, now_ns))
    return replace(record, next_try_at_ns=at_ns)


def _succeeded(record: Record, now_ns: int) -> Record:
    pause_ns = PAUSE_FIRST_NS if record.connection is None else PAUSE_MAX_NS
    return replace(record, is_dialing=False, next_try_at_ns=now_ns + pause_ns)


def _failed(record: Record, event: DialFailed, now_ns: int) -> Record:
    if record.connection is not None:  # only the way around a relay was not found
        return replace(record, is_dialing=False, next_try_at_ns=now_ns + PAUSE_MAX_NS)
    failures = min(record.failures + 1, 32)  # no pause grows past 2 ** 32 times the first
    longest_ns = PAUSE_SEEN_MAX_NS if record.sights else PAUSE_MAX_NS
    pause_ns = min(PAUSE_FIRST_NS << (failures - 1), longest_ns)
    permille = 500 + int(500 * min(max(event.jitter, 0.0), 1.0))
    return replace(
        record,
        is_dialing=False,
        failures=failures,
        # Sooner if an address became known meanwhile.
        next_try_at_ns=min(record.next_try_at_ns, now_ns + pause_ns * permille // 1000),
        why_failed=event.reason[:REASON_CHARS_MAX],
    )


def _ticked(state: Directory, event: ClockTicked, now_ns: int) -> tuple[Directory, tuple[Effect, ...]]:
    live = {connection.peer: connection for connection in event.connections}
    effects: list[Effect] = []
    records: dict[PeerId, Record] = {}
    for peer, record in state.records.items():
        sights = tuple(sight for sight in record.sights if sight.ends_at_ns > now_ns)
        if len(sights) < len(record.sights):
            record = replace(record, sights=sights)
        record, notes = _connected(state.own, record, live.get(peer), event.unix_s, now_ns)
        effects += notes
        if record.paired is not None or record.sights:
            records[peer] = record
    due = [record for record in records.values() if _is_due(record, now_ns)]
    due.sort(key=lambda record: (record.next_try_at_ns, record.peer))
    room = DIALS_MAX - sum(record.is_dialing for record in records.values())
    for record in due:
        room -= not record.is_dialing
        if room >= 0 or record.is_dialing:
            addresses = dial_addresses(record)
            effects.append(Dial(peer=record.peer, addresses=addresses))
            records[record.peer] = replace(
                record,
                is_dialing=True,
                trying=addresses,
                # A try of relays alone is no reason to wait with the first address that becomes known.
                tried_at_ns=now_ns if addresses else record.tried_at_ns,
                next_try_at_ns=now_ns + PAUSE_MAX_NS,
            )
    return replace(state, records=records), tuple(effects)


def _is_due(record: Record, now_ns: int) -> bool:
    if record.paired is None or record.next_try_at_ns > now_ns:
        return False
    addresses = dial_addresses(record)
    if record.connection is not None and not (addresses and is_relayed(record.connection)):
        return False  # it stands; through a relay, a better way is looked for
    # One that began before a better address was known is begun anew.
    return not record.is_dialing or not set(addresses) <= set(record.trying)


def _connected(
    own: PeerId, record: Record, connection: Connection | None, unix_s: int, now_ns: int
) -> tuple[Record, list[Effect]]:
    """The record with the connection as it is now; an address that proved right is to be written down."""
    before = record.connection
    notes: list[Effect] = []
    proof = connection or before
    if (before is None) != (connection is None) and proof is not None and record.paired is not None:
        # At the end as at the beginning, so that the book knows when the address was right for the last time.
        record, notes = _proved(record, proof, unix_s)
    if connection is not None:
        record = replace(record, connection=connection, contact_at_ns=now_ns, failures=0, why_failed="")
    elif before is not None:
        record = replace(record, connection=None, tried_at_ns=None)
        record = _fresh(record, own, now_ns)
    return record, notes


def _proved(record: Record, connection: Connection, unix_s: int) -> tuple[Record, list[Effect]]:
    endpoint = parse_address(connection.remote_address)
    if endpoint is None:
        return record, []
    dialled = dial_addresses(record)
    if connection.is_outbound:
        # As it was dialled: a socket may tell a link-local address without its link.
        known = {(found.host, found.port): text for text in dialled if (found := parse_address(text))}
        address = known.get((endpoint.host, endpoint.port), connection.remote_address)
        entry = KnownAddress(address=address, source="observed", unix_s=unix_s)
        note = NoteAddress(peer=record.peer, address=entry.address, source="observed")
        return _with_known(record, (entry,)), [note]
    # The port that it called from is no port to call, but the ports that it had before may be open there.
    frame = connection.remote_address.rpartition("/")[0]
    ports = {found.port for text in dialled if (found := parse_address(text))}
    guesses = tuple(
        KnownAddress(address=f"{frame}/{port}", source="observed", unix_s=unix_s)
        for port in sorted(ports)[:2]
    )
    return _with_known(record, guesses), []
