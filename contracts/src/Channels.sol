// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IChannels} from "./IChannels.sol";
import {IUSDC} from "./IUSDC.sol";
import {Domain} from "./lib/Domain.sol";
import {Hashes} from "./lib/Hashes.sol";
import {Months} from "./lib/Months.sol";
import {Signatures} from "./lib/Signatures.sol";

/// @dev Where the money is: the sum of all `free`, of `deposit - claimed` of all channels that are not closed, and of
/// all `credit` never exceeds this contract's balance of the token. Deposits raise that sum by what has arrived,
/// `withdraw` and payouts lower it by what leaves; all else only moves money between the three.
///
/// Not handled: a token that lies about balances, or that freezes this contract's address. USDC's issuer can do
/// either, and no contract that holds USDC can prevent it.
contract Channels is IChannels, Domain {
    // Voucher(bytes32 channelId,uint96 amount)
    bytes32 public constant VOUCHER_TYPEHASH = keccak256("Voucher(bytes32 channelId,uint96 amount)");
    // Allocate(bytes32 channelId,uint96 total,uint40 validBefore)
    bytes32 public constant ALLOCATE_TYPEHASH =
        keccak256("Allocate(bytes32 channelId,uint96 total,uint40 validBefore)");
    // Close(bytes32 channelId,uint96 amount)
    bytes32 public constant CLOSE_TYPEHASH = keccak256("Close(bytes32 channelId,uint96 amount)");
    // RequestClose(bytes32 channelId,uint40 validBefore)
    bytes32 public constant REQUEST_CLOSE_TYPEHASH = keccak256("RequestClose(bytes32 channelId,uint40 validBefore)");

    /// @dev A seller needs time to see a request to close and to claim.
    uint32 public constant MIN_DELAY = 1 hours;
    /// @dev A buyer must not lose sight of its money because of a wrong digit.
    uint32 public constant MAX_DELAY = 30 days;

    IUSDC public immutable override token;
    mapping(address payer => Account) public override accounts;
    mapping(bytes32 id => Channel) public override channels;
    mapping(address payee => uint256) public override credit;

    /// @dev A word and not a bool, which would be read before each write to keep its neighbours.
    uint256 private transient _locked;

    /// @dev On every function that writes, so that nothing can be entered while the token is called. `multicall` has
    /// no lock of its own: its calls take it one after the other.
    modifier locks() {
        if (_locked != 0) revert Locked();
        _locked = 1;
        _;
        _locked = 0;
    }

    constructor(IUSDC usdc) Domain("UnhostedChannels") {
        token = usdc;
    }

    /// @inheritdoc IChannels
    function deposit(uint256 value) external locks {
        _pull(value);
    }

    /// @inheritdoc IChannels
    function depositWithPermit(uint256 value, uint256 deadline, bytes calldata sig) external locks {
        // Anyone may hand in the permit before us; then this one fails, but the allowance is there.
        try token.permit(msg.sender, address(this), value, deadline, sig) {} catch {}
        _pull(value);
    }

    /// @inheritdoc IChannels
    function depositWithAuthorization(
        address payer,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        address operator,
        uint96 limit,
        bytes32 salt,
        bytes calldata sig
    ) external locks {
        uint256 balance = token.balanceOf(address(this));
        bytes32 nonce = keccak256(abi.encode(operator, limit, salt));
        token.receiveWithAuthorization(payer, address(this), value, validAfter, validBefore, nonce, sig);
        _credit(payer, value, balance);
        if (operator != address(0)) _setOperator(payer, operator, limit);
    }

    /// @inheritdoc IChannels
    function setOperator(address operator, uint96 limit) external locks {
        _setOperator(msg.sender, operator, limit);
    }

    /// @inheritdoc IChannels
    function withdraw(uint96 value) external locks {
        _spend(accounts[msg.sender], value);
        emit Withdrawn(msg.sender, value);
        _push(msg.sender, value);
    }

    /// @inheritdoc IChannels
    function allocate(Config calldata cfg, uint96 total, uint40 validBefore, bytes calldata sig) external locks {
        _checkConfig(cfg);
        bytes32 id = channelId(cfg);
        Channel storage channel = channels[id];
        Account storage account = accounts[cfg.payer];
        uint96 value = _missing(channel, id, total);
        if (msg.sender != cfg.payer) {
            bytes32 structHash = keccak256(abi.encode(ALLOCATE_TYPEHASH, id, total, validBefore));
            if (_isByOperator(cfg.payer, id, structHash, validBefore, sig)) _useLimit(account, value);
        }
        _spend(account, value);
        channel.deposit = total;
        emit Allocated(id, cfg.payer, cfg.payee, cfg.signer, cfg.delay, cfg.salt, total);
    }

    /// @inheritdoc IChannels
    function claim(address payee, Claim[] calldata rows, bool payOut) external locks {
        uint256 sum;
        uint256 closed;
        for (uint256 i; i < rows.length; ++i) {
            Claim calldata row = rows[i];
            if (row.cfg.payee != payee) revert NotAllowed(payee, row.cfg.payee);
            bytes32 id = channelId(row.cfg);
            Channel storage channel = channels[id];
            if (channel.closed) {
                ++closed;
            } else {
                uint96 amount = row.amount;
                uint96 claimed = channel.claimed;
                if (amount <= claimed) continue;
                _checkVoucher(channel.deposit, id, row.cfg.signer, amount, row.sig);
                channel.claimed = amount;
                sum += amount - claimed;
                emit Claimed(id, amount);
            }
        }
        if (closed != 0 && closed == rows.length) revert ChannelIsClosed(channelId(rows[0].cfg));
        if (payOut) _pay(payee, sum);
        else if (sum != 0) credit[payee] += sum;
    }

    /// @inheritdoc IChannels
    function payout(address payee) external locks {
        _pay(payee, 0);
    }

    /// @inheritdoc IChannels
    function close(Config calldata cfg, uint96 amount, bytes calldata voucherSig, bytes calldata payeeSig)
        external
        locks
    {
        bytes32 id = channelId(cfg);
        Channel storage channel = channels[id];
        (uint96 deposited, uint96 claimed,) = _open(channel, id);
        if (msg.sender != cfg.payee) {
            bytes32 digest = _digest(Hashes.hash(CLOSE_TYPEHASH, id, amount));
            _checkSigner(cfg.payee, id, digest, payeeSig, Signatures.recover(digest, payeeSig));
        }
        if (amount > claimed) {
            _checkVoucher(deposited, id, cfg.signer, amount, voucherSig);
            credit[cfg.payee] += amount - claimed;
            claimed = amount;
        }
        _finish(channel, id, cfg.payer, deposited, claimed);
    }

    /// @inheritdoc IChannels
    function requestClose(Config calldata cfg, uint40 validBefore, bytes calldata sig) external locks {
        bytes32 id = channelId(cfg);
        Channel storage channel = channels[id];
        (,, uint40 closeAt) = _open(channel, id);
        if (closeAt != 0) revert ChannelIsClosing(id, closeAt);
        if (msg.sender != cfg.payer && msg.sender != accounts[cfg.payer].operator) {
            _isByOperator(cfg.payer, id, Hashes.hash(REQUEST_CLOSE_TYPEHASH, id, validBefore), validBefore, sig);
        }
        closeAt = uint40(block.timestamp) + cfg.delay;
        channel.closeAt = closeAt;
        emit CloseRequested(id, cfg.payee, closeAt);
    }

    /// @inheritdoc IChannels
    function finalizeClose(Config calldata cfg) external locks {
        bytes32 id = channelId(cfg);
        Channel storage channel = channels[id];
        (uint96 deposited, uint96 claimed, uint40 closeAt) = _open(channel, id);
        if (closeAt == 0 || block.timestamp < closeAt) revert NotReady(closeAt, block.timestamp);
        _finish(channel, id, cfg.payer, deposited, claimed);
    }

    /// @inheritdoc IChannels
    /// @dev Nothing is payable, so no call can count the same ether twice.
    function multicall(bytes[] calldata data) external {
        for (uint256 i; i < data.length; ++i) {
            (bool ok, bytes memory answer) = address(this).delegatecall(data[i]);
            if (!ok) {
                assembly ("memory-safe") {
                    revert(add(answer, 32), mload(answer))
                }
            }
        }
    }

    /// @inheritdoc IChannels
    function channelId(Config calldata cfg) public view returns (bytes32 id) {
        // The five words of the config are copied as they came, which saves a batch 2 % of its gas. A word with bits
        // beyond its type's width gives the id of no channel: `allocate` reads each of them, and reading reverts.
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, chainid())
            mstore(add(start, 32), address())
            calldatacopy(add(start, 64), cfg, 160)
            id := keccak256(start, 224)
        }
    }

    /// @inheritdoc IChannels
    function monthOf(uint256 timestamp) external pure returns (uint32) {
        return Months.monthOf(timestamp);
    }

    /// @inheritdoc IChannels
    function domainSeparator() public view override(IChannels, Domain) returns (bytes32) {
        return Domain.domainSeparator();
    }

    /// @dev Takes `value` from the caller into its account.
    function _pull(uint256 value) private {
        uint256 balance = token.balanceOf(address(this));
        if (!token.transferFrom(msg.sender, address(this), value)) {
            revert TransferRefused(msg.sender, address(this), value);
        }
        _credit(msg.sender, value, balance);
    }

    /// @dev Never more than has arrived since the balance was `before`. What arrives beyond `value` is nobody's.
    function _credit(address payer, uint256 value, uint256 before) private {
        uint256 balance = token.balanceOf(address(this));
        uint256 arrived = balance > before ? balance - before : 0;
        if (arrived < value) revert Short(value, arrived);
        Account storage account = accounts[payer];
        uint256 room = type(uint96).max - account.free;
        if (value > room) revert OverMaximum(value, room);
        unchecked {
            // Fits: it is no more than the room.
            account.free += uint96(value);
        }
        emit Deposited(payer, value);
    }

    function _setOperator(address payer, address operator, uint96 limit) private {
        Account storage account = accounts[payer];
        account.operator = operator;
        // `used` stays: a new operator or limit must not open the month again.
        account.limit = limit;
        emit OperatorSet(payer, operator, limit);
    }

    function _spend(Account storage account, uint96 value) private {
        uint96 free = account.free;
        if (value > free) revert OverFree(value, free);
        unchecked {
            account.free = free - value;
        }
    }

    /// @dev Counts `value` against the operator's limit of this month.
    function _useLimit(Account storage account, uint96 value) private {
        (uint96 limit, uint96 used, uint32 usedIn) = (account.limit, account.used, account.month);
        uint32 month = Months.monthOf(block.timestamp);
        if (usedIn != month) used = 0;
        // The owner may have set the limit below what is used.
        uint96 left = limit > used ? limit - used : 0;
        if (value > left) revert OverLimit(value, left);
        (account.used, account.month) = (used + value, month);
    }

    function _push(address to, uint256 value) private {
        if (!token.transfer(to, value)) revert TransferRefused(address(this), to, value);
    }

    /// @dev Pays out `sum` and all credit; no call and no event for nothing.
    function _pay(address payee, uint256 sum) private {
        uint256 kept = credit[payee];
        if (kept != 0) {
            credit[payee] = 0;
            sum += kept;
        }
        if (sum == 0) return;
        emit Paid(payee, sum);
        _push(payee, sum);
    }

    /// @dev A voucher over `amount`, of the channel's signer and within the deposit. An open channel's signer is not
    /// zero, which `recover` gives for nobody: `allocate` has seen to it.
    function _checkVoucher(
        uint96 deposited,
        bytes32 id,
        address signer,
        uint96 amount,
        bytes calldata sig
    ) private view {
        if (amount > deposited) revert OverDeposit(id, amount, deposited);
        address recovered = Signatures.recover(_digest(Hashes.hash(VOUCHER_TYPEHASH, id, amount)), sig);
        if (recovered != signer) revert BadSig(id, signer, recovered);
    }

    /// @dev The rest goes back to the buyer. With USDC `free` cannot overflow: all of it fits in 64 bits.
    function _finish(Channel storage channel, bytes32 id, address payer, uint96 deposited, uint96 claimed) private {
        uint96 refund = deposited - claimed;
        channel.claimed = claimed;
        channel.closed = true;
        accounts[payer].free += refund;
        emit Closed(id, claimed, refund);
    }

    /// @dev How much must be added for a deposit of `total`.
    function _missing(Channel storage channel, bytes32 id, uint96 total) private view returns (uint96) {
        (uint96 deposited, uint40 closeAt, bool closed) = (channel.deposit, channel.closeAt, channel.closed);
        if (closed) revert ChannelIsClosed(id);
        if (closeAt != 0) revert ChannelIsClosing(id, closeAt);
        if (total <= deposited) revert NotIncreasing(total, deposited);
        return total - deposited;
    }

    /// @dev What stands in a channel that is open or closing; read in one go, since it is one slot.
    function _open(Channel storage channel, bytes32 id)
        private
        view
        returns (uint96 deposited, uint96 claimed, uint40 closeAt)
    {
        bool closed;
        (deposited, claimed, closeAt, closed) =
            (channel.deposit, channel.claimed, channel.closeAt, channel.closed);
        if (closed) revert ChannelIsClosed(id);
        if (deposited == 0) revert ChannelIsNotOpen(id);
    }

    /// @dev Money paid to this contract or to the token would be lost.
    function _checkConfig(Config calldata cfg) private view {
        (address payee, uint32 delay) = (cfg.payee, cfg.delay);
        if (
            cfg.payer == address(0) || cfg.signer == address(0) || payee == address(0) || payee == address(this)
                || payee == address(token) || delay < MIN_DELAY || delay > MAX_DELAY
        ) revert BadConfig(cfg);
    }

    /// @dev Whether the operator signed; reverts if the payer did not either.
    function _isByOperator(
        address payer,
        bytes32 id,
        bytes32 structHash,
        uint256 validBefore,
        bytes calldata sig
    ) private view returns (bool) {
        if (block.timestamp > validBefore) revert Expired(validBefore, block.timestamp);
        bytes32 digest = _digest(structHash);
        address recovered = Signatures.recover(digest, sig);
        if (recovered != address(0) && recovered == accounts[payer].operator) return true;
        _checkSigner(payer, id, digest, sig, recovered);
        return false;
    }

    /// @dev A key first: an account may have both a key and code (EIP-7702).
    function _checkSigner(
        address account,
        bytes32 id,
        bytes32 digest,
        bytes calldata sig,
        address recovered
    ) private view {
        if (recovered == account && recovered != address(0)) return;
        if (!Signatures.isApproved(account, digest, sig)) revert BadSig(id, account, recovered);
    }
}
