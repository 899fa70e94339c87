// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice The EIP-712 domain of a contract: what is signed for it means nothing to another contract or chain.
abstract contract Domain {
    // EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)
    bytes32 private constant DOMAIN_TYPEHASH = 0x8b73c3c69bb8fe3d512ecc4cf759cc79239f7b179b0ffacaa9a75d522b39400f;
    // keccak256("1")
    bytes32 private constant VERSION_HASH = 0xc89efdaa54c0f20c7adf612882df0950f5a951637e0307cdcb4c672f298b8bc6;

    bytes32 private immutable _nameHash;
    uint256 private immutable _chainId;
    bytes32 private immutable _separator;

    constructor(string memory name) {
        _nameHash = keccak256(bytes(name));
        _chainId = block.chainid;
        _separator = _separatorNow();
    }

    /// @notice The domain separator on this chain. A fork of the chain with another id has another one.
    function domainSeparator() public view virtual returns (bytes32) {
        return block.chainid == _chainId ? _separator : _separatorNow();
    }

    /// @notice The EIP-712 digest of a struct's hash.
    function _digest(bytes32 structHash) internal view returns (bytes32 digest) {
        bytes32 separator = domainSeparator();
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, hex"1901")
            mstore(add(start, 2), separator)
            mstore(add(start, 34), structHash)
            digest := keccak256(start, 66)
        }
    }

    function _separatorNow() private view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, _nameHash, VERSION_HASH, block.chainid, address(this)));
    }
}
