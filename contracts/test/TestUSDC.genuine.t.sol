// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {TokenFixture} from "./helpers/TokenFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What genuine USDC v2.2 does, word for word, in 35 situations: this token must do the same.
/// @dev The outcomes were recorded from the genuine bytecode, which is not kept here. The cases are one sequence,
/// as they were recorded: each starts where the one before ended.
contract TestUSDCGenuineTest is TokenFixture {
    string private constant SIGNATURE = "FiatTokenV2: invalid signature";
    string private constant BARRED = "Blacklistable: account is blacklisted";
    string private constant PAUSED = "Pausable: paused";

    function test_does_what_the_genuine_token_does() public {
        _deploy();
        _authorizations();
        _malformed();
        _transfers();
        _permits();
        _pause();
        _bars();
        _plain();
        checkEqual(usdc.balanceOf(PAYEE), 10, "two authorizations of 5 arrived");
    }

    function _authorizations() private {
        _case(_receive(1), "");
        _case(_receive(1), "FiatTokenV2: authorization is used or canceled");
        Authorization memory given = _receive(2);
        given.validAfter = 2 ** 39;
        _case(given, "FiatTokenV2: authorization is not yet valid");
        given = _receive(2);
        given.validBefore = START - 10;
        _case(given, "FiatTokenV2: authorization is expired");
        given = _receive(2);
        _case(given, _signed(given), ANYONE, "FiatTokenV2: caller must be the payee");
        given.key = OTHER_KEY;
        _case(given, SIGNATURE);
        given = _receive(2);
        given.domain = _domain("USD Coin", "1", block.chainid);
        _case(given, SIGNATURE);
        given.domain = _domain("USDC", "2", block.chainid);
        _case(given, SIGNATURE);
        given.domain = _domain("USD Coin", "2", block.chainid + 1);
        _case(given, SIGNATURE);
    }

    function _malformed() private {
        Authorization memory given = _receive(2);
        bytes memory signature = _signed(given);
        bytes memory changed = new bytes(64);
        for (uint256 i; i < 64; ++i) {
            changed[i] = signature[i];
        }
        _case(given, changed, PAYEE, "ECRecover: invalid signature length");
        changed = bytes.concat(changed, bytes1(uint8(signature[64]) - 27));
        _case(given, changed, PAYEE, "ECRecover: invalid signature 'v' value");
        (uint8 v, bytes32 r, bytes32 s) = _parts(signature);
        changed = abi.encodePacked(r, ORDER - uint256(s), v == 27 ? uint8(28) : uint8(27));
        _case(given, changed, PAYEE, "ECRecover: invalid signature 's' value");
        given.value = 10 ** 12;
        _case(given, "ERC20: transfer amount exceeds balance");
    }

    function _transfers() private {
        Authorization memory given = _transfer(3);
        given.to = address(0);
        _case(given, "ERC20: transfer to the zero address");
        given = _transfer(4);
        _case(given, _signed(given), ANYONE, "");
        // A word to receive is none to transfer.
        Authorization memory received = _receive(5);
        given = _transfer(5);
        _case(given, _signed(received), ANYONE, SIGNATURE);
    }

    function _permits() private {
        _permitCase(HOLDER_KEY, 0, 2 ** 40, "");
        _permitCase(HOLDER_KEY, 1, START - 5, "FiatTokenV2: permit is expired");
        _permitCase(OTHER_KEY, 1, 2 ** 40, "EIP2612: invalid signature");
        _permitCase(HOLDER_KEY, 0, 2 ** 40, "EIP2612: invalid signature");
    }

    function _pause() private {
        usdc.setPaused(true);
        check(usdc.paused(), "paused");
        _case(_receive(6), PAUSED);
        _permitCase(HOLDER_KEY, 1, 2 ** 40, PAUSED);
        usdc.setPaused(false);
        check(!usdc.paused(), "not paused");
    }

    function _bars() private {
        usdc.setBlacklisted(holder, true);
        _case(_receive(6), BARRED);
        usdc.setBlacklisted(holder, false);
        usdc.setBlacklisted(PAYEE, true);
        _case(_receive(6), BARRED);
        usdc.setBlacklisted(holder, true);
        // Allowances are no movement: they are given and taken by barred accounts as well.
        _permitCase(HOLDER_KEY, 1, 2 ** 40, "");
        vm.prank(PAYEE);
        check(usdc.approve(PAYEE, 7), "approved");
    }

    function _plain() private {
        vm.expectRevert(bytes(BARRED));
        vm.prank(ANYONE);
        usdc.transfer(address(usdc), 0);
        vm.expectRevert(bytes(BARRED));
        vm.prank(PAYEE);
        usdc.transferFrom(holder, ANYONE, 1);
        vm.expectRevert("ERC20: transfer amount exceeds balance");
        vm.prank(ANYONE);
        usdc.transfer(address(0x7777), 10 ** 15);
    }

    function _parts(bytes memory signature) private pure returns (uint8 v, bytes32 r, bytes32 s) {
        assembly ("memory-safe") {
            r := mload(add(signature, 32))
            s := mload(add(signature, 64))
            v := byte(0, mload(add(signature, 96)))
        }
    }
}
