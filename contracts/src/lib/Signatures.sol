// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

interface IERC1271 {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}

/// @notice Who signed a digest: a key (secp256k1), or a contract that says so itself (ERC-1271).
library Signatures {
    /// @dev Half of the curve's order. Each signature has a twin with s in the upper half; only one may count.
    uint256 private constant S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// @notice The key that signed, or zero for anything but 65 bytes r, s (lower half), v (27 or 28).
    /// @dev Zero must never be taken for a signer: callers compare with an address that is not zero.
    function recover(bytes32 digest, bytes calldata signature) internal pure returns (address) {
        if (signature.length != 65) return address(0);
        bytes32 r;
        bytes32 s;
        uint8 v;
        assembly ("memory-safe") {
            r := calldataload(signature.offset)
            s := calldataload(add(signature.offset, 32))
            v := byte(0, calldataload(add(signature.offset, 64)))
        }
        if (uint256(s) > S_MAX) return address(0);
        return ecrecover(digest, v, r, s);
    }

    /// @notice Whether the contract `account` takes `signature` for its own; false where there is no code.
    /// @dev One word of the answer is copied, however long it is: a hostile wallet cannot make the caller pay
    /// for its memory. The word must be the magic value and nothing behind it.
    function isApproved(address account, bytes32 digest, bytes calldata signature)
        internal
        view
        returns (bool approved)
    {
        if (account.code.length == 0) return false;
        bytes memory question = abi.encodeCall(IERC1271.isValidSignature, (digest, signature));
        bytes32 answer;
        assembly ("memory-safe") {
            approved := staticcall(gas(), account, add(question, 32), mload(question), 0, 32)
            approved := and(approved, gt(returndatasize(), 31))
            answer := mload(0)
        }
        approved = approved && answer == bytes32(IERC1271.isValidSignature.selector);
    }
}
