// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IBonds} from "../src/IBonds.sol";
import {BondsFixture} from "./helpers/BondsFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice The two ways to lose a bond.
contract BondsSlashTest is BondsFixture {
    function setUp() public {
        _deploy();
        _bond(seller, 120e6);
    }

    function test_two_receipts_for_one_request_cost_the_bond_at_once() public {
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 2);
        bytes memory signatureA = _signed(SELLER_KEY, a);
        bytes memory signatureB = _signed(SELLER_KEY, b);
        bytes32 id = bonds.receiptHash(a);
        vm.expectEmit(address(bonds));
        emit IBonds.Slashed(seller, id, MAX_SLASH, true);
        vm.expectEmit(address(bonds));
        emit IBonds.Swept(MAX_SLASH);
        vm.prank(thief);
        bonds.slashEquivocation(a, signatureA, b, signatureB);
        checkEqual(_amount(seller), 120e6 - MAX_SLASH, "bond");
        checkEqual(usdc.balanceOf(SINK), MAX_SLASH, "sink");
        checkEqual(usdc.balanceOf(thief), 0, "the accuser gets nothing");
        check(bonds.faulted(seller, bytes32(uint256(1))), "noted");
    }

    /// @notice Any field that differs is a contradiction, not only the answer.
    function testFuzz_every_field_is_bound(uint8 field, uint96 value) public {
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 1);
        field = field % 6;
        if (field == 0) b.modelId = bytes32(uint256(1000) + value);
        if (field == 1) b.requestHash = bytes32(uint256(1000) + value);
        if (field == 2) b.responseHash = bytes32(uint256(1000) + value);
        if (field == 3) b.inTokens = uint32(bound(value, 1000, type(uint32).max));
        if (field == 4) b.outTokens = uint32(bound(value, 1000, type(uint32).max));
        if (field == 5) b.amount = uint96(bound(value, 5_001, type(uint96).max));
        bonds.slashEquivocation(a, _signed(SELLER_KEY, a), b, _signed(SELLER_KEY, b));
        checkEqual(_amount(seller), 120e6 - MAX_SLASH, "slashed");
    }

    function test_a_request_costs_a_bond_only_once() public {
        _equivocate(SELLER_KEY, 1);
        IBonds.Receipt memory a = _receipt(1, 3);
        IBonds.Receipt memory b = _receipt(1, 4);
        bytes memory signatureA = _signed(SELLER_KEY, a);
        bytes memory signatureB = _signed(SELLER_KEY, b);
        vm.expectRevert(abi.encodeWithSelector(IBonds.AlreadySlashed.selector, seller, bytes32(uint256(1))));
        bonds.slashEquivocation(a, signatureA, b, signatureB);
        _equivocate(SELLER_KEY, 2);
        checkEqual(_amount(seller), 120e6 - 2 * MAX_SLASH, "two requests, two slashes");
        _equivocate(SELLER_KEY, 3);
        checkEqual(_amount(seller), 0, "the third takes what is left");
        checkEqual(usdc.balanceOf(SINK), 120e6, "sink");
    }

    function test_a_cheat_cannot_use_up_the_request_of_another() public {
        _bond(thief, 1);
        _equivocate(THIEF_KEY, 1);
        checkEqual(_amount(thief), 0, "its own word costs it");
        _equivocate(SELLER_KEY, 1);
        checkEqual(_amount(seller), 120e6 - MAX_SLASH, "the seller's is still a fault");
    }

    function test_a_fault_is_not_used_up_on_an_empty_bond() public {
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 2);
        bytes memory signatureA = _signed(THIEF_KEY, a);
        bytes memory signatureB = _signed(THIEF_KEY, b);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NothingToSlash.selector, thief));
        bonds.slashEquivocation(a, signatureA, b, signatureB);
        _bond(thief, 10e6);
        bonds.slashEquivocation(a, signatureA, b, signatureB);
        checkEqual(_amount(thief), 0, "slashed");
    }

    function test_only_a_contradiction_is_equivocation() public {
        IBonds.Receipt memory a = _receipt(1, 1);
        bytes memory signatureA = _signed(SELLER_KEY, a);
        _expectNoEquivocation(a, a, abi.encodeWithSelector(IBonds.SameReceipt.selector, bonds.receiptHash(a)));
        IBonds.Receipt memory b = _receipt(2, 2);
        _expectNoEquivocation(a, b, abi.encodeWithSelector(IBonds.DifferentRequests.selector, a.requestId, b.requestId));
        b = _receipt(1, 2);
        b.channelId = bytes32(uint256(77));
        _expectNoEquivocation(a, b, abi.encodeWithSelector(IBonds.DifferentChannels.selector, a.channelId, b.channelId));
        b = _receipt(1, 2);
        bytes memory signatureB = _signed(THIEF_KEY, b);
        vm.expectRevert(abi.encodeWithSelector(IBonds.DifferentSellers.selector, seller, thief));
        bonds.slashEquivocation(a, signatureA, b, signatureB);
        vm.expectRevert(abi.encodeWithSelector(IBonds.DifferentSellers.selector, thief, seller));
        bonds.slashEquivocation(b, signatureB, a, signatureA);
    }

    function test_a_malformed_signature_is_nobodys() public {
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 2);
        bytes memory good = _signed(SELLER_KEY, a);
        bytes memory refusal = abi.encodeWithSelector(IBonds.BadSig.selector, bonds.receiptHash(b));
        bytes[5] memory bad = [bytes(""), hex"00", new bytes(64), new bytes(65), new bytes(66)];
        for (uint256 i; i < bad.length; ++i) {
            vm.expectRevert(refusal);
            bonds.slashEquivocation(a, good, b, bad[i]);
            vm.expectRevert(refusal);
            bonds.slashEquivocation(b, bad[i], a, good);
        }
        // The twin of a good signature: s in the upper half.
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(SELLER_KEY, bonds.receiptHash(b));
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        bytes memory twin = abi.encodePacked(r, order - uint256(s), v == 27 ? uint8(28) : uint8(27));
        vm.expectRevert(refusal);
        bonds.slashEquivocation(a, good, b, twin);
    }

    function test_a_receipt_for_another_chain_is_no_contradiction_here() public {
        IBonds.Receipt memory a = _receipt(1, 1);
        IBonds.Receipt memory b = _receipt(1, 2);
        bytes memory signatureA = _signed(SELLER_KEY, a);
        uint256 here = block.chainid;
        vm.chainId(here + 1);
        bytes memory elsewhere = _signed(SELLER_KEY, b);
        vm.chainId(here);
        vm.expectRevert();
        bonds.slashEquivocation(a, signatureA, b, elsewhere);
        checkEqual(_amount(seller), 120e6, "whole");
    }

    function test_a_case_without_appeal_slashes_when_the_window_has_passed() public {
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes32 id = bonds.receiptHash(receipt);
        bytes memory signature = _signed(SELLER_KEY, receipt);
        bytes[] memory verdicts = _verdicts(id, 30e6, false, K);
        vm.expectEmit(address(bonds));
        emit IBonds.CaseOpened(id, seller, 30e6, uint40(START + WINDOW));
        vm.prank(thief);
        bonds.openCase(receipt, signature, 30e6, verdicts);
        (uint96 amount, uint96 locked,, bool frozen) = bonds.bonds(seller);
        check(amount == 120e6 && locked == 30e6 && frozen, "locked");
        vm.warp(START + WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotReady.selector, START + WINDOW, START + WINDOW - 1));
        bonds.finalize(id, _none());
        vm.warp(START + WINDOW);
        vm.expectEmit(address(bonds));
        emit IBonds.Slashed(seller, id, 30e6, false);
        vm.prank(thief);
        bonds.finalize(id, _none());
        (amount, locked,, frozen) = bonds.bonds(seller);
        check(amount == 90e6 && locked == 0 && !frozen, "slashed");
        checkEqual(usdc.balanceOf(SINK), 30e6, "sink");
        check(_state(id) == IBonds.State.Done, "done");
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseNotOpen.selector, id, IBonds.State.Done));
        bonds.finalize(id, _none());
    }

    function test_a_receipt_is_judged_once() public {
        bytes32 id = _open(SELLER_KEY, 1, 30e6);
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes memory signature = _signed(SELLER_KEY, receipt);
        bytes[] memory verdicts = _verdicts(id, 20e6, false, K);
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseExists.selector, id));
        bonds.openCase(receipt, signature, 20e6, verdicts);
        vm.warp(START + WINDOW);
        bonds.finalize(id, _none());
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseExists.selector, id));
        bonds.openCase(receipt, signature, 20e6, verdicts);
    }

    function test_an_appeal_that_is_confirmed_slashes() public {
        bytes32 id = _open(SELLER_KEY, 1, 30e6);
        vm.warp(START + WINDOW - 1);
        vm.expectEmit(address(bonds));
        emit IBonds.Appealed(id, seller, uint40(START + 2 * WINDOW - 1));
        _appeal(id);
        vm.warp(START + 2 * WINDOW - 2);
        bonds.finalize(id, _verdicts(id, 30e6, true, K_APPEAL));
        checkEqual(_amount(seller), 90e6, "slashed");
        checkEqual(_lockedOf(seller), 0, "unlocked");
    }

    function test_an_appeal_that_nobody_confirms_leaves_the_bond_whole() public {
        bytes32 id = _open(SELLER_KEY, 1, 30e6);
        _appeal(id);
        vm.warp(START + WINDOW - 1);
        vm.expectRevert(abi.encodeWithSelector(IBonds.QuorumTooSmall.selector, 0, K_APPEAL));
        bonds.finalize(id, _none());
        bytes[] memory late = _verdicts(id, 30e6, true, K_APPEAL);
        vm.warp(START + WINDOW);
        vm.expectEmit(address(bonds));
        emit IBonds.CaseDropped(id, seller, 30e6);
        bonds.finalize(id, late);
        (uint96 amount, uint96 locked,, bool frozen) = bonds.bonds(seller);
        check(amount == 120e6 && locked == 0 && !frozen, "whole");
        checkEqual(usdc.balanceOf(SINK), 0, "sink");
    }

    function test_only_the_seller_appeals_in_time_and_once() public {
        bytes32 id = _open(SELLER_KEY, 1, 30e6);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NotSeller.selector, thief, seller));
        vm.prank(thief);
        bonds.appeal(id);
        vm.warp(START + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IBonds.TooLate.selector, START + WINDOW, START + WINDOW));
        vm.prank(seller);
        bonds.appeal(id);
        vm.warp(START);
        _appeal(id);
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseNotOpen.selector, id, IBonds.State.Appealed));
        vm.prank(seller);
        bonds.appeal(id);
        bytes32 unknown = bytes32(uint256(404));
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseNotOpen.selector, unknown, IBonds.State.None));
        vm.prank(seller);
        bonds.appeal(unknown);
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseNotOpen.selector, unknown, IBonds.State.None));
        bonds.finalize(unknown, _none());
    }

    function test_a_quorum_is_of_enough_different_verifiers() public {
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes32 id = bonds.receiptHash(receipt);
        _expectNoCase(
            receipt, _verdicts(id, 30e6, false, K - 1), abi.encodeWithSelector(IBonds.QuorumTooSmall.selector, K - 1, K)
        );
        bytes[] memory verdicts = _verdicts(id, 30e6, false, K);
        address first = vm.addr(verifierKeys[0]);
        address second = vm.addr(verifierKeys[1]);
        verdicts[1] = verdicts[0];
        _expectNoCase(receipt, verdicts, abi.encodeWithSelector(IBonds.NotVerifier.selector, first, first));
        verdicts = _verdicts(id, 30e6, false, K);
        (verdicts[0], verdicts[1]) = (verdicts[1], verdicts[0]);
        _expectNoCase(receipt, verdicts, abi.encodeWithSelector(IBonds.NotVerifier.selector, first, second));
        // Any more that is handed in must be a verifier's as well.
        bytes[] memory more = new bytes[](K + 1);
        verdicts = _verdicts(id, 30e6, false, K);
        for (uint256 i; i < K; ++i) {
            more[i] = verdicts[i];
        }
        more[K] = new bytes(65);
        bytes memory nobody = abi.encodeWithSelector(IBonds.BadSig.selector, bonds.verdictHash(id, 30e6, false));
        _expectNoCase(receipt, more, nobody);
        bonds.openCase(receipt, _signed(SELLER_KEY, receipt), 30e6, _verdicts(id, 30e6, false, VERIFIERS));
    }

    function test_a_stranger_is_no_verifier() public {
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes32 id = bonds.receiptHash(receipt);
        bytes[] memory verdicts = _verdicts(id, 30e6, false, K);
        // A key whose address is above all others, so that only its being a stranger is wrong.
        uint256 key = 1000;
        while (vm.addr(key) < vm.addr(verifierKeys[VERIFIERS - 1])) ++key;
        verdicts[K - 1] = _sign(key, bonds.verdictHash(id, 30e6, false));
        address before = vm.addr(verifierKeys[K - 2]);
        _expectNoCase(receipt, verdicts, abi.encodeWithSelector(IBonds.NotVerifier.selector, vm.addr(key), before));
    }

    function test_a_verdict_is_about_its_receipt_amount_and_stage() public {
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes32 id = bonds.receiptHash(receipt);
        bytes memory signature = _signed(SELLER_KEY, receipt);
        bytes[] memory other = _verdicts(id, 29e6, false, K);
        vm.expectRevert();
        bonds.openCase(receipt, signature, 30e6, other);
        other = _verdicts(bytes32(uint256(id) ^ 1), 30e6, false, K);
        vm.expectRevert();
        bonds.openCase(receipt, signature, 30e6, other);
        other = _verdicts(id, 30e6, true, K);
        vm.expectRevert();
        bonds.openCase(receipt, signature, 30e6, other);
        _open(SELLER_KEY, 1, 30e6);
        _appeal(id);
        bytes[] memory verdicts = _verdicts(id, 30e6, true, K_APPEAL - 1);
        vm.expectRevert(abi.encodeWithSelector(IBonds.QuorumTooSmall.selector, K_APPEAL - 1, K_APPEAL));
        bonds.finalize(id, verdicts);
        verdicts = _verdicts(id, 30e6, false, K_APPEAL);
        vm.expectRevert();
        bonds.finalize(id, verdicts);
        checkEqual(_amount(seller), 120e6, "whole");
    }

    function test_a_case_costs_at_most_the_maximum() public {
        IBonds.Receipt memory receipt = _receipt(1, 1);
        bytes32 id = bonds.receiptHash(receipt);
        bytes memory signature = _signed(SELLER_KEY, receipt);
        bytes[] memory verdicts = _verdicts(id, MAX_SLASH + 1, false, K);
        vm.expectRevert(abi.encodeWithSelector(IBonds.BadSlash.selector, MAX_SLASH + 1, MAX_SLASH));
        bonds.openCase(receipt, signature, MAX_SLASH + 1, verdicts);
        vm.expectRevert(abi.encodeWithSelector(IBonds.BadSlash.selector, 0, MAX_SLASH));
        bonds.openCase(receipt, signature, 0, verdicts);
        _open(SELLER_KEY, 1, MAX_SLASH);
        checkEqual(_lockedOf(seller), MAX_SLASH, "locked");
    }

    function test_a_case_locks_no_more_than_is_free_and_none_opens_over_nothing() public {
        _open(SELLER_KEY, 1, MAX_SLASH);
        _open(SELLER_KEY, 2, MAX_SLASH);
        bytes32 third = _open(SELLER_KEY, 3, MAX_SLASH);
        (, uint96 amount,,) = bonds.cases(third);
        checkEqual(amount, 20e6, "what was left");
        checkEqual(_lockedOf(seller), 120e6, "all");
        IBonds.Receipt memory receipt = _receipt(4, 1);
        bytes memory signature = _signed(SELLER_KEY, receipt);
        bytes[] memory verdicts = _verdicts(bonds.receiptHash(receipt), 1, false, K);
        vm.expectRevert(abi.encodeWithSelector(IBonds.NothingToSlash.selector, seller));
        bonds.openCase(receipt, signature, 1, verdicts);
        // The verdict on appeal is about what the case is about now.
        _appeal(third);
        bonds.finalize(third, _verdicts(third, 20e6, true, K_APPEAL));
        checkEqual(_amount(seller), 100e6, "slashed");
    }

    function test_nothing_is_taken_back_while_a_case_is_open() public {
        vm.prank(seller);
        bonds.requestUnbond();
        vm.warp(START + UNBOND - 1);
        bytes32 id = _open(SELLER_KEY, 1, 30e6);
        vm.warp(START + UNBOND + WINDOW - 2);
        _appeal(id);
        vm.warp(START + UNBOND + WINDOW);
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseIsOpen.selector, seller, 1));
        vm.prank(seller);
        bonds.unbondAll();
        bonds.finalize(id, _verdicts(id, 30e6, true, K_APPEAL));
        vm.prank(seller);
        bonds.unbondAll();
        checkEqual(usdc.balanceOf(seller), 90e6, "the rest");
    }

    function test_equivocation_takes_also_what_a_case_has_locked_and_nothing_twice() public {
        bytes32 first = _open(SELLER_KEY, 1, MAX_SLASH);
        bytes32 second = _open(SELLER_KEY, 2, MAX_SLASH);
        _equivocate(SELLER_KEY, 8);
        _equivocate(SELLER_KEY, 9);
        checkEqual(_amount(seller), 20e6, "two slashes");
        checkEqual(_lockedOf(seller), 20e6, "locked is at most what is there");
        vm.prank(seller);
        bonds.requestUnbond();
        _appeal(first);
        vm.warp(START + UNBOND);
        bonds.finalize(first, _none());
        checkEqual(_lockedOf(seller), 0, "the first claimed more than is there");
        vm.expectRevert(abi.encodeWithSelector(IBonds.CaseIsOpen.selector, seller, 1));
        vm.prank(seller);
        bonds.unbondAll();
        bonds.finalize(second, _none());
        checkEqual(_amount(seller), 0, "all gone");
        checkEqual(usdc.balanceOf(SINK), 120e6, "the sink has all, once");
        checkEqual(usdc.balanceOf(address(bonds)), 0, "nothing is left over");
    }

    function test_a_case_over_an_eaten_bond_ends_with_nothing() public {
        bytes32 id = _open(SELLER_KEY, 1, MAX_SLASH);
        _equivocate(SELLER_KEY, 7);
        _equivocate(SELLER_KEY, 8);
        _equivocate(SELLER_KEY, 9);
        vm.warp(START + WINDOW);
        vm.expectEmit(address(bonds));
        emit IBonds.Slashed(seller, id, 0, false);
        bonds.finalize(id, _none());
        checkEqual(usdc.balanceOf(SINK), 120e6, "no more than there was");
    }

    function testFuzz_a_slash_moves_what_the_bond_loses(uint96 put, uint96 claim, bool appealed) public {
        put = uint96(bound(put, 1, 200e6));
        claim = uint96(bound(claim, 1, MAX_SLASH));
        _bond(thief, put);
        bytes32 id = _open(THIEF_KEY, 5, claim);
        (, uint96 amount,,) = bonds.cases(id);
        checkEqual(amount, claim < put ? claim : put, "claimed");
        if (appealed) _appeal(id);
        else vm.warp(START + WINDOW);
        bonds.finalize(id, appealed ? _verdicts(id, amount, true, K_APPEAL) : _none());
        checkEqual(_amount(thief), put - amount, "bond");
        checkEqual(usdc.balanceOf(SINK), amount, "sink");
        checkEqual(_amount(seller), 120e6, "nobody else");
    }

    function _expectNoEquivocation(IBonds.Receipt memory a, IBonds.Receipt memory b, bytes memory refusal) private {
        bytes memory signatureA = _signed(SELLER_KEY, a);
        bytes memory signatureB = _signed(SELLER_KEY, b);
        vm.expectRevert(refusal);
        bonds.slashEquivocation(a, signatureA, b, signatureB);
    }

    function _expectNoCase(IBonds.Receipt memory receipt, bytes[] memory verdicts, bytes memory refusal) private {
        bytes memory signature = _signed(SELLER_KEY, receipt);
        vm.expectRevert(refusal);
        bonds.openCase(receipt, signature, 30e6, verdicts);
    }
}
