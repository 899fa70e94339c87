// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {vm} from "./helpers/Vm.sol";
import {Wallet} from "./helpers/Wallet.sol";

/// @notice A buyer's account: deposits, operator, withdrawals.
contract ChannelsAccountsTest is ChannelsFixture {
    function setUp() public {
        _deploy();
        usdc.mint(buyer, 100e6);
    }

    function _depositWithAuthorization(uint256 value, address op, uint96 limit, bytes memory signature) private {
        channels.depositWithAuthorization(buyer, value, 0, FOREVER, op, limit, "salt", signature);
    }

    function test_depositRaisesTheFreePartByWhatArrived() public {
        vm.startPrank(buyer);
        usdc.approve(address(channels), 7e6);
        vm.expectEmit(address(channels));
        emit IChannels.Deposited(buyer, 7e6);
        channels.deposit(7e6);
        vm.stopPrank();
        checkEqual(_free(buyer), 7e6, "free");
        checkEqual(usdc.balanceOf(address(channels)), 7e6, "balance");
    }

    function test_depositsAddUp() public {
        _fund(buyer, 3e6);
        _fund(buyer, 4e6);
        checkEqual(_free(buyer), 7e6, "free");
    }

    function test_depositWithoutApprovalChangesNothing() public {
        vm.prank(buyer);
        vm.expectRevert(bytes("ERC20: transfer amount exceeds allowance"));
        channels.deposit(1e6);
        checkEqual(_free(buyer), 0, "free");
    }

    function test_moneySentWithoutDepositIsNobodys() public {
        usdc.mint(address(channels), 5e6);
        _fund(buyer, 1e6);
        checkEqual(_free(buyer), 1e6, "free");
    }

    function test_accountNeverHoldsMoreThanFits() public {
        uint256 most = type(uint96).max;
        _fund(buyer, most - 5);
        usdc.mint(buyer, 6);
        vm.startPrank(buyer);
        usdc.approve(address(channels), type(uint256).max);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverMaximum.selector, 6, 5));
        channels.deposit(6);
        channels.deposit(5);
        vm.stopPrank();
        checkEqual(_free(buyer), most, "free");
    }

    function test_depositAboveUint96IsRefused() public {
        uint256 value = uint256(type(uint96).max) + 1;
        usdc.mint(buyer, value);
        vm.startPrank(buyer);
        usdc.approve(address(channels), value);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverMaximum.selector, value, type(uint96).max));
        channels.deposit(value);
    }

    function test_permitNeedsNoApprovalBefore() public {
        bytes memory signature = _permitSignature(BUYER_KEY, 5e6);
        vm.prank(buyer);
        channels.depositWithPermit(5e6, FOREVER, signature);
        checkEqual(_free(buyer), 5e6, "free");
    }

    function test_permitHandedInByAnotherStillDeposits() public {
        bytes memory signature = _permitSignature(BUYER_KEY, 5e6);
        vm.prank(thief);
        usdc.permit(buyer, address(channels), 5e6, FOREVER, signature);
        vm.prank(buyer);
        channels.depositWithPermit(5e6, FOREVER, signature);
        checkEqual(_free(buyer), 5e6, "free");
    }

    function test_permitOfAnotherGivesTheCallerNothing() public {
        bytes memory signature = _permitSignature(BUYER_KEY, 5e6);
        vm.prank(thief);
        vm.expectRevert();
        channels.depositWithPermit(5e6, FOREVER, signature);
        checkEqual(_free(thief), 0, "free");
    }

    function test_authorizationDepositsAndNamesTheOperator() public {
        bytes memory signature = _depositSignature(BUYER_KEY, 9e6, operator, 4e6, "salt");
        vm.expectEmit(address(channels));
        emit IChannels.Deposited(buyer, 9e6);
        vm.expectEmit(address(channels));
        emit IChannels.OperatorSet(buyer, operator, 4e6);
        vm.prank(thief);
        _depositWithAuthorization(9e6, operator, 4e6, signature);
        (uint96 free, address op, uint96 limit,,) = channels.accounts(buyer);
        checkEqual(free, 9e6, "free");
        checkEqual(op, operator, "operator");
        checkEqual(limit, 4e6, "limit");
    }

    function test_authorizationWithoutOperatorLeavesTheOldOne() public {
        vm.prank(buyer);
        channels.setOperator(operator, 4e6);
        _depositWithAuthorization(9e6, address(0), 0, _depositSignature(BUYER_KEY, 9e6, address(0), 0, "salt"));
        (uint96 free, address op, uint96 limit,,) = channels.accounts(buyer);
        checkEqual(free, 9e6, "free");
        checkEqual(op, operator, "operator");
        checkEqual(limit, 4e6, "limit");
    }

    function test_relayerCanChangeNoParameter() public {
        bytes memory signature = _depositSignature(BUYER_KEY, 9e6, operator, 4e6, "salt");
        bytes memory refusal = bytes("FiatTokenV2: invalid signature");
        vm.expectRevert(refusal);
        _depositWithAuthorization(9e6, thief, 4e6, signature);
        vm.expectRevert(refusal);
        _depositWithAuthorization(9e6, operator, 5e6, signature);
        vm.expectRevert(refusal);
        _depositWithAuthorization(8e6, operator, 4e6, signature);
        vm.expectRevert(refusal);
        channels.depositWithAuthorization(buyer, 9e6, 0, FOREVER, operator, 4e6, "other", signature);
        vm.expectRevert(refusal);
        channels.depositWithAuthorization(thief, 9e6, 0, FOREVER, operator, 4e6, "salt", signature);
    }

    function test_authorizationCountsOnce() public {
        bytes memory signature = _depositSignature(BUYER_KEY, 9e6, operator, 4e6, "salt");
        _depositWithAuthorization(9e6, operator, 4e6, signature);
        vm.expectRevert(bytes("FiatTokenV2: authorization is used or canceled"));
        _depositWithAuthorization(9e6, operator, 4e6, signature);
    }

    function test_contractWalletDepositsByItsOwnSignature() public {
        Wallet wallet = new Wallet(buyer);
        usdc.mint(address(wallet), 5e6);
        bytes32 nonce = keccak256(abi.encode(operator, uint96(2e6), bytes32("salt")));
        bytes32 structHash = keccak256(
            abi.encode(
                usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(), wallet, channels, 5e6, 0, FOREVER, nonce
            )
        );
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", usdc.DOMAIN_SEPARATOR(), structHash));
        bytes memory signature = _sign(BUYER_KEY, digest);
        channels.depositWithAuthorization(
            address(wallet), 5e6, 0, FOREVER, operator, 2e6, "salt", signature
        );
        checkEqual(_free(address(wallet)), 5e6, "free");
    }

    function test_withdrawPaysTheOwnerItsFreePart() public {
        _fund(buyer, 5e6);
        vm.expectEmit(address(channels));
        emit IChannels.Withdrawn(buyer, 2e6);
        vm.prank(buyer);
        channels.withdraw(2e6);
        checkEqual(_free(buyer), 3e6, "free");
        checkEqual(usdc.balanceOf(buyer), 102e6, "balance");
    }

    function test_withdrawOfMoreThanFreeIsRefused() public {
        _fund(buyer, 5e6);
        _open(_config(0), 2e6);
        vm.startPrank(buyer);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverFree.selector, 3e6 + 1, 3e6));
        channels.withdraw(3e6 + 1);
        channels.withdraw(3e6);
        checkEqual(_free(buyer), 0, "free");
    }

    function test_operatorCannotWithdraw() public {
        _fund(buyer, 5e6);
        vm.prank(buyer);
        channels.setOperator(operator, 5e6);
        vm.prank(operator);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverFree.selector, 1, 0));
        channels.withdraw(1);
    }

    function test_thiefCannotNameAnOperatorForAnother() public {
        vm.prank(thief);
        channels.setOperator(thief, 5e6);
        (, address op,,,) = channels.accounts(buyer);
        checkEqual(op, address(0), "operator");
    }

    function testFuzz_depositsAndWithdrawalsBalance(uint96 put, uint96 taken) public {
        uint256 value = bound(put, 1, 1e15);
        uint96 back = uint96(bound(taken, 0, value));
        _fund(buyer, value);
        vm.prank(buyer);
        channels.withdraw(back);
        checkEqual(_free(buyer), value - back, "free");
        checkEqual(usdc.balanceOf(address(channels)), value - back, "balance");
    }

    function test_callsInOneTransactionAreAllOrNothing() public {
        vm.prank(buyer);
        usdc.approve(address(channels), 10e6);
        bytes[] memory calls = new bytes[](3);
        calls[0] = abi.encodeCall(IChannels.deposit, (10e6));
        calls[1] = abi.encodeCall(IChannels.setOperator, (operator, 1e6));
        calls[2] = abi.encodeCall(IChannels.withdraw, (11e6));
        vm.prank(buyer);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverFree.selector, 11e6, 10e6));
        channels.multicall(calls);
        checkEqual(_free(buyer), 0, "free after a failure");
        calls[2] = abi.encodeCall(IChannels.withdraw, (4e6));
        vm.prank(buyer);
        channels.multicall(calls);
        checkEqual(_free(buyer), 6e6, "free");
    }

    function test_callsInOneTransactionMayBeNested() public {
        vm.prank(buyer);
        usdc.approve(address(channels), 10e6);
        bytes[] memory inner = new bytes[](2);
        inner[0] = abi.encodeCall(IChannels.deposit, (10e6));
        inner[1] = abi.encodeCall(IChannels.withdraw, (1e6));
        bytes[] memory outer = new bytes[](2);
        outer[0] = abi.encodeCall(IChannels.multicall, (inner));
        outer[1] = abi.encodeCall(IChannels.withdraw, (1e6));
        vm.prank(buyer);
        channels.multicall(outer);
        checkEqual(_free(buyer), 8e6, "free");
    }

    function test_nothingIsPayable() public {
        bytes[] memory calls = new bytes[](0);
        (bool ok,) = address(channels).call{value: 1}(abi.encodeCall(IChannels.multicall, (calls)));
        check(!ok, "multicall took ether");
        (ok,) = address(channels).call{value: 1}("");
        check(!ok, "the contract took ether");
    }
}
