// SPDX-License-Identifier: AGPL-3.0-only
pragma solidity =0.8.37;

import {Channels} from "../src/Channels.sol";
import {IUSDC} from "../src/IUSDC.sol";
import {Checks} from "./helpers/Checks.sol";

/// @notice The month formula against the calendar counted year by year and month by month.
contract ChannelsMonthsTest is Checks {
    Channels private immutable channels = new Channels(IUSDC(address(1)));
    /// @dev 400 years have 146,097 days, whichever year they begin with.
    uint256 private constant CYCLE = 146_097 days;

    function _isLeap(uint256 year) private pure returns (bool) {
        return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    }

    function _daysIn(uint256 year, uint256 month) private pure returns (uint256) {
        if (month == 1) return _isLeap(year) ? 29 : 28;
        return month == 3 || month == 5 || month == 8 || month == 10 ? 30 : 31;
    }

    function _naive(uint256 timestamp) private pure returns (uint256) {
        uint256 year = 1970 + 400 * (timestamp / CYCLE);
        uint256 day = timestamp % CYCLE / 1 days;
        while (day >= (_isLeap(year) ? 366 : 365)) {
            day -= _isLeap(year) ? 366 : 365;
            ++year;
        }
        uint256 month;
        while (day >= _daysIn(year, month)) {
            day -= _daysIn(year, month);
            ++month;
        }
        return year * 12 + month;
    }

    function testFuzz_monthIsThatOfTheCalendar(uint40 timestamp) public view {
        checkEqual(channels.monthOf(timestamp), _naive(timestamp), "month");
    }

    function test_everyMonthTurnsInItsFirstSecond() public view {
        uint256 start;
        for (uint256 month = 1970 * 12; month < 2135 * 12; ++month) {
            checkEqual(channels.monthOf(start), month, "first second");
            start += _daysIn(month / 12, month % 12) * 1 days;
            checkEqual(channels.monthOf(start - 1), month, "last second");
        }
    }

    function test_knownInstants() public view {
        checkEqual(channels.monthOf(0), 1970 * 12, "1970-01-01");
        checkEqual(channels.monthOf(951_782_400), 2000 * 12 + 1, "2000-02-29");
        checkEqual(channels.monthOf(951_868_800), 2000 * 12 + 2, "2000-03-01");
        checkEqual(channels.monthOf(1_767_225_599), 2025 * 12 + 11, "2025-12-31");
        checkEqual(channels.monthOf(1_767_225_600), 2026 * 12, "2026-01-01");
        checkEqual(channels.monthOf(4_107_542_400), 2100 * 12 + 2, "2100-03-01");
        checkEqual(channels.monthOf(4_107_542_399), 2100 * 12 + 1, "2100-02-28");
        checkEqual(channels.monthOf(type(uint40).max), 36_812 * 12 + 1, "36812-02-20");
    }
}
