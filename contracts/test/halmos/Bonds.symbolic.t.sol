// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Bonds} from "../../src/Bonds.sol";
import {IBonds} from "../../src/IBonds.sol";
import {IUSDC} from "../../src/IUSDC.sol";
import {vm} from "../helpers/Vm.sol";

/// @dev The least token: it moves what it is told to, or says no. Its answers are what the solver chooses.
contract SymbolicToken {
    mapping(address account => uint256) public balanceOf;
    bool public refuses;

    function set(address account, uint256 value) external {
        balanceOf[account] = value;
    }

    function setRefuses(bool value) external {
        refuses = value;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        return _move(msg.sender, to, value);
    }

    function transferFrom(address from, address to, uint256 value) external returns (bool) {
        return _move(from, to, value);
    }

    function _move(address from, address to, uint256 value) private returns (bool) {
        if (refuses || balanceOf[from] < value) return false;
        balanceOf[from] -= value;
        balanceOf[to] += value;
        return true;
    }
}

/// @notice Money is neither made nor lost, for every amount, time and state of the token. Proven, not sampled.
contract BondsSymbolic {
    address private constant SINK = address(0xD00D);
    address private constant OTHER = address(0x07E2);
    uint256 private constant SELLER_KEY = 0x5E11;
    uint256 private constant VERIFIER_KEY = 0xFACE;
    uint96 private constant MAX_SLASH = 50e6;
    uint96 private constant OTHERS = 7e6;

    address private immutable SELLER = vm.addr(SELLER_KEY);
    SymbolicToken private _token;
    Bonds private _bonds;

    function setUp() public {
        _token = new SymbolicToken();
        // The solver knows nothing of a key's address but that it is one.
        vm.assume(SELLER != OTHER && SELLER != SINK && SELLER != address(_token));
        address[] memory verifiers = new address[](1);
        verifiers[0] = vm.addr(VERIFIER_KEY);
        _bonds = new Bonds(IUSDC(address(_token)), SINK, verifiers, 1, 1, MAX_SLASH, 3 days, 7 days);
        vm.assume(SELLER != address(_bonds));
    }

    /// @notice Whoever bonds gets exactly what it gave, and nobody else's bond changes.
    function check_bond_conserves(uint96 first, uint96 second, uint96 other) public {
        _put(OTHER, other);
        _put(SELLER, first);
        uint256 before = _token.balanceOf(address(_bonds));
        _token.set(SELLER, second);
        vm.prank(SELLER);
        try _bonds.bond(second) {
            assert(_amount(SELLER) == uint256(first) + second);
            assert(_token.balanceOf(address(_bonds)) == before + second);
        } catch {
            assert(_amount(SELLER) == first);
            assert(_token.balanceOf(address(_bonds)) == before);
        }
        assert(_amount(OTHER) == other);
    }

    /// @notice Unbonding pays what the bond was, once, after the time, and touches nobody else's.
    function check_unbond_conserves(uint96 amount, uint96 other, uint32 waited, bool refuses) public {
        _put(OTHER, other);
        _put(SELLER, amount);
        vm.prank(SELLER);
        try _bonds.requestUnbond() {} catch {}
        uint256 start = block.timestamp;
        vm.warp(start + waited);
        _token.setRefuses(refuses);
        vm.prank(SELLER);
        try _bonds.unbondAll() {
            assert(waited >= 7 days);
            assert(_token.balanceOf(SELLER) == amount);
            assert(_amount(SELLER) == 0);
            assert(_token.balanceOf(address(_bonds)) == other);
        } catch {
            assert(_amount(SELLER) == amount);
            assert(_token.balanceOf(address(_bonds)) == uint256(amount) + other);
        }
        assert(_amount(OTHER) == other);
    }

    /// @notice A case takes what it is about, or nothing where it is dropped; the sink gets or is owed exactly that,
    /// and once it is swept the sink has it.
    function check_case_conserves(uint96 amount, uint96 claim, bool refuses, bool appeals) public {
        vm.assume(amount != 0 && claim != 0 && claim <= MAX_SLASH);
        _put(OTHER, OTHERS);
        _put(SELLER, amount);
        bytes32 id = _openCase(claim);
        uint96 about = claim < amount ? claim : amount;
        if (appeals) {
            vm.prank(SELLER);
            _bonds.appeal(id);
        }
        vm.warp(block.timestamp + 3 days);
        _token.setRefuses(refuses);
        _bonds.finalize(id, new bytes[](0));
        uint256 took = appeals ? 0 : about;
        assert(about <= MAX_SLASH);
        assert(_amount(SELLER) == amount - took);
        assert(_amount(OTHER) == OTHERS);
        _checkSink(took, refuses, uint256(amount) + OTHERS);
    }

    /// @notice Equivocation takes the maximum, or all there is; the sink gets or is owed exactly that.
    function check_equivocation_conserves(uint96 amount, bool refuses) public {
        vm.assume(amount != 0);
        _put(OTHER, OTHERS);
        _put(SELLER, amount);
        IBonds.Receipt memory a;
        IBonds.Receipt memory b;
        (a.responseHash, b.responseHash) = (bytes32(uint256(1)), bytes32(uint256(2)));
        bytes memory signatureA = _sign(SELLER_KEY, _bonds.receiptHash(a));
        bytes memory signatureB = _sign(SELLER_KEY, _bonds.receiptHash(b));
        _token.setRefuses(refuses);
        _bonds.slashEquivocation(a, signatureA, b, signatureB);
        uint96 took = amount < MAX_SLASH ? amount : MAX_SLASH;
        assert(_amount(SELLER) == amount - took);
        assert(_amount(OTHER) == OTHERS);
        _checkSink(took, refuses, uint256(amount) + OTHERS);
    }

    function _openCase(uint96 claim) private returns (bytes32 id) {
        IBonds.Receipt memory receipt;
        id = _bonds.receiptHash(receipt);
        bytes[] memory verdicts = new bytes[](1);
        verdicts[0] = _sign(VERIFIER_KEY, _bonds.verdictHash(id, claim, false));
        _bonds.openCase(receipt, _sign(SELLER_KEY, id), claim, verdicts);
    }

    /// @dev `took` of `sum` is the sink's: at once, or later if the token refuses now.
    function _checkSink(uint256 took, bool refuses, uint256 sum) private {
        assert(_token.balanceOf(SINK) == (refuses ? 0 : took));
        assert(_bonds.owed() == (refuses ? took : 0));
        assert(_token.balanceOf(SINK) + _token.balanceOf(address(_bonds)) == sum);
        _token.setRefuses(false);
        _bonds.sweep();
        assert(_token.balanceOf(SINK) == took);
        assert(_token.balanceOf(address(_bonds)) == sum - took);
        assert(_bonds.owed() == 0);
    }

    function _sign(uint256 key, bytes32 digest) private pure returns (bytes memory) {
        (uint8 v, bytes32 r, bytes32 s) = vm.sign(key, digest);
        return abi.encodePacked(r, s, v);
    }

    function _put(address owner, uint96 value) private {
        _token.set(owner, value);
        vm.prank(owner);
        _bonds.bond(value);
        assert(_token.balanceOf(owner) == 0);
    }

    function _amount(address owner) private view returns (uint96 amount) {
        (amount,,,) = _bonds.bonds(owner);
    }
}
