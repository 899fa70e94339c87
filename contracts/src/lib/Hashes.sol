// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice keccak256(abi.encode(...)) of a few words. It works in memory that it does not keep: a batch of a hundred
/// rows would otherwise pay for three hundred copies.
library Hashes {
    function hash(bytes32 first, bytes32 second, uint256 third) internal pure returns (bytes32 result) {
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, first)
            mstore(add(start, 32), second)
            mstore(add(start, 64), third)
            result := keccak256(start, 96)
        }
    }
}
