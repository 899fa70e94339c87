// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Channels} from "../src/Channels.sol";
import {IChannels} from "../src/IChannels.sol";
import {IUSDC} from "../src/IUSDC.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {HostileUSDC} from "./helpers/HostileUSDC.sol";
import {UnrulyToken} from "./helpers/UnrulyToken.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What a paused, refusing or destroyed token can stop, and what it cannot.
contract ChannelsTokenTest is ChannelsFixture {
    IChannels.Config private cfg;
    bytes32 private id;
    bytes private constant PAUSED = bytes("Pausable: paused");
    bytes private constant BARRED = bytes("Blacklistable: account is blacklisted");

    function setUp() public {
        _deploy();
        _fund(buyer, 50e6);
        usdc.mint(buyer, 10e6);
        vm.startPrank(buyer);
        usdc.approve(address(channels), 10e6);
        channels.setOperator(operator, 20e6);
        vm.stopPrank();
        cfg = _config(1);
        id = _open(cfg, 10e6);
    }

    /// @dev Every accounting function once, with the outcome that a healthy token would have.
    function _checkAccounting() private {
        vm.startPrank(buyer);
        channels.setOperator(operator, 10e6);
        channels.allocate(cfg, 12e6, 0, "");
        vm.stopPrank();
        IChannels.Config memory other = _config(2);
        channels.allocate(other, 5e6, FOREVER, _allocation(OPERATOR_KEY, other, 5e6));
        _claim(cfg, 3e6, false);
        vm.prank(buyer);
        channels.requestClose(cfg, 0, "");
        _claim(cfg, 4e6, false);
        vm.warp(block.timestamp + DELAY);
        channels.finalizeClose(cfg);
        bytes memory signature = _voucher(SIGNER_KEY, channels.channelId(other), 2e6);
        vm.prank(seller);
        channels.close(other, 2e6, signature, "");
        checkEqual(channels.credit(seller), 6e6, "credit");
        checkEqual(_free(buyer), 44e6, "free");
    }

    function test_pauseStopsDepositsAndPayoutsAlone() public {
        usdc.setPaused(true);
        bytes memory signature = _depositSignature(BUYER_KEY, 1e6, operator, 1, "salt");
        vm.expectRevert(PAUSED);
        channels.depositWithAuthorization(buyer, 1e6, 0, FOREVER, operator, 1, "salt", signature);
        vm.startPrank(buyer);
        vm.expectRevert(PAUSED);
        channels.deposit(1e6);
        vm.expectRevert(PAUSED);
        channels.depositWithPermit(1e6, FOREVER, "");
        vm.expectRevert(PAUSED);
        channels.withdraw(1e6);
        vm.stopPrank();
        _checkAccounting();
        vm.expectRevert(PAUSED);
        channels.payout(seller);
        checkEqual(channels.credit(seller), 6e6, "credit after a refused payout");
        usdc.setPaused(false);
        channels.payout(seller);
        checkEqual(usdc.balanceOf(seller), 6e6, "paid");
    }

    function test_refusedPayoutUndoesTheClaimInTheSameCall() public {
        usdc.setBlacklisted(seller, true);
        bytes memory signature = _voucher(SIGNER_KEY, id, 3e6);
        vm.expectRevert(BARRED);
        channels.claim(seller, _one(cfg, 3e6, signature), true);
        checkEqual(_channel(id).claimed, 0, "claimed");
        channels.claim(seller, _one(cfg, 3e6, signature), false);
        checkEqual(channels.credit(seller), 3e6, "credit");
    }

    function test_blacklistedSellerHurtsOnlyItself() public {
        usdc.setBlacklisted(seller, true);
        _checkAccounting();
        vm.expectRevert(BARRED);
        channels.payout(seller);
        vm.prank(buyer);
        channels.withdraw(44e6);
        checkEqual(usdc.balanceOf(buyer), 54e6, "withdrawn");
        usdc.setBlacklisted(seller, false);
        channels.payout(seller);
        checkEqual(usdc.balanceOf(seller), 6e6, "paid");
    }

    function test_blacklistedBuyerHurtsOnlyItself() public {
        usdc.setBlacklisted(buyer, true);
        vm.startPrank(buyer);
        vm.expectRevert(BARRED);
        channels.deposit(1e6);
        vm.expectRevert(BARRED);
        channels.withdraw(1e6);
        vm.stopPrank();
        _checkAccounting();
        channels.payout(seller);
        checkEqual(usdc.balanceOf(seller), 6e6, "paid");
    }

    function test_blacklistedContractFreezesMoneyButNotAccounts() public {
        usdc.setBlacklisted(address(channels), true);
        vm.startPrank(buyer);
        vm.expectRevert(BARRED);
        channels.deposit(1e6);
        vm.expectRevert(BARRED);
        channels.withdraw(1e6);
        vm.stopPrank();
        _checkAccounting();
        vm.expectRevert(BARRED);
        channels.payout(seller);
        usdc.setBlacklisted(address(channels), false);
        channels.payout(seller);
        checkEqual(usdc.balanceOf(seller), 6e6, "paid");
    }

    /// @dev The token's code is the one instruction that consumes all gas and reverts.
    function test_accountingNeverCallsTheToken() public {
        vm.etch(address(usdc), hex"fe");
        _checkAccounting();
    }
}

/// @notice A token that was upgraded into a hostile one.
contract ChannelsHostileTokenTest is ChannelsFixture {
    HostileUSDC private token;

    function setUp() public {
        vm.warp(START);
        token = new HostileUSDC();
        channels = new Channels(IUSDC(address(token)));
        token.mint(buyer, 100e6);
        vm.prank(buyer);
        channels.deposit(50e6);
    }

    function _depositWithAuthorization(uint256 value) private {
        channels.depositWithAuthorization(buyer, value, 0, FOREVER, address(0), 0, "", "");
    }

    function _expectShort(uint256 value, uint256 arrived) private {
        vm.expectRevert(abi.encodeWithSelector(IChannels.Short.selector, value, arrived));
    }

    function test_feeIsNeverCredited() public {
        token.turn(UnrulyToken.Mood.TakesFee);
        vm.startPrank(buyer);
        _expectShort(10e6, 9_900_000);
        channels.deposit(10e6);
        _expectShort(10e6, 9_900_000);
        channels.depositWithPermit(10e6, FOREVER, "");
        _expectShort(10e6, 9_900_000);
        _depositWithAuthorization(10e6);
        checkEqual(_free(buyer), 50e6, "free");
    }

    function test_tokenThatMovesNothingCreditsNothing() public {
        token.turn(UnrulyToken.Mood.MovesNothing);
        vm.startPrank(buyer);
        _expectShort(10e6, 0);
        channels.deposit(10e6);
        _expectShort(10e6, 0);
        _depositWithAuthorization(10e6);
    }

    function test_tokenThatTakesInsteadCreditsNothing() public {
        token.drain(true);
        _expectShort(10e6, 0);
        _depositWithAuthorization(10e6);
    }

    function test_tokenThatSaysNoIsBelieved() public {
        IChannels.Config memory cfg = _config(1);
        _open(cfg, 10e6);
        _claim(cfg, 4e6, false);
        token.turn(UnrulyToken.Mood.SaysNo);
        bytes4 refused = IChannels.TransferRefused.selector;
        vm.startPrank(buyer);
        vm.expectRevert(abi.encodeWithSelector(refused, buyer, channels, 1e6));
        channels.deposit(1e6);
        vm.expectRevert(abi.encodeWithSelector(refused, buyer, channels, 1e6));
        channels.depositWithPermit(1e6, FOREVER, "");
        vm.expectRevert(abi.encodeWithSelector(refused, channels, buyer, 1e6));
        channels.withdraw(1e6);
        vm.expectRevert(abi.encodeWithSelector(refused, channels, seller, 4e6));
        channels.payout(seller);
        checkEqual(_free(buyer), 40e6, "free");
        checkEqual(channels.credit(seller), 4e6, "credit");
    }

    /// @dev The token calls `message` as the buyer's deposit, withdrawal and the seller's payout call it.
    function _checkLocked(bytes memory message) private {
        IChannels.Config memory cfg = _config(1);
        token.callBack(address(channels), message);
        for (uint256 step; step < 5; ++step) {
            vm.prank(buyer);
            if (step == 0) channels.deposit(1e6);
            else if (step == 1) channels.depositWithPermit(1e6, FOREVER, "");
            else if (step == 2) _depositWithAuthorization(1e6);
            else if (step == 3) channels.withdraw(1e6);
            else channels.payout(seller);
            check(!token.hasEntered(), "the token entered");
            checkEqual(bytes32(token.answer()), bytes32(IChannels.Locked.selector), "answer");
        }
        token.turn(UnrulyToken.Mood.Good);
        uint96 claimed = _channel(channels.channelId(cfg)).claimed + 1e6;
        _claim(cfg, claimed, false);
    }

    function test_nothingCanBeEnteredWhileTheTokenIsCalled() public {
        IChannels.Config memory cfg = _config(1);
        _open(cfg, 40e6);
        _claim(cfg, 1e6, false);
        IChannels.Claim[] memory none = new IChannels.Claim[](0);
        _checkLocked(abi.encodeCall(IChannels.deposit, (0)));
        _checkLocked(abi.encodeCall(IChannels.depositWithPermit, (0, 0, "")));
        _checkLocked(
            abi.encodeCall(IChannels.depositWithAuthorization, (buyer, 0, 0, 0, address(0), 0, "", ""))
        );
        _checkLocked(abi.encodeCall(IChannels.setOperator, (thief, 1)));
        _checkLocked(abi.encodeCall(IChannels.withdraw, (0)));
        _checkLocked(abi.encodeCall(IChannels.allocate, (cfg, 41e6, 0, "")));
        _checkLocked(abi.encodeCall(IChannels.claim, (seller, none, true)));
        _checkLocked(abi.encodeCall(IChannels.payout, (seller)));
        _checkLocked(abi.encodeCall(IChannels.close, (cfg, 0, "", "")));
        _checkLocked(abi.encodeCall(IChannels.requestClose, (cfg, 0, "")));
        _checkLocked(abi.encodeCall(IChannels.finalizeClose, (cfg)));
        bytes[] memory calls = new bytes[](1);
        calls[0] = abi.encodeCall(IChannels.payout, (seller));
        _checkLocked(abi.encodeCall(IChannels.multicall, (calls)));
    }

    /// @dev What the contract says it holds for a moment of the call is already final: effects come first.
    function test_creditIsGoneBeforeTheTokenIsCalled() public {
        IChannels.Config memory cfg = _config(1);
        _open(cfg, 10e6);
        _claim(cfg, 4e6, false);
        token.callBack(address(channels), abi.encodeCall(IChannels.credit, (seller)));
        channels.payout(seller);
        checkEqual(abi.decode(token.answer(), (uint256)), 0, "credit seen by the token");
        token.callBack(address(channels), abi.encodeCall(IChannels.accounts, (buyer)));
        vm.prank(buyer);
        channels.withdraw(1e6);
        checkEqual(uint256(bytes32(token.answer())), 39e6, "free seen by the token");
    }
}
