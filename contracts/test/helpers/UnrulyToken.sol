// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice A token that was good when it was chosen and is not any more. It shows what a hostile upgrade can do.
contract UnrulyToken {
    enum Mood {
        Good,
        SaysNo,
        Reverts,
        TakesFee,
        CallsBack,
        MovesNothing
    }

    Mood public mood;
    /// @dev What is called back, and what came of it.
    address public target;
    bytes public message;
    bool public hasEntered;
    bytes public answer;
    mapping(address account => uint256) public balanceOf;

    error Unwilling();

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
    }

    function turn(Mood next) external {
        mood = next;
    }

    function callBack(address target_, bytes calldata message_) external {
        mood = Mood.CallsBack;
        target = target_;
        message = message_;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        return _move(msg.sender, to, value);
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        return _move(from, to, value);
    }

    function _move(address from, address to, uint256 value) internal returns (bool) {
        if (mood == Mood.SaysNo) return false;
        if (mood == Mood.Reverts) revert Unwilling();
        if (mood == Mood.MovesNothing) return true;
        if (mood == Mood.CallsBack) (hasEntered, answer) = target.call(message);
        balanceOf[from] -= value;
        balanceOf[to] += mood == Mood.TakesFee ? value - value / 100 : value;
        return true;
    }
}
