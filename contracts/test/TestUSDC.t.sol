// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {ITestUSDC} from "../src/ITestUSDC.sol";
import {TestUSDC} from "../src/TestUSDC.sol";
import {TokenFixture} from "./helpers/TokenFixture.sol";
import {TokenWallet} from "./helpers/TokenWallet.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What the recorded cases leave out: the other signature forms, contract wallets, roles, limits, times.
contract TestUSDCTest is TokenFixture {
    bytes private constant MARK = "a mark of its own";

    function setUp() public {
        _deploy();
    }

    function test_has_the_names_types_and_domain_of_usdc() public {
        checkEqual(keccak256(bytes(usdc.name())), keccak256("USD Coin"), "name");
        checkEqual(keccak256(bytes(usdc.symbol())), keccak256("USDC"), "symbol");
        checkEqual(keccak256(bytes(usdc.version())), keccak256("2"), "version");
        checkEqual(keccak256(bytes(usdc.currency())), keccak256("USD"), "currency");
        checkEqual(usdc.decimals(), 6, "decimals");
        checkEqual(usdc.owner(), address(this), "owner");
        checkEqual(usdc.pauser(), address(this), "pauser");
        checkEqual(usdc.blacklister(), address(this), "blacklister");
        check(usdc.isBlacklisted(address(usdc)), "itself is barred");
        checkEqual(usdc.DOMAIN_SEPARATOR(), _domain("USD Coin", "2", block.chainid), "domain");
        // As computed for the genuine token on Base.
        vm.chainId(8453);
        vm.etch(0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913, address(usdc).code);
        checkEqual(
            TestUSDC(0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913).DOMAIN_SEPARATOR(),
            0x02fa7265e7c5d81118673727957699e4d68f74cd74b7db77da710fe8a2c7834f,
            "domain on Base"
        );
    }

    function test_has_the_expected_type_hashes() public view {
        checkEqual(usdc.PERMIT_TYPEHASH(), 0x6e71edae12b1b97f4d1f60370fef10105fa2faae0126114a169c64845d6126c9, "permit");
        checkEqual(
            usdc.TRANSFER_WITH_AUTHORIZATION_TYPEHASH(),
            0x7c7c6cdb67a18743f49ec6fa9b35f50d52ed05cbed4cc592e13b44501c1a2267,
            "transfer"
        );
        checkEqual(
            usdc.RECEIVE_WITH_AUTHORIZATION_TYPEHASH(),
            0xd099cc98ef71107a616c4f0f941f04c322d8e254fe26b3c6668db87aae413de8,
            "receive"
        );
        checkEqual(
            usdc.CANCEL_AUTHORIZATION_TYPEHASH(),
            0x158b0a9edf7a828aad02f63cd515c68ef2f50ba807396f6d12842833a1597429,
            "cancel"
        );
    }

    function test_an_authorization_is_valid_strictly_between_its_times() public {
        Authorization memory given = _receive(1);
        (given.validAfter, given.validBefore) = (START + 10, START + 12);
        vm.warp(START + 10);
        _case(given, "FiatTokenV2: authorization is not yet valid");
        vm.warp(START + 12);
        _case(given, "FiatTokenV2: authorization is expired");
        vm.warp(START + 11);
        _case(given, "");
    }

    function test_a_permit_is_valid_until_and_including_its_deadline() public {
        _permitCase(HOLDER_KEY, 0, START, "");
        checkEqual(usdc.nonces(holder), 1, "nonce");
        _permitCase(HOLDER_KEY, 1, type(uint256).max, "");
        checkEqual(usdc.nonces(holder), 2, "nonce");
    }

    function test_signatures_in_three_parts_do_the_same() public {
        Authorization memory given = _receive(1);
        (bytes32 r, bytes32 s, uint8 v) = _split(_signed(given));
        vm.prank(PAYEE);
        usdc.receiveWithAuthorization(holder, PAYEE, 5, 0, 2 ** 40, given.nonce, v, r, s);
        given = _transfer(2);
        (r, s, v) = _split(_signed(given));
        vm.prank(ANYONE);
        usdc.transferWithAuthorization(holder, PAYEE, 5, 0, 2 ** 40, given.nonce, v, r, s);
        checkEqual(usdc.balanceOf(PAYEE), 10, "both");
        (r, s, v) = _split(_permitSignature(HOLDER_KEY, 0, START));
        usdc.permit(holder, PAYEE, 9, START, v, r, s);
        checkEqual(usdc.allowance(holder, PAYEE), 9, "allowed");
        (r, s, v) = _split(_cancelSignature(bytes32(uint256(3))));
        usdc.cancelAuthorization(holder, bytes32(uint256(3)), v, r, s);
        _case(_receive(3), "FiatTokenV2: authorization is used or canceled");
    }

    function test_a_cancelled_authorization_is_void_and_cancelled_once() public {
        bytes32 nonce = bytes32(uint256(7));
        bytes memory signature = _cancelSignature(nonce);
        vm.expectRevert("FiatTokenV2: invalid signature");
        usdc.cancelAuthorization(holder, bytes32(uint256(8)), signature);
        vm.expectEmit(address(usdc));
        emit ITestUSDC.AuthorizationCanceled(holder, nonce);
        usdc.cancelAuthorization(holder, nonce, signature);
        vm.expectRevert("FiatTokenV2: authorization is used or canceled");
        usdc.cancelAuthorization(holder, nonce, signature);
        _case(_receive(7), "FiatTokenV2: authorization is used or canceled");
        usdc.pause();
        vm.expectRevert("Pausable: paused");
        usdc.cancelAuthorization(holder, bytes32(uint256(9)), signature);
    }

    function test_a_contract_wallet_signs_by_its_own_word() public {
        TokenWallet wallet = new TokenWallet(MARK);
        usdc.mint(address(wallet), 100);
        Authorization memory given = _receive(1);
        given.from = address(wallet);
        _case(given, MARK, PAYEE, "");
        given.nonce = bytes32(uint256(2));
        // The key of a person says nothing for a contract, and every other answer is a no.
        _case(given, _signed(given), PAYEE, "FiatTokenV2: invalid signature");
        TokenWallet.Answer[4] memory answers = [
            TokenWallet.Answer.OtherWord,
            TokenWallet.Answer.Short,
            TokenWallet.Answer.MagicAndMore,
            TokenWallet.Answer.Reverts
        ];
        for (uint256 i; i < answers.length; ++i) {
            wallet.say(answers[i]);
            _case(given, MARK, PAYEE, "FiatTokenV2: invalid signature");
        }
        wallet.say(TokenWallet.Answer.Magic);
        usdc.permit(address(wallet), PAYEE, 9, START, MARK);
        checkEqual(usdc.allowance(address(wallet), PAYEE), 9, "allowed");
    }

    function test_a_signature_of_no_key_is_refused() public {
        Authorization memory given = _receive(1);
        given.from = address(0);
        bytes memory nobody = abi.encodePacked(bytes32(0), bytes32(0), uint8(27));
        _case(given, nobody, PAYEE, "ECRecover: invalid signature");
    }

    function test_moves_money_as_allowed() public {
        vm.prank(holder);
        usdc.approve(ANYONE, 10);
        vm.prank(holder);
        usdc.increaseAllowance(ANYONE, 5);
        vm.prank(holder);
        usdc.decreaseAllowance(ANYONE, 3);
        vm.expectRevert("ERC20: decreased allowance below zero");
        vm.prank(holder);
        usdc.decreaseAllowance(ANYONE, 13);
        vm.expectRevert("SafeMath: addition overflow");
        vm.prank(holder);
        usdc.increaseAllowance(ANYONE, type(uint256).max - 11);
        vm.expectRevert("ERC20: transfer amount exceeds allowance");
        vm.prank(ANYONE);
        usdc.transferFrom(holder, PAYEE, 13);
        vm.expectEmit(address(usdc));
        emit ITestUSDC.Transfer(holder, PAYEE, 12);
        vm.prank(ANYONE);
        usdc.transferFrom(holder, PAYEE, 12);
        checkEqual(usdc.allowance(holder, ANYONE), 0, "used up");
        vm.prank(PAYEE);
        check(usdc.transfer(ANYONE, 2), "answers yes");
        checkEqual(usdc.balanceOf(PAYEE), 10, "from");
        checkEqual(usdc.balanceOf(ANYONE), 2, "to");
        vm.prank(PAYEE);
        usdc.transfer(PAYEE, 10);
        checkEqual(usdc.balanceOf(PAYEE), 10, "to oneself");
    }

    function test_nobody_is_no_party() public {
        vm.expectRevert("ERC20: approve to the zero address");
        usdc.approve(address(0), 1);
        vm.expectRevert("ERC20: transfer to the zero address");
        vm.prank(holder);
        usdc.transfer(address(0), 1);
        vm.expectRevert("ERC20: transfer from the zero address");
        vm.prank(address(0));
        usdc.transfer(PAYEE, 0);
        vm.expectRevert("ERC20: approve from the zero address");
        vm.prank(address(0));
        usdc.approve(PAYEE, 1);
    }

    function test_anyone_mints_within_the_supply() public {
        vm.expectRevert("FiatToken: mint to the zero address");
        usdc.mint(address(0), 1);
        vm.expectRevert("FiatToken: mint amount not greater than 0");
        usdc.mint(PAYEE, 0);
        vm.expectRevert("FiatTokenV2_2: Balance exceeds (2^255 - 1)");
        usdc.mint(PAYEE, 2 ** 255 - 1_000e6);
        vm.prank(ANYONE);
        check(usdc.mint(PAYEE, 2 ** 255 - 1 - 1_000e6), "answers yes");
        checkEqual(usdc.totalSupply(), 2 ** 255 - 1, "supply");
        check(!usdc.isBlacklisted(PAYEE), "a great balance is no bar");
        vm.prank(holder);
        usdc.transfer(PAYEE, 1_000e6);
        checkEqual(usdc.balanceOf(PAYEE), 2 ** 255 - 1, "all there is");
        check(!usdc.isBlacklisted(PAYEE), "nor all there is");
    }

    function test_the_barred_neither_send_receive_nor_mint() public {
        string memory barred = "Blacklistable: account is blacklisted";
        usdc.blacklist(holder);
        check(usdc.isBlacklisted(holder), "barred");
        checkEqual(usdc.balanceOf(holder), 1_000e6, "its money is still its own");
        vm.expectRevert(bytes(barred));
        vm.prank(holder);
        usdc.transfer(PAYEE, 1);
        vm.expectRevert(bytes(barred));
        usdc.transfer(holder, 0);
        vm.expectRevert(bytes(barred));
        usdc.mint(holder, 1);
        vm.expectRevert(bytes(barred));
        vm.prank(holder);
        usdc.mint(PAYEE, 1);
        // The bar is looked at before the allowance and before the signature.
        vm.expectRevert(bytes(barred));
        usdc.transferFrom(holder, PAYEE, 1);
        vm.expectRevert(bytes(barred));
        usdc.transferFrom(PAYEE, holder, 1);
        Authorization memory given = _transfer(1);
        given.key = OTHER_KEY;
        _case(given, barred);
        (given.from, given.to) = (PAYEE, holder);
        _case(given, barred);
        given = _receive(1);
        given.to = holder;
        usdc.unBlacklist(holder);
        usdc.blacklist(PAYEE);
        given.from = PAYEE;
        _case(given, _signed(given), holder, barred);
        check(!usdc.isBlacklisted(holder), "no longer");
        checkEqual(usdc.balanceOf(holder), 1_000e6, "unchanged");
    }

    function test_a_pause_stops_everything_that_moves() public {
        usdc.pause();
        bytes memory paused = "Pausable: paused";
        vm.expectRevert(paused);
        usdc.mint(PAYEE, 1);
        vm.expectRevert(paused);
        usdc.transfer(PAYEE, 0);
        vm.expectRevert(paused);
        usdc.transferFrom(holder, PAYEE, 0);
        vm.expectRevert(paused);
        usdc.approve(PAYEE, 0);
        vm.expectRevert(paused);
        usdc.increaseAllowance(PAYEE, 0);
        vm.expectRevert(paused);
        usdc.decreaseAllowance(PAYEE, 0);
        _case(_transfer(1), string(paused));
        usdc.unpause();
        _case(_transfer(1), "");
    }

    function test_only_the_owner_pauses_and_bars() public {
        vm.startPrank(ANYONE);
        vm.expectRevert("Pausable: caller is not the pauser");
        usdc.pause();
        vm.expectRevert("Pausable: caller is not the pauser");
        usdc.unpause();
        vm.expectRevert("Pausable: caller is not the pauser");
        usdc.setPaused(true);
        vm.expectRevert("Blacklistable: caller is not the blacklister");
        usdc.blacklist(holder);
        vm.expectRevert("Blacklistable: caller is not the blacklister");
        usdc.unBlacklist(holder);
        vm.expectRevert("Blacklistable: caller is not the blacklister");
        usdc.setBlacklisted(holder, true);
        vm.stopPrank();
    }

    function test_a_fork_of_the_chain_has_another_domain() public {
        Authorization memory given = _receive(1);
        vm.chainId(block.chainid + 1);
        _case(given, "FiatTokenV2: invalid signature");
    }

    function testFuzz_no_transfer_changes_the_sum(address to, uint96 value) public {
        vm.assume(to != address(0) && to != address(usdc) && to != holder);
        bool isEnough = value <= 1_000e6;
        if (!isEnough) vm.expectRevert("ERC20: transfer amount exceeds balance");
        vm.prank(holder);
        usdc.transfer(to, value);
        checkEqual(usdc.balanceOf(holder) + usdc.balanceOf(to), 1_000e6, "sum");
        checkEqual(usdc.balanceOf(to), isEnough ? value : 0, "moved");
    }

    function _cancelSignature(bytes32 nonce) private view returns (bytes memory) {
        return _sign(
            HOLDER_KEY,
            usdc.DOMAIN_SEPARATOR(),
            keccak256(abi.encode(usdc.CANCEL_AUTHORIZATION_TYPEHASH(), holder, nonce))
        );
    }

    function _split(bytes memory signature) private pure returns (bytes32 r, bytes32 s, uint8 v) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }
}
