// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "../../src/IChannels.sol";
import {ChannelsFixture} from "./ChannelsFixture.sol";
import {vm} from "./Vm.sol";

/// @notice Three buyers with operators, two sellers, relayers and thieves on up to 48 channels, and a clock that
/// crosses the ends of months. It keeps its own books (what was signed, put in, taken out, allocated in a month) for
/// the invariants to compare with, and checks after each step what a step must not do.
contract ChannelsActors is ChannelsFixture {
    uint256 public constant BUYERS = 3;
    uint256 public constant SELLERS = 2;
    uint256 private constant SALTS = 8;

    IChannels.Config[] private _opened;
    mapping(bytes32 id => bool) private _isOpened;
    /// @notice The most that a channel's signer ever signed.
    mapping(bytes32 id => uint96) public signedMost;
    mapping(bytes32 id => IChannels.Channel) private _last;
    mapping(address buyer => uint256) public deposited;
    mapping(address buyer => uint256) public withdrawn;
    mapping(address buyer => mapping(uint32 month => uint256)) public allocatedByOperator;
    /// @notice Steps that succeeded, by name.
    mapping(string name => uint256) public steps;
    uint256 public donated;
    uint256 private _authorizations;
    /// @notice The first rule that a step broke. Kept and not thrown: a step that reverts counts as not taken.
    string public fault;

    address[BUYERS] private _buyers;
    address[BUYERS] private _operators;
    address[SELLERS] private _sellers;

    constructor() {
        _deploy();
        for (uint256 i; i < BUYERS; ++i) {
            (_buyers[i], _operators[i]) = (vm.addr(_buyerKey(i)), vm.addr(_operatorKey(i)));
        }
        for (uint256 i; i < SELLERS; ++i) _sellers[i] = vm.addr(_sellerKey(i));
    }

    /// @dev What a step may lower: one buyer's free money, and one seller's credit. Never anybody else's.
    modifier watched(string memory name, address spender, address payee) {
        (uint256[BUYERS] memory free, uint256[SELLERS] memory credits) = _balances();
        _;
        ++steps[name];
        (uint256[BUYERS] memory freeNow, uint256[SELLERS] memory creditsNow) = _balances();
        for (uint256 i; i < BUYERS; ++i) {
            if (buyerAt(i) != spender) _expect(free[i] <= freeNow[i], "somebody else's free money fell");
        }
        for (uint256 i; i < SELLERS; ++i) {
            if (sellerAt(i) != payee) _expect(credits[i] <= creditsNow[i], "a credit fell without payout");
        }
        _checkMonotone();
    }

    function deposit(uint256 who, uint256 value, uint256 way) external watched("deposit", address(0), address(0)) {
        address owner = buyerAt(who);
        value = bound(value, 0, 30e6);
        usdc.mint(owner, value);
        if (way % 3 == 0) {
            vm.prank(owner);
            usdc.approve(address(channels), value);
            vm.prank(owner);
            channels.deposit(value);
        } else if (way % 3 == 1) {
            bytes memory signature = _permitSignature(_buyerKey(who), value);
            vm.prank(owner);
            channels.depositWithPermit(value, FOREVER, signature);
        } else {
            _depositWithAuthorization(who, value, uint96(bound(way, 0, 12e6)));
        }
        deposited[owner] += value;
    }

    function _depositWithAuthorization(uint256 who, uint256 value, uint96 limit) private {
        address op = operatorAt(who);
        bytes32 salt = keccak256(abi.encode(who, value, limit, ++_authorizations));
        bytes memory signature = _depositSignature(_buyerKey(who), value, op, limit, salt);
        channels.depositWithAuthorization(buyerAt(who), value, 0, FOREVER, op, limit, salt, signature);
    }

    function donate(uint256 value) external watched("donate", address(0), address(0)) {
        value = bound(value, 1, 1e6);
        usdc.mint(address(channels), value);
        donated += value;
    }

    function withdraw(uint256 who, uint256 value) external watched("withdraw", buyerAt(who), address(0)) {
        address owner = buyerAt(who);
        value = bound(value, 0, _free(owner) / 2 + 1);
        vm.prank(owner);
        channels.withdraw(uint96(value));
        withdrawn[owner] += value;
    }

    function setOperator(uint256 who, uint256 limit) external watched("setOperator", address(0), address(0)) {
        vm.prank(buyerAt(who));
        channels.setOperator(operatorAt(who), uint96(bound(limit, 0, 12e6)));
    }

    function allocate(uint256 who, uint256 pick, uint256 value, uint256 way)
        external
        watched("allocate", buyerAt(who), address(0))
    {
        IChannels.Config memory cfg = _configAt(who, pick);
        uint96 total = _channel(channels.channelId(cfg)).deposit + uint96(bound(value, 1, 6e6));
        bytes memory signature;
        if (way % 2 == 0) signature = _allocation(_buyerKey(who), cfg, total);
        else vm.prank(cfg.payer);
        channels.allocate(cfg, total, FOREVER, signature);
        _note(cfg);
    }

    function allocateByOperator(uint256 who, uint256 pick, uint256 value)
        external
        watched("allocateByOperator", buyerAt(who), address(0))
    {
        IChannels.Config memory cfg = _configAt(who, pick);
        uint96 before = _channel(channels.channelId(cfg)).deposit;
        uint96 total = before + uint96(bound(value, 1, 6e6));
        bytes memory signature = _allocation(_operatorKey(who), cfg, total);
        vm.prank(thief);
        channels.allocate(cfg, total, FOREVER, signature);
        _note(cfg);
        uint32 month = channels.monthOf(block.timestamp);
        allocatedByOperator[cfg.payer][month] += total - before;
        (, , uint96 limit,,) = channels.accounts(cfg.payer);
        _expect(allocatedByOperator[cfg.payer][month] <= limit, "the operator went beyond its limit");
    }

    /// @dev Up to three vouchers of one seller's channels, in any order and amount.
    function claim(uint256 seed, uint256 amount, uint256 way)
        external
        watched("claim", address(0), way % 2 == 0 ? sellerAt(seed) : address(0))
    {
        address payee = sellerAt(seed);
        IChannels.Claim[] memory rows = new IChannels.Claim[](3);
        uint256 found;
        for (uint256 i; i < _opened.length && found < 3; ++i) {
            IChannels.Config memory cfg = _opened[(i + seed % 101) % _opened.length];
            if (cfg.payee == payee) rows[found++] = _row(cfg, amount >> i);
        }
        assembly ("memory-safe") {
            mstore(rows, found)
        }
        channels.claim(payee, rows, way % 2 == 0);
    }

    function payout(uint256 seed) external watched("payout", address(0), sellerAt(seed)) {
        channels.payout(sellerAt(seed));
    }

    function close(uint256 pick, uint256 amount, uint256 way)
        external
        watched("close", address(0), address(0))
    {
        IChannels.Config memory cfg = _pickedConfig(pick);
        IChannels.Claim memory row = _row(cfg, amount);
        bytes memory payeeSignature;
        if (way % 2 == 0) {
            uint256 key = cfg.payee == sellerAt(0) ? _sellerKey(0) : _sellerKey(1);
            payeeSignature = _sign(key, _closeDigest(channels.channelId(cfg), row.amount));
        } else {
            vm.prank(cfg.payee);
        }
        channels.close(cfg, row.amount, row.sig, payeeSignature);
    }

    function requestClose(uint256 pick, uint256 way)
        external
        watched("requestClose", address(0), address(0))
    {
        IChannels.Config memory cfg = _pickedConfig(pick);
        (, address op,,,) = channels.accounts(cfg.payer);
        vm.prank(way % 2 == 0 ? op : cfg.payer);
        channels.requestClose(cfg, 0, "");
    }

    function finalizeClose(uint256 pick) external watched("finalizeClose", address(0), address(0)) {
        IChannels.Config memory cfg = _pickedConfig(pick);
        uint40 closeAt = _channel(channels.channelId(cfg)).closeAt;
        channels.finalizeClose(cfg);
        _expect(closeAt != 0 && block.timestamp >= closeAt, "closed before its time");
    }

    function wait(uint256 duration) external watched("wait", address(0), address(0)) {
        vm.warp(block.timestamp + bound(duration, 1, 9 days));
    }

    /// @dev A stranger, another buyer or another seller tries whatever is not theirs, with keys that are not right.
    function steal(uint256 pick, uint256 value, uint256 way) external watched("steal", address(0), address(0)) {
        IChannels.Config memory cfg = _pickedConfig(pick);
        bytes32 id = channels.channelId(cfg);
        IChannels.Channel memory channel = _channel(id);
        bytes memory message;
        if (way % 5 == 0) {
            uint96 amount = channel.claimed + uint96(bound(value, 1, 1e6));
            message = abi.encodeCall(
                IChannels.claim, (cfg.payee, _one(cfg, amount, _voucher(THIEF_KEY, id, amount)), true)
            );
        } else if (way % 5 == 1) {
            bytes memory signature = _sign(THIEF_KEY, _closeDigest(id, channel.claimed));
            message = abi.encodeCall(IChannels.close, (cfg, channel.claimed, "", signature));
        } else if (way % 5 == 2) {
            bytes memory signature = _sign(THIEF_KEY, _requestDigest(id, FOREVER));
            message = abi.encodeCall(IChannels.requestClose, (cfg, FOREVER, signature));
        } else if (way % 5 == 3) {
            uint96 total = channel.deposit + uint96(bound(value, 1, 1e6));
            message = abi.encodeCall(
                IChannels.allocate, (cfg, total, FOREVER, _allocation(THIEF_KEY, cfg, total))
            );
        } else {
            message = abi.encodeCall(IChannels.withdraw, (uint96(bound(value, 1, 1e6))));
        }
        vm.prank(thief);
        (bool ok,) = address(channels).call(message);
        _expect(!ok, "a thief succeeded");
    }

    function buyerAt(uint256 i) public view returns (address) {
        return _buyers[i % BUYERS];
    }

    function operatorAt(uint256 i) public view returns (address) {
        return _operators[i % BUYERS];
    }

    function sellerAt(uint256 i) public view returns (address) {
        return _sellers[i % SELLERS];
    }

    /// @notice What the contract owes: to buyers, to channels that are not closed, to sellers.
    function owed() external view returns (uint256 sum) {
        (uint256[BUYERS] memory free, uint256[SELLERS] memory credits) = _balances();
        for (uint256 i; i < BUYERS; ++i) sum += free[i];
        for (uint256 i; i < SELLERS; ++i) sum += credits[i];
        for (uint256 i; i < _opened.length; ++i) {
            IChannels.Channel memory channel = _channel(channels.channelId(_opened[i]));
            if (!channel.closed) sum += channel.deposit - channel.claimed;
        }
    }

    function held() external view returns (uint256) {
        return usdc.balanceOf(address(channels));
    }

    /// @notice What a buyer has in its account and channels, and what its channels have given away.
    function ofBuyer(address owner) external view returns (uint256 kept, uint256 given) {
        kept = _free(owner);
        for (uint256 i; i < _opened.length; ++i) {
            if (_opened[i].payer != owner) continue;
            IChannels.Channel memory channel = _channel(channels.channelId(_opened[i]));
            if (!channel.closed) kept += channel.deposit - channel.claimed;
            given += channel.claimed;
        }
    }

    /// @notice What a seller was paid and has as credit, and what was claimed for it.
    function ofSeller(address payee) external view returns (uint256 received, uint256 claimed) {
        received = usdc.balanceOf(payee) + channels.credit(payee);
        for (uint256 i; i < _opened.length; ++i) {
            if (_opened[i].payee == payee) claimed += _channel(channels.channelId(_opened[i])).claimed;
        }
    }

    /// @notice All channels, with the most that was signed for each.
    function all() external view returns (IChannels.Channel[] memory found, uint96[] memory signed) {
        found = new IChannels.Channel[](_opened.length);
        signed = new uint96[](_opened.length);
        for (uint256 i; i < found.length; ++i) {
            bytes32 id = channels.channelId(_opened[i]);
            (found[i], signed[i]) = (_channel(id), signedMost[id]);
        }
    }

    function _expect(bool condition, string memory what) private {
        if (!condition && bytes(fault).length == 0) fault = what;
    }

    function _balances()
        private
        view
        returns (uint256[BUYERS] memory free, uint256[SELLERS] memory credits)
    {
        for (uint256 i; i < BUYERS; ++i) free[i] = _free(buyerAt(i));
        for (uint256 i; i < SELLERS; ++i) credits[i] = channels.credit(sellerAt(i));
    }

    /// @dev Deposits and claims only rise; closed stays closed, and nothing moves in it.
    function _checkMonotone() private {
        for (uint256 i; i < _opened.length; ++i) {
            bytes32 id = channels.channelId(_opened[i]);
            IChannels.Channel memory last = _last[id];
            IChannels.Channel memory channel = _channel(id);
            _expect(last.deposit <= channel.deposit, "a deposit fell");
            _expect(last.claimed <= channel.claimed, "a claim fell");
            if (last.closeAt != 0) _expect(channel.closeAt == last.closeAt, "closeAt changed");
            if (last.closeAt != 0) _expect(channel.deposit == last.deposit, "a deposit while closing");
            if (last.closed) {
                _expect(channel.closed, "a closed channel opened");
                _expect(channel.claimed == last.claimed, "a claim after the close");
            }
            _last[id] = channel;
        }
    }

    function _note(IChannels.Config memory cfg) private {
        bytes32 id = channels.channelId(cfg);
        if (_isOpened[id]) return;
        _isOpened[id] = true;
        _opened.push(cfg);
    }

    /// @dev A voucher of the right signer, up to a quarter above the deposit.
    function _row(IChannels.Config memory cfg, uint256 seed) private returns (IChannels.Claim memory) {
        bytes32 id = channels.channelId(cfg);
        uint256 most = _channel(id).deposit;
        uint96 amount = uint96(bound(seed, 0, most + most / 8));
        if (amount > signedMost[id]) signedMost[id] = amount;
        uint256 key = cfg.signer == vm.addr(_signerKey(0))
            ? _signerKey(0)
            : cfg.signer == vm.addr(_signerKey(1)) ? _signerKey(1) : _signerKey(2);
        return IChannels.Claim(cfg, amount, _voucher(key, id, amount));
    }

    function _pickedConfig(uint256 pick) private view returns (IChannels.Config memory) {
        return _opened[pick % _opened.length];
    }

    function _configAt(uint256 who, uint256 pick) private view returns (IChannels.Config memory) {
        uint256 salt = pick / SELLERS % SALTS;
        return IChannels.Config(
            buyerAt(who), vm.addr(_signerKey(who)), sellerAt(pick), DELAY, bytes32(salt)
        );
    }

    function _buyerKey(uint256 i) private pure returns (uint256) {
        return 0x100 + i % BUYERS;
    }

    function _operatorKey(uint256 i) private pure returns (uint256) {
        return 0x200 + i % BUYERS;
    }

    function _signerKey(uint256 i) private pure returns (uint256) {
        return 0x300 + i % BUYERS;
    }

    function _sellerKey(uint256 i) private pure returns (uint256) {
        return 0x400 + i % SELLERS;
    }
}
