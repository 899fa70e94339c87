// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice Gas of whole transactions (with the 21,000 and the calldata), as a receipt would show it, on TestUSDC and
/// with fixed inputs. A change shows as a difference to snapshots/Channels.json.
/// forge-config: default.isolate = true
contract ChannelsGasTest is ChannelsFixture {
    string private constant GROUP = "Channels";

    function setUp() public {
        _deploy();
        // Another buyer was here before: the contract's balance at the token is not zero.
        _fund(thief, 1e6);
        usdc.mint(buyer, 100e6);
        vm.prank(buyer);
        usdc.approve(address(channels), 50e6);
    }

    function test_gasOfFirstDepositAndOpenByRelayer() public {
        IChannels.Config memory cfg = _config(uint256(keccak256("first")));
        bytes[] memory calls = new bytes[](2);
        bytes memory signature = _depositSignature(BUYER_KEY, 10e6, operator, 5e6, "salt");
        calls[0] = abi.encodeCall(
            IChannels.depositWithAuthorization, (buyer, 10e6, 0, FOREVER, operator, 5e6, "salt", signature)
        );
        calls[1] = abi.encodeCall(
            IChannels.allocate, (cfg, 1e6, FOREVER, _allocation(OPERATOR_KEY, cfg, 1e6))
        );
        channels.multicall(calls);
        vm.snapshotGasLastCall(GROUP, "multicall: depositWithAuthorization + allocate by operator, first");
    }

    function test_gasOfDepositAndOpenByBuyer() public {
        IChannels.Config memory cfg = _config(uint256(keccak256("first")));
        bytes[] memory calls = new bytes[](2);
        calls[0] = abi.encodeCall(IChannels.deposit, (10e6));
        calls[1] = abi.encodeCall(IChannels.allocate, (cfg, 1e6, 0, ""));
        vm.prank(buyer);
        channels.multicall(calls);
        vm.snapshotGasLastCall(GROUP, "multicall: deposit + allocate by buyer, first");
    }

    function test_gasOfPermit() public {
        bytes memory signature = _permitSignature(BUYER_KEY, 10e6);
        vm.prank(buyer);
        channels.depositWithPermit(10e6, FOREVER, signature);
        vm.snapshotGasLastCall(GROUP, "depositWithPermit, first");
    }

    function test_gasOfOneChannel() public {
        vm.startPrank(buyer);
        channels.deposit(20e6);
        channels.setOperator(operator, 10e6);
        vm.stopPrank();
        IChannels.Config memory cfg = _config(uint256(keccak256("other")));
        channels.allocate(cfg, 1e6, FOREVER, _allocation(OPERATOR_KEY, cfg, 1e6));
        cfg = _config(uint256(keccak256("one")));
        bytes32 id = channels.channelId(cfg);

        bytes memory signature = _allocation(OPERATOR_KEY, cfg, 1e6);
        channels.allocate(cfg, 1e6, FOREVER, signature);
        vm.snapshotGasLastCall(GROUP, "allocate by operator: open");
        signature = _allocation(OPERATOR_KEY, cfg, 2e6);
        channels.allocate(cfg, 2e6, FOREVER, signature);
        vm.snapshotGasLastCall(GROUP, "allocate by operator: top up");

        signature = _voucher(SIGNER_KEY, id, 300_000);
        channels.claim(seller, _one(cfg, 300_000, signature), false);
        vm.snapshotGasLastCall(GROUP, "claim of 1 row to credit, seller's first");
        signature = _voucher(SIGNER_KEY, id, 600_000);
        channels.claim(seller, _one(cfg, 600_000, signature), true);
        vm.snapshotGasLastCall(GROUP, "claim of 1 row with payout");

        signature = _voucher(SIGNER_KEY, id, 900_000);
        bytes memory payeeSignature = _sign(SELLER_KEY, _closeDigest(id, 900_000));
        channels.close(cfg, 900_000, signature, payeeSignature);
        vm.snapshotGasLastCall(GROUP, "close by a relayer, seller without credit");
        channels.payout(seller);
        vm.snapshotGasLastCall(GROUP, "payout");
        vm.prank(buyer);
        channels.withdraw(1e6);
        vm.snapshotGasLastCall(GROUP, "withdraw");
    }

    function test_gasOfCloseBySeller() public {
        _fund(buyer, 20e6);
        IChannels.Config memory cfg = _config(uint256(keccak256("one")));
        bytes32 id = _open(cfg, 2e6);
        bytes memory signature = _voucher(SIGNER_KEY, id, 900_000);
        vm.prank(seller);
        channels.close(cfg, 900_000, signature, "");
        vm.snapshotGasLastCall(GROUP, "close by seller, without credit");
    }

    function test_gasOfDelayedClose() public {
        _fund(buyer, 20e6);
        IChannels.Config memory cfg = _config(uint256(keccak256("one")));
        _open(cfg, 2e6);
        vm.prank(buyer);
        channels.requestClose(cfg, 0, "");
        vm.snapshotGasLastCall(GROUP, "requestClose by buyer");
        vm.warp(START + DELAY);
        channels.finalizeClose(cfg);
        vm.snapshotGasLastCall(GROUP, "finalizeClose");
    }

    /// @dev The channels of a hundred buyers, as a seller's batch has them.
    function _batch(uint256 size) private returns (IChannels.Claim[] memory rows) {
        rows = new IChannels.Claim[](size);
        for (uint256 i; i < size; ++i) {
            uint256 key = uint256(keccak256(abi.encode("buyer", i)));
            address payer = vm.addr(key);
            _fund(payer, 2e6);
            IChannels.Config memory cfg =
                IChannels.Config(payer, payer, seller, DELAY, keccak256(abi.encode("salt", i)));
            bytes32 id = _open(cfg, 1e6);
            rows[i] = IChannels.Claim(cfg, 300_000, _voucher(key, id, 300_000));
        }
    }

    function test_gasOfBatches() public {
        IChannels.Claim[] memory rows = _batch(100);
        channels.claim(seller, rows, true);
        uint256 gas = vm.snapshotGasLastCall(GROUP, "claim of 100 rows with payout, first rows");
        vm.snapshotValue(GROUP, "claim of 100 rows with payout, first rows: each", gas / 100);
        for (uint256 i; i < 100; ++i) {
            uint256 key = uint256(keccak256(abi.encode("buyer", i)));
            rows[i].amount = 600_000;
            rows[i].sig = _voucher(key, channels.channelId(rows[i].cfg), 600_000);
        }
        channels.claim(seller, rows, true);
        gas = vm.snapshotGasLastCall(GROUP, "claim of 100 rows with payout, later rows");
        vm.snapshotValue(GROUP, "claim of 100 rows with payout, later rows: each", gas / 100);
    }
}
