"""The machine in Python where it is on its own: its server, its memory, and web3 in front of it."""

import http.client
import json
import socket
from pathlib import Path

import pytest

from tests.devchain import Engine, dev_chain
from tests.node.devnet.test_parity import post
from unhosted.contracts import artifact
from unhosted.market.ids import address_text
from unhosted.node.shell.devnet.embedded import BODY_BYTES_MAX, CONNECTIONS_MAX
from unhosted.node.shell.devnet.machine import Machine
from unhosted.node.shell.devnet.machine_methods import MINE_MAX, SNAPSHOTS_MAX
from unhosted.node.shell.devnet.machine_store import MachineStore
from unhosted.node.shell.devnet.rpc import LocalRpc, RpcFault

CHAIN_ID_CALL = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "eth_chainId", "params": []})


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["anvil", "python"])
def test_web3_works_with_it_as_with_any_node(engine: Engine) -> None:
    from eth_account import Account
    from web3 import HTTPProvider, Web3
    from web3.exceptions import ContractCustomError
    from web3.logs import DISCARD

    with dev_chain(engine) as chain:
        w3 = Web3(HTTPProvider(chain.url))
        key = Account.from_key(chain.account("wallet").key)
        token = w3.eth.contract(
            address=w3.to_checksum_address(chain.contracts.token), abi=artifact("TestUSDC").abi
        )
        channels = w3.eth.contract(
            address=w3.to_checksum_address(chain.contracts.channels), abi=artifact("Channels").abi
        )
        for call in (token.functions.approve(channels.address, 9), channels.functions.deposit(9)):
            fields = call.build_transaction(
                {"from": key.address, "nonce": w3.eth.get_transaction_count(key.address)}
            )
            sent = w3.eth.send_raw_transaction(key.sign_transaction(fields).raw_transaction)
            receipt = w3.eth.wait_for_transaction_receipt(sent, timeout=20)
            assert receipt["status"] == 1
        [event] = channels.events.Deposited().process_receipt(receipt, errors=DISCARD)
        assert event["args"]["payer"] == key.address
        assert channels.functions.accounts(key.address).call()[0] == 9
        with pytest.raises(ContractCustomError):
            channels.functions.withdraw(10).call({"from": key.address})
        assert w3.eth.get_block("latest")["timestamp"] == chain.head()[1]
        assert w3.eth.fee_history(2, "latest")["oldestBlock"] == chain.head()[0] - 1


@pytest.mark.slow
def test_strange_requests_are_refused_and_the_chain_goes_on() -> None:
    with dev_chain("python") as chain:
        port = chain.rpc.port
        assert post(port, CHAIN_ID_CALL, host=f"evil.example:{port}")[0] == 403
        assert post(port, CHAIN_ID_CALL, host=f"localhost:{port}")[0] == 200
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            raw.sendall(
                b"POST / HTTP/1.1\r\nhost: localhost:1\r\ncontent-length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1)
            )
            assert raw.recv(64).startswith(b"HTTP/1.1 413")
        # Deeper than a thread's stack: it took the process along once.
        assert post(port, "[" * 100_000)[2]["error"]["code"] == -32600
        assert post(port, json.dumps([json.loads(CHAIN_ID_CALL)] * 257))[2]["error"]["code"] == -32600
        for method, params, words in (
            ("eth_getBalance", [], "0 parameters do not fit"),
            ("eth_getBalance", ["0x12", "latest"], "20 are needed"),
            ("eth_getBlockByNumber", ["newest", False], "not a quantity"),
            ("eth_call", ["0x"], "a transaction object"),
            ("eth_getLogs", [{"topics": ["0x11"]}], "32 are needed"),
            ("anvil_mine", [hex(MINE_MAX + 1)], "at most"),
        ):
            with pytest.raises(RpcFault, match=words):
                chain.rpc.call(method, *params)
        assert chain.rpc.call("eth_chainId") == "0x7a69"


@pytest.mark.slow
def test_connections_and_snapshots_are_bounded() -> None:
    with dev_chain("python") as chain:
        idle = [socket.create_connection(("127.0.0.1", chain.rpc.port)) for _ in range(CONNECTIONS_MAX)]
        try:
            with pytest.raises(OSError), LocalRpc(chain.rpc.port) as rpc:
                rpc.call("eth_chainId")
        finally:
            for one in idle:
                one.close()
        assert chain.rpc.call("eth_chainId") == "0x7a69"
        for _ in range(SNAPSHOTS_MAX):
            chain.snapshot()
        with pytest.raises(RpcFault, match="revert to one of them first"):
            chain.snapshot()


@pytest.mark.slow
def test_a_block_is_on_the_disk_before_it_is_told(tmp_path: Path) -> None:
    """Read by another connection, as the next process would after a kill."""
    store = MachineStore(tmp_path / "chain.db")
    machine = Machine(store)
    for _ in range(3):
        machine.mine([])
        other = MachineStore(tmp_path / "chain.db")
        assert Machine(other).head.hash == machine.head.hash
        other.close()
    snapshot = machine.snapshot()
    machine.move_clock(1_000)
    machine.mine([])
    machine.revert(snapshot)
    again = MachineStore(tmp_path / "chain.db")
    assert Machine(again).head.block_number == 3
    assert again.facts["offset_s"] == store.facts["offset_s"]
    again.close()
    store.close()


@pytest.mark.slow
def test_a_notified_wallet_page_may_ask(tmp_path: Path) -> None:
    """What a browser asks before it lets a page speak to the chain."""
    with dev_chain("python") as chain:
        connection = http.client.HTTPConnection("127.0.0.1", chain.rpc.port, timeout=20)
        connection.request("OPTIONS", "/", headers={"origin": "https://wallet.example"})
        response = connection.getresponse()
        assert response.status == 204
        assert response.getheader("access-control-allow-origin") == "*"
        assert response.getheader("access-control-allow-headers") == "content-type"
        response.read()
        connection.close()
        balance = chain.rpc.call("eth_getBalance", address_text(chain.account("buyer").address), "latest")
        assert balance == "0x0"
