// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice Vouchers: what is claimed, by whom, alone and in batches, and how it is paid out.
contract ChannelsClaimTest is ChannelsFixture {
    IChannels.Config private cfg;
    bytes32 private id;

    function setUp() public {
        _deploy();
        _fund(buyer, 50e6);
        cfg = _config(1);
        id = _open(cfg, 10e6);
    }

    function test_anyoneMayClaimForTheSeller() public {
        vm.expectEmit(address(channels));
        emit IChannels.Claimed(id, 3e6);
        vm.expectEmit(address(channels));
        emit IChannels.Paid(seller, 3e6);
        // The caller is this test: a stranger to the channel.
        _claim(cfg, 3e6, true);
        checkEqual(usdc.balanceOf(seller), 3e6, "paid");
        checkEqual(channels.credit(seller), 0, "credit");
        checkEqual(_channel(id).claimed, 3e6, "claimed");
    }

    function test_claimWithoutPayoutStaysAsCredit() public {
        _claim(cfg, 3e6, false);
        checkEqual(channels.credit(seller), 3e6, "credit");
        checkEqual(usdc.balanceOf(seller), 0, "paid");
        vm.expectEmit(address(channels));
        emit IChannels.Paid(seller, 3e6);
        vm.prank(thief);
        channels.payout(seller);
        checkEqual(usdc.balanceOf(seller), 3e6, "paid");
        checkEqual(channels.credit(seller), 0, "credit after payout");
    }

    function test_payoutOfAClaimTakesOlderCreditAlong() public {
        _claim(cfg, 3e6, false);
        _claim(cfg, 4e6, true);
        checkEqual(usdc.balanceOf(seller), 4e6, "paid");
        checkEqual(channels.credit(seller), 0, "credit");
    }

    function test_payoutOfNothingDoesNothing() public {
        usdc.setPaused(true);
        vm.recordLogs();
        channels.payout(seller);
        channels.claim(seller, new IChannels.Claim[](0), true);
        checkEqual(vm.getRecordedLogs().length, 0, "events");
    }

    function testFuzz_vouchersAreCumulative(uint96 first, uint96 second) public {
        first = uint96(bound(first, 0, 10e6));
        second = uint96(bound(second, 0, 10e6));
        _claim(cfg, first, true);
        _claim(cfg, second, true);
        checkEqual(usdc.balanceOf(seller), first > second ? first : second, "paid");
    }

    function testFuzz_voucherAboveTheDepositIsRefused(uint96 amount) public {
        amount = uint96(bound(amount, 10e6 + 1, type(uint96).max));
        bytes memory signature = _voucher(SIGNER_KEY, id, amount);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverDeposit.selector, id, amount, 10e6));
        channels.claim(seller, _one(cfg, amount, signature), true);
    }

    function test_voucherOverTheWholeDepositIsPaid() public {
        _claim(cfg, 10e6, true);
        checkEqual(usdc.balanceOf(seller), 10e6, "paid");
    }

    function testFuzz_onlyTheSignersVoucherCounts(uint256 key, uint96 amount) public {
        key = bound(key, 1, type(uint128).max);
        vm.assume(key != SIGNER_KEY);
        amount = uint96(bound(amount, 1, 10e6));
        bytes memory signature = _voucher(key, id, amount);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, signer, vm.addr(key)));
        channels.claim(seller, _one(cfg, amount, signature), true);
    }

    function test_voucherFitsOneChannelAndAmount() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 3e6);
        IChannels.Config memory other = _config(2);
        _open(other, 10e6);
        vm.expectRevert();
        channels.claim(seller, _one(other, 3e6, signature), true);
        vm.expectRevert();
        channels.claim(seller, _one(cfg, 3e6 + 1, signature), true);
    }

    function test_closeSignatureIsNoVoucher() public {
        bytes memory signature = _sign(SIGNER_KEY, _closeDigest(id, 3e6));
        vm.expectRevert();
        channels.claim(seller, _one(cfg, 3e6, signature), true);
    }

    function test_twinOfASignatureIsRefused() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 3e6);
        uint256 order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141;
        (bytes32 r, bytes32 s, uint8 v) = _parts(signature);
        bytes memory twin = abi.encodePacked(r, bytes32(order - uint256(s)), uint8(55 - v));
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, signer, address(0)));
        channels.claim(seller, _one(cfg, 3e6, twin), true);
    }

    function test_signatureIsExactly65Bytes() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 3e6);
        (bytes32 r, bytes32 s, uint8 v) = _parts(signature);
        bytes[4] memory odd = [
            abi.encodePacked(r, s),
            bytes.concat(signature, hex"00"),
            abi.encodePacked(r, s, v - 27),
            bytes("")
        ];
        for (uint256 i; i < odd.length; ++i) {
            vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, signer, address(0)));
            channels.claim(seller, _one(cfg, 3e6, odd[i]), true);
        }
    }

    function _parts(bytes memory signature) private pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }

    function test_channelThatWasNeverOpenedPaysNothing() public {
        IChannels.Config memory none = _config(9);
        bytes32 noneId = channels.channelId(none);
        bytes memory signature = _voucher(SIGNER_KEY, noneId, 1);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverDeposit.selector, noneId, 1, 0));
        channels.claim(seller, _one(none, 1, signature), true);
    }

    function test_topUpLetsMoreBeClaimed() public {
        _claim(cfg, 10e6, true);
        _open(cfg, 12e6);
        _claim(cfg, 11e6, true);
        checkEqual(usdc.balanceOf(seller), 11e6, "paid");
    }

    function test_removedOperatorOrEmptyAccountStopsNoClaim() public {
        vm.startPrank(buyer);
        channels.setOperator(address(0), 0);
        channels.withdraw(40e6);
        vm.stopPrank();
        _claim(cfg, 10e6, true);
        checkEqual(usdc.balanceOf(seller), 10e6, "paid");
    }

    /// @dev Five channels of this seller: fresh, closed by the buyer, stale, closing, fresh.
    function _batch() private returns (IChannels.Claim[] memory rows) {
        rows = new IChannels.Claim[](5);
        for (uint256 i; i < 5; ++i) {
            IChannels.Config memory each = _config(10 + i);
            bytes32 eachId = _open(each, 2e6);
            rows[i] = IChannels.Claim(each, 1e6, _voucher(SIGNER_KEY, eachId, 1e6));
        }
        _claim(rows[2].cfg, 1_500_000, true);
        vm.startPrank(buyer);
        channels.requestClose(rows[1].cfg, 0, "");
        vm.warp(START + DELAY);
        channels.finalizeClose(rows[1].cfg);
        channels.requestClose(rows[3].cfg, 0, "");
        vm.stopPrank();
    }

    function test_closedAndStaleRowsDoNotStopABatch() public {
        channels.claim(seller, _batch(), true);
        checkEqual(usdc.balanceOf(seller), 1_500_000 + 3e6, "paid");
    }

    function test_batchInWhichAllIsClosedSaysSo() public {
        IChannels.Claim[] memory all = _batch();
        IChannels.Claim[] memory rows = new IChannels.Claim[](2);
        (rows[0], rows[1]) = (all[1], all[1]);
        bytes32 closedId = channels.channelId(all[1].cfg);
        vm.expectRevert(abi.encodeWithSelector(IChannels.ChannelIsClosed.selector, closedId));
        channels.claim(seller, rows, false);
        rows[1] = all[2];
        channels.claim(seller, rows, false);
        checkEqual(channels.credit(seller), 0, "credit");
    }

    function test_sameVoucherTwiceInABatchIsPaidOnce() public {
        IChannels.Claim[] memory rows = new IChannels.Claim[](3);
        rows[0] = IChannels.Claim(cfg, 3e6, _voucher(SIGNER_KEY, id, 3e6));
        rows[1] = rows[0];
        rows[2] = IChannels.Claim(cfg, 5e6, _voucher(SIGNER_KEY, id, 5e6));
        channels.claim(seller, rows, true);
        checkEqual(usdc.balanceOf(seller), 5e6, "paid");
    }

    function test_badRowStopsTheBatch() public {
        IChannels.Claim[] memory rows = new IChannels.Claim[](2);
        rows[0] = IChannels.Claim(cfg, 3e6, _voucher(SIGNER_KEY, id, 3e6));
        rows[1] = IChannels.Claim(cfg, 5e6, _voucher(THIEF_KEY, id, 5e6));
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, signer, thief));
        channels.claim(seller, rows, true);
        checkEqual(_channel(id).claimed, 0, "claimed");
    }

    function test_batchIsOfOneSeller() public {
        IChannels.Config memory other = _config(2);
        other.payee = thief;
        bytes32 otherId = _open(other, 1e6);
        IChannels.Claim[] memory rows = new IChannels.Claim[](2);
        rows[0] = IChannels.Claim(other, 1e6, _voucher(SIGNER_KEY, otherId, 1e6));
        rows[1] = IChannels.Claim(cfg, 3e6, _voucher(SIGNER_KEY, id, 3e6));
        vm.expectRevert(abi.encodeWithSelector(IChannels.NotAllowed.selector, thief, seller));
        channels.claim(thief, rows, true);
    }

    function testFuzz_sellersMoneyIsNeverMixed(uint96 mine, uint96 theirs) public {
        mine = uint96(bound(mine, 1, 10e6));
        theirs = uint96(bound(theirs, 1, 10e6));
        IChannels.Config memory other = _config(2);
        other.payee = thief;
        _open(other, 10e6);
        _claim(cfg, mine, false);
        _claim(other, theirs, false);
        checkEqual(channels.credit(seller), mine, "mine");
        checkEqual(channels.credit(thief), theirs, "theirs");
        channels.payout(thief);
        checkEqual(channels.credit(seller), mine, "mine after their payout");
        checkEqual(usdc.balanceOf(thief), theirs, "theirs paid");
    }

    function test_claimsWorkUntilTheCloseIsDone() public {
        vm.prank(buyer);
        channels.requestClose(cfg, 0, "");
        _claim(cfg, 1e6, false);
        vm.warp(START + DELAY + 100 days);
        _claim(cfg, 2e6, false);
        channels.finalizeClose(cfg);
        bytes memory signature = _voucher(SIGNER_KEY, id, 3e6);
        vm.expectRevert(abi.encodeWithSelector(IChannels.ChannelIsClosed.selector, id));
        channels.claim(seller, _one(cfg, 3e6, signature), false);
        checkEqual(channels.credit(seller), 2e6, "credit");
    }
}
