// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Channels} from "../../src/Channels.sol";
import {IChannels} from "../../src/IChannels.sol";
import {IUSDC} from "../../src/IUSDC.sol";
import {vm} from "../helpers/Vm.sol";
import {SymbolicToken} from "./Bonds.symbolic.t.sol";

/// @dev The contract, put into any state at all: reachable or not, the rules hold from there on.
contract AnyChannels is Channels {
    constructor(IUSDC usdc) Channels(usdc) {}

    function put(address payer, Account memory account, bytes32 id, Channel memory channel) external {
        accounts[payer] = account;
        channels[id] = channel;
    }

    function putCredit(address payee, uint256 value) external {
        credit[payee] = value;
    }
}

/// @notice For every state of the account and the channel, every caller, amount, time limit and signature: money only
/// moves between account, channel and credit, and only as far as the voucher, the deposit and the limit let it. Proven,
/// not sampled. Recovery of a key from a signature is any function of its arguments.
contract ChannelsSymbolic {
    address private constant PAYER = address(0xB0B);
    address private constant PAYEE = address(0x5E11);
    address private constant SIGNER = address(0x516E);
    address private constant OTHER = address(0x07E2);
    uint96 private constant OTHERS = 7e6;
    uint256 private constant NOW = 1_795_348_800;
    uint256 private constant S_MAX = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    struct Signature {
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    SymbolicToken private _token;
    AnyChannels private _channels;
    IChannels.Config private _cfg;
    bytes32 private _id;

    function setUp() public {
        vm.warp(NOW);
        _token = new SymbolicToken();
        _channels = new AnyChannels(IUSDC(address(_token)));
        _cfg = IChannels.Config(PAYER, SIGNER, PAYEE, 1 days, 0);
        _id = _channels.channelId(_cfg);
        IChannels.Account memory account;
        account.free = OTHERS;
        IChannels.Channel memory none;
        _channels.put(OTHER, account, bytes32(uint256(1)), none);
        _channels.putCredit(OTHER, OTHERS);
    }

    /// @notice Opening and topping up takes from the account what the channel gets, and no more than the operator may.
    function check_allocate_conserves(
        IChannels.Account memory account,
        IChannels.Channel memory channel,
        uint96 total,
        uint40 validBefore,
        address caller,
        Signature memory signature
    ) public {
        vm.assume(channel.claimed <= channel.deposit);
        _channels.put(PAYER, account, _id, channel);
        vm.prank(caller);
        try _channels.allocate(_cfg, total, validBefore, _bytes(signature)) {}
        catch {
            return;
        }
        IChannels.Channel memory after_ = _channel();
        IChannels.Account memory left = _account(PAYER);
        assert(total > channel.deposit && after_.deposit == total);
        assert(uint256(left.free) + after_.deposit == uint256(account.free) + channel.deposit);
        assert(after_.claimed == channel.claimed && !channel.closed && !after_.closed);
        assert(channel.closeAt == 0 && after_.closeAt == 0);
        assert(left.operator == account.operator && left.limit == account.limit);
        bytes32 typeHash = _channels.ALLOCATE_TYPEHASH();
        address recovered = _recover(keccak256(abi.encode(typeHash, _id, total, validBefore)), signature);
        if (caller != PAYER) assert(NOW <= validBefore);
        if (caller != PAYER && recovered != address(0) && recovered == account.operator) {
            uint256 used = account.month == _channels.monthOf(NOW) ? account.used : 0;
            assert(left.used == used + (total - channel.deposit));
            assert(left.used <= account.limit);
            assert(left.month == _channels.monthOf(NOW));
        } else {
            assert(caller == PAYER || recovered == PAYER);
            assert(left.used == account.used && left.month == account.month);
        }
        _checkOthers();
    }

    /// @notice A claim gives the seller what it takes from the channel: never beyond the signed voucher or the deposit.
    function check_claim_conserves(
        IChannels.Account memory account,
        IChannels.Channel memory channel,
        uint96 credit,
        uint96 amount,
        address caller,
        Signature memory signature
    ) public {
        vm.assume(channel.claimed <= channel.deposit);
        _channels.put(PAYER, account, _id, channel);
        _channels.putCredit(PAYEE, credit);
        IChannels.Claim[] memory rows = new IChannels.Claim[](1);
        rows[0] = IChannels.Claim(_cfg, amount, _bytes(signature));
        vm.prank(caller);
        try _channels.claim(PAYEE, rows, false) {}
        catch {
            return;
        }
        _checkClaimed(channel, credit, amount, signature);
        IChannels.Channel memory after_ = _channel();
        assert(!channel.closed && !after_.closed);
        assert(after_.closeAt == channel.closeAt);
        assert(_account(PAYER).free == account.free);
        _checkOthers();
    }

    /// @notice A close by the seller gives it no more than its voucher says, and the buyer all the rest.
    function check_close_conserves(
        IChannels.Account memory account,
        IChannels.Channel memory channel,
        uint96 credit,
        uint96 amount,
        address caller,
        Signature memory voucher,
        Signature memory byPayee
    ) public {
        vm.assume(channel.claimed <= channel.deposit);
        _channels.put(PAYER, account, _id, channel);
        _channels.putCredit(PAYEE, credit);
        vm.prank(caller);
        try _channels.close(_cfg, amount, _bytes(voucher), _bytes(byPayee)) {}
        catch {
            return;
        }
        _checkClaimed(channel, credit, amount, voucher);
        IChannels.Channel memory after_ = _channel();
        assert(!channel.closed && after_.closed);
        assert(_account(PAYER).free == uint256(account.free) + channel.deposit - after_.claimed);
        if (caller != PAYEE) {
            bytes32 typeHash = _channels.CLOSE_TYPEHASH();
            assert(_recover(keccak256(abi.encode(typeHash, _id, amount)), byPayee) == PAYEE);
        }
        _checkOthers();
    }

    /// @notice A request to close moves nothing, and comes from the payer or its operator.
    function check_requestClose_moves_nothing(
        IChannels.Account memory account,
        IChannels.Channel memory channel,
        uint40 validBefore,
        address caller,
        Signature memory signature
    ) public {
        vm.assume(caller != address(0));
        _channels.put(PAYER, account, _id, channel);
        vm.prank(caller);
        try _channels.requestClose(_cfg, validBefore, _bytes(signature)) {}
        catch {
            return;
        }
        IChannels.Channel memory after_ = _channel();
        assert(after_.deposit == channel.deposit && after_.claimed == channel.claimed && !after_.closed);
        assert(channel.closeAt == 0 && after_.closeAt == NOW + 1 days);
        assert(_account(PAYER).free == account.free);
        if (caller != PAYER && caller != account.operator) {
            bytes32 typeHash = _channels.REQUEST_CLOSE_TYPEHASH();
            address recovered = _recover(keccak256(abi.encode(typeHash, _id, validBefore)), signature);
            assert(recovered == PAYER || (recovered == account.operator && recovered != address(0)));
        }
        _checkOthers();
    }

    /// @notice A delayed close gives the buyer what was not claimed, not a second before its time, and only once.
    function check_finalizeClose_conserves(
        IChannels.Account memory account,
        IChannels.Channel memory channel,
        uint96 credit,
        address caller
    ) public {
        vm.assume(channel.claimed <= channel.deposit);
        _channels.put(PAYER, account, _id, channel);
        _channels.putCredit(PAYEE, credit);
        vm.prank(caller);
        try _channels.finalizeClose(_cfg) {}
        catch {
            return;
        }
        IChannels.Channel memory after_ = _channel();
        assert(!channel.closed && after_.closed);
        assert(channel.closeAt != 0 && channel.closeAt <= NOW);
        assert(after_.deposit == channel.deposit && after_.claimed == channel.claimed);
        assert(_account(PAYER).free == uint256(account.free) + channel.deposit - channel.claimed);
        assert(_channels.credit(PAYEE) == credit);
        _checkOthers();
    }

    /// @notice Naming an operator moves nothing and opens no month again.
    function check_setOperator_keeps_what_is_used(
        IChannels.Account memory account,
        address operator,
        uint96 limit
    ) public {
        _channels.put(PAYER, account, _id, _channel());
        vm.prank(PAYER);
        _channels.setOperator(operator, limit);
        IChannels.Account memory left = _account(PAYER);
        assert(left.operator == operator && left.limit == limit);
        assert(left.free == account.free && left.used == account.used && left.month == account.month);
        _checkOthers();
    }

    /// @notice A deposit credits what arrives, a withdrawal pays what it takes, for every state of the token.
    function check_deposit_and_withdraw_conserve(
        IChannels.Account memory account,
        uint96 value,
        uint96 back,
        bool refuses
    ) public {
        _channels.put(PAYER, account, _id, _channel());
        _token.set(PAYER, value);
        _token.set(address(_channels), account.free);
        vm.prank(PAYER);
        try _channels.deposit(value) {
            assert(_account(PAYER).free == uint256(account.free) + value);
        } catch {
            assert(_account(PAYER).free == account.free);
        }
        _token.setRefuses(refuses);
        uint256 free = _account(PAYER).free;
        vm.prank(PAYER);
        try _channels.withdraw(back) {
            assert(!refuses && back <= free);
            assert(_account(PAYER).free == free - back);
        } catch {
            assert(_account(PAYER).free == free);
        }
        assert(_token.balanceOf(address(_channels)) == _account(PAYER).free);
        _checkOthers();
    }

    /// @notice A payout pays a seller its credit once, and no other's.
    function check_payout_pays_once(uint96 credit, uint96 held, bool refuses, address caller) public {
        vm.assume(held >= credit);
        _channels.putCredit(PAYEE, credit);
        _token.set(address(_channels), held);
        _token.setRefuses(refuses);
        vm.prank(caller);
        try _channels.payout(PAYEE) {} catch {}
        _token.setRefuses(false);
        try _channels.payout(PAYEE) {} catch {}
        assert(_token.balanceOf(PAYEE) == credit);
        assert(_token.balanceOf(address(_channels)) == held - credit);
        assert(_channels.credit(PAYEE) == 0);
        _checkOthers();
    }

    /// @dev After a claim: what the channel gave is what the seller has more, and a voucher stands for it.
    function _checkClaimed(
        IChannels.Channel memory before,
        uint96 credit,
        uint96 amount,
        Signature memory signature
    ) private view {
        IChannels.Channel memory after_ = _channel();
        assert(after_.deposit == before.deposit);
        assert(after_.claimed == (amount > before.claimed ? amount : before.claimed));
        assert(after_.claimed <= after_.deposit);
        assert(_channels.credit(PAYEE) == uint256(credit) + after_.claimed - before.claimed);
        if (after_.claimed != before.claimed) {
            bytes32 typeHash = _channels.VOUCHER_TYPEHASH();
            assert(_recover(keccak256(abi.encode(typeHash, _id, amount)), signature) == SIGNER);
        }
    }

    function _checkOthers() private view {
        assert(_account(OTHER).free == OTHERS);
        assert(_channels.credit(OTHER) == OTHERS);
    }

    function _recover(bytes32 structHash, Signature memory signature) private view returns (address) {
        if (uint256(signature.s) > S_MAX) return address(0);
        bytes32 digest = keccak256(abi.encodePacked(hex"1901", _channels.domainSeparator(), structHash));
        return ecrecover(digest, signature.v, signature.r, signature.s);
    }

    function _bytes(Signature memory signature) private pure returns (bytes memory) {
        return abi.encodePacked(signature.r, signature.s, signature.v);
    }

    function _account(address owner) private view returns (IChannels.Account memory account) {
        (account.free, account.operator, account.limit, account.used, account.month) = _channels.accounts(owner);
    }

    function _channel() private view returns (IChannels.Channel memory channel) {
        (channel.deposit, channel.claimed, channel.closeAt, channel.closed) = _channels.channels(_id);
    }
}
