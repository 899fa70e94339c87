// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {UnrulyToken} from "./UnrulyToken.sol";

/// @notice The unruly token with the gasless functions of USDC, which look at no signature, and one more vice: it can
/// take all that the receiver has while it says that it gives.
contract HostileUSDC is UnrulyToken {
    bool public isDraining;

    function drain(bool next) external {
        isDraining = next;
    }

    function permit(address, address, uint256, uint256, bytes memory) external {
        if (mood == Mood.CallsBack) (hasEntered, answer) = target.call(message);
    }

    function receiveWithAuthorization(
        address from,
        address to,
        uint256 value,
        uint256,
        uint256,
        bytes32,
        bytes memory
    ) external {
        _move(from, to, value);
        if (isDraining) balanceOf[to] = 0;
    }
}
