// A linear feedback shift register; TAPS has bit t - 1 set for each exponent t of its polynomial, WIDTH among them.
module lfsr #(
    parameter int WIDTH  = 16,
    parameter int TAPS   = 'hD008,
    parameter bit GALOIS = 0,
    parameter bit RIGHT  = 0
) (
    input  logic             clk,
    input  logic             load,
    input  logic             enable,
    input  logic [WIDTH-1:0] seed,
    output logic [WIDTH-1:0] state
);
    localparam logic [WIDTH-1:0] MASK = WIDTH'(TAPS);

    logic [WIDTH-1:0] mirrored, next;

    always_comb begin
        for (int i = 0; i < WIDTH; i++) mirrored[i] = MASK[WIDTH-1-i];
        if (!GALOIS && !RIGHT) next = {state[WIDTH-2:0], ^(state & MASK)};
        else if (!GALOIS) next = {^(state & mirrored), state[WIDTH-1:1]};
        else if (!RIGHT) next = {state[WIDTH-2:0], 1'b0} ^ (state[WIDTH-1] ? {MASK[WIDTH-2:0], 1'b1} : '0);
        else next = {1'b0, state[WIDTH-1:1]} ^ (state[0] ? MASK : '0);
    end

    always_ff @(posedge clk) if (load || enable) state <= load ? seed : next;
endmodule
