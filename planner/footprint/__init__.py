"""How much memory a plan takes on each device and when, operator by operator, as the compiler is going to run it."""
