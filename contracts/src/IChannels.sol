// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IUSDC} from "./IUSDC.sol";

/// @title Payment channels for inference, paid in USDC
/// @notice A buyer deposits once into an account and sets parts of it aside in channels, one for each seller. The
/// seller is paid by vouchers: signed off the chain, cumulative, so that a lost, repeated or late one does no harm.
/// Whoever holds a voucher may claim it, and money can only go to the seller; what is not claimed goes back to the
/// buyer's account.
///
/// A channel is opened by `allocate` and can be topped up by it. The seller closes it at once (`close`); the buyer
/// asks for it (`requestClose`) and gets the rest after the channel's delay (`finalizeClose`), in which the seller
/// still claims. A closed channel never opens again.
///
/// A buyer's account may name an operator: a hot key that may allocate, up to a limit per UTC month, and may ask to
/// close; it can never withdraw.
///
/// There is no owner, no upgrade, no fee, and nothing is payable. Only deposits and payments out call the token: if
/// it is paused, or refuses somebody, claims and closes still work and no channel's outcome changes.
/// @dev Amounts are in the token's base units (6 decimals), times are Unix seconds. EIP-712 domain: name
/// "UnhostedChannels", version "1", chain id, this contract.
interface IChannels {
    /// @notice What fixes a channel for its whole life; `channelId` is its hash.
    /// @param payer The buyer: owner of the account that the money comes from and goes back to.
    /// @param signer The key that signs vouchers. Never a contract wallet: that could take its word back.
    /// @param payee The seller.
    /// @param delay Seconds from the buyer's request to close until the close: MIN_DELAY to MAX_DELAY.
    /// @param salt Tells apart the channels of one pair.
    struct Config {
        address payer;
        address signer;
        address payee;
        uint32 delay;
        bytes32 salt;
    }

    /// @param deposit All that was ever set aside in the channel.
    /// @param claimed The seller's part so far.
    /// @param closeAt When it can be closed by anyone; 0 until that is asked for.
    /// @param closed Whether it is over, for good.
    struct Channel {
        uint96 deposit;
        uint96 claimed;
        uint40 closeAt;
        bool closed;
    }

    /// @param free What is in no channel: the owner may withdraw it at any time.
    /// @param operator The key that may allocate within `limit`, or zero.
    /// @param limit What the operator may allocate in one UTC month.
    /// @param used What it has allocated in `month`. Money that comes back does not lower it.
    /// @param month The month of the operator's last allocation, as `monthOf` counts.
    struct Account {
        uint96 free;
        address operator;
        uint96 limit;
        uint96 used;
        uint32 month;
    }

    /// @notice A voucher to be claimed.
    /// @param cfg The channel.
    /// @param amount The seller's part in all, since the channel was opened.
    /// @param sig The signature of `cfg.signer` over Voucher(bytes32 channelId,uint96 amount).
    struct Claim {
        Config cfg;
        uint96 amount;
        bytes sig;
    }

    event Deposited(address indexed payer, uint256 value);
    event Withdrawn(address indexed payer, uint256 value);
    event OperatorSet(address indexed payer, address operator, uint96 limit);
    /// @notice A channel was opened or topped up; `total` is its whole deposit now.
    event Allocated(
        bytes32 indexed id,
        address indexed payer,
        address indexed payee,
        address signer,
        uint32 delay,
        bytes32 salt,
        uint96 total
    );
    /// @notice The seller's part of a channel that stays open rose to `amount`.
    event Claimed(bytes32 indexed id, uint96 amount);
    event CloseRequested(bytes32 indexed id, address indexed payee, uint40 closeAt);
    /// @notice A channel is over: `claimed` was the seller's part in all (`close` may have raised it, without another
    /// event), `refund` went back to the buyer's account.
    event Closed(bytes32 indexed id, uint96 claimed, uint96 refund);
    event Paid(address indexed payee, uint256 value);

    /// @notice Neither `expected` signed this (`recovered` did, zero if nobody) nor does it say so as a contract.
    error BadSig(bytes32 id, address expected, address recovered);
    /// @notice A zero address, a delay outside the limits, or a payee that could never spend what it gets.
    error BadConfig(Config cfg);
    /// @notice The signature was good until and including `validBefore`.
    error Expired(uint256 validBefore, uint256 timestamp);
    error ChannelIsClosed(bytes32 id);
    /// @notice A close was asked for already and cannot be taken back; no money can be added.
    error ChannelIsClosing(bytes32 id, uint256 closeAt);
    error ChannelIsNotOpen(bytes32 id);
    /// @notice A channel's deposit only rises: `total` must exceed `deposit`.
    error NotIncreasing(uint96 total, uint96 deposit);
    error OverDeposit(bytes32 id, uint96 amount, uint96 deposit);
    /// @notice The operator asked for more than is left of its limit in this month.
    error OverLimit(uint96 value, uint96 left);
    error OverFree(uint96 value, uint96 free);
    /// @notice An account would hold more than fits.
    error OverMaximum(uint256 value, uint256 maximum);
    /// @notice The channel can be closed from `closeAt` on; 0: nobody asked for it.
    error NotReady(uint256 closeAt, uint256 timestamp);
    /// @notice A row of a batch is of another seller's channel.
    error NotAllowed(address payee, address rowPayee);
    /// @notice The token moved less than it was told to.
    error Short(uint256 value, uint256 arrived);
    /// @notice The token answered `false`.
    error TransferRefused(address from, address to, uint256 value);
    /// @notice The token called back while it was being called.
    error Locked();

    /// @notice Puts `value` of the caller's USDC, approved before, into the caller's account.
    function deposit(uint256 value) external;

    /// @notice The same, approved by an EIP-2612 signature of the caller. If somebody has handed in the permit
    /// first, the deposit still works.
    function depositWithPermit(uint256 value, uint256 deadline, bytes calldata sig) external;

    /// @notice Puts `value` of the payer's USDC into its account by its EIP-3009 signature; anyone may relay it.
    /// The signature's nonce is keccak256(abi.encode(operator, limit, salt)): a relayer can change neither.
    /// @param operator Set together with `limit`, unless zero.
    function depositWithAuthorization(
        address payer,
        uint256 value,
        uint256 validAfter,
        uint256 validBefore,
        address operator,
        uint96 limit,
        bytes32 salt,
        bytes calldata sig
    ) external;

    /// @notice Names the key that may allocate from the caller's account, up to `limit` per UTC month; zero for
    /// none. What was used in this month stays used.
    function setOperator(address operator, uint96 limit) external;

    /// @notice Pays `value` of the caller's free money to the caller.
    function withdraw(uint96 value) external;

    /// @notice Opens a channel with a deposit of `total`, or tops it up to `total`. By the payer; or by anyone
    /// with a signature over Allocate(bytes32 channelId,uint96 total,uint40 validBefore), of the operator (within
    /// its limit) or of the payer (key or ERC-1271).
    /// @param validBefore The last second in which the signature counts; not read if the payer calls.
    function allocate(Config calldata cfg, uint96 total, uint40 validBefore, bytes calldata sig) external;

    /// @notice Claims vouchers of one seller's channels; anyone may call. A row that raises nothing is skipped, and
    /// so is a row of a closed channel: a buyer that closes one must not stop a whole batch. If all rows are of
    /// closed channels, that is the error. Any other fault in a row reverts the batch.
    /// @param payOut Whether to pay out all that the seller has; else it is kept as `credit`.
    function claim(address payee, Claim[] calldata rows, bool payOut) external;

    /// @notice Pays to a seller all of its credit; anyone may call.
    function payout(address payee) external;

    /// @notice Closes a channel at once: the seller's part rises to `amount`, if that is more than was claimed, and
    /// the rest goes back to the buyer's account. By the payee; or by anyone with a signature of the payee (key or
    /// ERC-1271) over Close(bytes32 channelId,uint96 amount). A seller that has signed one accepts no more vouchers.
    /// @param voucherSig As in `Claim`; not read if `amount` raises nothing, so 0 gives all of the rest back.
    /// @param payeeSig Not read if the payee calls.
    function close(Config calldata cfg, uint96 amount, bytes calldata voucherSig, bytes calldata payeeSig) external;

    /// @notice Starts the channel's delay; cannot be taken back. By the payer or its operator; or by anyone with a
    /// signature of either over RequestClose(bytes32 channelId,uint40 validBefore).
    function requestClose(Config calldata cfg, uint40 validBefore, bytes calldata sig) external;

    /// @notice Closes a channel after its delay and gives the rest back to the buyer's account; anyone may call.
    function finalizeClose(Config calldata cfg) external;

    /// @notice Calls this contract several times in one transaction, all or nothing. An inner error is passed on.
    function multicall(bytes[] calldata data) external;

    function token() external view returns (IUSDC);

    function accounts(address payer)
        external
        view
        returns (uint96 free, address operator, uint96 limit, uint96 used, uint32 month);

    function channels(bytes32 id)
        external
        view
        returns (uint96 deposit, uint96 claimed, uint40 closeAt, bool closed);

    /// @notice What was claimed for a seller and not yet paid out.
    function credit(address payee) external view returns (uint256);

    /// @notice keccak256(abi.encode(block.chainid, address(this), cfg)).
    function channelId(Config calldata cfg) external view returns (bytes32);

    /// @notice The UTC month of a Unix time: year * 12 + month - 1.
    function monthOf(uint256 timestamp) external pure returns (uint32);

    function domainSeparator() external view returns (bytes32);
}
