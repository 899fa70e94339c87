// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Signatures} from "../src/lib/Signatures.sol";
import {Checks} from "./helpers/Checks.sol";
import {vm} from "./helpers/Vm.sol";
import {Wallet} from "./helpers/Wallet.sol";

/// @dev Calls the library with nothing in memory before it.
contract OpenSignatures {
    function recover(bytes32 digest, bytes calldata signature) external pure returns (address) {
        return Signatures.recover(digest, signature);
    }

    function isApproved(address account, bytes32 digest, bytes calldata signature) external view returns (bool) {
        return Signatures.isApproved(account, digest, signature);
    }
}

contract SignaturesTest is Checks {
    uint256 private constant KEY = 0xA11CE;
    bytes32 private constant DIGEST = keccak256("what is signed");

    OpenSignatures private _signatures;
    Wallet private _wallet;

    function setUp() public {
        _signatures = new OpenSignatures();
        _wallet = new Wallet(vm.addr(KEY));
    }

    function _sign(uint256 key) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, DIGEST);
        return abi.encodePacked(r, s, v);
    }

    function testFuzz_keyIsRecovered(uint256 key) public view {
        key = bound(key, 1, type(uint128).max);
        checkEqual(_signatures.recover(DIGEST, _sign(key)), vm.addr(key), "key");
    }

    function testFuzz_otherLengthsAreNobodys(bytes calldata signature) public view {
        vm.assume(signature.length != 65);
        checkEqual(_signatures.recover(DIGEST, signature), address(0), "key");
    }

    function test_walletApprovesItsKeysSignatureAlone() public view {
        check(_signatures.isApproved(address(_wallet), DIGEST, _sign(KEY)), "the wallet's key");
        check(!_signatures.isApproved(address(_wallet), DIGEST, _sign(KEY + 1)), "another key");
    }

    function test_oddAnswersAreNone() public {
        Wallet.Mood[4] memory moods =
            [Wallet.Mood.Denies, Wallet.Mood.Reverts, Wallet.Mood.AnswersShort, Wallet.Mood.AnswersDirty];
        for (uint256 i; i < moods.length; ++i) {
            _wallet.turn(moods[i]);
            check(!_signatures.isApproved(address(_wallet), DIGEST, _sign(KEY)), "an odd answer");
        }
    }

    function test_longAnswerIsReadToItsFirstWord() public {
        _wallet.turn(Wallet.Mood.AnswersMuch);
        check(_signatures.isApproved(address(_wallet), DIGEST, _sign(KEY)), "a long answer");
    }

    function test_accountWithoutCodeApprovesNothing() public view {
        check(!_signatures.isApproved(vm.addr(KEY), DIGEST, _sign(KEY)), "no code");
    }
}
