// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../src/Bonds.sol";
import {IBonds} from "../src/IBonds.sol";
import {TestUSDC} from "../src/TestUSDC.sol";
import {BondsActors} from "./helpers/BondsActors.sol";
import {Checks} from "./helpers/Checks.sol";

/// @notice What holds of the bonds whatever anybody does, in whatever order.
contract BondsInvariants is Checks {
    address private constant SINK = address(0xD00D);

    BondsActors private _actors;
    Bonds private _bonds;
    TestUSDC private _usdc;

    function setUp() public {
        _actors = new BondsActors();
        _bonds = _actors.contractUnderTest();
        _usdc = TestUSDC(_actors.token());
    }

    function targetContracts() external view returns (address[] memory contracts) {
        contracts = new address[](1);
        contracts[0] = address(_actors);
    }

    /// @dev One function for all: each invariant of its own would run the same calls again.
    function invariant_allHolds() external view {
        _theContractHoldsAllBondsAndWhatTheSinkIsOwed();
        _aBondIsWhatWasPutInLessWhatLeft();
        _theSinkGetsExactlyWhatBondsLose();
        _aCaseSlashesOnceAndAtMostTheMaximum();
        _aRequestIsEquivocatedOnce();
        _aBondIsFrozenExactlyWhileACaseIsOpen();
        _nobodyDoesWhatIsAnothers();
        _theVerifiersStayTheSame();
    }

    /// @notice The actors get through with everything they can do: an invariant over calls that all fail says nothing.
    function test_the_actors_reach_everything() external {
        bytes4[11] memory calls = [
            _actors.bond.selector,
            _actors.requestUnbond.selector,
            _actors.unbondAll.selector,
            _actors.equivocate.selector,
            _actors.openCase.selector,
            _actors.appeal.selector,
            _actors.finalize.selector,
            _actors.sweep.selector,
            _actors.steal.selector,
            _actors.troubleToken.selector,
            _actors.wait_.selector
        ];
        for (uint256 i; i < 1200; ++i) {
            uint256 random = uint256(keccak256(abi.encode(i)));
            bytes4 call = calls[random % 11];
            bytes memory arguments = abi.encode(random >> 248, random >> 230, random >> 240);
            if (call == _actors.finalize.selector) arguments = abi.encode(random >> 248, random >> 230 & 1);
            (bool worked,) = address(_actors).call(abi.encodePacked(call, arguments));
            check(worked, "an actor failed by itself");
        }
        for (uint256 i; i < calls.length; ++i) {
            checkAtMost(5, _actors.done(calls[i]), _name(i));
        }
        this.invariant_allHolds();
    }

    function _name(uint256 i) private pure returns (string memory) {
        return string.concat("call ", string(abi.encodePacked(bytes1(uint8(65 + i)))), " gets through");
    }

    function _theContractHoldsAllBondsAndWhatTheSinkIsOwed() private view {
        uint256 sum = _bonds.owed();
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            (uint96 amount,,,) = _bonds.bonds(_actors.sellers(i));
            sum += amount;
        }
        checkEqual(_usdc.balanceOf(address(_bonds)), sum, "no more and no less");
    }

    function _aBondIsWhatWasPutInLessWhatLeft() private view {
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            address seller = _actors.sellers(i);
            (uint96 amount, uint96 locked,,) = _bonds.bonds(seller);
            checkEqual(
                amount + _actors.takenOut(seller) + _actors.lost(seller), _actors.putIn(seller), "the seller's books"
            );
            checkAtMost(locked, amount, "no more is locked than there is");
            checkEqual(_usdc.balanceOf(seller), _actors.takenOut(seller), "money in hand");
        }
    }

    function _theSinkGetsExactlyWhatBondsLose() private view {
        uint256 lost;
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            lost += _actors.lost(_actors.sellers(i));
        }
        checkEqual(_usdc.balanceOf(SINK) + _bonds.owed(), lost, "sink");
    }

    function _aCaseSlashesOnceAndAtMostTheMaximum() private view {
        for (uint256 i; i < _actors.caseCount(); ++i) {
            bytes32 id = _actors.openedCases(i);
            (, uint96 amount,,) = _bonds.cases(id);
            checkAtMost(_actors.caseSlashes(id), 1, "slashes of a case");
            checkAtMost(_actors.caseTook(id), amount, "what a case takes");
            checkAtMost(amount, _bonds.maxSlash(), "what a case is about");
        }
    }

    function _aRequestIsEquivocatedOnce() private view {
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            for (uint256 request; request < _actors.REQUESTS(); ++request) {
                address seller = _actors.sellers(i);
                uint256 faults = _actors.faults(seller, bytes32(request));
                checkAtMost(faults, 1, "slashes of a request");
                checkEqual(faults, _bonds.faulted(seller, bytes32(request)) ? 1 : 0, "noted");
            }
        }
    }

    function _aBondIsFrozenExactlyWhileACaseIsOpen() private view {
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            address seller = _actors.sellers(i);
            (, uint96 locked,, bool frozen) = _bonds.bonds(seller);
            bool isOpen;
            uint256 claimed;
            for (uint256 j; j < _actors.caseCount(); ++j) {
                (address accused, uint96 amount,, IBonds.State state) = _bonds.cases(_actors.openedCases(j));
                if (accused != seller || state == IBonds.State.Done) continue;
                isOpen = true;
                claimed += amount;
            }
            check(frozen == isOpen, "frozen");
            checkAtMost(locked, claimed, "locked is claimed by a case");
        }
    }

    function _nobodyDoesWhatIsAnothers() private view {
        checkEqual(bytes(_actors.broken()).length, 0, _actors.broken());
    }

    function _theVerifiersStayTheSame() private view {
        for (uint256 i; i < _actors.SELLERS(); ++i) {
            check(!_bonds.verifier(_actors.sellers(i)), "a seller became a verifier");
        }
        checkEqual(_bonds.k(), 4, "k");
        checkEqual(_bonds.kAppeal(), 6, "k on appeal");
    }
}
