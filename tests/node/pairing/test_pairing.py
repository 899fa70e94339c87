"""Pairing on the real shell: what users see, and what the book says afterwards."""

from pathlib import Path

import pytest
import trio

from tests.node.pairing.machines import Machine, World, come_to_confirm, pair, peer_id
from unhosted.node.core.errors import Refused
from unhosted.node.core.pairing_code import make_code, show_code
from unhosted.node.core.peering import Capabilities, Channel, ChannelBroken, PairedPeer


def test_a_code_and_two_yeses_pair_two_machines(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer = await desktop.pairings.offer()
            assert offer.state == "waiting" and offer.tries_left == 3 and offer.expires_in_s == 600
            assert offer.address_code == f"{offer.code}@{desktop.address.split('/')[2]}:8643/{desktop.peer}"
            assert offer.code is not None
            join = await laptop.pairings.join(offer.code.lower())
            assert join.state == "waiting" and join.code is None
            asked = await desktop.until(offer.pairing_id, "confirm")
            assert (asked.other_peer, asked.other_name) == (laptop.peer, "laptop")
            assert asked.code is None, "a code that was used is not shown any more"
            asked = await laptop.until(join.pairing_id, "confirm")
            assert (asked.other_peer, asked.other_name) == (desktop.peer, "desktop")
            assert (await laptop.pairings.confirm(join.pairing_id, True)).state == "confirmed"
            assert laptop.standing(desktop) == "pending" and not laptop.book.is_paired(desktop.peer)
            assert desktop.standing(laptop) == "none"
            await desktop.pairings.confirm(offer.pairing_id, True)
            await laptop.until(join.pairing_id, "paired")
            for one, other in ((desktop, laptop), (laptop, desktop)):
                record = one.record(other)
                assert record is not None and record.state == "paired"
                assert record.name == other.own_name
                assert record.capabilities == Capabilities()
                assert [known.address for known in one.book.addresses(other.peer)] == [other.address]

    trio.run(main)


def test_a_full_disk_that_costs_an_address_does_not_undo_a_pairing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Refused("disk_full", "the disk is full")

    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            for machine in (desktop, laptop):
                monkeypatch.setattr(machine.book, "note_address", full)
            await pair(desktop, laptop)
            assert (desktop.standing(laptop), laptop.standing(desktop)) == ("paired", "paired")

    trio.run(main)


def test_an_address_code_needs_no_discovery(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer = await desktop.pairings.offer()
            assert offer.address_code is not None
            world.hidden = True
            join = await laptop.pairings.join(offer.address_code)
            await laptop.until(join.pairing_id, "confirm")

    trio.run(main)


def test_an_address_where_another_machine_answers_fails(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("laptop") as laptop, world.machine("stranger") as stranger:
            code = show_code(make_code(peer_id("desktop"), b"abcd"))
            place = f"{stranger.address.split('/')[2]}:8643"
            join = await laptop.pairings.join(f"{code}@{place}/{peer_id('desktop')}")
            failed = await laptop.until(join.pairing_id, "failed")
            assert "cannot be reached" in failed.reason and place in failed.reason

    trio.run(main)


@pytest.mark.parametrize("who", ["offerer", "joiner"])
@pytest.mark.parametrize("joiner_said_yes", [False, True])
def test_one_no_pairs_nobody(tmp_path: Path, who: str, joiner_said_yes: bool) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer_id, join_id = await come_to_confirm(desktop, laptop)
            if joiner_said_yes:
                await laptop.pairings.confirm(join_id, True)
            if who == "offerer":
                await desktop.pairings.confirm(offer_id, False)
            else:
                await laptop.pairings.confirm(join_id, False)
            ours = await desktop.until(offer_id, "failed")
            theirs = await laptop.until(join_id, "failed")
            assert {"you said no" in ours.reason, "you said no" in theirs.reason} == {True, False}
            await laptop.wait(lambda: laptop.standing(desktop) == "none")
            assert desktop.standing(laptop) == "none"

    trio.run(main)


def test_three_wrong_codes_kill_the_code(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer = await desktop.pairings.offer()
            for tries_left in (2, 1, 0):
                wrong = show_code(make_code(desktop.peer, bytes([tries_left, 1, 2, 3])))
                join = await laptop.pairings.join(wrong)
                failed = await laptop.until(join.pairing_id, "failed")
                assert ("tries are left" in failed.reason) == (tries_left == 2)
                assert ("dead" in failed.reason) == (tries_left == 0)
                assert desktop.pairings.view(offer.pairing_id).tries_left == tries_left
            dead = desktop.pairings.view(offer.pairing_id)
            assert dead.state == "failed" and "three wrong codes" in dead.reason and dead.code is None
            assert offer.code is not None
            right = await laptop.pairings.join(offer.code)
            assert "dead" in (await laptop.until(right.pairing_id, "failed")).reason
            await pair(desktop, laptop)  # a new code works at once: nobody is locked out

    trio.run(main)


def test_a_late_code_fails(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer = await desktop.pairings.offer()
            world.passed_s += 601
            assert "ten minutes" in (await desktop.until(offer.pairing_id, "failed")).reason
            assert offer.code is not None
            join = await laptop.pairings.join(offer.code)
            assert "no code is open" in (await laptop.until(join.pairing_id, "failed")).reason

    trio.run(main)


def test_a_question_without_an_answer_times_out_on_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer_id, join_id = await come_to_confirm(desktop, laptop)
            await laptop.pairings.confirm(join_id, True)
            world.passed_s += 301
            assert "within five minutes" in (await desktop.until(offer_id, "failed")).reason
            assert "waited too long" in (await laptop.until(join_id, "failed")).reason
            assert laptop.standing(desktop) == "none"

    trio.run(main)


def test_a_code_works_once(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with (
            world.machine("desktop") as desktop,
            world.machine("laptop") as laptop,
            world.machine("phone") as phone,
        ):
            offer = await desktop.pairings.offer()
            assert offer.code is not None
            await laptop.pairings.join(offer.code)
            await desktop.until(offer.pairing_id, "confirm")
            second = await phone.pairings.join(offer.code)
            assert "used already" in (await phone.until(second.pairing_id, "failed")).reason
            await desktop.pairings.confirm(offer.pairing_id, False)
            third = await phone.pairings.join(offer.code)
            assert "used already" in (await phone.until(third.pairing_id, "failed")).reason

    trio.run(main)


def test_of_two_joiners_at_once_one_gets_the_code(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with (
            world.machine("desktop") as desktop,
            world.machine("laptop") as laptop,
            world.machine("phone") as phone,
        ):
            offer = await desktop.pairings.offer()
            assert offer.code is not None
            joins = [(one, await one.pairings.join(offer.code)) for one in (laptop, phone)]
            views = [await one.until(join.pairing_id, "confirm", "failed") for one, join in joins]
            assert sorted(view.state for view in views) == ["confirm", "failed"]
            assert "used already" in next(view.reason for view in views if view.state == "failed")
            winner = next(one for (one, _), view in zip(joins, views, strict=True) if view.state == "confirm")
            asked = await desktop.until(offer.pairing_id, "confirm")
            assert asked.other_peer == winner.peer and asked.tries_left == 3

    trio.run(main)


def test_a_newer_code_ends_the_older_one_and_a_restart_ends_all(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("laptop") as laptop:
            async with world.machine("desktop") as desktop:
                older, newer = await desktop.pairings.offer(), await desktop.pairings.offer()
                assert desktop.pairings.view(older.pairing_id).state == "failed"
                assert desktop.pairings.view(newer.pairing_id).state == "waiting"
            async with world.machine("desktop"):
                assert newer.code is not None
                join = await laptop.pairings.join(newer.code)
                assert "no code is open" in (await laptop.until(join.pairing_id, "failed")).reason

    trio.run(main)


def test_own_codes_and_unknown_pairings_are_refused(tmp_path: Path) -> None:
    async def main() -> None:
        async with World(directory=tmp_path).machine("desktop") as desktop:
            offer = await desktop.pairings.offer()
            assert offer.code is not None and offer.address_code is not None
            for code in (offer.code, offer.address_code):
                with pytest.raises(Refused, match="of this very machine"):
                    await desktop.pairings.join(code)
            with pytest.raises(Refused, match="no pairing 'nothing'"):
                desktop.pairings.view("nothing")
            with pytest.raises(Refused, match="nothing to confirm yet"):
                await desktop.pairings.confirm(offer.pairing_id, True)
            with pytest.raises(Refused, match="is not paired with this machine"):
                await desktop.pairings.unpair(peer_id("laptop"))
            await desktop.pairings.cancel(offer.pairing_id)
            assert desktop.pairings.view(offer.pairing_id).state == "failed"

    trio.run(main)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with (
            world.machine("desktop") as desktop,
            world.machine("laptop") as laptop,
            world.machine("phone", own_name="Lap\u202etop") as phone,
        ):
            await pair(desktop, laptop)
            await pair(desktop, phone)
            assert sorted(known.name for known in desktop.book.peers()) == ["Laptop-2", "laptop"]

    trio.run(main)


def test_machines_that_are_paired_are_not_paired_again(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            await pair(desktop, laptop)
            offer = await desktop.pairings.offer()
            assert offer.code is not None
            again = await laptop.pairings.join(offer.code)
            assert "desktop is paired already" in (await laptop.until(again.pairing_id, "failed")).reason
            assert desktop.standing(laptop) == laptop.standing(desktop) == "paired"
            laptop.book.remove(desktop.peer)  # its disk was restored from last week
            again = await laptop.pairings.join(offer.code)
            await laptop.until(again.pairing_id, "confirm")

    trio.run(main)


def test_unpairing_ends_open_channels_at_once_on_both_sides(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            await pair(desktop, laptop)
            broke = trio.Event()

            async def listen(channel: Channel) -> None:
                try:
                    await channel.receive()
                except ChannelBroken:
                    broke.set()

            desktop.network.serve("/job/1", listen, access="paired", message_bytes_max=100)
            async with laptop.network.open_channel(
                desktop.peer, "/job/1", message_bytes_max=100, timeout_s=1
            ) as channel:
                await desktop.pairings.unpair(laptop.peer)
                assert not desktop.book.is_paired(laptop.peer), "it is removed when the call returns"
                with trio.fail_after(2), pytest.raises(ChannelBroken):
                    await channel.receive()
                with trio.fail_after(2):
                    await broke.wait()
            await laptop.wait(lambda: bool(laptop.pairings.notices()))
            assert laptop.standing(desktop) == "none"
            assert [notice.text for notice in laptop.pairings.notices()] == ["desktop ended the pairing"]
            assert desktop.pairings.notices() == ()

    trio.run(main)


def test_a_machine_unpaired_while_away_learns_at_its_next_contact(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop:
            async with world.machine("laptop") as laptop:
                await pair(desktop, laptop)
            await desktop.pairings.unpair(laptop.peer)
            async with world.machine("laptop") as laptop:
                assert laptop.standing(desktop) == "paired"
                await laptop.network.connect(desktop.peer, [desktop.address], timeout_s=1)
                await laptop.wait(lambda: bool(laptop.pairings.notices()))
                assert laptop.standing(desktop) == "none"
                assert [notice.text for notice in laptop.pairings.notices()] == ["desktop ended the pairing"]

    trio.run(main)


async def lose_sight_after_yes(desktop: Machine, laptop: Machine) -> tuple[str, str]:
    """Both said yes; the joiner never heard of it."""
    offer_id, join_id = await come_to_confirm(desktop, laptop)
    laptop.world.fabric.cut(desktop.peer, laptop.peer)
    await laptop.pairings.confirm(join_id, True)
    laptop.world.fabric.reset(desktop.peer, laptop.peer)
    return offer_id, join_id


def test_a_yes_that_was_lost_on_its_way_is_taken_back_at_the_next_contact(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer_id, join_id = await lose_sight_after_yes(desktop, laptop)
            assert "neither is paired" in (await desktop.until(offer_id, "failed")).reason
            await laptop.wait(lambda: bool(laptop.pairings.view(join_id).reason))
            assert laptop.pairings.view(join_id).state == "confirmed", "it may not take its yes back alone"
            assert laptop.standing(desktop) == "pending"
            world.fabric.heal(desktop.peer, laptop.peer)
            await desktop.network.connect(laptop.peer, [laptop.address], timeout_s=1)
            assert "had not said yes" in (await laptop.until(join_id, "failed")).reason
            assert laptop.standing(desktop) == "none"

    trio.run(main)


def test_a_pending_record_expires_after_a_day(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("laptop") as laptop:
            record = PairedPeer(
                peer=peer_id("desktop"), name="desktop", state="pending", paired_unix_s=1_800_000_000
            )
            laptop.book.put(record)
            world.passed_s += 86_300
            await laptop.pairings.offer()  # it looks at the clock, too
            assert laptop.book.get(record.peer) == record
            world.passed_s += 200
            await laptop.wait(lambda: bool(laptop.pairings.notices()))
            assert laptop.book.get(record.peer) is None
            assert "was not completed" in laptop.pairings.notices()[0].text

    trio.run(main)


def test_a_book_that_cannot_be_written_pairs_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World(directory=tmp_path)
        async with world.machine("desktop") as desktop, world.machine("laptop") as laptop:
            offer_id, join_id = await come_to_confirm(desktop, laptop)

            def refuse(peer: PairedPeer) -> None:
                raise Refused("disk_full", "no space is left for the book")

            monkeypatch.setattr(desktop.book, "put", refuse)
            await laptop.pairings.confirm(join_id, True)
            await desktop.pairings.confirm(offer_id, True)
            assert "no space is left" in (await desktop.until(offer_id, "failed")).reason
            assert "could not go on" in (await laptop.until(join_id, "failed")).reason
            assert (desktop.standing(laptop), laptop.standing(desktop)) == ("none", "none")

    trio.run(main)
