// One cycle per line of the files +a, +b and +control, a control word being {valid, clear, wrap, rounding};
// +acc and +overflows receive the accumulator and its counter after every cycle.
`include "bench.svh"

module saturating_mac_tb;
    parameter int CYCLES   = 1;
    parameter int A_BITS   = 8;
    parameter int B_BITS   = 8;
    parameter int A_SIGNED = 1;
    parameter int B_SIGNED = 1;
    parameter int SHIFT    = 0;
    parameter int ACC_BITS = 24;
    parameter int BUG      = 0;

    logic clk = 0;
    logic [A_BITS-1:0] a_codes[CYCLES], a;
    logic [B_BITS-1:0] b_codes[CYCLES], b;
    logic [6:0] controls[CYCLES];
    logic [3:0] rounding;
    logic clear, valid, wrap;
    logic signed [ACC_BITS-1:0] acc;
    logic [31:0] overflows;

    saturating_mac #(
        .A_BITS(A_BITS), .B_BITS(B_BITS), .A_SIGNED(A_SIGNED), .B_SIGNED(B_SIGNED), .SHIFT(SHIFT),
        .ACC_BITS(ACC_BITS), .BUG(BUG)
    ) mac (.clk, .clear, .valid, .a, .b, .rounding, .wrap, .acc, .overflows);

    initial begin
        string name;
        int acc_file, overflows_file;
        `LOAD("a=%s", a_codes)
        `LOAD("b=%s", b_codes)
        `LOAD("control=%s", controls)
        `OPEN("acc=%s", acc_file)
        `OPEN("overflows=%s", overflows_file)
        for (int i = 0; i < CYCLES; i++) begin
            a = a_codes[i];
            b = b_codes[i];
            {valid, clear, wrap, rounding} = controls[i];
            #1 clk = 1;
            #1 clk = 0;
            $fdisplay(acc_file, "%h", acc);
            $fdisplay(overflows_file, "%h", overflows);
        end
        $fclose(acc_file);
        $fclose(overflows_file);
        $finish;
    end
endmodule
