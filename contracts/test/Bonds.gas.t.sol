// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IBonds} from "../src/IBonds.sol";
import {BondsFixture} from "./helpers/BondsFixture.sol";
import {vm} from "./helpers/Vm.sol";

/// @notice What each call costs, with fixed inputs. A change shows as a difference to snapshots/Bonds.json.
contract BondsGasTest is BondsFixture {
    string private constant GROUP = "Bonds";

    function test_gas_of_a_bond_and_its_end() public {
        _deploy();
        _bond(seller, 100e6);
        vm.snapshotGasLastCall(GROUP, "bond, first");
        _bond(seller, 100e6);
        vm.snapshotGasLastCall(GROUP, "bond, again");
        vm.prank(seller);
        bonds.requestUnbond();
        vm.snapshotGasLastCall(GROUP, "requestUnbond");
        vm.warp(START + UNBOND);
        vm.prank(seller);
        bonds.unbondAll();
        vm.snapshotGasLastCall(GROUP, "unbondAll");
    }

    function test_gas_of_the_ways_to_lose_it() public {
        _deploy();
        _bond(seller, 200e6);
        _equivocate(SELLER_KEY, 1);
        vm.snapshotGasLastCall(GROUP, "slashEquivocation, sink's first money");
        _equivocate(SELLER_KEY, 2);
        vm.snapshotGasLastCall(GROUP, "slashEquivocation");
        bytes32 id = _open(SELLER_KEY, 3, 10e6);
        vm.snapshotGasLastCall(GROUP, "openCase by 4 of 7");
        _appeal(id);
        vm.snapshotGasLastCall(GROUP, "appeal");
        bonds.finalize(id, _verdicts(id, 10e6, true, K_APPEAL));
        vm.snapshotGasLastCall(GROUP, "finalize, confirmed by 6 of 7");
        id = _open(SELLER_KEY, 4, 10e6);
        vm.warp(START + WINDOW);
        bonds.finalize(id, _none());
        vm.snapshotGasLastCall(GROUP, "finalize, not appealed");
    }
}
