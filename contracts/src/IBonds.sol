// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {IUSDC} from "./IUSDC.sol";

/// @title Bonds of sellers, lost for proven faults
/// @notice A seller signs one receipt for each request it served. It may put up a bond with the key that signs them,
/// to show that it has something to lose. There are two ways to lose it:
///
/// Equivocation: two receipts of one key for one request that differ. This is proven by the signatures alone, so
/// anyone hands it in and the bond is slashed at once, by up to `maxSlash`.
///
/// A case: `k` of the fixed verifiers signed that a receipt is false. The money is locked; the seller has `window` to
/// appeal, and then `kAppeal` verifiers must confirm within another `window`, or the case is over. Without an appeal
/// the bond is slashed when the window has passed. No case costs more than `maxSlash`.
///
/// Slashed money goes to the sink, never to those who accuse or judge: nobody earns by a false word. That a model gave
/// a certain answer cannot be proven on a chain: a case rests on trust in the verifiers, and its cost is bounded.
///
/// There is no owner and no upgrade; verifiers, sink, quorums, times and limit are fixed when the contract is made.
/// @dev Amounts are in the token's base units (6 decimals), times are Unix seconds. EIP-712 domain: name
/// "UnhostedBonds", version "1", chain id, this contract. Sellers and verifiers sign with keys, never as contracts: a
/// contract could disown what it said. A bond whose `unlockAt` is not 0 secures nothing that is served after it.
interface IBonds {
    /// @param requestId Drawn by the buyer; a seller signs one receipt for it.
    /// @param channelId What it was paid from.
    /// @param modelId BLAKE3 of the model's file.
    /// @param requestHash What was asked.
    /// @param responseHash What was answered.
    /// @param amount What it cost, in base units.
    struct Receipt {
        bytes32 requestId;
        bytes32 channelId;
        bytes32 modelId;
        bytes32 requestHash;
        bytes32 responseHash;
        uint32 inTokens;
        uint32 outTokens;
        uint96 amount;
    }

    enum State {
        None,
        Open,
        Appealed,
        Done
    }

    /// @param seller Who signed the receipt.
    /// @param amount What the case is about.
    /// @param readyAt When it can be finalized; after an appeal, until when it can be confirmed.
    struct Case {
        address seller;
        uint96 amount;
        uint40 readyAt;
        State state;
    }

    event Bonded(address indexed seller, uint96 amount);
    event UnbondRequested(address indexed seller, uint40 unlockAt);
    event Unbonded(address indexed seller, uint96 amount);
    event CaseOpened(bytes32 indexed receipt, address indexed seller, uint96 amount, uint40 readyAt);
    event Appealed(bytes32 indexed receipt, address indexed seller, uint40 readyAt);
    /// @notice An appealed case was not confirmed in time; the bond is whole.
    event CaseDropped(bytes32 indexed receipt, address indexed seller, uint96 amount);
    /// @notice `amount` was taken. `objective`: for two receipts that differ; else by a case.
    event Slashed(address indexed seller, bytes32 indexed receipt, uint96 amount, bool objective);
    /// @notice Slashed money has reached the sink.
    event Swept(uint256 amount);

    /// @notice The token or the sink cannot be this.
    error BadAddress(address account);
    /// @notice Zero, or named twice.
    error BadVerifier(address verifier);
    /// @notice It must hold that 0 < k <= kAppeal <= verifiers.
    error BadQuorum(uint8 k, uint8 kAppeal, uint256 verifiers);
    error BadMaximum(uint96 maxSlash);
    /// @notice It must hold that 0 < window, and 2 * window < unbond <= UNBOND_MAX: a bond outlasts a case.
    error BadTimes(uint32 window, uint32 unbond);
    /// @notice Nobody has signed `digest` with this.
    error BadSig(bytes32 digest);
    error DifferentRequests(bytes32 requestIdA, bytes32 requestIdB);
    error DifferentChannels(bytes32 channelIdA, bytes32 channelIdB);
    error DifferentSellers(address sellerA, address sellerB);
    error SameReceipt(bytes32 receipt);
    error AlreadySlashed(address seller, bytes32 requestId);
    /// @notice The seller has no money that is not locked by other cases.
    error NothingToSlash(address seller);
    /// @notice A case is about more than zero and at most `maximum`.
    error BadSlash(uint96 amount, uint96 maximum);
    error QuorumTooSmall(uint256 given, uint256 needed);
    /// @notice `verifier` is none, or does not stand in ascending order after `previous`.
    error NotVerifier(address verifier, address previous);
    error CaseExists(bytes32 receipt);
    error CaseNotOpen(bytes32 receipt, State state);
    error NotSeller(address caller, address seller);
    error TooLate(uint256 readyAt, uint256 timestamp);
    /// @notice It can be done from `readyAt` on; 0: it was not asked for.
    error NotReady(uint256 readyAt, uint256 timestamp);
    error NoBond(address seller);
    error CaseIsOpen(address seller, uint256 openCases);
    /// @notice The token moved less than it was told to.
    error Short(uint256 value, uint256 arrived);
    /// @notice The token answered `false`.
    error TransferRefused(address from, address to, uint256 value);
    /// @notice The token called back while it was being called.
    error Locked();

    /// @notice Adds `value` of the caller's USDC, approved before, to the caller's bond, and takes back its request to
    /// unbond; 0 does only that.
    function bond(uint96 value) external;

    /// @notice Says that the caller wants its bond back; it can have it after `unbond` seconds. Said again, the time
    /// starts again.
    function requestUnbond() external;

    /// @notice Pays the caller its whole bond, after the time and when no case is open.
    function unbondAll() external;

    /// @notice Slashes the key that signed two different receipts for one request, once for each request.
    /// @dev It comes before the cases: the whole bond answers for it, also what they have locked.
    function slashEquivocation(
        Receipt calldata a,
        bytes calldata signatureA,
        Receipt calldata b,
        bytes calldata signatureB
    ) external;

    /// @notice Opens a case over a receipt, of `amount` or of what is left unlocked, if less.
    /// @param verdicts Signatures of at least `k` verifiers, in ascending order of their addresses, over
    /// Verdict(bytes32 receipt,uint96 slash,bool onAppeal) with `receiptHash(receipt)`, `amount`, false.
    function openCase(Receipt calldata receipt, bytes calldata signature, uint96 amount, bytes[] calldata verdicts)
        external;

    /// @notice The seller disagrees, before the case is ready: more verifiers must look at it.
    function appeal(bytes32 receipt) external;

    /// @notice Ends a case. Not appealed: slashes, once it is ready. Appealed: slashes before `readyAt`, with the
    /// signatures of at least `kAppeal` verifiers over the Verdict with the case's own amount and true; drops it from
    /// `readyAt` on.
    function finalize(bytes32 receipt, bytes[] calldata verdicts) external;

    /// @notice Pays to the sink what could not be paid when it was slashed, such as while the token was paused.
    function sweep() external;

    /// @notice The digest that a seller signs.
    function receiptHash(Receipt calldata receipt) external view returns (bytes32);

    /// @notice The digest that a verifier signs.
    function verdictHash(bytes32 receipt, uint96 amount, bool onAppeal) external view returns (bytes32);

    /// @param seller The key that signs receipts.
    /// @return amount All of the bond.
    /// @return locked What open cases claim of it, at most `amount`.
    /// @return unlockAt When it can be taken back; 0 until that is asked for.
    /// @return frozen Whether a case is open: nothing can be taken back.
    function bonds(address seller) external view returns (uint96 amount, uint96 locked, uint40 unlockAt, bool frozen);

    function cases(bytes32 receipt) external view returns (address seller, uint96 amount, uint40 readyAt, State state);

    /// @notice Whether the seller was slashed for two receipts for this request.
    function faulted(address seller, bytes32 requestId) external view returns (bool);

    function verifier(address account) external view returns (bool);

    /// @notice Slashed money that has not reached the sink yet.
    function owed() external view returns (uint256);

    function token() external view returns (IUSDC);
    function sink() external view returns (address);
    function k() external view returns (uint8);
    function kAppeal() external view returns (uint8);
    function maxSlash() external view returns (uint96);
    function window() external view returns (uint32);
    function unbond() external view returns (uint32);
}
