// A dense layer, `hidden`, on the vectors that its package tells of: sums, ReLU, one rounding.
// Every code is compared with the exported one.  +bug=1: ties go down; 2: wraps where it should saturate; 3: the last
// term is left out.
module dense_vectors_tb;
    import fxsim_vectors::*;

    localparam int INPUTS = hidden_weights_shape_0;
    localparam int UNITS = hidden_weights_shape_1;
    localparam int Z_BITS = hidden_preactivations_bits;
    localparam int PRODUCT_SHIFT =
        hidden_activations_step_exp + hidden_weights_step_exp - hidden_preactivations_step_exp;
    localparam int BIAS_SHIFT = hidden_bias_step_exp - hidden_preactivations_step_exp;

    logic [hidden_activations_bits-1:0] x [0:hidden_activations_size-1];
    logic signed [hidden_weights_bits-1:0] w [0:hidden_weights_size-1];
    logic signed [hidden_bias_bits-1:0] b [0:hidden_bias_size-1];
    logic signed [Z_BITS-1:0] z [0:hidden_preactivations_size-1];
    logic [scores_activations_bits-1:0] y [0:scores_activations_size-1];

    logic signed [Z_BITS-1:0] left, right, sum, relu;
    logic [scores_activations_bits-1:0] code;
    logic [3:0] rounding;
    logic [1:0] overflow;
    logic below, above, flushed;
    int wrong, bug;

    always_comb begin
        rounding = scores_activations_rounding;
        overflow = scores_activations_overflow;
        if (bug == 1) rounding = ROUND_NEAREST_DOWN;
        if (bug == 2) overflow = OVERFLOW_WRAP;
    end

    assign relu = sum < 0 ? '0 : sum;

    requantize #(
        .IN_BITS(Z_BITS), .OUT_BITS(scores_activations_bits), .IN_SIGNED(1), .OUT_SIGNED(scores_activations_signed),
        .SHIFT(scores_activations_step_exp - hidden_preactivations_step_exp)
    ) unit (
        .value(relu), .rounding, .overflow, .code, .below, .above, .flushed
    );

    initial begin
        string folder;
        if ($value$plusargs("folder=%s", folder) == 0) $fatal(1, "no plusarg folder");
        $readmemh($sformatf("%s/%s", folder, hidden_activations_file), x);
        $readmemh($sformatf("%s/%s", folder, hidden_weights_file), w);
        $readmemh($sformatf("%s/%s", folder, hidden_bias_file), b);
        $readmemh($sformatf("%s/%s", folder, hidden_preactivations_file), z);
        $readmemh($sformatf("%s/%s", folder, scores_activations_file), y);
        if ($value$plusargs("bug=%d", bug) == 0) bug = 0;
        wrong = 0;
        for (int n = 0; n < vectors_batch; n++) begin
            for (int o = 0; o < UNITS; o++) begin
                left = Z_BITS'(b[o]);
                sum = left <<< BIAS_SHIFT;
                for (int i = 0; i < (bug == 3 ? INPUTS - 1 : INPUTS); i++) begin
                    left = Z_BITS'({1'b0, x[n*INPUTS+i]});
                    right = Z_BITS'(w[i*UNITS+o]);
                    sum = sum + ((left * right) <<< PRODUCT_SHIFT);
                end
                #1;
                if (sum != z[n*UNITS+o] || code != y[n*UNITS+o]) wrong = wrong + 1;
            end
        end
        if (wrong != 0) $fatal(1, "%0d outputs differ", wrong);
        $display("%0d outputs equal", vectors_batch * UNITS);
        $finish;
    end
endmodule
