// Files of a bench are named by plusargs.  Both macros need a `string name` in scope.
`define LOAD(PLUSARG, MEMORY) \
    if (!$value$plusargs(PLUSARG, name)) $fatal(1, "no plusarg %s", PLUSARG); \
    $readmemh(name, MEMORY);

`define OPEN(PLUSARG, FILE) \
    if (!$value$plusargs(PLUSARG, name)) $fatal(1, "no plusarg %s", PLUSARG); \
    FILE = $fopen(name, "w"); \
    if (FILE == 0) $fatal(1, "cannot write %s", name);
