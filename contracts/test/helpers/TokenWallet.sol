// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice A contract wallet that takes one signature for its own, in one of several ways.
contract TokenWallet {
    enum Answer {
        Magic,
        OtherWord,
        Short,
        MagicAndMore,
        Reverts
    }

    bytes4 private constant MAGIC = 0x1626ba7e;

    bytes32 private immutable _key;
    Answer private _answer;

    constructor(bytes memory signature) {
        _key = keccak256(signature);
    }

    function say(Answer answer) external {
        _answer = answer;
    }

    /// @dev Written by hand, since a well-formed function could not answer badly.
    fallback() external {
        if (_answer == Answer.Reverts) revert();
        (, bytes memory signature) = abi.decode(msg.data[4:], (bytes32, bytes));
        bytes32 word = keccak256(signature) == _key ? bytes32(MAGIC) : bytes32(0);
        if (_answer == Answer.OtherWord) word = bytes32(uint256(1));
        if (_answer == Answer.MagicAndMore) word |= bytes32(uint256(1));
        uint256 length = _answer == Answer.Short ? 4 : 32;
        assembly {
            mstore(0, word)
            return(0, length)
        }
    }
}
