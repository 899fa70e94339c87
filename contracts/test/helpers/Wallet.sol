// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IERC1271} from "../../src/lib/Signatures.sol";

/// @notice A contract wallet that speaks for one key, in the moods that a contract can have.
contract Wallet is IERC1271 {
    enum Mood {
        Good,
        Denies,
        Reverts,
        AnswersShort,
        AnswersDirty,
        AnswersMuch
    }

    address private immutable _owner;
    Mood public mood;

    constructor(address owner) {
        _owner = owner;
    }

    function turn(Mood next) external {
        mood = next;
    }

    /// @notice Calls on behalf of the wallet.
    function run(address target, bytes calldata message) external {
        (bool ok, bytes memory answer) = target.call(message);
        if (!ok) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4 magic) {
        magic = IERC1271.isValidSignature.selector;
        if (mood == Mood.Denies) return 0xffffffff;
        if (mood == Mood.Reverts) revert("no");
        if (mood == Mood.AnswersShort) _answer(magic, 4);
        if (mood == Mood.AnswersDirty) _answer(bytes32(magic) | bytes32(uint256(1)), 32);
        if (mood == Mood.AnswersMuch) _answer(magic, 100_000);
        bytes32 r = bytes32(signature[:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (ecrecover(digest, uint8(signature[64]), r, s) != _owner) return 0xffffffff;
    }

    function _answer(bytes32 word, uint256 size) private pure {
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, word)
            return(start, size)
        }
    }
}
