// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

error NotEqual(uint256 actual, uint256 expected, string what);
error NotAtMost(uint256 actual, uint256 limit, string what);
error NotTrue(string what);

/// @notice Checks whose failure shows the values.
abstract contract Checks {
    function checkEqual(uint256 actual, uint256 expected, string memory what) internal pure {
        if (actual != expected) revert NotEqual(actual, expected, what);
    }

    function checkEqual(address actual, address expected, string memory what) internal pure {
        checkEqual(uint160(actual), uint160(expected), what);
    }

    function checkEqual(bytes32 actual, bytes32 expected, string memory what) internal pure {
        checkEqual(uint256(actual), uint256(expected), what);
    }

    function checkAtMost(uint256 actual, uint256 limit, string memory what) internal pure {
        if (actual > limit) revert NotAtMost(actual, limit, what);
    }

    function check(bool condition, string memory what) internal pure {
        if (!condition) revert NotTrue(what);
    }

    /// @notice `value` folded into `low` to `high`, both included.
    function bound(uint256 value, uint256 low, uint256 high) internal pure returns (uint256) {
        uint256 span = high - low;
        return span == type(uint256).max ? value : low + value % (span + 1);
    }
}
