"""One module for each step of the schema; its SQL lies beside it, one file up and one down."""
