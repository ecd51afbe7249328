"""`harmonize prepare`: sources through rewriters and checks into a prepared data set."""
