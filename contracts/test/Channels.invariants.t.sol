// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../src/IChannels.sol";
import {ChannelsActors} from "./helpers/ChannelsActors.sol";
import {Checks} from "./helpers/Checks.sol";

/// @notice What holds after any sequence of steps of any actors. What holds for each single step (deposits and claims
/// only rise, only the owner's free money falls, a credit falls only by its payout, the operator's limit) is checked by
/// `ChannelsActors` itself.
contract ChannelsInvariantsTest is Checks {
    struct FuzzSelector {
        address addr;
        bytes4[] selectors;
    }

    ChannelsActors private actors;

    function setUp() public {
        actors = new ChannelsActors();
    }

    function targetContracts() external view returns (address[] memory targets) {
        targets = new address[](1);
        targets[0] = address(actors);
    }

    function targetSelectors() external view returns (FuzzSelector[] memory targets) {
        targets = new FuzzSelector[](1);
        targets[0] = FuzzSelector(address(actors), _steps());
    }

    /// @dev The frequent steps more than once: forge draws from this list.
    function _steps() private pure returns (bytes4[] memory steps) {
        steps = new bytes4[](18);
        steps[0] = ChannelsActors.deposit.selector;
        steps[1] = ChannelsActors.deposit.selector;
        steps[2] = ChannelsActors.donate.selector;
        steps[3] = ChannelsActors.withdraw.selector;
        steps[4] = ChannelsActors.setOperator.selector;
        steps[5] = ChannelsActors.allocate.selector;
        steps[6] = ChannelsActors.allocate.selector;
        steps[7] = ChannelsActors.allocateByOperator.selector;
        steps[8] = ChannelsActors.allocateByOperator.selector;
        steps[9] = ChannelsActors.claim.selector;
        steps[10] = ChannelsActors.claim.selector;
        steps[11] = ChannelsActors.claim.selector;
        steps[12] = ChannelsActors.payout.selector;
        steps[13] = ChannelsActors.close.selector;
        steps[14] = ChannelsActors.requestClose.selector;
        steps[15] = ChannelsActors.finalizeClose.selector;
        steps[16] = ChannelsActors.wait.selector;
        steps[17] = ChannelsActors.steal.selector;
    }

    function invariant_noStepBreaksARule() public view {
        check(bytes(actors.fault()).length == 0, actors.fault());
    }

    function invariant_contractHoldsWhatItOwes() public view {
        checkEqual(actors.held(), actors.owed() + actors.donated(), "held");
    }

    function invariant_claimNeverExceedsDepositOrVoucher() public view {
        (IChannels.Channel[] memory channels, uint96[] memory signed) = actors.all();
        for (uint256 i; i < channels.length; ++i) {
            checkAtMost(channels[i].claimed, channels[i].deposit, "claimed above deposit");
            checkAtMost(channels[i].claimed, signed[i], "claimed above the voucher");
        }
    }

    function invariant_eachBuyersMoneyIsItsOwn() public view {
        for (uint256 i; i < actors.BUYERS(); ++i) {
            address buyer = actors.buyerAt(i);
            (uint256 kept, uint256 given) = actors.ofBuyer(buyer);
            checkEqual(kept + given + actors.withdrawn(buyer), actors.deposited(buyer), "buyer's money");
        }
    }

    function invariant_eachSellerHasWhatWasClaimedForItOnce() public view {
        for (uint256 i; i < actors.SELLERS(); ++i) {
            (uint256 received, uint256 claimed) = actors.ofSeller(actors.sellerAt(i));
            checkEqual(received, claimed, "seller's money");
        }
    }

    /// @dev Random runs are short; this one walk is long, always the same, and shows that the actors reach every step.
    function test_aLongWalkReachesEveryStep() public {
        bytes4[] memory steps = _steps();
        for (uint256 i; i < 1_000; ++i) {
            uint256 seed = uint256(keccak256(abi.encode("walk", i)));
            bytes memory arguments = abi.encode(seed >> 8, seed >> 16, seed >> 32, seed >> 64);
            // A step that the contract refuses is not taken; a step ignores the words that it does not need.
            (bool taken,) = address(actors).call(bytes.concat(steps[seed % steps.length], arguments));
            if (taken && i % 25 == 0) _checkAll();
        }
        _checkAll();
        string[13] memory names = [
            "deposit",
            "donate",
            "withdraw",
            "setOperator",
            "allocate",
            "allocateByOperator",
            "claim",
            "payout",
            "close",
            "requestClose",
            "finalizeClose",
            "wait",
            "steal"
        ];
        for (uint256 i; i < names.length; ++i) {
            check(actors.steps(names[i]) >= 5, string.concat("few of ", names[i]));
        }
    }

    function _checkAll() private view {
        invariant_noStepBreaksARule();
        invariant_contractHoldsWhatItOwes();
        invariant_claimNeverExceedsDepositOrVoucher();
        invariant_eachBuyersMoneyIsItsOwn();
        invariant_eachSellerHasWhatWasClaimedForItOnce();
    }
}
