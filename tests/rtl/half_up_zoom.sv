// A signed code with IN_INT integer bits, the sign among them, and IN_FRAC fraction bits, brought to OUT_INT and OUT_FRAC.
// Fraction bits that go are cut, or rounded half up where ROUND is set; but the greatest code of the input's own integer
// bits is never rounded up.  A result outside the output's range is saturated.
module half_up_zoom #(
    parameter int IN_INT   = 4,
    parameter int IN_FRAC  = 4,
    parameter int OUT_INT  = 4,
    parameter int OUT_FRAC = 2,
    parameter int ROUND    = 1
) (
    input  logic signed [IN_INT+IN_FRAC-1:0]   value,
    output logic signed [OUT_INT+OUT_FRAC-1:0] code,
    output logic                               outside  // the rounded value left the output's range
);
    localparam int DROPPED = IN_FRAC > OUT_FRAC ? IN_FRAC - OUT_FRAC : 0;
    localparam int ADDED = OUT_FRAC > IN_FRAC ? OUT_FRAC - IN_FRAC : 0;
    localparam int KEPT = IN_INT + OUT_FRAC;
    localparam int WIDE = (IN_INT > OUT_INT ? IN_INT : OUT_INT) + IN_FRAC + OUT_FRAC + 1;
    localparam logic signed [WIDE-1:0] GREATEST = (WIDE'(1) << (KEPT - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] HIGH = (WIDE'(1) << (OUT_INT + OUT_FRAC - 1)) - WIDE'(1);
    localparam logic signed [WIDE-1:0] LOW = -HIGH - WIDE'(1);
    localparam logic signed [WIDE-1:0] HALF = WIDE'(1) << DROPPED >> 1;

    logic signed [WIDE-1:0] aligned, lower, rounded;
    logic up;

    assign aligned = WIDE'(value) <<< ADDED;
    assign lower = aligned >>> DROPPED;
    assign up = ROUND != 0 && (aligned & HALF) != 0 && lower != GREATEST;
    assign rounded = lower + (up ? WIDE'(1) : WIDE'(0));
    assign outside = rounded < LOW || rounded > HIGH;
    assign code = (OUT_INT + OUT_FRAC)'(!outside ? rounded : rounded < 0 ? LOW : HIGH);
endmodule
