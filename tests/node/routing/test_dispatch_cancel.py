"""A client that leaves ends its request, and says nothing of the server."""

import pytest
import trio
import trio.testing

from tests.node.routing.house import House, run
from tests.node.routing.servers import NAME, FakeServer, ask


def test_a_cancelled_request_is_no_failure_of_its_server() -> None:
    async def main() -> None:
        house = House(FakeServer("desktop"))
        failed: list[object] = []
        house.dispatcher._records.failed = lambda *args: failed.append(args)  # type: ignore[method-assign]
        with trio.CancelScope() as request:
            async with house.dispatcher.open(ask(), model_name=NAME, radius="trusted") as dispatched:
                await anext(dispatched)
                # A write to the client is shielded; the client leaves meanwhile, and the attempt closes.
                with trio.CancelScope(shield=True):
                    request.cancel()
                    await trio.testing.wait_all_tasks_blocked()
                await anext(dispatched)
                pytest.fail("the next delta came after the request was cancelled")
        assert request.cancelled_caught
        assert failed == []
        assert len(house.servers["desktop"].asked) == 1

    run(main)
