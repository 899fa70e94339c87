// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

/// @notice The UTC month of an instant, for limits by calendar month.
library Months {
    /// @notice Months since January of the year 0: year * 12 + month - 1.
    /// @param timestamp Unix time in seconds, below 2^40 (the year 36812).
    /// @dev Days to civil date in the proleptic Gregorian calendar. Years are counted from 1 March, so that a
    /// leap day is a year's last; 719,468 is the number of days from 0000-03-01 to 1970-01-01, and 146,097 that
    /// of 400 years. The same formula is in Python, `unhosted.market.months`.
    function monthOf(uint256 timestamp) internal pure returns (uint32) {
        unchecked {
            uint256 day = timestamp / 1 days + 719_468;
            uint256 era = day / 146_097;
            uint256 dayOfEra = day - era * 146_097;
            uint256 leapDays = dayOfEra / 1_460 - dayOfEra / 36_524 + dayOfEra / 146_096;
            uint256 yearOfEra = (dayOfEra - leapDays) / 365;
            uint256 dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100);
            uint256 fromMarch = (5 * dayOfYear + 2) / 153;
            // March is month 2, counted from 0; January and February belong to the next year.
            return uint32((yearOfEra + era * 400) * 12 + fromMarch + 2);
        }
    }
}
