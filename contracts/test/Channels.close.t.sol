// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {vm} from "./helpers/Vm.sol";
import {Wallet} from "./helpers/Wallet.sol";

/// @notice Both ways to close: at once by the seller, after the delay for the buyer.
contract ChannelsCloseTest is ChannelsFixture {
    IChannels.Config private cfg;
    bytes32 private id;

    function setUp() public {
        _deploy();
        _fund(buyer, 50e6);
        cfg = _config(1);
        id = _open(cfg, 10e6);
    }

    function _expectBadSig(address expected, address recovered) private {
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, expected, recovered));
    }

    function _checkClosed(uint96 claimed) private view {
        IChannels.Channel memory channel = _channel(id);
        check(channel.closed, "not closed");
        checkEqual(channel.claimed, claimed, "claimed");
        checkEqual(channel.deposit, 10e6, "deposit");
        checkEqual(_free(buyer), 50e6 - claimed, "free");
        checkEqual(channels.credit(seller), claimed, "credit");
    }

    function test_sellerClosesAtOnceWithItsLastVoucher() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 4e6);
        vm.expectEmit(address(channels));
        emit IChannels.Closed(id, 4e6, 6e6);
        vm.prank(seller);
        channels.close(cfg, 4e6, signature, "");
        _checkClosed(4e6);
    }

    function test_sellerGivesAllBackWithoutAVoucher() public {
        vm.prank(seller);
        channels.close(cfg, 0, "", "");
        _checkClosed(0);
    }

    function test_closeKeepsWhatWasClaimedBefore() public {
        _claim(cfg, 3e6, false);
        vm.prank(seller);
        channels.close(cfg, 1e6, "", "");
        _checkClosed(3e6);
    }

    function test_closeOfExactlyWhatWasClaimedNeedsNoVoucher() public {
        _claim(cfg, 3e6, false);
        vm.prank(seller);
        channels.close(cfg, 3e6, "", "");
        _checkClosed(3e6);
    }

    function test_closeWithTheWholeDepositReturnsNothing() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 10e6);
        vm.prank(seller);
        channels.close(cfg, 10e6, signature, "");
        _checkClosed(10e6);
    }

    function testFuzz_closeSplitsTheDeposit(uint96 first, uint96 last) public {
        first = uint96(bound(first, 0, 10e6));
        last = uint96(bound(last, 0, 10e6));
        _claim(cfg, first, false);
        bytes memory signature = _voucher(SIGNER_KEY, id, last);
        vm.prank(seller);
        channels.close(cfg, last, signature, "");
        _checkClosed(first > last ? first : last);
    }

    function test_anyoneClosesWithTheSellersSignature() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 4e6);
        bytes memory payeeSignature = _sign(SELLER_KEY, _closeDigest(id, 4e6));
        vm.prank(buyer);
        channels.close(cfg, 4e6, signature, payeeSignature);
        _checkClosed(4e6);
    }

    function test_sellersSignatureFitsOneAmountAndChannel() public {
        bytes memory payeeSignature = _sign(SELLER_KEY, _closeDigest(id, 4e6));
        vm.startPrank(buyer);
        vm.expectRevert();
        channels.close(cfg, 0, "", payeeSignature);
        IChannels.Config memory other = _config(2);
        channels.allocate(other, 10e6, 0, "");
        vm.expectRevert();
        channels.close(other, 4e6, "", payeeSignature);
    }

    function test_buyerCannotCloseAtOnceAlone() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 1e6);
        bytes memory own = _sign(BUYER_KEY, _closeDigest(id, 1e6));
        vm.startPrank(buyer);
        _expectBadSig(seller, buyer);
        channels.close(cfg, 1e6, signature, own);
        _expectBadSig(seller, address(0));
        channels.close(cfg, 1e6, signature, "");
    }

    function test_sellerCannotTakeMoreThanItsVoucherOrTheDeposit() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 4e6);
        vm.prank(seller);
        vm.expectRevert();
        channels.close(cfg, 5e6, signature, "");
        vm.prank(seller);
        _expectBadSig(signer, address(0));
        channels.close(cfg, 1, "", "");
        signature = _voucher(SIGNER_KEY, id, 10e6 + 1);
        vm.prank(seller);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverDeposit.selector, id, 10e6 + 1, 10e6));
        channels.close(cfg, 10e6 + 1, signature, "");
    }

    function test_contractSellerClosesByItsOwnSignature() public {
        Wallet wallet = new Wallet(seller);
        cfg.payee = address(wallet);
        id = _open(cfg, 5e6);
        bytes memory signature = _voucher(SIGNER_KEY, id, 2e6);
        bytes memory payeeSignature = _sign(SELLER_KEY, _closeDigest(id, 2e6));
        wallet.turn(Wallet.Mood.Denies);
        _expectBadSig(address(wallet), seller);
        channels.close(cfg, 2e6, signature, payeeSignature);
        wallet.turn(Wallet.Mood.Good);
        channels.close(cfg, 2e6, signature, payeeSignature);
        checkEqual(channels.credit(address(wallet)), 2e6, "credit");
    }

    function test_closedChannelIsOverForGood() public {
        bytes memory signature = _voucher(SIGNER_KEY, id, 4e6);
        vm.startPrank(seller);
        channels.close(cfg, 4e6, signature, "");
        bytes memory refusal = abi.encodeWithSelector(IChannels.ChannelIsClosed.selector, id);
        vm.expectRevert(refusal);
        channels.close(cfg, 4e6, signature, "");
        vm.expectRevert(refusal);
        channels.claim(seller, _one(cfg, 4e6, signature), true);
        vm.expectRevert(refusal);
        channels.finalizeClose(cfg);
        vm.stopPrank();
        vm.startPrank(buyer);
        vm.expectRevert(refusal);
        channels.requestClose(cfg, 0, "");
        vm.expectRevert(refusal);
        channels.allocate(cfg, 20e6, 0, "");
        _checkClosed(4e6);
    }

    function test_channelThatWasNeverOpenedCannotBeClosed() public {
        IChannels.Config memory none = _config(9);
        bytes memory refusal =
            abi.encodeWithSelector(IChannels.ChannelIsNotOpen.selector, channels.channelId(none));
        vm.prank(seller);
        vm.expectRevert(refusal);
        channels.close(none, 0, "", "");
        vm.prank(buyer);
        vm.expectRevert(refusal);
        channels.requestClose(none, 0, "");
        vm.expectRevert(refusal);
        channels.finalizeClose(none);
    }

    function test_buyerGetsTheRestAfterTheDelay() public {
        vm.expectEmit(address(channels));
        emit IChannels.CloseRequested(id, seller, uint40(START + DELAY));
        vm.prank(buyer);
        channels.requestClose(cfg, 0, "");
        checkEqual(_channel(id).closeAt, START + DELAY, "closeAt");
        _claim(cfg, 3e6, false);
        vm.warp(START + DELAY - 1);
        vm.expectRevert(
            abi.encodeWithSelector(IChannels.NotReady.selector, START + DELAY, START + DELAY - 1)
        );
        channels.finalizeClose(cfg);
        vm.warp(START + DELAY);
        vm.expectEmit(address(channels));
        emit IChannels.Closed(id, 3e6, 7e6);
        vm.prank(thief);
        channels.finalizeClose(cfg);
        _checkClosed(3e6);
    }

    function test_closeNeedsARequestFirst() public {
        vm.warp(START + 365 days);
        vm.expectRevert(abi.encodeWithSelector(IChannels.NotReady.selector, 0, START + 365 days));
        channels.finalizeClose(cfg);
    }

    function test_requestCannotBeRepeatedOrPutOff() public {
        vm.startPrank(buyer);
        channels.requestClose(cfg, 0, "");
        vm.warp(START + 100);
        vm.expectRevert(abi.encodeWithSelector(IChannels.ChannelIsClosing.selector, id, START + DELAY));
        channels.requestClose(cfg, 0, "");
        checkEqual(_channel(id).closeAt, START + DELAY, "closeAt");
    }

    function test_operatorMayAskToClose() public {
        vm.prank(buyer);
        channels.setOperator(operator, 0);
        vm.prank(operator);
        channels.requestClose(cfg, 0, "");
        checkEqual(_channel(id).closeAt, START + DELAY, "closeAt");
    }

    function test_requestMayBeRelayedForBuyerAndOperator() public {
        vm.prank(buyer);
        channels.setOperator(operator, 0);
        channels.requestClose(cfg, FOREVER, _sign(BUYER_KEY, _requestDigest(id, FOREVER)));
        IChannels.Config memory other = _config(2);
        bytes32 otherId = _open(other, 1e6);
        channels.requestClose(other, FOREVER, _sign(OPERATOR_KEY, _requestDigest(otherId, FOREVER)));
        checkEqual(_channel(id).closeAt, START + DELAY, "closeAt");
        checkEqual(_channel(otherId).closeAt, START + DELAY, "closeAt of the other");
    }

    function test_requestCountsUntilItsLastSecond() public {
        uint40 last = uint40(START + 10);
        bytes memory signature = _sign(BUYER_KEY, _requestDigest(id, last));
        vm.warp(last + 1);
        vm.expectRevert(abi.encodeWithSelector(IChannels.Expired.selector, last, last + 1));
        channels.requestClose(cfg, last, signature);
        vm.warp(last);
        channels.requestClose(cfg, last, signature);
    }

    function test_strangersCannotAskToClose() public {
        bytes memory signature = _sign(THIEF_KEY, _requestDigest(id, FOREVER));
        vm.startPrank(thief);
        _expectBadSig(buyer, thief);
        channels.requestClose(cfg, FOREVER, signature);
        _expectBadSig(buyer, address(0));
        channels.requestClose(cfg, FOREVER, "");
        vm.stopPrank();
        vm.prank(seller);
        _expectBadSig(buyer, address(0));
        channels.requestClose(cfg, FOREVER, "");
    }

    function test_signatureForOneThingIsNoneForAnother() public {
        bytes memory signature = _sign(BUYER_KEY, _allocateDigest(id, 10e6, FOREVER));
        vm.expectRevert();
        channels.requestClose(cfg, FOREVER, signature);
        signature = _sign(BUYER_KEY, _requestDigest(id, FOREVER));
        vm.expectRevert();
        channels.allocate(cfg, 11e6, FOREVER, signature);
    }

    function test_contractWalletAsksToClose() public {
        Wallet wallet = new Wallet(buyer);
        _fund(address(wallet), 5e6);
        cfg.payer = address(wallet);
        wallet.run(address(channels), abi.encodeCall(IChannels.allocate, (cfg, 5e6, 0, "")));
        id = channels.channelId(cfg);
        bytes memory signature = _sign(BUYER_KEY, _requestDigest(id, FOREVER));
        channels.requestClose(cfg, FOREVER, signature);
        vm.warp(START + DELAY);
        channels.finalizeClose(cfg);
        checkEqual(_free(address(wallet)), 5e6, "free");
    }

    function test_sellerClosesAtOnceInTheDelay() public {
        vm.prank(buyer);
        channels.requestClose(cfg, 0, "");
        bytes memory signature = _voucher(SIGNER_KEY, id, 4e6);
        vm.prank(seller);
        channels.close(cfg, 4e6, signature, "");
        _checkClosed(4e6);
    }
}
