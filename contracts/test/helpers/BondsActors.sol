// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../../src/Bonds.sol";
import {IBonds} from "../../src/IBonds.sol";
import {BondsFixture} from "./BondsFixture.sol";
import {vm} from "./Vm.sol";

/// @notice Sellers, verifiers, accusers and a thief, who do in any order what each of them can do.
/// @dev It keeps its own books, from what moved, and never reads them back from the contract.
contract BondsActors is BondsFixture {
    uint256 public constant SELLERS = 3;
    uint256 public constant REQUESTS = 4;

    address[] public sellers;
    uint256[] private _keys;
    bytes32[] public openedCases;

    mapping(address seller => uint256) public putIn;
    mapping(address seller => uint256) public takenOut;
    mapping(address seller => uint256) public lost;
    mapping(bytes32 receipt => uint256) public caseTook;
    mapping(bytes32 receipt => uint256) public caseSlashes;
    mapping(address seller => mapping(bytes32 requestId => uint256)) public faults;
    mapping(address seller => uint256) public askedAt;
    mapping(bytes4 call => uint256) public done;
    /// @dev What a call did that it must not do; empty for ever.
    string public broken;

    constructor() {
        _deploy();
        for (uint256 i; i < SELLERS; ++i) {
            _keys.push(SELLER_KEY + i);
            sellers.push(vm.addr(SELLER_KEY + i));
        }
    }

    function token() external view returns (address) {
        return address(usdc);
    }

    function contractUnderTest() external view returns (Bonds) {
        return bonds;
    }

    function caseCount() external view returns (uint256) {
        return openedCases.length;
    }

    function bond(uint256 who, uint96 value) external {
        address seller_ = sellers[who % SELLERS];
        value = uint96(bound(value, 0, 80e6));
        if (usdc.paused()) return;
        if (value != 0) usdc.mint(seller_, value);
        vm.prank(seller_);
        usdc.approve(address(bonds), value);
        vm.prank(seller_);
        bonds.bond(value);
        putIn[seller_] += value;
        askedAt[seller_] = 0;
        ++done[this.bond.selector];
    }

    function requestUnbond(uint256 who) external {
        address seller_ = sellers[who % SELLERS];
        vm.prank(seller_);
        try bonds.requestUnbond() {
            askedAt[seller_] = block.timestamp;
            ++done[this.requestUnbond.selector];
        } catch {}
    }

    /// @param patience Whether it asks first, and comes at once, at the time, or a second before.
    function unbondAll(uint256 who, uint256 patience) external {
        address seller_ = sellers[who % SELLERS];
        if (patience % 4 == 2) this.requestUnbond(who);
        uint256 time = askedAt[seller_] + UNBOND - patience % 2;
        if (askedAt[seller_] != 0 && patience % 4 != 0 && time > block.timestamp) vm.warp(time);
        uint256 before = usdc.balanceOf(seller_);
        (,,, bool frozen) = bonds.bonds(seller_);
        vm.prank(seller_);
        try bonds.unbondAll() {
            takenOut[seller_] += usdc.balanceOf(seller_) - before;
            if (frozen) broken = "a bond left while a case was open";
            if (askedAt[seller_] == 0) broken = "a bond left unasked";
            if (block.timestamp < askedAt[seller_] + UNBOND) broken = "a bond left too early";
            askedAt[seller_] = 0;
            ++done[this.unbondAll.selector];
        } catch {}
    }

    function equivocate(uint256 who, uint256 request, uint256 answer) external {
        uint256 key = _keys[who % SELLERS];
        address seller_ = vm.addr(key);
        IBonds.Receipt memory a = _receipt(request % REQUESTS, answer % 3);
        IBonds.Receipt memory b = _receipt(request % REQUESTS, answer / 3 % 3);
        uint256 before = _amount(seller_);
        try bonds.slashEquivocation(a, _signed(key, a), b, _signed(key, b)) {
            uint256 took = before - _amount(seller_);
            lost[seller_] += took;
            ++faults[seller_][a.requestId];
            if (took != (before < MAX_SLASH ? before : MAX_SLASH)) broken = "equivocation took another amount";
            if (a.responseHash == b.responseHash) broken = "one receipt contradicted itself";
            ++done[this.equivocate.selector];
        } catch {}
    }

    function openCase(uint256 who, uint256 request, uint96 amount) external {
        uint256 key = _keys[who % SELLERS];
        amount = uint96(bound(amount, 1, MAX_SLASH));
        IBonds.Receipt memory receipt = _receipt(request % REQUESTS, 1);
        bytes32 id = bonds.receiptHash(receipt);
        // Each seller's receipts differ, or one receipt would be a case of three sellers.
        receipt.channelId = bytes32(key);
        id = bonds.receiptHash(receipt);
        try bonds.openCase(receipt, _signed(key, receipt), amount, _verdicts(id, amount, false, K)) {
            openedCases.push(id);
            ++done[this.openCase.selector];
        } catch {}
    }

    function appeal(uint256 which) external {
        if (openedCases.length == 0) return;
        bytes32 id = openedCases[which % openedCases.length];
        (address seller_,,,) = bonds.cases(id);
        vm.prank(seller_);
        try bonds.appeal(id) {
            ++done[this.appeal.selector];
        } catch {}
    }

    function finalize(uint256 which, bool confirmed) external {
        if (openedCases.length == 0) return;
        bytes32 id = openedCases[which % openedCases.length];
        (address seller_, uint96 amount,, IBonds.State state) = bonds.cases(id);
        uint256 before = _amount(seller_);
        bytes[] memory verdicts = confirmed ? _verdicts(id, amount, true, K_APPEAL) : _none();
        try bonds.finalize(id, verdicts) {
            uint256 took = before - _amount(seller_);
            lost[seller_] += took;
            caseTook[id] += took;
            if (took != 0) ++caseSlashes[id];
            if (state == IBonds.State.Appealed && !confirmed && took != 0) broken = "an appeal was not heard";
            ++done[this.finalize.selector];
        } catch {}
    }

    function sweep() external {
        try bonds.sweep() {
            ++done[this.sweep.selector];
        } catch {}
    }

    /// @notice The thief tries what belongs to others, with its own key in the place of theirs.
    function steal(uint256 which, uint96 amount) external {
        _tries(abi.encodeCall(bonds.unbondAll, ()));
        if (openedCases.length != 0) {
            _tries(abi.encodeCall(bonds.appeal, (openedCases[which % openedCases.length])));
        }
        IBonds.Receipt memory receipt = _receipt(which, 5);
        amount = uint96(bound(amount, 1, MAX_SLASH));
        bytes32 digest = bonds.verdictHash(bonds.receiptHash(receipt), amount, false);
        bytes[] memory forged = new bytes[](K);
        for (uint256 i; i < K; ++i) {
            forged[i] = _sign(THIEF_KEY, digest);
        }
        _tries(abi.encodeCall(bonds.openCase, (receipt, _signed(SELLER_KEY, receipt), amount, forged)));
        IBonds.Receipt memory other = _receipt(which, 6);
        bytes memory own = _signed(THIEF_KEY, other);
        _tries(abi.encodeCall(bonds.slashEquivocation, (receipt, _signed(SELLER_KEY, receipt), other, own)));
        ++done[this.steal.selector];
    }

    function troubleToken(uint8 kind) external {
        if (kind % 4 == 0) usdc.setPaused(true);
        if (kind % 4 == 1) usdc.setBlacklisted(SINK, true);
        if (kind % 4 >= 2) {
            usdc.setPaused(false);
            usdc.setBlacklisted(SINK, false);
        }
        ++done[this.troubleToken.selector];
    }

    function wait_(uint256 time) external {
        vm.warp(block.timestamp + bound(time, 1 hours, 4 days));
        ++done[this.wait_.selector];
    }

    function _tries(bytes memory call) private {
        vm.prank(thief);
        (bool worked,) = address(bonds).call(call);
        if (worked) broken = "a thief was let in";
    }
}
