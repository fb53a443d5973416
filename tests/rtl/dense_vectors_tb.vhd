-- A dense layer, `hidden`, on the vectors that its package tells of: sums, ReLU, one rounding.
-- Every code is compared with the exported one; what the unit computes is dumped, too.
library ieee;
use ieee.std_logic_1164.all;
use ieee.numeric_std.all;
use work.fxsim_vectors.all;
use work.requantize.all;

entity dense_vectors_tb is
    generic (
        folder : string;
        dump : string := "";
        bug : natural := 0  -- 1, 2: of requantized; 3: the last term is left out
    );
end entity;

architecture bench of dense_vectors_tb is
    constant inputs : positive := hidden_weights_shape(0);
    constant outputs : positive := hidden_weights_shape(1);
    constant product_shift : natural :=
        hidden_activations_step_exp + hidden_weights_step_exp - hidden_preactivations_step_exp;
    constant bias_shift : natural := hidden_bias_step_exp - hidden_preactivations_step_exp;
    constant output_shift : natural := scores_activations_step_exp - hidden_preactivations_step_exp;

    constant x : code_vector(0 to hidden_activations_size - 1) := read_codes(
        folder & hidden_activations_file, hidden_activations_size, hidden_activations_bits,
        hidden_activations_signed);
    constant w : code_vector(0 to hidden_weights_size - 1) := read_codes(
        folder & hidden_weights_file, hidden_weights_size, hidden_weights_bits, hidden_weights_signed);
    constant b : code_vector(0 to hidden_bias_size - 1) := read_codes(
        folder & hidden_bias_file, hidden_bias_size, hidden_bias_bits, hidden_bias_signed);
    constant z : code_vector(0 to hidden_preactivations_size - 1) := read_codes(
        folder & hidden_preactivations_file, hidden_preactivations_size, hidden_preactivations_bits,
        hidden_preactivations_signed);
    constant y : code_vector(0 to scores_activations_size - 1) := read_codes(
        folder & scores_activations_file, scores_activations_size, scores_activations_bits,
        scores_activations_signed);
begin
    process
        variable sum, positive_part : code;
        variable codes : code_vector(0 to scores_activations_size - 1);
        variable place : natural;
        variable wrong : natural := 0;
    begin
        for n in 0 to vectors_batch - 1 loop
            for o in 0 to outputs - 1 loop
                place := n * outputs + o;
                sum := shift_left(b(o), bias_shift);
                for i in 0 to inputs - 1 loop
                    if bug /= 3 or i < inputs - 1 then
                        sum := sum + shift_left(
                            resize(x(n * inputs + i) * w(i * outputs + o), code'length), product_shift);
                    end if;
                end loop;
                positive_part := sum;
                if sum < 0 then
                    positive_part := (others => '0');
                end if;
                codes(place) := requantized(
                    positive_part, output_shift, scores_activations_rounding,
                    scores_activations_overflow, scores_activations_bits, scores_activations_signed,
                    bug);
                if sum /= z(place) or codes(place) /= y(place) then
                    wrong := wrong + 1;
                end if;
            end loop;
        end loop;
        if dump /= "" then
            write_codes(dump & scores_activations_file, codes, scores_activations_bits);
        end if;
        assert wrong = 0 report integer'image(wrong) & " outputs differ" severity failure;
        report integer'image(vectors_batch * outputs) & " outputs equal" severity note;
        wait;
    end process;
end architecture;
