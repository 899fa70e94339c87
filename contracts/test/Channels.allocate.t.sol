// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsFixture} from "./helpers/ChannelsFixture.sol";
import {vm} from "./helpers/Vm.sol";
import {Wallet} from "./helpers/Wallet.sol";

/// @notice Opening and topping up: by whom, how much, and the operator's limit by UTC month.
contract ChannelsAllocateTest is ChannelsFixture {
    /// @dev The first second of December 2026.
    uint256 private constant NEXT_MONTH = 1_796_083_200;
    uint96 private constant LIMIT = 10e6;

    function setUp() public {
        _deploy();
        _fund(buyer, 50e6);
        vm.prank(buyer);
        channels.setOperator(operator, LIMIT);
    }

    function _allocateByOperator(uint256 salt, uint96 total) private {
        IChannels.Config memory cfg = _config(salt);
        bytes memory signature = _allocation(OPERATOR_KEY, cfg, total);
        channels.allocate(cfg, total, FOREVER, signature);
    }

    function _expectOverLimit(uint96 value, uint96 left) private {
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverLimit.selector, value, left));
    }

    function test_payerOpensAndTopsUp() public {
        IChannels.Config memory cfg = _config(1);
        bytes32 id = channels.channelId(cfg);
        vm.expectEmit(address(channels));
        emit IChannels.Allocated(id, buyer, seller, signer, DELAY, bytes32(uint256(1)), 2e6);
        _open(cfg, 2e6);
        _open(cfg, 5e6);
        checkEqual(_channel(id).deposit, 5e6, "deposit");
        checkEqual(_free(buyer), 45e6, "free");
    }

    function test_payersOwnCallIsNotLimited() public {
        _open(_config(1), LIMIT + 1);
        (uint96 used,) = _used(buyer);
        checkEqual(used, 0, "used");
    }

    function test_idBindsChainAndContractAndConfig() public {
        IChannels.Config memory cfg = _config(1);
        bytes32 id = channels.channelId(cfg);
        checkEqual(id, keccak256(abi.encode(block.chainid, address(channels), cfg)), "id");
        vm.chainId(8453);
        check(channels.channelId(cfg) != id, "the id is the same on another chain");
    }

    function test_vouchersOfOneChainMeanNothingOnAFork() public {
        IChannels.Config memory cfg = _config(1);
        bytes32 before = channels.domainSeparator();
        bytes memory signature = _allocation(OPERATOR_KEY, cfg, 1e6);
        vm.chainId(777);
        check(channels.domainSeparator() != before, "the separator is the same on another chain");
        vm.expectRevert();
        channels.allocate(cfg, 1e6, FOREVER, signature);
        channels.allocate(cfg, 1e6, FOREVER, _allocation(OPERATOR_KEY, cfg, 1e6));
    }

    function test_separatorIsThatOfEip712() public view {
        bytes32 typeHash =
            keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
        bytes32 expected = keccak256(
            abi.encode(typeHash, keccak256("UnhostedChannels"), keccak256("1"), block.chainid, address(channels))
        );
        checkEqual(channels.domainSeparator(), expected, "separator");
    }

    function test_typeHashesAreThoseOfTheirText() public view {
        checkEqual(
            channels.VOUCHER_TYPEHASH(), keccak256("Voucher(bytes32 channelId,uint96 amount)"), "Voucher"
        );
        checkEqual(
            channels.ALLOCATE_TYPEHASH(),
            keccak256("Allocate(bytes32 channelId,uint96 total,uint40 validBefore)"),
            "Allocate"
        );
        checkEqual(channels.CLOSE_TYPEHASH(), keccak256("Close(bytes32 channelId,uint96 amount)"), "Close");
        checkEqual(
            channels.REQUEST_CLOSE_TYPEHASH(),
            keccak256("RequestClose(bytes32 channelId,uint40 validBefore)"),
            "RequestClose"
        );
    }

    function _expectBadConfig(IChannels.Config memory cfg) private {
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadConfig.selector, cfg));
        vm.prank(buyer);
        channels.allocate(cfg, 1e6, 0, "");
    }

    function test_impossibleConfigsAreRefused() public {
        IChannels.Config memory cfg = _config(1);
        cfg.payer = address(0);
        _expectBadConfig(cfg);
        cfg = _config(1);
        cfg.signer = address(0);
        _expectBadConfig(cfg);
        cfg = _config(1);
        cfg.payee = address(0);
        _expectBadConfig(cfg);
        cfg.payee = address(channels);
        _expectBadConfig(cfg);
        cfg.payee = address(usdc);
        _expectBadConfig(cfg);
    }

    function test_delayIsFromAnHourToThirtyDays() public {
        IChannels.Config memory cfg = _config(1);
        cfg.delay = 1 hours - 1;
        _expectBadConfig(cfg);
        cfg.delay = 30 days + 1;
        _expectBadConfig(cfg);
        cfg.delay = 1 hours;
        _open(cfg, 1e6);
        cfg.delay = 30 days;
        _open(cfg, 1e6);
    }

    function test_bitsBeyondATypesWidthAreRefused() public {
        bytes memory message = abi.encodeCall(IChannels.allocate, (_config(1), 1e6, 0, ""));
        // The first words are the config; a bit above the 160 of an address, or the 32 of the delay.
        for (uint256 word; word < 4; ++word) {
            bytes memory dirty = bytes.concat(message);
            dirty[4 + 32 * word] = 0x01;
            vm.prank(buyer);
            (bool ok,) = address(channels).call(dirty);
            check(!ok, "a dirty word was taken");
        }
    }

    function test_depositOnlyRises() public {
        IChannels.Config memory cfg = _config(1);
        _open(cfg, 2e6);
        vm.startPrank(buyer);
        vm.expectRevert(abi.encodeWithSelector(IChannels.NotIncreasing.selector, 2e6, 2e6));
        channels.allocate(cfg, 2e6, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IChannels.NotIncreasing.selector, 1e6, 2e6));
        channels.allocate(cfg, 1e6, 0, "");
        IChannels.Config memory none = _config(2);
        vm.expectRevert(abi.encodeWithSelector(IChannels.NotIncreasing.selector, 0, 0));
        channels.allocate(none, 0, 0, "");
    }

    function test_onlyFreeMoneyCanBeAllocated() public {
        IChannels.Config memory cfg = _config(1);
        vm.startPrank(buyer);
        vm.expectRevert(abi.encodeWithSelector(IChannels.OverFree.selector, 50e6 + 1, 50e6));
        channels.allocate(cfg, 50e6 + 1, 0, "");
        channels.allocate(cfg, 50e6, 0, "");
        checkEqual(_free(buyer), 0, "free");
    }

    function test_relayedSignatureOfTheOperatorOpens() public {
        vm.prank(thief);
        _allocateByOperator(1, 3e6);
        (uint96 used, uint32 month) = _used(buyer);
        checkEqual(used, 3e6, "used");
        checkEqual(month, 2026 * 12 + 10, "month");
    }

    function test_relayedSignatureOfThePayerIsNotLimited() public {
        IChannels.Config memory cfg = _config(1);
        bytes memory signature = _allocation(BUYER_KEY, cfg, LIMIT + 1);
        channels.allocate(cfg, LIMIT + 1, FOREVER, signature);
        (uint96 used,) = _used(buyer);
        checkEqual(used, 0, "used");
    }

    function test_signatureCountsUntilItsLastSecond() public {
        IChannels.Config memory cfg = _config(1);
        uint40 last = uint40(START + 10);
        bytes memory signature = _sign(OPERATOR_KEY, _allocateDigest(channels.channelId(cfg), 1e6, last));
        vm.warp(last + 1);
        vm.expectRevert(abi.encodeWithSelector(IChannels.Expired.selector, last, last + 1));
        channels.allocate(cfg, 1e6, last, signature);
        vm.warp(last);
        channels.allocate(cfg, 1e6, last, signature);
    }

    function test_signatureFitsOneChannelTotalAndTime() public {
        IChannels.Config memory cfg = _config(1);
        bytes memory signature = _allocation(OPERATOR_KEY, cfg, 1e6);
        vm.expectRevert();
        channels.allocate(_config(2), 1e6, FOREVER, signature);
        vm.expectRevert();
        channels.allocate(cfg, 2e6, FOREVER, signature);
        vm.expectRevert();
        channels.allocate(cfg, 1e6, FOREVER - 1, signature);
    }

    function test_strangersSignatureIsNamedInTheError() public {
        IChannels.Config memory cfg = _config(1);
        bytes32 id = channels.channelId(cfg);
        bytes memory signature = _allocation(THIEF_KEY, cfg, 1e6);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, buyer, thief));
        channels.allocate(cfg, 1e6, FOREVER, signature);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, buyer, address(0)));
        channels.allocate(cfg, 1e6, FOREVER, "");
        bytes memory cut = new bytes(64);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, buyer, address(0)));
        channels.allocate(cfg, 1e6, FOREVER, cut);
    }

    /// @dev A signature of nobody recovers to zero, and an account without operator has zero there.
    function test_signatureOfNobodyIsNoOperators() public {
        IChannels.Config memory cfg = _config(1);
        cfg.payer = thief;
        _fund(thief, 1e6);
        bytes memory nobody = abi.encodePacked(bytes32(uint256(1)), bytes32(uint256(1)), uint8(99));
        bytes32 id = channels.channelId(cfg);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, thief, address(0)));
        channels.allocate(cfg, 1e6, FOREVER, nobody);
    }

    function test_removedOperatorCanDoNothing() public {
        vm.prank(buyer);
        channels.setOperator(address(0), LIMIT);
        IChannels.Config memory cfg = _config(1);
        bytes memory signature = _allocation(OPERATOR_KEY, cfg, 1e6);
        vm.expectRevert(
            abi.encodeWithSelector(IChannels.BadSig.selector, channels.channelId(cfg), buyer, operator)
        );
        channels.allocate(cfg, 1e6, FOREVER, signature);
    }

    function test_operatorsOwnCallNeedsItsSignatureAndIsLimited() public {
        IChannels.Config memory cfg = _config(1);
        vm.prank(operator);
        vm.expectRevert();
        channels.allocate(cfg, 1e6, FOREVER, "");
        bytes memory signature = _allocation(OPERATOR_KEY, cfg, LIMIT + 1);
        vm.prank(operator);
        _expectOverLimit(LIMIT + 1, LIMIT);
        channels.allocate(cfg, LIMIT + 1, FOREVER, signature);
    }

    function test_limitIsTheSumOverTheMonth() public {
        _allocateByOperator(1, 6e6);
        _allocateByOperator(2, 4e6);
        bytes memory signature = _allocation(OPERATOR_KEY, _config(3), 1);
        _expectOverLimit(1, 0);
        channels.allocate(_config(3), 1, FOREVER, signature);
    }

    function test_topUpCountsOnlyWhatIsAdded() public {
        _allocateByOperator(1, 6e6);
        _allocateByOperator(1, 10e6);
        (uint96 used,) = _used(buyer);
        checkEqual(used, 10e6, "used");
    }

    function test_monthTurnsInItsFirstSecond() public {
        _allocateByOperator(1, LIMIT);
        bytes memory signature = _allocation(OPERATOR_KEY, _config(2), LIMIT);
        vm.warp(NEXT_MONTH - 1);
        _expectOverLimit(LIMIT, 0);
        channels.allocate(_config(2), LIMIT, FOREVER, signature);
        vm.warp(NEXT_MONTH);
        channels.allocate(_config(2), LIMIT, FOREVER, signature);
        (uint96 used, uint32 month) = _used(buyer);
        checkEqual(used, LIMIT, "used");
        checkEqual(month, 2026 * 12 + 11, "month");
    }

    function test_changeOfOperatorOrLimitKeepsWhatIsUsed() public {
        _allocateByOperator(1, 6e6);
        vm.prank(buyer);
        channels.setOperator(vm.addr(0x77), LIMIT);
        bytes memory signature = _allocation(0x77, _config(2), 4e6 + 1);
        _expectOverLimit(4e6 + 1, 4e6);
        channels.allocate(_config(2), 4e6 + 1, FOREVER, signature);
        vm.prank(buyer);
        channels.setOperator(operator, 5e6);
        signature = _allocation(OPERATOR_KEY, _config(2), 1);
        _expectOverLimit(1, 0);
        channels.allocate(_config(2), 1, FOREVER, signature);
        vm.prank(buyer);
        channels.setOperator(operator, 7e6);
        _allocateByOperator(2, 1e6);
    }

    function test_moneyThatComesBackDoesNotOpenTheMonth() public {
        _allocateByOperator(1, LIMIT);
        vm.prank(seller);
        channels.close(_config(1), 0, "", "");
        bytes memory signature = _allocation(OPERATOR_KEY, _config(2), 1);
        _expectOverLimit(1, 0);
        channels.allocate(_config(2), 1, FOREVER, signature);
    }

    function testFuzz_operatorNeverAllocatesMoreThanTheLimit(uint96 limit, uint96[6] memory wishes) public {
        limit = uint96(bound(limit, 0, 30e6));
        vm.prank(buyer);
        channels.setOperator(operator, limit);
        uint256 sum;
        for (uint256 i; i < 6; ++i) {
            uint96 total = uint96(bound(wishes[i], 1, 8e6));
            bytes memory signature = _allocation(OPERATOR_KEY, _config(i), total);
            if (total > limit - sum) _expectOverLimit(total, uint96(limit - sum));
            else sum += total;
            channels.allocate(_config(i), total, FOREVER, signature);
        }
        checkEqual(_free(buyer), 50e6 - sum, "free");
    }

    function test_closingOrClosedChannelTakesNoMoney() public {
        IChannels.Config memory cfg = _config(1);
        bytes32 id = _open(cfg, 1e6);
        vm.startPrank(buyer);
        channels.requestClose(cfg, 0, "");
        vm.expectRevert(abi.encodeWithSelector(IChannels.ChannelIsClosing.selector, id, START + DELAY));
        channels.allocate(cfg, 2e6, 0, "");
        vm.warp(START + DELAY);
        channels.finalizeClose(cfg);
        vm.expectRevert(abi.encodeWithSelector(IChannels.ChannelIsClosed.selector, id));
        channels.allocate(cfg, 2e6, 0, "");
    }

    function test_buyerMayBeItsOwnSeller() public {
        IChannels.Config memory cfg = _config(1);
        cfg.payee = buyer;
        _open(cfg, 2e6);
        _claim(cfg, 1e6, true);
        checkEqual(usdc.balanceOf(buyer), 1e6, "paid out");
        vm.prank(buyer);
        channels.close(cfg, 0, "", "");
        checkEqual(_free(buyer), 49e6, "free");
    }

    function test_contractWalletAllocatesByItsOwnSignature() public {
        Wallet wallet = new Wallet(buyer);
        _fund(address(wallet), 5e6);
        IChannels.Config memory cfg = _config(1);
        cfg.payer = address(wallet);
        bytes memory signature = _allocation(BUYER_KEY, cfg, 1e6);
        channels.allocate(cfg, 1e6, FOREVER, signature);
        checkEqual(_free(address(wallet)), 4e6, "free");
        signature = _allocation(THIEF_KEY, cfg, 2e6);
        bytes32 id = channels.channelId(cfg);
        vm.expectRevert(abi.encodeWithSelector(IChannels.BadSig.selector, id, wallet, thief));
        channels.allocate(cfg, 2e6, FOREVER, signature);
    }

    function test_contractWalletThatAnswersOddlyHasNotSigned() public {
        Wallet wallet = new Wallet(buyer);
        _fund(address(wallet), 5e6);
        IChannels.Config memory cfg = _config(1);
        cfg.payer = address(wallet);
        bytes memory signature = _allocation(BUYER_KEY, cfg, 1e6);
        for (uint256 mood = 1; mood <= uint256(Wallet.Mood.AnswersDirty); ++mood) {
            wallet.turn(Wallet.Mood(mood));
            vm.expectRevert();
            channels.allocate(cfg, 1e6, FOREVER, signature);
        }
        wallet.turn(Wallet.Mood.AnswersMuch);
        channels.allocate(cfg, 1e6, FOREVER, signature);
        checkEqual(_free(address(wallet)), 4e6, "free");
    }
}
