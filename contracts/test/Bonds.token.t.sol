// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../src/Bonds.sol";
import {IBonds} from "../src/IBonds.sol";
import {BondsFixture} from "./helpers/BondsFixture.sol";
import {UnrulyToken} from "./helpers/UnrulyToken.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What a paused, barring or hostile token can and cannot do to the bonds.
contract BondsTokenTest is BondsFixture {
    function setUp() public {
        _deploy();
        _bond(seller, 120e6);
    }

    function test_a_pause_stops_payments_and_no_judgement() public {
        bytes32 id = _open(SELLER_KEY, 1, 10e6);
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        vm.prank(seller);
        bonds.bond(1);
        _equivocate(SELLER_KEY, 2);
        bytes32 appealed = _open(SELLER_KEY, 3, 10e6);
        _appeal(appealed);
        vm.prank(seller);
        bonds.requestUnbond();
        vm.warp(START + WINDOW - 1);
        bonds.finalize(appealed, _verdicts(appealed, 10e6, true, K_APPEAL));
        vm.warp(START + UNBOND);
        bonds.finalize(id, _none());
        checkEqual(_amount(seller), 120e6 - MAX_SLASH - 20e6, "judged");
        checkEqual(bonds.owed(), MAX_SLASH + 20e6, "owed to the sink");
        checkEqual(usdc.balanceOf(SINK), 0, "not paid");
        vm.expectRevert("Pausable: paused");
        bonds.sweep();
        vm.expectRevert("Pausable: paused");
        vm.prank(seller);
        bonds.unbondAll();
        usdc.unpause();
        vm.expectEmit(address(bonds));
        emit IBonds.Swept(MAX_SLASH + 20e6);
        vm.prank(thief);
        bonds.sweep();
        checkEqual(usdc.balanceOf(SINK), MAX_SLASH + 20e6, "paid");
        checkEqual(bonds.owed(), 0, "once");
        bonds.sweep();
        checkEqual(usdc.balanceOf(SINK), MAX_SLASH + 20e6, "and only once");
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(usdc.balanceOf(address(bonds)), 0, "nothing is left over");
    }

    function test_a_barred_sink_delays_its_money_only() public {
        usdc.blacklist(SINK);
        _equivocate(SELLER_KEY, 1);
        checkEqual(bonds.owed(), MAX_SLASH, "owed");
        usdc.unBlacklist(SINK);
        _equivocate(SELLER_KEY, 2);
        checkEqual(usdc.balanceOf(SINK), MAX_SLASH, "the new one is paid");
        bonds.sweep();
        checkEqual(usdc.balanceOf(SINK), 2 * MAX_SLASH, "and the old one");
    }

    function test_a_barred_seller_cannot_save_its_bond() public {
        usdc.blacklist(seller);
        vm.prank(seller);
        bonds.requestUnbond();
        _equivocate(SELLER_KEY, 1);
        checkEqual(usdc.balanceOf(SINK), MAX_SLASH, "slashed");
        vm.warp(START + UNBOND);
        vm.expectRevert("Blacklistable: account is blacklisted");
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(_amount(seller), 70e6, "still its own");
        usdc.unBlacklist(seller);
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(usdc.balanceOf(seller), 70e6, "later");
    }

    function test_money_that_does_not_arrive_is_no_bond() public {
        UnrulyToken token = _unruly();
        token.turn(UnrulyToken.Mood.TakesFee);
        _expectNoBond(1000, abi.encodeWithSelector(IBonds.Short.selector, 1000, 990));
        token.turn(UnrulyToken.Mood.MovesNothing);
        _expectNoBond(1000, abi.encodeWithSelector(IBonds.Short.selector, 1000, 0));
        token.turn(UnrulyToken.Mood.SaysNo);
        _expectNoBond(1000, abi.encodeWithSelector(IBonds.TransferRefused.selector, seller, address(bonds), 1000));
    }

    function test_a_token_that_says_no_loses_nobodys_money() public {
        UnrulyToken token = _unruly();
        vm.prank(seller);
        bonds.bond(100e6);
        vm.prank(seller);
        bonds.requestUnbond();
        token.turn(UnrulyToken.Mood.SaysNo);
        _equivocate(SELLER_KEY, 1);
        token.turn(UnrulyToken.Mood.Reverts);
        bytes32 id = _open(SELLER_KEY, 2, 10e6);
        vm.warp(START + UNBOND);
        bonds.finalize(id, _none());
        checkEqual(bonds.owed(), MAX_SLASH + 10e6, "owed");
        token.turn(UnrulyToken.Mood.SaysNo);
        vm.expectRevert(abi.encodeWithSelector(IBonds.TransferRefused.selector, address(bonds), SINK, MAX_SLASH + 10e6));
        bonds.sweep();
        vm.expectRevert(abi.encodeWithSelector(IBonds.TransferRefused.selector, address(bonds), seller, 40e6));
        vm.prank(seller);
        bonds.unbondAll();
        token.turn(UnrulyToken.Mood.Good);
        bonds.sweep();
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(token.balanceOf(SINK), MAX_SLASH + 10e6, "sink");
        checkEqual(token.balanceOf(seller), 900e6 + 40e6, "seller");
    }

    function test_the_token_cannot_come_back_in() public {
        UnrulyToken token = _unruly();
        vm.prank(seller);
        bonds.bond(100e6);
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 2);
        bytes[9] memory calls = [
            abi.encodeCall(bonds.bond, (0)),
            abi.encodeCall(bonds.requestUnbond, ()),
            abi.encodeCall(bonds.unbondAll, ()),
            abi.encodeCall(bonds.sweep, ()),
            abi.encodeCall(bonds.appeal, (bytes32(0))),
            abi.encodeCall(bonds.finalize, (bytes32(0), _none())),
            abi.encodeCall(bonds.openCase, (a, "", 1, _none())),
            abi.encodeCall(bonds.slashEquivocation, (a, "", b, "")),
            abi.encodeCall(bonds.bond, (5))
        ];
        for (uint256 i; i < calls.length; ++i) {
            token.callBack(address(bonds), calls[i]);
            vm.prank(seller);
            bonds.bond(1);
            check(!token.hasEntered(), "kept out");
            checkEqual(bytes32(token.answer()), bytes32(IBonds.Locked.selector), "by the lock");
        }
        checkEqual(_amount(seller), 100e6 + calls.length, "what was put in");
        _equivocate(SELLER_KEY, 1);
        check(!token.hasEntered(), "nor while the sink is paid");
    }

    function test_a_gift_is_nobodys_bond() public {
        usdc.mint(address(bonds), 5e6);
        checkEqual(_amount(seller), 120e6, "bond");
        checkEqual(bonds.owed(), 0, "owed");
    }

    function _unruly() private returns (UnrulyToken token) {
        token = new UnrulyToken();
        token.mint(seller, 1000e6);
        bonds = _bondsOver(address(token));
    }

    function _expectNoBond(uint96 value, bytes memory refusal) private {
        vm.expectRevert(refusal);
        vm.prank(seller);
        bonds.bond(value);
        checkEqual(_amount(seller), 0, "no bond");
    }
}
