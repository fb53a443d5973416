-- A code brought to another format: `shift` bits dropped, rounded, then kept in range.
library ieee;
use ieee.std_logic_1164.all;
use ieee.numeric_std.all;
use work.fxsim_vectors.all;

package requantize is
    function rounded(value : code; shift : natural; rounding : rounding_mode) return code;

    -- bug: 1: ties go down; 2: wraps where it should saturate.
    function requantized(
        value : code; shift : natural; rounding : rounding_mode; overflow : overflow_mode;
        bits : positive; is_signed : boolean; bug : natural) return code;
end package;

package body requantize is
    function rounded(value : code; shift : natural; rounding : rounding_mode) return code is
        constant lower : code := shift_right(value, shift);
        constant dropped : code := value - shift_left(lower, shift);
        constant half_step : code := shift_right(shift_left(to_signed(1, code'length), shift), 1);
        constant rest : boolean := dropped /= 0;
        constant tie : boolean := rest and dropped = half_step;
        constant above_half : boolean := dropped > half_step and rest;
        constant negative : boolean := value < 0;
        constant odd : boolean := lower(0) = '1';
        variable up : boolean;
    begin
        case rounding is
            when round_floor => up := false;
            when round_ceil => up := rest;
            when round_zero => up := rest and negative;
            when round_away => up := rest and not negative;
            when round_nearest_even => up := above_half or (tie and odd);
            when round_nearest_odd => up := above_half or (tie and not odd);
            when round_nearest_away => up := above_half or (tie and not negative);
            when round_nearest_zero => up := above_half or (tie and negative);
            when round_nearest_up => up := above_half or tie;
            when round_nearest_down => up := above_half;
            when round_jam => up := not odd;
            when others => report "stochastic roundings need random words" severity failure;
        end case;
        if up then
            return lower + 1;
        end if;
        return lower;
    end function;

    function requantized(
        value : code; shift : natural; rounding : rounding_mode; overflow : overflow_mode;
        bits : positive; is_signed : boolean; bug : natural) return code is
        constant one : code := to_signed(1, code'length);
        variable high, low, whole : code;
    begin
        high := shift_left(one, bits) - 1;
        low := (others => '0');
        if is_signed then
            high := shift_left(one, bits - 1) - 1;
            low := -high - 1;
        end if;
        whole := rounded(value, shift, rounding);
        if bug = 1 then
            whole := rounded(value, shift, round_nearest_down);
        end if;
        if overflow = overflow_saturate_symmetric and is_signed then
            low := -high;
        end if;
        if (whole >= low and whole <= high) or overflow = overflow_wrap or bug = 2 then
            if is_signed then
                return resize(whole(bits - 1 downto 0), code'length);
            end if;
            return signed(resize(unsigned(whole(bits - 1 downto 0)), code'length));
        end if;
        if overflow = overflow_saturate_zero then
            return to_signed(0, code'length);
        end if;
        if whole < low then
            return low;
        end if;
        return high;
    end function;
end package body;
