// Codes of the rounding and overflow modes: their positions in fxsim.ROUNDINGS and fxsim.OVERFLOWS.
package modes;
    // verilator lint_off UNUSEDPARAM
    localparam logic [3:0] FLOOR = 0;
    localparam logic [3:0] CEIL = 1;
    localparam logic [3:0] ZERO = 2;
    localparam logic [3:0] AWAY = 3;
    localparam logic [3:0] NEAREST_EVEN = 4;
    localparam logic [3:0] NEAREST_ODD = 5;
    localparam logic [3:0] NEAREST_AWAY = 6;
    localparam logic [3:0] NEAREST_ZERO = 7;
    localparam logic [3:0] NEAREST_UP = 8;
    localparam logic [3:0] NEAREST_DOWN = 9;
    localparam logic [3:0] JAM = 10;

    localparam logic [1:0] SATURATE = 0;
    localparam logic [1:0] SATURATE_SYMMETRIC = 1;
    localparam logic [1:0] SATURATE_ZERO = 2;
    localparam logic [1:0] WRAP = 3;
endpackage
