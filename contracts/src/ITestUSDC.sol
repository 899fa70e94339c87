// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IUSDC} from "./IUSDC.sol";

/// @title A stand-in for USDC v2.2 on local chains
/// @notice The same calls, signatures, order of checks and revert texts as the genuine token, except that anyone may
/// mint. It has no value and must never stand on a public chain.
/// @dev EIP-712 domain: the token's name, version "2", the current chain id, this contract. Signatures are r, s (lower
/// half), v (27 or 28), or whatever the contract `isValidSignature` of an owner with code takes. Not offered:
/// the proxy, minters, burning, the rescuer and changes of roles; the deployer holds all roles.
interface ITestUSDC is IUSDC {
    event Transfer(address indexed from, address indexed to, uint256 value);
    event Approval(address indexed owner, address indexed spender, uint256 value);
    event Mint(address indexed minter, address indexed to, uint256 amount);
    event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
    event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
    event Blacklisted(address indexed account);
    event UnBlacklisted(address indexed account);
    event Pause();
    event Unpause();

    /// @notice The name in the EIP-712 domain. On Base it is "USD Coin", on Base Sepolia "USDC".
    function name() external view returns (string memory);
    function symbol() external view returns (string memory);
    function version() external view returns (string memory);
    function currency() external view returns (string memory);
    function decimals() external view returns (uint8);
    function totalSupply() external view returns (uint256);
    function allowance(address holder, address spender) external view returns (uint256);
    /// @notice The nonce that the next permit of `holder` must carry.
    function nonces(address holder) external view returns (uint256);
    /// @notice Whether an EIP-3009 authorization was used or cancelled.
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
    function DOMAIN_SEPARATOR() external view returns (bytes32);

    /// @notice Makes `amount` out of nothing, for anybody.
    function mint(address to, uint256 amount) external returns (bool);

    function approve(address spender, uint256 value) external returns (bool);
    function increaseAllowance(address spender, uint256 increment) external returns (bool);
    function decreaseAllowance(address spender, uint256 decrement) external returns (bool);

    /// @notice EIP-2612 with the signature in three parts.
    function permit(address holder, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s)
        external;

    /// @notice EIP-3009: moves `value` from `from` to `to`; anyone may hand it in.
    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        bytes memory signature
    ) external;

    function transferWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice EIP-3009 with the signature in three parts; `to` must be the caller.
    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        bytes32 nonce,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external;

    /// @notice Makes an authorization of `authorizer` void before it is used.
    function cancelAuthorization(address authorizer, bytes32 nonce, bytes memory signature) external;
    function cancelAuthorization(address authorizer, bytes32 nonce, uint8 v, bytes32 r, bytes32 s) external;

    /// @notice The deployer; it is pauser and blacklister too.
    function owner() external view returns (address);
    function pauser() external view returns (address);
    function blacklister() external view returns (address);
    function paused() external view returns (bool);
    function isBlacklisted(address account) external view returns (bool);

    /// @notice Stops every transfer, approval and authorization.
    function pause() external;
    function unpause() external;
    /// @notice Bars `account` from sending and receiving.
    function blacklist(address account) external;
    function unBlacklist(address account) external;
    /// @notice `pause` or `unpause`, for tests.
    function setPaused(bool isPaused) external;
    /// @notice `blacklist` or `unBlacklist`, for tests.
    function setBlacklisted(address account, bool isBarred) external;
}
