// COUNT weights of the file +weights, updated in place STEPS times by the gradients of +grads, one step after the
// other; +new_weights receives them after every step.  LANES registers start from +seeds; weight i takes the word of
// lane i mod LANES, and all lanes are clocked CLOCKS times after each row of LANES weights.
`include "bench.svh"

module lfsr_update_tb;
    parameter int COUNT     = 1;
    parameter int STEPS     = 1;
    parameter int W_BITS    = 8;
    parameter int GRAD_BITS = 12;
    parameter int SHIFT     = 8;
    parameter int WIDTH     = 16;
    parameter int TAPS      = 'hD008;
    parameter int GALOIS    = 0;
    parameter int RIGHT     = 0;
    parameter int LANES     = 1;
    parameter int CLOCKS    = 1;
    parameter int LOW_BIT   = 0;
    parameter int K         = 8;
    // 1: all lanes are clocked before the word is read; 2: lane 1 alone is, by CLOCKS clocks
    parameter int BUG       = 0;

    logic [W_BITS-1:0] weights[COUNT];
    logic [GRAD_BITS-1:0] grads[STEPS * COUNT];
    logic [WIDTH-1:0] seeds[LANES];

    logic [LANES-1:0][W_BITS-1:0] next, held;
    logic [LANES-1:0][GRAD_BITS-1:0] grad;
    logic [LANES-1:0][WIDTH-1:0] first_states;
    logic [LANES-1:0][W_BITS-1:0] row;
    logic [LANES-1:0][GRAD_BITS-1:0] grad_row;
    logic [LANES-1:0][WIDTH-1:0] states;
    logic [LANES-1:0] enable;
    logic clk, load;

    for (genvar lane = 0; lane < LANES; lane++) begin : lanes
        logic [WIDTH-1:0] state;
        lfsr #(.WIDTH(WIDTH), .TAPS(TAPS), .GALOIS(GALOIS != 0), .RIGHT(RIGHT != 0)) register (
            .clk, .load, .enable(enable[lane]), .seed(first_states[lane]), .state
        );
        lfsr_update #(.W_BITS(W_BITS), .GRAD_BITS(GRAD_BITS), .SHIFT(SHIFT), .K(K)) unit (
            .weight(held[lane]), .grad(grad[lane]), .word(state[LOW_BIT+:K]), .new_weight(next[lane])
        );
    end

    task automatic pulse(input int count, input logic [LANES-1:0] lanes_on);
        enable = lanes_on;
        for (int i = 0; i < count; i++) begin
            #1 clk = 1'b1;
            #1 clk = 1'b0;
        end
    endtask

    initial begin
        string name;
        int file;
        `LOAD("weights=%s", weights)
        `LOAD("grads=%s", grads)
        `LOAD("seeds=%s", seeds)
        `OPEN("new_weights=%s", file)
        for (int lane = 0; lane < LANES; lane++) states[lane] = seeds[lane];
        first_states = states;
        clk = 1'b0;
        load = 1'b1;
        pulse(1, '1);
        load = 1'b0;
        if (BUG == 1) pulse(1, '1);
        if (BUG == 2) pulse(CLOCKS, LANES'(2));
        for (int step = 0; step < STEPS; step++) begin
            for (int first = 0; first < COUNT; first += LANES) begin
                for (int lane = 0; lane < LANES && first + lane < COUNT; lane++) begin
                    row[lane] = weights[first+lane];
                    grad_row[lane] = grads[step*COUNT+first+lane];
                end
                held = row;
                grad = grad_row;
                #1;
                for (int lane = 0; lane < LANES && first + lane < COUNT; lane++) begin
                    weights[first+lane] = next[lane];
                end
                pulse(CLOCKS, '1);
            end
            for (int i = 0; i < COUNT; i++) $fdisplay(file, "%h", weights[i]);
        end
        $fclose(file);
        $finish;
    end
endmodule
