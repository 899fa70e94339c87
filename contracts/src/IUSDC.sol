// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice What the contracts need of USDC v2.2: a token of 6 decimals with gasless approval and transfer.
/// @dev The forms with one `bytes` signature, since they also let contract wallets sign (ERC-1271).
interface IUSDC {
    function transfer(address to, uint256 value) external returns (bool);

    function transferFrom(address from, address to, uint256 value) external returns (bool);

    function balanceOf(address account) external view returns (uint256);

    /// @notice EIP-2612: `owner` lets `spender` take `value` until `deadline`.
    function permit(address owner, address spender, uint256 value, uint256 deadline, bytes memory signature)
        external;

    /// @notice EIP-3009: moves `value` from `from` to `to`, which must be the caller. Valid strictly between
    /// `validAfter` and `validBefore`, once per `nonce`.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;
}
