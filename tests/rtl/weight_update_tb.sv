// One weight per line of the files +weights, +accumulators and +grads, with a learning rate and a rounding mode
// from +mantissas and +roundings; +new_weights, +new_accumulators and +events receive the results, an event word
// being {stopped, flushed, acc_clipped, weight_clipped}.
`include "bench.svh"

module weight_update_tb;
    parameter int COUNT         = 1;
    parameter int W_BITS        = 8;
    parameter int ACC_BITS      = 16;
    parameter int GRAD_BITS     = 12;
    parameter int MANTISSA_BITS = 16;
    parameter int EXPONENT      = -12;
    parameter int BUG           = 0;

    logic [W_BITS-1:0] weights[COUNT];
    logic [ACC_BITS-1:0] accumulators[COUNT];
    logic [GRAD_BITS-1:0] grads[COUNT];
    logic [MANTISSA_BITS-1:0] mantissas[COUNT], mantissa;
    logic [3:0] roundings[COUNT], rounding;

    logic signed [W_BITS-1:0] weight, new_weight;
    logic signed [ACC_BITS-1:0] acc, new_acc;
    logic signed [GRAD_BITS-1:0] grad;
    logic weight_clipped, acc_clipped, flushed, stopped;

    weight_update #(
        .W_BITS(W_BITS), .ACC_BITS(ACC_BITS), .GRAD_BITS(GRAD_BITS), .MANTISSA_BITS(MANTISSA_BITS),
        .EXPONENT(EXPONENT), .BUG(BUG)
    ) unit (
        .weight, .acc, .grad, .mantissa, .rounding, .new_weight, .new_acc,
        .weight_clipped, .acc_clipped, .flushed, .stopped
    );

    initial begin
        string name;
        int weights_file, accumulators_file, events_file;
        `LOAD("weights=%s", weights)
        `LOAD("accumulators=%s", accumulators)
        `LOAD("grads=%s", grads)
        `LOAD("mantissas=%s", mantissas)
        `LOAD("roundings=%s", roundings)
        `OPEN("new_weights=%s", weights_file)
        `OPEN("new_accumulators=%s", accumulators_file)
        `OPEN("events=%s", events_file)
        for (int i = 0; i < COUNT; i++) begin
            weight = weights[i];
            acc = accumulators[i];
            grad = grads[i];
            mantissa = mantissas[i];
            rounding = roundings[i];
            #1;
            $fdisplay(weights_file, "%h", new_weight);
            $fdisplay(accumulators_file, "%h", new_acc);
            $fdisplay(events_file, "%h", {stopped, flushed, acc_clipped, weight_clipped});
        end
        $fclose(weights_file);
        $fclose(accumulators_file);
        $fclose(events_file);
        $finish;
    end
endmodule
