"""Progress and plan reports for people and machines. Reads values, changes nothing."""
